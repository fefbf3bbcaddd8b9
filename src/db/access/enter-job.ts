import { type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import { inTransaction, type Leases, type Transaction } from "../connect/lease.ts";
import type { Entry, Principal } from "./entry.ts";
import { ScopedTransaction } from "./scoped.ts";

/** A job that this worker has taken. Whose work it is stands in its row, which only the database reads. */
export interface TakenJob {
  readonly id: string;
  readonly kind: "document" | "embed" | "index" | "bring_up";
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

type Answer =
  | { readonly status: "gone" }
  | {
      readonly status: "ok";
      readonly key: string;
      readonly principal: Principal;
      readonly onBehalfOf: string | null;
      readonly scopeId: number;
      readonly tenant: number;
      readonly tags: Record<string, string>;
      readonly settings: Record<string, unknown>;
    };

const entryOf = (answer: Extract<Answer, { status: "ok" }>, scope: Scope): Entry => ({
  key: { id: answer.key, name: "", principal: answer.principal, content: true, expiresAt: null },
  verbs: ["memory:write"],
  floor: scope,
  onBehalfOf: answer.onBehalfOf,
  view: "strict",
  effective: scope,
  general: false,
  read: { scopes: new Map([[answer.scopeId, scope]]), trees: [], tenant: answer.tenant },
  write: { id: answer.scopeId, tenant: answer.tenant },
  settings: answer.settings,
  trace: { id: answer.scopeId, tenant: answer.tenant, tags: scope, isElsewhere: false, isBlank: false },
  hold: null,
  recall: null,
  lexical: null,
});

async function enter(transaction: Transaction, job: TakenJob, context: string): Promise<Entry | undefined> {
  const [row] = await transaction.query("SELECT scopefloor.enter_job($1, $2, $3) AS answer", [
    job.id,
    job.lease,
    context,
  ]);
  const answer = row?.answer as Answer | undefined;
  if (answer === undefined) throw new Error("scopefloor.enter_job answered nothing");
  return answer.status === "ok" ? entryOf(answer, scopeFromDatabase(answer.tags)) : undefined;
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
