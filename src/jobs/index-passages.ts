import { setTimeout } from "node:timers/promises";
import { enterJob, type TakenJob } from "../db/access/enter-job.ts";
import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { type Block, MOST_PASSAGES, type PackedSegment, SegmentBuilder } from "../lexical/block.ts";
import type { JobContext } from "./job-context.ts";

/** Passages of a tail that become a segment at once: writers of the scope wait meanwhile. */
const PACKED_AT_ONCE = 1_000;
/** A shorter tail stays one. (One is ordered from half as much again on, so that it does not come to nothing by what is forgotten: watch_tail in 5_word_index.sql.) */
const LEAST_PACKED = 256;
/** How often a busy tail is tried, and how long is waited between. */
const PACK_ATTEMPTS = 20;
const BUSY_WAIT_MS = 150;
/** Segments of about one size that become one. Each size is so many times the one before. */
const MERGED_AT_ONCE = 4;
/** How often a merge is tried beside whoever takes passages out. */
const MERGE_ATTEMPTS = 3;
/** Blocks in one statement. */
const BLOCKS_AT_ONCE = 400;

/**
 * Packs what has come to a scope into segments, and several segments of one size into one, so that there are few
 * whatever the scope's size. (src/db/sql/2_memory/5_word_index.sql says which locks it holds and why.)
 *
 * @throws JobGone
 */
export async function indexPassages(deps: JobContext, job: TakenJob): Promise<void> {
  // Where writers never let go of the tail, the next of them orders this again.
  for (let attempts = 0; attempts < PACK_ATTEMPTS; ) {
    await deps.extend(job);
    const packed = await enterJob(deps.database.worker, job, deps.context, packTail).catch(busyOrThrow);
    if (packed === "busy") {
      attempts++;
      await setTimeout(BUSY_WAIT_MS * (0.5 + Math.random()));
    } else if (packed < PACKED_AT_ONCE) break;
  }
  for (let attempts = 0; attempts < MERGE_ATTEMPTS; ) {
    await deps.extend(job);
    const merged = await enterJob(deps.database.worker, job, deps.context, mergeSegments);
    if (merged === "done") break;
    if (merged === "changed") attempts++;
  }
  await enterJob(deps.database.worker, job, deps.context, (tx) => tx.call("finish_job"));
}

/** PostgreSQL's lock_not_available: somebody is deleting a passage of the tail, and takes longer. */
function busyOrThrow(error: unknown): "busy" {
  if ((error as { code?: unknown }).code === "55P03") return "busy";
  throw error;
}

interface TailPassage {
  readonly seq: number;
  readonly length: number;
  readonly terms: Uint8Array;
}

/** Makes a segment of the oldest passages of the tail; gives how many. */
async function packTail(tx: ScopedTransaction): Promise<number | "busy"> {
  if (!(await tx.call<boolean>("hold_tail"))) return "busy";
  // Whoever is deleting one of them is waited for, and who comes later finds the segment.
  const rows = await tx.rows<TailPassage>(sql`
    WITH mark AS MATERIALIZED (SELECT coalesce(max(g.last_seq), 0) AS last FROM ${tx.read("segment", "g")})
    SELECT p.seq::float8 AS seq, p.lexemes AS length, p.terms FROM ${tx.read("passage", "p")}
    WHERE p.seq > (SELECT m.last FROM mark m) AND p.expired_at IS NULL AND p.terms IS NOT NULL ORDER BY p.seq LIMIT ${PACKED_AT_ONCE} FOR SHARE`);
  if (rows.length < LEAST_PACKED) return 0;
  const builder = new SegmentBuilder();
  for (const row of rows) builder.add(row);
  const [first, last] = [rows[0]?.seq ?? 0, rows.at(-1)?.seq ?? 0];
  await storeSegment(tx, await builder.pack(), { first, last, passages: rows.length });
  return rows.length;
}

interface StoredSegment {
  readonly id: number;
  readonly first: number;
  readonly last: number;
  readonly passages: number;
  readonly edits: number;
  /** Places in it, those of passages that are gone included. */
  readonly places: number;
}

