/** Files of every kind, made by the libraries that people make them with. */
import { crc32, deflateRawSync } from "node:zlib";
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

/** A ZIP written by hand: libraries do not make what is wrong on purpose. */
export function zipOf(entries: { name: string; data: Uint8Array; says?: number; flags?: number }[]): Uint8Array {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, data, says = data.length, flags = 0 } of entries) {
    const packed = deflateRawSync(data);
    const crc = crc32(data);
    const head = Buffer.alloc(30);
    head.writeUInt32LE(0x04034b50, 0);
    head.writeUInt16LE(20, 4);
    head.writeUInt16LE(flags, 6);
    head.writeUInt16LE(8, 8);
    head.writeUInt32LE(crc, 14);
    head.writeUInt32LE(packed.length, 18);
    head.writeUInt32LE(says, 22);
    head.writeUInt16LE(name.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(20, 4);
    central.writeUInt16LE(20, 6);
    central.writeUInt16LE(flags, 8);
    central.writeUInt16LE(8, 10);
    central.writeUInt32LE(crc, 16);
    central.writeUInt32LE(packed.length, 20);
    central.writeUInt32LE(says, 24);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(offset, 42);
    parts.push(head, Buffer.from(name), packed);
    directory.push(central, Buffer.from(name));
    offset += 30 + name.length + packed.length;
  }
  const centralSize = directory.reduce((sum, part) => sum + part.length, 0);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(centralSize, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, ...directory, end]);
}

/** A PDF around one page's content, with one font, and what else the page or the catalog has. */
export function pdfAround(
  content: string,
  more: { page?: string; catalog?: string; font?: string; objects?: readonly string[] } = {},
): Uint8Array {
  const objects = [
    `<< /Type /Catalog /Pages 2 0 R ${more.catalog ?? ""} >>`,
    "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R ${more.page ?? ""} >>`,
    `<< /Length ${content.length} >>\nstream\n${content}\nendstream`,
    more.font ?? "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ...(more.objects ?? []),
  ];
  let text = "%PDF-1.7\n";
  const offsets = objects.map((object, i) => {
    const at = text.length;
    text += `${i + 1} 0 obj\n${object}\nendobj\n`;
    return at;
  });
  const xref = text.length;
  text += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${offsets.map((at) => `${String(at).padStart(10, "0")} 00000 n \n`).join("")}`;
  text += `trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${xref}\n%%EOF\n`;
  return Buffer.from(text, "latin1");
}

const RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
/** A package of Office Open XML around its main part; others are named by it, in order: r1, r2, … */
export function officeOf(
  main: { readonly name: string; readonly xml: string },
  parts: readonly { readonly type: string; readonly name: string; readonly data: string | Uint8Array }[] = [],
): Uint8Array {
  const folder = main.name.slice(0, main.name.lastIndexOf("/") + 1);
  const bytes = (data: string | Uint8Array) => (typeof data === "string" ? new TextEncoder().encode(data) : data);
  const relations = (list: readonly { type: string; target: string }[]) =>
    `<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">${list
      .map(({ type, target }, i) => `<Relationship Id="r${i + 1}" Type="${RELATIONS}/${type}" Target="${target}"/>`)
      .join("")}</Relationships>`;
  return zipOf(
    [
      { name: "_rels/.rels", data: relations([{ type: "officeDocument", target: main.name }]) },
      { name: main.name, data: main.xml },
      {
        name: `${folder}_rels/${main.name.slice(folder.length)}.rels`,
        data: relations(parts.map(({ type, name }) => ({ type, target: name }))),
      },
      ...parts.map(({ name, data }) => ({ name: folder + name, data })),
    ].map(({ name, data }) => ({ name, data: bytes(data) })),
  );
}
