/** Bytes to text, by the charset that they are in. */
import { analyse } from "chardet";
import type { Reading } from "./formats/extracted.ts";
import { UnreadableDocument } from "./unreadable.ts";

export interface Decoded {
  readonly text: string;
  readonly reading: Pick<Reading, "encoding" | "encodingFrom">;
  readonly warning?: string;
}

export interface DecodeOptions {
  /** As the upload says. */
  readonly declared?: string | undefined;
  /** Whether the file may name its charset as a page does. */
  readonly isHtml?: boolean;
}

/** Bytes that a guess looks at. */
const SAMPLE_BYTES = 64 * 1024;
/** Of bytes that are no ASCII so few tell no Asian charset. */
const FEW_BYTES = 8;
/** Below this share of certainty a guess is none. */
const LEAST_CERTAIN = 10;

const begins = (bytes: Uint8Array, ...magic: number[]) => magic.every((byte, i) => bytes[i] === byte);

/**
 * The text: by its byte order mark, as the upload or the file says, as UTF-8, or as its bytes look.
 *
 * @throws UnreadableDocument for what is no text
 */
export function decodeText(bytes: Uint8Array, { declared, isHtml = false }: DecodeOptions): Decoded {
  const mark = begins(bytes, 0xef, 0xbb, 0xbf)
    ? "utf-8"
    : begins(bytes, 0xff, 0xfe)
      ? "utf-16le"
      : begins(bytes, 0xfe, 0xff)
        ? "utf-16be"
        : undefined;
  const found =
    attempt(bytes, mark, "byte order mark") ??
    attempt(bytes, declared, "declared") ??
    attempt(bytes, isHtml ? charsetOfHtml(bytes) : undefined, "file") ??
    attempt(bytes, "utf-8", undefined) ??
    damagedUtf8(bytes, mark === "utf-8" || labelOf(declared ?? "") === "utf-8") ??
    guessed(bytes);
  if (found === undefined) throw new UnreadableDocument("the file is not text in any charset that is known here");
  if (found.text.includes("\0") || controlsIn(found.text) > found.text.length * 0.02)
    throw new UnreadableDocument("the file is binary, not text");
  const isOther = declared !== undefined && labelOf(declared) !== found.reading.encoding;
  return isOther && mark === undefined
    ? {
        ...found,
        warning: `the upload says that it is ${declared.slice(0, 40)}, and it is not; it was read as ${found.reading.encoding}`,
      }
    : found;
}

/** UTF-8 with a few bytes that are none: cut in the middle of a letter, or put together of several files. */
function damagedUtf8(bytes: Uint8Array, isSaid: boolean): Decoded | undefined {
  const text = new TextDecoder("utf-8").decode(bytes);
  let [bad, good] = [0, 0];
  for (const character of text) {
    if (character === "\ufffd") bad++;
    else if (character > "\u007f") good++;
  }
  if (good < bad * (isSaid ? 1 : 8) || good < 3) return undefined;
  const warning = `${bad} byte${bad === 1 ? " is" : "s are"} no UTF-8, and stand${bad === 1 ? "s" : ""} in the text as U+FFFD`;
  return { text, reading: { encoding: "utf-8", encodingFrom: isSaid ? "declared" : "detected" }, warning };
}

function labelOf(name: string): string | undefined {
  try {
    return new TextDecoder(name.trim()).encoding;
  } catch {
    return undefined;
  }
}

/** What windows-1252 has where Latin-1 has controls; Node.js 20 takes the one for the other. */
const WINDOWS = "€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ";
const fromWindows = (control: string) => WINDOWS[control.charCodeAt(0) - 0x80] as string;

function attempt(
  bytes: Uint8Array,
  name: string | undefined,
  encodingFrom: Reading["encodingFrom"],
): Decoded | undefined {
  const encoding = name === undefined ? undefined : labelOf(name);
  if (encoding === undefined) return undefined;
  try {
    const decoded = new TextDecoder(encoding, { fatal: true }).decode(bytes);
    const text = encoding === "windows-1252" ? decoded.replace(/[\u0080-\u009f]/g, fromWindows) : decoded;
    return { text, reading: encodingFrom === undefined ? {} : { encoding, encodingFrom } };
  } catch {
    return undefined;
  }
}

function guessed(bytes: Uint8Array): Decoded | undefined {
  const sample = bytes.subarray(0, SAMPLE_BYTES);
  let second: Decoded | undefined;
  const isLittle = sample.filter((byte) => byte > 127).length < FEW_BYTES;
  for (const { name, confidence } of analyse(sample)) {
    if (confidence < LEAST_CERTAIN) break;
    // Two letters of a Western word look like one of these.
    if (isLittle && ASIAN.test(name)) continue;
    // Text in these has a mark, or is none.
    if (/^utf-?(16|32)/i.test(name)) continue;
    const read = attempt(bytes, name, "detected");
    if (read === undefined) continue;
    if (looksWritten(read.text, name)) return read;
    second ??= read;
  }
  if (second !== undefined && !isLittle) return second;
  // What Windows writes in the West.
  return isLittle ? attempt(bytes, "windows-1252", "detected") : undefined;
}

/** The charset that a page names in its first bytes, if it does. */
function charsetOfHtml(bytes: Uint8Array): string | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 4_096)).toString("latin1");
  return (
    /<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)/i.exec(head)?.[1] ??
    /^\s*<\?xml[^>]+encoding\s*=\s*["']([A-Za-z0-9_:.-]+)/i.exec(head)?.[1]
  );
}

const LETTERS_SHARE = 0.7;
const ASIAN = /^(shift|euc|gb|big5|iso-2022)/i;

/**
 * Whether what is no ASCII is writing: mostly letters, and in Asia several together. The bytes of another charset are
 * fractions, marks and signs, and a quotation mark before a letter looks like one Asian letter.
 */
function looksWritten(text: string, name: string): boolean {
  const runs = text.slice(0, SAMPLE_BYTES).match(/[^\p{ASCII}]+/gu) ?? [];
  const characters = runs.join("");
  if (characters === "") return true;
  const letters = characters.match(/[\p{L}\p{M}\p{Nd}]/gu)?.length ?? 0;
  const isTogether = !ASIAN.test(name) || characters.length >= 2 * runs.length;
  return isTogether && letters >= LETTERS_SHARE * characters.length;
}

/** Characters that no text has. */
function controlsIn(text: string): number {
  let count = 0;
  for (let i = 0; i < text.length && i < SAMPLE_BYTES; i++) {
    const code = text.charCodeAt(i);
    if (code < 32 ? code !== 9 && code !== 10 && code !== 13 && code !== 12 && code !== 27 : code === 127) count++;
  }
  return count;
}
