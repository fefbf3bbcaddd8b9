import { request } from "node:http";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let agent: Client;

beforeAll(async () => {
  service = await startService();
  agent = await service.mint("agent", { org: "acme" });
});
afterAll(() => service.stop());

const raw = (body: string | Uint8Array, headers: Record<string, string> = {}, path = "/query") =>
  agent.call("POST", path, undefined, { raw: body, headers: { "content-type": "application/json", ...headers } });

const query = (more: object) => agent.post("/query", { query: "x", ...more });

describe("a body that is not what it should be", () => {
  test("is problem+json with every member, and names the field", async () => {
    const answer = await query({ k: 51 });
    expect(answer.headers.get("content-type")).toMatch(/^application\/problem\+json/);
    expect(answer.body).toEqual({
      type: "https://scopefloor.dev/errors/validation-error",
      title: "The request is not valid",
      status: 400,
      detail: expect.stringContaining("k:"),
      message: answer.body.detail,
      instance: "/api/v1/default/query",
      requestId: answer.headers.get("x-request-id"),
    });
  });

  test("malformed JSON, bad UTF-8, nothing, and other than an object are 400", async () => {
    for (const body of ["{", "[]", "null", '"text"', "1", "", "{}", '{"query":', '{"query":"x"}}', "{'query':'x'}"]) {
      expect((await raw(body)).status, body).toBe(400);
    }
    expect((await raw(new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]))).status).toBe(400);
  });

  test("deep nesting is 400 before parsing, in any field (threat 26)", async () => {
    const deep = (n: number) => `{"query":"x","location":${"[".repeat(n)}${"]".repeat(n)}}`;
    for (const n of [32, 1_000, 400_000]) expect((await raw(deep(n))).status, String(n)).toBe(400);
    expect((await raw(deep(31))).status).toBe(422);
    expect((await raw(`{"query":"${"[".repeat(100)}"}`)).status).toBe(200);
  });

  test("over 1 MiB is 413, said at once by its length or found on the way; facts/batch takes 16 MiB (threat 26)", async () => {
    const huge = JSON.stringify({ query: "x".repeat(1024 * 1024) });
    expect((await raw(huge)).status).toBe(413);
    const chunked = await new Promise<number>((resolve, reject) => {
      const call = request(`${service.url}/default/query`, {
        method: "POST",
        headers: {
          authorization: `Bearer ${agent.key}`,
          "content-type": "application/json",
          "transfer-encoding": "chunked",
        },
      });
      call.on("response", (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      call.on("error", reject);
      call.write(huge.slice(0, 600_000));
      call.end(huge.slice(600_000));
    });
    expect(chunked).toBe(413);
    const batch = { messages: Array.from({ length: 20 }, () => ({ role: "user", content: "word ".repeat(15_000) })) };
    expect((await agent.post("/facts/batch", batch)).status).toBe(200);
  });

  test("another content type, and a compressed body, are 415", async () => {
    const body = '{"query":"x"}';
    for (const type of [
      "text/plain",
      "application/xml",
      "multipart/form-data; boundary=x",
      "application/json; charset=latin1",
    ]) {
      expect((await raw(body, { "content-type": type })).status, type).toBe(415);
    }
    expect((await raw(body, { "content-encoding": "gzip" })).status).toBe(415);
    expect((await raw(body, { "content-type": 'application/json; charset="UTF-8"' })).status).toBe(200);
  });

  test("NUL and lone surrogates are 400 wherever they stand: PostgreSQL stores neither", async () => {
    for (const bad of ["a\0b", "\ud800", "\udc00x"]) {
      expect((await agent.post("/facts", { text: bad })).status).toBe(400);
      expect((await agent.post("/sessions", { metadata: { note: bad } })).status).toBe(400);
      expect((await agent.post("/sessions", { metadata: { [bad]: 1 } })).status).toBe(400);
      expect((await agent.post("/facts", { text: "x", labels: [`a=${bad}`] })).status).toBe(400);
      expect((await query({ query: bad })).status).toBe(400);
    }
    expect((await agent.get("/traces?operation=%00")).status).toBe(400);
    expect((await agent.get("/sessions/%00")).status).toBe(404);
    expect((await agent.get("/sessions/%E0%A4%A")).status).toBe(404);
  });
});

