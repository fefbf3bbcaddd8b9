import { unprocessable } from "../errors.ts";
import type { Models } from "../models/models.ts";

/**
 * Looks whether the service offers what settings choose.
 *
 * @throws AppError 422 that says what there is
 */
export function refuseUnoffered(models: Models, settings: { readonly embeddings?: unknown } | undefined): void {
  const chosen = settings?.embeddings;
  if (typeof chosen !== "string" || models.offered.has(chosen)) return;
  throw unprocessable(`embeddings: this service offers ${[...models.offered.keys()].join(", ")}`);
}
