/** Runs in the parser's process: bytes to text, by the type that the upload said it is. */
import { MEDIA_TYPES, type MediaType } from "./media-type.ts";
import { UnreadableDocument } from "./unreadable.ts";

/** A part of the text under one heading, in UTF-16 units. */
export interface Section {
  readonly title: string | null;
  readonly start: number;
  readonly end: number;
}

export interface Extracted {
  readonly text: string;
  readonly sections: readonly Section[];
}

/** Characters of text that a document may come to. */
const MOST_CHARACTERS = 64 * 1024 * 1024;

/** @throws UnreadableDocument */
export async function extract(bytes: Uint8Array, type: MediaType): Promise<Extracted> {
  if (bytes.length === 0) throw new UnreadableDocument("the file is empty");
  refuseMislabelled(bytes, type);
  const extracted = await EXTRACTORS[type](bytes);
  // U+0000 cannot be stored; half a surrogate pair is not text.
  const text = extracted.text.replaceAll("\0", " ").toWellFormed();
  if (text.length > MOST_CHARACTERS)
    throw new UnreadableDocument(`the file has more than ${MOST_CHARACTERS} characters of text`);
  if (text.trim() === "") {
    throw new UnreadableDocument(
      type === MEDIA_TYPES.pdf
        ? "the PDF has no text: its pages are images, as of a scan, or empty"
        : "there is no text in the file",
    );
  }
  return { text, sections: extracted.sections };
}

const EXTRACTORS: Record<MediaType, (bytes: Uint8Array) => Promise<Extracted>> = {
  [MEDIA_TYPES.text]: async (bytes) => whole(decode(bytes)),
  [MEDIA_TYPES.markdown]: async (bytes) => underHeadings(decode(bytes)),
  [MEDIA_TYPES.html]: async (bytes) => underHeadings(await htmlToMarkdown(decode(bytes))),
  [MEDIA_TYPES.csv]: async (bytes) => whole(await readRecords(decode(bytes))),
  [MEDIA_TYPES.json]: async (bytes) => whole(readJson(decode(bytes))),
  [MEDIA_TYPES.pdf]: readPdf,
  [MEDIA_TYPES.docx]: readDocx,
};

const whole = (text: string): Extracted => ({ text, sections: [{ title: null, start: 0, end: text.length }] });

const begins = (bytes: Uint8Array, ...magic: number[]) => magic.every((byte, i) => bytes[i] === byte);

function refuseMislabelled(bytes: Uint8Array, type: MediaType): void {
  // %PDF within the first kilobyte, as readers accept it.
  const isPdf = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 1024)).includes("%PDF-");
  const isZip = begins(bytes, 0x50, 0x4b, 0x03, 0x04) || begins(bytes, 0x50, 0x4b, 0x05, 0x06);
  const isOldOffice = begins(bytes, 0xd0, 0xcf, 0x11, 0xe0);
  if (type === MEDIA_TYPES.pdf) {
    if (!isPdf) throw new UnreadableDocument("the file says it is a PDF and is not one");
  } else if (type === MEDIA_TYPES.docx) {
    if (isOldOffice)
      throw new UnreadableDocument(
        "the file is an encrypted or an old Word document; save it as DOCX without a password",
      );
    if (!isZip) throw new UnreadableDocument("the file says it is a DOCX document and is not one");
  } else if ((isPdf && begins(bytes, 0x25, 0x50, 0x44, 0x46)) || isZip || isOldOffice) {
    throw new UnreadableDocument(`the file says it is ${type} and is a ${isPdf ? "PDF" : "binary"} file`);
  }
}

/** UTF-8, or UTF-16 with a byte order mark. */
function decode(bytes: Uint8Array): string {
  const encoding = begins(bytes, 0xff, 0xfe) ? "utf-16le" : begins(bytes, 0xfe, 0xff) ? "utf-16be" : "utf-8";
  let text: string;
  try {
    text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new UnreadableDocument("the file is not text in UTF-8 (or UTF-16 with a byte order mark)", { cause });
  }
  if (text.includes("\0")) throw new UnreadableDocument("the file is binary, not text");
  return text;
}

