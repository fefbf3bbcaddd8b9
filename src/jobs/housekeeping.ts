import type { Logger } from "pino";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { endOverdueTransactions } from "../db/upkeep/watchdog.ts";
import { failureOf } from "../log.ts";
import { startRounds } from "./rounds.ts";
import { reconcileGraphs } from "./vector-graphs.ts";

const HOUSEKEEPING_INTERVAL_MS = 60_000;
const WATCH_INTERVAL_MS = 5_000;

/** Entries of the audit chain in one batch: few enough to be sealed, and later checked, in a second. */
const SEALED_AT_ONCE = 5_000;

export interface HousekeepingOptions {
  readonly log: Logger;
  /** Passages of one model from which on a scope gets a graph of its own. */
  readonly graphFrom: number;
  /** How old a transaction of the service may be before it is ended from outside, in ms. */
  readonly overdueMs: number;
  /** Where receipts are kept outside of the database. */
  readonly journal?: { save(): Promise<void> } | undefined;
}

/** Rows of each kind that are closed in one round. */
const ENDED_AT_ONCE = 10_000;

/** Folds counters, notes once a day what is kept, closes what is over, seals the audit chain, drops old idempotency answers, makes the coming months' partitions and vacuums what has grown. */
export async function runHousekeeping(database: Database, now: Date): Promise<void> {
  await inTransaction(database.worker, async (worker) => {
    await worker.query("SELECT scopefloor.fold_counters()");
    await worker.query("SELECT scopefloor.purge_old()");
    await worker.query("SELECT scopefloor.end_over_anywhere($1)", [ENDED_AT_ONCE]);
    await worker.query("SELECT scopefloor.sample_storage()");
  });
  await sealAudit(database);
  for (const ahead of [0, 1]) {
    const month = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + ahead, 1)).toISOString().slice(0, 10);
    // DDL: the owner's connection, which reads no content.
    await inTransaction(database.owner, (owner) =>
      owner.query("SELECT scopefloor.ensure_trace_partition($1)", [month]),
    );
  }
  if (database.kind === "embedded") await vacuumGrownTables(database);
}

/** Gives what is new in the audit chain its place there. */
export async function sealAudit(database: Database): Promise<void> {
  for (let sealed = SEALED_AT_ONCE; sealed === SEALED_AT_ONCE; ) {
    const [row] = await inTransaction(database.worker, (worker) =>
      worker.query("SELECT scopefloor.seal_audit($1) AS sealed", [SEALED_AT_ONCE]),
    );
    sealed = row?.sealed as number;
  }
}

/**
 * The embedded database has no autovacuum: without this its plans know no sizes and its index-only
 * scans visit the tables, which costs a recall among 10,000 passages a third of its time. Nor does
 * it count changes, so a table's size has to say that it is worth while.
 */
async function vacuumGrownTables(database: Database): Promise<void> {
  const lease = await database.owner.acquire();
  try {
    const grown = await lease.query(`
      SELECT c.oid::regclass::text AS name FROM pg_class c
      WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind = 'r'
        AND pg_relation_size(c.oid) / current_setting('block_size')::int > greatest(c.relpages, 0) * 1.2 + 8`);
    for (const { name } of grown) await lease.query(`VACUUM (ANALYZE) ${name}`);
  } finally {
    await lease.release();
  }
}

/** Ends what holds others up beyond every timeout; that it may not is said once. */
function watchTransactions(database: Database, overdueMs: number, log: Logger): { stop(): Promise<void> } {
  let round: Promise<void> | undefined;
  let isToldOff = false;
  const timer = setInterval(() => {
    round ??= endOverdueTransactions(database, overdueMs)
      .then((ended) => {
        if (ended > 0) log.warn({ ended }, "transactions were ended that had outlived their timeout");
      })
      .catch((error: unknown) => {
        if (!isToldOff)
          log.warn(failureOf(error), "overdue transactions are not ended: the owner's login needs pg_signal_backend");
        isToldOff = true;
      })
      .finally(() => {
        round = undefined;
      });
  }, WATCH_INTERVAL_MS);
  return {
    stop: async () => {
      clearInterval(timer);
      await round;
    },
  };
}

/** The worker's round, until it is stopped; a failed round is logged and the next one tries again. */
export function startHousekeeping(
  database: Database,
  { log, graphFrom, overdueMs, journal }: HousekeepingOptions,
): { stop(): Promise<void> } {
  let stopped = false;
  let building: Promise<void> | undefined;
  const failed = (error: unknown) => {
    if (!stopped) log.error(failureOf(error), "housekeeping failed");
  };
  const round = () =>
    // The journal first, and by itself: what is forgotten must outlive whatever else does not work.
    Promise.resolve(journal?.save())
      .catch(failed)
      .then(() => runHousekeeping(database, new Date()))
      .then(() => {
        // In a round of its own: a build takes minutes.
        building ??= reconcileGraphs(database, { least: graphFrom, log, isStopped: () => stopped })
          .catch(failed)
          .finally(() => {
            building = undefined;
          });
      });
  const rounds = startRounds(round, { firstMs: 1_000, everyMs: HOUSEKEEPING_INTERVAL_MS, failed });
  const watch = watchTransactions(database, overdueMs, log);
  return {
    stop: async () => {
      stopped = true;
      const ended = rounds.stop();
      await watch.stop();
      await ended;
      await building;
      await journal?.save();
    },
  };
}
