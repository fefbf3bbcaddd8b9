/**
 * Exclusive connections. A transaction leases a whole connection: postgres.js 3.4.9 lets a stale
 * handle go on in whatever transaction a reconnected socket is in, so a connection that closes
 * during a lease is poisoned and thrown away.
 */
import { setTimeout } from "node:timers/promises";
import { AppError } from "../../errors.ts";

export type Row = Record<string, unknown>;

/** One leased connection. After it was poisoned or released every call is refused. */
export interface Lease {
  query(text: string, params?: readonly unknown[]): Promise<Row[]>;
  release(): Promise<void>;
}

export interface Leases {
  /**
   * Waits for a free connection, but not without end.
   *
   * @param shareGroup whom it is charged to; groups share the connections fairly (src/load/fair-queue.ts)
   * @throws AppError `rate-limited` behind too much of the same, `unavailable` behind others
   */
  acquire(shareGroup?: string): Promise<Lease>;
  /** Waits for the leases that are out, then closes. */
  close(): Promise<void>;
}

/** The two kinds of database behind one interface. */
export interface Database {
  readonly kind: "embedded" | "postgres";
  readonly app: Leases;
  readonly worker: Leases;
  /** Migrations, partitions, roles. Never reads content. */
  readonly owner: Leases;
  close(): Promise<void>;
}

/**
 * Between its statements a transaction is ended that has taken too long, also where no server does it.
 *
 * @param since when it began, by performance.now()
 * @throws AppError `unavailable`; not for what ends the transaction
 */
export function refuseLate(since: number, longestMs: number, statement: string): void {
  if (performance.now() - since <= longestMs || statement === "ROLLBACK" || statement === "COMMIT") return;
  throw new AppError("unavailable", "the request took too long in the database; ask for less at once", {
    retryAfter: 1,
  });
}

/** A leased connection inside a transaction. */
export interface Transaction {
  query(text: string, params?: readonly unknown[]): Promise<Row[]>;
  /** Sends a statement without waiting for it: it travels with the COMMIT, and its failure is the commit's. */
  send(text: string, params?: readonly unknown[]): void;
}

/** What work returns to have all that it did undone; the value leaves the transaction. */
export class RolledBack<T> {
  readonly value: T;
  constructor(value: T) {
    this.value = value;
  }
}

/** Runs work inside one transaction: commits what it returns, rolls back what it throws or returns as {@link RolledBack}. */
export async function inTransaction<T>(
  leases: Leases,
  work: (transaction: Transaction) => Promise<T>,
  shareGroup?: string,
): Promise<T> {
  const lease = await leases.acquire(shareGroup);
  const sent: Promise<unknown>[] = [];
  const send = (text: string, params?: readonly unknown[]) => {
    const answer = lease.query(text, params);
    answer.catch(() => undefined); // looked at below
    sent.push(answer);
  };
  try {
    send("BEGIN"); // in the same round trip as the work's first statement
    const result = await work({ query: (text, params) => lease.query(text, params), send });
    if (result instanceof RolledBack) {
      await lease.query("ROLLBACK");
      return result;
    }
    // When one of those that were sent has failed, this COMMIT rolls back, and the failure is thrown.
    send("COMMIT");
    await Promise.all(sent);
    return result;
  } catch (error) {
    const cause = await causeOf(error, sent);
    // A connection that died has nothing left to roll back.
    await lease.query("ROLLBACK").catch(() => undefined);
    throw cause;
  } finally {
    // Cleaning up is not in the answer's way; until it is done nobody else gets the connection.
    lease.release().catch(() => undefined);
  }
}

/**
 * Does the work again, up to so many times in all, when the database gave it up for another transaction's
 * sake (a deadlock, or a serialization failure): then nothing of it was done.
 */
export async function retried<T>(times: number, work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt >= times || !isTransient(error)) throw error;
      await setTimeout(attempt * 10 * Math.random());
    }
  }
}

const isTransient = (error: unknown) => {
  const code = (error as { code?: unknown } | null)?.code;
  return code === "40P01" || code === "40001";
};

/** What was sent without waiting and has failed is why the statement after it is refused. */
async function causeOf(error: unknown, sent: readonly Promise<unknown>[]): Promise<unknown> {
  const IN_FAILED_TRANSACTION = "25P02";
  if ((error as { code?: string } | undefined)?.code !== IN_FAILED_TRANSACTION) return error;
  const failed = (await Promise.allSettled(sent)).find((answer) => answer.status === "rejected");
  return failed?.reason ?? error;
}
