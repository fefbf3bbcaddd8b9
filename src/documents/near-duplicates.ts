import { list, type ScopedTransaction, sql } from "../db/scoped.ts";
import { areNearDuplicates } from "../recall/fold.ts";

/** Older chunks that are compared with a batch: a boilerplate line may share its band with thousands. */
const MOST_COMPARED = 2_000;

interface Fingerprinted {
  readonly id: string;
  readonly text: string;
  readonly bands: readonly number[];
}

/**
 * For each chunk of a batch the older one of the same scope, or the earlier of the batch, that says
 * nearly the same; a chunk that is itself marked is never pointed at.
 */
export async function findNearDuplicates(
  tx: ScopedTransaction,
  batch: readonly Fingerprinted[],
): Promise<Map<string, string>> {
  const stored = await tx.rows<{ band: number; id: string; text: string }>(sql`
    SELECT b.band, p.id, p.text FROM ${tx.read("chunk_band", "b")}
    JOIN ${tx.read("passage", "p")} ON p.scope_id = b.scope_id AND p.id = b.passage_id
    WHERE b.band = ANY (${list([...new Set(batch.flatMap((chunk) => chunk.bands))])}::int[]) AND p.duplicate_of IS NULL AND p.expired_at IS NULL
    ORDER BY b.passage_id LIMIT ${MOST_COMPARED}`);
  const byBand = new Map<number, { id: string; text: string }[]>();
  const offer = (band: number, chunk: { id: string; text: string }) =>
    byBand.set(band, [...(byBand.get(band) ?? []), chunk]);
  for (const { band, ...chunk } of stored) offer(band, chunk);
  const duplicates = new Map<string, string>();
  for (const chunk of batch) {
    const original = chunk.bands
      .flatMap((band) => byBand.get(band) ?? [])
      .find((other) => areNearDuplicates(chunk.text, other.text));
    if (original !== undefined) duplicates.set(chunk.id, original.id);
    else for (const band of chunk.bands) offer(band, chunk);
  }
  return duplicates;
}

/** Remembers the fingerprints of chunks that are stored. */
export async function storeBands(tx: ScopedTransaction, batch: readonly Fingerprinted[]): Promise<void> {
  const ids = batch.flatMap((chunk) => chunk.bands.map(() => chunk.id));
  const bands = batch.flatMap((chunk) => chunk.bands);
  await tx.insertFrom(
    "chunk_band",
    ["passage_id", "band"],
    sql`SELECT * FROM unnest(${list(ids)}::uuid[], ${list(bands)}::int[])`,
  );
}
