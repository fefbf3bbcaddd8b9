import { afterAll, beforeAll, expect, test } from "vitest";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { startService, type TestService } from "../harness/service.ts";
import { runPair, STEPS, type World } from "../model/pair.ts";
import { Random } from "../model/random.ts";

/** 100 and more: `npm run soak -- noninterference`. */
const pairs = Number(process.env.SCOPEFLOOR_PAIRS ?? 1);
const seed = Number(process.env.SCOPEFLOOR_SEED ?? 1);

/** From here on fewer pairs upload: the parsers' processes would take half of the time. */
const MANY = 200;

let provider: EmbeddingProvider;
let services: readonly [TestService, TestService];

beforeAll(async () => {
  const worker = pairs > MANY ? { pollMs: 250 } : {};
  provider = await startProvider();
  const models = {
    ...provider.models,
    embeddings: "local",
    offered: [provider.models.embeddings],
    credentialKeys: [Buffer.alloc(32, 1)],
  };
  services = await Promise.all([startService({ worker, models }), startService({ worker, models })]);
});
afterAll(async () => {
  await Promise.all(services.map((service) => service.stop()));
  await provider.stop();
});

test(`no tenant's answers depend on who else is there: ${pairs} pairs of runs (threats 2, 3, 7, 13)`, {
  timeout: 0,
}, async () => {
  const others = [new Random(seed), new Random(seed + 1)] as const;
  let steps = 0;
  for (let pair = 0; pair < pairs; pair++) {
    // By turns each is the busy one, so that both fill up, and differently.
    const world = (at: 0 | 1): World => ({
      service: services[at],
      others: others[at],
      traffic: pair % 2 === at ? 2 : 0,
    });
    steps += await runPair(seed * 100_000 + pair, [world(0), world(1)], pair % (pair < MANY ? 8 : 64) === 0);
    if ((pair + 1) % 500 === 0) process.stdout.write(`${pair + 1} pairs, no difference\n`);
  }
  expect(steps).toBe(pairs * STEPS);
});
