/** Runs in the parser's process: bytes to text, by the type that the upload said it is. */
import { decodeText } from "./encoding.ts";
import type { Extracted } from "./formats/extracted.ts";
import { isText, MEDIA_TYPES, type MediaType, SAVE_ANEW } from "./media-type.ts";
import { UnreadableDocument } from "./unreadable.ts";

/** Characters of text that a document may come to. */
const MOST_CHARACTERS = 64 * 1024 * 1024;

/**
 * @param charset as the upload says
 * @param leavesPictures places of which there is only a picture are left for a model
 * @throws UnreadableDocument
 */
export async function extract(
  bytes: Uint8Array,
  type: MediaType,
  charset?: string,
  leavesPictures = false,
): Promise<Extracted> {
  if (bytes.length === 0) throw new UnreadableDocument("the file is empty");
  refuseMislabelled(bytes, type);
  const extracted = await (isText(type)
    ? readText(bytes, type, charset)
    : (BINARY[type] as Reader)(bytes, leavesPictures));
  // U+0000 cannot be stored; half a surrogate pair is not text.
  const text = extracted.text.replaceAll("\0", " ").toWellFormed();
  if (text.length > MOST_CHARACTERS)
    throw new UnreadableDocument(`the file has more than ${MOST_CHARACTERS} characters of text`);
  if (text.trim() === "" && !extracted.unread?.length) {
    throw new UnreadableDocument(
      type === MEDIA_TYPES.pdf
        ? "the PDF has no text: its pages are images, as of a scan, or empty (setting mediaReading)"
        : "there is no text in the file",
    );
  }
  return { ...extracted, text };
}

type Reader = (bytes: Uint8Array, leavesPictures: boolean) => Promise<Extracted>;

/** Each is loaded when a file is its own. */
const BINARY: Partial<Record<MediaType, Reader>> = {
  [MEDIA_TYPES.pdf]: async (bytes, leavesPictures) =>
    (await import("./formats/pdf/pdf.ts")).readPdf(bytes, leavesPictures),
  [MEDIA_TYPES.docx]: async (bytes) => (await import("./formats/office/docx.ts")).readDocx(bytes),
  [MEDIA_TYPES.xlsx]: async (bytes) => (await import("./formats/office/xlsx.ts")).readXlsx(bytes),
  [MEDIA_TYPES.pptx]: async (bytes) => (await import("./formats/office/pptx.ts")).readPptx(bytes),
  [MEDIA_TYPES.odt]: async (bytes) => (await import("./formats/office/odt.ts")).readOdt(bytes),
  [MEDIA_TYPES.eml]: async (bytes) => (await import("./formats/eml.ts")).readEml(bytes),
};

const TEXT: Partial<Record<MediaType, (text: string) => Promise<Extracted>>> = {
  [MEDIA_TYPES.text]: async (text) => ({ text, sections: [{ title: null, start: 0, end: text.length }] }),
  [MEDIA_TYPES.markdown]: async (text) => (await import("./formats/markdown.ts")).readMarkdown(text),
  [MEDIA_TYPES.html]: async (text) => (await import("./formats/html.ts")).readHtml(text),
  [MEDIA_TYPES.csv]: async (text) => (await import("./formats/csv.ts")).readTable(text),
  [MEDIA_TYPES.json]: async (text) => (await import("./formats/json.ts")).readJson(text),
  [MEDIA_TYPES.jsonLines]: async (text) => (await import("./formats/json.ts")).readJsonLines(text),
};

async function readText(bytes: Uint8Array, type: MediaType, charset: string | undefined): Promise<Extracted> {
  const { text, reading, warning } = decodeText(bytes, { declared: charset, isHtml: type === MEDIA_TYPES.html });
  const extracted = await (TEXT[type] as (text: string) => Promise<Extracted>)(text);
  return {
    ...extracted,
    warnings: [...(warning === undefined ? [] : [warning]), ...(extracted.warnings ?? [])],
    reading: { ...reading, ...extracted.reading },
  };
}

const begins = (bytes: Uint8Array, ...magic: number[]) => magic.every((byte, i) => bytes[i] === byte);

/** Packages, by what an error calls them. */
const PACKAGES: Partial<Record<MediaType, string>> = {
  [MEDIA_TYPES.docx]: "a DOCX document",
  [MEDIA_TYPES.xlsx]: "an XLSX workbook",
  [MEDIA_TYPES.pptx]: "a PPTX presentation",
  [MEDIA_TYPES.odt]: "an ODT document",
};

function refuseMislabelled(bytes: Uint8Array, type: MediaType): void {
  // %PDF within the first kilobyte, as readers accept it.
  const isPdf = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 1024)).includes("%PDF-");
  const isZip = begins(bytes, 0x50, 0x4b, 0x03, 0x04) || begins(bytes, 0x50, 0x4b, 0x05, 0x06);
  const isOldOffice = begins(bytes, 0xd0, 0xcf, 0x11, 0xe0);
  const wanted = PACKAGES[type];
  if (type === MEDIA_TYPES.pdf) {
    if (!isPdf) throw new UnreadableDocument("the file says it is a PDF and is not one");
  } else if (wanted !== undefined) {
    if (isOldOffice)
      throw new UnreadableDocument(
        `the file is encrypted, or of an old Word, Excel or PowerPoint; save it as ${wanted} without a password`,
      );
    if (!isZip) throw new UnreadableDocument(`the file says it is ${wanted} and is not one`);
  } else if (isOldOffice) {
    throw new UnreadableDocument(`the file is of an old Word, Excel or PowerPoint: ${SAVE_ANEW}`);
  } else if ((isPdf && begins(bytes, 0x25, 0x50, 0x44, 0x46)) || isZip) {
    throw new UnreadableDocument(`the file says it is ${type} and is a ${isPdf ? "PDF" : "binary"} file`);
  }
}
