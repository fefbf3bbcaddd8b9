import { afterAll, beforeAll, expect, test } from "vitest";
import { runHousekeeping } from "../../src/jobs/housekeeping.ts";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let acme: Client;

const visible = async () =>
  (await service.database.sql("SELECT relallvisible FROM pg_class WHERE oid = 'scopefloor.passage'::regclass"))[0]
    ?.relallvisible as number;

beforeAll(async () => {
  service = await startService();
  acme = await service.mint("agent", { org: "acme" });
});
afterAll(() => service.stop());

// A server has its autovacuum.
test.runIf(!onPostgres())(
  "the embedded database's tables are vacuumed as they grow, and not again until they have",
  async () => {
    const fill = async (from: number) => {
      const messages = Array.from({ length: 200 }, (_, i) => ({
        role: "user",
        content: `Ledger ${from + i} lists the harbour's ropes, sails and lanterns, with the price of each.`,
      }));
      expect((await acme.post("/facts/batch", { messages })).status).toBe(200);
    };
    await fill(0);
    expect(await visible()).toBe(0);
    await runHousekeeping(service.database, new Date());
    const first = await visible();
    expect(first).toBeGreaterThan(0);
    await runHousekeeping(service.database, new Date());
    expect(await visible()).toBe(first);
    await fill(1_000);
    await runHousekeeping(service.database, new Date());
    expect(await visible()).toBeGreaterThan(first);
  },
);
