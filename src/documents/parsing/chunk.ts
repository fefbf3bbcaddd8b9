/** Runs in the parser's process: text to chunks, with where each stands. */
import { RecursiveCharacterTextSplitter } from "@langchain/textsplitters";
import { bandsOf } from "./fingerprint.ts";
import type { Extracted } from "./formats/extracted.ts";

export interface Chunk {
  readonly position: number;
  readonly section: string | null;
  /** UTF-16 units of the extracted text: `text === extracted.slice(start, end)`. */
  readonly start: number;
  readonly end: number;
  readonly text: string;
  /** Of its fingerprint. */
  readonly bands: readonly number[];
}

export interface ChunkSize {
  /** Characters at most. */
  readonly size: number;
  /** Characters that neighbours share, so that a sentence on a border is whole in one of them. */
  readonly overlap: number;
}

const CHUNK_SIZE: ChunkSize = { size: 1_000, overlap: 100 };

/** A section longer than this is cut first: the splitter takes one string's pieces into memory at once. */
const MOST_AT_ONCE = 1_000_000;

/** Chunks in order, each inside one section. */
export async function* chunksOf(
  { text, sections }: Extracted,
  { size, overlap }: ChunkSize = CHUNK_SIZE,
): AsyncGenerator<Chunk> {
  const splitter = new RecursiveCharacterTextSplitter({ chunkSize: size, chunkOverlap: overlap });
  let position = 0;
  for (const section of sections) {
    for (let from = section.start; from < section.end; from += MOST_AT_ONCE) {
      const to = Math.min(from + MOST_AT_ONCE, section.end);
      const part = text.slice(from, to);
      let searchFrom = 0;
      for (const piece of await splitter.splitText(part)) {
        // The splitter gives substrings, trimmed of white space, each beginning behind the one before.
        const found = part.indexOf(piece, searchFrom);
        if (found < 0) throw new Error("the splitter gave a text that is not in the document");
        searchFrom = found + 1;
        const [start, end] = wholeCharacters(text, from + found, from + found + piece.length);
        const own = text.slice(start, end);
        if (own.trim() === "") continue;
        yield { position: position++, section: section.title, start, end, text: own, bands: bandsOf(own) };
      }
    }
  }
}

const isLow = (unit: number) => unit >= 0xdc00 && unit <= 0xdfff;

/** A cut between the halves of a surrogate pair moves behind it. */
function wholeCharacters(text: string, start: number, end: number): [number, number] {
  return [
    isLow(text.charCodeAt(start)) && start > 0 ? start + 1 : start,
    end < text.length && isLow(text.charCodeAt(end)) ? end + 1 : end,
  ];
}
