import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { ofCaller } from "./list.ts";

interface Group {
  readonly kind: string;
  readonly operation: string;
  readonly tier: string | null;
  readonly calls: number;
  readonly tokens: number;
  readonly ms: number;
  readonly saved: number;
  readonly candidates: number;
  readonly mostCandidates: number;
  readonly since: string;
}

const sum = (groups: readonly Group[], of: (group: Group) => number) =>
  groups.reduce((total, group) => total + of(group), 0);

function countBy(groups: readonly Group[], key: (group: Group) => string | null): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const group of groups) {
    const name = key(group);
    if (name !== null) counts[name] = (counts[name] ?? 0) + group.calls;
  }
  return counts;
}

const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);

/** Sums over the traces that a list of them shows, and over the facts that are visible. */
export async function traceStats(tx: ScopedTransaction) {
  const groups = await tx.rows<Group>(sql`
    SELECT d.kind, d.operation, d.tier, count(*)::int AS calls, sum(d.total_tokens)::float8 AS tokens, sum(d.duration_ms)::float8 AS ms,
           sum(d.saved_tokens)::float8 AS saved, sum(coalesce(d.candidates, 0))::float8 AS candidates, max(coalesce(d.candidates, 0))::int AS "mostCandidates",
           min(d.created_at) AS since
    FROM ${tx.read("decision_trace", "d")} WHERE ${ofCaller(tx)} GROUP BY d.kind, d.operation, d.tier ORDER BY d.kind, d.operation, d.tier`);
  const total = sum(groups, ({ calls }) => calls);
  const recalls = groups.filter(({ tier }) => tier !== null);
  const byTier = countBy(recalls, ({ tier }) => tier);
  const { direct = 0, cache = 0, hybrid = 0, full_context: fullContext = 0 } = byTier;
  const asked = cache + hybrid + fullContext;
  const averageLatencyMs = share(
    sum(groups, ({ ms }) => ms),
    total,
  );
  const first = groups.reduce((oldest, { since }) => (since < oldest ? since : oldest), new Date().toISOString());
  return {
    total,
    byOperation: countBy(groups, ({ operation }) => operation),
    byTier,
    totalTokens: sum(groups, ({ tokens }) => tokens),
    averageLatencyMs: total === 0 ? null : averageLatencyMs,
    /** Of the recalls below the direct tier: how many the cache answered, and what they did not spend again. */
    cache: {
      hits: cache,
      hitRate: asked === 0 ? null : cache / asked,
      savedTokens: sum(groups, ({ saved }) => saved),
    },
    windowHours: Math.ceil((Date.now() - Date.parse(first)) / 3_600_000),
    totalQueries: sum(recalls, ({ calls }) => calls),
    avgLatencyMs: averageLatencyMs,
    tierCounts: { direct, hybrid, fullContext },
    cacheHits: cache,
    cacheHitRate: share(cache, asked),
    retrieval: {
      traces: sum(recalls, ({ calls }) => calls),
      avgCandidateSet: share(
        sum(recalls, ({ candidates }) => candidates),
        sum(recalls, ({ calls }) => calls),
      ),
      maxCandidateSet: Math.max(0, ...recalls.map(({ mostCandidates }) => mostCandidates)),
    },
    responseTracesTotal: sum(
      groups.filter(({ kind }) => kind === "response"),
      ({ calls }) => calls,
    ),
    responseTracesCached: sum(
      groups.filter(({ kind, tier }) => kind === "response" && tier === "cache"),
      ({ calls }) => calls,
    ),
    ...(await factStats(tx)),
  };
}

/** How often what was known was superseded, and where a key of an entity has several values at once. */
async function factStats(tx: ScopedTransaction) {
  const [changed, several, kinds] = await Promise.all([
    tx.row<{ events: number; entities: number }>(sql`
      SELECT count(*)::int AS events, count(DISTINCT f.entity_id)::int AS entities FROM ${tx.read("attribute", "f")}
      WHERE f.superseded_by IS NOT NULL AND NOT f.is_confirmation AND f.expired_at IS NULL`),
    tx.row<{ n: number; keys: number }>(sql`
      SELECT count(*) FILTER (WHERE k.values > 1)::int AS n, count(*)::int AS keys FROM (
        SELECT count(DISTINCT f.value) AS values FROM ${tx.read("attribute", "f")}
        WHERE f.expired_at IS NULL AND NOT f.is_confirmation AND (f.valid_until > now()) IS NOT FALSE GROUP BY f.entity_id, f.key_hash) k`),
    tx.rows<{ kind: string; count: number }>(sql`
      SELECT p.kind, count(*)::int AS count FROM ${tx.read("passage", "p")} WHERE p.expired_at IS NULL GROUP BY p.kind ORDER BY p.kind`),
  ]);
  const { events = 0, entities = 0 } = changed ?? {};
  const { n: contradictions = 0, keys = 0 } = several ?? {};
  return {
    supersession: { supersessionEvents: events, entitiesChurned: entities, churnPerEntity: share(events, entities) },
    contradiction: { contradictions, contradictionRate: share(contradictions, keys), reconciliations: events },
    sourceKindDistribution: kinds,
  };
}