describe("fields", () => {
  test("unknown ones are 400 everywhere, never ignored (threat 23)", async () => {
    const attempts: [string, string, object?][] = [
      ["POST", "/query", { query: "x", filter: {} }],
      ["POST", "/query", { query: "x", __proto__x: 1 }],
      ["POST", "/context", { query: "x", mode: "hybrid" }],
      ["POST", "/facts", { text: "x", scope: { org: "acme" } }],
      ["POST", "/facts/batch", { messages: [{ role: "user", content: "x", scopes: [] }] }],
      ["POST", "/forget", { query: "x", everything: true }],
      ["POST", "/sessions", { id: "x" }],
      ["POST", "/scopes/forget", { paths: [] }],
      ["GET", "/traces?floor={}"],
      ["GET", "/sessions?limit=1&limit=2"],
      ["GET", "/me?x=1"],
      ["GET", "/me?__proto__=1"],
      ["DELETE", "/scopes?path=user/x/*"],
      ["POST", "/scopes", {}],
      ["GET", "/usage?scope=org/x"],
      ["POST", "/keys?principal=management", {}],
    ];
    for (const [method, path, body] of attempts) {
      expect((await agent.call(method, path, body)).status, `${method} ${path} ${JSON.stringify(body)}`).toBe(400);
    }
    expect((await raw('{"query":"x","__proto__":{"k":1}}')).status).toBe(400);
  });

  test("k of 0, 51, 1.5 and text is 400", async () => {
    for (const k of [0, 51, 1.5, "10", -1, true, [], 1e99]) expect((await query({ k })).status, String(k)).toBe(400);
    for (const k of [1, 50, null]) expect((await query({ k })).status).toBe(200);
  });

  test("dates that do not exist, and times without a zone, are 400", async () => {
    expect((await agent.post("/facts", { text: "x", observed_at: "2026-01-01" })).status).toBe(400);
    for (const time of [
      "2026-02-30",
      "2026-1-1",
      "2026-02-30T00:00:00Z",
      "2026-13-01T00:00:00Z",
      "2026-01-01T00:00:00",
      "yesterday",
      5,
      "0000-01-01T00:00:00Z",
      "2026-01-01T25:00:00Z",
    ]) {
      expect((await query({ asOf: time })).status, String(time)).toBe(400);
      expect((await agent.post("/facts", { text: "x", observed_at: time })).status, String(time)).toBe(400);
      if (typeof time === "string")
        expect((await agent.get(`/traces?since=${encodeURIComponent(time)}`)).status).toBe(400);
    }
    expect((await query({ asOf: "2024-02-29T12:00:00+05:30" })).status).toBe(200);
  });

  test("enum values, limits, labels and ids outside their sets are 400", async () => {
    for (const more of [
      { mode: "fast" },
      { scopeView: "all" },
      { include: "everything" },
      { sources: ["chunk", "rows"] },
      { source: "a label\nof two lines" },
      { source: ["chunk"] },
      { labels: "a=b" },
      { labels: ["_hidden=1"] },
      { labels: ["_a=1"] },
      { labels: ["a"] },
      { labels: Array.from({ length: 33 }, (_, i) => `a=${i}`) },
      { sessionId: "" },
      { includeDuplicates: "yes" },
      { query: "" },
      { query: "   " },
      { query: "x".repeat(8_001) },
    ]) {
      expect((await query(more)).status, JSON.stringify(more).slice(0, 60)).toBe(400);
    }
    expect((await agent.post("/facts", { text: "x".repeat(100_001) })).status).toBe(400);
    expect((await agent.post("/facts", { text: "" })).status).toBe(400);
    expect((await agent.post("/facts", { text: "x", role: "robot" })).status).toBe(400);
    expect((await agent.post("/facts/batch", { messages: [] })).status).toBe(400);
    expect(
      (
        await agent.post("/facts/batch", {
          messages: Array.from({ length: 501 }, () => ({ role: "user", content: "x" })),
        })
      ).status,
    ).toBe(400);
    for (const page of ["limit=0", "limit=501", "limit=ten", "limit=1.5", "offset=-1", "limit=1e2"]) {
      expect((await agent.get(`/sessions?${page}`)).status, page).toBe(400);
    }
  });

  test("camelCase and snake_case are the same field, and both at once are 400", async () => {
    expect((await query({ scope_view: "subtree", include_duplicates: true })).status).toBe(200);
    expect((await query({ scopeView: "subtree", scope_view: "strict" })).status).toBe(400);
    const session = await agent.post<{ id: string }>("/sessions", { metadata: { snake_case: { stays_as_it: null } } });
    const read = await agent.get<{ metadata: object }>(`/sessions/${session.body.id}`);
    expect(read.body.metadata).toEqual({ snake_case: { stays_as_it: null } });
  });

  test("what is not built yet is 422 and says so; hints are accepted and named", async () => {
    for (const more of [{ mode: "graph" }, { location: { lat: 1 } }]) {
      const answer = await query(more);
      expect(answer.status).toBe(422);
      expect(answer.body.detail).toMatch(/not built yet/);
    }
    for (const infer of ["triples", "preview"])
      expect((await agent.post("/facts", { text: "x", infer })).status).toBe(422);
    expect((await agent.post("/facts", { text: "x", triples: [{}] })).status).toBe(400);
    const batch = { messages: [{ role: "user", content: "x" }], extract: true };
    expect((await agent.post("/facts/batch", batch)).status).toBe(422);
    const hinted = await agent.post<{ trace: { hintsIgnored: string[] } }>("/query", {
      query: "x",
      useHyde: true,
      graph_depth: 2,
    });
    expect(hinted.body.trace.hintsIgnored).toEqual(["useHyde", "graphDepth"]);
  });

  test("paths and methods that do not exist are 404", async () => {
    expect((await agent.get("/nothing")).status).toBe(404);
    expect((await agent.call("PUT", "/query", {})).status).toBe(404);
    expect((await agent.get("/ME")).status).toBe(404);
  });
});

