import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let client: Client;
let admin: Client;
let floor: Record<string, string>;
let counter = 0;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());
beforeEach(async () => {
  floor = { org: `tenant-${++counter}` };
  client = await service.mint("agent", floor);
  admin = await service.mint("management", floor);
});

interface Hold {
  id: string;
  reason: string;
  subject: string | null;
}
const hold = (by: Client, what: object) => by.call<Hold>("PUT", "/contexts/default/holds", what);
const holdsOf = async (by: Client) => (await by.get<{ holds: Hold[] }>("/contexts/default/holds")).body.holds;
const release = (by: Client, id: string) => by.del(`/contexts/default/holds/${id}`);
const fact = { entity: { type: "Person", name: "Alice Moreau" }, key: "city", value: "Lyon" };

describe("a hold on a scope", () => {
  test("keeps all that is in it and below from being forgotten or changed, by whichever way, until it is taken away", async () => {
    const { chunkId, sessionId } = await client.remember("the contract was signed in Lyon");
    await client.remember("a note of Bob's", { scopes: "user/bob" });
    const said = await client.post<{ extraction: { attributes: { id: string }[] } }>("/facts", { triples: [fact] });
    const factId = said.body.extraction.attributes[0]?.id;
    await client.call("PUT", "/memory/theme", { value: "dark" });
    const uploaded = await client.upload("Minutes of the meeting in Lyon.", "minutes.txt");
    await client.processed(uploaded.body.id);
    const set = await hold(service.operator, { scope: floor, reason: "case 4711, do not tell" });
    expect(set.status).toBe(200);
    const refused = [
      await client.post("/forget", { query: "contract signed" }),
      await client.post("/forget", { query: "contract signed", purge: true }),
      await client.post("/forget", { sessionId, purge: true }),
      await client.post("/forget", { query: "Bob's note", scopes: "user/bob", purge: true }),
      await client.del(`/memories/${chunkId}`),
      await client.call("PATCH", `/memories/${chunkId}`, { text: "it was never signed" }),
      await client.call("PATCH", `/memories/${chunkId}`, { expiresAt: "2030-01-01T00:00:00Z" }),
      await client.call("PATCH", `/memories/${chunkId}`, { labels: ["a=b"] }),
      await client.call("PATCH", `/memories/${factId}`, { value: "Paris" }),
      await client.del(`/memories/${factId}`),
      await client.del("/entities/Person/Alice%20Moreau"),
      await client.call("PUT", "/memory/theme", { value: "light" }),
      await client.del("/memory/theme"),
      await client.del(`/documents/${uploaded.body.id}`),
      await client.upload(
        "Other minutes.",
        "minutes.txt",
        {},
        { method: "PUT", path: `/documents/${uploaded.body.id}` },
      ),
      await client.post("/scopes/forget", { path: "user/bob" }),
      await client.eraseFloor(),
      await service.operator.post("/scopes/forget", { path: floor }),
    ];
    for (const [n, answer] of refused.entries()) {
      expect(answer.status, `${n}: ${answer.text}`).toBe(409);
      expect(answer.text).not.toContain("4711");
      expect(answer.text).toContain("legal hold");
    }
    // What is new is stored, a new value of a fact too; and nothing is missing.
    await client.remember("a later remark");
    await client.post("/facts", { triples: [{ ...fact, value: "Nice" }] });
    const kept = await client.get<{ memories: { text: string }[] }>("/memories");
    for (const text of [
      "the contract was signed in Lyon",
      "a note of Bob's",
      "theme: dark",
      "Minutes of the meeting in Lyon.",
      "a later remark",
    ])
      expect(kept.body.memories.map((memory) => memory.text)).toContain(text);
    expect((await release(service.operator, set.body.id)).status).toBe(204);
    expect((await client.del(`/memories/${chunkId}`)).status).toBe(200);
    expect((await client.eraseFloor()).status).toBe(200);
  });

  test("lets what is over be closed, and a context-category text end by itself without losing it", async () => {
    await client.remember("here for a while", { memoryCategory: "context", observedAt: "2020-01-01T00:00:00Z" });
    await client.call("PUT", "/memory/token", { value: "kept for the court" });
    await client.call("PUT", "/memory/other", { value: "x" });
    const { memories } = (await client.get<{ memories: { id: string }[] }>("/memories?source=item")).body;
    for (const { id } of memories) await client.call("PATCH", `/memories/${id}`, { expiresAt: "2030-01-01T00:00:00Z" });
    await service.database.sql("UPDATE scopefloor.memory_item SET expires_at = now() - interval '1 minute'");
    await hold(admin, { scope: floor, reason: "case" });
    await service.database.sql("SELECT scopefloor.end_over_anywhere(1000)");
    const kept = await service.database.sql(
      "SELECT (SELECT count(*) FROM scopefloor.memory_item m JOIN scopefloor.scope s ON s.id = m.scope_id WHERE s.tags = $1)::int AS items, (SELECT count(*) FROM scopefloor.turn WHERE content = 'here for a while')::int AS turns",
      [JSON.stringify(floor)],
    );
    expect(kept).toEqual([{ items: 2, turns: 1 }]);
  });

  test("is seen by management in its floor alone, and taken away by the floor that set it or one above", async () => {
    const set = await hold(service.operator, { scope: floor, reason: "the operator's" });
    expect((await holdsOf(admin)).map(({ reason }) => reason)).toEqual(["the operator's"]);
    const other = await service.mint("management", { org: "another" });
    expect(await holdsOf(other)).toEqual([]);
    expect((await release(other, set.body.id)).status).toBe(404);
    expect((await release(admin, set.body.id)).status).toBe(403);
    expect((await hold(admin, { scope: floor, reason: "mine now" })).status).toBe(403);
    expect((await hold(admin, { scope: { org: "another" }, reason: "theirs" })).status).toBe(403);
    expect((await hold(service.operator, { reason: "of whom?" })).status).toBe(400);
    expect((await client.get("/contexts/default/holds")).status).toBe(403);
    expect((await release(service.operator, set.body.id)).status).toBe(204);
    expect((await release(service.operator, set.body.id)).status).toBe(404);
  });

  test("of one tenant keeps nothing of another", async () => {
    await hold(service.operator, { scope: floor, reason: "case" });
    const other = await service.mint("agent", { org: `beside-${counter}` });
    const { chunkId } = await other.remember("forget me freely");
    expect((await other.del(`/memories/${chunkId}`)).status).toBe(200);
    expect((await other.eraseFloor()).status).toBe(200);
  });
});

