/**
 * What a forget leaves in the database's files: dead rows, statistics, the write-ahead log. A forget
 * takes rows away; this takes their bytes away.
 */
import type { Database, Lease } from "../connect/lease.ts";

/** One thing that was done, or could not be: then why. */
export interface ScrubStep {
  readonly what: string;
  readonly failed?: string;
}

/** How long transactions that were open at the beginning have to end. */
const LOOK_BACK_MS = 30_000;

/** Segments of the write-ahead log that are begun anew, at most: 4 GiB of the usual 16 MiB. */
const MOST_SEGMENTS = 256;

/**
 * Rewrites every table and index, makes the statistics anew, and goes once around the write-ahead log,
 * so that old segments are removed and those that stay are written over. Tables are locked one at a
 * time while they are rewritten. The last two steps take a superuser; what did not work is said.
 */
export async function scrub(
  database: Database,
  onStep: (step: ScrubStep) => void,
  { lookBackMs = LOOK_BACK_MS }: { lookBackMs?: number } = {},
): Promise<void> {
  const owner = await database.owner.acquire();
  try {
    await step(onStep, "looked for who may still see forgotten rows", () => waitForOldSnapshots(owner, lookBackMs));
    const tables = await owner.query(`
      SELECT c.oid::regclass::text AS name FROM pg_class c
      WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind = 'r' ORDER BY pg_relation_size(c.oid)`);
    for (const { name } of tables) {
      await step(onStep, `rewrote ${name}`, () => owner.query(`VACUUM (FULL, ANALYZE) ${name}`));
    }
    // What the planner knew of columns: most frequent values, and bounds of histograms.
    await step(onStep, "rewrote the statistics", () => owner.query("VACUUM (FULL) pg_catalog.pg_statistic"));
    await step(onStep, "went once around the write-ahead log", () => recycleWal(owner));
  } finally {
    await owner.release();
  }
}

/**
 * Rows that are gone are written anew with the others as long as an open transaction, here or on a
 * standby, may still see them.
 */
async function waitForOldSnapshots(owner: Lease, waitMs: number): Promise<void> {
  // Whatever was forgotten has an earlier one.
  const [own] = await owner.query("SELECT pg_catalog.pg_current_xact_id()::xid::text AS xid");
  const back = `
    SELECT who FROM (
      SELECT 'session ' || pid AS who, backend_xmin AS xmin FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()
      -- Between two statements a transaction that has written has no xmin, and is waited for all the same.
      UNION ALL SELECT 'session ' || pid, backend_xid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()
      UNION ALL SELECT 'standby ' || pid, backend_xmin FROM pg_stat_replication
      UNION ALL SELECT 'replication slot ' || slot_name, xmin FROM pg_replication_slots
      UNION ALL SELECT 'replication slot ' || slot_name, catalog_xmin FROM pg_replication_slots
      UNION ALL SELECT 'prepared transaction ' || gid, transaction FROM pg_prepared_xacts) held
    WHERE pg_catalog.age(xmin) > pg_catalog.age($1::xid)`;
  for (const until = performance.now() + waitMs; ; ) {
    const held = (await owner.query(back, [own?.xid])).map(({ who }) => String(who));
    if (held.length === 0) return;
    if (performance.now() > until) {
      throw new Error(`${[...new Set(held)].join(", ")} may still see rows that are gone: end it and scrub again`);
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function step(onStep: (step: ScrubStep) => void, what: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
    onStep({ what });
  } catch (error) {
    onStep({ what, failed: (error as Error).message });
  }
}

/**
 * Goes on to segments that were not there yet, and has the old ones removed: one that is kept for later
 * under another name would still hold what was in it.
 */
async function recycleWal(owner: Lease): Promise<void> {
  const [row] = await owner.query(
    "SELECT max(name) AS last, count(*)::int AS segments FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'",
  );
  const { last, segments } = row as { last: string; segments: number };
  if (segments > MOST_SEGMENTS) throw new Error(`${segments} segments are kept`);
  const [before] = await owner.query(
    "SELECT setting::bool AS recycles FROM pg_file_settings WHERE name = 'wal_recycle' AND sourcefile LIKE '%postgresql.auto.conf'",
  );
  await owner.query("SET wal_recycle = off"); // for the embedded database, whose checkpoints are this session's
  await owner.query("ALTER SYSTEM SET wal_recycle = off");
  try {
    await owner.query("SELECT pg_catalog.pg_reload_conf(), pg_catalog.pg_sleep(0.5)"); // the checkpointer reads it in its own time
    for (let n = 0; n <= segments; n++) {
      // A switch does nothing in a segment in which nothing was written yet.
      await owner.query("SELECT pg_catalog.pg_logical_emit_message(false, 'scrub', 'scrub')");
      await owner.query("SELECT pg_catalog.pg_switch_wal()");
    }
    await owner.query("CHECKPOINT");
    const kept = await owner.query("SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name <= $1", [
      last,
    ]);
    if (kept.length > 0) {
      throw new Error(`${kept.length} old segments are kept, as for a replication slot, an archive or wal_keep_size`);
    }
  } finally {
    await owner.query(
      before === undefined ? "ALTER SYSTEM RESET wal_recycle" : `ALTER SYSTEM SET wal_recycle = ${before.recycles}`,
    );
    await owner.query("SELECT pg_catalog.pg_reload_conf()");
  }
}
