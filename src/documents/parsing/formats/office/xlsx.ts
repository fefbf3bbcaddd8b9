/** XLSX: each sheet that is shown is a section, each row a line. */
import { hasHeader, linesOfTable } from "../csv.ts";
import { type Extracted, Warnings } from "../extracted.ts";
import { Flow } from "../flow.ts";
import { OfficePackage, type Relation } from "./ooxml.ts";
import { allOf, childOf, nodesOf, textIn, within, type XmlNode } from "./xml.ts";

/** Columns and rows of a sheet at most, as the format has them. */
const MAX_COLUMN = 16_384;

/** @throws UnreadableDocument */
export async function readXlsx(bytes: Uint8Array): Promise<Extracted> {
  const office = await OfficePackage.open(bytes, "XLSX workbook");
  const main = office.mainPart;
  const relations = office.relationsOf(main);
  const workbook = office.part(main);
  if (childOf(workbook, "sheets") === undefined) throw office.damaged();
  const strings = nodesOf(office.relatedTo(relations, "sharedstrings")).map(richText);
  const epoch = /^(1|true)$/.test(childOf(workbook, "workbookPr")?.attributes.date1904 ?? "") ? EPOCH_1904 : EPOCH_1900;
  const formats = formatsOf(office.relatedTo(relations, "styles"));
  const flow = new Flow();
  const warnings = new Warnings();
  for (const { attributes } of nodesOf(childOf(workbook, "sheets"))) {
    const { name = "", id = "", state = "visible" } = attributes;
    if (state !== "visible") {
      warnings.add(`a sheet is hidden and was left out (sheet ${attributes.sheetId ?? "?"})`);
      continue;
    }
    const path = relations.get(id)?.target;
    const sheet = office.part(path);
    if (sheet === undefined) continue;
    const rows = rowsOf(sheet, (cell) => shownValue(cell, { strings, formats, epoch }));
    flow.openSection(name);
    flow.verbatim(linesOfTable(rows, hasHeader(rows)).join("\n"));
    writeComments(office, office.relationsOf(path ?? ""), flow);
    flow.paragraph();
  }
  return { ...flow.done(), warnings: warnings.list };
}

/** The runs of a text, without how it is pronounced. */
const richText = (node: XmlNode): string =>
  nodesOf(node)
    .filter(({ name }) => name === "t" || name === "r")
    .map((part) => (part.name === "t" ? textIn(part) : textIn(childOf(part, "t"))))
    .join("");

function rowsOf(sheet: XmlNode, shown: (cell: XmlNode) => string): string[][] {
  return nodesOf(childOf(sheet, "sheetData")).map((row) => {
    const values: string[] = [];
    for (const cell of nodesOf(row)) {
      // What has a format and no value may stand in the last column of all.
      const value = shown(cell);
      if (value !== "") values[columnOf(cell.attributes.r) ?? values.length] = value;
    }
    return values;
  });
}

/** From 0; undefined: the cell does not say. */
function columnOf(reference: string | undefined): number | undefined {
  const letters = /^[A-Z]{1,3}/.exec(reference ?? "")?.[0];
  if (letters === undefined) return undefined;
  const column = [...letters].reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 64, 0) - 1;
  return column < MAX_COLUMN ? column : undefined;
}

type Format = "date" | "time" | "date and time" | "percent" | undefined;

interface Shown {
  readonly strings: readonly string[];
  readonly formats: readonly Format[];
  readonly epoch: number;
}

function shownValue(cell: XmlNode, { strings, formats, epoch }: Shown): string {
  const value = textIn(childOf(cell, "v"));
  switch (cell.attributes.t) {
    case "s":
      return value === "" ? "" : (strings[Number(value)] ?? "");
    case "inlineStr":
      return richText(childOf(cell, "is") ?? cell);
    case "b":
      return value === "1" ? "TRUE" : "FALSE";
    case "str":
    case "e":
    case "d":
      return value;
    default: {
      const format = formats[Number(cell.attributes.s ?? "0")];
      const number = Number(value);
      if (value === "" || format === undefined || !Number.isFinite(number)) return value;
      return format === "percent" ? `${Number((number * 100).toPrecision(12))}%` : moment(number, format, epoch);
    }
  }
}

