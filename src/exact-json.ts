/**
 * JSON whose numbers are digits. JavaScript's numbers are doubles: 1546130668394913822 would come back as
 * 1546130668394913800. A number that a double holds is a number here; any other is an {@link ExactNumber},
 * which {@link stringifyJson} writes as it was read. Strings are never touched.
 *
 * (Node.js 20 has no JSON.rawJSON, and its JSON.parse does not show a reviver the source. So such a number
 * travels through JSON's own functions as a string with a mark that no stored string has: U+0000 is refused
 * before anything is stored, and the mark is of this process alone.)
 */
import { randomUUID } from "node:crypto";

/** A JSON number that no double holds, in its own digits. */
export class ExactNumber {
  readonly digits: string;

  constructor(digits: string) {
    this.digits = digits;
  }

  toJSON(): string {
    return `${MARK}${this.digits}`;
  }

  toString(): string {
    return this.digits;
  }
}

const MARK = `\0${randomUUID()}:`;
const WRITTEN = new RegExp(`"\\\\u0000${MARK.slice(1)}([-+.eE0-9]+)"`, "g");

/** What may be such a number: 16 digits or more, or an exponent. */
const SUSPECT = /\d[\d.]{15}|\d[eE]/;
/** Parses JSON. @throws SyntaxError as JSON.parse does */
export function parseJson(text: string): unknown {
  if (!SUSPECT.test(text)) return JSON.parse(text);
  const parts: string[] = [];
  let kept = 0;
  for (const { start, end, mayBeNoDouble } of numbersIn(text)) {
    if (!mayBeNoDouble) continue;
    const number = text.slice(start, end);
    if (!JSON_NUMBER.test(number) || isDouble(number)) continue; // JSON.parse refuses what is no number
    parts.push(text.slice(kept, start), `"\\u0000${MARK.slice(1)}${number}"`);
    kept = end;
  }
  if (kept === 0) return JSON.parse(text);
  return JSON.parse([...parts, text.slice(kept)].join(""), (_, value) => unmarked(value));
}

/** The same with every number a string of its own digits: `1.10` stays what it is. @throws SyntaxError */
export function parseNumbersAsText(text: string): unknown {
  const parts: string[] = [];
  let kept = 0;
  for (const { start, end } of numbersIn(text)) {
    const number = text.slice(start, end);
    // Most numbers are written as they are printed.
    if (!JSON_NUMBER.test(number) || String(Number(number)) === number) continue;
    parts.push(text.slice(kept, start), `"${number}"`);
    kept = end;
  }
  return JSON.parse([...parts, text.slice(kept)].join(""));
}

const JSON_NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const isOfNumber = (c: number) =>
  (c >= 0x30 && c <= 0x39) || c === 0x2e || c === 0x2b || c === 0x2d || (c | 0x20) === 0x65;

/**
 * Where numbers stand. By hand: a pattern that skips strings takes 5 s for
 * 16 MB of short numbers, and overflows the stack on one long string of escapes.
 */
function* numbersIn(
  text: string,
): Generator<{ readonly start: number; readonly end: number; readonly mayBeNoDouble: boolean }> {
  for (let at = 0; at < text.length; at++) {
    const c = text.charCodeAt(at);
    if (c === QUOTE) {
      for (at++; at < text.length && text.charCodeAt(at) !== QUOTE; at++) if (text.charCodeAt(at) === BACKSLASH) at++;
    } else if (c === 0x2d || (c >= 0x30 && c <= 0x39)) {
      const start = at;
      let hasExponent = false;
      for (at++; at < text.length && isOfNumber(text.charCodeAt(at)); at++)
        hasExponent ||= (text.charCodeAt(at) | 0x20) === 0x65;
      // A double holds every number of 15 digits.
      yield { start, end: at, mayBeNoDouble: at - start > 15 || hasExponent };
      at--;
    }
  }
}

const unmarked = (value: unknown) =>
  typeof value === "string" && value.startsWith(MARK) ? new ExactNumber(value.slice(MARK.length)) : value;

/** A value as JSON, its exact numbers in their digits. */
export function stringifyJson(value: unknown): string {
  const text = JSON.stringify(value);
  return text?.includes(MARK.slice(1)) ? text.replace(WRITTEN, "$1") : text;
}

/** Whether the double nearest to a number is that number, as far as it is written. */
function isDouble(number: string): boolean {
  if (number.length <= 15 && !/[eE][+-]?\d{3}/.test(number)) return true;
  const nearest = Number(number);
  return Number.isFinite(nearest) && sameDecimal(number, String(nearest));
}

const sameDecimal = (a: string, b: string) => {
  const [one, other] = [decimalOf(a), decimalOf(b)];
  return one.digits === other.digits && (one.digits === "" || one.exponent === other.exponent);
};

/** Sign and significant digits without zeros at either end, and the power of ten of the last of them. */
function decimalOf(number: string): { readonly digits: string; readonly exponent: number } {
  const [, sign = "", whole = "", fraction = "", power = "0"] =
    /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(number) ?? [];
  const all = `${whole}${fraction}`.replace(/^0+/, "");
  let end = all.length;
  while (end > 0 && all.charAt(end - 1) === "0") end--;
  const digits = all.slice(0, end);
  return digits === ""
    ? { digits, exponent: 0 }
    : { digits: `${sign}${digits}`, exponent: Number(power) - fraction.length + (all.length - end) };
}

/** Characters of a number that is stored. */
const MOST_DIGITS = 1_000;

/** Why a number cannot be stored: it is beyond a double's reach, or too long; undefined: it can. */
export function problemOfNumber({ digits }: ExactNumber): string | undefined {
  if (digits.length > MOST_DIGITS) return `is a number of more than ${MOST_DIGITS} characters`;
  const nearest = Number(digits);
  if (!Number.isFinite(nearest)) return `is a number out of range (${digits.slice(0, 40)}): at most about 1.8e308`;
  if (nearest === 0 && /[1-9]/.test(digits.split(/[eE]/)[0] ?? ""))
    return `is a number out of range (${digits.slice(0, 40)}): nearer to zero than about 5e-324`;
  return undefined;
}

/** A value in words: a string as it is, anything else as JSON. */
export const spellValue = (value: unknown): string => (typeof value === "string" ? value : stringifyJson(value));
