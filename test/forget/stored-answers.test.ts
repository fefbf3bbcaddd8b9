import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ScopedTransaction, sql } from "../../src/db/access/scoped.ts";
import { onPostgres } from "../harness/database.ts";
import { hold } from "../harness/held.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

let service: TestService;
let acme: Client;
let globex: Client;

beforeAll(async () => {
  // So many connections that no tenant waits for its own share of them.
  service = await startService({ connections: 24 });
  acme = await service.mint("agent", { org: "acme" });
  globex = await service.mint("agent", { org: "globex" });
});
afterAll(() => service.stop());

const once = (key: string) => ({ headers: { "idempotency-key": key } });
const isReplayed = ({ headers }: { headers: Headers }) => headers.get("idempotent-replayed") === "true";
const triple = (name: string, value: string) => ({
  triples: [{ entity: { type: "Person", name }, key: "favourite_drink", value }],
});
/** Whatever is kept of answers, as text. */
const kept = async () =>
  JSON.stringify(await service.database.sql("SELECT i::text AS row FROM scopefloor.idempotency i"));

describe("a stored answer (threats 4, 17)", () => {
  test("of what only reads is none: a repeat runs anew, and finds what is there by now", async () => {
    await acme.remember("the harbour master keeps the ledger");
    const ask = () => acme.post<{ hits: object[] }>("/query", { query: "harbour ledger" }, once("read"));
    expect((await ask()).body.hits).toHaveLength(1);
    await acme.post("/forget", { query: "harbour ledger", purge: true });
    const again = await ask();
    expect(again.body.hits).toEqual([]);
    expect(isReplayed(again)).toBe(false);
    for (const [path, body] of [
      ["/context", { query: "ledger" }],
      ["/documents/query", { query: "ledger" }],
      ["/documents/keywords/search", { query: "ledger" }],
      ["/state", {}],
      ["/forget", { query: "ledger", dryRun: true }],
      ["/facts", { ...triple("Ann", "tea"), infer: "preview" }],
    ] as const) {
      expect((await acme.post(path, body, once("reads"))).status, path).toBe(200);
      expect(isReplayed(await acme.post(path, body, once("reads"))), path).toBe(false);
    }
  });

  test("of a write says again to the letter what it said, and holds none of it", async () => {
    const first = await acme.post("/facts", { text: "Zoe drinks quassia", ...triple("Zoe", "quassia") }, once("fact"));
    const again = await acme.post("/facts", { text: "Zoe drinks quassia", ...triple("Zoe", "quassia") }, once("fact"));
    expect(again.text).toBe(first.text);
    expect(again.text).toContain("quassia");
    expect(isReplayed(again)).toBe(true);
    const put = () => acme.call("PUT", "/memory/drink-of-zoe", { value: { is: "quassia" } }, once("item"));
    const [one, two] = [await put(), await put()];
    expect(two.text).toBe(one.text);
    expect(isReplayed(two)).toBe(true);
    expect(await kept()).toContain("fact");
    for (const word of ["quassia", "Zoe"]) expect(await kept()).not.toContain(word);
    // It is about its own rows: what else goes at the scope is no matter.
    await acme.remember("the lighthouse keeper naps");
    await acme.post("/forget", { query: "lighthouse keeper naps", purge: true });
    const third = await put();
    expect([third.text, isReplayed(third)]).toEqual([one.text, true]);
  });

  test("of relations too, and of several kinds in one call", async () => {
    const body = {
      triples: [
        ...triple("Max", "tea").triples,
        { entity: { type: "Person", name: "Max" }, key: "knows", target: { type: "Person", name: "Zoe" } },
        ...triple("Moritz", "milk").triples,
      ],
    };
    const first = await acme.post("/facts", body, once("mixed"));
    const again = await acme.post("/facts", body, once("mixed"));
    expect(isReplayed(again)).toBe(true);
    expect(again.text).toBe(first.text);
  });

  test("is not given once what it speaks of was forgotten, expired or deleted, and its request is not done again", async () => {
    const isRefused = (answer: { status: number; text: string }) => {
      expect(answer.status, answer.text).toBe(409);
      expect(answer.text).toContain("forgotten since");
    };
    for (const purge of [true, false]) {
      const body = { text: `Quentin likes mocha ${purge}`, ...triple("Quentin", `mocha ${purge}`) };
      await acme.post("/facts", body, once(`gone-${purge}`));
      expect(isReplayed(await acme.post("/facts", body, once(`gone-${purge}`)))).toBe(true);
      expect(
        (await acme.post<{ deleted: number }>("/forget", { query: "Quentin mocha", purge })).body.deleted,
      ).toBeGreaterThan(0);
      isRefused(await acme.post("/facts", body, once(`gone-${purge}`)));
      expect(await acme.recall("Quentin mocha", { mode: "bm25" })).toEqual([]);
      // With another key it is another request.
      expect((await acme.post("/facts", body, once(`again-${purge}`))).status).toBe(200);
      await acme.post("/forget", { query: "Quentin mocha", purge });
    }
    const put = () => acme.call("PUT", "/memory/short-lived", { value: 1 }, once("short"));
    await put();
    await acme.del("/memory/short-lived");
    isRefused(await put());
    expect((await acme.get("/memory/short-lived")).status).toBe(404);
    expect(await kept()).not.toContain("short-lived");
  });

  test("that names no rows is emptied by a forget at its scope", async () => {
    const file = () => acme.upload("quercitron is a yellow dye", "dye.txt", undefined, once("dye"));
    const first = await file();
    expect(first.status).toBe(202);
    expect(await kept()).toContain(first.body.contentHash);
    expect(isReplayed(await file())).toBe(true);
    await acme.del(`/documents/${first.body.id}`);
    expect((await file()).status).toBe(409);
    expect(first.body.contentHash).toMatch(/^[0-9a-f]{64}$/);
    expect(await kept()).not.toContain(first.body.contentHash);
  });

  test("is given to a key that only writes, which sees no row", async () => {
    const writer = await service.mint("agent", { org: "acme" }, { verbs: ["memory:write"] });
    const post = () => writer.post("/facts", triple("Ines", "water"), once("blind"));
    const [one, two] = [await post(), await post()];
    expect(two.text).toBe(one.text);
    expect(isReplayed(two)).toBe(true);
  });

  test("narrowing a key is done again instead, which changes nothing", async () => {
    const key = await service.mint("agent", { org: "acme", user: "narrowed" });
    const narrow = () =>
      service.operator.post(`/principals/${key.id}/grants`, { verbs: ["memory:read"] }, once("narrow"));
    const [one, two] = [await narrow(), await narrow()];
    expect(two.text).toBe(one.text);
    expect(isReplayed(two)).toBe(false);
    expect(await kept()).not.toContain("narrowed");
  });
});

