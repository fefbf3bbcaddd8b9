import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import type { VectorText } from "../models/embedder.ts";
import { normalForm } from "../text/normal-form.ts";
import { plantedIn } from "../text/planted.ts";
import { sameTextDigest } from "../text/same-text.ts";

interface AnyPassage {
  readonly id: string;
  readonly text: string;
  readonly labels: readonly string[];
  /** Model tokens of the text. */
  readonly tokens: number;
  /** Null where the model finds nothing in the text, or has not looked at it yet. */
  readonly embedding: VectorText | null;
  readonly observedAt: string;
  /** What stands above the text, such as a document's title: its words find it too, and count twice. */
  readonly heading?: string;
}

export interface TurnPassage extends AnyPassage {
  readonly kind: "turn";
  readonly sessionId: string;
  readonly turnId: string;
  /** Its place in the session. */
  readonly position: number;
  /** Who said it. */
  readonly role: string;
  readonly category: string | null;
  /** When it is over; null: it stays. */
  readonly endsAt: string | null;
}

export interface ChunkPassage extends AnyPassage {
  readonly kind: "chunk";
  readonly documentId: string;
  readonly position: number;
  readonly section: string | null;
  readonly charStart: number;
  readonly charEnd: number;
  readonly duplicateOf: string | null;
}

/** (Facts' passages the database makes: src/db/sql/2_memory/7_facts.sql.) */
export type NewPassage = TurnPassage | ChunkPassage;

/** The columns of `passage` by their fields, with their types. */
const COLUMNS = [
  ["id", "id", "uuid"],
  ["kind", "kind", "text"],
  ["session_id", "sessionId", "uuid"],
  ["turn_id", "turnId", "uuid"],
  ["role", "role", "text"],
  ["text", "text", "text"],
  ["category", "category", "text"],
  ["tokens", "tokens", "int"],
  ["observed_at", "observedAt", "timestamptz"],
  ["document_id", "documentId", "uuid"],
  ["position", "position", "int"],
  ["section", "section", "text"],
  ["char_start", "charStart", "int"],
  ["char_end", "charEnd", "int"],
  ["duplicate_of", "duplicateOf", "uuid"],
  ["ends_at", "endsAt", "timestamptz"],
] as const;

const SELECTED = sql.join(
  COLUMNS.map(([, field]) => sql`p.${sql.identifier(field)}`),
  sql`, `,
);
const RECORD = sql.join(
  COLUMNS.map(([, field, type]) => sql`${sql.identifier(field)} ${sql.raw(type)}`),
  sql`, `,
);

/** What a passage is found by: its text, and twice what stands above it. */
export const wordsOf = ({ text, heading = "" }: { readonly text: string; readonly heading?: string }) =>
  `${text} ${heading} ${heading}`;

/**
 * Stores passages with their vectors and indexes their words, in the normal form: two statements, whatever the number.
 * Lexemes are PostgreSQL's own (`to_tsvector`), so stemming and stop words are too; a lexeme's
 * frequency is the number of its positions, which a tsvector cuts at 255.
 *
 * @param embedderId the model that has looked at these texts; null: none yet
 */
export async function storePassages(
  tx: ScopedTransaction,
  embedderId: number | null,
  passages: readonly NewPassage[],
): Promise<void> {
  if (passages.length === 0) return;
  const rows = passages.map((passage) => {
    const written = wordsOf(passage);
    const words = normalForm(written);
    // Most texts are in the normal form: they are sent once.
    return {
      ...passage,
      digest: sameTextDigest(passage.text, passage.kind === "turn" ? passage.role : null),
      suspicious: plantedIn(passage.text),
      ...(words === written ? {} : { words }),
    };
  });
  await tx.insertFrom(
    "passage",
    [
      ...COLUMNS.map(([column]) => column),
      "api_key_id",
      "author",
      "labels",
      "lexemes",
      "embedding",
      "embedder_id",
      "digest",
      "suspicious",
    ],
    sql`
      SELECT ${SELECTED}, ${tx.entry.key.id}::uuid, ${tx.entry.key.principal}::text, ARRAY(SELECT jsonb_array_elements_text(p.labels)),
             (SELECT coalesce(sum(cardinality(l.positions)), 0)::int FROM unnest(to_tsvector('english', coalesce(p.words, concat_ws(' ', p.text, p.heading, p.heading)))) l),
             p.embedding::halfvec, ${embedderId}::int, decode(p.digest, 'hex'), ARRAY(SELECT jsonb_array_elements_text(p.suspicious))
      FROM jsonb_to_recordset(${json(rows)}) AS p(${RECORD}, labels jsonb, embedding text, heading text, words text, digest text, suspicious jsonb)`,
  );
  await indexWords(
    tx,
    passages.map((passage) => ({ id: passage.id, words: wordsOf(passage) })),
  );
}

/** Indexes words under the ids of their passages, in the normal form. */
export async function indexWords(
  tx: ScopedTransaction,
  passages: readonly { readonly id: string; readonly words: string }[],
): Promise<void> {
  const words = json(passages.map((passage) => ({ id: passage.id, text: normalForm(passage.words) })));
  await tx.insertFrom(
    "posting",
    ["lexeme", "passage_id", "tf", "lexemes"],
    sql`
      SELECT hashtextextended(l.lexeme, 0), p.id, cardinality(l.positions)::smallint, size.lexemes
      FROM jsonb_to_recordset(${words}) AS p(id uuid, text text), to_tsvector('english', p.text) words,
           LATERAL (SELECT sum(cardinality(s.positions))::int AS lexemes FROM unnest(words) s) size, unnest(words) l`,
  );
}