describe("a hold on a subject", () => {
  test("keeps what mentions it, in any case and order, and nothing else", async () => {
    const { chunkId: named } = await client.remember("Moreau, ALICE called about the invoice");
    const { chunkId: other } = await client.remember("Bob called about the invoice");
    await client.post("/facts", { triples: [fact, { ...fact, entity: { type: "Person", name: "Bob" } }] });
    const uploaded = await client.upload("Page one. Alice Moreau owes nothing.", "letter.txt");
    await client.processed(uploaded.body.id);
    expect((await hold(admin, { scope: floor, subject: "Alice Moreau", reason: "case" })).status).toBe(200);
    expect((await client.del(`/memories/${named}`)).status).toBe(409);
    expect((await client.del(`/documents/${uploaded.body.id}`)).status).toBe(409);
    expect((await client.del("/entities/Person/Alice%20Moreau")).status).toBe(409);
    expect((await client.eraseFloor()).status).toBe(409);
    // A topic that takes held and other rows takes none.
    expect((await client.post("/forget", { query: "called about the invoice", purge: true })).status).toBe(409);
    expect((await client.del(`/memories/${other}`)).status).toBe(200);
    expect((await client.del("/entities/Person/Bob")).status).toBe(204);
    expect((await hold(admin, { scope: floor, subject: "…", reason: "case" })).status).toBe(400);
  });
});

describe("a hold on a document", () => {
  test("keeps it and its parts; it has to be there", async () => {
    const [one, two] = await Promise.all([
      client.upload("The first letter says alpha.", "one.txt"),
      client.upload("The second letter says beta.", "two.txt"),
    ]);
    await Promise.all([client.processed(one.body.id), client.processed(two.body.id)]);
    expect((await hold(admin, { scope: floor, documentId: one.body.id, reason: "case" })).status).toBe(200);
    expect((await client.del(`/documents/${one.body.id}`)).status).toBe(409);
    expect((await client.post("/forget", { query: "letter alpha", purge: true })).status).toBe(409);
    expect((await client.del(`/documents/${two.body.id}`)).status).toBe(204);
    const other = await service.mint("management", { org: "another" });
    expect((await hold(other, { scope: { org: "another" }, documentId: one.body.id, reason: "x" })).status).toBe(404);
    expect(
      (await hold(admin, { scope: floor, documentId: one.body.id, subject: "Alice", reason: "both" })).status,
    ).toBe(400);
  });
});
