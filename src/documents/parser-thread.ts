/** One document's parsing, in a thread that ends with it: what one tenant's file does to a library reaches no other's. */
import { parentPort, workerData } from "node:worker_threads";
import { type Chunk, chunksOf } from "./chunk.ts";
import { extract } from "./extract.ts";
import { keywordsOf } from "./keywords.ts";
import type { MediaType } from "./media-type.ts";
import { UnreadableDocument } from "./unreadable.ts";

/** Chunks in one message. */
const BATCH = 500;

export type FromParser =
  | { readonly type: "chunks"; readonly chunks: readonly Chunk[] }
  | { readonly type: "keywords"; readonly keywords: Awaited<ReturnType<typeof keywordsOf>> }
  | { readonly type: "unreadable"; readonly reason: string };

const tell = (message: FromParser) => parentPort?.postMessage(message);

async function parse({ bytes, type }: { bytes: Uint8Array; type: MediaType }): Promise<void> {
  try {
    const extracted = await extract(bytes, type);
    let batch: Chunk[] = [];
    for await (const chunk of chunksOf(extracted)) {
      batch.push(chunk);
      if (batch.length < BATCH) continue;
      tell({ type: "chunks", chunks: batch });
      batch = [];
    }
    tell({ type: "chunks", chunks: batch });
    tell({ type: "keywords", keywords: await keywordsOf(extracted.text) });
  } catch (error) {
    if (!(error instanceof UnreadableDocument)) throw error;
    tell({ type: "unreadable", reason: error.message });
  }
}

await parse(workerData);
