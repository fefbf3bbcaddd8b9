/**
 * Making a tenant with keys, a budget, limits, retention and settings from a template, `--tenants=` times one after the
 * other; and a page of tenants, with what they use, beside those and `--foreign=` more.
 */
import { quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";
import { benchDatabase, clientOf, startBuilt, temporaryFolder } from "./service.ts";
import { timeEach } from "./store.ts";

const TEMPLATE = {
  keys: [
    { name: "agent", principal: "agent" },
    { name: "admin", principal: "management" },
  ],
  budgets: [{ period: "month", costLimitUsd: 25 }],
  limits: { requestsPerMinute: 600, storageBytes: 5_000_000_000 },
  retention: [{ kinds: ["turns"], olderThan: "P2Y", action: "erase" }],
  settings: { language: "auto", cacheSeconds: 600 },
};

export default async function provision(): Promise<Record<string, unknown>> {
  const tenants = numberOption("tenants", 10_000);
  const foreign = numberOption("foreign", 100_000);
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  const sql = database.connect();
  try {
    const call = clientOf(service.url, service.managementKey);
    const at = "/contexts/default";
    await call("PUT", `${at}/templates/basic`, TEMPLATE);
    let n = 0;
    const make = () => call("POST", `${at}/tenants`, { scope: { org: `made-${n++}` }, template: "basic" });
    const startedAt = performance.now();
    const made = await timeEach(tenants, make);
    const seconds = (performance.now() - startedAt) / 1_000;
    const page = (number: number) => call("GET", `${at}/tenants?pageSize=100&page=${number}`);
    const few = await timeEach(50, (i) => page(i % 10));
    await sql.unsafe(`SET session_replication_role = replica;
      INSERT INTO scopefloor.tenant (id, root) SELECT 1000000 + n, jsonb_build_object('org', 'foreign' || n) FROM generate_series(1, ${foreign}) n;
      INSERT INTO scopefloor.scope (id, tenant_id, tags) SELECT 1000000 + n, 1000000 + n, jsonb_build_object('org', 'foreign' || n) FROM generate_series(1, ${foreign}) n;
      INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, passages, tokens, lexemes, bytes) SELECT 1000000 + n, 1000000 + n, 0, 10, 100, 100, 1000 FROM generate_series(1, ${foreign}) n;
      RESET session_replication_role; ANALYZE`);
    await timeEach(5, page);
    const many = await timeEach(50, (i) => page(i % 10));
    const last = await timeEach(20, () => page(Math.floor((tenants + foreign) / 100) - 1));
    process.stdout.write(
      table([
        ["", "p50 ms", "p95 ms", "aim"],
        [`making one of ${tenants}`, quantile(made, 0.5), quantile(made, 0.95), 60],
        ["the last thousand of them", quantile(made.slice(-1_000), 0.5), quantile(made.slice(-1_000), 0.95), ""],
        [`100 of ${tenants}, with what they use`, quantile(few, 0.5), quantile(few, 0.95), ""],
        [`beside ${foreign} more`, quantile(many, 0.5), quantile(many, 0.95), 100],
        ["the last page", quantile(last, 0.5), quantile(last, 0.95), ""],
      ]),
    );
    process.stdout.write(`\n${tenants} tenants in ${round(seconds)} s, one after the other\n`);
    return {
      tenants,
      foreign,
      makeMs: round(quantile(made, 0.5)),
      lastThousandMs: round(quantile(made.slice(-1_000), 0.5)),
      listMs: round(quantile(few, 0.5)),
      listBesideMs: round(quantile(many, 0.5)),
      lastPageMs: round(quantile(last, 0.5)),
      seconds: round(seconds),
    };
  } finally {
    await sql.end();
    await service.stop();
    await database.drop();
    await folder.remove();
  }
}
