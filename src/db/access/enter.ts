import { v7 as uuid } from "uuid";
import { AppError, type ErrorSlug, notFound } from "../errors.ts";
import { holds, type Scope, sameScope, scopeFromDatabase } from "../scope/scope.ts";
import type { Selector } from "../scope/selector.ts";
import { isVisible, reachOf, type View } from "../scope/visibility.ts";
import { inTransaction, type Leases, retried, type Transaction } from "./lease.ts";
import { ScopedTransaction } from "./scoped.ts";
import type { Turns } from "./turns.ts";

/** SHA-256 of a presented secret. */
export type KeyHash = Uint8Array & { readonly __keyHash: unique symbol };

export type Principal = "management" | "supervisor" | "agent";
export type MemoryVerb = "memory:read" | "memory:write" | "memory:forget";

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
export interface Demand {
  readonly verb: MemoryVerb | "manage" | "self";
  readonly mode: "check" | "select" | "id" | "write" | "modify" | "delete" | "forget" | "erase";
  readonly selector?: Selector | undefined;
  readonly view?: View | undefined;
  /** Writing: the session that decides the scope. */
  readonly session?: string | undefined;
  /** Writing: the document whose next version this is; it decides the scope. */
  readonly document?: string | undefined;
  /** Forgetting: what lies below E too. */
  readonly subtree?: boolean | undefined;
  /** Writing: open a deleted scope again. */
  readonly reopen?: boolean | undefined;
  /** Recall: SHA-256 of the question, under which its answer may be cached. */
  readonly question?: Uint8Array | undefined;
}

/** What an entered transaction is told besides: whose settings, and since when the request waits. */
export interface Circumstances {
  /** The Context's id. */
  readonly context: string;
  /** performance.now() when the request arrived: a scope erased since then takes no write of it. */
  readonly arrivedAt: number;
  /** Whose turns at the connections the keys use up; absent: all wait in one line. */
  readonly turns?: Turns;
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
}

/** What `scopefloor.enter` granted. */
export interface Entry {
  readonly key: {
    readonly id: string;
    readonly name: string;
    readonly principal: Principal;
    readonly content: boolean;
    readonly expiresAt: string | null;
  };
  readonly verbs: readonly MemoryVerb[];
  /** F: the key's floor and, on behalf of another, that one's too. */
  readonly floor: Scope;
  readonly onBehalfOf: string | null;
  readonly view: View;
  /** E, where the request has exactly one. */
  readonly effective: Scope | null;
  /** Whether general rows of knowledge tables are visible. */
  readonly general: boolean;
  /** The visible scopes by id, and the subtrees too large to list. */
  readonly read: { readonly scopes: ReadonlyMap<number, Scope>; readonly trees: readonly Scope[] };
  readonly write: number | null;
  /** The Context's configuration. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** `silent`: its scope was erased while the request was under way, and the trace says nothing of what was asked. */
  readonly trace: { readonly id: number; readonly tags: Scope; readonly silent: boolean };
  /** Only where a question was named. */
  readonly recall: RecallState | null;
}

interface Refusal {
  readonly status: ErrorSlug;
  readonly detail: string;
}

type RawTags = Record<string, string>;
type Answer =
  | {
      readonly status: "unauthorized" | "forbidden" | "scope-floor" | "not-found" | "unprocessable" | "conflict";
      detail?: string;
    }
  | (Omit<Entry, "read" | "floor" | "effective" | "trace" | "recall"> & {
      readonly status: "ok";
      readonly floor: RawTags;
      readonly effective: RawTags | null;
      readonly read: { readonly scopes: Record<string, RawTags>; readonly trees: readonly RawTags[] };
      readonly trace: { readonly id: number; readonly tags: RawTags; readonly silent: boolean };
    });

/** Thrown inside the transaction to roll it back; the refusal itself leaves as an AppError. */
class Refused extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super(refusal.detail);
    this.refusal = refusal;
  }
}

/** One answer for a key that is missing, malformed, unknown, revoked or expired. */
export const unauthorized = () =>
  new AppError("unauthorized", "a valid API key is needed: Authorization: Bearer <key>");

/**
 * Runs work in a transaction that a key has entered: the second lock has checked the key and left
 * its ticket, and the work reaches tables only through the builder it is handed.
 *
 * @throws AppError `unauthorized`, `forbidden`, `scope-floor`, … as the database decided; the
 *   refusals of a known key are recorded in a transaction of their own
 */
export async function enterScope<T>(
  leases: Leases,
  caller: Caller,
  demand: Demand,
  work: (tx: ScopedTransaction) => Promise<T>,
  circumstances: Circumstances = { context: "", arrivedAt: performance.now() },
): Promise<T> {
  try {
    return await retried(5, () =>
      inTransaction(
        leases,
        async (transaction) =>
          work(new ScopedTransaction(transaction, await enter(transaction, caller, demand, circumstances))),
        circumstances.turns?.of(caller.keyHash),
      ),
    );
  } catch (error) {
    throw await refusalOf(error, leases, caller, demand, circumstances.turns);
  }
}

/** Whether the key is live and may use the verb; throws what {@link enterScope} would. */
export async function checkCaller(leases: Leases, caller: Caller, verb: Demand["verb"], turns?: Turns): Promise<void> {
  try {
    await inTransaction(
      leases,
      (transaction) => present(transaction, caller, { verb, mode: "check" }),
      turns?.of(caller.keyHash),
    );
  } catch (error) {
    throw await refusalOf(error, leases, caller, { verb, mode: "check" }, turns);
  }
}

