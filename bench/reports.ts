/**
 * The reporting views, the usage route's function and a bill over 200,000 and 2,000,000 traces of 30 days: 1,000
 * orgs of 10 scopes. Each report is of one org or of all, as the reporting role runs it. Then how fast new traces
 * are added to the sums.
 */
import { sealAudit } from "../src/jobs/housekeeping.ts";
import { quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";
import { type BenchStore, benchStore, timeEach } from "./store.ts";

const ORGS = 1_000;
const SCOPES_PER_ORG = 10;
const SIZES = [200_000, 2_000_000];
const ROUNDS = 9;

const ORG = `scope @> '{"org": "org-500"}'`;
const SINCE = "now() - interval '30 days'";
const REPORTS: readonly (readonly [string, string])[] = [
  [
    "traces: p95 by tier, one org",
    `SELECT tier, percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FROM traces WHERE ${ORG} AND created_at > ${SINCE} GROUP BY 1`,
  ],
  [
    "usage_by_hour: cost by tier, one org",
    `SELECT tier, sum(calls), sum(cost_usd) FROM usage_by_hour WHERE ${ORG} AND hour > ${SINCE} GROUP BY 1`,
  ],
  [
    "usage_by_day, one org",
    `SELECT day, sum(calls), sum(cost_usd) FROM usage_by_day WHERE ${ORG} AND day > current_date - 30 GROUP BY 1`,
  ],
  ["usage_by_scope, one org", `SELECT * FROM usage_by_scope WHERE ${ORG}`],
  [
    "storage_by_day, one org",
    `SELECT day, sum(bytes) FROM storage_by_day WHERE ${ORG} AND day > current_date - 30 GROUP BY 1`,
  ],
  ["denials, one org", `SELECT reason, count(*) FROM denials WHERE ${ORG} AND created_at > ${SINCE} GROUP BY 1`],
  ["key_names, one org", `SELECT * FROM key_names WHERE ${ORG}`],
  ["budgets, one org", `SELECT * FROM budgets WHERE ${ORG}`],
  ["receipts, one org", `SELECT * FROM receipts WHERE ${ORG}`],
  [
    "usage_by_org: top tenants, all orgs",
    `SELECT org, sum(cost_usd), sum(total_tokens) FROM usage_by_org WHERE day > current_date - 30 GROUP BY 1 ORDER BY 2 DESC LIMIT 20`,
  ],
  [
    "decision_trace: the README's report, all orgs",
    `SELECT scope->>'org', sum(total_tokens) FROM decision_trace WHERE created_at > ${SINCE} GROUP BY 1 ORDER BY 2 DESC`,
  ],
];

export default async function reports(): Promise<Record<string, unknown>> {
  const store = await benchStore();
  const { sql } = store;
  const sizes = SIZES.map((size) => Math.round(size * numberOption("share", 1)));
  const results: Record<string, number[]> = {};
  try {
    await sql`
      WITH orgs AS (INSERT INTO scopefloor.tenant (root) SELECT jsonb_build_object('org', 'org-' || n) FROM generate_series(1, ${ORGS}::int) n RETURNING id, root)
      INSERT INTO scopefloor.scope (tenant_id, tags)
      SELECT o.id, CASE u WHEN 0 THEN o.root ELSE o.root || jsonb_build_object('user', 'u' || u) END FROM orgs o, generate_series(0, ${SCOPES_PER_ORG - 1}::int) u`;
    await sql`
      INSERT INTO scopefloor.storage_day (tenant_id, scope_id, day, bytes, passages, cost_usd)
      SELECT s.tenant_id, s.id, current_date - d, 1000000 + d, 1000, 0.00001 FROM scopefloor.scope s, generate_series(0, 29) d WHERE s.id <> 0`;
    await sql`
      INSERT INTO scopefloor.budget (tenant_id, scope_id, id, period, timezone, token_limit, mode, set_by, api_key_id)
      SELECT s.tenant_id, s.id, gen_random_uuid(), 'month', 'UTC', 1000000, 'soft', '{}', gen_random_uuid() FROM scopefloor.scope s WHERE s.id <> 0`;
    let have = 0;
    for (const size of sizes) {
      await addTraces(store, size - have);
      have = size;
      await sql`VACUUM ANALYZE`;
      for (const [name, statement] of REPORTS) {
        const times = await timeEach(ROUNDS, () => asReporter(store, statement));
        results[name] = [...(results[name] ?? []), quantile(times, 0.5)];
      }
      for (const [name, call] of CALLS) {
        const times = await timeEach(ROUNDS, () => asUsageReader(store, call));
        results[name] = [...(results[name] ?? []), quantile(times, 0.5)];
      }
    }
    const rows = Object.entries(results).map(([name, [small = 0, large = 0]]) => [
      name,
      round(small, 1),
      round(large, 1),
      round(large / small),
    ]);
    const header = ["p50 ms", ...sizes.map((size) => `${size.toLocaleString("en")} traces`), "ratio"];
    process.stdout.write(table([header, ...rows]));
    const [sums] = await sql`SELECT count(*)::int AS n FROM scopefloor.usage_hour`;
    const perSecond = await sealing(store);
    process.stdout.write(
      `\n${sums?.n} rows of sums; new traces are sealed and added to them at ${round(perSecond, 0)}/s\n`,
    );
    return {
      reports: Object.fromEntries(
        Object.entries(results).map(([name, times]) => [name, times.map((ms) => round(ms, 1))]),
      ),
      sumRows: sums?.n,
      addedPerSecond: round(perSecond, 0),
    };
  } finally {
    await store.close();
  }
}

const CALLS: readonly (readonly [string, { target: object; statement: string }])[] = [
  [
    "usage of one org",
    { target: { org: "org-500" }, statement: "SELECT * FROM scopefloor.usage(now() - interval '30 days', NULL, NULL)" },
  ],
  [
    "usage of one org, by day",
    {
      target: { org: "org-500" },
      statement: "SELECT * FROM scopefloor.usage(now() - interval '30 days', NULL, 'day')",
    },
  ],
  [
    "usage of all, by org",
    { target: {}, statement: "SELECT * FROM scopefloor.usage(now() - interval '30 days', NULL, 'org')" },
  ],
  [
    "bill of one org",
    {
      target: { org: "org-500" },
      statement: "SELECT * FROM scopefloor.bill(date_trunc('month', now()) - interval '1 month', now(), NULL)",
    },
  ],
];

/** Traces without their triggers, spread over 30 days, and their sums as the audit chain would have made them. */
async function addTraces({ sql }: BenchStore, n: number): Promise<void> {
  await sql`SELECT scopefloor.ensure_trace_partition((current_date - interval '1 month')::date)`;
  await sql`SET session_replication_role = replica`;
  await sql`
    INSERT INTO scopefloor.decision_trace (id, created_at, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, tier, provider, model, embedding_tokens, cost_usd, duration_ms, status)
    SELECT gen_random_uuid(), now() - random() * interval '30 days', 'retrieval', CASE WHEN n % 3 = 0 THEN 'facts' ELSE 'query' END, s.tenant_id, s.id, s.tags,
           md5(s.id::text)::uuid, 'agent', CASE WHEN n % 3 = 0 THEN NULL WHEN n % 5 = 0 THEN 'cache' ELSE 'hybrid' END, 'openai', 'small', 20, 0.0000004, 5 + random() * 30, 'ok'
    FROM generate_series(1, ${n}::int) n
    JOIN (SELECT *, row_number() OVER (ORDER BY random()) AS place FROM scopefloor.scope WHERE id <> 0) s ON s.place = 1 + n % ${ORGS * SCOPES_PER_ORG}::int`;
  await sql`SET session_replication_role = origin`;
  await sql`DELETE FROM scopefloor.usage_hour`;
  await sql`
    INSERT INTO scopefloor.usage_hour (tenant_id, scope_id, hour, api_key_id, operation, provider, model, tier, status, calls, embedding_tokens, cost_usd, duration_ms, last_at)
    SELECT d.tenant_id, d.scope_id, date_trunc('hour', d.created_at, 'UTC'), d.api_key_id, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status,
           count(*), sum(d.embedding_tokens), coalesce(sum(d.cost_usd), 0), sum(d.duration_ms), max(d.created_at)
    FROM scopefloor.decision_trace d GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9`;
  await sql`DELETE FROM scopefloor.usage_day`;
  await sql`
    INSERT INTO scopefloor.usage_day (tenant_id, day, operation, provider, model, tier, status, calls, embedding_tokens, cost_usd, duration_ms)
    SELECT u.tenant_id, (u.hour AT TIME ZONE 'UTC')::date, u.operation, u.provider, u.model, u.tier, u.status, sum(u.calls), sum(u.embedding_tokens), sum(u.cost_usd), sum(u.duration_ms)
    FROM scopefloor.usage_hour u GROUP BY 1, 2, 3, 4, 5, 6, 7`;
}

async function asReporter({ sql }: BenchStore, statement: string): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`SET LOCAL ROLE scopefloor_report`;
    await tx`SET LOCAL search_path = public, scopefloor`;
    await tx.unsafe(statement);
  });
}

/** With a ticket as enter would leave it. */
async function asUsageReader(
  { sql }: BenchStore,
  { target, statement }: { target: object; statement: string },
): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`SELECT scopefloor.issue_ticket(${sql.json({ verb: "usage:read", floor: {}, target } as never)})`;
    await tx.unsafe(statement);
  });
}

/** New traces, with their entries of the chain, a second. */
async function sealing(store: BenchStore): Promise<number> {
  const n = 20_000;
  await store.sql`
    INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, tier, duration_ms, status)
    SELECT gen_random_uuid(), 'retrieval', 'query', s.tenant_id, s.id, s.tags, md5(s.id::text)::uuid, 'agent', 'hybrid', 5, 'ok'
    FROM generate_series(1, ${n}::int) n JOIN (SELECT *, row_number() OVER () AS place FROM scopefloor.scope WHERE id <> 0) s ON s.place = 1 + n % ${ORGS * SCOPES_PER_ORG}::int`;
  const began = performance.now();
  await sealAudit(store.database);
  return (n / (performance.now() - began)) * 1_000;
}
