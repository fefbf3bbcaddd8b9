import { type Database, inTransaction, RolledBack } from "./db/connect/lease.ts";
import { migrationCheck } from "./db/upkeep/migrate.ts";
import { hasWork } from "./jobs/queue.ts";

export interface Readiness {
  readonly status: "ok" | "unavailable";
  readonly checks: Readonly<Record<"serving" | "database" | "migrations" | "queue", "ok" | "failed" | "stopping">>;
  /** What an operator should know although everything answers. */
  readonly warnings?: readonly string[];
}

/** How old an answer may be, in ms. */
const FRESH_MS = 500;

/**
 * Whether this process can answer: it is not stopping, and the database is there, takes writes, and has
 * all that this version needs. One that a newer version has migrated meanwhile still serves this one, until it is
 * replaced.
 */
export function readinessOf(
  database: Database,
  isServing: () => boolean,
  warnings: readonly string[],
): () => Promise<Readiness> {
  const stateOf = migrationCheck();
  let last: { readonly at: number; readonly readiness: Promise<Readiness> } | undefined;
  const ask = async (): Promise<Readiness> => {
    const state = await inTransaction(database.app, stateOf).catch(() => undefined);
    const isMigrated = state === "current" || state === "ahead";
    const queue = isMigrated ? await hasWork(database).catch(() => undefined) : undefined;
    const isWritable = isMigrated && (await mayWrite(database).catch(() => false));
    const checks = {
      serving: isServing() ? "ok" : "stopping",
      database: state === undefined || (isMigrated && !isWritable) ? "failed" : "ok",
      migrations: isMigrated ? "ok" : "failed",
      queue: queue === undefined ? "failed" : "ok",
    } as const;
    return {
      status: Object.values(checks).every((check) => check === "ok") ? "ok" : "unavailable",
      checks,
      ...(warnings.length === 0 ? {} : { warnings }),
    };
  };
  return () => {
    // Whoever asks, and however often: it is asked of the database once in a while.
    if (last === undefined || performance.now() - last.at > FRESH_MS || !isServing()) {
      last = { at: performance.now(), readiness: ask() };
    }
    return last.readiness;
  };
}

/** A write that is undone. */
const mayWrite = async (database: Database): Promise<boolean> => {
  await inTransaction(database.app, async (app) => new RolledBack(await app.query("SELECT scopefloor.try_write()")));
  return true;
};
