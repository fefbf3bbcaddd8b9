import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { inTransaction } from "../../src/db/lease.ts";
import { openPostgres } from "../../src/db/open.ts";
import { keepHouse } from "../../src/jobs/housekeeping.ts";
import { createLog } from "../../src/log.ts";
import { createService, prepareDatabase } from "../../src/service.ts";
import { createTestDatabase, onPostgres } from "../harness/database.ts";

/** PGlite has no logins; there set_config is closed instead. */
describe.runIf(onPostgres())("three logins, as the README sets them up", () => {
  test("the service runs on them, and an injected set_config('role') leaves nothing wider", async () => {
    const database = await createTestDatabase();
    const suffix = randomBytes(4).toString("hex");
    const [api, jobs, reporter] = [`api_${suffix}`, `jobs_${suffix}`, `reporter_${suffix}`];
    await database.sql(
      `CREATE ROLE ${api} LOGIN IN ROLE scopefloor_app;
       CREATE ROLE ${jobs} LOGIN IN ROLE scopefloor_worker;
       CREATE ROLE ${reporter} LOGIN IN ROLE scopefloor_report;`,
    );
    const as = (user: string) => {
      const url = new URL(database.url ?? "");
      url.username = user;
      return url.toString();
    };
    const split = openPostgres({
      app: as(api),
      worker: as(jobs),
      owner: database.url ?? "",
      connections: 2,
      timeoutMs: 5_000,
    });
    try {
      expect(split.warning).toBeUndefined();
      // The api's process may be without the owner's URL: it finds the database ready.
      await prepareDatabase(split, { context: "default", mayMigrate: false, log: createLog("silent") });
      await createService(split, { context: "default", log: createLog("silent") });
      await keepHouse(split, new Date());
      for (const role of ["none", api, "scopefloor_definer", "scopefloor_worker", "postgres"]) {
        const outcome = await inTransaction(split.app, async (lease) => {
          await lease.query("SELECT set_config('role', $1, true)", [role]);
          return lease.query("SELECT current_user AS who, (SELECT count(*)::int FROM scopefloor.scope) AS seen");
        }).catch((error: { code?: string }) => error.code);
        expect(outcome, role).toEqual(["none", api].includes(role) ? [{ who: api, seen: 0 }] : "42501");
      }
    } finally {
      await split.close();
      await database.sql(`DROP ROLE ${api}; DROP ROLE ${jobs}; DROP ROLE ${reporter}`);
      await database.drop();
    }
  });
});

describe.runIf(!onPostgres())("the embedded database", () => {
  test("closes set_config to the application's role, which cannot leave it", async () => {
    const database = await createTestDatabase();
    for (const attempt of ["set_config('role', 'postgres', true)", "set_config('scopefloor.ticket', 'x', true)"]) {
      const outcome = await inTransaction(database.app, (lease) => lease.query(`SELECT ${attempt}`)).catch(
        (error: { code?: string }) => error.code,
      );
      expect(outcome, attempt).toBe("42501");
    }
    await database.drop();
  });
});
