/** Files of every kind, made by the libraries that people make them with. */
import { Document, HeadingLevel, Packer, Paragraph } from "docx";
import PDFDocument from "pdfkit";

export type Section = { heading: string; text: string };

export async function docxOf(sections: readonly Section[]): Promise<Uint8Array> {
  const children = sections.flatMap(({ heading, text }) => [
    new Paragraph({ text: heading, heading: HeadingLevel.HEADING_1 }),
    new Paragraph({ text }),
  ]);
  return Packer.toBuffer(new Document({ sections: [{ children }] }));
}

/** One page for each text. */
export async function pdfOf(
  pages: readonly string[],
  options: { userPassword?: string; ownerPassword?: string } = {},
): Promise<Uint8Array> {
  const pdf = new PDFDocument({ autoFirstPage: false, ...options });
  const parts: Buffer[] = [];
  pdf.on("data", (part: Buffer) => parts.push(part));
  const ended = new Promise<void>((resolve) => pdf.on("end", () => resolve()));
  for (const text of pages) {
    pdf.addPage();
    if (text === "") pdf.rect(100, 100, 200, 200).fill("#808080");
    else pdf.text(text);
  }
  pdf.end();
  await ended;
  return Buffer.concat(parts);
}

export const markdownOf = (sections: readonly Section[]) =>
  sections.map(({ heading, text }) => `# ${heading}\n\n${text}\n`).join("\n");

export const htmlOf = (sections: readonly Section[]) =>
  `<!doctype html><html><head><title>t</title><script>var hidden = "scriptword"</script></head><body>${sections
    .map(({ heading, text }) => `<h1>${heading}</h1><p>${text}</p>`)
    .join("")}</body></html>`;