const segmentsOf = (tx: ScopedTransaction) =>
  tx.rows<StoredSegment>(sql`
    SELECT g.id::float8 AS id, g.first_seq::float8 AS first, g.last_seq::float8 AS last, g.passages, g.edits, g.places
    FROM ${tx.read("segment", "g")} ORDER BY g.first_seq`);

/** The size class of a segment. */
const sizeOf = ({ places }: StoredSegment) =>
  Math.floor(Math.log(places / LEAST_PACKED + 1) / Math.log(MERGED_AT_ONCE));

/** Neighbours of one size, of which there are enough; their numbers follow one another. */
function mergeable(segments: readonly StoredSegment[]): StoredSegment[] {
  let run: StoredSegment[] = [];
  for (const segment of segments) {
    const isAlike = run.length > 0 && sizeOf(segment) <= Math.max(...run.map(sizeOf));
    const places = run.reduce((sum, one) => sum + one.places, segment.places);
    run = isAlike && places <= MOST_PASSAGES ? [...run, segment] : [segment];
    const size = Math.max(...run.map(sizeOf));
    if (run.filter((one) => sizeOf(one) === size).length >= MERGED_AT_ONCE) return run;
  }
  return [];
}

/**
 * Puts neighbouring segments together. What they hold is read before anybody is kept from changing it: where
 * somebody has, this begins anew.
 */
async function mergeSegments(tx: ScopedTransaction): Promise<"merged" | "changed" | "done"> {
  const merged = mergeable(await segmentsOf(tx));
  if (merged.length === 0) return "done";
  const builder = new SegmentBuilder();
  for (const { id } of merged) {
    await builder.addSegment(
      await tx.rows<Block>(
        sql`SELECT b.key::float8 AS key, b.first, b.data FROM ${tx.read("posting_block", "b")} WHERE b.segment_id = ${id}::bigint`,
      ),
    );
  }
  const packed = await builder.pack();
  await tx.call("hold_segments");
  const now = new Map((await segmentsOf(tx)).map((segment) => [segment.id, segment]));
  if (merged.some(({ id, edits }) => now.get(id)?.edits !== edits)) return "changed";
  const ids = list(merged.map(({ id }) => id));
  await tx.remove("posting_block", sql`segment_id = ANY (${ids}::bigint[])`);
  await tx.remove("segment", sql`id = ANY (${ids}::bigint[])`);
  await storeSegment(tx, packed, {
    first: Math.min(...merged.map(({ first }) => first)),
    last: Math.max(...merged.map(({ last }) => last)),
    passages: merged.reduce((sum, { passages }) => sum + passages, 0),
  });
  return "merged";
}

async function storeSegment(
  tx: ScopedTransaction,
  { bits, places, blocks }: PackedSegment,
  about: { readonly first: number; readonly last: number; readonly passages: number },
): Promise<void> {
  await tx.insertFrom(
    "segment",
    ["first_seq", "last_seq", "passages", "places", "bits"],
    sql`SELECT ${about.first}::bigint, ${about.last}::bigint, ${about.passages}::int, ${places}::int, ${bits}::smallint`,
  );
  const [stored] = await tx.rows<{ id: string }>(
    sql`SELECT g.id::text AS id FROM ${tx.read("segment", "g")} WHERE g.first_seq = ${about.first}::bigint`,
  );
  for (let from = 0; from < blocks.length; from += BLOCKS_AT_ONCE) {
    const some = blocks.slice(from, from + BLOCKS_AT_ONCE);
    await tx.insertFrom(
      "posting_block",
      ["segment_id", "key", "first", "data"],
      // As digits: an array of bytea would be taken for text.
      sql`SELECT ${stored?.id}::bigint, b.key, b.first, decode(b.data, 'hex')
          FROM unnest(${list(some.map(({ key }) => key))}::bigint[], ${list(some.map(({ first }) => first))}::int[],
                      ${list(some.map(({ data }) => data.toString("hex")))}::text[]) AS b(key, first, data)`,
    );
  }
}