describe("any input at all", () => {
  test("injection in every string is text, not SQL (threat 22)", async () => {
    const hostile = [
      "'; DROP TABLE scopefloor.passage; --",
      "$1",
      "%",
      "\\",
      '"',
      "{}",
      "a) OR (1=1",
      "org/acme' OR '1'='1",
    ];
    for (const text of hostile) {
      await agent.remember(text, { labels: [`a=${text}`] });
      expect(await agent.recall(text, { labels: [`a=${text}`] })).toContain(text);
      expect((await agent.post("/forget", { query: text, dryRun: true })).status).toBe(200);
      expect([200, 400]).toContain((await agent.get(`/traces?operation=${encodeURIComponent(text)}`)).status);
      expect((await agent.get(`/sessions?lens=${encodeURIComponent(text)}`)).status).toBeLessThan(500);
      expect((await agent.del(`/keys/${encodeURIComponent(text)}`)).status).toBe(404);
    }
    expect(await agent.recall("DROP TABLE")).not.toEqual([]);
  });

  test("special tokens of a tokenizer are text like any other", async () => {
    await agent.remember("the marker <|endoftext|> ends it");
    expect(await agent.recall("<|endoftext|> marker")).toContain("the marker <|endoftext|> ends it");
  });

  test("times at the edges are stored in UTC or refused, and never poison a recall", async () => {
    for (const bad of ["0001-01-01T00:00:00+14:00", "0050-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"]) {
      expect((await agent.post("/facts", { text: "edge", observedAt: bad })).status, bad).toBe(400);
    }
    await agent.remember("an edge of time", { observedAt: "2026-01-01T00:00:00+16:00" });
    const found = await agent.post<{ hits: { text: string; occurredAt: string }[] }>("/query", {
      query: "edge of time",
    });
    expect(found.body.hits[0]).toMatchObject({ text: "an edge of time", occurredAt: "2025-12-31T08:00:00.000Z" });
  });

  test("a stranger's large body is refused before it is worked on", async () => {
    const stranger = service.client("x".repeat(40));
    const began = performance.now();
    const answer = await stranger.post("/facts/batch", {
      messages: Array.from({ length: 60 }, (_, i) => ({
        role: "user",
        content: `${i} ${Math.random()} `.repeat(4_000),
      })),
    });
    expect(answer.status).toBe(401);
    const refusal = performance.now() - began;
    const worked = performance.now();
    await agent.post("/facts", { text: `${Math.random()} `.repeat(4_000) });
    // Sixty such texts would take sixty times as long as one.
    expect(refusal).toBeLessThan((performance.now() - worked) * 20);
  });

  test("never gives a 500", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(
          "/query",
          "/facts",
          "/facts/batch",
          "/sessions",
          "/forget",
          "/scopes",
          "/scopes/forget",
          "/keys",
          "/context",
        ),
        fc.dictionary(
          fc.constantFrom(
            "query",
            "text",
            "scopes",
            "lens",
            "k",
            "labels",
            "messages",
            "path",
            "name",
            "session_id",
            "metadata",
            "scopeFloor",
          ),
          fc.jsonValue({ maxDepth: 3 }),
          { maxKeys: 4 },
        ),
        async (path, body) => {
          expect((await agent.post(path, body)).status).toBeLessThan(500);
        },
      ),
      { numRuns: 150 },
    );
  });
});
