/**
 * Exclusive connections. A transaction leases a whole connection: postgres.js 3.4.9 lets a stale
 * handle go on in whatever transaction a reconnected socket is in, so a connection that closes
 * during a lease is poisoned and thrown away.
 */

export type Row = Record<string, unknown>;

/** One leased connection. After it was poisoned or released every call is refused. */
export interface Lease {
  query(text: string, params?: readonly unknown[]): Promise<Row[]>;
  release(): Promise<void>;
}

export interface Leases {
  /** Waits for a free connection, but not without end: then throws `unavailable`. */
  acquire(): Promise<Lease>;
  /** Waits for the leases that are out, then closes. */
  close(): Promise<void>;
}

/** The two kinds of database behind one interface. */
export interface Database {
  readonly kind: "embedded" | "postgres";
  /** What an operator should know about how this database is set up; it works all the same. */
  readonly warning: string | undefined;
  readonly app: Leases;
  readonly worker: Leases;
  /** Migrations, partitions, roles. Never reads content. */
  readonly owner: Leases;
  close(): Promise<void>;
}

/** Runs work inside one transaction: commits what it returns, rolls back what it throws. */
export async function inTransaction<T>(leases: Leases, work: (lease: Lease) => Promise<T>): Promise<T> {
  const lease = await leases.acquire();
  try {
    // Not awaited: the work's first statement travels in the same round trip.
    const begun = lease.query("BEGIN");
    begun.catch(() => undefined);
    const result = await work(lease);
    await begun;
    await lease.query("COMMIT");
    return result;
  } catch (error) {
    // A connection that died has nothing left to roll back.
    await lease.query("ROLLBACK").catch(() => undefined);
    throw error;
  } finally {
    await lease.release();
  }
}
