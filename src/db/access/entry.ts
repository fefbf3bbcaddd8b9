import type { ShareGroups } from "../../load/share-groups.ts";
import type { Strangers } from "../../load/strangers.ts";
import type { Credentials, SealedCredential } from "../../models/credentials.ts";
import { canonicalPath, type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import type { Selector } from "../../scope/selector.ts";
import type { View } from "../../scope/visibility.ts";

/** SHA-256 of a presented secret. */
export type KeyHash = Uint8Array & { readonly __keyHash: unique symbol };

export type Principal = "management" | "supervisor" | "agent";
export type MemoryVerb = "memory:read" | "memory:write" | "memory:forget";
/** What a key may have: `usage:read` reads usage and bills, and manages nothing. */
export type KeyVerb = MemoryVerb | "usage:read";

/** Who calls, and through which door: what a denial records. */
export interface Caller {
  readonly keyHash: KeyHash;
  readonly onBehalfOf: string | undefined;
  readonly route: string;
  readonly operation: string;
}

/**
 * What a transaction is opened for.
 *
 * | mode | rows reached |
 * | --- | --- |
 * | check | none: only whether the key may do this |
 * | select | by selector and view |
 * | id | the floor's subtree, to read |
 * | write | E, where new rows go |
 * | modify | the floor's subtree, to change |
 * | delete | the same, or with a selector E alone, to delete single things |
 * | forget | E, or its subtree, with no writer beside it |
 * | erase | the same, and E's tags go too |
 */
export interface AccessRequest {
  readonly verb: KeyVerb | "manage" | "self";
  readonly mode: "check" | "select" | "id" | "write" | "modify" | "delete" | "forget" | "erase";
  readonly selector?: Selector | undefined;
  readonly view?: View | undefined;
  /** Writing: the session that decides the scope. */
  readonly session?: string | undefined;
  /** Writing: the document whose next version this is; it decides the scope. */
  readonly document?: string | undefined;
  /** Writing: the memory that is changed; it decides the scope. */
  readonly memory?: string | undefined;
  /** Forgetting: what lies below E too. */
  readonly subtree?: boolean | undefined;
  /** Writing: open a deleted scope again. */
  readonly reopen?: boolean | undefined;
  /** Recall: SHA-256 of the question, under which its answer may be cached. */
  readonly question?: Uint8Array | undefined;
  /** Whether it is under budgets and limits, and the id of what is held of them (src/metering/). */
  readonly metered?: boolean | undefined;
  readonly hold?: string | undefined;
}

/** What enter needs beside the key: the Context's id, and when the request arrived. */
export interface RequestContext {
  /** The Context's id. */
  readonly context: string;
  /** performance.now() when the request arrived: a scope erased since then takes no write of it. */
  readonly arrivedAt: number;
  /** The groups that keys' connections are charged to; absent: all share one group. */
  readonly shareGroups?: ShareGroups;
  /** The group of a key that has not come in yet, and the keys that were refused a moment ago. */
  readonly strangers?: { readonly group: string; readonly known: Strangers };
}

/** What the database's lexical_state says of the words of a transaction's scopes. */
export interface RawLexicalState {
  readonly keys: Readonly<Record<string, string>>;
  readonly languages: Readonly<Record<string, number>>;
  readonly passages: number;
  readonly words: number;
  readonly segments: number;
  readonly tail: number;
}

/** What a recall knows of the visible scopes before it begins (`scopefloor.recall_state`). */
export interface RecallState {
  /** Passages by embedding model; empty for subtrees too large to list. */
  readonly counts: Readonly<Record<string, number>>;
  /** Pairs of scope and model that have a graph of their own. */
  readonly indexed: readonly (readonly [scopeId: number, embedderId: number])[];
  /** Changes with every write in a visible scope; null: nothing is cached for such a view. */
  readonly version: string | null;
  readonly cached: { readonly given: unknown; readonly ageSeconds: number } | null;
  /** Whether there may be passages that are no answer now, since they begin later or are over. */
  readonly timed: boolean;
  /** Null where there is a cached answer. */
  readonly lexical: RawLexicalState | null;
}

/** A scope by its id, with the tenant that it belongs to. */
export interface Place {
  readonly id: number;
  readonly tenant: number;
}

/** Credentials as the database answers them. */
export type RawCredentials = Readonly<
  Record<string, Omit<SealedCredential, "scope"> & { readonly scope: Record<string, string> }>
>;

export const credentialsFromDatabase = (given: RawCredentials): Credentials =>
  Object.fromEntries(
    Object.entries(given).map(([provider, credential]) => [
      provider,
      { ...credential, scope: canonicalPath(scopeFromDatabase(credential.scope)) },
    ]),
  );

/** What `scopefloor.enter` granted. */
export interface Entry {
  readonly key: {
    readonly id: string;
    readonly name: string;
    readonly principal: Principal;
    readonly content: boolean;
    /** What it sees where a request does not say; on behalf of another, what both do. */
    readonly defaultView: View;
    readonly expiresAt: string | null;
  };
  readonly verbs: readonly KeyVerb[];
  /** F: the key's floor and, on behalf of another, that one's too. */
  readonly floor: Scope;
  readonly onBehalfOf: string | null;
  readonly view: View;
  /** E, where the request has exactly one. */
  readonly effective: Scope | null;
  /** Whether general rows of knowledge tables are visible. */
  readonly general: boolean;
  /** The visible scopes by id, the subtrees too large to list, and the one tenant of them all, where there is one. */
  readonly read: {
    readonly scopes: ReadonlyMap<number, Scope>;
    readonly trees: readonly Scope[];
    readonly tenant: number | null;
  };
  /** Where new rows go. */
  readonly write: Place | null;
  /** The settings in force at the scope. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** The providers' keys that are its own, or a scope's above it. */
  readonly credentials: Credentials;
  /** `isElsewhere`: its tags have no scope of their own, and it stands at that of the floor. `isBlank`: its scope was erased while the request was under way, and the trace says nothing of what was asked. */
  readonly trace: Place & { readonly tags: Scope; readonly isElsewhere: boolean; readonly isBlank: boolean };
  /** What is held of budgets for it, whose id its trace gets. */
  readonly hold: string | null;
  /** Only where a question was named. */
  readonly recall: RecallState | null;
  /** The words of the scopes, where a question was named or something is written; null: whoever needs it asks (src/lexical/state.ts). */
  readonly lexical: RawLexicalState | null;
}
