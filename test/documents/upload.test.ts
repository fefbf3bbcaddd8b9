import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { docxOf, htmlOf, markdownOf, pdfOf } from "../harness/files.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let acme: Client;
let globex: Client;

beforeAll(async () => {
  service = await startService({ worker: {} });
  acme = await service.mint("agent", { org: "acme" });
  globex = await service.mint("agent", { org: "globex" });
});
afterAll(() => service.stop());

const SECTIONS = [
  {
    heading: "Refunds",
    text: "A customer gets the money back within thirty days when the parcel is unopened, and within ten days otherwise.",
  },
  {
    heading: "Shipping",
    text: "Zeppelins carry parcels to every harbour before noon on Fridays, unless the wind is against them or the harbour is closed.",
  },
];

interface ChunkAnswer {
  id: string;
  document: string;
  position: number;
  section?: string;
  charStart: number;
  charEnd: number;
  text: string;
  tokenCount: number;
  duplicateOf?: string;
}

const chunksOf = async (client: Client, id: string) =>
  (await client.get<{ chunks: ChunkAnswer[] }>(`/documents/${id}/chunks?limit=500`)).body.chunks;

/** Uploads, waits, and gives the document; the upload itself must be accepted. */
async function stored(client: Client, content: string | Uint8Array, name: string, metadata?: object) {
  const accepted = await client.upload(content, name, metadata);
  expect(accepted.status, accepted.text).toBe(202);
  return client.processed(accepted.body.id);
}

