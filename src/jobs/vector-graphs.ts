import type { Logger } from "pino";
import { type Database, inTransaction, type Lease } from "../db/connect/lease.ts";
import { createGraph, dropGraph, limitBuilds } from "../db/upkeep/vector-graph.ts";
import { failureOf } from "../log.ts";

/**
 * Graphs on the one table `passage`. Every statement locks every index of its table: 1,000 of them cost
 * 2.9 ms a statement, and 3,000 concurrent transactions ran out of locks. The largest scopes have them.
 */
const MAX_GRAPHS = 200;
/** One worker at a time builds, whatever their number. */
const LOCK = "7700, 5";

interface Work {
  readonly work: "build" | "drop";
  readonly scope_id: number;
  readonly embedder_id: number;
  readonly dimensions: number;
}

const graphOf = (work: Work) => ({
  scopeId: work.scope_id,
  embedderId: work.embedder_id,
  dimensions: work.dimensions,
});

export interface GraphOptions {
  /** Passages of one model from which on a scope gets a graph; it keeps it down to half of that. */
  readonly least: number;
  readonly most?: number;
  readonly log: Logger;
  /** No further graph is begun once this is true. */
  readonly isStopped: () => boolean;
}

/**
 * Brings the graphs in line with the counts: one HNSW index for each scope that has grown over the
 * threshold, of that scope's rows alone, built concurrently; and none for one that shrank or was
 * erased, whose graph would still hold its vectors. Until a graph is ready, answers are exact.
 *
 * Needs the owner's connection, for DDL; what is to be done is known from counts, and no content is
 * read. On the embedded database nothing is built: it would take minutes, with everyone waiting.
 */
export async function reconcileGraphs(database: Database, options: GraphOptions): Promise<void> {
  if (database.kind === "embedded") return;
  const look = async () =>
    (await inTransaction(database.worker, (worker) =>
      worker.query("SELECT * FROM scopefloor.vector_index_work($1, $2)", [options.least, options.most ?? MAX_GRAPHS]),
    )) as unknown as Work[];
  if ((await look()).length === 0) return;
  const owner = await database.owner.acquire();
  try {
    const [lock] = await owner.query(`SELECT pg_try_advisory_lock(${LOCK}) AS held`);
    if (lock?.held !== true) return;
    await limitBuilds(owner);
    // Looked at again: another worker may have been at it until now.
    for (const work of await look()) {
      if (options.isStopped()) return;
      // One that fails keeps no other from its graph; the next round tries it again.
      await (work.work === "build" ? build : drop)(database, owner, work, options.log).catch((error: unknown) => {
        options.log.error({ scopeId: work.scope_id, work: work.work, ...failureOf(error) }, "vector graph failed");
      });
    }
  } finally {
    await owner.release();
  }
}

async function build(database: Database, owner: Lease, work: Work, log: Logger): Promise<void> {
  const startedAt = performance.now();
  await note(database, work, "building");
  await createGraph(owner, graphOf(work));
  await note(database, work, "ready");
  log.info({ scopeId: work.scope_id, ms: Math.round(performance.now() - startedAt) }, "vector graph built");
}

async function drop(database: Database, owner: Lease, work: Work, log: Logger): Promise<void> {
  // The planner goes back to exact answers first; that it is to go is known until it has gone.
  await note(database, work, "building");
  await dropGraph(owner, graphOf(work));
  await note(database, work, "gone");
  log.info({ scopeId: work.scope_id }, "vector graph dropped");
}

const note = (database: Database, { scope_id, embedder_id }: Work, state: "building" | "ready" | "gone") =>
  inTransaction(database.worker, (worker) =>
    worker.query("SELECT scopefloor.note_vector_index($1, $2, $3)", [scope_id, embedder_id, state]),
  );
