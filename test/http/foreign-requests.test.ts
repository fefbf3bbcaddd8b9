import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { pdfOf } from "../harness/files.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Requests that clients of other systems make, and that are meant as they say. */

let service: TestService;
let org: string;
let admin: Client;
let agent: Client;

beforeAll(async () => {
  service = await startService({ worker: {} });
  org = "foreign";
  admin = await service.mint("management", { org });
  agent = await service.mint("agent", { org });
});
afterAll(() => service.stop());

interface Answer {
  hits: {
    id: string;
    text: string;
    labels: string[];
    sessionId?: string;
    role?: string;
    seq?: number;
    documentId?: string;
    position?: number;
    createdAt: string;
  }[];
  trace: { traceId: string; source?: string };
}
const query = async (body: object, by = agent) => (await by.post<Answer>("/query", body)).body;

describe("recall", () => {
  test("source is a label that the trace carries, and narrows nothing", async () => {
    await agent.remember("Herons nest in the alder.");
    const answer = await query({ query: "where do herons nest", source: "eve" });
    expect(answer.hits.map(({ text }) => text)).toEqual(["Herons nest in the alder."]);
    expect(answer.trace.source).toBe("eve");
    const { body } = await agent.get<{ plan: string }>(`/traces/${answer.trace.traceId}`);
    expect(body.plan).toContain("for eve");
    // The cache does not make one caller's label another's.
    expect((await query({ query: "where do herons nest", source: "hermes" })).trace.source).toBe("hermes");
  });

  test("hits say where they come from", async () => {
    const batch = {
      messages: ["The coot dives.", "The grebe dives deeper."].map((content) => ({ role: "user", content })),
    };
    const { body } = await agent.post<{ sessionId: string }>("/facts/batch", { ...batch, labels: ["topic=diving"] });
    const [hit] = (await query({ query: "grebe dives deeper" })).hits;
    expect(hit).toMatchObject({ sessionId: body.sessionId, role: "user", seq: 1, labels: ["topic=diving"] });
    const upload = await agent.upload("Bitterns boom at night.\n\nNobody sees them.", "bitterns.txt");
    await agent.processed(upload.body.id);
    const [chunk] = (await query({ query: "bitterns boom at night" })).hits;
    expect(chunk).toMatchObject({ documentId: upload.body.id, position: 0 });
    await agent.post("/facts", {
      triples: [{ entity: { type: "bird", name: "Hetty" }, key: "colour", value: "grey" }],
    });
    const [fact] = (await query({ query: "What is Hetty's colour?" })).hits;
    expect(fact).toMatchObject({ labels: [], sessionId: expect.any(String), createdAt: expect.any(String) });
  });

  test("a date is its day: from its start, and until its end", async () => {
    const client = await service.mint("agent", { org: "dates" });
    for (const [text, day] of [
      ["Early herons.", "2026-03-01T00:00:00Z"],
      ["Noon herons.", "2026-03-02T12:00:00Z"],
      ["Late herons.", "2026-03-03T23:59:59Z"],
    ])
      await client.post("/facts", { text, observed_at: day });
    const found = async (more: object) =>
      (await query({ query: "herons", ...more }, client)).hits.map(({ text }) => text).sort();
    expect(await found({ validFrom: "2026-03-02", validUntil: "2026-03-03" })).toEqual([
      "Late herons.",
      "Noon herons.",
    ]);
    expect(await found({ validUntil: "2026-03-01" })).toEqual(["Early herons."]);
    expect(await found({ asOf: "2020-01-01" })).toEqual([]);
    const { body } = await client.get<{ memories: object[] }>("/memories?since=2026-03-03&until=2026-03-03");
    expect(body.memories).toHaveLength(1);
  });

  test("a context of no question is what is newest", async () => {
    const client = await service.mint("agent", { org: "newest" });
    for (const text of ["The first thing.", "The second thing."]) await client.remember(text);
    const { body } = await client.post<{ context: string }>("/context", { query: "" });
    expect(body.context).toContain("The second thing.");
    expect(body.context).toContain("The first thing.");
    const other = await service.mint("agent", { org: "newest-too" });
    expect((await other.post<{ context: string }>("/context", { query: " " })).body.context).toBe("");
  });
});

test("a field or route that there is not is told with what may be meant", async () => {
  for (const [path, body, hint] of [
    ["/query", { query: "x", scopes: "org/a" }, '"scopes" (did you mean lens?)'],
    ["/query", { query: "x", limit: 3 }, '"limit" (did you mean k?)'],
    ["/query", { qury: "x" }, '"qury" (did you mean query?)'],
    ["/query", { query: "x", "scope-view": "strict" }, '"scope-view" (did you mean scopeView?)'],
    ["/facts", { text: "x", scope: "org/a" }, '"scope" (did you mean scopes?)'],
    ["/facts", { text: "x", zebra: 1 }, 'Unrecognized key: "zebra"'],
    ["/facts", { text: "x", ["y".repeat(5_000)]: 1 }, "Unrecognized key"],
  ] as const) {
    const answer = await agent.post<{ detail: string }>(path, body);
    expect(answer.status).toBe(400);
    expect(answer.body.detail).toContain(hint);
    expect(answer.body.detail.length).toBeLessThan(500);
  }
  expect((await agent.post("/qurey", {})).text).toContain("there is no route POST");
  expect((await agent.get("/sessions/none")).status).toBe(404);
});

