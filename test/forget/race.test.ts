import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { enterScope } from "../../src/db/access/enter.ts";
import { sql } from "../../src/db/access/scoped.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import type { Scope } from "../../src/scope/scope.ts";
import { recordTrace } from "../../src/traces/record.ts";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

/** `npm run soak -- races` runs more, in `.ci/run` 100. One connection hardly races: the embedded database has few. */
const RACES = Number(process.env.SCOPEFLOOR_RACES ?? (onPostgres() ? 20 : 2));

let service: TestService;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());

describe("racing an erasure (threat 18)", () => {
  interface Race {
    readonly tags: { readonly org: string; readonly user: string };
    readonly receiptId: string;
  }

  /** Races writes, uploads with their jobs, new sub-scopes and reads with an erasure. */
  async function race(name: string): Promise<Race> {
    const tags = { org: name, user: "u" };
    const { org, user } = tags;
    const writer = await service.mint("agent", { org });
    const { sessionId } = await writer.remember("already there", { scopes: { user } });
    const queued = await writer.upload("a file of the scope", "before.txt", { scopes: { user } });
    const writes = Array.from({ length: 8 }, (_, i) =>
      i % 4 === 0
        ? writer.post("/facts", { text: "late row", sessionId })
        : i % 4 === 1
          ? writer.post("/facts", { text: "late row", scopes: { user, team: `new${i}` } })
          : i % 4 === 2
            ? writer.upload(`a late file ${i}`, `${i}.txt`, { scopes: { user } })
            : writer.post("/query", { query: "late row", lens: { user } }),
    );
    const erasing = service.operator.post<{ receiptId: string }>("/scopes/forget", { path: { org, user } });
    const [erased, ...written] = await Promise.all([erasing, ...writes]);
    expect(erased.status).toBe(200);
    expect(queued.status).toBe(202);
    for (const answer of written) expect([200, 202, 404, 409]).toContain(answer.status);
    return { tags, receiptId: erased.body.receiptId };
  }

  /** What stands there now and began before the erasure, and what hangs on an erased scope. */
  const outlived = ({ tags, receiptId }: Race) =>
    service.database.sql(
      `SELECT 'late' AS what FROM scopefloor.passage p JOIN scopefloor.scope d ON d.id = p.scope_id, scopefloor.forget_receipt r
       WHERE d.tags @> $1 AND r.id = $2 AND p.created_at < r.created_at
       UNION ALL SELECT 'late document' FROM scopefloor.document o JOIN scopefloor.scope d ON d.id = o.scope_id, scopefloor.forget_receipt r
       WHERE d.tags @> $1 AND r.id = $2 AND o.created_at < r.created_at
       UNION ALL SELECT 'passage' FROM scopefloor.passage p JOIN scopefloor.scope d ON d.id = p.scope_id WHERE d.erased_at IS NOT NULL
       UNION ALL SELECT 'session' FROM scopefloor.session s JOIN scopefloor.scope d ON d.id = s.scope_id WHERE d.erased_at IS NOT NULL
       UNION ALL SELECT 'document' FROM scopefloor.document o JOIN scopefloor.scope d ON d.id = o.scope_id WHERE d.erased_at IS NOT NULL
       UNION ALL SELECT 'job' FROM scopefloor.job j JOIN scopefloor.scope d ON d.id = j.scope_id WHERE d.erased_at IS NOT NULL
       UNION ALL SELECT 'trace' FROM scopefloor.decision_trace t JOIN scopefloor.scope d ON d.id = t.scope_id
         WHERE d.erased_at IS NOT NULL AND t.query IS NOT NULL`,
      [JSON.stringify(tags), receiptId],
    );

  test("a write that arrived before it and begins after it is refused (threat 18)", async () => {
    const writer = await service.mint("agent", { org: "arrived" });
    await writer.remember("already there");
    const arrivedAt = performance.now();
    expect((await writer.eraseFloor()).status).toBe(200);
    const write = (at: number) =>
      enterScope(
        service.database.app,
        { keyHash: hashSecret(writer.key), onBehalfOf: undefined, route: "test", operation: "test" },
        { verb: "memory:write", mode: "write" },
        async (tx) => tx.entry.write,
        { context: "default", arrivedAt: at },
      );
    await expect(write(arrivedAt)).rejects.toThrow(/erased while this write was under way/);
    await expect(write(performance.now())).resolves.toMatchObject({ id: expect.any(Number) });
  });

  test("a read that arrived before it and begins after it leaves neither its question nor the name (threat 18)", async () => {
    const reader = await service.mint("agent", { org: "asked" });
    await reader.remember("already there", { scopes: { user: "hidden" } });
    const arrivedAt = performance.now();
    expect((await reader.post("/scopes/forget", { path: { user: "hidden" } })).status).toBe(200);
    const read = (at: number) =>
      enterScope(
        service.database.app,
        { keyHash: hashSecret(reader.key), onBehalfOf: undefined, route: "test", operation: "test" },
        {
          verb: "memory:read",
          mode: "select",
          selector: [{ tags: { user: "hidden" } as unknown as Scope, subtree: false }],
        },
        async (tx) => recordTrace(tx, { kind: "retrieval", operation: "query", query: "what of it" }).traceId,
        { context: "default", arrivedAt: at },
      );
    const traceOf = async (id: string) =>
      (await service.database.sql("SELECT query, scope FROM scopefloor.decision_trace WHERE id = $1", [id]))[0];
    expect(await traceOf(await read(arrivedAt))).toEqual({ query: null, scope: { org: "asked" } });
    // One that came later has asked about what is there now.
    expect(await traceOf(await read(performance.now()))).toEqual({
      query: "what of it",
      scope: { org: "asked", user: "hidden" },
    });
  });

  test("a refused request leaves no name of what was just erased (threat 18)", async () => {
    const [inside, outside] = [
      await service.mint("agent", { org: "refused" }),
      await service.mint("agent", { org: "else" }),
    ];
    const asked = { org: "refused", user: "hidden" };
    const refused = async (client: Client) => {
      expect(
        (
          await client.post(
            "/query",
            { query: "x", lens: asked, scopeView: "strict" },
            { headers: { "x-spectron-on-behalf-of": "nobody" } },
          )
        ).status,
      ).toBe(403);
      const [row] = await service.database.sql(
        "SELECT asked FROM scopefloor.access_denied WHERE api_key_id = $1 ORDER BY id DESC LIMIT 1",
        [client.id],
      );
      return row?.asked;
    };
    expect(await refused(inside)).toEqual([{ tags: asked, subtree: false }]);
    expect(await refused(outside)).toEqual([{ tags: asked, subtree: false }]);
    expect((await service.operator.post("/scopes/forget", { path: asked })).status).toBe(200);
    expect(await refused(inside)).toBeNull();
    expect(await refused(outside)).toBeNull();
  });

  test("an operator's recall beside it leaves no stored answer with the text", async () => {
    for (let round = 0; round < (onPostgres() ? 12 : 4); round++) {
      const { org, user } = { org: `answer-${round}`, user: "x" };
      const writer = await service.mint("agent", { org, user });
      await writer.remember("secret banana");
      const ask = (i: number) =>
        service.operator.post(
          "/query",
          { query: "banana" },
          { headers: { "idempotency-key": `banana-${round}-${i}` } },
        );
      const asking = Promise.all([0, 1, 2, 3].map(ask));
      await new Promise((resolve) => setTimeout(resolve, round % 8));
      const erased = await service.operator.post("/scopes/forget", { path: { org, user } });
      expect(erased.status, erased.text).toBe(200);
      await asking;
      for (const i of [0, 1, 2, 3]) expect((await ask(i)).text).not.toContain("secret banana");
    }
  });

  // One connection has one transaction at a time.
  test.runIf(onPostgres())("drops the answer of a request that began in the same microsecond", async () => {
    const writer = await service.mint("agent", { org: "microsecond" });
    const headers = { "idempotency-key": "the-same-moment" };
    const facts = { triples: [{ entity: { type: "Fruit", name: "quince" }, key: "colour", value: "yellow" }] };
    expect((await writer.post("/facts", facts, { headers })).status).toBe(200);
    await enterScope(
      service.database.app,
      { keyHash: hashSecret(writer.key), onBehalfOf: undefined, route: "test", operation: "test" },
      { verb: "memory:forget", mode: "erase", subtree: true },
      async (tx) => {
        const moment = await tx.row<{ at: string }>(sql`SELECT now()::text AS at`);
        await service.database.sql("UPDATE scopefloor.idempotency SET created_at = $1 WHERE key = 'the-same-moment'", [
          moment?.at,
        ]);
        await tx.call("retire_scopes");
      },
    );
    expect(await service.database.sql("SELECT 1 FROM scopefloor.idempotency WHERE key = 'the-same-moment'")).toEqual(
      [],
    );
  });

  test("nothing lands after the receipt: writes, uploads, jobs, new sub-scopes and traces begun before or beside it", {
    timeout: 60_000 + RACES * 2_000,
  }, async () => {
    const races: Race[] = [];
    for (let round = 0; round < RACES; round++) {
      races.push(await race(`race-${round}`));
      const last = races.at(-1);
      if (last !== undefined) expect(await outlived(last)).toEqual([]);
    }
    // Nor once the jobs that were ordered are through.
    while ((await service.database.sql("SELECT 1 FROM scopefloor.job LIMIT 1")).length > 0) await pause(50);
    for (const each of races.slice(-200)) expect(await outlived(each)).toEqual([]);
  });
  // One connection cannot race; a server without the locks does (the control).
  test.runIf(onPostgres())("without the locks the same oracle finds late rows", async () => {
    const [kept] = await service.database.sql(
      "SELECT pg_get_functiondef('scopefloor.hold_scope'::regproc) AS source",
      [],
    );
    const [check] = await service.database.sql(
      "SELECT pg_get_functiondef('scopefloor.was_erased'::regproc) AS source",
      [],
    );
    const signature = "RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp";
    await service.database.sql(
      `CREATE OR REPLACE FUNCTION scopefloor.hold_scope(tags jsonb, target jsonb DEFAULT NULL, floor jsonb DEFAULT '{}')
         ${signature} AS 'SELECT NULL::void';
       CREATE OR REPLACE FUNCTION scopefloor.was_erased(tags jsonb, since timestamptz) RETURNS bool LANGUAGE sql STABLE SECURITY DEFINER
         SET search_path = pg_catalog, pg_temp AS 'SELECT false'`,
    );
    try {
      let found = 0;
      for (let round = 0; round < 60 && found === 0; round++) {
        found += (await outlived(await race(`broken-${round}`))).length;
      }
      expect(found).toBeGreaterThan(0);
    } finally {
      await service.database.sql(`${kept?.source}; ${check?.source}`);
    }
  });
});