/** ATX and setext headings outside of fenced code; the heading belongs to the section that it opens. */
function underHeadings(text: string): Extracted {
  const sections: Section[] = [];
  let title: string | null = null;
  let start = 0;
  let fence: string | undefined;
  let previous: { at: number; line: string } | undefined;
  const open = (at: number, heading: string) => {
    if (at > start) sections.push({ title, start, end: at });
    title = heading.replace(/[*`]+/g, "").trim().slice(0, 300) || null;
    start = at;
  };
  // Front matter is about the file, and its rule is no underline.
  const body = /^---\r?\n[\s\S]*?\n---\r?\n/.exec(text)?.[0].length ?? 0;
  for (const match of text.matchAll(/^.*$/gm)) {
    if (match.index < body) continue;
    const line = match[0].trimEnd();
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1];
    if (mark !== undefined && (fence === undefined || (mark.startsWith(fence) && line.trim() === mark))) {
      fence = fence === undefined ? mark : undefined;
    } else if (fence === undefined) {
      const heading = /^ {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?$/.exec(line)?.[1];
      if (heading !== undefined) open(match.index, heading);
      else if (/^ {0,3}(=+|-{2,})$/.test(line) && previous !== undefined && /^ {0,3}[^\s#>|-]/.test(previous.line)) {
        open(previous.at, previous.line);
      }
    }
    previous = line === "" ? undefined : { at: match.index, line };
  }
  sections.push({ title, start, end: text.length });
  return { text, sections };
}

/** Elements that end by themselves, or need no end tag. */
const UNENDED =
  /^(area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr|p|li|dt|dd|td|th|tr|thead|tbody|tfoot|colgroup|option|optgroup|rp|rt)$/i;
const DEEPEST = 1_000;

/** Looking through a tree without end takes quadratic time. */
function refuseDeepHtml(html: string): void {
  let depth = 0;
  for (const [, slash, name = "", own] of html.matchAll(
    /<(\/?)([A-Za-z][\w:-]*)(?:[^<>"']|"[^"]*"|'[^']*')*?(\/?)>/g,
  )) {
    if (UNENDED.test(name) || own === "/") continue;
    depth = slash === "/" ? Math.max(0, depth - 1) : depth + 1;
    if (depth > DEEPEST) throw new UnreadableDocument("the HTML is nested too deeply");
  }
}

async function htmlToMarkdown(html: string): Promise<string> {
  refuseDeepHtml(html);
  const { default: Turndown } = await import("turndown");
  const turndown = new Turndown({ headingStyle: "atx", codeBlockStyle: "fenced", bulletListMarker: "-" });
  turndown.remove(["script", "style", "noscript", "template", "head", "title"] as never);
  // What a picture or a link points at is not text; what is written on it is.
  turndown.addRule("words of links", { filter: ["a"], replacement: (content) => content });
  turndown.addRule("words of pictures", {
    filter: ["img"],
    replacement: (_, node) =>
      (node as unknown as { getAttribute(name: string): string | null }).getAttribute("alt") ?? "",
  });
  turndown.addRule("cells", {
    filter: ["td", "th"],
    replacement: (content) => `${content.replace(/\s+/g, " ").trim()} | `,
  });
  turndown.addRule("rows", { filter: ["tr"], replacement: (content) => `${content.replace(/ \| $/, "")}\n` });
  try {
    return turndown.turndown(html);
  } catch (cause) {
    if (cause instanceof RangeError) throw new UnreadableDocument("the HTML is nested too deeply", { cause });
    throw new UnreadableDocument("the HTML cannot be read", { cause });
  }
}

/** One line for each record, each value under its column's name. */
async function readRecords(text: string): Promise<string> {
  const { parse } = await import("csv-parse/sync");
  const firstLine = text.slice(0, 10_000).split(/\r?\n/)[0] ?? "";
  const delimiter = [",", ";", "\t", "|"].reduce((best, next) =>
    firstLine.split(next).length > firstLine.split(best).length ? next : best,
  );
  let records: string[][];
  try {
    records = parse(text, {
      delimiter,
      bom: true,
      relax_column_count: true,
      skip_empty_lines: true,
      max_record_size: 1_000_000,
    });
  } catch (cause) {
    throw new UnreadableDocument(
      `the CSV cannot be read: ${codeOf(cause, "a quote is not closed or a record is too long")}`,
      { cause },
    );
  }
  const [header = [], ...rows] = records;
  if (rows.length === 0) return header.join(", ");
  return rows
    .map((row) =>
      row
        .flatMap((value, i) =>
          value.trim() === "" ? [] : [header[i]?.trim() ? `${header[i]?.trim()}: ${value.trim()}` : value.trim()],
        )
        .join("; "),
    )
    .join("\n");
}

const codeOf = (error: unknown, otherwise: string) => {
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? code.toLowerCase().replaceAll("_", " ") : otherwise;
};

/** One line for each value, under its path. */
function readJson(text: string): string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new UnreadableDocument("the file says it is JSON and is not valid JSON", { cause });
  }
  const lines: string[] = [];
  const open: { path: string; value: unknown }[] = [{ path: "", value }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { path } = next;
    if (typeof next.value === "object" && next.value !== null) {
      // Paths of what is nested without end would grow without end.
      if (path.length > 2_000) throw new UnreadableDocument("the JSON is nested too deeply");
      const inside = Object.entries(next.value).map(([key, item]) => ({
        path: Array.isArray(next?.value) ? `${path}[${key}]` : path === "" ? key : `${path}.${key}`,
        value: item,
      }));
      open.push(...inside.reverse());
    } else if (next.value !== null && next.value !== "") {
      lines.push(path === "" ? String(next.value) : `${path}: ${next.value}`);
    }
  }
  return lines.join("\n");
}

async function readPdf(bytes: Uint8Array): Promise<Extracted> {
  const { getDocumentProxy, extractText } = await import("unpdf");
  let pages: string[];
  try {
    // PDF.js takes no Buffer, and takes what it is given for its own.
    const pdf = await getDocumentProxy(new Uint8Array(bytes), {
      isEvalSupported: false,
      useSystemFonts: false,
      stopAtErrors: false,
    });
    ({ text: pages } = await extractText(pdf, { mergePages: false }));
  } catch (cause) {
    const name = (cause as { name?: string }).name;
    if (name === "PasswordException")
      throw new UnreadableDocument("the PDF is encrypted; upload it without its password", { cause });
    throw new UnreadableDocument("the PDF is damaged and cannot be read", { cause });
  }
  const sections: Section[] = [];
  let text = "";
  for (const [i, page] of pages.entries()) {
    if (page.trim() === "") continue;
    const start = text.length;
    text += `${page}\n\n`;
    sections.push({ title: `Page ${i + 1}`, start, end: text.length });
  }
  return { text, sections };
}

async function readDocx(bytes: Uint8Array): Promise<Extracted> {
  const { refuseBombs } = await import("./zip.ts");
  await refuseBombs(bytes);
  const { default: mammoth } = await import("mammoth");
  let html: string;
  try {
    ({ value: html } = await mammoth.convertToHtml(
      { buffer: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length) },
      { convertImage: mammoth.images.imgElement(async () => ({ src: "" })), externalFileAccess: false },
    ));
  } catch (cause) {
    throw new UnreadableDocument("the DOCX document is damaged and cannot be read", { cause });
  }
  return underHeadings(await htmlToMarkdown(html));
}
