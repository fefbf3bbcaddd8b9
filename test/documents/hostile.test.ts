import { readFile } from "node:fs/promises";
import { deflateSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { MEDIA_TYPES } from "../../src/documents/parsing/media-type.ts";
import { PARSER_LIMITS, parseDocument } from "../../src/documents/parsing/parser.ts";
import { UnreadableDocument } from "../../src/documents/parsing/unreadable.ts";
import { docxOf, pdfOf, zipOf } from "../harness/files.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let agent: Client;

beforeAll(async () => {
  service = await startService({ worker: {} });
  agent = await service.mint("agent", { org: "hostile" });
});
afterAll(() => service.stop());

const bytes = (text: string) => new TextEncoder().encode(text);

const WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main";
const docxAround = (xml: string) =>
  zipOf([
    {
      name: "[Content_Types].xml",
      data: bytes(
        '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
      ),
    },
    {
      name: "_rels/.rels",
      data: bytes(
        '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
      ),
    },
    { name: "word/document.xml", data: bytes(xml) },
  ]);

/** A PDF whose page's content unpacks to far more than it is. */
function pdfBomb(megabytes: number): Uint8Array {
  const packed = deflateSync(deflateSync(Buffer.alloc(megabytes * 1024 * 1024, 32)));
  const objects = [
    "<< /Type /Catalog /Pages 2 0 R >>",
    "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 4 0 R /Resources << >> >>",
  ];
  const parts: Buffer[] = [Buffer.from("%PDF-1.4\n")];
  const offsets: number[] = [];
  const push = (part: Buffer) => parts.push(part);
  const size = () => parts.reduce((sum, part) => sum + part.length, 0);
  objects.forEach((object, i) => {
    offsets.push(size());
    push(Buffer.from(`${i + 1} 0 obj\n${object}\nendobj\n`));
  });
  offsets.push(size());
  push(Buffer.from(`4 0 obj\n<< /Length ${packed.length} /Filter [/FlateDecode /FlateDecode] >>\nstream\n`));
  push(packed);
  push(Buffer.from("\nendstream\nendobj\n"));
  const xref = size();
  push(
    Buffer.from(
      `xref\n0 5\n0000000000 65535 f \n${offsets.map((at) => `${String(at).padStart(10, "0")} 00000 n \n`).join("")}trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n${xref}\n%%EOF`,
    ),
  );
  return Buffer.concat(parts);
}

const LAUGHS = `<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a0 "ha">${Array.from({ length: 30 }, (_, i) => `<!ENTITY a${i + 1} "${`&a${i};`.repeat(10)}">`).join("")}]><w:document xmlns:w="${WORD}"><w:body><w:p><w:r><w:t>&a30;</w:t></w:r></w:p></w:body></w:document>`;

describe("a file that cannot be read ends as failed, with a reason, and harms nothing", () => {
  type Case = [what: string, name: string, make: () => Uint8Array | Promise<Uint8Array>, reason: RegExp];
  const isRefused = async (...[_what, name, make, reason]: Case) => {
    const accepted = await agent.upload(await make(), name);
    expect(accepted.status, accepted.text).toBe(202);
    const document = await agent.processed(accepted.body.id);
    expect(document.status, JSON.stringify(document)).toBe("failed");
    expect(document.error).toMatch(reason);
    expect((await agent.get<{ chunks: unknown[] }>(`/documents/${accepted.body.id}/chunks`)).body.chunks).toEqual([]);
  };

  test.each<Case>([
    ["an empty file", "a.txt", () => bytes(""), /empty/],
    ["a DOCX that says it is Markdown", "a.md", () => docxOf([{ heading: "a", text: "b" }]), /is a binary file/],
    ["an encrypted PDF", "a.pdf", () => pdfOf(["secret"], { userPassword: "open", ownerPassword: "own" }), /encrypted/],
    ["a truncated DOCX", "a.docx", async () => (await docxOf([{ heading: "a", text: "b" }])).slice(0, 900), /damaged/],
    [
      "a zip bomb",
      "a.docx",
      () => zipOf([{ name: "word/document.xml", data: new Uint8Array(80 * 1024 * 1024) }]),
      /bomb/,
    ],
    [
      "JSON without end",
      "a.json",
      () => bytes(`${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`),
      /nested|not valid JSON/,
    ],
    ...["xlsx", "pptx", "odt"].map(
      (kind): Case => [
        `a zip bomb that says it is ${kind}`,
        `a.${kind}`,
        () => zipOf([{ name: "content.xml", data: new Uint8Array(80 * 1024 * 1024) }]),
        /bomb/,
      ],
    ),
  ])("%s", isRefused);

  test.each<Case>([
    ["only white space", "a.md", () => bytes(" \n\t \n"), /no text/],
    [
      "bytes that are no text",
      "a.txt",
      () => Uint8Array.from({ length: 999 }, (_, i) => ((i * 37) % 255) | 1),
      /not text/,
    ],
    ["a message that is none", "a.eml", () => bytes("<html>"), /not one/],
    ["an old Excel file", "a.xlsx", () => new Uint8Array([0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1]), /old Word, Excel/],
    [
      "a picture that says it is text",
      "a.txt",
      () => new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0, 0, 0, 13]),
      /not text/,
    ],
    ["binary zeros in text", "a.csv", () => bytes("a,b\0c\n"), /binary/],
    ["text that says it is a PDF", "a.pdf", () => bytes("hello"), /not one/],
    ["a PDF that says it is text", "a.txt", () => pdfOf(["hello"]), /is a PDF file/],
    ["a DOCX that says it is a PDF", "a.pdf", () => docxOf([{ heading: "a", text: "b" }]), /not one/],
    ["an old Word file", "a.docx", () => new Uint8Array([0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1]), /old Word/],
    ["a truncated PDF", "a.pdf", async () => (await pdfOf(["hello ".repeat(500)])).slice(0, 300), /damaged|no text/],
    [
      "garbage behind a PDF's header",
      "a.pdf",
      () => bytes(`%PDF-1.7\n${"\u0001garbage".repeat(500)}`),
      /damaged|no text/,
    ],
    ["a scanned PDF", "a.pdf", () => pdfOf(["", ""]), /no text/],
    ["a ZIP that is no DOCX", "a.docx", () => zipOf([{ name: "hello.txt", data: bytes("hello") }]), /damaged/],
    [
      "an encrypted entry",
      "a.docx",
      () => zipOf([{ name: "word/document.xml", data: bytes("x"), flags: 1 }]),
      /encrypted/,
    ],
    [
      "a zip bomb that lies about its size",
      "a.docx",
      () => zipOf([{ name: "word/document.xml", data: new Uint8Array(80 * 1024 * 1024), says: 10 }]),
      /damaged|bomb/,
    ],
    ["a billion laughs", "a.docx", () => docxAround(LAUGHS), /damaged|no text|longer|memory|cannot be read/],
    ["invalid JSON", "a.json", () => bytes('{"a": [1, 2'), /not valid JSON/],
  ])("%s", { tags: ["long"] }, isRefused);

  test("HTML nested without end is read or refused, and the next file is read", { tags: ["long"] }, async () => {
    const deep = await agent.upload(`${"<div>".repeat(50_000)}deep inside`, "deep.html");
    expect(["ready", "failed"]).toContain((await agent.processed(deep.body.id)).status);
    const next = await agent.upload("The service is alive, says the curlew.", "alive.txt");
    expect((await agent.processed(next.body.id)).status).toBe("ready");
    expect(await agent.recall("curlew alive")).toContain("The service is alive, says the curlew.");
  });

  test("names that belong to JavaScript's objects are text like any other", async () => {
    const accepted = await agent.upload(
      '{"__proto__": {"polluted": "yes"}, "constructor": {"prototype": {"polluted": "curious ibex"}}}',
      "proto.json",
    );
    expect((await agent.processed(accepted.body.id)).status).toBe("ready");
    expect(({} as { polluted?: string }).polluted).toBeUndefined();
    expect((await agent.recall("curious ibex"))[0]).toContain("curious ibex");
  });

  test("what failed is tried again when the same bytes are uploaded again", { tags: ["long"] }, async () => {
    const first = await agent.upload("not json at all {", "again.json");
    expect((await agent.processed(first.body.id)).status).toBe("failed");
    const second = await agent.upload("not json at all {", "again.txt");
    expect(second.body).toMatchObject({ id: first.body.id, deduplicated: true, status: "queued" });
    expect((await agent.processed(first.body.id)).status).toBe("ready");
  });
});

