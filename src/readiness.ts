import { type Database, inTransaction } from "./db/lease.ts";
import { migrationCheck } from "./db/migrate.ts";
import { hasWork } from "./jobs/queue.ts";

export interface Readiness {
  readonly status: "ok" | "unavailable";
  readonly checks: Readonly<Record<"serving" | "database" | "migrations" | "queue", "ok" | "failed" | "stopping">>;
  /** What an operator should know although everything answers. */
  readonly warnings?: readonly string[];
}

/** Whether this process can answer: it is not stopping, and the database is there at this version. */
export function readinessOf(database: Database, isServing: () => boolean): () => Promise<Readiness> {
  const isMigrated = migrationCheck();
  return async () => {
    const migrated = await inTransaction(database.app, isMigrated).catch(() => undefined);
    const queue = migrated === true ? await hasWork(database).catch(() => undefined) : undefined;
    const checks = {
      serving: isServing() ? "ok" : "stopping",
      database: migrated === undefined ? "failed" : "ok",
      migrations: migrated === true ? "ok" : "failed",
      queue: queue === undefined ? "failed" : "ok",
    } as const;
    return {
      status: Object.values(checks).every((check) => check === "ok") ? "ok" : "unavailable",
      checks,
      ...(database.warning === undefined ? {} : { warnings: [database.warning] }),
    };
  };
}
