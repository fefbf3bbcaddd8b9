/**
 * Erasing a scope that holds nothing, over HTTP by a tenant's agent, beside no traces and beside two
 * million traces of other tenants (`--foreign=`).
 */
import { quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";
import { benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";

const ROUNDS = 25;

export default async function erase(): Promise<Record<string, unknown>> {
  const traces = numberOption("foreign", 2_000_000);
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  const sql = database.connect();
  try {
    const acme = clientOf(service.url, await mintAgent(service, "acme", { org: "acme" }));
    let scope = 0;
    const measure = async () => {
      const taken: number[] = [];
      for (let i = 0; i < ROUNDS; i++) {
        const began = performance.now();
        await acme("POST", "/default/scopes/forget", { path: `org/acme/user/nobody${scope++}` });
        taken.push(performance.now() - began);
      }
      return quantile(taken, 0.5);
    };
    await measure();
    const alone = await measure();
    await sql.unsafe(`SET session_replication_role = replica;
      INSERT INTO scopefloor.tenant (id, root) SELECT n, jsonb_build_object('org', 'foreign' || n) FROM generate_series(1000, 2999) n;
      INSERT INTO scopefloor.scope (id, tenant_id, tags) SELECT n, n, jsonb_build_object('org', 'foreign' || n) FROM generate_series(1000, 2999) n;
      INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, query, duration_ms, status)
      SELECT gen_random_uuid(), 'retrieval', 'query', 1000 + n % 2000, 1000 + n % 2000, jsonb_build_object('org', 'foreign' || 1000 + n % 2000), gen_random_uuid(), 'agent', 'asked', 1, 'ok'
      FROM generate_series(1, ${traces}) n;
      RESET session_replication_role; ANALYZE`);
    await measure();
    const beside = await measure();
    process.stdout.write(
      table([
        ["erasing an empty scope", "p50 ms"],
        ["beside no traces of others", alone],
        [`beside ${traces} of them`, beside],
      ]),
    );
    process.stdout.write(`\n${round(beside / alone)} × as long (aim: at most 1.5)\n`);
    return { aloneMs: round(alone), besideMs: round(beside), ratio: round(beside / alone), traces };
  } finally {
    await sql.end();
    await service.stop();
    await database.drop();
    await folder.remove();
  }
}
