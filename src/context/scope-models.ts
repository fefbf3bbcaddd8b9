import type { AccessRequest } from "../db/access/entry.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { RolledBack } from "../db/connect/lease.ts";
import type { Models, ScopeModels } from "../models/models.ts";
import { settingsOf } from "./settings.ts";

/** The models of the transaction's scope: by its settings, with its own keys. */
export const modelsOf = (tx: ScopedTransaction, models: Models): ScopeModels =>
  models.in({ embeddings: settingsOf(tx).embeddings, credentials: tx.entry.credentials });

/** Opens a transaction like the one that follows, to see something first. */
export type Peek = <T>(
  access: Partial<Omit<AccessRequest, "verb">>,
  work: (tx: ScopedTransaction) => Promise<T>,
) => Promise<T>;

/** The models of the scope that a request writes to, before its transaction opens. */
export async function modelsFor(
  models: Models,
  peek: Peek,
  access: Partial<Omit<AccessRequest, "verb">>,
): Promise<ScopeModels> {
  // None is remote: there is one, which runs here.
  if (!models.areRemote) return models.in();
  const seen = await peek({ mode: "write", ...access }, async (tx) => new RolledBack(modelsOf(tx, models)));
  return seen.value;
}
