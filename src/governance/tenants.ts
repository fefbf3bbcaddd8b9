import type { KeyVerb, Principal } from "../db/access/entry.ts";
import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { invalid, notFound } from "../errors.ts";
import { type ApiKey, mintKey } from "../keys/keys.ts";
import { type NewBudget, setBudget } from "../metering/budgets.ts";
import { type NewLimits, setLimits } from "../metering/limits.ts";
import { type Scope, scopeFromDatabase } from "../scope/scope.ts";
import type { View } from "../scope/visibility.ts";
import { recordTrace } from "../traces/record.ts";
import { type Answer, accepted } from "./answer.ts";
import { type NewRetention, setRetention } from "./retention.ts";
import { type Settings, setSettings } from "./settings.ts";
import { getTemplate } from "./templates.ts";

export interface TenantKey {
  readonly name: string;
  readonly principal: Principal;
  readonly verbs?: readonly KeyVerb[] | undefined;
  readonly content?: boolean | undefined;
  readonly defaultView?: View | undefined;
  /** Tags besides the tenant's own. */
  readonly scopeFloor?: Scope | undefined;
}

/** What a tenant is made with, by a template, a request, or both. */
export interface TenantParts {
  readonly keys?: readonly TenantKey[] | undefined;
  readonly budgets?: readonly NewBudget[] | undefined;
  readonly limits?: NewLimits | undefined;
  readonly retention?: readonly NewRetention[] | undefined;
  readonly settings?: Settings | undefined;
}

export interface NewTenant extends TenantParts {
  readonly name?: string | undefined;
  readonly template?: string | undefined;
  readonly templateVersion?: number | undefined;
}

export interface Tenant {
  readonly scope: Record<string, string>;
  readonly path: string;
  readonly name: string | null;
  readonly template: string | null;
  readonly templateVersion: number | null;
  readonly state: "active" | "suspended" | "leaving";
  /** When one that leaves is erased. */
  readonly leavesAt: string | null;
  readonly createdAt: string;
  /** Live ones. */
  readonly keys: number;
  readonly lastUsedAt: string | null;
  /** Of this month, UTC. */
  readonly usage: {
    readonly from: string;
    readonly calls: number;
    readonly totalTokens: number;
    readonly costUsd: number;
  };
  readonly storage: { readonly scopes: number; readonly passages: number; readonly bytes: number };
}

/** A key that a tenant was made with: its secret, where it was made just now. */
export type ProvisionedKey = Pick<ApiKey, "name" | "scopeFloor"> &
  Partial<Pick<ApiKey, "id" | "principal" | "verbs">> & {
    readonly key?: string;
  };

/** @throws AppError 400 for a scope that is not exactly one org */
export function requireTenant(tx: ScopedTransaction): void {
  const tags = Object.keys(tx.entry.effective ?? {});
  if (tags.length !== 1 || tags[0] !== "org") throw invalid('scope: a tenant is one org and nothing else: "org/acme"');
}

/**
 * Makes the transaction's scope a tenant with all that it needs, or with nothing. Done again it changes what differs: a
 * key of a name that is there stays as it is, and its secret is not told again.
 */
export async function makeTenant(
  tx: ScopedTransaction,
  { name, template: templateName, templateVersion, ...own }: NewTenant,
): Promise<{ tenant: Tenant; created: boolean; keys: ProvisionedKey[] }> {
  requireTenant(tx);
  const template = templateName === undefined ? undefined : await getTemplate(tx, templateName, templateVersion);
  const { created } = accepted(
    await tx.call<Answer<{ created: boolean }>>(
      "put_tenant",
      name ?? null,
      templateName ?? null,
      template === undefined ? null : sql`${template.version}::int`,
    ),
  );
  // What a request says comes after its template, and where both say something is what holds.
  const parts = [...(template === undefined ? [] : [template.template]), own];
  for (const budget of parts.flatMap(({ budgets = [] }) => budgets)) await setBudget(tx, budget);
  const limits = Object.assign({}, ...parts.map(({ limits: some = {} }) => some)) as NewLimits;
  if (Object.keys(limits).length > 0) await setLimits(tx, undefined, limits);
  for (const rule of parts.flatMap(({ retention = [] }) => retention)) await setRetention(tx, rule);
  const settings = Object.assign({}, ...parts.map(({ settings: some = {} }) => some)) as Settings;
  if (Object.keys(settings).length > 0) await setSettings(tx, settings);
  const keys = await mintKeys(
    tx,
    parts.flatMap(({ keys: some = [] }) => some),
  );
  recordTrace(tx, { kind: "decision", operation: "tenant_make" });
  return { tenant: await getTenant(tx), created, keys };
}

