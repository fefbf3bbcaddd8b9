import type { Logger } from "pino";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { unprocessable } from "../errors.ts";
import type { CredentialSeal } from "../models/credentials.ts";
import type { Models } from "../models/models.ts";
import { OWN_KEY_PROVIDER } from "../models/providers.ts";
import { RERANK_PROVIDER } from "../models/reranker.ts";
import { canonicalPath, scopeFromDatabase } from "../scope/scope.ts";

/** Providers that a scope may have a key of its own for. */
export const CREDENTIAL_PROVIDERS = [OWN_KEY_PROVIDER, RERANK_PROVIDER] as const;
export type CredentialProvider = (typeof CREDENTIAL_PROVIDERS)[number];

/** A key as it is given: in the clear. */
export interface GivenCredential {
  readonly apiKey: string;
  readonly baseUrl?: string | undefined;
}

export type SealedCredentials = Partial<Record<CredentialProvider, { sealed: string; baseUrl: string | null }>>;

/**
 * Looks whether these credentials can be used here.
 *
 * @throws AppError 422
 */
export function checkCredentials(
  given: Partial<Record<CredentialProvider, GivenCredential>>,
  { models, hasReranker }: { readonly models: Models; readonly hasReranker: boolean },
): void {
  if (Object.keys(given).length === 0) return;
  if (models.seal.current === undefined)
    throw unprocessable(
      "credentials: this service takes none; the operator sets SCOPEFLOOR_CREDENTIAL_KEYS, which they are sealed with",
    );
  const isCalled =
    models.media.has("picture") ||
    models.media.has("sound") ||
    [...models.offered.keys()].some((name) => name.startsWith(`${OWN_KEY_PROVIDER}:`));
  if (given.openai !== undefined && !isCalled)
    throw unprocessable("credentials.openai: this service offers no model of openai, so nothing would use it");
  if (given.rerank !== undefined && !hasReranker)
    throw unprocessable("credentials.rerank: this service has no reranker, so nothing would use it");
  for (const [provider, { baseUrl }] of Object.entries(given)) {
    if (baseUrl !== undefined && !models.settings.providerUrls.includes(baseUrl))
      throw unprocessable(
        `credentials.${provider}.baseUrl: is none of the addresses that the operator offers (SCOPEFLOOR_PROVIDER_URLS)`,
      );
  }
}

/** Seals credentials for the transaction's scope, and for no other. */
export function sealFor(
  tx: ScopedTransaction,
  seal: CredentialSeal,
  given: Partial<Record<CredentialProvider, GivenCredential>>,
): SealedCredentials {
  const scope = canonicalPath(tx.entry.effective ?? tx.entry.floor);
  return Object.fromEntries(
    Object.entries(given).map(([provider, { apiKey, baseUrl = null }]) => [
      provider,
      { baseUrl, sealed: seal.seal(apiKey, { scope, provider, baseUrl }) },
    ]),
  );
}

/** Credentials in one transaction. */
const RESEALED_AT_ONCE = 500;

/** Seals with the newest key what another has sealed. What does not open stays as it is, and is counted. */
export async function resealCredentials(database: Database, seal: CredentialSeal, log: Logger): Promise<void> {
  const { current } = seal;
  if (current === undefined) return;
  let after: readonly [scopeId: number, provider: string] = [-1, ""];
  let resealed = 0;
  let unopened = 0;
  for (;;) {
    const last = await inTransaction(database.worker, async (worker) => {
      const [row] = await worker.query("SELECT scopefloor.credentials_under_others($1, $2, $3, $4) AS found", [
        current,
        ...after,
        RESEALED_AT_ONCE,
      ]);
      const found = row?.found as {
        scopeId: number;
        provider: string;
        baseUrl: string | null;
        sealed: string;
        scope: Record<string, string>;
      }[];
      for (const { scopeId, scope, ...credential } of found) {
        const anew = seal.reseal({ ...credential, scope: canonicalPath(scopeFromDatabase(scope)) });
        if (anew === undefined) unopened++;
        else {
          await worker.query("SELECT scopefloor.reseal_credential($1, $2, $3, $4)", [
            scopeId,
            credential.provider,
            credential.sealed,
            anew,
          ]);
          resealed++;
        }
      }
      return found.at(-1);
    });
    if (last === undefined) break;
    after = [last.scopeId, last.provider];
  }
  if (resealed > 0) log.info({ resealed }, "credentials were sealed with the newest key");
  if (unopened > 0)
    log.warn({ unopened }, "credentials open with none of SCOPEFLOOR_CREDENTIAL_KEYS; their scopes' calls fail");
}
