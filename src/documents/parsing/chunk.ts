/** Runs in the parser's process: text to chunks, with where each stands. */
import { RecursiveCharacterTextSplitter } from "@langchain/textsplitters";
import { bandsOf } from "./fingerprint.ts";
import type { Extracted } from "./formats/extracted.ts";
import { UnreadableDocument } from "./unreadable.ts";

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

const CHARACTERS_PER_TOKEN = 4;
/** Of a size in model tokens, by the characters that these have on average. */
export const chunkSizeOf = (tokens: number): ChunkSize => ({
  size: tokens * CHARACTERS_PER_TOKEN,
  overlap: Math.round((tokens * CHARACTERS_PER_TOKEN) / 10),
});
const CHUNK_SIZE = chunkSizeOf(250);

/** A section longer than this is cut first: the splitter takes one string's pieces into memory at once. */
const MOST_AT_ONCE = 1_000_000;

/** A document has at most so many: a file of headings alone would make millions. */
export const MAX_CHUNKS = 50_000;
/** Characters of the headings that a chunk of several sections carries. */
const MAX_HEADINGS = 300;

/** A section of less than this share of a chunk is too short to stand by itself. */
const SHORT_SHARE = 0.1;

/**
 * Short sections as one with their neighbours, as long as they fit into a chunk together; their headings stand one
 * after the other. Others stay by themselves, so that a hit, or a forget, is about one thing.
 */
function* mergedSections(sections: Extracted["sections"], size: number): Generator<Extracted["sections"][number]> {
  let open: Extracted["sections"][number] | undefined;
  for (const section of sections) {
    const isShort =
      open !== undefined && Math.min(open.end - open.start, section.end - section.start) < size * SHORT_SHARE;
    if (open !== undefined && isShort && section.end - open.start <= size) {
      const titles = [open.title, section.title].filter((title) => title !== null);
      const title = titles.length === 0 ? null : titles.join(" · ");
      open = { ...open, end: section.end, title: title !== null && title.length > MAX_HEADINGS ? open.title : title };
      continue;
    }
    if (open !== undefined) yield open;
    open = section;
  }
  if (open !== undefined) yield open;
}

/** Chunks in order, each inside one section, or of several short ones. */
export async function* chunksOf(
  { text, sections }: Extracted,
  { size, overlap }: ChunkSize = CHUNK_SIZE,
): AsyncGenerator<Chunk> {
  const splitter = new RecursiveCharacterTextSplitter({ chunkSize: size, chunkOverlap: overlap });
  let position = 0;
  for (const section of mergedSections(sections, size)) {
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
        if (position === MAX_CHUNKS) throw new UnreadableDocument(`the file makes more than ${MAX_CHUNKS} chunks`);
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
