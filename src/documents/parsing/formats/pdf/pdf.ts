/** PDF to what a person reads of its pages: the words in their order, filled fields, and notes. */
import type { PDFDocumentProxy, PDFPageProxy } from "pdfjs-dist";
import type { TextItem } from "pdfjs-dist/types/src/display/api.js";
import { UnreadableDocument } from "../../unreadable.ts";
import { type Extracted, ranges, type Unread, Warnings } from "../extracted.ts";
import { Flow } from "../flow.ts";
import { invisibleText } from "./invisible.ts";
import { linesOf, type Piece, textOfLines } from "./lines.ts";
import { type PdfJs, withPdf } from "./open.ts";

/**
 * Each page is a section.
 *
 * @param leavesPictures pages of which there is only a picture are left for a model, and are no warning
 * @throws UnreadableDocument
 */
export const readPdf = (bytes: Uint8Array, leavesPictures = false): Promise<Extracted> =>
  // No picture is unpacked: what is drawn is not looked at.
  withPdf(bytes, { maxImageSize: 1 }, (pdf, pdfjs) => new PdfReader(pdfjs, leavesPictures).read(pdf));

/** From this share of its characters on a page's font does not say which letters it shows. */
const UNKNOWN_SHARE = 0.3;

class PdfReader {
  readonly #pdfjs: PdfJs;
  readonly #leavesPictures: boolean;
  readonly #unread: Unread[] = [];
  readonly #flow = new Flow();
  readonly #pages = {
    damaged: [] as number[],
    empty: [] as number[],
    unknown: [] as number[],
    invisible: [] as number[],
  };

  constructor(pdfjs: PdfJs, leavesPictures: boolean) {
    this.#pdfjs = pdfjs;
    this.#leavesPictures = leavesPictures;
  }

  async read(pdf: PDFDocumentProxy): Promise<Extracted> {
    for (let number = 1; number <= pdf.numPages; number++) {
      let page: PDFPageProxy | undefined;
      try {
        page = await pdf.getPage(number);
        await this.#page(page, number);
      } catch {
        this.#pages.damaged.push(number);
      } finally {
        page?.cleanup();
      }
    }
    if (this.#pages.damaged.length === pdf.numPages)
      throw new UnreadableDocument("the PDF is damaged and cannot be read");
    return { ...this.#flow.done(), warnings: this.#warnings(), unread: this.#unread };
  }

  async #page(page: PDFPageProxy, number: number): Promise<void> {
    const [content, annotations] = [await page.getTextContent(), await page.getAnnotations().catch(() => [])];
    const items = content.items.filter((item): item is TextItem => "str" in item);
    const invisible = await invisibleText(this.#pdfjs, page).catch(() => undefined);
    const pieces = items
      .map((item) => pieceOf(item, content.styles[item.fontName]?.vertical ?? false))
      .filter((piece) => isOnPage(piece, page.view));
    const seen = pieces.filter(({ x, y }) => invisible?.(x, y) !== true);
    if (seen.some(({ text }) => text.trim() !== "") && seen.length < pieces.length) this.#pages.invisible.push(number);
    const text = textOfLines(linesOf(seen));
    if (unknownShare(text) > UNKNOWN_SHARE) this.#pages.unknown.push(number);
    const notes = [...fieldsOf(annotations), ...notesOf(annotations)];
    if (text === "" && notes.length === 0) {
      if (this.#leavesPictures) this.#unread.push({ number, at: this.#flow.length, title: titleOf(number) });
      else this.#pages.empty.push(number);
      return;
    }
    this.#flow.openSection(titleOf(number));
    this.#flow.verbatim(text);
    for (const note of notes) {
      this.#flow.line();
      this.#flow.verbatim(note);
    }
    this.#flow.paragraph();
  }

  #warnings(): string[] {
    const { damaged, empty, unknown, invisible } = this.#pages;
    const warnings = new Warnings();
    const pages = (numbers: readonly number[]) => `page${numbers.length === 1 ? "" : "s"} ${ranges(numbers)}`;
    if (damaged.length > 0) warnings.add(`${pages(damaged)}: damaged, and left out`);
    if (empty.length > 0)
      warnings.add(`${pages(empty)}: no text, only pictures of it, or nothing (setting mediaReading)`);
    if (unknown.length > 0)
      warnings.add(`${pages(unknown)}: fonts that do not say which letters they show; the text is not what is seen`);
    if (invisible.length > 0) warnings.add(`${pages(invisible)}: text that is drawn without ink was left out`);
    return warnings.list;
  }
}

const titleOf = (number: number) => `Page ${number}`;

function pieceOf({ str, transform, width, height, dir, hasEOL }: TextItem, isVertical: boolean): Piece {
  const [a = 1, b = 0, c = 0, d = 1, x = 0, y = 0] = transform as number[];
  return {
    text: str,
    x,
    y,
    angle: Math.round((Math.atan2(b, a) * 180) / Math.PI),
    size: Math.hypot(c, d) || height,
    width: isVertical ? height : width,
    isRightToLeft: dir === "rtl",
    isVertical,
    endsLine: hasEOL,
  };
}

/** Whether any of it lies inside of the page, as that is cut. */
function isOnPage({ x, y, size, width, angle }: Piece, [left = 0, bottom = 0, right = 0, top = 0]: number[]): boolean {
  const across = angle % 180 === 0 ? width : size;
  return x + Math.max(across, size) > left && x - across < right && y + size > bottom && y - size < top;
}

/** Replacements, the private area, and controls that are no white space. */
const UNKNOWN = /[\ufffd\ue000-\uf8ff]|(?!\s)\p{Cc}/gu;
const unknownShare = (text: string) =>
  text.length === 0 ? 0 : (text.match(UNKNOWN)?.length ?? 0) / text.replace(/\s/g, "").length;

interface Annotation {
  readonly subtype?: string;
  readonly annotationFlags?: number;
  readonly fieldType?: string;
  readonly fieldName?: string;
  readonly alternativeText?: string;
  readonly fieldValue?: unknown;
  readonly checkBox?: boolean;
  readonly radioButton?: boolean;
  readonly buttonValue?: string;
  readonly options?: readonly { readonly exportValue: string; readonly displayValue: string }[];
  readonly contentsObj?: { readonly str?: string };
  readonly titleObj?: { readonly str?: string };
}

/** Hidden, or never on the screen. */
const isUnseen = ({ annotationFlags = 0 }: Annotation) => (annotationFlags & (2 | 32)) !== 0;

/** What is filled in, each under its field's name. */
function fieldsOf(annotations: readonly Annotation[]): string[] {
  return annotations.flatMap((field) => {
    if (field.subtype !== "Widget" || isUnseen(field)) return [];
    const name = (field.alternativeText || field.fieldName || "").trim();
    const value = filledIn(field);
    return value === undefined ? [] : [name === "" ? value : `${name}: ${value}`];
  });
}

function filledIn({ fieldType, fieldValue, checkBox, radioButton, buttonValue, options }: Annotation) {
  if (fieldType === "Btn") {
    if (checkBox) return fieldValue === undefined || fieldValue === null || fieldValue === "Off" ? "☐" : "☑";
    return radioButton && fieldValue === buttonValue && buttonValue ? buttonValue : undefined;
  }
  const values = (Array.isArray(fieldValue) ? fieldValue : [fieldValue]).filter(
    (value): value is string => typeof value === "string" && value.trim() !== "",
  );
  if (values.length === 0) return undefined;
  return values
    .map((value) => options?.find(({ exportValue }) => exportValue === value)?.displayValue ?? value)
    .join(", ");
}

const NOTES = new Set(["FreeText", "Text", "Highlight", "Underline", "Squiggly", "StrikeOut", "Caret", "Stamp", "Ink"]);

/** What was written on the page afterwards. */
function notesOf(annotations: readonly Annotation[]): string[] {
  return annotations.flatMap((note) => {
    const text = note.contentsObj?.str?.trim() ?? "";
    if (!NOTES.has(note.subtype ?? "") || isUnseen(note) || text === "") return [];
    const author = note.titleObj?.str?.trim() ?? "";
    return [note.subtype === "FreeText" ? text : `Note${author === "" ? "" : ` by ${author}`}: ${text}`];
  });
}
