import type { TakenJob } from "../db/access/enter-job.ts";
import { type Database, inTransaction } from "../db/connect/lease.ts";

/** How many jobs are in a state, over all scopes. */
export interface QueueDepth {
  readonly kind: string;
  readonly state: "queued" | "running" | "dead";
  readonly jobs: number;
  /** How long the oldest of them has been due. */
  readonly oldestSeconds: number;
}

/** The worker's side of the table `job`. */
export class Queue {
  readonly #database: Database;
  readonly #leaseSeconds: number;

  /** @param leaseSeconds a job of which nothing is heard for this long is another worker's to take */
  constructor(database: Database, leaseSeconds: number) {
    this.#database = database;
    this.#leaseSeconds = leaseSeconds;
  }

  /** The next job, or undefined when nothing is due or each share group has `perGroup` at work. */
  async take(perGroup: number): Promise<TakenJob | undefined> {
    const [row] = await this.#call("SELECT scopefloor.take_job($1, $2) AS job", [perGroup, this.#leaseSeconds]);
    return (row?.job ?? undefined) as TakenJob | undefined;
  }

  /** Says that a job is still at work. */
  async extend(job: TakenJob): Promise<void> {
    await this.#call("SELECT scopefloor.extend_job($1, $2, $3)", [job.id, job.lease, this.#leaseSeconds]);
  }

  /**
   * Puts a job back for `seconds`, or gives it up; the reason is shown to whoever ordered it.
   *
   * @param wasTried whether it counts as an attempt
   */
  async postpone(job: TakenJob, reason: string, seconds: number, giveUp: boolean, wasTried = true): Promise<void> {
    await this.#call("SELECT scopefloor.postpone_job($1, $2, $3, $4, $5, $6)", [
      job.id,
      job.lease,
      reason,
      seconds,
      giveUp,
      wasTried,
    ]);
  }

  /** For the only worker that there can be: what a process before it had at work is due again. */
  async recover(): Promise<void> {
    await this.#call("SELECT scopefloor.recover_jobs()", []);
  }

  #call(text: string, params: readonly unknown[]) {
    return inTransaction(this.#database.worker, (worker) => worker.query(text, params));
  }
}

/** Whether there is work; fails when the queue cannot be read. */
export async function hasWork(database: Database): Promise<boolean> {
  const [row] = await inTransaction(database.app, (app) => app.query("SELECT scopefloor.has_work() AS has"));
  return row?.has === true;
}

/** Counts for monitoring; any of the two roles may ask. */
export async function queueDepth(database: Database): Promise<QueueDepth[]> {
  const rows = await inTransaction(database.app, (app) =>
    app.query('SELECT kind, state, jobs, oldest_seconds AS "oldestSeconds" FROM scopefloor.queue_depth()'),
  );
  return rows as unknown as QueueDepth[];
}
