import { json, type ScopedTransaction, sql } from "../db/scoped.ts";
import type { VectorText } from "../models/embedder.ts";

export interface NewPassage {
  readonly id: string;
  readonly kind: "turn";
  readonly sessionId: string;
  readonly turnId: string;
  /** Who said it. */
  readonly role: string;
  readonly text: string;
  readonly labels: readonly string[];
  readonly category: string | null;
  /** Model tokens of the text. */
  readonly tokens: number;
  readonly embedding: VectorText | null;
  readonly observedAt: string;
}

/**
 * Stores passages with their vectors and indexes their words: two statements, whatever the number.
 * Lexemes are PostgreSQL's own (`to_tsvector`), so stemming and stop words are too; a lexeme's
 * frequency is the number of its positions, which a tsvector cuts at 255.
 */
export async function storePassages(
  tx: ScopedTransaction,
  embedderId: number,
  passages: readonly NewPassage[],
): Promise<void> {
  const rows = json(passages.map((p) => ({ ...p, embedderId: p.embedding === null ? null : embedderId })));
  await tx.insertFrom(
    "passage",
    [
      "id",
      "kind",
      "session_id",
      "turn_id",
      "api_key_id",
      "role",
      "text",
      "labels",
      "category",
      "tokens",
      "lexemes",
      "embedding",
      "embedder_id",
      "observed_at",
    ],
    sql`
      SELECT p.id, p.kind, p."sessionId", p."turnId", ${tx.entry.key.id}::uuid, p.role, p.text,
             ARRAY(SELECT jsonb_array_elements_text(p.labels)), p.category, p.tokens,
             (SELECT coalesce(sum(cardinality(l.positions)), 0)::int FROM unnest(to_tsvector('english', p.text)) l),
             p.embedding::halfvec, p."embedderId", p."observedAt"
      FROM jsonb_to_recordset(${rows}) AS p(
        id uuid, kind text, "sessionId" uuid, "turnId" uuid, role text, text text, labels jsonb, category text, tokens int,
        embedding text, "embedderId" int, "observedAt" timestamptz)`,
  );
  const words = json(passages.map((p) => ({ id: p.id, text: p.text })));
  await tx.insertFrom(
    "posting",
    ["lexeme", "passage_id", "tf", "lexemes"],
    sql`
      SELECT l.lexeme, p.id, cardinality(l.positions)::smallint, (sum(cardinality(l.positions)) OVER (PARTITION BY p.id))::int
      FROM jsonb_to_recordset(${words}) AS p(id uuid, text text), unnest(to_tsvector('english', p.text)) l`,
  );
}
