import { Transform, type TransformCallback } from "node:stream";
import { charsetIn } from "../documents/parsing/media-type.ts";

/** The parts' own headers begin within so much of a body: the metadata may stand before the file. */
const HEAD_BYTES = 96 * 1024;
/** Bytes of a header's line. */
const LINE_BYTES = 1_000;
const LINE_END = Buffer.from("\r\n");

/** What a file without a name is called. */
const UNNAMED = "upload";

/**
 * Passes a multipart body on, and looks at the header of its part `file`: busboy 1.6 keeps the charset of its type
 * to itself, and takes a part without a file name for a field, of which it keeps no byte that is not text.
 */
export class FileHead extends Transform {
  charset: string | undefined;
  #line: Buffer = Buffer.alloc(0); // not passed on yet
  /** Of the part that begins; undefined: this is no header. */
  #header: string[] | undefined;
  #seen = 0;
  #isDone = false;

  override _transform(part: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    if (this.#isDone) {
      done(null, part);
      return;
    }
    this.#seen += part.length;
    let from = Math.max(0, this.#line.length - 1);
    let rest = Buffer.concat([this.#line, part]);
    this.#line = Buffer.alloc(0);
    while (!this.#isDone) {
      const end = rest.indexOf(LINE_END, from);
      if (end < 0) break;
      this.push(Buffer.concat([this.#pass(rest.subarray(0, end)), LINE_END]));
      rest = rest.subarray(end + LINE_END.length);
      from = 0;
    }
    if (this.#seen > HEAD_BYTES) this.#isDone = true;
    // Of a line that is too long for a header nothing is kept, but what may be half of its end.
    const isLong = rest.length > LINE_BYTES;
    const kept = this.#isDone ? 0 : isLong ? Number(rest.at(-1) === LINE_END[0]) : rest.length;
    this.#line = rest.subarray(rest.length - kept);
    if (rest.length > kept) this.push(rest.subarray(0, rest.length - kept));
    done();
  }

  override _flush(done: TransformCallback): void {
    done(null, this.#line);
  }

  #pass(line: Buffer): Buffer {
    const text = line.subarray(0, LINE_BYTES).toString("latin1");
    if (text.startsWith("--")) this.#header = [];
    else if (text === "" && this.#header?.some(isOfFile)) {
      this.charset = charsetIn(this.#header.find((one) => /^content-type:/i.test(one)) ?? "");
      this.#isDone = true;
    } else if (text === "") this.#header = undefined;
    else if (this.#header !== undefined) {
      this.#header.push(text);
      if (isOfFile(text) && !/\bfilename\*?=/i.test(text))
        return Buffer.concat([line, Buffer.from(`; filename="${UNNAMED}"`)]);
    }
    return line;
  }
}

const isOfFile = (line: string) => /^content-disposition:.*\bname="?file"?(;|\s|$)/i.test(line);
