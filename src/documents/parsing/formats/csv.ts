/** Tables of text: values with a character between, a record a line. */
import { type Extracted, Warnings } from "./extracted.ts";

/** Of two that fit as well the first: a comma is in numbers and in sentences too. */
const DELIMITERS = ["\t", ";", "|", ","] as const;
/** Records that are looked at to find out what a file is. */
const SAMPLE = 200;

export interface CsvTable {
  readonly rows: string[][];
  readonly delimiter: string;
}

/** Reads a table; what a person sees in a line that is not as it should be is kept, and said. */
export function readCsv(text: string, warnings: Warnings): CsvTable {
  const named = /^sep=(.)\r?\n/i.exec(text);
  const body = named === null ? text : text.slice(named[0].length);
  const delimiter = named?.[1] ?? delimiterOf(body);
  return {
    rows: [...records(body, delimiter, (line) => unclosed(line + (named === null ? 0 : 1), warnings))],
    delimiter,
  };
}

const unclosed = (line: number, warnings: Warnings) =>
  warnings.add(`line ${line}: a quote is not closed; it was read as text`);

/** The one that cuts the records into as many values each. */
function delimiterOf(text: string): string {
  let best: { delimiter: string; share: number; width: number } | undefined;
  for (const delimiter of DELIMITERS) {
    const widths: number[] = [];
    for (const record of records(text, delimiter, () => undefined)) {
      widths.push(record.length);
      if (widths.length === SAMPLE) break;
    }
    const counts = new Map<number, number>();
    for (const width of widths) counts.set(width, (counts.get(width) ?? 0) + 1);
    const [width, count] = [...counts].sort((a, b) => b[1] - a[1] || b[0] - a[0])[0] ?? [1, 0];
    const share = width < 2 ? 0 : count / widths.length;
    if (best === undefined || share > best.share + 1e-9) best = { delimiter, share, width };
  }
  return best === undefined || best.share === 0 ? "," : best.delimiter;
}

/**
 * Records as RFC 4180 has them. A quote inside a value is text, and so is one that is never closed: no library here
 * reads on behind those.
 */
function* records(text: string, delimiter: string, onUnclosed: (line: number) => void): Generator<string[]> {
  let at = 0;
  let line = 1;
  // No quote from here on is closed: looked for once, and not again from each quote.
  let closesUntil = text.length;
  while (at < text.length) {
    const record: string[] = [];
    for (;;) {
      let value = "";
      const end = text[at] === '"' && at < closesUntil ? closingQuote(text, at, delimiter) : undefined;
      if (end === "never" || end === "another opens") {
        if (end === "never") closesUntil = at;
        onUnclosed(line);
      }
      if (typeof end !== "number") {
        const from = at;
        while (at < text.length && text[at] !== delimiter && text[at] !== "\n" && text[at] !== "\r") at++;
        value = text.slice(from, at);
      } else {
        value = text.slice(at + 1, end).replaceAll('""', '"');
        for (let i = at; i < end; i++) if (text[i] === "\n") line++;
        at = end + 1;
      }
      record.push(value);
      if (text[at] !== delimiter) break;
      at++;
    }
    if (text[at] === "\r") at++;
    if (text[at] === "\n") at++;
    line++;
    if (record.some((value) => value.trim() !== "")) yield record;
  }
}

/** Where a quoted value ends: at a quote behind which a value, a line or the file ends. Before that no other value may open with one. */
function closingQuote(text: string, opened: number, delimiter: string): number | "never" | "another opens" {
  const isEdge = (c: string | undefined) => c === undefined || c === delimiter || c === "\n" || c === "\r";
  for (let at = text.indexOf('"', opened + 1); at >= 0; at = text.indexOf('"', at + 1)) {
    const next = text[at + 1];
    if (next === '"') at++;
    else if (isEdge(next)) return at;
    else if (isEdge(text[at - 1])) return "another opens";
  }
  return "never";
}

const NUMBER = /^[-+(]?[$€£¥]?\s*\d[\d.,\s'’]*\s*[%$€£¥)]?$/;
const LONGEST_NUMBER = 100;
const DATE = /^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?$/;
const ADDRESS = /^(https?:\/\/\S+|\S+@\S+\.\S+)$/i;
const isData = (value: string) => value.length <= LONGEST_NUMBER && isShortData(value);
const isShortData = (value: string) => NUMBER.test(value) || DATE.test(value) || ADDRESS.test(value);
const YEAR = /^(19|20)\d\d$/;

/** Whether the first record names the columns: words, each once, over values. */
export function hasHeader(rows: readonly (readonly string[])[]): boolean {
  const [first = [], ...rest] = rows;
  const names = first.map((value) => value.trim()).filter((value) => value !== "");
  if (rest.length === 0 || names.length === 0) return false;
  if (new Set(names.map((name) => name.toLowerCase())).size < names.length) return false;
  // A title over a table is no row of names.
  const widths = rest.map((row) => row.filter((value) => value.trim() !== "").length).sort((a, b) => a - b);
  if (names.length < 0.6 * (widths[Math.floor(widths.length / 2)] ?? 0)) return false;
  // Years stand over columns, too.
  return !names.some((name) => isData(name) && !YEAR.test(name)) && !names.every((name) => YEAR.test(name));
}

/** One line for each record, each value under its column's name. */
export function linesOfTable(rows: readonly (readonly string[])[], header: boolean): string[] {
  const names = header ? (rows[0] ?? []) : [];
  const clean = (value: string) =>
    value
      .split(/\r?\n/)
      .map((line) => line.trim())
      .join(" ")
      .trim();
  // A column without a value says its name in no line.
  const isUnsaid = names.some(
    (name, i) => name.trim() !== "" && rows.slice(1).every((row) => (row[i] ?? "").trim() === ""),
  );
  const first = isUnsaid
    ? [
        names
          .map(clean)
          .filter((name) => name !== "")
          .join(", "),
      ]
    : [];
  const lines = rows
    .slice(header ? 1 : 0)
    .map((row) =>
      row
        .flatMap((value, i) => {
          const name = clean(names[i] ?? "");
          return value.trim() === "" ? [] : [name === "" ? clean(value) : `${name}: ${clean(value)}`];
        })
        .join(header ? "; " : ", "),
    )
    .filter((line) => line !== "");
  return [...first, ...lines];
}

/** A file that is a table. */
export function readTable(text: string): Extracted {
  const warnings = new Warnings();
  const { rows, delimiter } = readCsv(text, warnings);
  const header = hasHeader(rows);
  const body = linesOfTable(rows, header).join("\n");
  return {
    text: body,
    sections: [{ title: null, start: 0, end: body.length }],
    warnings: warnings.list,
    reading: { delimiter: delimiter === "\t" ? "tab" : delimiter, header },
  };
}