/** Days from here count dates; the first has a 29th of February in 1900. */
const EPOCH_1900 = Date.UTC(1899, 11, 30);
const EPOCH_1904 = Date.UTC(1904, 0, 1);
const DAY_MS = 86_400_000;

function moment(days: number, format: Exclude<Format, "percent" | undefined>, epoch: number): string {
  const at = new Date(epoch + Math.round(days * 86_400) * 1_000);
  if (Number.isNaN(at.getTime()) || Math.abs(days) > 2_958_466) return String(days);
  const [date, time] = [at.toISOString().slice(0, 10), at.toISOString().slice(11, 19).replace(/:00$/, "")];
  // A span of hours may be longer than a day.
  if (format === "time") return days < 1 ? time : `${Math.floor((days * DAY_MS) / 3_600_000)}${time.slice(2)}`;
  return format === "date" ? date : `${date} ${time}`;
}

/** What the format of each style shows a number as. */
function formatsOf(styles: XmlNode | undefined): Format[] {
  const own = new Map(
    nodesOf(childOf(styles, "numFmts")).map(({ attributes }) => [
      attributes.numFmtId ?? "",
      attributes.formatCode ?? "",
    ]),
  );
  return nodesOf(childOf(styles, "cellXfs")).map(({ attributes: { numFmtId = "0" } }) => {
    const code = own.get(numFmtId);
    return code === undefined ? BUILT_IN[numFmtId] : formatOfCode(code);
  });
}

const BUILT_IN: Readonly<Record<string, Format>> = {
  ...Object.fromEntries(["9", "10"].map((id) => [id, "percent" as const])),
  ...Object.fromEntries(["14", "15", "16", "17", "27", "30", "36", "50", "57"].map((id) => [id, "date" as const])),
  ...Object.fromEntries(["18", "19", "20", "21", "45", "46", "47"].map((id) => [id, "time" as const])),
  "22": "date and time",
};

function formatOfCode(code: string): Format {
  // Words, escapes, colours and conditions are no part of it; [h] is.
  const bare = (code.split(";")[0] ?? "")
    .replace(/"[^"]*"|\\.|_.|\*./g, "")
    .replace(/\[(?!h+\]|m+\]|s+\])[^\]]*\]/gi, "");
  const [hasDate, hasTime] = [/[yd]/i.test(bare), /[hs]/i.test(bare)];
  if (hasDate && hasTime) return "date and time";
  if (hasDate || (/m{3,}/i.test(bare) && !hasTime)) return "date";
  if (hasTime) return "time";
  return bare.includes("%") ? "percent" : undefined;
}

/** Notes on cells, old and new. */
function writeComments(office: OfficePackage, relations: ReadonlyMap<string, Relation>, flow: Flow): void {
  const old = office.relatedTo(relations, "comments");
  const authors = nodesOf(childOf(old, "authors")).map(textIn);
  // Where there is a thread, the old note repeats it.
  const thread = office.relatedTo(relations, "threadedcomment");
  const said = thread === undefined ? nodesOf(childOf(old, "commentList")) : [...allOf(thread, "threadedComment")];
  for (const comment of said) {
    const author = authors[Number(comment.attributes.authorId ?? "-1")];
    const words = richText(childOf(comment, "text") ?? comment).trim() || textIn(within(comment, "text")).trim();
    if (words === "") continue;
    flow.line();
    flow.text(`Comment on ${comment.attributes.ref ?? "a cell"}${author ? ` by ${author}` : ""}: ${words}`);
    flow.line();
  }
}
