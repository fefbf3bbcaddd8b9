import { type Database, inTransaction } from "./db/connect/lease.ts";
import { migrationCheck } from "./db/upkeep/migrate.ts";
import { hasWork } from "./jobs/queue.ts";

export interface Readiness {
  readonly status: "ok" | "unavailable";
  readonly checks: Readonly<Record<"serving" | "database" | "migrations" | "queue", "ok" | "failed" | "stopping">>;
  /** What an operator should know although everything answers. */
  readonly warnings?: readonly string[];
}

/**
 * Whether this process can answer: it is not stopping, and the database is there with all that this
 * version needs. One that a newer version has migrated meanwhile still serves this one, until it is
 * replaced.
 */
export function readinessOf(
  database: Database,
  isServing: () => boolean,
  warnings: readonly string[],
): () => Promise<Readiness> {
  const stateOf = migrationCheck();
  return async () => {
    const state = await inTransaction(database.app, stateOf).catch(() => undefined);
    const isMigrated = state === "current" || state === "ahead";
    const queue = isMigrated ? await hasWork(database).catch(() => undefined) : undefined;
    const checks = {
      serving: isServing() ? "ok" : "stopping",
      database: state === undefined ? "failed" : "ok",
      migrations: isMigrated ? "ok" : "failed",
      queue: queue === undefined ? "failed" : "ok",
    } as const;
    return {
      status: Object.values(checks).every((check) => check === "ok") ? "ok" : "unavailable",
      checks,
      ...(warnings.length === 0 ? {} : { warnings }),
    };
  };
}
