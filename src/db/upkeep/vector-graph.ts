/** The one DDL at run time: a vector graph of one scope, made and dropped over the owner's connection. */
import type { Lease } from "../connect/lease.ts";

/** Below this version of pgvector a parallel build can corrupt memory (CVE-2026-3172). */
const PARALLEL_FROM = [0, 8, 2];

export interface VectorGraph {
  readonly scopeId: number;
  readonly embedderId: number;
  readonly dimensions: number;
}

/** Numbers only: no tenant's name is in the catalog. */
const nameOf = ({ scopeId, embedderId }: VectorGraph) => `passage_graph_${Number(scopeId)}_${Number(embedderId)}`;

/** Builds the graph while others write; not inside a transaction. Its parameters: docs/measurements.md. */
export async function createGraph(owner: Lease, graph: VectorGraph): Promise<void> {
  // One that a crash left half built is there, and invalid.
  await dropGraph(owner, graph);
  await owner.query(`
    CREATE INDEX CONCURRENTLY ${nameOf(graph)} ON scopefloor.passage
    USING hnsw ((embedding::halfvec(${Number(graph.dimensions)})) halfvec_cosine_ops) WITH (m = 16, ef_construction = 200)
    WHERE scope_id = ${Number(graph.scopeId)} AND embedder_id = ${Number(graph.embedderId)}`);
}

export async function dropGraph(owner: Lease, graph: VectorGraph): Promise<void> {
  await owner.query(`DROP INDEX CONCURRENTLY IF EXISTS scopefloor.${nameOf(graph)}`);
}

/** Keeps builds on this connection to what the installed pgvector does safely. */
export async function limitBuilds(owner: Lease): Promise<void> {
  const [row] = await owner.query("SELECT extversion FROM pg_extension WHERE extname = 'vector'");
  if (!buildsInParallel(String(row?.extversion))) await owner.query("SET max_parallel_maintenance_workers = 0");
}

/** Whether a version of pgvector, such as `0.8.2`, builds in parallel without harm. */
export function buildsInParallel(version: string): boolean {
  const parts = version.split(".").map(Number);
  for (const [i, least] of PARALLEL_FROM.entries()) {
    const part = parts[i] ?? 0;
    if (part !== least) return part > least;
  }
  return true;
}
