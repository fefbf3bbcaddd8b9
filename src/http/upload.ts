import { createHash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { Readable } from "node:stream";
import busboy from "busboy";
import { type SpooledFile, spool } from "../documents/spool.ts";
import { AppError, invalid } from "../errors.ts";
import { parseJson } from "./body.ts";
import { FileHead } from "./file-head.ts";

/** Bytes of an upload's file. */
const UPLOAD_LIMIT = 50 * 1024 * 1024;
const METADATA_LIMIT = 64 * 1024;

/** A multipart body: its file on disk, and what its metadata says, not yet checked. */
export interface Upload {
  readonly file: SpooledFile;
  readonly filename: string;
  /** The content type of the file's part, without its parameters. */
  readonly partType: string;
  /** The charset that the part's content type names. */
  readonly charset: string | undefined;
  readonly metadata: unknown;
  /** What makes two requests the same for an idempotency key: everything but the boundary. */
  readonly digest: Buffer;
}

/**
 * Reads `multipart/form-data` with the parts `file` and `metadata` (JSON), in either order, as a stream.
 *
 * @throws AppError 400, 413, 415
 */
export async function readUpload(request: IncomingMessage): Promise<Upload> {
  if (!/^multipart\/form-data\s*;/i.test(request.headers["content-type"] ?? "")) {
    throw new AppError(
      "unsupported-media-type",
      "the body must be multipart/form-data with the parts file and metadata",
    );
  }
  if (request.headers["content-encoding"] !== undefined && request.headers["content-encoding"] !== "identity") {
    throw new AppError("unsupported-media-type", "compressed request bodies are not accepted");
  }
  // The parts' own headers take some bytes too.
  if (Number(request.headers["content-length"] ?? 0) > UPLOAD_LIMIT + METADATA_LIMIT + 16 * 1024) throw tooLarge();
  const read = await readParts(request);
  const { spooled, metadata, charset } = read;
  if (spooled === undefined) throw invalid('file: the part named "file" is missing');
  try {
    const parsed = metadata === undefined ? {} : parseJson(Buffer.from(metadata), "application/json");
    const digest = createHash("sha256")
      .update(spooled.file.hash)
      .update("\0")
      .update(spooled.filename)
      .update("\0")
      .update(spooled.partType)
      .update("\0")
      .update(charset ?? "")
      .update("\0")
      .update(metadata ?? "")
      .digest();
    return { ...spooled, charset, metadata: parsed ?? {}, digest };
  } catch (error) {
    await spooled.file.discard();
    throw error;
  }
}

/** @throws AppError 400: as in a body of JSON, what is no UTF-8 is not taken for something else */
function utf8(bytes: Buffer): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new AppError("validation-error", "metadata: must be UTF-8", { cause });
  }
}

const tooLarge = () => new AppError("payload-too-large", `the file is over ${UPLOAD_LIMIT} bytes`);

async function readField(stream: Readable): Promise<string> {
  const read: Buffer[] = [];
  let size = 0;
  for await (const part of stream) {
    size += (part as Buffer).length;
    if (size > METADATA_LIMIT) throw invalid(`metadata is over ${METADATA_LIMIT} bytes`);
    read.push(part as Buffer);
  }
  return utf8(Buffer.concat(read));
}

interface Parts {
  spooled: { file: SpooledFile; filename: string; partType: string } | undefined;
  metadata: string | undefined;
  charset: string | undefined;
}

/** Bytes that are read on and thrown away after a refusal, so that the client reads the answer. */
const MAX_DRAINED_BYTES = 64 * 1024 * 1024;

function drain(request: IncomingMessage): void {
  let size = 0;
  request.on("data", (part: Buffer) => {
    size += part.length;
    if (size > MAX_DRAINED_BYTES) request.destroy();
  });
}

const unknownPart = (name: string | undefined) =>
  invalid(
    `the multipart body has an unknown part ${JSON.stringify((name ?? "").slice(0, 80))}; the parts are file and metadata`,
  );
const cutShort = (cause?: unknown) =>
  new AppError("validation-error", "the body could not be read to its end", { cause });

const BUSBOY_LIMITS = {
  files: 2,
  fields: 1,
  parts: 3,
  fileSize: UPLOAD_LIMIT + 1,
  fieldSize: METADATA_LIMIT,
  fieldNameSize: 100,
  headerPairs: 20,
};

