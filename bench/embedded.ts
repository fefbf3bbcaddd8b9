/** Recall over HTTP on the embedded database, at 1,000 and 10,000 passages. */
import { quantile, round, table } from "./measure.ts";
import { clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";
import { timeEach } from "./store.ts";
import { randomText, seeded } from "./text.ts";

export default async function embedded(): Promise<Record<string, unknown>> {
  const folder = await temporaryFolder();
  const service = await startBuilt({ SCOPEFLOOR_DATA_DIR: folder.path });
  try {
    await clientOf(service.url, service.managementKey)("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    const random = seeded(7700);
    const call = clientOf(service.url, await mintAgent(service, "tenant", { org: "tenant" }));
    const queries = Array.from({ length: 50 }, () => randomText(random, 5));
    const lines: (string | number)[][] = [["passages", "p50 ms", "p95 ms"]];
    const result: Record<string, unknown> = {};
    let stored = 0;
    for (const n of [1_000, 10_000]) {
      for (; stored < n; stored += 500) {
        const messages = Array.from({ length: 500 }, () => ({ role: "user", content: randomText(random, 30) }));
        await call("POST", "/default/facts/batch", { messages });
      }
      const taken = await timeEach(100, (i) => call("POST", "/default/query", { query: queries[i % 50] }));
      lines.push([n, quantile(taken, 0.5), quantile(taken, 0.95)]);
      result[`p50At${n}`] = round(quantile(taken, 0.5));
    }
    process.stdout.write(`${table(lines)}\np50 at 10,000 passages: aim 60 ms\n`);
    return result;
  } finally {
    await service.stop();
    await folder.remove();
  }
}
