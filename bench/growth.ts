/** One tenant of 1,000 passages while all others together grow from 10,000 to 1,000,000: its recall over HTTP. */
import { addCrowd } from "./crowd.ts";
import { quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";
import { benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";
import { timeEach } from "./store.ts";
import { randomText, seeded } from "./text.ts";

export default async function growth(): Promise<Record<string, unknown>> {
  const most = numberOption("most", 1_000_000);
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  const sql = database.connect();
  try {
    await clientOf(service.url, service.managementKey)("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    const call = clientOf(service.url, await mintAgent(service, "the tenant", { org: "the-tenant" }));
    const random = seeded(7700);
    for (let i = 0; i < 2; i++) {
      const messages = Array.from({ length: 500 }, () => ({ role: "user", content: randomText(random, 30) }));
      await call("POST", "/default/facts/batch", { messages });
    }
    const queries = Array.from({ length: 100 }, () => randomText(random, 5));
    const rows: { others: number; p50: number; p95: number }[] = [];
    let others = 0;
    for (const step of [10_000, 100_000, most]) {
      await addCrowd(sql, { orgs: (step - others) / 100, users: 0, passages: 100, words: 8, prefix: `others-${step}` });
      others = step;
      await timeEach(100, (i) => call("POST", "/default/query", { query: queries[i % 100] }));
      const taken = await timeEach(400, (i) => call("POST", "/default/query", { query: queries[i % 100] }));
      rows.push({ others, p50: quantile(taken, 0.5), p95: quantile(taken, 0.95) });
    }
    const ratio = (rows.at(-1)?.p50 ?? 0) / (rows[0]?.p50 ?? 1);
    process.stdout.write(
      table([["foreign passages", "p50 ms", "p95 ms"], ...rows.map(({ others, p50, p95 }) => [others, p50, p95])]),
    );
    process.stdout.write(`\np50 at ${most} foreign passages ${round(ratio)} × that at 10000 (aim 1.15)\n`);
    return { ratio: round(ratio), rows: rows.map((row) => ({ ...row, p50: round(row.p50), p95: round(row.p95) })) };
  } finally {
    await sql.end();
    await service.stop();
    await folder.remove();
    await database.drop();
  }
}
