import { contextSettings, DEFAULT_SETTINGS } from "../context/settings.ts";
import { json, list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { recordTrace } from "../traces/record.ts";
import { type Answer, accepted } from "./answer.ts";
import { CREDENTIAL_PROVIDERS, type SealedCredentials } from "./credentials.ts";

/** What a scope may set for itself and all below it: the same as the Context. */
export const SETTING_NAMES = Object.keys(contextSettings) as readonly (keyof typeof contextSettings)[];
/** And what answers call its credentials. */
export const CREDENTIAL_NAMES = CREDENTIAL_PROVIDERS.map((provider) => `credentials.${provider}` as const);
export type Settings = Readonly<
  Partial<Record<(typeof SETTING_NAMES)[number] | (typeof CREDENTIAL_NAMES)[number], unknown>>
>;

export interface ScopeSettings {
  readonly scope: Record<string, string>;
  readonly settings: Settings;
}

/** A value that is in force, and the scope that sets it; null: the Context, or nobody. */
export interface EffectiveSetting {
  readonly value: unknown;
  readonly scope: Record<string, string> | null;
}

/** Sets values at the transaction's scope, and credentials, sealed for it; what is not given stays. */
export async function setSettings(
  tx: ScopedTransaction,
  settings: Settings,
  credentials: SealedCredentials = {},
): Promise<ScopeSettings> {
  const { scope, settings: now } = accepted(
    await tx.call<Answer<ScopeSettings>>("set_settings", json(settings), json(credentials)),
  );
  const names = [...Object.keys(settings), ...Object.keys(credentials).map((provider) => `credentials.${provider}`)];
  recordTrace(tx, { kind: "decision", operation: "settings_change", tierReason: names.join(", ") });
  return { scope, settings: now };
}

/** What the transaction's scope and those below it set. */
export const listSettings = (
  tx: ScopedTransaction,
  pageSize: number,
  page: number,
): Promise<{ scopes: ScopeSettings[]; total: number }> => tx.call("list_settings", pageSize, page * pageSize);

/** What is in force at the transaction's scope, and where it comes from. */
export async function effectiveSettings(
  tx: ScopedTransaction,
  context: string,
  embeddings: string,
): Promise<Record<string, EffectiveSetting>> {
  const set = await tx.call<Record<string, EffectiveSetting>>("effective_settings", context);
  const defaults = Object.entries({ ...DEFAULT_SETTINGS, embeddings }).map(
    ([name, value]) => [name, { value, scope: null }] as const,
  );
  return { ...Object.fromEntries(defaults), ...set };
}

export async function dropSettings(tx: ScopedTransaction, names: readonly string[] | undefined): Promise<void> {
  const which = names === undefined ? sql`NULL::text[]` : sql`${list([...names])}::text[]`;
  accepted(await tx.call<Answer>("drop_settings", which));
  recordTrace(tx, { kind: "decision", operation: "settings_delete", tierReason: names?.join(", ") ?? "all" });
}
