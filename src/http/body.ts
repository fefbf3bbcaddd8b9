import type { IncomingMessage } from "node:http";
import getRawBody from "raw-body";
import { AppError, invalid } from "../errors.ts";
import { ExactNumber, parseJson as parseExact, problemOfNumber } from "../exact-json.ts";

/** Bytes of a JSON body, unless the route says otherwise. */
export const JSON_LIMIT = 1024 * 1024;
const MAX_DEPTH = 32;

/** The raw bytes of a request, refused over the limit before anything is parsed. */
export async function readBody(request: IncomingMessage, limit: number): Promise<Buffer> {
  if (request.headers["content-encoding"] !== undefined && request.headers["content-encoding"] !== "identity") {
    throw new AppError("unsupported-media-type", "compressed request bodies are not accepted");
  }
  try {
    return await getRawBody(request, { limit, length: request.headers["content-length"] });
  } catch (cause) {
    const type = (cause as { type?: string }).type;
    if (type === "entity.too.large") {
      throw new AppError("payload-too-large", `the body is over ${limit} bytes`, { cause });
    }
    throw new AppError("validation-error", "the body could not be read to its end", { cause });
  }
}

const BODY = "the body";

/** Depth of nesting, counted before parsing; brackets inside strings do not count. */
function refuseDeepNesting(text: string): void {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (inString) {
      if (c === 0x5c) i++;
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x7b || c === 0x5b) {
      if (++depth > MAX_DEPTH) throw invalid(`the JSON is nested deeper than ${MAX_DEPTH} levels`);
    } else if (c === 0x7d || c === 0x5d) depth--;
  }
}

/** PostgreSQL stores neither U+0000 nor half a surrogate pair, and no number is kept that clients could not read: refused here, with the place. */
export function refuseUnstorable(value: unknown, path = BODY): void {
  if (typeof value === "string") {
    if (value.includes("\0")) throw invalid(`${path} contains U+0000, which cannot be stored`);
    if (!value.isWellFormed()) throw invalid(`${path} contains a lone surrogate, which is not valid Unicode`);
  } else if (value instanceof ExactNumber) {
    const problem = problemOfNumber(value);
    if (problem !== undefined) throw invalid(`${path} ${problem}`);
  } else if (typeof value === "object" && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      refuseUnstorable(key, `a key of ${path}`);
      refuseUnstorable(item, Array.isArray(value) ? `${path}[${key}]` : path === BODY ? key : `${path}.${key}`);
    }
  }
}

/** A JSON body; undefined when there is none. */
export function parseJson(bytes: Buffer, contentType: string | undefined): unknown {
  if (bytes.length === 0) return undefined;
  if (!/^application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$/i.test(contentType ?? "")) {
    throw new AppError("unsupported-media-type", "the body must be application/json in UTF-8");
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new AppError("validation-error", "the body is not valid UTF-8", { cause });
  }
  refuseDeepNesting(text);
  let value: unknown;
  try {
    value = parseExact(text);
  } catch (cause) {
    throw new AppError("validation-error", "the body is not valid JSON", { cause });
  }
  refuseUnstorable(value);
  return value;
}
