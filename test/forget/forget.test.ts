import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ERASURE } from "../../src/forget/subtree.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let tenant: Client;
let counter = 0;

beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());
beforeEach(async () => {
  tenant = await service.mint("agent", { org: `tenant-${counter++}` });
});

interface Forgotten {
  readonly deleted: number;
  readonly receiptId?: string;
  readonly matches?: { text: string; score: number }[];
}

const everyText = async (client: Client, sessionId: string, needle: string) => {
  const answers = await Promise.all([
    ...["hybrid", "vector", "bm25"].map((mode) =>
      client.post("/query", { query: needle, mode, k: 50, scopeView: "subtree" }),
    ),
    client.post("/query", { query: "zzz nothing alike", k: 50 }),
    client.post("/context", { query: needle, scopeView: "subtree" }),
    client.get(`/sessions/${sessionId}/turns`),
  ]);
  // The query itself is in traces, not in these answers.
  return answers.map((answer) => answer.text).join("\n");
};

describe("forgetting by meaning", () => {
  test("the dry run lists what would go and changes nothing", async () => {
    await tenant.remember("Alice's blood type is AB negative");
    await tenant.remember("the printer is on the second floor");
    const dry = await tenant.post<Forgotten>("/forget", { query: "blood type", dryRun: true });
    expect(dry.body).toMatchObject({
      deleted: 1,
      matches: [{ text: "Alice's blood type is AB negative", score: 1, why: "says blood, type" }],
    });
    expect(dry.body.receiptId).toBeUndefined();
    expect(await tenant.recall("blood type")).toContain("Alice's blood type is AB negative");
  });

  test.each([
    ["expire", {}],
    ["erase", { purge: true }],
  ])("%s takes what matches out of every route and tier, and nothing else", async (action, more) => {
    const { sessionId } = await tenant.remember("the passphrase is xylophone");
    await tenant.remember("lunch is at noon", { sessionId });
    expect(await everyText(tenant, sessionId, "passphrase")).toContain("xylophone");
    const gone = await tenant.post<Forgotten>("/forget", { query: "passphrase", ...more });
    expect(gone.body).toMatchObject({ deleted: 1, receiptId: expect.any(String) });
    const after = await everyText(tenant, sessionId, "passphrase");
    expect(after).not.toContain("xylophone");
    expect(after).toContain("lunch is at noon");
    const [kept] = await service.database.sql(
      "SELECT count(*)::int AS n FROM scopefloor.turn WHERE content LIKE '%xylophone%'",
    );
    expect(kept?.n, action).toBe(action === "expire" ? 1 : 0);
    const admin = await service.operator.get(`/contexts/default/receipts/${gone.body.receiptId}`);
    expect(admin.body).toMatchObject({ action, policy: "query", counts: { passage: 1, turn: 1 } });
    expect(admin.text).not.toContain("passphrase");
    if (action === "expire") await service.database.sql("DELETE FROM scopefloor.turn WHERE content LIKE '%xylophone%'");
  });

  test("a request that is repeated with its Idempotency-Key does not bring it back", async () => {
    await tenant.remember("the codeword is marmalade");
    const ask = () => tenant.post("/query", { query: "codeword" }, { headers: { "idempotency-key": "ask-1" } });
    expect((await ask()).text).toContain("marmalade");
    await tenant.post("/forget", { query: "codeword marmalade" });
    expect((await ask()).text).not.toContain("marmalade");
  });

  test("neither does a repeated dry run, nor one of the scope above (threat 17)", async () => {
    await tenant.remember("the vault code is tangerine", { scopes: "user/alice" });
    const dry = (key: string, more: object) =>
      tenant.post("/forget", { query: "vault code", dryRun: true, ...more }, { headers: { "idempotency-key": key } });
    expect((await dry("dry-1", { scopes: "user/alice" })).text).toContain("tangerine");
    expect((await dry("dry-2", { subtree: true })).text).toContain("tangerine");
    await tenant.post("/scopes/forget", { path: "user/alice" });
    for (const [key, more] of [
      ["dry-1", { scopes: "user/alice" }],
      ["dry-2", { subtree: true }],
    ] as const) {
      expect((await dry(key, more)).text).not.toContain("tangerine");
    }
  });

  test("says nothing of anybody's stored answers in its receipt", async () => {
    const other = await service.mint("agent", { customer: "unrelated" });
    await other.post("/facts", { text: "x" }, { headers: { "idempotency-key": "other" } });
    const gone = await tenant.post<Forgotten>("/forget", { query: "nothing" });
    const receipt = await service.operator.get<{ counts: Record<string, number> }>(
      `/contexts/default/receipts/${gone.body.receiptId}`,
    );
    expect(receipt.body.counts.idempotency ?? 0).toBe(0);
  });

  test("only what names a content word or is near: an unrelated query forgets nothing", async () => {
    await tenant.remember("the weather in Lisbon is mild");
    expect((await tenant.post<Forgotten>("/forget", { query: "quarterly tax filing" })).body.deleted).toBe(0);
    expect((await tenant.post<Forgotten>("/forget", { query: "what is the" })).body.deleted).toBe(0);
    expect(await tenant.recall("weather Lisbon")).toHaveLength(1);
  });

  test("what is not there takes nothing, whatever else is: words of a request, and identifiers as they are (threat 46)", async () => {
    const client = await service.mint("agent", { org: "meant" });
    for (const text of [
      "Noted.",
      "Open a new thread on the forum",
      "The thread of the screw is M8",
      "My old phone number is 555-1234",
      "Ticket it-1796 is about exports",
    ])
      await client.remember(text);
    await client.call("PUT", "/memory/phone.model", { value: "a number of things" });
    for (const query of [
      "Remove old project notes",
      "thread it-1795",
      "the user's old shipping address",
      "forget it",
      "555-123",
      "ticket it-17",
    ]) {
      const { body } = await client.post<Forgotten>("/forget", { query, purge: true });
      expect(body.deleted, query).toBe(0);
    }
    for (const [query, deleted] of [
      ["555-1234", 1],
      ["ticket it-1796", 1],
      ["the screw's thread", 1],
    ] as const)
      expect((await client.post<Forgotten>("/forget", { query, purge: true })).body.deleted, query).toBe(deleted);
    const hidden = await client.post<Forgotten & { hiddenByView?: true }>("/forget", {
      query: "anything at all of it",
      dryRun: true,
    });
    expect(hidden.body).toEqual({ deleted: 0, matches: [] });
    await client.remember("a harbour below", { scopes: "user/ann" });
    expect((await client.post("/forget", { query: "harbour", dryRun: true })).body).toEqual({
      deleted: 0,
      matches: [],
      hint: expect.any(String),
      hiddenByView: true,
    });
    expect((await client.post("/forget", { query: "harbour" })).body).toMatchObject({ deleted: 0, hiddenByView: true });
    // Who sees the subtree by default forgets there by default.
    const admin = await service.mint("management", { org: "meant" });
    expect((await admin.post<Forgotten>("/forget", { query: "harbour", dryRun: true })).body.deleted).toBe(1);
    expect(
      (await admin.post<Forgotten>("/forget", { query: "harbour", dryRun: true, subtree: false })).body.deleted,
    ).toBe(0);
  });

  test("stays at E: the user's row goes, the org's and the other user's stay", async () => {
    await tenant.remember("favourite colour is teal");
    await tenant.remember("favourite colour is teal, says alice", { scopes: "user/alice" });
    await tenant.remember("favourite colour is teal, says bob", { scopes: "user/bob" });
    expect(
      (await tenant.post<Forgotten>("/forget", { query: "favourite colour", scopes: "user/alice" })).body.deleted,
    ).toBe(1);
    const left = await tenant.recall("favourite colour", { scopeView: "subtree", includeDuplicates: true });
    expect(left.sort()).toEqual(["favourite colour is teal", "favourite colour is teal, says bob"]);
    expect((await tenant.post<Forgotten>("/forget", { query: "favourite colour", subtree: true })).body.deleted).toBe(
      2,
    );
  });

  test("general knowledge takes a typed confirmation, and no agent reaches it", async () => {
    await service.operator.remember("general wombat knowledge", { scopes: {} });
    expect((await tenant.post<Forgotten>("/forget", { query: "wombat" })).body.deleted).toBe(0);
    expect((await service.operator.post("/forget", { query: "wombat" })).status).toBe(422);
    expect((await service.operator.post("/scopes/forget")).status).toBe(422);
    expect(await tenant.recall("wombat")).toContain("general wombat knowledge");
    const confirmed = await service.operator.post<Forgotten>("/forget", { query: "wombat", confirm: "{}" });
    expect(confirmed.body.deleted).toBe(1);
  });

  test("a bad threshold is 400", async () => {
    for (const threshold of [0, -1, 1.5, "0.5"]) {
      expect((await tenant.post("/forget", { query: "x", threshold })).status).toBe(400);
    }
    expect((await tenant.post("/forget", {})).status).toBe(400);
  });
});

