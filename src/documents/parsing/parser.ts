import { type ChildProcess, fork } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Chunk } from "./chunk.ts";
import type { Keyword } from "./keywords.ts";
import type { MediaType } from "./media-type.ts";
import type { FromParser, ToParser } from "./parser-process.ts";
import { UnreadableDocument } from "./unreadable.ts";

export interface Parsed {
  readonly chunks: readonly Chunk[];
  readonly keywords: readonly Keyword[];
}

export interface ParserLimits {
  readonly timeoutMs: number;
  /** Of the parser's JavaScript heap. */
  readonly heapMb: number;
  /** Of all of its memory: buffers lie outside of the heap. Watched on Linux. */
  readonly residentMb: number;
  /** The program to run; absent: the one beside this file. */
  readonly entry?: string;
}

export const PARSER_LIMITS: ParserLimits = { timeoutMs: 60_000, heapMb: 512, residentMb: 1_024 };

const WATCH_MS = 50;

/** From source, in development and tests, the process needs a loader for TypeScript. */
const isSource = import.meta.url.endsWith(".ts");
const ENTRY = fileURLToPath(new URL(isSource ? "./parser-process.ts" : "./parser-process.js", import.meta.url));

const TOO_MUCH_MEMORY = "the file takes more memory to read than is allowed";

/**
 * Parses a document in a process of its own, within limits of time and memory.
 *
 * Not in a worker thread: V8 ends the whole process when a thread's heap is full inside a native
 * call (Node.js 20.20: 9 MB of `[{},{},…]` given to JSON.parse, resourceLimits or not).
 *
 * @throws UnreadableDocument for whatever the file is to blame for
 */
export function parseDocument(
  bytes: Uint8Array,
  type: MediaType,
  limits: ParserLimits = PARSER_LIMITS,
  chunkTokens?: number,
): Promise<Parsed> {
  const parser = startParser(limits);
  const chunks: Chunk[] = [];
  let keywords: readonly Keyword[] | undefined;
  let blame: UnreadableDocument | undefined;
  return new Promise<Parsed>((resolve, reject) => {
    const unwatch = watchLimits(parser, limits, (reason) => {
      blame ??= new UnreadableDocument(reason);
      parser.kill("SIGKILL");
    });
    parser.on("message", (message: FromParser) => {
      if (message.type === "chunks") for (const chunk of message.chunks) chunks.push(chunk);
      else if (message.type === "keywords") keywords = message.keywords;
      else blame ??= new UnreadableDocument(message.reason);
    });
    parser.on("error", (cause) => {
      // It could not be started, or not be told: that is the machine's fault, and is tried again.
      unwatch();
      reject(blame ?? new Error("the parser could not be run", { cause }));
    });
    // After its last message, unlike "exit".
    parser.on("close", (code, signal) => {
      unwatch();
      if (blame !== undefined) reject(blame);
      else if (keywords !== undefined && code === 0) resolve({ chunks, keywords });
      // V8 aborts when its heap is full; the kernel kills what uses the machine's last memory.
      else if (signal === "SIGABRT" || signal === "SIGKILL") reject(new UnreadableDocument(TOO_MUCH_MEMORY));
      else reject(new UnreadableDocument("the file cannot be read"));
    });
    parser.send({ bytes, type, chunkTokens } satisfies ToParser);
  });
}

function startParser({ entry, heapMb }: ParserLimits): ChildProcess {
  const needsLoader = isSource && entry === undefined;
  return fork(entry ?? ENTRY, [], {
    execArgv: [`--max-old-space-size=${heapMb}`, ...(needsLoader ? ["--import", "tsx"] : [])],
    // Nothing of the environment: parsers have no use for keys.
    env: {},
    serialization: "advanced",
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
}

/** Calls `stop` with the reason when a limit is passed; gives what ends the watch. */
function watchLimits(
  parser: ChildProcess,
  { timeoutMs, residentMb: mostMb }: ParserLimits,
  stop: (reason: string) => void,
): () => void {
  const deadline = setTimeout(() => stop(`the file took longer than ${timeoutMs / 1000} s to read`), timeoutMs);
  const watch = setInterval(() => {
    residentMb(parser).then(
      (mb) => mb > mostMb && stop(TOO_MUCH_MEMORY),
      () => undefined, // it has ended, or this is not Linux
    );
  }, WATCH_MS);
  return () => {
    clearTimeout(deadline);
    clearInterval(watch);
  };
}

async function residentMb({ pid }: ChildProcess): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
}
