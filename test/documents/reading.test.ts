import { describe, expect, test } from "vitest";
import { extract } from "../../src/documents/parsing/extract.ts";
import { keywordsOf } from "../../src/documents/parsing/keywords.ts";
import { MEDIA_TYPES, type MediaType, mediaTypeOf } from "../../src/documents/parsing/media-type.ts";
import { officeOf, pdfAround, zipOf } from "../harness/files.ts";

/** What a person sees in a file is its text. Kinds of files that were read wrongly once, each in a few words. */

const bytes = (text: string, encoding: BufferEncoding = "utf8") => new Uint8Array(Buffer.from(text, encoding));
const read = (data: string | Uint8Array, type: MediaType, charset?: string) =>
  extract(typeof data === "string" ? bytes(data) : data, type, charset);
const textOf = async (data: string | Uint8Array, type: MediaType) => (await read(data, type)).text;

describe("HTML", () => {
  const html = (source: string) => textOf(source, MEDIA_TYPES.html);

  test.each([
    [
      "no escapes",
      "<h1>1. Setup</h1><p>user_id, a[0] = b*c, me_too@example.com</p>",
      "1. Setup\n\nuser_id, a[0] = b*c, me_too@example.com",
    ],
    ["white space as it is shown", "<p>one\n  two<br>three</p><pre>a\n  b</pre>", "one two\nthree\n\na\n  b"],
    ["rows of a table", "<table><tr><th>Name<th>City<tr><td>Ana<td>Oslo</table>", "Name | City\nAna | Oslo"],
    ["empty cells", "<table><tr><td>a</td><td></td><td>c</td></tr></table>", "a |  | c"],
    ["a table in a table", "<table><tr><td>x<table><tr><td>a<td>b<tr><td>c<td>d</table></table>", "x\n\na | b\nc | d"],
    ["lists with their numbers", "<ul><li>a<li>b<ol start=4><li>c<li>d</ol></ul>", "- a\n- b\n4. c\n5. d"],
    [
      "controls of a form",
      "<label>Name <input value=Ana></label><select><option>A<option selected>B</select><input type=checkbox checked> yes",
      "Name Ana\nB\n☑ yes",
    ],
    ["a power apart from its number", "<p>10<sup>2</sup> m</p>", "10 2 m"],
    ["a soft hyphen", "<p>Donau&shy;dampf</p>", "Donaudampf"],
  ])("%s", async (_, source, text) => expect(await html(source)).toBe(text));

  test.each([
    "<p hidden>secret</p>",
    "<p style='color: red; DISPLAY:none'>secret</p>",
    "<p aria-hidden=true>secret</p>",
    "<template>secret</template>",
    "<noscript>secret</noscript>",
    "<script>secret</script>",
    "<input type=hidden value=secret>",
    "<dialog>secret</dialog>",
  ])("leaves out what is not shown: %s", async (hidden) => expect(await html(`<p>seen</p>${hidden}`)).toBe("seen"));

  test("counts the depth of the page, and not what scripts and comments say", async () => {
    expect(
      await html(`<p>seen</p><script>${'x+="<div>";\n'.repeat(9_000)}</script><!--${"<div>".repeat(9_000)}-->`),
    ).toBe("seen");
    expect((await html("<a name=x><p>t".repeat(9_000))).length).toBeGreaterThan(9_000);
    await expect(html(`${"<div>".repeat(6_000)}deep`)).rejects.toThrow(/nested too deeply/);
  });

  test("reads what is wide, too", { tags: ["long"] }, async () => {
    expect(await html(`<select>${"<option>x".repeat(200_000)}<option selected>chosen</select>`)).toBe("chosen");
    expect((await html(`<table>${"<tr><td>a<td>b".repeat(100_000)}</table>`)).length).toBe(100_000 * 6 - 1);
  });

  test("a heading opens a section also inside a table that lays out a page", async () => {
    const { text, sections } = await read(
      "<table><tr><td><h2>Left</h2><p>one</p><p>two</p></td><td><h2>Right</h2><p>three</p></td></tr></table>",
      MEDIA_TYPES.html,
    );
    expect(sections.map(({ title, start }) => [title, text.slice(start, start + 5)])).toEqual([
      ["Left", "Left\n"],
      ["Right", "Right"],
    ]);
  });
});

