import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError } from "../errors.ts";
import type { Models } from "../models/models.ts";
import { recordTrace } from "../traces/record.ts";

/** How far a subtree is on its way to the present model. */
export interface EmbeddingProgress {
  /** Scopes with passages that wait. */
  readonly scopes: number;
  readonly passages: number;
  readonly pending: number;
  readonly embedded: number;
}

/** Orders vectors of its scope's model for whatever in the subtree has none of it. Asked again, it says how far that is. */
export async function orderEmbedding(
  tx: ScopedTransaction,
  context: string,
  models: Pick<Models, "settings" | "offered">,
): Promise<EmbeddingProgress> {
  const ordered = await tx.call<Omit<EmbeddingProgress, "embedded"> | null>(
    "order_embedding",
    context,
    models.settings.embeddings,
    json(Object.fromEntries(models.offered)),
  );
  if (ordered === null)
    throw new AppError(
      "forbidden",
      "only a management key with content and the verbs memory:read, memory:write and memory:forget orders work for its whole floor",
    );
  const { scopes, passages, pending } = ordered;
  recordTrace(tx, { kind: "decision", operation: "reembed", candidates: passages, returned: pending });
  return { scopes, passages, pending, embedded: passages - pending };
}
