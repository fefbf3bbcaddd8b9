/**
 * The bytes of a segment's posting blocks, which are entries in a row. An entry is a term's hash (6 bytes), the
 * number n of its postings (2), then the passages' places in the segment (2 each), how often each has the term
 * (1 each) and the passages' lengths in words (2 each). The database takes postings out of them
 * (src/db/sql/2_memory/5_word_index.sql).
 */
import { Slices } from "../load/slices.ts";
import { TERM_BYTES, TERM_RANGE } from "../text/analysis/term-hash.ts";
import { eachTerm, hashAt } from "./packed-terms.ts";

/** Places have two bytes. */
export const MOST_PASSAGES = 65_536;
export const ENTRY_HEAD = TERM_BYTES + 2;
const BYTES_A_POSTING = 5;
/** A block that holds many terms is about so large. */
const BUCKET_BYTES = 2_048;
/** Key of the blocks that list the passages' numbers by their places, 6 bytes each, so many to a block. */
export const NUMBERS_KEY = -1;
export const PAGE_PLACES = 512;
/** A term of more postings has blocks of its own, of at most so many. */
const OWN_FROM = 200;
const OWN_POSTINGS = 800;

interface SegmentPassage {
  readonly seq: number;
  /** In words. */
  readonly length: number;
  /** As packed-terms.ts has them. */
  readonly terms: Uint8Array;
}

export interface Block {
  readonly key: number;
  readonly first: number;
  readonly data: Buffer;
}

export interface PackedSegment {
  readonly bits: number;
  readonly places: number;
  readonly blocks: Block[];
}

/** The postings of one term. */
interface Postings {
  readonly places: number[];
  readonly frequencies: number[];
  readonly lengths: number[];
}

/** Where a segment's terms are collected before they are packed. */
export class SegmentBuilder {
  readonly #postings = new Map<number, Postings>();
  readonly #seqs: number[] = [];
  readonly #slices = new Slices();

  /** Passages come in the order of their numbers. */
  add({ seq, length, terms }: SegmentPassage): void {
    const place = this.#seqs.length;
    this.#seqs.push(seq);
    eachTerm(terms, 0, terms.length, (hash, frequency) => this.#post(hash, place, frequency, length));
  }

  /** A segment that is packed already. Passages that were deleted since keep their places and have no postings. */
  async addSegment(blocks: Iterable<Block>): Promise<void> {
    const offset = this.#seqs.length;
    for (const { key, first, data } of blocks) {
      if (key === NUMBERS_KEY) {
        for (let at = 0; at < data.length; at += TERM_BYTES)
          this.#seqs[offset + first + at / TERM_BYTES] = hashAt(data, at);
        continue;
      }
      await this.#slices.pause();
      eachEntry(data, (hash, n, at) => {
        for (let i = 0; i < n; i++) {
          this.#post(hash, offset + placeAt(data, at, i), frequencyAt(data, at, n, i), lengthAt(data, at, n, i));
        }
      });
    }
  }

  #post(hash: number, place: number, frequency: number, length: number): void {
    let known = this.#postings.get(hash);
    if (known === undefined) {
      known = { places: [], frequencies: [], lengths: [] };
      this.#postings.set(hash, known);
    }
    known.places.push(place);
    known.frequencies.push(frequency);
    known.lengths.push(length);
  }

