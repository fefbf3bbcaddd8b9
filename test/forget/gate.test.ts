import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Demand } from "../../src/db/enter.ts";
import type { ScopedTransaction } from "../../src/db/scoped.ts";
import { onPostgres } from "../harness/database.ts";
import { hold as holdOpen } from "../harness/held.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

/** How long a request may take that waits for nobody. */
const SOON_MS = 4_000;

// One connection has one transaction at a time.
describe.runIf(onPostgres())("forgets and answers that are being stored", () => {
  let service: TestService;
  const clients: Record<string, Client> = {};

  const FLOORS = {
    acme: { org: "acme" },
    ann: { org: "acme", user: "ann" },
    globex: { org: "globex" },
    team: { team: "red" },
  };
  const FORGET = { verb: "memory:forget", mode: "forget", subtree: true } as const;
  const ERASE = { verb: "memory:forget", mode: "erase", subtree: true } as const;
  const DELETE = { verb: "memory:write", mode: "delete" } as const;
  const RECALL = { verb: "memory:read", mode: "select" } as const;

  beforeAll(async () => {
    // So many that no tenant waits for its own share of them.
    service = await startService({ connections: 24 });
    for (const [name, floor] of Object.entries(FLOORS)) clients[name] = await service.mint("agent", floor);
    clients.operator = service.operator;
  });
  afterAll(() => service.stop());

  const clientOf = (name: string) => clients[name] as Client;

  const hold = (name: string, demand: Demand, work: (tx: ScopedTransaction) => Promise<unknown>) =>
    holdOpen(service, clientOf(name), demand, work);
  const forgetting = (tx: ScopedTransaction) => tx.call("drop_recalled_answers");
  const storing = (tx: ScopedTransaction) =>
    tx.call("claim_idempotency", "test", randomBytes(8).toString("hex"), new Uint8Array(32), true);

  let words = 0;
  const question = () => ({ query: `ledger ${words++}` });
  /** A deletion: what shares the tenant's own lock with its other requests (scopefloor.hold_scope), and has this one alone. */
  const forget = async (name: string) => {
    const key = `word-${words++}`;
    expect((await clientOf(name).call("PUT", `/memory/${key}`, { value: "ledger" })).status).toBeLessThan(300);
    return clientOf(name).del(`/memory/${key}`);
  };
  const recall = (name: string) =>
    clientOf(name).post("/query", question(), { headers: { "idempotency-key": randomBytes(8).toString("hex") } });
  const isCached = async (name: string) => {
    const asked = question();
    await clientOf(name).post("/query", asked);
    return (await clientOf(name).post<{ tier: string }>("/query", asked)).body.tier === "cache";
  };
  const atOnce = async (request: Promise<{ status: number }>) =>
    Promise.race([request.then(({ status }) => status), pause(SOON_MS).then(() => "waits")]);
  /** Resolves when some request waits at the gate; one that is through ends the wait as well. */
  const waiting = async (request: Promise<unknown>) => {
    let isThrough = false;
    request
      .finally(() => {
        isThrough = true;
      })
      .catch(() => undefined); // looked at where the request is awaited
    while (!isThrough) {
      const held = await service.database.sql(`
        SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%scopefloor.%'
          AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep')`);
      if (held.length > 0) return "waits";
      await pause(5);
    }
    return "is through";
  };

  beforeEach(async () => {
    // Two forgets that both drop one stored answer of a key above their orgs wait for each other (docs/security.md).
    await service.database.sql("DELETE FROM scopefloor.idempotency");
    for (const name of Object.keys(FLOORS)) await clientOf(name).remember("the harbour master keeps the ledger");
  });

  test("are apart by org: one tenant's forget keeps no other waiting and out of no cache (threats 3, 18)", async () => {
    for (const [name, demand] of [
      ["ann", FORGET],
      ["acme", ERASE],
      // An operator's erasure of one org is about that org alone.
      ["operator", { ...ERASE, selector: [{ tags: { org: "acme", user: "bob" }, subtree: true }] }],
    ] as const) {
      const end = await hold(name, demand as Demand, forgetting);
      try {
        expect(await atOnce(forget("globex"))).toBe(204);
        expect(await atOnce(recall("globex"))).toBe(200);
        expect(await isCached("globex")).toBe(true);
      } finally {
        await end();
      }
    }
  });

  test.each([
    ["ann", DELETE, ["acme", "team", "operator"]],
    ["team", FORGET, ["acme", "globex", "operator"]],
  ] as const)("meet where they may concern the same rows: a forget of %s", async (name, demand, others) => {
    for (const other of others) {
      const end = await hold(name, demand, forgetting);
      const request = recall(other);
      try {
        expect(await waiting(request), other).toBe("waits");
        expect(await isCached(other), other).toBe(false);
      } finally {
        await end();
      }
      expect((await request).status).toBe(200);
      expect(await isCached(other), other).toBe(true);
    }
  });

  test("who waits for one org's forget is in no other's way", async () => {
    const end = await hold("acme", DELETE, forgetting);
    const request = recall("operator");
    try {
      expect(await waiting(request)).toBe("waits");
      expect(await atOnce(forget("globex"))).toBe(204);
      expect(await atOnce(recall("globex"))).toBe(200);
    } finally {
      await end();
    }
    expect((await request).status).toBe(200);
  });

  test("are patient, not for ever: who cannot store an answer is told to come again, and nothing is stored", async () => {
    const end = await hold("acme", DELETE, forgetting);
    try {
      const headers = { "idempotency-key": "patience" };
      for (const name of ["ann", "operator"]) {
        const refused = await clientOf(name).post("/query", question(), { headers });
        expect(refused.status, refused.text).toBe(503);
        expect(refused.headers.get("retry-after")).toBe("1");
      }
      expect(await service.database.sql("SELECT 1 FROM scopefloor.idempotency WHERE key = 'patience'")).toEqual([]);
    } finally {
      await end();
    }
  });

  test("are told so as well where a statement may take less than they would wait", async () => {
    const hasty = await startService({ connections: 8, timeoutMs: 2_000 });
    const [acme, ann] = [await hasty.mint("agent", FLOORS.acme), await hasty.mint("agent", FLOORS.ann)];
    const end = await holdOpen(hasty, acme, DELETE, forgetting);
    try {
      const refused = await ann.post("/query", question(), { headers: { "idempotency-key": "haste" } });
      expect(refused.status, refused.text).toBe(503);
    } finally {
      await end();
      await hasty.stop();
    }
  });

  test.each([
    ["acme", ["ann", "team"], ["globex"]],
    ["operator", ["acme", "globex", "team"], []],
  ] as const)("the other way round: an answer that %s has stored", async (name, concerned, others) => {
    for (const other of concerned) {
      const end = await hold(name, RECALL, storing);
      const request = forget(other);
      try {
        expect(await waiting(request), other).toBe("waits");
      } finally {
        await end();
      }
      expect((await request).status).toBe(204);
    }
    const end = await hold(name, RECALL, storing);
    try {
      for (const other of others) expect(await atOnce(forget(other)), other).toBe(204);
      // Who stores waits for nobody else who stores.
      for (const other of Object.keys(FLOORS)) expect(await atOnce(recall(other)), other).toBe(200);
    } finally {
      await end();
    }
  });
});
