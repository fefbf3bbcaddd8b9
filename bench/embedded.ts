/** Recall over HTTP on the embedded database, at 1,000 and 10,000 passages: just written, and after housekeeping. */
import { setTimeout } from "node:timers/promises";
import { quantile, round, table } from "./measure.ts";
import { clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";
import { timeEach } from "./store.ts";
import { randomText, seeded } from "./text.ts";

/** A round of the worker's housekeeping, which vacuums, and some. */
const HOUSEKEEPING_MS = 63_000;

export default async function embedded(): Promise<Record<string, unknown>> {
  const folder = await temporaryFolder();
  const service = await startBuilt({ SCOPEFLOOR_DATA_DIR: folder.path });
  try {
    await clientOf(service.url, service.managementKey)("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    const random = seeded(7700);
    const call = clientOf(service.url, await mintAgent(service, "tenant", { org: "tenant" }));
    const queries = Array.from({ length: 50 }, () => randomText(random, 5));
    const lines: (string | number)[][] = [["passages", "just written p50 ms", "p95 ms", "p50 ms", "p95 ms"]];
    const recall = () => timeEach(100, (i) => call("POST", "/default/query", { query: queries[i % 50] }));
    const result: Record<string, unknown> = {};
    let stored = 0;
    for (const n of [1_000, 10_000]) {
      for (; stored < n; stored += 500) {
        const messages = Array.from({ length: 500 }, () => ({ role: "user", content: randomText(random, 30) }));
        await call("POST", "/default/facts/batch", { messages });
      }
      const fresh = await recall();
      await setTimeout(HOUSEKEEPING_MS);
      const taken = await recall();
      lines.push([n, ...[fresh, taken].flatMap((times) => [quantile(times, 0.5), quantile(times, 0.95)])]);
      result[`p50At${n}`] = round(quantile(taken, 0.5));
      result[`p50JustWrittenAt${n}`] = round(quantile(fresh, 0.5));
    }
    process.stdout.write(`${table(lines)}\np50 at 10,000 passages: aim 60 ms\n`);
    return result;
  } finally {
    await service.stop();
    await folder.remove();
  }
}
