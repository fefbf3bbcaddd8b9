/**
 * Storing turns in batches of 500: passages with their terms, counters and traces under both locks, beside
 * LangChain's PGVectorStore.addVectors into a table with a GIN index on the words. Embedding is timed apart.
 */
import { modelRegistry } from "../src/db/access/model-registry.ts";
import { createLog } from "../src/log.ts";
import { prepareTurns, storeTurns } from "../src/memory/turns.ts";
import { UNMETERED } from "../src/metering/model-call.ts";
import { Models } from "../src/models/models.ts";
import { LOCAL_MODELS } from "../src/models/settings.ts";
import { round, table } from "./measure.ts";
import { openPeer } from "./peer-store.ts";
import { benchStore } from "./store.ts";
import { randomText, seeded } from "./text.ts";

const BATCH = 500;
const BATCHES = 20;

export default async function ingest(): Promise<Record<string, unknown>> {
  const store = await benchStore();
  const { store: theirs, close } = await openPeer(store.url, "peer");
  try {
    await store.sql`CREATE INDEX ON public.peer USING gin (to_tsvector('english', text))`;
    const random = seeded(7700);
    const models = await Models.open(modelRegistry(store.database), LOCAL_MODELS, createLog("warn"));
    const batches = Array.from({ length: BATCHES }, () => Array.from({ length: BATCH }, () => randomText(random, 30)));
    let embedding = 0;
    let ours = 0;
    let peer = 0;
    // Turn about, so that both see the same machine.
    for (const texts of batches) {
      let began = performance.now();
      const prepared = await prepareTurns(
        models.in(),
        UNMETERED,
        texts.map((content) => ({ role: "user", content, labels: [], category: null, observedAt: undefined })),
      );
      embedding += performance.now() - began;
      began = performance.now();
      await store.store("tenant", async (tx) => {
        await storeTurns(tx, prepared, undefined);
      });
      ours += performance.now() - began;
      const vectors = (prepared.embedded?.vectors ?? []).map((vector) => JSON.parse(vector ?? "[]") as number[]);
      began = performance.now();
      await theirs.addVectors(
        vectors,
        texts.map((pageContent) => ({ pageContent, metadata: { org: "tenant" } })),
      );
      peer += performance.now() - began;
    }
    const n = BATCH * BATCHES;
    const rate = (ms: number) => (n / ms) * 1000;
    process.stdout.write(
      table([
        ["", "passages/s"],
        ["scopefloor: passages with their terms, counters, trace", rate(ours)],
        ["PGVectorStore.addVectors with a GIN index", rate(peer)],
        ["the built-in embedder and token counting, apart", rate(embedding)],
      ]),
    );
    process.stdout.write(`\n${round(peer / ours)} × PGVectorStore's rate (aim: at least 1)\n`);
    return {
      passagesPerSecond: round(rate(ours), 0),
      timesPeer: round(peer / ours),
      embeddingPerSecond: round(rate(embedding), 0),
    };
  } finally {
    await close();
    await store.close();
  }
}