  async pack(): Promise<PackedSegment> {
    if (this.#seqs.length > MOST_PASSAGES)
      throw new Error(`a segment holds at most ${MOST_PASSAGES} passages, not ${this.#seqs.length}`);
    const blocks = this.#pages();
    const rare: (readonly [number, Postings])[] = [];
    let bytes = 0;
    for (const [hash, postings] of this.#postings) {
      await this.#slices.pause();
      if (postings.places.length < OWN_FROM) {
        rare.push([hash, postings]);
        bytes += ENTRY_HEAD + BYTES_A_POSTING * postings.places.length;
      } else blocks.push(...ownBlocks(hash, inOrder(postings)));
    }
    const bits = Math.max(0, Math.ceil(Math.log2(bytes / BUCKET_BYTES)));
    const buckets = new Map<number, Buffer[]>();
    for (const [hash, postings] of rare) {
      await this.#slices.pause();
      const key = hash % 2 ** bits;
      const bucket = buckets.get(key);
      const entry = entryOf(hash, postings, 0, postings.places.length);
      if (bucket === undefined) buckets.set(key, [entry]);
      else bucket.push(entry);
    }
    for (const [key, entries] of buckets) blocks.push({ key, first: 0, data: Buffer.concat(entries) });
    return { bits, places: this.#seqs.length, blocks };
  }

  #pages(): Block[] {
    const pages: Block[] = [];
    for (let first = 0; first < this.#seqs.length; first += PAGE_PLACES) {
      const some = this.#seqs.slice(first, first + PAGE_PLACES);
      const data = Buffer.allocUnsafe(some.length * TERM_BYTES);
      for (const [i, seq] of some.entries()) data.writeUIntBE(seq, i * TERM_BYTES, TERM_BYTES);
      pages.push({ key: NUMBERS_KEY, first, data });
    }
    return pages;
  }
}

/** Postings of several blocks of a term may come in any order. */
function inOrder(postings: Postings): Postings {
  const { places, frequencies, lengths } = postings;
  if (places.every((place, i) => i === 0 || (places[i - 1] ?? 0) < place)) return postings;
  const order = places.map((_, i) => i).sort((a, b) => (places[a] ?? 0) - (places[b] ?? 0));
  const by = (list: readonly number[]) => order.map((i) => list[i] ?? 0);
  return { places: by(places), frequencies: by(frequencies), lengths: by(lengths) };
}

function ownBlocks(hash: number, postings: Postings): Block[] {
  const blocks: Block[] = [];
  for (let from = 0; from < postings.places.length; from += OWN_POSTINGS) {
    const to = Math.min(from + OWN_POSTINGS, postings.places.length);
    blocks.push({
      key: hash + TERM_RANGE,
      first: from === 0 ? 0 : (postings.places[from] ?? 0),
      data: entryOf(hash, postings, from, to),
    });
  }
  return blocks;
}

function entryOf(hash: number, { places, frequencies, lengths }: Postings, from: number, to: number): Buffer {
  const n = to - from;
  const data = Buffer.allocUnsafe(ENTRY_HEAD + BYTES_A_POSTING * n);
  data.writeUIntBE(hash, 0, TERM_BYTES);
  data.writeUInt16BE(n, TERM_BYTES);
  for (let i = 0; i < n; i++) {
    data.writeUInt16BE(places[from + i] ?? 0, ENTRY_HEAD + 2 * i);
    data[ENTRY_HEAD + 2 * n + i] = frequencies[from + i] ?? 0;
    data.writeUInt16BE(lengths[from + i] ?? 0, ENTRY_HEAD + 3 * n + 2 * i);
  }
  return data;
}

/** Goes through the entries of a block: a term's hash, how many postings it has, and where the entry begins. */
export function eachEntry(data: Uint8Array, visit: (hash: number, n: number, at: number) => void): void {
  let at = 0;
  while (at + ENTRY_HEAD <= data.length) {
    const n = ((data[at + TERM_BYTES] ?? 0) << 8) | (data[at + TERM_BYTES + 1] ?? 0);
    visit(hashAt(data, at), n, at);
    at += ENTRY_HEAD + BYTES_A_POSTING * n;
  }
}

/** Of the entry that begins at a place, by the posting's number in it. */
export const placeAt = (data: Uint8Array, at: number, i: number): number =>
  ((data[at + ENTRY_HEAD + 2 * i] ?? 0) << 8) | (data[at + ENTRY_HEAD + 2 * i + 1] ?? 0);
export const frequencyAt = (data: Uint8Array, at: number, n: number, i: number): number =>
  data[at + ENTRY_HEAD + 2 * n + i] ?? 0;
export const lengthAt = (data: Uint8Array, at: number, n: number, i: number): number =>
  ((data[at + ENTRY_HEAD + 3 * n + 2 * i] ?? 0) << 8) | (data[at + ENTRY_HEAD + 3 * n + 2 * i + 1] ?? 0);
