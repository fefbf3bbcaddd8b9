import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Chunk } from "./chunk.ts";
import type { Extracted, Reading } from "./formats/extracted.ts";
import type { Picture } from "./formats/picture.ts";
import type { Keyword } from "./keywords.ts";
import { isText, type MediaType } from "./media-type.ts";
import type { FromParser, ToParser, UploadedFile } from "./parser-process.ts";
import { UnreadableDocument } from "./unreadable.ts";

export interface Parsed {
  readonly chunks: readonly Chunk[];
  readonly keywords: readonly Keyword[];
  /** What a person sees in the file and is not in its text. */
  readonly warnings: readonly string[];
  readonly reading: Reading;
}

export interface ParserLimits {
  readonly timeoutMs: number;
  /** Of the parser's JavaScript heap. */
  readonly heapMb: number;
  /** Of all of its memory: buffers lie outside of the heap. Watched on Linux. */
  readonly residentMb: number;
  /** Whether the next process for a file that is no text is started before it is needed. */
  readonly hasSpare: boolean;
  /** The program to run; absent: the one beside this file. */
  readonly entry?: string;
}

export const PARSER_LIMITS: ParserLimits = { timeoutMs: 60_000, heapMb: 512, residentMb: 1_024, hasSpare: true };

const WATCH_MS = 50;

/** From source, in development and tests, the process needs a loader for TypeScript. */
const isSource = import.meta.url.endsWith(".ts");
const ENTRY = fileURLToPath(new URL(isSource ? "./parser-process.ts" : "./parser-process.js", import.meta.url));

const TOO_MUCH_MEMORY = "the file takes more memory to read than is allowed";

interface Answered {
  readonly parsed?: Parsed;
  readonly extracted?: Extracted;
  readonly picture?: Picture;
}

/** One process that parses, a document at a time. */
class ParserProcess {
  readonly #child: ChildProcess;
  readonly #limits: ParserLimits;
  #files = 0;
  #isOver = false;
  /** It is killed, and may not have closed yet. */
  #isKilled = false;