function parserOf({ headers }: IncomingMessage): busboy.Busboy {
  try {
    return busboy({ headers, defParamCharset: "utf8", limits: BUSBOY_LIMITS });
  } catch (cause) {
    throw new AppError("validation-error", "the multipart body has no boundary", { cause });
  }
}

async function readParts(request: IncomingMessage): Promise<Parts> {
  if (request.destroyed) throw cutShort();
  const parser = parserOf(request);
  const taker = new PartTaker();
  const head = new FileHead();
  await new Promise<void>((resolve) => {
    taker.onFailure = resolve;
    // busboy's types promise a name and a file name; a part need have neither.
    parser.on("file", (name: string | undefined, stream, info: Partial<busboy.FileInfo>) =>
      taker.takeFilePart(name, stream, info),
    );
    parser.on("field", (name: string | undefined, value, { valueTruncated }) =>
      taker.takeField(name, value, valueTruncated),
    );
    for (const limit of ["filesLimit", "fieldsLimit", "partsLimit"] as const) {
      const tooMany = "the multipart body has more parts than file and metadata, once each";
      parser.on(limit, () => taker.fail(invalid(tooMany)));
    }
    parser.on("error", (cause) =>
      taker.fail(new AppError("validation-error", "the multipart body is malformed", { cause })),
    );
    parser.on("close", resolve);
    request.on("error", (cause) => taker.fail(cutShort(cause)));
    request.on("close", () => {
      if (!request.complete) taker.fail(cutShort());
    });
    request.pipe(head).pipe(parser);
  });
  if (taker.failure !== undefined) {
    request.unpipe(head);
    drain(request);
    parser.destroy();
  }
  return { ...(await taker.taken()), charset: head.charset };
}

/** Takes the parts of one body as they come; the first thing that is wrong is what is told. */
class PartTaker {
  failure: unknown;
  onFailure: () => void = () => undefined;
  readonly #parts: Omit<Parts, "charset"> = { spooled: undefined, metadata: undefined };
  readonly #filing: Promise<void>[] = [];
  #hasFile = false;

  fail(error: unknown): void {
    this.failure ??= error;
    this.onFailure();
  }

  takeField(name: string | undefined, value: string, isTruncated: boolean): void {
    if (name !== "metadata") this.fail(unknownPart(name));
    else if (isTruncated) this.fail(invalid(`metadata is over ${METADATA_LIMIT} bytes`));
    // What busboy could not decode, it has replaced by this.
    else if (value.includes("\ufffd"))
      this.fail(invalid("metadata: must be UTF-8 (U+FFFD itself is written as an escape)"));
    else this.#takeMetadata(value);
  }

  takeFilePart(name: string | undefined, stream: Readable, info: Partial<busboy.FileInfo>): void {
    // First of all: a stream that fails before anyone reads it would end the process.
    stream.on("error", () => undefined);
    if (name === "metadata") {
      // In a part with a file name, as browsers send a Blob.
      this.#file(readField(stream).then((text) => this.#takeMetadata(text)));
    } else if (name === "file" && !this.#hasFile) {
      this.#hasFile = true;
      stream.on("limit", () => this.fail(tooLarge()));
      this.#file(this.#takeFile(stream, info.filename ?? "", info.mimeType ?? ""));
    } else {
      stream.resume();
      this.fail(name === "file" ? invalid("the multipart body has more than one file") : unknownPart(name));
    }
  }

  /** What there is once all of it is on disk. */
  async taken(): Promise<Omit<Parts, "charset">> {
    await Promise.all(this.#filing);
    if (this.failure === undefined) return this.#parts;
    await this.#parts.spooled?.file.discard();
    throw this.failure;
  }

  #file(filing: Promise<void>): void {
    this.#filing.push(filing.catch((error: unknown) => this.fail(error)));
  }

  #takeMetadata(text: string): void {
    if (this.#parts.metadata !== undefined) this.fail(invalid("the multipart body has metadata twice"));
    this.#parts.metadata = text;
  }

  async #takeFile(stream: Readable, filename: string, partType: string): Promise<void> {
    const file = await spool(stream);
    this.#parts.spooled = { file, filename: filename.slice(-255), partType };
    if (file.size > UPLOAD_LIMIT) this.fail(tooLarge());
  }
}
