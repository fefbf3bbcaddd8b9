import { UnreadableDocument } from "../unreadable.ts";
import type { Extracted, Section } from "./extracted.ts";
import { htmlToText } from "./markup.ts";

/** Each page is a section. */
export async function readPdf(bytes: Uint8Array): Promise<Extracted> {
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

/** By way of HTML, whose headings make the sections. */
export async function readDocx(bytes: Uint8Array): Promise<Extracted> {
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
  return htmlToText(html);
}
