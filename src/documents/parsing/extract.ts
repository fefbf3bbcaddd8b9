/** Runs in the parser's process: bytes to text, by the type that the upload said it is. */
import { readDocx, readPdf } from "./formats/binary.ts";
import type { Extracted } from "./formats/extracted.ts";
import { htmlToText, sectionsOfMarkdown } from "./formats/markup.ts";
import { readJson, readRecords } from "./formats/records.ts";
import { MEDIA_TYPES, type MediaType } from "./media-type.ts";
import { UnreadableDocument } from "./unreadable.ts";

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
  [MEDIA_TYPES.markdown]: async (bytes) => sectionsOfMarkdown(decode(bytes)),
  [MEDIA_TYPES.html]: async (bytes) => htmlToText(decode(bytes)),
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