/** The tenant's tags, and those that the key has besides. */
function floorOf({ name, scopeFloor = {} as Scope }: TenantKey, tenant: Record<string, string>): Scope {
  const own = Object.entries(scopeFloor as Record<string, string>);
  const foreign = own.find(([dimension, value]) => tenant[dimension] !== undefined && tenant[dimension] !== value);
  if (foreign !== undefined)
    throw invalid(`keys: ${name} has the floor ${foreign.join("=")}, which is another tenant's`);
  return scopeFromDatabase(Object.fromEntries([...own, ...Object.entries(tenant)]));
}

async function mintKeys(tx: ScopedTransaction, wanted: readonly TenantKey[]): Promise<ProvisionedKey[]> {
  const tenant = tx.entry.effective ?? {};
  const path = Object.values(tenant).join("/");
  // A key's names are unique among those it has minted; the tenant's path keeps tenants apart.
  const named = [...new Map(wanted.map((key) => [`${path} ${key.name}`, key])).entries()];
  const there = await tx.call<Record<string, Record<string, string>>>(
    "minted_names",
    sql`${list(named.map(([name]) => name))}::text[]`,
  );
  const keys: ProvisionedKey[] = [];
  for (const [name, key] of named) {
    const known = there[name];
    if (known !== undefined) {
      keys.push({ name, scopeFloor: known });
      continue;
    }
    const { secret, ...minted } = await mintKey(tx, {
      name,
      principal: key.principal,
      scopeFloor: floorOf(key, tenant),
      verbs: key.verbs,
      content: key.content,
      defaultView: key.defaultView,
      expiresAt: undefined,
    });
    const { id, principal, scopeFloor, verbs } = minted;
    keys.push({ id, name, principal, scopeFloor, verbs, key: secret });
  }
  return keys;
}

/** The tenant that the transaction's scope is. */
export async function getTenant(tx: ScopedTransaction): Promise<Tenant> {
  const { tenants } = await tx.call<{ tenants: Tenant[] }>("list_tenants", true, null, 1, 0);
  const [tenant] = tenants;
  if (tenant === undefined) throw notFound();
  return tenant;
}

/** In the order in which they were made: those that keys alone have made, too. */
export const listTenants = (
  tx: ScopedTransaction,
  state: Tenant["state"] | undefined,
  pageSize: number,
  page: number,
): Promise<{ tenants: Tenant[]; total: number }> =>
  tx.call("list_tenants", false, state ?? null, pageSize, page * pageSize);

/** Suspends it, which keeps its keys out and loses nothing; or lets them in again; or names it. */
export async function changeTenant(
  tx: ScopedTransaction,
  change: { readonly state?: "active" | "suspended" | undefined; readonly name?: string | undefined },
): Promise<Tenant> {
  const { tenant } = accepted(
    await tx.call<Answer<{ tenant: Tenant }>>("change_tenant", change.state ?? null, change.name ?? null),
  );
  recordTrace(tx, { kind: "decision", operation: "tenant_change", tierReason: change.state ?? "name" });
  return tenant;
}

/** Starts the offboarding: its keys are kept out at once; after the grace they are revoked, and all that it has is erased. */
export async function beginOffboarding(tx: ScopedTransaction, graceSeconds: number): Promise<Tenant> {
  requireTenant(tx);
  const { tenant } = accepted(
    await tx.call<Answer<{ tenant: Tenant }>>("begin_offboarding", sql`${graceSeconds}::float8`),
  );
  recordTrace(tx, { kind: "decision", operation: "tenant_offboard" });
  return tenant;
}

/** Within the grace. */
export async function undoOffboarding(tx: ScopedTransaction): Promise<Tenant> {
  const { tenant } = accepted(await tx.call<Answer<{ tenant: Tenant }>>("undo_offboarding"));
  recordTrace(tx, { kind: "decision", operation: "tenant_offboard_undo" });
  return tenant;
}
