import { analyserOf } from "../context/settings.ts";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { packTerms } from "../lexical/packed-terms.ts";
import { lexicalState } from "../lexical/state.ts";
import { eachInSlices } from "../load/slices.ts";
import type { VectorText } from "../models/embedder.ts";
import { ANALYSER } from "../text/analysis/analyse.ts";
import { cuesOf } from "../text/answer-cues.ts";
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

/** Of a keyed item that is recalled; it has the item's id, and goes with it. */
export interface ItemPassage extends AnyPassage {
  readonly kind: "item";
  readonly endsAt: string | null;
}

/** (Facts' passages the database makes: src/db/sql/2_memory/7_facts.sql.) */
export type NewPassage = TurnPassage | ChunkPassage | ItemPassage;

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
 * Stores passages with their vectors and with the terms that they are found by: one row each, and one statement
 * whatever the number.
 *
 * @param embedderId the model that has looked at these texts; null: none yet
 */
export async function storePassages(
  tx: ScopedTransaction,
  embedderId: number | null,
  passages: readonly NewPassage[],
): Promise<void> {
  if (passages.length === 0) return;
  const index = await indexerOf(tx);
  const rows = await eachInSlices(passages, ({ heading, ...passage }) => ({
    ...passage,
    ...index({ text: passage.text, ...(heading === undefined ? {} : { heading }) }),
    digest: sameTextDigest(passage.text, passage.kind === "turn" ? passage.role : null),
    suspicious: plantedIn(passage.text),
    ...(passage.kind === "turn" ? { cues: cuesOf(passage.text) } : {}),
  }));
  await tx.insertFrom(
    "passage",
    [
      ...COLUMNS.map(([column]) => column),
      "api_key_id",
      "author",
      "labels",
      "terms",
      "lexemes",
      "languages",
      "analyser",
      "cues",
      "embedding",
      "embedder_id",
      "digest",
      "suspicious",
    ],
    sql`
      SELECT ${SELECTED}, ${tx.entry.key.id}::uuid, ${tx.entry.key.principal}::text, ARRAY(SELECT jsonb_array_elements_text(p.labels)),
             decode(p.terms, 'hex'), p.words, p.languages, p.analyser, p.cues,
             p.embedding::halfvec, ${embedderId}::int, decode(p.digest, 'hex'), ARRAY(SELECT jsonb_array_elements_text(p.suspicious))
      FROM jsonb_to_recordset(${json(rows)}) AS p(${RECORD}, labels jsonb, terms text, words int, languages text, analyser smallint, cues smallint,
                                                  embedding text, digest text, suspicious jsonb)`,
  );
}

/** What a text is found by, as it is stored: terms in hexadecimal digits, its length in words, its languages, and the analysis. */
export interface Indexed {
  readonly terms: string;
  readonly words: number;
  readonly languages: string;
  readonly analyser: number;
}

/** Analyses texts that go to the transaction's write scope. */
export async function indexerOf(
  tx: ScopedTransaction,
): Promise<(passage: { readonly text: string; readonly heading?: string }) => Indexed> {
  const { write } = tx.entry;
  const key = write === null ? undefined : (await lexicalState(tx)).keys.get(write.id);
  if (key === undefined)
    throw new Error("the ticket of this transaction is for no scope to write to, or for no content");
  const analyser = analyserOf(tx);
  return (passage) => {
    const analysis = analyser.text(wordsOf(passage));
    return {
      terms: packTerms(analysis, key).toString("hex"),
      words: analysis.length,
      languages: analysis.languages.join(","),
      analyser: ANALYSER,
    };
  };
}
