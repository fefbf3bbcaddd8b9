import { v7 as uuid } from "uuid";
import { AppError, type ErrorSlug, notFound } from "../../errors.ts";
import { type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import { inTransaction, type Leases, RolledBack, retried, type Transaction } from "../connect/lease.ts";
import {
  type AccessRequest,
  type Caller,
  credentialsFromDatabase,
  type Entry,
  type Place,
  type RawCredentials,
  type RawLexicalState,
  type RecallState,
  type RequestContext,
} from "./entry.ts";
import { checkAgainstFloor } from "./floor-check.ts";
import { ScopedTransaction } from "./scoped.ts";

interface Refusal {
  readonly status: ErrorSlug | "needs-hold";
  readonly detail?: string;
}

/** Budgets stand above the request, and nothing is held of them for it. */
export class NeedsHold extends Error {}

type RawTags = Record<string, string>;
type Granted = Omit<Entry, "read" | "floor" | "effective" | "trace" | "recall" | "lexical" | "hold" | "credentials"> & {
  readonly status: "ok";
  readonly credentials: RawCredentials;
  readonly floor: RawTags;
  readonly effective: RawTags | null;
  readonly read: {
    readonly scopes: Record<string, RawTags>;
    readonly trees: readonly RawTags[];
    readonly tenant: number | null;
  };
  readonly trace: Place & { readonly tags: RawTags; readonly isElsewhere: boolean; readonly isBlank: boolean };
};

/** One answer for a key that is missing, malformed, unknown, revoked or expired. */
export const unauthorized = () =>
  new AppError("unauthorized", "a valid API key is needed: Authorization: Bearer <key>");

/**
 * Runs work in a transaction that a key has entered: the second lock has checked the key and left
 * its ticket, and the work reaches tables only through the builder it is handed. Work that returns
 * {@link RolledBack} undoes all that it did.
 *
 * @throws AppError `unauthorized`, `forbidden`, `scope-floor`, … as the database decided; the
 *   refusals of a known key are recorded in a transaction of their own
 */
export async function enterScope<T>(
  leases: Leases,
  caller: Caller,
  request: AccessRequest,
  work: (tx: ScopedTransaction) => Promise<T>,
  context: RequestContext = { context: "", arrivedAt: performance.now() },
): Promise<T> {
  refuseKnownStranger(caller, context);
  let refusal: Refusal | undefined;
  const outcome = await retried(5, () =>
    inTransaction<T | RolledBack<undefined>>(
      leases,
      async (transaction) => {
        const entered = await enter(transaction, caller, request, context);
        refusal = "read" in entered ? undefined : entered;
        return "read" in entered ? work(new ScopedTransaction(transaction, entered)) : new RolledBack(undefined);
      },
      groupOf(caller, context),
    ),
  ).catch(async (error: unknown) => {
    // Refused by a function that looked further than enter could.
    if (error instanceof AppError) {
      await recordDenial(leases, caller, request, { status: error.slug, detail: error.message }, context);
    }
    throw error;
  });
  if (refusal !== undefined) throw await refused(refusal, leases, caller, request, context);
  return outcome as T;
}

/** Whether the key is live and may use the verb; throws what {@link enterScope} would. */
export async function checkCaller(
  leases: Leases,
  caller: Caller,
  verb: AccessRequest["verb"],
  context: RequestContext = { context: "", arrivedAt: performance.now() },
): Promise<void> {
  refuseKnownStranger(caller, context);
  const request = { verb, mode: "check" } as const;
  const answer = await inTransaction(
    leases,
    (transaction) => callEnter(transaction, caller, request, context),
    groupOf(caller, context),
  );
  if (answer.status !== "ok") throw await refused(answer, leases, caller, request, context);
}

/** Whom the caller's connections are charged to. */
const groupOf = ({ keyHash }: Caller, { shareGroups, strangers }: RequestContext): string | undefined =>
  shareGroups?.of(keyHash) ?? strangers?.group;

/** A key that was unknown a moment ago is not looked up again. */
function refuseKnownStranger({ keyHash }: Caller, { strangers }: RequestContext): void {
  if (strangers?.known.isRefused(keyHash)) throw unauthorized();
}

/** The error to answer with; a refusal of a known key is recorded first. */
async function refused(
  refusal: Refusal,
  leases: Leases,
  caller: Caller,
  request: AccessRequest,
  context: RequestContext,
): Promise<AppError> {
  if (refusal.status === "needs-hold") throw new NeedsHold();
  if (refusal.status === "unauthorized") {
    context.strangers?.known.noteRefused(caller.keyHash);
    return unauthorized();
  }
  await recordDenial(leases, caller, request, refusal, context);
  return refusal.status === "not-found" ? notFound() : new AppError(refusal.status, refusal.detail ?? "");
}

/** What a request asks of `scopefloor.enter`. */
export const requestedOf = (request: Omit<AccessRequest, "verb">) => ({
  mode: request.mode,
  clauses: request.selector ?? null,
  session: request.session ?? null,
  document: request.document ?? null,
  memory: request.memory ?? null,
  subtree: request.subtree ?? null,
  reopen: request.reopen ?? false,
});

async function callEnter(
  transaction: Transaction,
  caller: Caller,
  request: AccessRequest,
  { context, arrivedAt }: RequestContext,
): Promise<Granted | Refusal> {
  const requested = {
    ...requestedOf(request),
    ...(request.metered === true ? { metered: true } : {}),
    ...(request.hold === undefined ? {} : { hold: request.hold }),
    context,
    ageMs: performance.now() - arrivedAt,
  };
  const rows = await transaction.query("SELECT scopefloor.enter($1, $2, $3, $4, $5) AS answer", [
    caller.keyHash,
    request.verb,
    JSON.stringify(requested),
    request.view ?? null,
    caller.onBehalfOf ?? null,
  ]);
  const answer = rows[0]?.answer as Granted | Refusal | undefined;
  if (answer === undefined) throw new Error("scopefloor.enter answered nothing");
  return answer;
}

async function enter(
  transaction: Transaction,
  caller: Caller,
  request: AccessRequest,
  context: RequestContext,
): Promise<Entry | Refusal> {
  // In the same round trip: each reads the ticket that entering leaves, and nothing where it is refused.
  const entering = callEnter(transaction, caller, request, context);
  const state =
    request.question === undefined ? null : first<RecallState>(transaction, "recall_state($1)", [request.question]);
  const words = request.mode === "write" ? first<RawLexicalState>(transaction, "lexical_state()", []) : null;
  const { shareGroups } = context;
  const isKnown = shareGroups === undefined || shareGroups.of(caller.keyHash) !== undefined;
  const group = isKnown ? null : first<string>(transaction, "own_share_group()", []);
  for (const sent of [state, words, group]) sent?.catch(() => undefined); // entering's failure is told first
  const answer = await entering;
  if (answer.status !== "ok") return answer;
  const learnt = await group;
  if (learnt !== null) shareGroups?.learn(caller.keyHash, learnt);
  const recall = await state;
  const entry: Entry = {
    ...answer,
    hold: request.hold ?? null,
    recall,
    credentials: credentialsFromDatabase(answer.credentials),
    lexical: (await words) ?? recall?.lexical ?? null,
    floor: scopeFromDatabase(answer.floor),
    effective: answer.effective && scopeFromDatabase(answer.effective),
    trace: { ...answer.trace, tags: scopeFromDatabase(answer.trace.tags) },
    read: {
      scopes: new Map(
        Object.entries(answer.read.scopes).map(([id, tags]): [number, Scope] => [Number(id), scopeFromDatabase(tags)]),
      ),
      trees: answer.read.trees.map(scopeFromDatabase),
      tenant: answer.read.tenant,
    },
  };
  checkAgainstFloor(entry, request);
  return entry;
}

async function first<T>(transaction: Transaction, call: string, params: readonly unknown[]): Promise<T | null> {
  const [row] = await transaction.query(`SELECT scopefloor.${call} AS result`, params);
  return (row?.result ?? null) as T | null;
}

/** The denial is charged to the denied key's share group. */
async function recordDenial(
  leases: Leases,
  caller: Caller,
  request: AccessRequest,
  refusal: Refusal,
  context: RequestContext,
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
        JSON.stringify(request.selector ?? null),
        caller.onBehalfOf ?? null,
        refusal.detail ?? "",
      ]),
    groupOf(caller, context),
  );
}
