import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { recordTrace } from "../traces/record.ts";

/** How far a subtree is on its way to the present model. */
export interface EmbeddingProgress {
  /** Scopes with passages that wait. */
  readonly scopes: number;
  readonly passages: number;
  readonly pending: number;
  readonly embedded: number;
}

/** Orders vectors of a model for whatever in the subtree has none of it. Asked again, it says how far that is. */
export async function orderEmbedding(tx: ScopedTransaction, embedderId: number): Promise<EmbeddingProgress> {
  const { scopes, passages, pending } = await tx.call<Omit<EmbeddingProgress, "embedded">>(
    "order_embedding",
    sql`${embedderId}::int`,
  );
  recordTrace(tx, { kind: "decision", operation: "reembed", candidates: passages, returned: pending });
  return { scopes, passages, pending, embedded: passages - pending };
}