describe("an upload of each kind", () => {
  type Kind = [kind: string, name: string, make: () => Promise<string | Uint8Array>, mimeType: string];
  const isStored = async (...[_kind, name, make, mimeType]: Kind) => {
    const bytes = await make();
    const client = await service.mint("agent", { org: `kind-${name.replace(".", "-")}` });
    const document = await stored(client, bytes, name);
    expect(document).toMatchObject({ status: "ready", title: name, mimeType, version: 1 });
    expect(document.processingCompletedAt).toBeTypeOf("string");
    const found = await client.post<{ hits: { text: string; source: string; documentTitle: string }[] }>("/query", {
      query: "when do zeppelins carry parcels",
    });
    expect(found.body.hits[0]).toMatchObject({ source: "chunk", documentTitle: name });
    expect(found.body.hits[0]?.text).toContain("Zeppelins carry parcels");
    expect(found.text).not.toContain("scriptword");
    const raw = await fetch(`${service.url}/default/documents/${document.id}/raw`, {
      headers: { authorization: `Bearer ${client.key}` },
    });
    expect(raw.status).toBe(200);
    expect(raw.headers.get("content-type")).toContain(mimeType);
    expect(Buffer.from(await raw.arrayBuffer()).equals(Buffer.from(bytes))).toBe(true);
    expect(document.contentHash).toBe(createHash("sha256").update(bytes).digest("hex"));
  };
  const TITLE = "%s is ready, recalled, and its bytes come back identical";

  test.each<Kind>([
    ["Markdown", "guide.md", async () => markdownOf(SECTIONS), "text/markdown"],
    [
      "PDF",
      "policy.pdf",
      async () => pdfOf(SECTIONS.map(({ heading, text }) => `${heading}\n${text}`)),
      "application/pdf",
    ],
  ])(TITLE, isStored);

  test.each<Kind>([
    [
      "text",
      "notes.txt",
      async () => SECTIONS.map(({ heading, text }) => `${heading}\n\n${text}`).join("\n\n"),
      "text/plain",
    ],
    ["HTML", "page.html", async () => htmlOf(SECTIONS), "text/html"],
    [
      "CSV",
      "table.csv",
      async () => `topic,rule\n${SECTIONS.map(({ heading, text }) => `${heading},"${text}"`).join("\n")}`,
      "text/csv",
    ],
    ["JSON", "rules.json", async () => JSON.stringify({ rules: SECTIONS }), "application/json"],
    [
      "DOCX",
      "policy.docx",
      async () => docxOf(SECTIONS),
      "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ],
  ])(TITLE, { tags: ["long"] }, isStored);

  test("headings are sections, offsets are exact, and neighbours lie in order", async () => {
    const text = markdownOf([
      ...SECTIONS,
      {
        heading: "Long",
        text: Array.from({ length: 120 }, (_, i) => `Sentence ${i} is about the number ${i * i} 🚀.`).join(" "),
      },
    ]);
    const document = await stored(acme, text, "offsets.md");
    const chunks = await chunksOf(acme, String(document.id));
    expect(chunks.length).toBeGreaterThan(4);
    expect([...new Set(chunks.map((chunk) => chunk.section))]).toEqual(["Refunds", "Shipping", "Long"]);
    for (const [i, chunk] of chunks.entries()) {
      expect(chunk.text).toBe(text.slice(chunk.charStart, chunk.charEnd));
      expect(chunk.position).toBe(i);
      expect(chunk.document).toBe(document.id);
      expect(chunk.tokenCount).toBeGreaterThan(0);
      expect(chunk.text.isWellFormed()).toBe(true);
    }
    // Nothing but white space lies outside of all chunks.
    const covered = new Array<boolean>(text.length).fill(false);
    for (const chunk of chunks) covered.fill(true, chunk.charStart, chunk.charEnd);
    expect([...Array(text.length).keys()].filter((i) => !covered[i] && text[i]?.trim() !== "").length).toBeLessThan(3);
  });

  test("the charset that a file's part names is the file's, and a document says what could not be read", async () => {
    const body = (first: string, second: string) =>
      Buffer.from(`--b\r\n${first}\r\n--b\r\n${second}\r\n--b--\r\n`, "latin1");
    const metadata = 'Content-Disposition: form-data; name="metadata"\r\n\r\n{"title": "cities"}';
    const part = (charset: string, value: string) =>
      `Content-Type: text/csv; charset=${charset}\r\nContent-Disposition: form-data; name="file"; filename="c.csv"\r\n\r\ncity\r\n${value}\r\n`;
    const send = async (raw: Buffer) => {
      const { body: accepted, text: said } = await acme.call<{ id: string }>("POST", "/documents", undefined, {
        raw,
        headers: { "content-type": "multipart/form-data; boundary=b" },
      });
      expect(accepted.id, said).toBeDefined();
      const document = await acme.processed(accepted.id);
      return { ...document, text: (await chunksOf(acme, accepted.id)).map(({ text }) => text).join("") };
    };
    // The same bytes are a letter of another alphabet, and are read anew when that is said.
    expect(await send(body(metadata, part("iso-8859-1", "\xa3\xf3d\xbc")))).toMatchObject({ text: "city: £ód¼" });
    expect(await send(body(metadata, part("iso-8859-2", "\xa3\xf3d\xbc")))).toMatchObject({
      status: "ready",
      text: "city: Łódź",
      reading: { encoding: "iso-8859-2", encodingFrom: "declared", delimiter: ",", header: true },
    });
    expect(await send(body(part("utf-8", 'K\xf6ln\r\n"open'), metadata))).toMatchObject({
      warnings: [
        expect.stringContaining("says that it is utf-8"),
        "line 3: a quote is not closed; it was read as text",
      ],
    });
  });

  test("underscores stay in headings, and front matter is no heading", { tags: ["long"] }, async () => {
    const document = await stored(acme, "---\nlayout: x\n---\n\n# The `foo_bar_baz` call\n\nIt calls.\n", "front.md");
    // Both are too short to stand by themselves.
    expect((await chunksOf(acme, String(document.id))).map(({ section }) => section)).toEqual(["The foo_bar_baz call"]);
  });

  test("near-duplicates are marked, in one document and across those of a scope, and not across scopes", {
    tags: ["long"],
  }, async () => {
    const client = await service.mint("agent", { org: "dup" });
    const line =
      "The warehouse keeps forty thousand copper kettles in the northern hall beside the old railway line, where sparrows nest every spring under a broken clock.";
    const first = await stored(client, `# One\n\n${line}\n\n# Two\n\n${line} \n`, "first.md");
    const [one, two] = await chunksOf(client, String(first.id));
    expect(one?.duplicateOf).toBeUndefined();
    expect(two?.duplicateOf).toBe(one?.id);
    const second = await stored(client, `# One\n\n${line}\n\nAnd a new thing about lamps.`, "second.md");
    expect((await chunksOf(client, String(second.id))).map((chunk) => chunk.duplicateOf === undefined)).toContain(true);
    const third = await stored(client, `# One\n\n${line}`, "third.md");
    expect((await chunksOf(client, String(third.id)))[0]?.duplicateOf).toBe(one?.id);
    const elsewhere = await stored(globex, `# One\n\n${line}`, "third.md");
    expect((await chunksOf(globex, String(elsewhere.id)))[0]?.duplicateOf).toBeUndefined();
  });
});

describe("an upload's request", () => {
  test("is 400 where its metadata is no UTF-8, as a field or as a part with a file name", async () => {
    for (const disposition of ['name="metadata"', 'name="metadata"; filename="m.json"']) {
      const parts = [
        `--x\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n{"title":"a`,
        Buffer.from([0xff, 0xfe]),
        '"}\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ntext\r\n--x--\r\n',
      ].map((part) => Buffer.from(part as string));
      const answer = await fetch(`${service.url}/default/documents`, {
        method: "POST",
        headers: { authorization: `Bearer ${acme.key}`, "content-type": "multipart/form-data; boundary=x" },
        body: Buffer.concat(parts),
      });
      expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining("UTF-8")]);
    }
  });

  test("takes its parts in either order, metadata in camelCase or snake_case, or none", {
    tags: ["long"],
  }, async () => {
    const metadata = {
      title: "Order",
      source: "https://example.com/a",
      mime_type: "text/plain",
      labels: ["kind=note"],
      observedAt: "2024-01-01T00:00:00Z",
    };
    const first = await acme.upload("metadata comes first, says the pelican", "a.bin", metadata);
    const last = await acme.upload("metadata comes last, says the pelican", "a.bin", metadata, { fileFirst: true });
    const none = await acme.upload("no metadata at all, says the pelican", "pelican.txt");
    for (const answer of [first, last, none]) expect(answer.status, answer.text).toBe(202);
    expect(await acme.processed(last.body.id)).toMatchObject({
      title: "Order",
      source: "https://example.com/a",
      mimeType: "text/plain",
      labels: ["kind=note"],
      status: "ready",
      observedAt: "2024-01-01T00:00:00.000Z",
      scope: { org: "acme" },
    });
    await acme.processed(first.body.id);
    await acme.processed(none.body.id);
    expect(await acme.recall("pelican metadata", { labels: ["kind=note"] })).toHaveLength(2);
  });

  test.each([
    [400, "an unknown field", { metadata: { colour: "red" } }],
    [400, "a malformed title", { metadata: { title: 7 } }],
    [403, "a scope outside of the floor", { metadata: { scopes: "org/globex" } }],
    [415, "a type that is not supported", { metadata: { mimeType: "image/png" } }],
    [415, "a part of a type that is not supported", { type: "video/mp4" }],
  ])("%s for %s", async (status, _what, { metadata, type }: { metadata?: object; type?: string }) => {
    expect((await acme.upload("text", "a.dat", metadata, { ...(type === undefined ? {} : { type }) })).status).toBe(
      status,
    );
  });

  test("is refused when it is not multipart, has no file, an unknown part, or two files", async () => {
    expect((await acme.post("/documents", { text: "x" })).status).toBe(415);
    const send = async (build: (form: FormData) => void) => {
      const form = new FormData();
      build(form);
      const answer = await fetch(`${service.url}/default/documents`, {
        method: "POST",
        headers: { authorization: `Bearer ${acme.key}` },
        body: form,
      });
      return { status: answer.status, text: await answer.text() };
    };
    expect((await send((form) => form.append("metadata", "{}"))).status).toBe(400);
    // A file is one without a name too, byte for byte.
    const unnamed = await send((form) => form.append("file", "a string, not a file"));
    expect(unnamed.status).toBe(202);
    expect((await acme.processed(JSON.parse(unnamed.text).id)).title).toBe("upload");
    expect(
      (
        await send((form) => {
          form.append("file", new Blob(["a"]), "a.txt");
          form.append("other", "b");
        })
      ).status,
    ).toBe(400);
    expect(
      (
        await send((form) => {
          form.append("file", new Blob(["a"]), "a.txt");
          form.append("file", new Blob(["b"]), "b.txt");
        })
      ).status,
    ).toBe(400);
    expect(
      (
        await send((form) => {
          form.append("metadata", "{nonsense");
          form.append("file", new Blob(["a"]), "a.txt");
        })
      ).status,
    ).toBe(400);
    const blob = await send((form) => {
      form.append("metadata", new Blob(['{"title":"from a blob"}'], { type: "application/json" }));
      form.append("file", new Blob(["metadata as a blob"]), "a.txt");
    });
    expect(blob.status, blob.text).toBe(202);
  });

  test("with an Idempotency-Key is done once, whatever the boundary", async () => {
    const headers = { "idempotency-key": "upload-1" };
    const first = await acme.upload("once and only once", "once.txt", { title: "Once" }, { headers });
    const again = await acme.upload("once and only once", "once.txt", { title: "Once" }, { headers });
    expect(first.status).toBe(202);
    expect(again.text).toBe(first.text);
    expect(again.headers.get("idempotent-replayed")).toBe("true");
    expect((await acme.upload("something else", "once.txt", { title: "Once" }, { headers })).status).toBe(409);
  });
});

