/**
 * 10,000 orgs × 10 users × 20 passages beside the same with 10 orgs: entering, strict recall of a user,
 * subtree recall of one org, and provisioning from minting a key to its first recall.
 */
import { addCrowd, crowdQuery } from "./crowd.ts";
import { quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";
import { benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";
import { timeEach } from "./store.ts";
import { seeded } from "./text.ts";

type Figures = Record<"enter" | "strict" | "subtree" | "provisioning", { p50: number; p95: number }>;

async function measure(orgs: number): Promise<Figures> {
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  const sql = database.connect();
  try {
    const manage = clientOf(service.url, service.managementKey);
    await manage("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    await addCrowd(sql, { orgs, users: 10, passages: 20, words: 8, prefix: "org" });
    const random = seeded(7700);
    const call = clientOf(service.url, await mintAgent(service, "org", { org: "org-3" }));
    const queries = Array.from({ length: 100 }, () => crowdQuery(random, 4));
    const ask = (more: object) => (i: number) => call("POST", "/default/query", { query: queries[i % 100], ...more });
    await timeEach(200, ask({ lens: "org/org-3/user/user-4" }));
    const figures: Record<string, number[]> = {
      enter: await timeEach(400, () => call("GET", "/default/me")),
      strict: await timeEach(400, ask({ lens: "org/org-3/user/user-4" })),
      subtree: await timeEach(400, ask({ scopeView: "subtree" })),
      provisioning: await timeEach(100, async (i) => {
        const org = { org: `new-${i}-${Math.floor(random() * 1e9)}` };
        await clientOf(service.url, await mintAgent(service, org.org, org))("POST", "/default/query", {
          query: "first question",
        });
      }),
    };
    return Object.fromEntries(
      Object.entries(figures).map(([name, taken]) => [name, { p50: quantile(taken, 0.5), p95: quantile(taken, 0.95) }]),
    ) as Figures;
  } finally {
    await sql.end();
    await service.stop();
    await folder.remove();
    await database.drop();
  }
}

export default async function tenants(): Promise<Record<string, unknown>> {
  const orgs = numberOption("orgs", 10_000);
  const few = await measure(10);
  const many = await measure(orgs);
  const names = ["enter", "strict", "subtree", "provisioning"] as const;
  process.stdout.write(
    table([
      ["", "10 orgs p50 ms", "p95 ms", `${orgs} orgs p50 ms`, "p95 ms", "ratio of p50", "aim"],
      ...names.map((name) => [
        name,
        few[name].p50,
        few[name].p95,
        many[name].p50,
        many[name].p95,
        many[name].p50 / few[name].p50,
        name === "enter" || name === "strict" ? 1.2 : "",
      ]),
    ]),
  );
  return Object.fromEntries(
    names.map((name) => [
      name,
      { few: round(few[name].p50), many: round(many[name].p50), ratio: round(many[name].p50 / few[name].p50) },
    ]),
  );
}