  constructor(limits: ParserLimits) {
    this.#limits = limits;
    this.#child = startParser(limits);
    this.#child.once("close", () => {
      this.#isOver = true;
    });
    this.#child.on("error", () => undefined);
  }

  /** @throws UnreadableDocument for whatever the file is to blame for */
  async extract(file: UploadedFile, leavesPictures: boolean): Promise<Extracted> {
    const { extracted } = await this.#ask({ want: "text", file, leavesPictures });
    if (extracted === undefined) throw new Error("the parser gave no text");
    return extracted;
  }

  /** @throws UnreadableDocument for whatever the file is to blame for */
  async draw(file: UploadedFile, page: number): Promise<Picture> {
    const { picture } = await this.#ask({ want: "picture", file, page });
    if (picture === undefined) throw new Error("the parser gave no picture");
    return picture;
  }

  /** @throws UnreadableDocument for whatever the file is to blame for */
  async cut(from: UploadedFile | Extracted, chunkTokens: number | undefined): Promise<Parsed> {
    const { parsed } = await this.#ask({ want: "chunks", from, chunkTokens });
    if (parsed === undefined) throw new Error("the parser gave no chunks");
    return parsed;
  }

  #ask(asked: ToParser): Promise<Answered> {
    const child = this.#child;
    const chunks: Chunk[] = [];
    let blame: UnreadableDocument | undefined;
    this.#files++;
    return new Promise((resolve, reject) => {
      const unwatch = watchLimits(child, this.#limits, (reason) => {
        blame ??= new UnreadableDocument(reason);
        this.#isKilled = true;
        child.kill("SIGKILL");
      });
      const settle = (done: () => void) => {
        unwatch();
        child.off("message", onMessage).off("error", onError).off("close", onClose);
        done();
      };
      const onMessage = (message: FromParser) => {
        if (message.type === "chunks") for (const chunk of message.chunks) chunks.push(chunk);
        else if (message.type === "unreadable") settle(() => reject(new UnreadableDocument(message.reason)));
        else if (message.type === "extracted") settle(() => resolve({ extracted: message.extracted }));
        else if (message.type === "picture") settle(() => resolve({ picture: message.picture }));
        else {
          const { keywords, warnings, reading } = message;
          settle(() => resolve({ parsed: { chunks, keywords, warnings, reading } }));
        }
      };
      // It could not be started, or not be told: that is the machine's fault, and is tried again.
      const onError = (cause: Error) =>
        settle(() => reject(blame ?? new Error("the parser could not be run", { cause })));
      const onClose = (_: number | null, signal: NodeJS.Signals | null) => {
        // V8 aborts when its heap is full; the kernel kills what uses the machine's last memory.
        const isMemory = signal === "SIGABRT" || signal === "SIGKILL";
        settle(() => reject(blame ?? new UnreadableDocument(isMemory ? TOO_MUCH_MEMORY : "the file cannot be read")));
      };
      child.on("message", onMessage).on("error", onError).on("close", onClose);
      if (this.#isOver) onError(new Error("it has ended"));
      else child.send(asked, (error) => error !== null && onError(error));
    });
  }

  /** Whether it may parse another file. */
  async isFresh(): Promise<boolean> {
    return (
      !this.#isOver &&
      !this.#isKilled &&
      !this.#child.killed &&
      this.#files < MOST_FILES &&
      (await residentMb(this.#child).catch(() => 0)) < MOST_RESIDENT_MB
    );
  }

  async end(): Promise<void> {
    if (this.#isOver) return;
    const closed = once(this.#child, "close");
    this.#child.kill("SIGKILL");
    await closed;
  }
}

/** Files that one process parses, and what memory it may have when it takes another. */
const MOST_FILES = 500;
const MOST_RESIDENT_MB = 400;
const IDLE_MS = 60_000;

/**
 * The processes that parse documents, within limits of time and memory. Text is read by a process that reads on; for
 * each file of another kind there is one of its own, since the libraries that unpack those are large: what a file does
 * to one of them ends with it. The next such process is started before it is needed.
 *
 * Not in worker threads: V8 ends the whole process when a thread's heap is full inside a native call (Node.js 20.20:
 * 9 MB of `[{},{},…]` given to JSON.parse, resourceLimits or not).
 */
export class Parsers {
  readonly #limits: ParserLimits;
  readonly #forText: ParserProcess[] = [];
  #spare: ParserProcess | undefined;
  #idle: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(limits: ParserLimits = PARSER_LIMITS) {
    this.#limits = limits;
  }

  /** @throws UnreadableDocument for whatever the file is to blame for */
  async parse(file: UploadedFile, chunkTokens?: number): Promise<Parsed> {
    return this.cut(isText(file.type) ? file : await this.extract(file), chunkTokens);
  }

  /**
   * Chunks and keywords of a file of text, or of the text that was taken from one of another kind.
   *
   * @throws UnreadableDocument for whatever the file is to blame for
   */
  async cut(from: UploadedFile | Extracted, chunkTokens: number | undefined): Promise<Parsed> {
    const process = this.#forText.pop() ?? new ParserProcess(this.#limits);
    try {
      return await process.cut(from, chunkTokens);
    } finally {
      if (!this.#isStopped && (await process.isFresh())) this.#forText.push(process);
      else await process.end();
      this.#endIdle();
    }
  }

  /**
   * A file's text alone, so that such a process loads no more than the one library.
   *
   * @param leavesPictures places of which there is only a picture are told, and are no warning
   * @throws UnreadableDocument
   */
  extract(file: UploadedFile, leavesPictures = false): Promise<Extracted> {
    return this.#once((process) => process.extract(file, leavesPictures));
  }

  /**
   * A page of a PDF, or a picture, as a model takes it.
   *
   * @param page from 1; of a picture there is one
   * @throws UnreadableDocument
   */
  draw(file: UploadedFile, page: number): Promise<Picture> {
    return this.#once((process) => process.draw(file, page));
  }

  async #once<T>(work: (process: ParserProcess) => Promise<T>): Promise<T> {
    const process = this.#takeSpare() ?? new ParserProcess(this.#limits);
    try {
      return await work(process);
    } finally {
      await process.end();
    }
  }

  #takeSpare(): ParserProcess | undefined {
    const taken = this.#spare;
    this.#spare = this.#limits.hasSpare && !this.#isStopped ? new ParserProcess(this.#limits) : undefined;
    return taken;
  }

  /** After a while without files. */
  #endIdle(): void {
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => void this.#endAll(), IDLE_MS).unref();
  }

  async #endAll(): Promise<void> {
    const all = [...this.#forText.splice(0), ...(this.#spare === undefined ? [] : [this.#spare])];
    this.#spare = undefined;
    await Promise.all(all.map((process) => process.end()));
  }

  /** Ends those that wait; what is at work ends when it is done. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#idle);
    await this.#endAll();
  }
}

/** Parses one document, in a process for it alone. @throws UnreadableDocument */
export async function parseDocument(
  bytes: Uint8Array,
  type: MediaType,
  limits: ParserLimits = PARSER_LIMITS,
): Promise<Parsed> {
  const parsers = new Parsers({ ...limits, hasSpare: false });
  try {
    return await parsers.parse({ bytes, type });
  } finally {
    await parsers.stop();
  }
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
