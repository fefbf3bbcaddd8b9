/** A quiet tenant's recall alone and while another sends through 32 connections as fast as it is answered. */
import { quantile, round, table } from "./measure.ts";
import { benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";
import { randomText, seeded } from "./text.ts";

const FLOOD = 32;
const SECONDS = 15;

export default async function neighbour(): Promise<Record<string, unknown>> {
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  try {
    await clientOf(service.url, service.managementKey)("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    const random = seeded(7700);
    const keys: string[] = [];
    for (const name of ["quiet", "loud"]) {
      const key = await mintAgent(service, name, { org: name });
      const call = clientOf(service.url, key);
      for (let i = 0; i < 2; i++) {
        const messages = Array.from({ length: 500 }, () => ({ role: "user", content: randomText(random, 30) }));
        await call("POST", "/default/facts/batch", { messages });
      }
      keys.push(key);
    }
    const queries = Array.from({ length: 200 }, () => randomText(random, 5));
    const ask = async (key: string, i: number) => {
      const answer = await fetch(`${service.url}/default/query`, {
        method: "POST",
        headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
        body: JSON.stringify({ query: queries[i % 200] }),
      });
      await answer.arrayBuffer();
      return answer.status;
    };
    /** The quiet tenant asks every 20 ms at most. */
    const quietly = async (seconds: number) => {
      const taken: number[] = [];
      const until = performance.now() + seconds * 1_000;
      for (let i = 0; performance.now() < until; i++) {
        const began = performance.now();
        const status = await ask(keys[0] ?? "", i);
        if (status !== 200) throw new Error(`the quiet tenant was answered ${status}`);
        taken.push(performance.now() - began);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return taken;
    };
    await quietly(3);
    const alone = await quietly(SECONDS);
    let isOver = false;
    const statuses: Record<string, number> = {};
    const flood = Array.from({ length: FLOOD }, async (_, worker) => {
      for (let i = worker; !isOver; i += FLOOD) {
        const status = await ask(keys[1] ?? "", i);
        statuses[status] = (statuses[status] ?? 0) + 1;
        if (status === 429) await new Promise((resolve) => setTimeout(resolve, 1_000));
      }
    });
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    const beside = await quietly(SECONDS);
    isOver = true;
    await Promise.all(flood);
    const ratio = quantile(beside, 0.95) / quantile(alone, 0.95);
    process.stdout.write(
      table([
        ["the quiet tenant", "requests", "p50 ms", "p95 ms"],
        ["alone", alone.length, quantile(alone, 0.5), quantile(alone, 0.95)],
        ["beside the flood", beside.length, quantile(beside, 0.5), quantile(beside, 0.95)],
      ]),
    );
    process.stdout.write(
      `\np95 ${round(ratio)} × (aim 2.5); the flood of ${FLOOD} was answered ${JSON.stringify(statuses)}\n`,
    );
    return {
      ratio: round(ratio),
      aloneP95: round(quantile(alone, 0.95)),
      besideP95: round(quantile(beside, 0.95)),
      flood: statuses,
    };
  } finally {
    await service.stop();
    await folder.remove();
    await database.drop();
  }
}
