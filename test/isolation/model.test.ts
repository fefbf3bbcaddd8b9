import { expect, test } from "vitest";
import { onPostgres } from "../harness/database.ts";
import { startService, type TestService } from "../harness/service.ts";
import { runModel } from "../model/model.ts";

/** A seed that has found a difference stays here. */
const SEEDS = [3];
/** 3,000 and more: `npm run soak -- model`. */
const commands = Number(process.env.SCOPEFLOOR_MODEL_COMMANDS ?? 200);
const isLong = process.env.SCOPEFLOOR_MODEL_COMMANDS !== undefined;
const seed = process.env.SCOPEFLOOR_SEED;

/** Then the next seed, on a database of its own: keys and traces only ever become more. */
const AT_ONCE = 50_000;

const runs =
  seed === undefined
    ? SEEDS.map((seed) => ({ seed, commands }))
    : Array.from({ length: Math.ceil(commands / AT_ONCE) }, (_, n) => ({
        seed: Number(seed) + n,
        commands: Math.min(AT_ONCE, commands - n * AT_ONCE),
      }));

test.each(runs)(
  "$commands random commands do what the scope algebra says, and nothing else (seed $seed)",
  {
    timeout: 0,
  },
  async ({ seed, commands }) => {
    let service: TestService = await startService({ worker: isLong ? { pollMs: 250 } : {} });
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
      if (isLong)
        process.stdout.write(`seed ${seed}, ${commands} commands, no difference: ${JSON.stringify(counts)}\n`);
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