describe("the same bytes", () => {
  test("are one document in a scope, and another in every other scope (threat 3)", async () => {
    const text = "The content hash of this sentence is the same for everyone.";
    const other = await globex.upload(text, "same.txt");
    const mine = await acme.upload(text, "same.txt");
    const again = await acme.upload(text, "renamed.txt");
    const below = await acme.upload(text, "same.txt", { scopes: "user/alice" });
    expect([other, mine, below].map(({ body }) => body.deduplicated)).toEqual([false, false, false]);
    expect(again.body).toMatchObject({ id: mine.body.id, deduplicated: true });
    expect(new Set([other.body.id, mine.body.id, below.body.id]).size).toBe(3);
    // Nothing in the answer tells whether a foreign copy was there before.
    const fresh = await acme.upload("a text that nobody has", "fresh.txt");
    expect(Object.keys(fresh.body)).toEqual(Object.keys(mine.body));
  });
});

describe("a document", () => {
  test("gets a new version, and recall shows the old one until the new one is ready", async () => {
    const client = await service.mint("agent", { org: "versions" });
    const first = await stored(client, "The gate code is heron.", "code.txt");
    const path = `/documents/${first.id}`;
    const replaced = await client.upload(
      "The gate code is walrus.",
      "code.txt",
      { title: "Gate" },
      { method: "PUT", path },
    );
    expect(replaced.status, replaced.text).toBe(202);
    expect(replaced.body).toMatchObject({ id: first.id, version: 2, deduplicated: false });
    expect(await client.processed(String(first.id))).toMatchObject({ status: "ready", version: 2, title: "Gate" });
    expect(await client.recall("gate code")).toEqual(["The gate code is walrus."]);
    const raw = await client.call("GET", `${path}/raw`).catch(() => undefined);
    expect(raw?.text ?? "").not.toContain("heron");
    const same = await client.upload("The gate code is walrus.", "code.txt", undefined, { method: "PUT", path });
    expect(same.body).toMatchObject({ version: 2, deduplicated: true });
    await client.upload(
      "The gate code is walrus.",
      "code.txt",
      { title: "Gate, again", labels: ["kind=code"] },
      { method: "PUT", path },
    );
    expect((await client.get(path)).body).toMatchObject({ title: "Gate, again", labels: ["kind=code"], version: 2 });
    expect(await client.recall("gate code", { labels: ["kind=code"] })).toEqual(["The gate code is walrus."]);
    const rows = await service.database.sql("SELECT version FROM scopefloor.document_content WHERE document_id = $1", [
      first.id,
    ]);
    expect(rows).toEqual([{ version: 2 }]);
  });

  test("whose new version cannot be read keeps showing the old one, and says why", { tags: ["long"] }, async () => {
    const client = await service.mint("agent", { org: "bad-version" });
    const first = await stored(client, "The password hint is otter.", "hint.txt");
    const path = `/documents/${first.id}`;
    await client.upload(new Uint8Array([1, 2, 0, 0xff, 0xfe]), "hint.txt", undefined, { method: "PUT", path });
    expect(await client.processed(String(first.id))).toMatchObject({
      status: "failed",
      version: 2,
      error: expect.stringContaining("not text"),
    });
    expect(await client.recall("password hint")).toEqual(["The password hint is otter."]);
  });

  test("is deleted with every row that was made from it", async () => {
    const client = await service.mint("agent", { org: "deleted" });
    const document = await stored(client, markdownOf(SECTIONS), "gone.md");
    const kept = await stored(client, "The kept document is about turbines.", "kept.txt");
    expect((await client.del(`/documents/${document.id}`)).status).toBe(204);
    expect((await client.get(`/documents/${document.id}`)).status).toBe(404);
    expect((await client.del(`/documents/${document.id}`)).status).toBe(404);
    expect(await client.recall("zeppelins")).not.toContainEqual(expect.stringContaining("Zeppelins"));
    for (const table of ["document", "document_content", "passage", "keyword"]) {
      const column = table === "document" ? "id" : "document_id";
      expect(
        await service.database.sql(`SELECT 1 FROM scopefloor.${table} WHERE ${column} = $1`, [document.id]),
      ).toEqual([]);
    }
    const orphans = await service.database.sql("SELECT 1 FROM scopefloor.passage WHERE terms IS NULL");
    expect(orphans).toEqual([]);
    expect(await client.recall("turbines")).toEqual(["The kept document is about turbines."]);
    expect((await client.get(`/documents/${kept.id}`)).status).toBe(200);
  });

  test("is listed by status and type, in pages", { tags: ["long"] }, async () => {
    const client = await service.mint("agent", { org: "listed" });
    for (let i = 0; i < 5; i++) await stored(client, `text number ${i}`, `${i}.txt`);
    await stored(client, "", "empty.txt");
    const page = await client.get<{ documents: unknown[]; total: number; page: number; pageSize: number }>(
      "/documents?status=ready&page=1&pageSize=2",
    );
    expect(page.body).toMatchObject({ total: 5, page: 1, pageSize: 2 });
    expect(page.body.documents).toHaveLength(2);
    expect((await client.get<{ total: number }>("/documents?mimeType=text/html")).body.total).toBe(0);
    expect((await client.get<{ total: number }>("/documents?status=failed")).body.total).toBe(1);
    expect((await client.get("/documents?status=lost")).status).toBe(400);
  });
});