/** The error to answer with; a refusal of a known key is recorded first. */
async function refusalOf(
  error: unknown,
  leases: Leases,
  caller: Caller,
  demand: Demand,
  turns: Turns | undefined,
): Promise<unknown> {
  if (error instanceof AppError) {
    // Refused by a function that looked further than enter could.
    await recordDenial(leases, caller, demand, { status: error.slug, detail: error.message }, turns);
    return error;
  }
  if (!(error instanceof Refused)) return error;
  const { status, detail } = error.refusal;
  if (status === "unauthorized") return unauthorized();
  await recordDenial(leases, caller, demand, error.refusal, turns);
  return status === "not-found" ? notFound() : new AppError(status, detail);
}

async function present(
  transaction: Transaction,
  caller: Caller,
  demand: Demand,
  circumstances?: Circumstances,
): Promise<Extract<Answer, { status: "ok" }>> {
  const requested = {
    mode: demand.mode,
    clauses: demand.selector ?? null,
    session: demand.session ?? null,
    document: demand.document ?? null,
    subtree: demand.subtree ?? false,
    reopen: demand.reopen ?? false,
    context: circumstances?.context ?? null,
    ageMs: circumstances === undefined ? 0 : performance.now() - circumstances.arrivedAt,
  };
  const rows = await transaction.query("SELECT scopefloor.enter($1, $2, $3, $4, $5) AS answer", [
    caller.keyHash,
    demand.verb,
    JSON.stringify(requested),
    demand.view ?? null,
    caller.onBehalfOf ?? null,
  ]);
  const answer = rows[0]?.answer as Answer | undefined;
  if (answer === undefined) throw new Error("scopefloor.enter answered nothing");
  if (answer.status !== "ok") throw new Refused({ status: answer.status, detail: answer.detail ?? "" });
  return answer;
}

async function enter(
  transaction: Transaction,
  caller: Caller,
  demand: Demand,
  circumstances: Circumstances,
): Promise<Entry> {
  // In the same round trip: each reads the ticket that entering leaves, and nothing where it is refused.
  const entering = present(transaction, caller, demand, circumstances);
  const state =
    demand.question === undefined ? null : first<RecallState>(transaction, "recall_state($1)", [demand.question]);
  const { turns } = circumstances;
  const turn =
    turns === undefined || turns.of(caller.keyHash) !== undefined ? null : first<string>(transaction, "my_turn()", []);
  for (const sent of [state, turn]) sent?.catch(() => undefined); // entering's failure is told first
  const answer = await entering;
  const known = await turn;
  if (known !== null) turns?.learn(caller.keyHash, known);
  const entry: Entry = {
    ...answer,
    recall: await state,
    floor: scopeFromDatabase(answer.floor),
    effective: answer.effective && scopeFromDatabase(answer.effective),
    trace: { ...answer.trace, tags: scopeFromDatabase(answer.trace.tags) },
    read: {
      scopes: new Map(Object.entries(answer.read.scopes).map(([id, tags]) => [Number(id), scopeFromDatabase(tags)])),
      trees: answer.read.trees.map(scopeFromDatabase),
    },
  };
  checkAgainstFloor(entry, demand);
  return entry;
}

async function first<T>(transaction: Transaction, call: string, params: readonly unknown[]): Promise<T | null> {
  const [row] = await transaction.query(`SELECT scopefloor.${call} AS result`, params);
  return (row?.result ?? null) as T | null;
}

/**
 * The first lock trusts no id: what the database resolved is checked against the algebra, from the
 * request and the floor alone.
 */
function checkAgainstFloor(entry: Entry, demand: Demand): void {
  const { floor, effective, read } = entry;
  const reach = reachOf(
    floor,
    demand.mode === "id" || demand.mode === "modify" ? undefined : demand.selector,
    entry.view,
  );
  const single = reach?.clauses.length === 1 ? reach.clauses[0]?.effective : undefined;
  const byWrite = demand.mode === "write"; // reads the floor's subtree, writes at E or where its session or document is
  const isExact = demand.mode === "delete" && demand.selector !== undefined;
  const isReached = (scope: Scope) => {
    if (byWrite) return holds(scope, floor);
    if (demand.mode === "forget" || demand.mode === "erase" || isExact) {
      return single !== undefined && (demand.subtree ? holds(scope, single) : sameScope(scope, single));
    }
    return reach !== undefined && isVisible(scope, reach, false);
  };
  const isExpected =
    reach !== undefined &&
    [...read.scopes.values(), ...read.trees].every(isReached) &&
    (effective === null || holds(effective, floor)) &&
    (single === undefined ||
      demand.session !== undefined ||
      demand.document !== undefined ||
      (effective !== null && sameScope(effective, single)));
  if (!isExpected) throw new Error("scopefloor.enter resolved a scope outside the key's floor or the request");
}

/** A denial uses up the turn of whoever was denied. */
async function recordDenial(
  leases: Leases,
  caller: Caller,
  demand: Demand,
  refusal: Refusal,
  turns: Turns | undefined,
): Promise<void> {
  if (refusal.status !== "forbidden" && refusal.status !== "scope-floor") return;
  await inTransaction(
    leases,
    (transaction) =>
      transaction.query("SELECT scopefloor.record_denial($1, $2, $3, $4, $5, $6, $7, $8)", [
        caller.keyHash,
        uuid(),
        uuid(),
        caller.route,
        caller.operation,
        JSON.stringify(demand.selector ?? null),
        caller.onBehalfOf ?? null,
        refusal.detail,
      ]),
    turns?.of(caller.keyHash),
  );
}