describe("forgetting a session", () => {
  test("of general knowledge takes the typed confirmation too", async () => {
    const { sessionId } = await service.operator.remember("general session text", { scopes: {} });
    expect((await service.operator.post("/forget", { sessionId, purge: true })).status).toBe(422);
    expect((await service.operator.post("/forget", { sessionId, purge: true, confirm: "{}" })).body).toMatchObject({
      deleted: 1,
    });
  });

  test.each([
    ["expire", {}],
    ["erase", { purge: true }],
  ])("%s: all its turns go, other sessions stay", async (action, more) => {
    const { sessionId } = await tenant.remember("session one says hello", { scopes: "user/alice" });
    await tenant.remember("session one says goodbye", { sessionId });
    const other = await tenant.remember("session two says hello", { scopes: "user/alice" });
    expect((await tenant.post<Forgotten>("/forget", { sessionId, ...more })).body.deleted).toBe(2);
    expect(await tenant.recall("says hello", { scopeView: "subtree" })).toEqual(["session two says hello"]);
    expect((await tenant.get(`/sessions/${sessionId}`)).status).toBe(action === "erase" ? 404 : 200);
    expect((await tenant.get(`/sessions/${other.sessionId}`)).status).toBe(200);
  });

  test("a foreign session is 404", async () => {
    const foreign = await service.mint("agent", { org: "elsewhere" });
    const { sessionId } = await foreign.remember("not yours");
    expect((await tenant.post("/forget", { sessionId, purge: true })).status).toBe(404);
    expect(await foreign.recall("not yours")).toEqual(["not yours"]);
  });
});

