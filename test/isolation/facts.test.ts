import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inTransaction, type Transaction } from "../../src/db/connect/lease.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** What the functions behind facts let a caller reach who has SQL as the application. */
let service: TestService;
let acme: Client;
let globex: Client;
let globexFacts: string[];

beforeAll(async () => {
  service = await startService();
  acme = await service.mint("agent", { org: "acme" });
  globex = await service.mint("agent", { org: "globex" });
  const old = new Date(Date.now() - 9 * 86_400_000).toISOString();
  for (const client of [acme, globex]) {
    await client.post("/facts", {
      triples: [
        { entity: { type: "P", name: "Kim" }, key: "city", value: "Oslo" },
        { entity: { type: "P", name: "Kim" }, key: "friend", target: { type: "P", name: "Bo" } },
      ],
    });
    await client.post("/facts", {
      triples: [{ entity: { type: "P", name: "Kim" }, key: "mood", value: "calm", memoryCategory: "context" }],
      observedAt: old,
    });
  }
  const rows = await service.database.sql(
    `SELECT f.id FROM (SELECT id, scope_id FROM scopefloor.attribute UNION ALL SELECT id, scope_id FROM scopefloor.relation) f
     JOIN scopefloor.scope s ON s.id = f.scope_id WHERE s.tags = '{"org": "globex"}'`,
  );
  globexFacts = rows.map(({ id }) => String(id));
});
afterAll(() => service.stop());

const within = <T>(client: Client, verb: string, mode: string, work: (lease: Transaction) => Promise<T>) =>
  inTransaction(service.database.app, async (lease) => {
    const [row] = await lease.query("SELECT scopefloor.enter($1, $2, $3, NULL, NULL) AS answer", [
      hashSecret(client.key),
      verb,
      JSON.stringify({ mode, selector: null }),
    ]);
    expect(row?.answer).toMatchObject({ status: "ok" });
    return work(lease);
  });
const refused = (work: Promise<unknown>) =>
  expect(work).rejects.toMatchObject({ code: expect.stringMatching(/^(42501|P0001)$/) });
const ofGlobex = (text: string) =>
  service.database.sql(`${text} JOIN scopefloor.scope s ON s.id = f.scope_id WHERE s.tags = '{"org": "globex"}'`);

describe("facts of another tenant (threats 3, 9, 10)", () => {
  test("are not forgotten by their ids, for good or not", async () => {
    for (const forGood of [false, true]) {
      const [row] = await within(acme, "memory:forget", "forget", (lease) =>
        lease.query("SELECT scopefloor.forget_facts($1::uuid[], $2) AS taken", [`{${globexFacts.join(",")}}`, forGood]),
      );
      expect(row?.taken).toEqual({ attribute: 0, relation: 0 });
    }
    expect(globexFacts).toHaveLength(3);
    expect((await globex.get<{ attributes: unknown[]; relations: unknown[] }>("/entities/P/Kim")).body).toMatchObject({
      attributes: [{ value: "Oslo" }],
      relations: [{ target: { name: "Bo" } }],
    });
  });

  test("are not closed with one's own, and nothing is found in them", async () => {
    const closed = () =>
      ofGlobex("SELECT count(*) FILTER (WHERE f.closed_at IS NOT NULL)::int AS n FROM scopefloor.attribute f");
    expect((await acme.post("/lifecycle/expire", {})).body).toEqual({ affected: 1 });
    expect(await closed()).toEqual([{ n: 0 }]);
    expect(await acme.recall("Kim calm", { atInstant: new Date(Date.now() - 5 * 86_400_000).toISOString() })).toEqual([
      "Kim: mood: calm",
    ]);
    const other = await service.mint("agent", { org: "acme-corp" });
    for (const moment of [
      { asOf: new Date().toISOString() },
      { atInstant: "2026-11-20T00:00:00Z" },
      { validFrom: "2020-01-01T00:00:00Z" },
    ]) {
      const found = await other.post<{ hits: unknown[]; trace: { hiddenByView?: boolean } }>("/query", {
        query: "Kim city mood friend",
        ...moment,
      });
      expect(found.body.hits, JSON.stringify(moment)).toEqual([]);
    }
    expect((await globex.post("/lifecycle/expire", {})).body).toEqual({ affected: 1 });
    expect(await closed()).toEqual([{ n: 1 }]);
  });

  test("are worked out, respelled and looked through by nobody who has another ticket", async () => {
    const call =
      (text: string, params: readonly unknown[] = []) =>
      (lease: Transaction) =>
        lease.query(text, params);
    for (const [verb, mode] of [
      ["memory:read", "id"],
      ["memory:write", "write"],
      ["memory:forget", "forget"],
    ] as const) {
      for (const text of [
        "SELECT scopefloor.settle_facts(1, 'attribute', gen_random_uuid(), gen_random_uuid(), NULL, NULL, NULL, NULL, '[]', NULL)",
        "SELECT scopefloor.recall_facts(1, '{}', '[]', NULL)",
        "SELECT scopefloor.end_over(NULL, 10)",
        "SELECT scopefloor.end_over_anywhere(10)",
        "SELECT scopefloor.respell_facts('[]', '[]')",
        "SELECT scopefloor.order_job(1, gen_random_uuid(), 'embed')",
        "SELECT scopefloor.cut_before(1, 'attribute', gen_random_uuid(), gen_random_uuid(), '{}')",
        "SELECT * FROM scopefloor.observations(1, 'attribute', gen_random_uuid(), gen_random_uuid())",
      ])
        await refused(within(acme, verb, mode, call(text)));
    }
    await refused(within(acme, "memory:read", "id", call("SELECT scopefloor.forget_facts('{}', true)")));
    await refused(within(acme, "memory:write", "write", call("SELECT scopefloor.end_over_within(10)")));
    await refused(within(acme, "memory:write", "write", call("SELECT * FROM scopefloor.unscoped_content()")));
    await service.database.sql('UPDATE scopefloor.scope SET erased_at = now() WHERE tags = \'{"org": "globex"}\'');
    const stray = await within(acme, "memory:read", "id", call("SELECT * FROM scopefloor.unscoped_content()"));
    expect(stray).toEqual([]);
  });

  test("of the same name and key at two scopes of one tenant do not end each other", async () => {
    const tenant = await service.mint("agent", { org: "two" });
    const say = (value: string, scopes?: string) =>
      tenant.post("/facts", {
        triples: [{ entity: { type: "P", name: "Kim" }, key: "city", value }],
        ...(scopes === undefined ? {} : { scopes }),
      });
    await say("Oslo");
    await say("Rome", "user/kim");
    const { attributes } = (await tenant.get<{ attributes: { value: string; validUntil: null }[] }>("/entities/P/Kim"))
      .body;
    expect(attributes.map(({ value, validUntil }) => [value, validUntil]).sort()).toEqual([
      ["Oslo", null],
      ["Rome", null],
    ]);
  });
});