/** How many children this process has. */
const parsers = async () =>
  (await readFile(`/proc/self/task/${process.pid}/children`, "utf8")).split(" ").filter((pid) => pid !== "").length;

describe("the parser's limits (threat 25)", () => {
  const parse = (content: Uint8Array, type: (typeof MEDIA_TYPES)[keyof typeof MEDIA_TYPES], limits = {}) =>
    parseDocument(content, type, { ...PARSER_LIMITS, entry: inject("parser"), ...limits });

  test("a file that takes too long is stopped, and the process is not held up meanwhile", async () => {
    let ticks = 0;
    const ticking = setInterval(() => ticks++, 20);
    const slow = bytes(`<p>${"<b>word</b> ".repeat(200_000)}</p>`);
    await expect(parse(slow, MEDIA_TYPES.html, { timeoutMs: 1_000 })).rejects.toThrow(/longer than 1 s/);
    clearInterval(ticking);
    expect(ticks).toBeGreaterThan(10);
  });

  test("a file that takes too much memory is stopped, inside its heap or outside of it", {
    tags: ["long"],
  }, async () => {
    await expect(parse(pdfBomb(600), MEDIA_TYPES.pdf, { residentMb: 300 })).rejects.toBeInstanceOf(UnreadableDocument);
    const many = bytes(`[${"{},".repeat(3_000_000)}{}]`);
    await expect(parse(many, MEDIA_TYPES.json, { heapMb: 32 })).rejects.toThrow(/memory/);
  });

  test("a parser that the machine kills is a file that cannot be read, and leaves no process behind", async () => {
    const before = await parsers();
    await expect(
      parse(bytes(`<p>${"<b>word</b> ".repeat(200_000)}</p>`), MEDIA_TYPES.html, { timeoutMs: 700 }),
    ).rejects.toThrow();
    expect(await parsers()).toBe(before);
  });
});