/** Every row that is not of the given scopes, as one text. */
async function checksum(tables: readonly string[], except: string): Promise<Record<string, unknown>> {
  const sums: Record<string, unknown> = {};
  for (const table of tables) {
    const [row] = await service.database.sql(
      `SELECT md5(coalesce(string_agg(x::text, '|' ORDER BY x::text), '')) AS sum FROM scopefloor.${table} x
       JOIN scopefloor.scope d ON d.id = x.scope_id WHERE NOT d.tags @> $1`,
      [except],
    );
    sums[table] = row?.sum;
  }
  return sums;
}

describe("erasing a scope subtree", () => {
  test("removes every trace of its text and tags, and nothing of a neighbour's (threats 17, 19)", async () => {
    const canary = `canary${counter}`;
    const org = `doomed-${counter}`;
    const doomed = await service.mint("agent", { org });
    const neighbour = await service.mint("agent", { org: `${org}-2` });
    for (const [client, said] of [
      [doomed, canary],
      [neighbour, "other"],
    ] as const) {
      await client.call("PUT", `/memory/${said}`, { value: { note: said } });
      const triple = { entity: { type: "Person", name: said }, key: said, value: said };
      expect((await client.post("/facts", { triples: [triple] })).status).toBe(200);
    }
    await neighbour.remember("the neighbour's own text");
    await doomed.remember(`org text ${canary}`);
    const deep = await doomed.remember(`user text ${canary}`, {
      scopes: `user/${canary}`,
      labels: [`topic=${canary}`],
    });
    await doomed.post("/query", { query: canary, lens: { user: canary } });
    await doomed.post("/sessions", { metadata: { note: canary } }, { headers: { "idempotency-key": canary } });
    await doomed.post("/query", { query: "x", lens: { org: canary } });
    await doomed.call("GET", "/me", undefined, { headers: { "x-spectron-on-behalf-of": canary } });
    const tables = [
      "session",
      "turn",
      "passage",
      "memory_item",
      "entity",
      "attribute",
      "forget_receipt",
      "access_denied",
      "decision_trace",
      "idempotency",
    ];
    const before = await checksum(tables, JSON.stringify({ org }));
    const [bill] = await service.database.sql(
      "SELECT sum(total_tokens)::int AS tokens, jsonb_agg(DISTINCT scope_id) AS ids FROM scopefloor.decision_trace WHERE scope->>'org' = $1",
      [org],
    );

    await service.operator.del(`/contexts/default/keys/${doomed.id}`);
    const erased = await service.operator.post<{ forgotten: number; receiptId: string }>("/scopes/forget", {
      path: `org/${org}`,
    });
    expect(erased.status).toBe(200);
    // Two turns with their passages and sessions, the session with metadata; an item; an entity, its fact, that
    // one's passage and session.
    expect(erased.body.forgotten).toBe(12);

    expect(await checksum(tables, JSON.stringify({ org }))).toMatchObject({
      session: before.session,
      turn: before.turn,
      passage: before.passage,
      memory_item: before.memory_item,
      entity: before.entity,
      attribute: before.attribute,
      idempotency: before.idempotency,
    });
    expect((await neighbour.recall("neighbour's own text"))[0]).toBe("the neighbour's own text");

    const catalog = await service.database.sql(
      "SELECT relname FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1",
    );
    for (const { relname } of catalog) {
      const rows = await service.database.sql(`SELECT x::text AS row FROM scopefloor."${relname}" x`);
      expect(JSON.stringify(rows), String(relname)).not.toContain(canary);
      expect(JSON.stringify(rows), String(relname)).not.toMatch(new RegExp(`"${org}"`));
    }
    // The numbers stay, under a marker that no request can name.
    const [kept] = await service.database.sql(
      "SELECT sum(total_tokens)::int AS tokens FROM scopefloor.decision_trace WHERE scope ? '!erased' AND scope_id = ANY ($1::int[])",
      [`{${[bill?.ids].flat().join(",")}}`],
    );
    expect(kept?.tokens).toBe(bill?.tokens);
    const receipt = await service.operator.get(`/contexts/default/receipts/${erased.body.receiptId}`);
    expect(receipt.body).toMatchObject({
      action: "erase",
      subtree: true,
      counts: { passage: 3, turn: 2, session: 4, memory_item: 1, entity: 1, attribute: 1 },
    });
    expect(receipt.text).not.toContain(org);
    expect((await service.operator.get(`/sessions/${deep.sessionId}`)).status).toBe(404);
  });

  test("leaves no stored answer of the operator's that names the floor of one of its keys", async () => {
    const org = `named-${counter}`;
    const agent = await service.mint("agent", { org });
    const narrowed = await service.operator.post(
      `/principals/${agent.id}/grants`,
      { verbs: ["memory:read"] },
      { headers: { "idempotency-key": org } },
    );
    expect(narrowed.text).toContain(`org/${org}`);
    const stored = () => service.database.sql("SELECT answer::text AS answer FROM scopefloor.idempotency");
    expect(JSON.stringify(await stored())).not.toContain(`org/${org}/`);
    await service.operator.del(`/contexts/default/keys/${agent.id}`);
    expect((await service.operator.post("/scopes/forget", { path: `org/${org}` })).status).toBe(200);
    expect(JSON.stringify(await stored())).not.toContain(`org/${org}/`);
  });

  test("takes the questions about a scope that had no row when they were asked, and a scope's names", async () => {
    const canary = `question${counter}`;
    await tenant.post("/query", { query: `${canary} disease`, lens: `user/${canary}` });
    await tenant.remember("now there is one", { scopes: `user/${canary}` });
    await tenant.post("/scopes", { path: {}, displayName: canary, description: canary });
    await tenant.post("/scopes/forget", { path: `user/${canary}` });
    expect((await tenant.get("/traces")).text).not.toContain(canary);
    await tenant.eraseFloor();
    expect((await tenant.get("/scopes")).text).not.toContain(canary);
  });

  test("takes the names of scopes that were only asked about, also where a live key keeps the floor", async () => {
    const name = `zoe${counter}`;
    await tenant.post("/query", { query: "anything", lens: `user/${name}` });
    const named = () =>
      service.database.sql("SELECT 1 FROM scopefloor.decision_trace WHERE scope::text LIKE $1", [`%${name}%`]);
    expect(await named()).toHaveLength(1);
    await tenant.eraseFloor();
    expect(await named()).toEqual([]);
  });

  test("takes refused attempts to name it, and ends its expired keys for good", async () => {
    const org = `ended-${counter}`;
    const reader = await service.mint("agent", { org }, { verbs: ["memory:read"] });
    const expired = await service.mint("agent", { org, user: "x" });
    const beside = await service.mint("agent", { user: "x" });
    await expired.remember("a text of x");
    expect((await reader.post("/facts", { text: "no", scopes: "user/x" })).status).toBe(403);
    await service.database.sql("UPDATE scopefloor.api_key SET expires_at = now() - interval '1 second' WHERE id = $1", [
      expired.id,
    ]);
    await service.operator.post("/scopes/forget", { path: { org, user: "x" } });
    const denied = await service.operator.get<{ denied: { keyId: string; asked: unknown }[] }>(
      "/contexts/default/denied?limit=500",
    );
    expect(denied.body.denied.filter((row) => row.keyId === reader.id).map((row) => row.asked)).toEqual([null]);
    expect((await service.operator.post(`/contexts/default/keys/${expired.id}/rotate?ttlSeconds=100`)).status).toBe(
      404,
    );
    // A floor beside the target is not above it: none of its tags stay with the marker.
    expect((await beside.get("/me")).status).toBe(200);
    const scopes = await service.database.sql(
      "SELECT tags FROM scopefloor.scope WHERE tags ? '!erased' AND tags ? 'user'",
    );
    expect(scopes).toEqual([]);
  });

  test("of a user leaves the numbers on the tenant's bill", async () => {
    await tenant.remember("billed text of a user", { scopes: "user/alice" });
    const before = await tenant.get<{ totalTokens: number }>("/usage");
    expect(before.body.totalTokens).toBeGreaterThan(0);
    await tenant.post("/scopes/forget", { path: "user/alice" });
    expect((await tenant.get<{ totalTokens: number }>("/usage")).body.totalTokens).toBe(before.body.totalTokens);
  });

  test("repeated with its Idempotency-Key gives the same receipt, also for the caller's own floor", async () => {
    await tenant.remember("erased once");
    const erase = () => tenant.eraseFloor({ headers: { "idempotency-key": "erase" } });
    const first = await erase();
    expect((await erase()).text).toBe(first.text);
  });

  test("a live key goes on: its floor starts anew, empty", async () => {
    await tenant.remember("before the erasure");
    const erased = await tenant.eraseFloor<{ forgotten: number; receiptId: string }>();
    expect(erased.body).toMatchObject({ forgotten: 3, receiptId: expect.any(String) });
    expect(await tenant.recall("before the erasure")).toEqual([]);
    await tenant.remember("after the erasure");
    expect(await tenant.recall("erasure")).toEqual(["after the erasure"]);
  });

  test("is 403 beyond the floor, and for keys without the verb", async () => {
    expect((await tenant.post("/scopes/forget", { path: "org/globex" })).status).toBe(403);
    const writer = await service.mint("agent", { org: "w" }, { verbs: ["memory:read", "memory:write"] });
    expect((await writer.post("/scopes/forget", { path: "user/x" })).status).toBe(403);
    const eraser = await service.mint("agent", { org: "w" }, { verbs: ["memory:forget"] });
    await writer.remember("erasable", { scopes: "user/x" });
    expect((await eraser.post("/scopes/forget", { path: "user/x" })).body.forgotten).toBe(3);
    expect((await eraser.post("/forget", { query: "erasable" })).status).toBe(403);
  });

  test("every table with a scope is on the erasure's list", async () => {
    const rows = await service.database.sql(
      `SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'scope_id'
       WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1`,
    );
    const listed = [...ERASURE.delete, ...ERASURE.redact, ...ERASURE.keep].sort();
    expect(rows.map((row) => row.relname)).toEqual(listed);
  });
});
