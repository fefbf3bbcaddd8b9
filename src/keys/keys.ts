import { v7 as uuid } from "uuid";
import { unauthorized } from "../db/access/enter.ts";
import type { KeyVerb, MemoryVerb, Principal } from "../db/access/entry.ts";
import { json, list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError, type ErrorSlug, notFound } from "../errors.ts";
import { canonicalPath, type Scope } from "../scope/scope.ts";
import type { View } from "../scope/visibility.ts";
import { recordTrace } from "../traces/record.ts";
import { hashSecret, newSecret } from "./secret.ts";

export const VERBS = ["memory:read", "memory:write", "memory:forget"] as const satisfies readonly MemoryVerb[];
export const KEY_VERBS = [...VERBS, "usage:read"] as const satisfies readonly KeyVerb[];

/** A key as it is listed; the secret is nowhere. */
export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly principal: Principal;
  readonly scopeFloor: Record<string, string>;
  readonly verbs: readonly KeyVerb[];
  readonly content: boolean;
  /** What it sees where a request does not say: from its floor to where it asks, or all below that as well. */
  readonly defaultView: View;
  readonly status: "active" | "expired" | "revoked";
  readonly createdAt: string;
  readonly createdBy: string | null;
  readonly lastUsedAt: string | null;
  readonly expiresAt: string | null;
  readonly revokedAt: string | null;
}

type Outcome =
  | { readonly status: "ok"; readonly key: ApiKey }
  | { readonly status: ErrorSlug; readonly detail: string };

const utc = <T extends string | null>(time: T) => (time === null ? time : new Date(time).toISOString()) as T;

/** Times as RFC 3339 in UTC: the database's JSON has its own spelling. */
const withUtcTimes = (key: ApiKey): ApiKey => ({
  ...key,
  createdAt: utc(key.createdAt),
  lastUsedAt: utc(key.lastUsedAt),
  expiresAt: utc(key.expiresAt),
  revokedAt: utc(key.revokedAt),
});

function keyOf(outcome: Outcome): ApiKey {
  if (outcome.status === "ok") return withUtcTimes(outcome.key);
  if (outcome.status === "not-found") throw notFound();
  // Revoked while this was under way.
  if (outcome.status === "unauthorized") throw unauthorized();
  throw new AppError(outcome.status, outcome.detail);
}

export interface NewKey {
  readonly name: string | undefined;
  readonly principal: Principal;
  /** Merged with the minting key's floor; absent: that floor. */
  readonly scopeFloor: Scope | undefined;
  /** Absent: the minting key's verbs. */
  readonly verbs: readonly KeyVerb[] | undefined;
  readonly content: boolean | undefined;
  /** Absent: as a setting says, or else `strict` for an agent and `subtree` for others. */
  readonly defaultView?: View | undefined;
  readonly expiresAt: string | undefined;
}

/** Mints a key that is never wider than the caller's. The database checks that, from its own rows. */
export async function mintKey(tx: ScopedTransaction, wanted: NewKey): Promise<ApiKey & { readonly secret: string }> {
  const id = uuid();
  const secret = newSecret(wanted.principal);
  const outcome = await tx.call<Outcome>(
    "mint_key",
    id,
    hashSecret(secret),
    wanted.name ?? id,
    wanted.principal,
    wanted.scopeFloor === undefined ? null : json(wanted.scopeFloor),
    wanted.verbs === undefined ? null : list(wanted.verbs),
    wanted.content ?? null,
    wanted.expiresAt ?? null,
    wanted.defaultView ?? null,
    (tx.entry.settings.defaultView as View | undefined) ?? null,
  );
  const key = keyOf(outcome);
  recordTrace(tx, { kind: "decision", operation: "mint_key" });
  return { ...key, secret };
}

/** A key with its new secret, and the keys that were minted from it and live on; 500 at most. */
export interface RotatedKey extends ApiKey {
  readonly secret: string;
  readonly children: readonly { readonly id: string; readonly name: string }[];
}

/** Without grace the agents' keys that were minted from it end as well (src/db/sql/1_access/7_keys_changed.sql). */
export async function rotateKey(
  tx: ScopedTransaction,
  idOrName: string,
  options: {
    readonly expiresAt: string | undefined;
    readonly graceSeconds: number;
    /** Names or ids of children that live on although there is no grace. */
    readonly keepChildren: readonly string[];
  },
): Promise<RotatedKey> {
  // The prefix says what kind of key it is, so that is asked first.
  const principal = await tx.call<Principal | null>("principal_of", idOrName);
  if (principal === null) throw notFound();
  const secret = newSecret(principal);
  const outcome = await tx.call<Outcome & { readonly children?: RotatedKey["children"] }>(
    "rotate_key",
    idOrName,
    hashSecret(secret),
    options.expiresAt ?? null,
    options.graceSeconds,
    list([...new Set(options.keepChildren)]),
  );
  const key = keyOf(outcome);
  recordTrace(tx, { kind: "decision", operation: "rotate_key" });
  return { ...key, secret, children: outcome.children ?? [] };
}

/** Revoked at once: the next call with it is 401. */
export async function revokeKey(tx: ScopedTransaction, idOrName: string): Promise<void> {
  const outcome = await tx.call<Outcome>("revoke_key", idOrName);
  if (outcome.status !== "ok") keyOf(outcome);
  recordTrace(tx, { kind: "decision", operation: "revoke_key" });
}

export interface KeyPage {
  readonly keys: ApiKey[];
  readonly total: number;
}

/** The keys inside the subtree that the transaction was entered for, newest first. */
export async function listKeys(
  tx: ScopedTransaction,
  filter: {
    readonly name: string | undefined;
    readonly page: number;
    readonly pageSize: number;
  },
): Promise<KeyPage> {
  const { keys, total } = await tx.call<KeyPage>(
    "list_keys",
    filter.name ?? null,
    sql`${filter.page * filter.pageSize}::int`,
    sql`${filter.pageSize}::int`,
  );
  return { keys: keys.map(withUtcTimes), total };
}

/** The caller, those that it minted, and for management those inside its floor; 500 at most. */
export async function knownKeys(tx: ScopedTransaction): Promise<ApiKey[]> {
  return (await tx.call<ApiKey[]>("known_keys")).map(withUtcTimes);
}

/** One of {@link knownKeys}. */
export async function knownKey(tx: ScopedTransaction, id: string): Promise<ApiKey> {
  const key = await tx.call<ApiKey | null>("known_key", id);
  if (key === null) throw notFound();
  return withUtcTimes(key);
}

/**
 * Leaves a key the verbs that are named, and what it delegated no more than those. Management gives back what
 * was taken as well, up to its own rights (src/db/sql/1_access/7_keys_changed.sql).
 */
export async function changeVerbs(tx: ScopedTransaction, id: string, wanted: readonly KeyVerb[]): Promise<ApiKey> {
  const key = keyOf(await tx.call<Outcome>("change_verbs", id, list(wanted)));
  recordTrace(tx, { kind: "decision", operation: "narrow_key" });
  return key;
}

/** The caller and those that it minted. */
export async function ownKeys(tx: ScopedTransaction): Promise<ApiKey[]> {
  return (await tx.call<ApiKey[]>("own_keys")).map(withUtcTimes);
}

/** Each verb with the paths that it reaches: the floor and what lies below it. */
export function grantsOf(floor: Scope, granted: readonly KeyVerb[]): Record<string, string[]> {
  const path = canonicalPath(floor);
  return Object.fromEntries(granted.map((verb) => [verb, [path === "{}" ? "/*" : `${path}/*`]]));
}