describe("the keywords of documents", () => {
  test("are listed, described and searched, and never another scope's", async () => {
    const client = await service.mint("agent", { org: "keywords" });
    const text =
      "The wind turbine turns. The wind turbine needs grease. A wind turbine gearbox fails when the grease is old. Gearbox repair is costly.";
    const first = await stored(client, text, "a.txt");
    await stored(client, `${text} Offshore platforms need cranes.`, "b.txt");
    const own = await client.get<{ keywords: { normalised: string; score: number; count: number }[] }>(
      `/documents/${first.id}/keywords`,
    );
    expect(own.body.keywords.map(({ normalised }) => normalised)).toContain("wind turbine");
    const all = await client.get<{ keywords: { normalised: string; documentCount: number }[]; total: number }>(
      "/documents/keywords?q=turbine&minDocumentCount=2",
    );
    expect(all.body.keywords[0]).toMatchObject({ documentCount: 2 });
    const detail = await client.get<{ documents: unknown[] }>("/documents/keywords/Wind%20Turbine");
    expect(detail.body.documents).toHaveLength(2);
    const search = await client.post<{ results: { normalised: string }[] }>("/documents/keywords/search", {
      query: "turbines",
      k: 3,
    });
    expect(search.body.results.map(({ normalised }) => normalised)).toContainEqual(expect.stringContaining("turbine"));
    expect((await globex.get<{ total: number }>("/documents/keywords?q=turbine")).body.total).toBe(0);
    expect((await globex.get("/documents/keywords/wind%20turbine")).status).toBe(404);
    const links = await client.post<{ linksEmitted: number }>("/documents/recompute-links", {});
    expect(links.body.linksEmitted).toBe(2);
    const again = await Promise.all(
      Array.from({ length: 6 }, () => client.post<{ linksEmitted: number }>("/documents/recompute-links", {})),
    );
    expect(again.map(({ status, body }) => [status, body.linksEmitted])).toEqual(again.map(() => [200, 2]));
  });
});

