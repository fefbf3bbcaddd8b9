import * as fc from "fast-check";
import { expect, test } from "vitest";
import { onPostgres } from "../harness/database.ts";
import { startService, type TestService } from "../harness/service.ts";
import { COMMANDS, type CommandName, Model, type ModelOptions, runModel } from "../model/model.ts";
import { Random } from "../model/random.ts";

/** Given by `npm run soak -- model`: so many commands in long runs. */
const LONG_COMMANDS = Number(process.env.SCOPEFLOOR_MODEL_COMMANDS ?? 0);
const SEED = Number(process.env.SCOPEFLOOR_SEED ?? 3);

/** Commands of one long run; then the next seed, on a database of its own: keys and traces only ever become more. */
const COMMANDS_PER_RUN = 50_000;
/** The short runs, each on a database of its own. */
const RUNS = 2;
const MAX_COMMANDS = 120;

/** Gives what the model needs of a service that it may restart, and stops it at the end. */
async function withService<T>(worker: object, use: (options: ModelOptions) => Promise<T>): Promise<T> {
  let service: TestService = await startService({ worker });
  try {
    return await use({
      service: () => service,
      restart: async () => {
        // Once more where a connection that was just killed is the first to be used: it keeps the pool.
        service = await service.restart().catch(() => service.restart());
      },
      killConnection: onPostgres() ? () => killOne(service) : undefined,
    });
  } finally {
    await service.stop();
  }
}

/** A command with the seed of its choices, which stay the same when others before it are left out. */
class Command implements fc.AsyncCommand<object, Model> {
  readonly #name: CommandName;
  readonly #seed: number;

  constructor(name: CommandName, seed: number) {
    this.#name = name;
    this.#seed = seed;
  }

  check(): boolean {
    return true;
  }

  async run(_: object, model: Model): Promise<void> {
    await model.run(this.#name, new Random(this.#seed));
  }

  toString(): string {
    return `${this.#name} (${this.#seed})`;
  }
}

/** Texts are drawn from the seed: with smaller ones two commands would store the same. */
const seeds = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));
const commands = fc.commands(
  [
    fc.oneof(
      ...Object.entries(COMMANDS).map(([name, weight]) => ({
        weight,
        arbitrary: seeds.map((seed) => new Command(name as CommandName, seed)),
      })),
    ),
  ],
  { maxCommands: MAX_COMMANDS, size: "max" },
);

test.runIf(LONG_COMMANDS === 0)(
  "random commands do what the scope algebra says, and nothing else; a difference is told in as few as show it",
  { timeout: 0 },
  async () => {
    let recalled = 0;
    const run = fc.asyncProperty(commands, (sequence) =>
      withService({}, async (options) => {
        const model = await Model.open(options);
        await fc.asyncModelRun(() => ({ model: {}, real: model }), sequence);
        recalled += model.counts["rows recalled"] ?? 0;
      }),
    );
    await fc.assert(run, {
      seed: SEED,
      numRuns: RUNS,
      interruptAfterTimeLimit: 300_000,
      // Of a mutant it is enough that it is found.
      endOnFailure: process.env.SCOPEFLOOR_MUTANT !== undefined,
    });
    // Runs in which nothing was found would prove nothing.
    expect(recalled).toBeGreaterThan(10 * RUNS);
  },
);

const longRuns = Array.from({ length: Math.ceil(LONG_COMMANDS / COMMANDS_PER_RUN) }, (_, n) => ({
  seed: SEED + n,
  commands: Math.min(COMMANDS_PER_RUN, LONG_COMMANDS - n * COMMANDS_PER_RUN),
}));

test.each(longRuns)(
  "$commands random commands do what the scope algebra says, and nothing else (seed $seed)",
  { timeout: 0 },
  ({ seed, commands }) =>
    withService({ pollMs: 250 }, async (options) => {
      const counts = await runModel({ ...options, seed, commands });
      expect(counts["rows recalled"]).toBeGreaterThan(commands / 10);
      process.stdout.write(`seed ${seed}, ${commands} commands, no difference: ${JSON.stringify(counts)}\n`);
    }),
);

async function killOne(service: TestService): Promise<void> {
  await service.database.sql(`
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name IN ('scopefloor', 'scopefloor worker') ORDER BY random() LIMIT 1`);
}
