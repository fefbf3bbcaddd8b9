/** Parsing of documents in a process of its own, which its parent ends (parser.ts). */
import { writeFile } from "node:fs/promises";
import { Worker } from "node:worker_threads";
import type { Chunk } from "./chunk.ts";
import { extract } from "./extract.ts";
import type { Extracted, Reading } from "./formats/extracted.ts";
import type { Picture } from "./formats/picture.ts";
import type { keywordsOf } from "./keywords.ts";
import { MEDIA_TYPES, type MediaType } from "./media-type.ts";
import { UnreadableDocument } from "./unreadable.ts";

/** Chunks in one message. */
const CHUNKS_PER_MESSAGE = 500;

/** A file as it was uploaded. */
export interface UploadedFile {
  readonly bytes: Uint8Array;
  readonly type: MediaType;
  /** As the upload says. */
  readonly charset?: string | undefined;
}

/** What is to be done: text out of a file, or what is made of a text, or both; or a picture of one page, for a model to read. */
export type ToParser =
  | { readonly want: "text"; readonly file: UploadedFile; readonly leavesPictures: boolean }
  | { readonly want: "picture"; readonly file: UploadedFile; readonly page: number }
  | {
      readonly want: "chunks";
      readonly from: UploadedFile | Extracted;
      /** Of a chunk at most; absent: the usual. */
      readonly chunkTokens: number | undefined;
    };

export type FromParser =
  | { readonly type: "chunks"; readonly chunks: readonly Chunk[] }
  | { readonly type: "extracted"; readonly extracted: Extracted }
  | { readonly type: "picture"; readonly picture: Picture }
  | {
      readonly type: "read";
      readonly keywords: Awaited<ReturnType<typeof keywordsOf>>;
      readonly warnings: readonly string[];
      readonly reading: Reading;
    }
  | { readonly type: "unreadable"; readonly reason: string };

const tell = (message: FromParser) =>
  new Promise<void>((resolve, reject) => {
    process.send?.(message, (error: Error | null) => (error ? reject(error) : resolve()));
  });

async function parse(asked: ToParser): Promise<void> {
  try {
    if (asked.want === "text")
      await tell({ type: "extracted", extracted: await textOf(asked.file, asked.leavesPictures) });
    else if (asked.want === "picture")
      await tell({ type: "picture", picture: await pictureOf(asked.file, asked.page) });
    else await cut("bytes" in asked.from ? await textOf(asked.from) : asked.from, asked.chunkTokens);
  } catch (error) {
    if (!(error instanceof UnreadableDocument)) throw error;
    await tell({ type: "unreadable", reason: error.message });
  }
}

const textOf = ({ bytes, type, charset }: UploadedFile, leavesPictures = false) =>
  extract(bytes, type, charset, leavesPictures);

async function pictureOf({ bytes, type }: UploadedFile, page: number): Promise<Picture> {
  if (type === MEDIA_TYPES.pdf) return (await import("./formats/pdf/draw.ts")).drawPage(bytes, page);
  return (await import("./formats/picture.ts")).readPicture(bytes);
}

async function cut(extracted: Extracted, chunkTokens: number | undefined): Promise<void> {
  // A process that only gives text loads neither.
  const { chunksOf, chunkSizeOf } = await import("./chunk.ts");
  let batch: Chunk[] = [];
  for await (const chunk of chunksOf(extracted, chunkTokens === undefined ? undefined : chunkSizeOf(chunkTokens))) {
    batch.push(chunk);
    if (batch.length < CHUNKS_PER_MESSAGE) continue;
    await tell({ type: "chunks", chunks: batch });
    batch = [];
  }
  await tell({ type: "chunks", chunks: batch });
  const { keywordsOf } = await import("./keywords.ts");
  const { warnings = [], reading = {} } = extracted;
  await tell({ type: "read", keywords: await keywordsOf(extracted.text), warnings, reading });
}

/** Ends this process when its parent is gone, also from inside a loop that never looks up. */
const WATCHDOG = `
  const parent = process.ppid;
  setInterval(() => { if (process.ppid !== parent) process.kill(process.pid, "SIGKILL"); }, 500);
`;
new Worker(WATCHDOG, { eval: true }).unref();
// Should the machine run out of memory, this process goes and not the service. (Linux; elsewhere there is no such file.)
await writeFile("/proc/self/oom_score_adj", "1000").catch(() => undefined);
process.on("disconnect", () => process.exit());
// One after the other: its parent asks for the next when it has the last.
process.on("message", (asked: ToParser) => void parse(asked));