test("both words of extract are taken", async () => {
  for (const extract of ["whole_conversation", "per_message"]) {
    const stored = await agent.post("/facts/batch", { messages: [{ role: "user", content: "Noted." }], extract });
    expect(stored.status, stored.text).toBe(200);
  }
});

describe("documents", () => {
  test("chunks come by page, with how many there are", async () => {
    const text = Array.from(
      { length: 40 },
      (_, i) => `# Part ${i}\n\n${`Sentence ${i} of the book. `.repeat(30)}`,
    ).join("\n\n");
    const { body } = await agent.upload(text, "book.md");
    await agent.processed(body.id);
    interface Page {
      chunks: { position: number }[];
      page: number;
      pageSize: number;
      total: number;
    }
    const first = (await agent.get<Page>(`/documents/${body.id}/chunks?page=0&pageSize=3`)).body;
    const second = (await agent.get<Page>(`/documents/${body.id}/chunks?page=1&pageSize=3`)).body;
    expect([first, second].map(({ chunks }) => chunks.map(({ position }) => position))).toEqual([
      [0, 1, 2],
      [3, 4, 5],
    ]);
    expect(second).toMatchObject({ page: 1, pageSize: 3, total: 40 });
    expect((await agent.get(`/documents/${body.id}/chunks?page=0&limit=3`)).status).toBe(400);
  });

  test("are narrowed by several types, and followed along any kind of edge", async () => {
    const pdf = await agent.upload(await pdfOf(["Curlews probe the mud."]), "curlew.pdf");
    await agent.processed(pdf.body.id);
    const titles = async (more: object) =>
      (
        await agent.post<{ results: { document: { title: string } }[] }>("/documents/query", {
          query: "curlews probe mud",
          ...more,
        })
      ).body.results.map(({ document }) => document.title);
    expect(await titles({ filter: { mimeType: ["application/pdf", "text/csv"] } })).toEqual(["curlew.pdf"]);
    expect(await titles({ filter: { mimeType: ["text/csv"] } })).toEqual([]);
    for (const edge of ["knowledge_has_keyword", "section_match", "document_link", "document_summary", "hybrid_graph"])
      expect(await titles({ mode: "hybrid_graph", graphEdges: [edge] })).toContain("curlew.pdf");
  });

  test("PUT without a body reads the bytes again, as one version", async () => {
    const { body } = await agent.upload("Dunlins turn as one.", "dunlin.txt");
    await agent.processed(body.id);
    await admin.call("PUT", "/contexts/default/settings", { scope: { org }, chunkTokens: 100 });
    const again = await agent.call<{ status: string; version: number }>("PUT", `/documents/${body.id}`);
    expect(again.status, again.text).toBe(202);
    expect(again.body).toMatchObject({ id: body.id, status: "queued", version: 1, deduplicated: false });
    expect(await agent.processed(body.id)).toMatchObject({ status: "ready", version: 1 });
    expect((await agent.recall("dunlins turn"))[0]).toBe("Dunlins turn as one.");
    expect((await agent.call("PUT", "/documents/00000000-0000-7000-8000-000000000000")).status).toBe(404);
    const rival = await service.mint("agent", { org: "rival" });
    expect((await rival.call("PUT", `/documents/${body.id}`)).status).toBe(404);
    // The answer says what is there.
    const writer = await service.mint("agent", { org }, { verbs: ["memory:write"] });
    expect((await writer.call("PUT", `/documents/${body.id}`)).status).toBe(403);
  });

  test("a file part without a name, whatever its bytes, is a file named upload", async () => {
    const pdf = Buffer.from(await pdfOf(["Plovers run and stop."]));
    const boundary = "----a";
    const part = (header: string) => Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; ${header}\r\n`);
    for (const metadataFirst of [true, false]) {
      const file = [
        part('name="file"'),
        Buffer.from("Content-Type: application/pdf\r\n\r\n"),
        pdf,
        Buffer.from("\r\n"),
      ];
      const metadata = [part('name="metadata"'), Buffer.from(`\r\n{"labels":["first=${metadataFirst}"]}\r\n`)];
      const body = Buffer.concat([
        ...(metadataFirst ? [...metadata, ...file] : [...file, ...metadata]),
        Buffer.from(`--${boundary}--\r\n`),
      ]);
      const sent = await agent.call<{ id: string }>("POST", "/documents", undefined, {
        raw: body,
        headers: { "content-type": `multipart/form-data; boundary=${boundary}` },
      });
      expect(sent.status, sent.text).toBe(202);
      const document = await agent.processed(sent.body.id);
      expect(document).toMatchObject({ status: "ready", title: "upload", mimeType: "application/pdf" });
    }
    expect((await agent.recall("plovers run and stop"))[0]).toBe("Plovers run and stop.");
  });
});

describe("inspect", () => {
  const inspect = (ref: string) => agent.get(`/inspect?ref=${encodeURIComponent(ref)}`);

  test("takes every kind of reference", async () => {
    const tobie = { type: "person", name: "tobie" };
    await agent.post("/facts", {
      triples: [
        { entity: tobie, key: "role", value: "intern" },
        { entity: tobie, key: "works_at", target: { type: "org", name: "surreal" } },
      ],
    });
    await agent.post("/facts", { triples: [{ entity: tobie, key: "role", value: "CTO" }] });
    expect((await inspect("person:tobie")).body).toMatchObject({ kind: "entity", entity: { name: "tobie" } });
    expect((await inspect("attribute:person/tobie/role")).body).toMatchObject({
      kind: "attribute",
      current: { value: "CTO" },
      history: [{ value: "CTO" }, { value: "intern" }],
    });
    const relation = {
      kind: "relation",
      matches: [{ subject: "person/tobie", label: "works_at", object: "org/surreal" }],
    };
    expect((await inspect("relation:person/tobie-[works_at]->org/surreal")).body).toMatchObject(relation);
    expect((await inspect("relation:person/tobie-[works_at]->")).body).toMatchObject(relation);
    expect((await inspect("relation:person/tobie-[works_at]->org/other")).body).toMatchObject({ matches: [] });
    const { body } = await agent.upload("Knots fly far.", "knots.txt");
    await agent.processed(body.id);
    expect((await inspect(`passage:${body.id}/0`)).body).toMatchObject({
      kind: "passage",
      chunk: { text: "Knots fly far." },
    });
    const [hit] = (await query({ query: "knots fly far" })).hits;
    for (const ref of [hit?.id, `passage:${hit?.id}`, `memory:${hit?.id}`])
      expect((await inspect(`${ref}`)).body).toMatchObject({ kind: "memory", memory: { text: "Knots fly far." } });
  });

  test("a reference of no kind is 400 and says which there are; what is not there, or another's, is 404", async () => {
    for (const ref of ["tobie", "passage:x/1", "relation:person/tobie", "attribute:person", "trace:1", ":a"]) {
      const answer = await inspect(ref);
      expect([ref, answer.status]).toEqual([ref, 400]);
      expect(answer.text).toContain("attribute:<type>/<name>/<key>");
    }
    const rival = await service.mint("agent", { org: "rival" });
    const { body } = await agent.upload("Ruffs fight.", "ruffs.txt");
    await agent.processed(body.id);
    const { chunkId } = await agent.remember("A secret of ruffs.");
    for (const ref of [
      `passage:${body.id}/0`,
      `memory:${chunkId}`,
      chunkId,
      "attribute:person/tobie/role",
      "relation:person/tobie-[works_at]->",
    ])
      expect((await rival.get(`/inspect?ref=${encodeURIComponent(ref)}`)).status, ref).toBe(404);
  });
});

describe("keys", () => {
  test("the audit takes a kind of key or a key's id", async () => {
    await agent.remember("Noted by the agent.");
    const rows = async (filter: string) =>
      (await admin.get<{ rows: { principal: string; principalKind: string }[] }>(`/audit?${filter}`)).body.rows;
    expect(new Set((await rows("principal=agent")).map(({ principalKind }) => principalKind))).toEqual(
      new Set(["agent"]),
    );
    expect(new Set((await rows(`principal=${agent.id}`)).map(({ principal }) => principal))).toEqual(
      new Set([agent.id]),
    );
    expect(await rows(`principal=${agent.id}&key=${agent.id}`)).not.toEqual([]);
    expect((await admin.get(`/audit?principal=${agent.id}&key=${admin.id}`)).status).toBe(400);
    expect((await admin.get("/audit?principal=nobody")).status).toBe(400);
  });

  test("grants are narrowed by a path and verbs", async () => {
    const key = await service.mint("agent", { org });
    const narrowed = await admin.post<{ grants: object }>(`/principals/${key.id}/grants`, {
      path: `org/${org}/*`,
      verbs: ["memory:read"],
    });
    expect(narrowed.status, narrowed.text).toBe(200);
    expect(narrowed.body.grants).toEqual({ "memory:read": [`org/${org}/*`] });
    expect((await admin.post(`/principals/${key.id}/grants`, { path: `org/${org}/*` })).status).toBe(400);
    const elsewhere = await admin.post(`/principals/${key.id}/grants`, { path: "org/rival", verbs: ["memory:read"] });
    expect(elsewhere.status).toBe(422);
  });
});
