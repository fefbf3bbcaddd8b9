import { randomBytes } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inTransaction } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { endOverdueTransactions } from "../../src/db/upkeep/watchdog.ts";
import { chunksOf, MAX_CHUNKS } from "../../src/documents/parsing/chunk.ts";
import { extract } from "../../src/documents/parsing/extract.ts";
import { hashFromHeader, hashSecret, newSecret } from "../../src/keys/secret.ts";
import { networkOf, Strangers } from "../../src/load/strangers.ts";
import { readinessOf } from "../../src/readiness.ts";
import { createTestDatabase, onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

describe("a transaction (threat 40)", () => {
  test("that takes too long is ended: between statements everywhere, and on a server inside of one", async () => {
    if (!onPostgres()) return;
    const database = await createTestDatabase({ connections: 2, timeoutMs: 400 });
    const late = inTransaction(database.app, async (tx) => {
      await tx.query("SELECT 1");
      await pause(1_000);
      return tx.query("SELECT 1");
    });
    await expect(late).rejects.toMatchObject({ slug: "unavailable" });
    // The service's own statements are none of these; an injected one switches what it can off.
    const stuck = inTransaction(database.app, async (tx) => {
      await tx.query("SELECT set_config('statement_timeout', '0', true)");
      return tx.query("SELECT count(*) FROM generate_series(1, 1000000000) a");
    }).catch((error: { code?: string; slug?: string }) => error.code ?? error.slug);
    expect(await stuck).toMatch(/25P04|57P01|unavailable/);
    await database.drop();
  });

  test("that has switched its timeouts off is ended from outside", async () => {
    if (!onPostgres()) return;
    const database = await createTestDatabase({ connections: 2, timeoutMs: 30_000 });
    const stuck = inTransaction(database.app, async (tx) => {
      await tx.query("SELECT set_config('statement_timeout', '0', true), set_config('transaction_timeout', '0', true)");
      return tx.query("SELECT count(*) FROM generate_series(1, 100000000000) a");
    }).catch((error: { code?: string; slug?: string }) => error.code ?? error.slug);
    // On a busy machine it takes its time to begin.
    const isAtWork = async () =>
      (
        await database.sql(
          "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%generate_series(1, 100000000000)%' AND pid <> pg_backend_pid()",
        )
      ).length > 0;
    while (!(await isAtWork())) await pause(50);
    await pause(500);
    expect(await endOverdueTransactions(database, 60_000)).toBe(0);
    expect(await endOverdueTransactions(database, 200)).toBe(1);
    expect(await stuck).toMatch(/57P01|unavailable/);
    await database.drop();
  });
});

describe("a login that has changed itself (threat 40)", () => {
  test("is no matter: what the service relies on is said at the start of each connection", async () => {
    if (!onPostgres()) return;
    const database = await createTestDatabase();
    const name = `changed_${randomBytes(4).toString("hex")}`;
    await database.sql(`CREATE ROLE ${name} LOGIN IN ROLE scopefloor_app`);
    const url = new URL(database.url ?? "");
    url.username = name;
    const open = () => openPostgres({ app: url.toString(), worker: url.toString(), connections: 1, timeoutMs: 5_000 });
    const own = open();
    for (const setting of [
      "default_transaction_read_only = on",
      "row_security = off",
      "enable_indexscan = off",
      "statement_timeout = 1",
    ]) {
      await inTransaction(own.app, (tx) => tx.query("RESET ROLE")); // a login of the role alone
      await database.sql(`ALTER ROLE ${name} SET ${setting}`);
    }
    await own.close();
    const again = open();
    const [seen] = await inTransaction(again.app, (tx) =>
      tx.query(
        "SELECT current_setting('transaction_read_only') AS read_only, current_setting('row_security') AS rls, current_setting('enable_indexscan') AS scan, scopefloor.try_write() AS writes",
      ),
    );
    expect(seen).toEqual({ read_only: "off", rls: "on", scan: "on", writes: true });
    await again.close();
    await database.sql(`DROP ROLE ${name}`);
    await database.drop();
  });

  test("readiness writes: a database that takes no writes is not ready", async () => {
    const database = await createTestDatabase();
    const ready = () => readinessOf(database, () => true, [])();
    expect((await ready()).status).toBe("ok");
    await database.sql("REVOKE INSERT ON scopefloor.erasure FROM scopefloor_definer");
    expect(await ready()).toMatchObject({ status: "unavailable", checks: { database: "failed" } });
    await database.drop();
  });
});

describe("an answer (threat 40)", () => {
  let service: TestService;
  let acme: Client;
  beforeAll(async () => {
    service = await startService();
    acme = await service.mint("agent", { org: "acme" });
  });
  afterAll(() => service.stop());

  test("of keyed items, of turns and of facts ends at its bytes, and the next page goes on", {
    tags: ["long"],
  }, async () => {
    const value = "x".repeat(60_000);
    for (let i = 0; i < 90; i++) await acme.call("PUT", `/memory/item-${100 + i}`, { value });
    const keys: string[] = [];
    for (let pages = 0; keys.length < 90; pages++) {
      const page = await acme.get<{ items: { key: string }[] }>(`/memory?limit=500&offset=${keys.length}`);
      expect(page.text.length).toBeLessThan(5 * 1024 * 1024);
      expect(page.body.items.length).toBeGreaterThan(0);
      keys.push(...page.body.items.map(({ key }) => key));
      expect(pages).toBeLessThan(3);
    }
    expect(new Set(keys).size).toBe(90);

    const content = "y".repeat(99_000);
    const { body } = await acme.post<{ sessionId: string }>("/facts/batch", {
      messages: Array.from({ length: 60 }, (_, i) => ({ role: "user", content: `${i} ${content}` })),
    });
    const turns = await acme.get<{ turns: { seq: number }[] }>(`/sessions/${body.sessionId}/turns?limit=500`);
    expect(turns.body.turns.length).toBeGreaterThan(10);
    expect(turns.text.length).toBeLessThan(5 * 1024 * 1024);
    const next = await acme.get<{ turns: { seq: number }[] }>(
      `/sessions/${body.sessionId}/turns?limit=500&offset=${turns.body.turns.length}`,
    );
    expect(next.body.turns[0]?.seq).toBe(turns.body.turns.length);
  });

  test("about an entity takes as many statements with many keys as with few", { tags: ["long"] }, async () => {
    const key = (name: string, i: number) => ({
      entity: { type: "Thing", name },
      key: `k${i}`,
      value: "z".repeat(3_000),
    });
    for (let at = 0; at < 600; at += 100) {
      await acme.post("/facts", {
        infer: "triples",
        triples: Array.from({ length: 100 }, (_, i) => key("large", at + i)),
      });
    }
    await acme.post("/facts", { infer: "triples", triples: [key("small", 1)] });
    const before = service.sent.length;
    const small = await acme.get<{ history: object[] }>("/inspect?ref=entity:Thing/small");
    const large = await acme.get<{ history: object[] }>("/inspect?ref=entity:Thing/large");
    expect(small.body.history).toHaveLength(1);
    expect(large.body.history).toHaveLength(600);
    expect(service.sent.length - before).toBeLessThan(12);
  });
});

describe("what one tenant makes (threat 47)", () => {
  test("a file of headings alone is a few chunks, and one of too many is refused", async () => {
    const headings = Array.from({ length: 3_000 }, (_, i) => `# heading ${i}`).join("\n");
    const sections = await extract(new TextEncoder().encode(headings), "text/markdown");
    const chunks = [];
    for await (const chunk of chunksOf(sections)) chunks.push(chunk);
    expect(chunks.length).toBeLessThan(headings.length / 400);
    expect(chunks.map(({ text }) => text).join("\n")).toContain("heading 2999");
    expect(chunks[0]?.section).toContain("heading 0 · heading 1");
  });

  test("a file of more chunks than that is refused", { tags: ["long"], timeout: 60_000 }, async () => {
    const huge = { text: "x ".repeat(30_000_000), sections: [{ title: null, start: 0, end: 60_000_000 }] };
    const read = async () => {
      for await (const _ of chunksOf(huge, { size: 100, overlap: 0 }));
    };
    await expect(read()).rejects.toThrow(`more than ${MAX_CHUNKS} chunks`);
  });

  test("counts against its quota, which says of what; others go on, and what is erased is given back", async () => {
    const service = await startService({
      quotas: { storedBytes: 10_000_000, passages: 6, sessions: 4, scopes: 3, freshMs: 0 },
    });
    const tenants = await Promise.all(["p", "s", "c"].map((org) => service.mint("agent", { org })));
    const [passages, sessions, scopes] = tenants as [Client, Client, Client];
    const { sessionId } = await passages.remember("the first");
    const batch = (n: number) => ({
      session_id: sessionId,
      messages: Array.from({ length: n }, (_, i) => ({ role: "user", content: `text ${i}` })),
    });
    expect((await passages.post("/facts/batch", batch(5))).status).toBe(200);
    const over = await passages.post("/facts/batch", batch(1));
    expect([over.status, over.body.detail]).toEqual([507, "the tenant has 6 passages, and may have 6"]);
    for (let i = 0; i < 4; i++) expect((await sessions.post("/sessions")).status).toBe(201);
    expect((await sessions.post("/sessions")).body.detail).toContain("4 sessions");
    for (const user of ["a", "b"]) await scopes.remember("x", { scopes: { user } });
    expect((await scopes.post("/facts", { text: "x", scopes: "user/c" })).body.detail).toContain(
      "4 scopes, and may have 3",
    );
    expect((await passages.post("/query", { query: "text" })).status).toBe(200);
    expect((await passages.post("/forget", { sessionId, purge: true })).status).toBe(200);
    expect((await passages.post("/facts", { text: "room again" })).status).toBe(200);
    await service.stop();
  });
});

describe("strangers (threat 41)", () => {
  test("a secret with a wrong checksum is none: it is not looked up", () => {
    for (const principal of ["agent", "supervisor", "management"] as const) {
      const secret = newSecret(principal);
      expect(hashFromHeader(`Bearer ${secret}`)).toEqual(hashSecret(secret));
      const wrong = secret.slice(0, -1) + (secret.endsWith("a") ? "b" : "a");
      expect(hashFromHeader(`Bearer ${wrong}`)).toBeUndefined();
    }
    expect(hashFromHeader(`Bearer ${"operator-chosen-secret-of-40-characters!"}`)).toBeDefined();
  });

  test("a refused key is remembered for a while, and so many of them at most", () => {
    const strangers = new Strangers();
    const hashes = Array.from({ length: 10_001 }, (_, i) => hashSecret(String(i)));
    for (const hash of hashes) strangers.noteRefused(hash);
    expect(strangers.isRefused(hashes.at(-1) as (typeof hashes)[0])).toBe(true);
    expect(strangers.isRefused(hashes[0] as (typeof hashes)[0])).toBe(false);
  });

  test.each([
    ["203.0.113.7", "203.0.113.7"],
    ["203.0.113.7:4711", "203.0.113.7"],
    ["::ffff:203.0.113.7", "203.0.113.7"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:db8:1:2::9", "2001:db8:1:2::/64"],
    ["[2001:0db8:0001:0002::9]:443", "2001:db8:1:2::/64"],
    ["::1", "0:0:0:0::/64"],
    ["fe80::1%eth0", "fe80:0:0:0::/64"],
  ])("%s is of the network %s", (address, network) => {
    expect(networkOf(address)).toBe(network);
  });

  test("from one address crowd out nobody from another, and are told of in one line", { tags: ["long"] }, async () => {
    const lines: string[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
    const service = await startService({
      connections: 4,
      timeoutMs: 1_500,
      proxy: { header: "x-forwarded-for", proxies: 2 },
      log,
    });
    const fresh = await service.mint("agent", { org: "fresh" });
    const from = (address: string) => ({ "x-forwarded-for": `6.6.6.6, ${address}, 10.0.0.1` });
    const noise = Array.from({ length: 300 }, () =>
      service.client(newSecret("agent")).call("GET", "/me", undefined, { headers: from("203.0.113.9") }),
    );
    await pause(20);
    const began = performance.now();
    const own = await fresh.call("GET", "/me", undefined, { headers: from("198.51.100.4") });
    expect(own.status).toBe(200);
    expect(performance.now() - began).toBeLessThan(1_400);
    for (const { status } of await Promise.all(noise)) expect([401, 429, 503]).toContain(status);
    await pause(1_100);
    expect(lines.filter((line) => line.includes("place")).length).toBe(0);
    expect(lines.length).toBeLessThan(5);
    await service.stop();
  });
});