describe("a query of documents", () => {
  test("finds chunks with their documents in every mode, within its filter", async () => {
    const client = await service.mint("agent", { org: "doc-query" });
    await client.remember("A turn about zeppelins is no document.");
    const first = await stored(client, markdownOf(SECTIONS), "a.md");
    const second = await stored(
      client,
      htmlOf([{ heading: "Air", text: "Zeppelins are airships filled with helium." }]),
      "b.html",
    );
    type Results = {
      results: { chunk: ChunkAnswer; document: { id: string; title: string }; score: number }[];
      queryMs: number;
    };
    for (const mode of ["hybrid", "vector", "bm25", "hybrid_graph"]) {
      const { body, text } = await client.post<Results>("/documents/query", {
        query: "zeppelins airships",
        mode,
        k: 5,
      });
      expect(body.results[0]?.document, `${mode} ${text}`).toMatchObject({ id: second.id, title: "b.html" });
      expect(body.results.map(({ document }) => document.id)).toContain(first.id);
      expect(text).not.toContain("no document");
    }
    const filtered = await client.post<Results>("/documents/query", {
      query: "zeppelins",
      filter: { documentIds: [first.id] },
    });
    expect(new Set(filtered.body.results.map(({ document }) => document.id))).toEqual(new Set([first.id]));
    const typed = await client.post<Results>("/documents/query", {
      query: "zeppelins",
      filter: { mime_type: "text/html" },
    });
    expect(typed.body.results.map(({ document }) => document.id)).toEqual([second.id]);
    expect(
      (await client.post<Results>("/documents/query", { query: "zeppelins", threshold: 1000, mode: "bm25" })).body
        .results,
    ).toEqual([]);
    expect((await client.post<Results>("/documents/query", { query: "quantum entanglement" })).body.results).toEqual(
      [],
    );
    expect((await client.post("/documents/query", { query: "x", filter: { colour: "red" } })).status).toBe(400);
    const weighted = await client.post<Results>("/documents/query", { query: "zeppelins", rrfK: 10, vectorWeight: 0 });
    expect(weighted.body.results.length).toBeGreaterThan(0);
  });
});
