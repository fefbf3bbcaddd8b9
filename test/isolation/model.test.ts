import { expect, test } from "vitest";
import { onPostgres } from "../harness/database.ts";
import { startService, type TestService } from "../harness/service.ts";
import { runModel } from "../model/model.ts";

/** A seed that has found a difference stays here. */
const SEEDS = [3];
/** 3,000 and more: `npm run soak -- model`. */
const commands = Number(process.env.SCOPEFLOOR_MODEL_COMMANDS ?? 200);
const seed = process.env.SCOPEFLOOR_SEED;

test.each(seed === undefined ? SEEDS : [Number(seed)])(
  "random commands do what the scope algebra says, and nothing else (seed %i)",
  { timeout: 0 },
  async (seed) => {
    let service: TestService = await startService({ worker: {} });
    try {
      const counts = await runModel({
        seed,
        commands,
        service: () => service,
        restart: async () => {
          // Once more where a connection that was just killed is the first to be used: it keeps the pool.
          service = await service.restart().catch(() => service.restart());
        },
        killConnection: onPostgres() ? () => killOne(service) : undefined,
      });
      // A run in which nothing was found would prove nothing.
      expect(counts["rows recalled"]).toBeGreaterThan(commands / 10);
      if (process.env.SCOPEFLOOR_MODEL_COMMANDS !== undefined) process.stdout.write(`${JSON.stringify(counts)}\n`);
    } finally {
      await service.stop();
    }
  },
);

async function killOne(service: TestService): Promise<void> {
  await service.database.sql(`
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name IN ('scopefloor', 'scopefloor worker') ORDER BY random() LIMIT 1`);
}
