import { type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import { inTransaction, type Leases, type Transaction } from "../connect/lease.ts";
import { credentialsFromDatabase, type Entry, type Principal, type RawCredentials } from "./entry.ts";
import { ScopedTransaction } from "./scoped.ts";

/** A job that this worker has taken. Whose work it is stands in its row, which only the database reads. */
export interface TakenJob {
  readonly id: string;
  readonly kind: "document" | "embed" | "index" | "bring_up" | "forget";
  /** New each time a job is taken: a worker that comes late finds that it is not its job any more. */
  readonly lease: string;
  readonly attempts: number;
  readonly documentId: string | null;
  readonly version: number | null;
}

/** The job was done by another, or its scope was erased: there is nothing to do, and nothing went wrong. */
export class JobGone extends Error {
  constructor() {
    super("the job is gone");
    this.name = "JobGone";
  }
}

/** What a run is to do next (src/db/sql/3_governance/4_runs.sql). */
export interface RunStep {
  readonly id: string;
  readonly step: "batch" | "end";
  /** All of its scope goes. */
  readonly isWhole: boolean;
  readonly source: "retention" | "schedule" | "offboard";
  readonly action: "expire" | "erase";
  readonly subtree: boolean;
  readonly dryRun: boolean;
  readonly selector: {
    readonly query?: string;
    readonly labels?: readonly string[];
    readonly kinds?: readonly string[];
    readonly since?: "observed" | "created" | "lastUsed";
    readonly before?: string;
  };
  readonly counts: Readonly<Record<string, number>>;
}

type Answer =
  | { readonly status: "gone" | "again" }
  | {
      readonly status: "ok";
      readonly key: string;
      readonly principal: Principal;
      readonly onBehalfOf: string | null;
      readonly scopeId: number;
      readonly tenant: number;
      readonly tags: Record<string, string>;
      readonly settings: Record<string, unknown>;
      readonly credentials: RawCredentials;
      /** Of a run: the scopes of this step, and what it is. */
      readonly read?: {
        readonly scopes: Record<string, Record<string, string>>;
        readonly trees: readonly Record<string, string>[];
        readonly tenant: number | null;
      };
      readonly run?: RunStep;
    };
type Granted = Extract<Answer, { status: "ok" }>;

const entryOf = (answer: Granted, scope: Scope): Entry => ({
  key: { id: answer.key, name: "", principal: answer.principal, content: true, defaultView: "strict", expiresAt: null },
  verbs: ["memory:write"],
  floor: scope,
  onBehalfOf: answer.onBehalfOf,
  view: "strict",
  effective: scope,
  general: false,
  read: { scopes: new Map([[answer.scopeId, scope]]), trees: [], tenant: answer.tenant },
  write: { id: answer.scopeId, tenant: answer.tenant },
  settings: answer.settings,
  credentials: credentialsFromDatabase(answer.credentials),
  trace: { id: answer.scopeId, tenant: answer.tenant, tags: scope, isElsewhere: false, isBlank: false },
  hold: null,
  recall: null,
  lexical: null,
});

/** A run forgets where the step says, and writes nothing. */
const runEntryOf = (answer: Granted, scope: Scope, read: NonNullable<Granted["read"]>): Entry => ({
  ...entryOf(answer, scope),
  verbs: ["memory:forget", "memory:read"],
  view: answer.run?.subtree === false ? "strict" : "subtree",
  read: {
    scopes: new Map(Object.entries(read.scopes).map(([id, tags]) => [Number(id), scopeFromDatabase(tags)])),
    trees: read.trees.map(scopeFromDatabase),
    tenant: read.tenant,
  },
  write: null,
});

async function call(transaction: Transaction, job: TakenJob, context: string): Promise<Answer> {
  const [row] = await transaction.query("SELECT scopefloor.enter_job($1, $2, $3) AS answer", [
    job.id,
    job.lease,
    context,
  ]);
  const answer = row?.answer as Answer | undefined;
  if (answer === undefined) throw new Error("scopefloor.enter_job answered nothing");
  return answer;
}

async function enter(transaction: Transaction, job: TakenJob, context: string): Promise<Entry | undefined> {
  const answer = await call(transaction, job, context);
  return answer.status === "ok" ? entryOf(answer, scopeFromDatabase(answer.tags)) : undefined;
}

/**
 * Does the next step of the run that a job has, in a transaction that reaches what that step is about. `again`: there
 * is another one.
 *
 * @throws JobGone when there is none
 */
export async function enterRun(
  worker: Leases,
  job: TakenJob,
  context: string,
  work: (tx: ScopedTransaction, run: RunStep) => Promise<"again" | "done">,
): Promise<"again" | "done"> {
  const outcome = await inTransaction(worker, async (transaction) => {
    const answer = await call(transaction, job, context);
    // Committed: what entering has done itself.
    if (answer.status !== "ok") return answer.status;
    if (answer.run === undefined || answer.read === undefined) throw new Error("the job has no run");
    const entry = runEntryOf(answer, scopeFromDatabase(answer.tags), answer.read);
    return work(new ScopedTransaction(transaction, entry), answer.run);
  });
  if (outcome === "gone") throw new JobGone();
  return outcome;
}

/**
 * Runs work in a transaction that a job has entered: it reaches the one scope of the job's row, as
 * the key that ordered it, and holds the row, so that of two with the same job one waits.
 *
 * @throws JobGone when the job is not this worker's any more
 */
export async function enterJob<T>(
  worker: Leases,
  job: TakenJob,
  context: string,
  work: (tx: ScopedTransaction, renew: () => Promise<void>) => Promise<T>,
): Promise<T> {
  const outcome = await inTransaction(worker, async (transaction) => {
    const entry = await enter(transaction, job, context);
    if (entry === undefined) return undefined; // committed: enter_job has removed a job of an erased scope
    // A ticket lives for 60 s: longer work inside one transaction enters again.
    const renew = async () => {
      if ((await enter(transaction, job, context)) === undefined) throw new JobGone();
    };
    return { result: await work(new ScopedTransaction(transaction, entry), renew) };
  });
  if (outcome === undefined) throw new JobGone();
  return outcome.result;
}