// One connection has one transaction at a time.
describe.runIf(onPostgres())("a forget under way", () => {
  const forgetting = (tx: ScopedTransaction) => tx.call("drop_cached_answers");
  const atOnce = async (request: Promise<{ status: number }>) =>
    Promise.race([request.then(({ status }) => status), pause(4_000).then(() => "waits")]);

  test("keeps no other tenant's requests waiting, and nobody's that read (threats 3, 18)", async () => {
    await globex.call("PUT", "/memory/ledger", { value: 1 });
    const end = await hold(service, acme, { verb: "memory:forget", mode: "forget", subtree: true }, forgetting);
    try {
      expect(await atOnce(globex.del("/memory/ledger"))).toBe(204);
      expect(await atOnce(globex.post("/query", { query: "ledger" }, once("beside")))).toBe(200);
      expect(await atOnce(globex.post("/facts", { text: "a ledger" }, once("written")))).toBe(200);
    } finally {
      await end();
    }
  });

  test("leaves no cached answer that it would have dropped to be given afterwards", async () => {
    const writer = await service.mint("agent", { org: "cached" });
    await writer.remember("the ledger of the harbour");
    const ask = () => writer.post<{ tier: string; hits: object[] }>("/query", { query: "harbour ledger" });
    const caller = await service.mint("agent", { org: "cached" });
    // Beside a forget of single things, which shares the tenant's lock with readers.
    const end = await hold(service, caller, { verb: "memory:write", mode: "delete" }, forgetting);
    expect((await ask()).body.hits).toHaveLength(1);
    await end((tx) => tx.remove("passage", sql`true`));
    const after = await ask();
    expect(after.body.hits).toEqual([]);
    expect(after.body.tier).not.toBe("cache");
  });
});