describe("tables", () => {
  test.each([
    [
      "a quote inside a value",
      'item,size\npipe,5" steel\n',
      'item: pipe; size: 5" steel',
      { delimiter: ",", header: true },
    ],
    [
      "commas in a header",
      "name;amount, incl. VAT\nAna;1,50\n",
      "name: Ana; amount, incl. VAT: 1,50",
      { delimiter: ";", header: true },
    ],
    ["sep=", "sep=|\na|b\n1|2\n", "a: 1; b: 2", { delimiter: "|", header: true }],
    ["tabs", "a\tb\n1,5\t2\n", "a: 1,5; b: 2", { delimiter: "tab", header: true }],
    ["decimal commas", "1,5;2,5\n3,5;4,5\n", "1,5, 2,5\n3,5, 4,5", { delimiter: ";", header: false }],
    ["no header", "Ana,41\nBob,37\n", "Ana, 41\nBob, 37", { delimiter: ",", header: false }],
    [
      "years over columns",
      "country,2023,2024\nNorway,1,2\n",
      "country: Norway; 2023: 1; 2024: 2",
      { delimiter: ",", header: true },
    ],
    ["lines in a value", 'a,b\n"one\ntwo",3\n', "a: one two; b: 3", { delimiter: ",", header: true }],
  ])("%s", async (_, source, text, reading) =>
    expect(await read(source, MEDIA_TYPES.csv)).toMatchObject({ text, reading, warnings: [] }),
  );

  test.each([
    ["a title over a table", "Merger plan,,\n,name,age\n,Bob,3\n", "Merger plan\nname, age\nBob, 3"],
    ["a name over an empty column", "name,email\nBob,\n", "name, email\nname: Bob"],
    [
      "a quote that another follows",
      'id,note\n1,"5 inch\n2,"ok"\n3,x\n',
      'id: 1; note: "5 inch\nid: 2; note: ok\nid: 3; note: x',
    ],
  ])("nothing is lost: %s", async (_, source, text) => expect(await textOf(source, MEDIA_TYPES.csv)).toBe(text));

  test("a quote that is not closed is text, with its line, and the rest of the file is read", async () => {
    const { text, warnings } = await read('a,b\n1,"open\n2,x\n3,y\n', MEDIA_TYPES.csv);
    expect(text).toBe('a: 1; b: "open\na: 2; b: x\na: 3; b: y');
    expect(warnings).toEqual(["line 2: a quote is not closed; it was read as text"]);
    const started = performance.now();
    await read(`a,b\n${'1,"x\n'.repeat(200_000)}`, MEDIA_TYPES.csv);
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});

describe("JSON", () => {
  test("has its numbers as they are written", async () => {
    const source = '{"id":1234567890123456789,"huge":1e400,"version":1.10,"text":"1.50"}';
    expect(await textOf(source, MEDIA_TYPES.json)).toBe(
      "id: 1234567890123456789\nhuge: 1e400\nversion: 1.10\ntext: 1.50",
    );
    await expect(textOf('{"a": 012}', MEDIA_TYPES.json)).rejects.toThrow(/not valid JSON/);
  });

  test("Lines are read one by one, and one that is none is said", async () => {
    const { text, warnings } = await read('{"a":1}\n{"a":\n\n{"a":2.0}\n', MEDIA_TYPES.jsonLines);
    expect([text, warnings]).toEqual(["a: 1\n\na: 2.0", ["line 2: is not JSON, and was left out"]]);
    expect(await textOf('{"a":1}\n{"b":2}', MEDIA_TYPES.json)).toBe("a: 1\n\nb: 2");
    await expect(textOf("hello\nworld", MEDIA_TYPES.jsonLines)).rejects.toThrow(/none of its lines/);
  });
});

describe("charsets", () => {
  const sjis = (hex: string) => new Uint8Array(Buffer.from(hex, "hex"));
  const RUSSIAN = "Наша кошка сидит на окне и смотрит на птиц, которые летают над старым домом у реки.";
  const encoded = (label: string, text: string) => {
    // Node encodes few charsets: a table from its decoder is enough for these.
    const table = new Map<string, number>();
    for (let byte = 0; byte < 256; byte++) table.set(new TextDecoder(label).decode(Uint8Array.of(byte)), byte);
    return Uint8Array.from([...text].map((letter) => table.get(letter) ?? 63));
  };

  test.each([
    [
      "windows-1252, detected",
      bytes("name;stadt\nJürgen;Köln\n", "latin1"),
      undefined,
      "Jürgen",
      "windows-1252",
      "detected",
    ],
    ["KOI8-R, detected", encoded("koi8-r", RUSSIAN), undefined, "кошка", "koi8-r", "detected"],
    ["windows-1251, declared", encoded("windows-1251", RUSSIAN), "windows-1251", "кошка", "windows-1251", "declared"],
    [
      "Shift-JIS, detected",
      sjis("96bc914f2c944e97ee2c8f5a8f8a0a8db293a191be98592c33302c938c8b9e"),
      undefined,
      "佐藤太郎,30,東京",
      "shift_jis",
      "detected",
    ],
    [
      "windows-1252 with its quotes",
      bytes("He said \x93a caf\xe9\x94 and it\x92s", "latin1"),
      undefined,
      "“a café” and it’s",
      "windows-1252",
      "detected",
    ],
    ["Shift-JIS, declared", Uint8Array.of(0x93, 0xfa, 0x96, 0x7b), "Shift_JIS", "日本", "shift_jis", "declared"],
    ["GBK, declared", Uint8Array.of(0xd6, 0xd0, 0xce, 0xc4), "gbk", "中文", "gbk", "declared"],
    ["EUC-KR, declared", Uint8Array.of(0xc7, 0xd1, 0xb1, 0xdb), "euc-kr", "한글", "euc-kr", "declared"],
    [
      "UTF-16 with its mark",
      Uint8Array.of(0xff, 0xfe, 0x48, 0x00, 0x69, 0x00),
      undefined,
      "Hi",
      "utf-16le",
      "byte order mark",
    ],
  ])("%s", async (_, data, charset, word, encoding, encodingFrom) => {
    const { text, reading } = await read(data, MEDIA_TYPES.text, charset);
    expect(text).toContain(word);
    expect(reading).toMatchObject({ encoding, encodingFrom });
  });

  test("UTF-8 with a byte that is none stays UTF-8, and says so", async () => {
    const text = "Über die Größe der Häuser läßt sich öfter streiten. ".repeat(20);
    for (const data of [bytes(text).subarray(0, -3), Uint8Array.of(0xef, 0xbb, 0xbf, ...bytes(text), 0xff)]) {
      const cut = data[0] === 0xef ? data : Uint8Array.of(...data, 0xc3);
      const said = await read(cut, MEDIA_TYPES.text);
      expect([said.text.slice(0, 20), said.warnings]).toEqual([
        text.slice(0, 20),
        [expect.stringContaining("no UTF-8")],
      ]);
    }
  });

  test("a page names its own; UTF-8 needs no name; what is declared wrongly is said", async () => {
    const page = Buffer.concat([Buffer.from('<meta charset="windows-1251"><p>'), encoded("windows-1251", "кошка")]);
    expect(await read(page, MEDIA_TYPES.html)).toMatchObject({ text: "кошка", reading: { encodingFrom: "file" } });
    expect(await read("кошка", MEDIA_TYPES.text)).toMatchObject({ text: "кошка", reading: {}, warnings: [] });
    const wrong = await read(bytes("Köln", "latin1"), MEDIA_TYPES.text, "utf-8");
    expect([wrong.text, wrong.warnings]).toEqual(["Köln", [expect.stringContaining("says that it is utf-8")]]);
  });
});

test.each([
  ["application/vnd.ms-excel", "a.csv", MEDIA_TYPES.csv],
  ["text/x-csv", "a", MEDIA_TYPES.csv],
  ["application/octet-stream", "a.DOCX", MEDIA_TYPES.docx],
  ["application/x-zip-compressed", "a.xlsx", MEDIA_TYPES.xlsx],
  ["application/x-ndjson; charset=utf-8", "a", MEDIA_TYPES.jsonLines],
  ["text/plain", "a.md", MEDIA_TYPES.markdown],
  ["", "a.eml", MEDIA_TYPES.eml],
])("a file sent as %s by the name %s is %s", (partType, filename, type) =>
  expect(mediaTypeOf({ mimeType: undefined, partType, filename })).toBe(type),
);
test("a file of an old Office is refused with what to do, by its ending or by its bytes", async () => {
  for (const filename of ["letter.doc", "Sheet.XLS", "slides.ppt"])
    expect(() => mediaTypeOf({ mimeType: undefined, partType: "text/plain", filename })).toThrow(/save it as \.docx/);
  const old = new Uint8Array([0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ...new Array(600).fill(0)]);
  await expect(extract(old, MEDIA_TYPES.text)).rejects.toThrow(/save it as \.docx/);
});

test.each(["application/vnd.ms-excel", "application/zip", "image/png", "constructor", "__proto__"])(
  "%s alone is not supported",
  (partType) =>
    expect(() => mediaTypeOf({ mimeType: undefined, partType, filename: "a.xls" })).toThrow(/not supported/),
);

describe("DOCX", () => {
  const ALL =
    'xmlns:w="w" xmlns:r="r" xmlns:m="m" xmlns:wp="wp" xmlns:a="a" xmlns:dgm="dgm" xmlns:mc="mc" xmlns:w14="w14"';
  const docx = (body: string, parts: Parameters<typeof officeOf>[1] = []) =>
    read(
      officeOf({ name: "word/document.xml", xml: `<w:document ${ALL}><w:body>${body}</w:body></w:document>` }, parts),
      MEDIA_TYPES.docx,
    );
  const p = (text: string, properties = "") =>
    `<w:p>${properties}<w:r><w:t xml:space="preserve">${text}</w:t></w:r></w:p>`;

  test.each([
    ["no escapes", p("user_id a[0] *b*") + p("1. not a list"), "user_id a[0] *b*\n\n1. not a list"],
    [
      "what is inserted, not what is deleted",
      "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>",
      "new",
    ],
    ["nothing hidden", `${p("Shown.")}<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>secret</w:t></w:r></w:p>`, "Shown."],
    [
      "rows of a table",
      `<w:tbl><w:tr><w:tc>${p("a")}</w:tc><w:tc>${p("b")}</w:tc></w:tr><w:tr><w:tc>${p("c")}</w:tc><w:tc>${p("d")}</w:tc></w:tr></w:tbl>`,
      "a | b\nc | d",
    ],
    [
      "a formula",
      "<w:p><m:oMath><m:f><m:num><m:r><m:t>a+b</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f></m:oMath></w:p>",
      "(a+b)/2",
    ],
    [
      "the state of a box",
      '<w:p><w:r><w:fldChar><w:ffData><w:checkBox><w:default w:val="0"/><w:checked/></w:checkBox></w:ffData></w:fldChar></w:r><w:r><w:t>paid</w:t></w:r></w:p>',
      "☒ paid",
    ],
    [
      "one of two versions of a drawing",
      `<w:p><w:r><mc:AlternateContent><mc:Choice><w:txbxContent>${p("box")}</w:txbxContent></mc:Choice><mc:Fallback><w:txbxContent>${p("box")}</w:txbxContent></mc:Fallback></mc:AlternateContent></w:r></w:p>`,
      "box",
    ],
  ])("%s", async (_, body, text) => expect((await docx(body)).text).toBe(text));

  test("headers, footers, notes and comments, and who said them", async () => {
    const note = (kind: string, text: string, more = "") =>
      `<w:${kind}s ${ALL}><w:${kind} w:id="2" ${more}>${p(text)}</w:${kind}></w:${kind}s>`;
    const { text } = await docx(
      `<w:p><w:r><w:t>Price</w:t><w:footnoteReference w:id="2"/><w:commentReference w:id="2"/></w:r></w:p>${p("after")}`,
      [
        { type: "header", name: "header1.xml", data: `<w:hdr ${ALL}>${p("Contract 7")}</w:hdr>` },
        { type: "header", name: "header2.xml", data: `<w:hdr ${ALL}>${p("Contract 7")}</w:hdr>` },
        { type: "footer", name: "footer1.xml", data: `<w:ftr ${ALL}>${p("1")}</w:ftr>` },
        { type: "footnotes", name: "footnotes.xml", data: note("footnote", "net") },
        {
          type: "comments",
          name: "comments.xml",
          data: note("comment", "too high", 'w:author="Ana" w:date="2026-03-01T10:00:00Z"'),
        },
      ],
    );
    expect(text).toBe("Contract 7\n\nPrice\n\nFootnote: net\n\nComment by Ana on 2026-03-01: too high\n\nafter");
  });

  test("headings by their style, and lists with the numbers that they show", async () => {
    const styles = `<w:styles ${ALL}><w:style w:styleId="H"><w:name w:val="heading 1"/></w:style><w:style w:styleId="My"><w:basedOn w:val="H"/></w:style></w:styles>`;
    const numbering = `<w:numbering ${ALL}><w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:numFmt w:val="upperRoman"/><w:lvlText w:val="%1."/></w:lvl><w:lvl w:ilvl="1"><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%2)"/></w:lvl></w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>`;
    const item = (text: string, level: number) =>
      p(text, `<w:pPr><w:numPr><w:ilvl w:val="${level}"/><w:numId w:val="1"/></w:numPr></w:pPr>`);
    const { text, sections } = await docx(
      p("Terms", '<w:pPr><w:pStyle w:val="My"/></w:pPr>') +
        item("one", 0) +
        item("a", 1) +
        item("b", 1) +
        item("two", 0) +
        item("a", 1),
      [
        { type: "styles", name: "styles.xml", data: styles },
        { type: "numbering", name: "numbering.xml", data: numbering },
      ],
    );
    expect([text, sections.map(({ title }) => title)]).toEqual([
      "Terms\n\nI. one\na) a\nb) b\nII. two\na) a",
      ["Terms"],
    ]);
  });

  test("a document that is shown in its place, and none that is only attached", async () => {
    const inner = officeOf({
      name: "word/document.xml",
      xml: `<w:document ${ALL}><w:body>${p("inside")}</w:body></w:document>`,
    });
    const around = `${p("before")}<w:altChunk r:id="r1"/>${p("after")}`;
    const damaged = new TextEncoder().encode("no package");
    const attached = { type: "package", name: "embeddings/attached.docx", data: damaged };
    expect(await docx(around, [{ type: "aFChunk", name: "inner.docx", data: inner }, attached])).toMatchObject({
      text: "before\n\ninside\n\nafter",
      warnings: [],
    });
    expect(await docx(around, [{ type: "aFChunk", name: "inner.docx", data: damaged }])).toMatchObject({
      text: "before\n\nafter",
      warnings: ["a document that is embedded in it is not read"],
    });
  });

  test("a page in its place, and the words of a diagram", async () => {
    const { text } = await docx(
      '<w:altChunk r:id="r1"/><w:p><w:r><w:drawing><dgm:relIds r:dm="r2"/></w:drawing></w:r></w:p>',
      [
        { type: "aFChunk", name: "chunk.html", data: "<p>from a page</p>" },
        {
          type: "diagramData",
          name: "data1.xml",
          data: `<dgm:dataModel ${ALL}><dgm:ptLst><dgm:pt type="doc"/><dgm:pt><dgm:t><a:p><a:r><a:t>Plan</a:t></a:r></a:p></dgm:t></dgm:pt><dgm:pt type="pres"><dgm:t><a:t>no</a:t></dgm:t></dgm:pt></dgm:ptLst></dgm:dataModel>`,
        },
      ],
    );
    expect(text).toBe("from a page\n\nPlan");
  });
});

test("XLSX: rows under their names, dates as dates, hidden sheets said", async () => {
  const sheet = (rows: string) => `<worksheet><sheetData>${rows}</sheetData></worksheet>`;
  const { text, sections, warnings } = await read(
    officeOf(
      {
        name: "xl/workbook.xml",
        xml: '<workbook xmlns:r="r"><sheets><sheet name="Sales" sheetId="1" r:id="r1"/><sheet name="Old" sheetId="2" state="hidden" r:id="r2"/></sheets></workbook>',
      },
      [
        {
          type: "worksheet",
          name: "sheet1.xml",
          data: sheet(
            '<row><c r="A1" t="s"><v>0</v></c><c r="B1" t="inlineStr"><is><t>share</t></is></c><c r="D1" t="s"><v>1</v></c></row><row><c r="A2" s="1"><v>45292</v></c><c r="B2" s="2"><v>0.125</v></c><c r="D2"><v>12.50</v></c></row>',
          ),
        },
        { type: "worksheet", name: "sheet2.xml", data: sheet('<row><c r="A1"><v>1</v></c></row>') },
        {
          type: "sharedStrings",
          name: "sharedStrings.xml",
          data: "<sst><si><t>day</t></si><si><r><t>amo</t></r><r><t>unt</t></r></si></sst>",
        },
        {
          type: "styles",
          name: "styles.xml",
          data: '<styleSheet><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="10"/></cellXfs></styleSheet>',
        },
      ],
    ),
    MEDIA_TYPES.xlsx,
  );
  expect(text).toBe("day: 2024-01-01; share: 12.5%; amount: 12.50");
  expect([sections.map(({ title }) => title), warnings]).toEqual([["Sales"], [expect.stringContaining("hidden")]]);
});

test("PPTX: slides in their order, with tables and notes, hidden ones said", async () => {
  const shape = (text: string, type: string) =>
    `<p:sp><p:nvSpPr><p:cNvPr/><p:cNvSpPr/><p:nvPr><p:ph type="${type}"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>${text}</a:t></a:r></a:p></p:txBody></p:sp>`;
  const slide = (tree: string, more = "") =>
    `<p:sld xmlns:p="p" xmlns:a="a" xmlns:r="r" ${more}><p:cSld><p:spTree>${tree}</p:spTree></p:cSld></p:sld>`;
  const cell = (text: string) => `<a:tc><a:txBody><a:p><a:r><a:t>${text}</a:t></a:r></a:p></a:txBody></a:tc>`;
  const { text, sections, warnings } = await read(
    officeOf(
      {
        name: "ppt/presentation.xml",
        xml: '<p:presentation xmlns:p="p" xmlns:r="r"><p:sldIdLst><p:sldId id="9" r:id="r2"/><p:sldId id="8" r:id="r1"/><p:sldId id="7" r:id="r3"/></p:sldIdLst></p:presentation>',
      },
      [
        {
          type: "slide",
          name: "slide1.xml",
          data: slide(
            `<p:graphicFrame><a:graphic><a:tbl><a:tr>${cell("a")}${cell("b")}</a:tr></a:tbl></a:graphic></p:graphicFrame>`,
          ),
        },
        {
          type: "slide",
          name: "slide2.xml",
          data: slide(shape("below", "body") + shape("Goals", "title") + shape("3", "sldNum")),
        },
        { type: "slide", name: "slide3.xml", data: slide(shape("secret", "body"), 'show="0"') },
      ],
    ),
    MEDIA_TYPES.pptx,
  );
  expect(text).toBe("Goals\n\nbelow\n\na | b");
  expect(sections.map(({ title }) => title)).toEqual(["Slide 1: Goals", "Slide 2"]);
  expect(warnings).toEqual(["hidden slides were left out: 3"]);
});

test("ODT: headings, lists, tables, notes and comments; nothing that is hidden or taken out", async () => {
  const content = `<office:document-content xmlns:office="o" xmlns:text="t" xmlns:table="b" xmlns:dc="d" xmlns:style="s"><office:automatic-styles><style:style style:name="Gone"><style:text-properties text:display="none"/></style:style></office:automatic-styles><office:body><office:text><text:tracked-changes><text:p>old</text:p></text:tracked-changes><text:h>Terms</text:h><text:p>one<text:s/>two<text:note text:note-class="footnote"><text:note-citation>1</text:note-citation><text:note-body><text:p>net</text:p></text:note-body></text:note><text:span text:style-name="Gone">secret</text:span></text:p><text:list><text:list-item><text:p>a</text:p></text:list-item></text:list><table:table><table:table-row><table:table-cell><text:p>x</text:p></table:table-cell><table:table-cell><text:p>y</text:p></table:table-cell></table:table-row></table:table></office:text></office:body></office:document-content>`;
  const { text, sections } = await read(zipOf([{ name: "content.xml", data: bytes(content) }]), MEDIA_TYPES.odt);
  expect(text).toBe("Terms\n\none two\n\nFootnote: net\n\n- a\n\nx | y");
  expect(sections.map(({ title }) => title)).toEqual(["Terms"]);
});

test("a message: who, when, what, and the names of what is attached", async () => {
  const { text, warnings } = await read(
    [
      "From: =?utf-8?q?J=C3=BCrgen?= <j@example.com>",
      "To: ana@example.com",
      "Subject: Ferry",
      "Content-Type: multipart/mixed; boundary=b",
      "",
      "--b",
      "Content-Type: text/html; charset=iso-8859-1",
      "Content-Transfer-Encoding: quoted-printable",
      "",
      "<p>It leaves at n=FCn.</p>",
      "--b",
      'Content-Type: application/pdf; name="plan.pdf"',
      'Content-Disposition: attachment; filename="plan.pdf"',
      "",
      "x",
      "--b--",
    ].join("\r\n"),
    MEDIA_TYPES.eml,
  );
  expect(text).toContain("From: Jürgen <j@example.com>\nTo: ana@example.com");
  expect(text).toContain("It leaves at nün.");
  expect(text).toContain("Attachments: plan.pdf");
  expect(warnings).toEqual([expect.stringContaining("attachments are named and not read (1)")]);
});

describe("PDF", () => {
  const pdf = (content: string, more?: Parameters<typeof pdfAround>[1]) =>
    read(pdfAround(content, more), MEDIA_TYPES.pdf);
  const at = (x: number, y: number, text: string, size = 12) =>
    `BT /F1 ${size} Tf 1 0 0 1 ${x} ${y} Tm (${text}) Tj ET `;

  test.each([
    [
      "words drawn from right to left",
      at(350, 700, "Age") + at(200, 700, "City") + at(50, 700, "Name"),
      "Name City Age",
    ],
    [
      "a table drawn by its columns",
      at(50, 700, "Name") +
        at(50, 686, "Ana") +
        at(50, 672, "Bob") +
        at(200, 700, "City") +
        at(200, 686, "Oslo") +
        at(200, 672, "Rome"),
      "Name City\nAna Oslo\nBob Rome",
    ],
    [
      "columns of a page one after the other",
      [700, 686, 672].map((y) => at(50, y, "the left column of a page has long lines")).join("") +
        [700, 686, 672].map((y) => at(320, y, "the right column of it is read after that")).join(""),
      `${Array(3).fill("the left column of a page has long lines").join("\n")}\n\n${Array(3).fill("the right column of it is read after that").join("\n")}`,
    ],
    ["a power apart from its number", at(50, 700, "10") + at(63.5, 705, "2", 7) + at(70, 700, "m"), "10 2 m"],
    [
      "words that a line's end cuts",
      "BT /F1 12 Tf 14 TL 50 700 Td (The experi-) Tj T* (mental group) Tj ET",
      "The experimental group",
    ],
    ["bold that is drawn twice", at(50, 700, "Total") + at(50.3, 700, "Total"), "Total"],
    ["nothing outside of the page", at(50, 700, "seen") + at(900, 700, "secret"), "seen"],
    [
      "the text below a scan with a stamp",
      `BT 3 Tr /F1 12 Tf 50 600 Td (a whole page of it) Tj ET 0 Tr ${at(50, 700, "No. 7")}`,
      "a whole page of it\n\nNo. 7",
    ],
    [
      "nothing without ink",
      `${at(50, 700, "seen and more")}BT 3 Tr /F1 12 Tf 50 600 Td (secret) Tj ET`,
      "seen and more",
    ],
    ["the text below a scan", "BT 3 Tr /F1 12 Tf 50 600 Td (scanned) Tj ET", "scanned"],
  ])("%s", async (_, content, text) => expect((await pdf(content)).text.trim()).toBe(text));

  test("a page of many lines takes time by their number", { tags: ["long"] }, async () => {
    const lines = Array.from({ length: 20_000 }, (_, i) => at(50, 800 - (i % 700), `line ${i}-`)).join("");
    expect((await pdf(lines)).text.length).toBeGreaterThan(200_000);
  });

  test("fields that are filled in, by their names, and notes on the page", async () => {
    const { text } = await pdf(at(50, 605, "Surname:"), {
      page: "/Annots [6 0 R 7 0 R 8 0 R]",
      catalog: "/AcroForm << /Fields [6 0 R 7 0 R] >>",
      objects: [
        "<< /Type /Annot /Subtype /Widget /FT /Tx /T (surname) /V (Nightingale) /Rect [100 600 300 620] /P 3 0 R >>",
        "<< /Type /Annot /Subtype /Widget /FT /Btn /T (paid) /V /Yes /AS /Yes /Rect [100 500 110 510] /P 3 0 R /AP << /N << /Yes 4 0 R >> >> >>",
        "<< /Type /Annot /Subtype /Text /Contents (check this) /T (Ana) /Rect [10 10 20 20] /P 3 0 R >>",
      ],
    });
    expect(text).toContain("surname: Nightingale\npaid: ☑\nNote by Ana: check this");
  });

  test("letters by a CMap that is not in the file", async () => {
    const font =
      "<< /Type /Font /Subtype /Type0 /BaseFont /SimSun /Encoding /UniGB-UCS2-H /DescendantFonts [<< /Type /Font /Subtype /CIDFontType2 /BaseFont /SimSun /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> /DW 1000 /FontDescriptor << /Type /FontDescriptor /FontName /SimSun /Flags 4 /FontBBox [0 -200 1000 900] /ItalicAngle 0 /Ascent 900 /Descent -200 /CapHeight 800 /StemV 80 >> >>] >>";
    const hex = Buffer.from("发票", "utf16le").swap16().toString("hex");
    expect((await pdf(`BT /F1 20 Tf 50 700 Td <${hex}> Tj ET`, { font })).text).toContain("发票");
  });
});

test("Markdown: front matter only where it is one", async () => {
  const titles = async (source: string) =>
    (await read(source, MEDIA_TYPES.markdown)).sections.map(({ title }) => title);
  expect(await titles("---\ntitle: x\ntags:\n  - a\n---\n\n# B\n\ntext")).toEqual([null, "B"]);
  expect(await titles("---\nJust a sentence here\n---\n\n# B\n")).toEqual([null, "Just a sentence here", "B"]);
  expect(await titles("# A\n\n```not a fence``` is inline\n\n# B\n")).toEqual(["A", "B"]);
});

test("keywords take time by the length of a text, whatever it says", async () => {
  const started = performance.now();
  expect((await keywordsOf("gene sequence protein\n".repeat(2_700))).length).toBeGreaterThan(0);
  expect(performance.now() - started).toBeLessThan(30_000);
});
