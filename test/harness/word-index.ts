import { eachEntry, frequencyAt, lengthAt, NUMBERS_KEY, placeAt } from "../../src/lexical/block.ts";
import { eachTerm, hashAt } from "../../src/lexical/packed-terms.ts";
import { TERM_BYTES } from "../../src/text/analysis/term-hash.ts";

type Sql = (text: string, params?: unknown[]) => Promise<Record<string, unknown>[]>;

/** What a passage's terms say, and what the blocks do, as sorted lines `scope seq hash frequency length`. */
export interface IndexedPostings {
  /** Of live passages that lie in a segment. */
  readonly ofPassages: string[];
  readonly ofBlocks: string[];
  readonly segments: number;
}

/** Reads the whole index of words, as a superuser: both lists are to be the same. */
export async function readIndex(sql: Sql): Promise<IndexedPostings> {
  const segments = await sql(
    "SELECT scope_id, id::text AS id, first_seq::float8 AS first, last_seq::float8 AS last, passages FROM scopefloor.segment",
  );
  const ofPassages: string[] = [];
  const ofBlocks: string[] = [];
  for (const { scope_id, id, first, last, passages } of segments) {
    const numbers: number[] = [];
    const blocks = await sql(
      "SELECT key::float8 AS key, data FROM scopefloor.posting_block WHERE segment_id = $1::bigint ORDER BY key, first",
      [id],
    );
    for (const { key, data } of blocks) {
      const bytes = data as Uint8Array;
      if (key === NUMBERS_KEY) {
        for (let at = 0; at < bytes.length; at += TERM_BYTES) numbers.push(hashAt(bytes, at));
        continue;
      }
      eachEntry(bytes, (hash, n, at) => {
        for (let i = 0; i < n; i++) {
          ofBlocks.push(
            `${scope_id} ${numbers[placeAt(bytes, at, i)]} ${hash} ${frequencyAt(bytes, at, n, i)} ${lengthAt(bytes, at, n, i)}`,
          );
        }
      });
    }
    const rows = await sql(
      "SELECT seq::float8 AS seq, terms, lexemes FROM scopefloor.passage WHERE scope_id = $1::int AND seq BETWEEN $2 AND $3 AND expired_at IS NULL AND terms IS NOT NULL",
      [scope_id, first, last],
    );
    if (rows.length !== passages) throw new Error(`segment ${id} counts ${passages} passages and has ${rows.length}`);
    for (const { seq, terms, lexemes } of rows) {
      const bytes = terms as Uint8Array;
      eachTerm(bytes, 0, bytes.length, (hash, frequency) =>
        ofPassages.push(`${scope_id} ${seq} ${hash} ${frequency} ${lexemes}`),
      );
    }
  }
  return { ofPassages: ofPassages.sort(), ofBlocks: ofBlocks.sort(), segments: segments.length };
}
