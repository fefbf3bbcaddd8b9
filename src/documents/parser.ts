import { Worker } from "node:worker_threads";
import type { Chunk } from "./chunk.ts";
import type { Keyword } from "./keywords.ts";
import type { MediaType } from "./media-type.ts";
import type { FromParser } from "./parser-thread.ts";
import { UnreadableDocument } from "./unreadable.ts";

export interface Parsed {
  readonly chunks: readonly Chunk[];
  readonly keywords: readonly Keyword[];
}

export interface ParserLimits {
  readonly timeoutMs: number;
  /** Of the thread's own heap. */
  readonly heapMb: number;
  /** Growth of the whole process while the thread runs: buffers lie outside of its heap. */
  readonly growthMb: number;
}

export const PARSER_LIMITS: ParserLimits = { timeoutMs: 120_000, heapMb: 512, growthMb: 1_024 };

/** From source, in development and tests, the thread needs a loader for TypeScript first. */
const isSource = import.meta.url.endsWith(".ts");
const ENTRY = new URL(isSource ? "./parser-thread.ts" : "./parser-thread.js", import.meta.url);
const FROM_SOURCE = `import("tsx/esm/api").then(({ register }) => { register(); return import(${JSON.stringify(ENTRY.href)}); });`;

/**
 * Parses a document in a thread of its own, within limits of time and memory. The bytes are handed
 * over: the caller's view of them is empty afterwards.
 *
 * @throws UnreadableDocument for whatever the file is to blame for
 */
export function parseDocument(
  bytes: Uint8Array<ArrayBuffer>,
  type: MediaType,
  limits: ParserLimits = PARSER_LIMITS,
): Promise<Parsed> {
  const thread = new Worker(isSource ? FROM_SOURCE : ENTRY, {
    eval: isSource,
    workerData: { bytes, type },
    transferList: [bytes.buffer],
    resourceLimits: { maxOldGenerationSizeMb: limits.heapMb, maxYoungGenerationSizeMb: 64, stackSizeMb: 4 },
    // Nothing of the environment: parsers have no use for keys.
    env: {},
    execArgv: [],
    stdout: true,
    stderr: true,
  });
  const before = process.memoryUsage.rss();
  const chunks: Chunk[] = [];
  let keywords: readonly Keyword[] | undefined;
  return new Promise<Parsed>((resolve, reject) => {
    const end = (outcome: Parsed | Error) => {
      clearTimeout(deadline);
      clearInterval(watch);
      // Ends loops too; what it still says is not heard.
      thread.removeAllListeners();
      thread.on("error", () => undefined);
      thread.terminate().then(
        () => (outcome instanceof Error ? reject(outcome) : resolve(outcome)),
        () => reject(outcome instanceof Error ? outcome : new Error("the parser did not end")),
      );
    };
    const deadline = setTimeout(
      () => end(new UnreadableDocument(`the file took longer than ${limits.timeoutMs / 1000} s to read`)),
      limits.timeoutMs,
    );
    const watch = setInterval(() => {
      if (process.memoryUsage.rss() - before > limits.growthMb * 1024 * 1024) {
        end(new UnreadableDocument("the file takes more memory to read than is allowed"));
      }
    }, 50);
    thread.on("message", (message: FromParser) => {
      if (message.type === "chunks") chunks.push(...message.chunks);
      else if (message.type === "keywords") keywords = message.keywords;
      else end(new UnreadableDocument(message.reason));
    });
    thread.on("error", (error: NodeJS.ErrnoException) => {
      end(
        new UnreadableDocument(
          error.code === "ERR_WORKER_OUT_OF_MEMORY"
            ? "the file takes more memory to read than is allowed"
            : "the file cannot be read",
          { cause: error },
        ),
      );
    });
    thread.on("exit", () =>
      end(keywords === undefined ? new UnreadableDocument("the file cannot be read") : { chunks, keywords }),
    );
  });
}
