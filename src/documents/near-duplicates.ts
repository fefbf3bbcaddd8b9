import { setImmediate } from "node:timers/promises";
import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { areAlike, type Words, wordsOf } from "./similarity.ts";

/** Older chunks that are looked at for a batch: a boilerplate line may share its band with thousands. */
const MOST_STORED = 2_000;
/** Of those, what one chunk is compared with: texts that are alike share bands with few others. */
const MOST_COMPARED = 20;

interface Fingerprinted {
  readonly id: string;
  readonly text: string;
  readonly bands: readonly number[];
}

interface Original {
  readonly id: string;
  readonly words: Words;
}

/**
 * For each chunk of a batch the older one of the same scope, or the earlier of the batch, that says
 * nearly the same; a chunk that is itself marked is never pointed at.
 */
export async function findNearDuplicates(
  tx: ScopedTransaction,
  batch: readonly Fingerprinted[],
): Promise<Map<string, string>> {
  const bands = [...new Set(batch.flatMap((chunk) => chunk.bands.map(String)))];
  const stored = await tx.rows<{ id: string; text: string; bands: number[] }>(sql`
    WITH asked AS MATERIALIZED (SELECT * FROM ${tx.writtenHashes(bands, "h")})
    SELECT p.id, p.text, jsonb_agg(a.word::int) AS bands FROM ${tx.read("chunk_band", "b")}
    JOIN asked a ON a.hash = b.band
    JOIN ${tx.read("passage", "p")} ON p.scope_id = b.scope_id AND p.id = b.passage_id
    WHERE b.band = ANY (ARRAY(SELECT asked.hash FROM asked)) AND p.duplicate_of IS NULL AND p.expired_at IS NULL
    GROUP BY p.scope_id, p.id, p.text ORDER BY p.id LIMIT ${MOST_STORED}`);
  const byBand = new Map<number, Original[]>();
  const offer = (original: Original, bands: readonly number[]) => {
    for (const band of bands) {
      const others = byBand.get(band);
      if (others === undefined) byBand.set(band, [original]);
      else others.push(original);
    }
  };
  for (const { id, text, bands } of stored) offer({ id, words: wordsOf(text) }, bands);
  const duplicates = new Map<string, string>();
  for (const [i, chunk] of batch.entries()) {
    const own = { id: chunk.id, words: wordsOf(chunk.text) };
    const candidates = new Set(chunk.bands.flatMap((band) => byBand.get(band)?.slice(0, MOST_COMPARED) ?? []));
    const original = [...candidates].slice(0, MOST_COMPARED).find(({ words }) => areAlike(own.words, words));
    if (original === undefined) offer(own, chunk.bands);
    else duplicates.set(chunk.id, original.id);
    if (i % 20 === 19) await setImmediate(); // other requests go on between them
  }
  return duplicates;
}

/** Remembers the fingerprints of chunks that are stored. */
export async function storeBands(tx: ScopedTransaction, batch: readonly Fingerprinted[]): Promise<void> {
  const ids = batch.flatMap((chunk) => chunk.bands.map(() => chunk.id));
  const bands = batch.flatMap((chunk) => chunk.bands.map(String));
  await tx.insertFrom(
    "chunk_band",
    ["passage_id", "band"],
    sql`
      SELECT i.id, h.hash FROM unnest(${list(ids)}::uuid[], ${list(bands)}::text[]) AS i(id, band)
      JOIN ${tx.writtenHashes([...new Set(bands)], "h")} ON h.word = i.band`,
  );
}
