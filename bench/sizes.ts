/**
 * Vector recall of tenants of four sizes in one table with ten times as many foreign rows: this
 * planner, under both locks, beside a naive HNSW index with a filter, the same with iterative scans,
 * and exact, as raw SQL on a copy of the rows. `--dimensions=1024`, `--largest=10000`, `--full`.
 */
import { reconcileGraphs } from "../src/jobs/vector-graphs.ts";
import { createLog } from "../src/log.ts";
import type { VectorText } from "../src/models/embedder.ts";
import { NO_FILTER } from "../src/recall/ranking/filter.ts";
import { rankByDistance } from "../src/recall/ranking/vector.ts";
import { quantile, round, table } from "./measure.ts";
import { hasOption, numberOption } from "./options.ts";
import { benchStore, clusteredVectors, timeEach, vectorText } from "./store.ts";
import { seeded } from "./text.ts";

const QUERIES = 60;
const K = 10;

interface Way {
  readonly recall: number;
  readonly p50: number;
  readonly p95: number;
}

export default async function sizes(): Promise<Record<string, unknown>> {
  const dimensions = numberOption("dimensions", 384);
  const largest = numberOption("largest", hasOption("full") ? 1_000_000 : 100_000);
  const counts = [100, 1_000, 10_000, 100_000, 1_000_000].filter((n) => n <= largest);
  const foreign = numberOption("foreign", counts.reduce((sum, n) => sum + n, 0) * 10);
  const random = seeded(7700);
  const vector = clusteredVectors(random, dimensions, 1_000);
  const store = await benchStore();
  const { sql } = store;
  try {
    const embedderId = await store.embedder(dimensions);
    const tenants: { name: string; n: number; id: number }[] = [];
    for (const n of counts) tenants.push({ name: `tenant-${n}`, n, id: await store.scope(`tenant-${n}`) });
    const others: number[] = [];
    for (let i = 0; i < 200; i++) others.push(await store.scope(`other-${i}`));
    const rows = function* () {
      for (const { n, id } of tenants) for (let i = 0; i < n; i++) yield { scopeId: id, embedderId, vector: vector() };
      for (let i = 0; i < foreign; i++) yield { scopeId: others[i % others.length] ?? 0, embedderId, vector: vector() };
    };
    await store.write(rows());
    await sql`VACUUM ANALYZE scopefloor.passage`;
    const log = createLog("warn");
    let began = performance.now();
    await reconcileGraphs(store.database, { least: numberOption("graph-from", 20_000), log, isStopped: () => false });
    const ownBuildS = (performance.now() - began) / 1000;

    await sql`CREATE SCHEMA raw`;
    await sql.unsafe(
      `CREATE TABLE raw.passage AS SELECT scope_id, id, embedding::halfvec(${dimensions}) AS embedding FROM scopefloor.passage`,
    );
    await sql`CREATE INDEX ON raw.passage (scope_id)`;
    await sql`SET maintenance_work_mem = '6GB'`;
    began = performance.now();
    await sql`CREATE INDEX shared_graph ON raw.passage USING hnsw (embedding halfvec_cosine_ops)`;
    const sharedBuildS = (performance.now() - began) / 1000;
    await sql`VACUUM ANALYZE raw.passage`;

    const queries = Array.from({ length: QUERIES }, () => vectorText(vector()) as VectorText);
    const lines: (string | number)[][] = [["tenant's rows", "way", "recall@10", "p50 ms", "p95 ms", "whole p50 ms"]];
    const result: Record<string, unknown> = {};
    let worst = 0;
    let leastRecall = 1;
    for (const { name, n, id } of tenants) {
      const truth: Set<string>[] = [];
      const ranked = (i: number) =>
        sql.unsafe(
          `SELECT id FROM raw.passage WHERE scope_id = $1 ORDER BY embedding <=> $2::halfvec(${dimensions}) LIMIT ${K}`,
          [id, queries[i] ?? ""],
          { prepare: true },
        );
      const settings = {
        exact: ["SET hnsw.iterative_scan = off"],
        naive: [
          "SET hnsw.iterative_scan = off",
          "SET enable_seqscan = off",
          "SET enable_bitmapscan = off",
          "SET enable_sort = off",
        ],
        iterative: [
          "SET hnsw.iterative_scan = strict_order",
          "SET hnsw.max_scan_tuples = 20000",
          "SET enable_seqscan = off",
          "SET enable_bitmapscan = off",
          "SET enable_sort = off",
        ],
      } as const;
      const ways: Record<string, Way> = {};
      for (const [way, statements] of Object.entries(settings)) {
        await sql`RESET ALL`;
        for (const statement of statements) await sql.unsafe(statement);
        // A plan for the query at hand: a graph is found by an ORDER BY over a constant.
        await sql`SET plan_cache_mode = force_custom_plan`;
        if (way === "exact")
          await sql`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'raw.shared_graph'::regclass`;
        const found: string[][] = [];
        const taken = await timeEach(QUERIES, async (i) => {
          found[i] = (await ranked(i)).map((row) => row.id as string);
        });
        if (way === "exact") {
          await sql`UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'raw.shared_graph'::regclass`;
          for (const ids of found) truth.push(new Set(ids));
        }
        ways[way] = wayOf(found, truth, taken);
      }
      const taken: number[] = [];
      const found: string[][] = [];
      const pool: number[] = [];
      let plan = "";
      const whole = await timeEach(QUERIES, (i) =>
        store.read(name, async (tx) => {
          const at = performance.now();
          const nearest = await rankByDistance(
            tx,
            { id: embedderId, dimensions, isDense: true },
            queries[i] as VectorText,
            NO_FILTER,
            K,
          );
          taken[i] = performance.now() - at;
          found[i] = nearest.ranking.map((candidate) => candidate.id);
          plan = nearest.plan;
        }),
      );
      await timeEach(QUERIES, (i) =>
        store.read(name, async (tx) => {
          const at = performance.now();
          await rankByDistance(
            tx,
            { id: embedderId, dimensions, isDense: true },
            queries[i] as VectorText,
            NO_FILTER,
            256,
          );
          pool[i] = performance.now() - at;
        }),
      );
      const own = wayOf(found, truth, taken);
      const good = Object.values(ways).filter((way) => way.recall >= 0.99);
      const ratio = own.p50 / Math.min(...good.map((way) => way.p50));
      worst = Math.max(worst, ratio);
      leastRecall = Math.min(leastRecall, own.recall);
      for (const [way, { recall, p50, p95 }] of Object.entries(ways))
        lines.push([n, `raw ${way}`, round(recall, 3), p50, p95, ""]);
      lines.push([n, `planned: ${plan}`, round(own.recall, 3), own.p50, own.p95, quantile(whole, 0.5)]);
      lines.push([n, "planned, pool of 256", "", quantile(pool, 0.5), quantile(pool, 0.95), ""]);
      result[String(n)] = {
        recall: round(own.recall, 4),
        p50: round(own.p50),
        p95: round(own.p95),
        ratio: round(ratio),
        ways,
      };
    }
    process.stdout.write(table(lines));
    process.stdout.write(
      `\n${dimensions} dimensions beside ${foreign} foreign rows: recall at least ${round(leastRecall, 3)} (aim 0.99), p50 at most ${round(worst)} × the best raw way with 0.99 (aim 1.25)\n` +
        `own graphs built in ${round(ownBuildS, 0)} s, the shared one in ${round(sharedBuildS, 0)} s\n`,
    );
    return { dimensions, foreign, leastRecall: round(leastRecall, 4), worstRatio: round(worst), bySize: result };
  } finally {
    await store.close();
  }
}

function wayOf(found: readonly string[][], truth: readonly Set<string>[], taken: readonly number[]): Way {
  const recall =
    found.reduce((sum, ids, i) => sum + ids.filter((id) => truth[i]?.has(id)).length / (truth[i]?.size ?? 1), 0) /
    found.length;
  return { recall, p50: quantile(taken, 0.5), p95: quantile(taken, 0.95) };
}
