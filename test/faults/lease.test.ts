import postgres from "postgres";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { inTransaction, type Lease } from "../../src/db/connect/lease.ts";
import { PostgresLeases } from "../../src/db/connect/postgres.ts";
import { createTestDatabase, onPostgres, type TestDatabase } from "../harness/database.ts";

/**
 * The four orders in which a killed backend once crossed tenants (threat 9). They need a server:
 * PGlite has one connection and no backend to kill.
 */
describe.runIf(onPostgres())("a backend that dies inside a transaction", () => {
  let database: TestDatabase;
  let leases: PostgresLeases;
  let killer: postgres.Sql;

  beforeAll(async () => {
    database = await createTestDatabase();
    killer = postgres(database.url ?? "", { max: 1, onnotice: () => undefined });
    await killer.unsafe(
      "CREATE TABLE public.note (tenant text, body text); GRANT ALL ON public.note TO scopefloor_app",
    );
  });
  beforeEach(async () => {
    await killer.unsafe("TRUNCATE public.note");
    leases = new PostgresLeases({
      url: database.url ?? "",
      size: 1,
      timeoutMs: 5_000,
      role: "scopefloor_app",
      applicationName: "victim",
    });
  });
  afterAll(async () => {
    await killer.end();
    await database.drop();
  });

  const kill = async (lease: Pick<Lease, "query">) => {
    const [row] = await lease.query("SELECT pg_backend_pid() AS pid");
    await killer.unsafe(`SELECT pg_terminate_backend(${Number(row?.pid)}, 2000)`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  };
  const write = (lease: Pick<Lease, "query">, tenant: string) =>
    lease.query("INSERT INTO public.note VALUES ($1, $2)", [tenant, `by ${tenant}`]);
  const notes = async () => (await killer.unsafe("SELECT tenant FROM public.note ORDER BY 1")).map((row) => row.tenant);

  /** Tenant A's transaction loses its backend; B gets the only place; then A goes on. */
  async function crossing(after: (a: Lease) => Promise<unknown>, endOfB: "COMMIT" | "ROLLBACK" = "COMMIT") {
    const a = await leases.acquire();
    await a.query("BEGIN");
    await write(a, "a");
    await kill(a);
    const waiting = leases.acquire();
    const late = after(a).then(
      () => "accepted",
      () => "refused",
    );
    await a.release();
    const b = await waiting;
    await b.query("BEGIN");
    await write(b, "b");
    const outcomes = [
      await late,
      await write(a, "a").then(
        () => "accepted",
        () => "refused",
      ),
    ];
    await b.query(endOfB);
    await b.release();
    await leases.close();
    return outcomes;
  }

  test("a connection is the application's: its role, its limits, its search path", async () => {
    const lease = await leases.acquire();
    const [row] =
      await lease.query(`SELECT current_user::text AS role, current_setting('statement_timeout') AS statement,
      current_setting('lock_timeout') AS lock, current_setting('idle_in_transaction_session_timeout') AS idle, current_setting('jit') AS jit,
      current_setting('work_mem') AS memory, current_setting('search_path') AS path, current_setting('TimeZone') AS zone`);
    await lease.release();
    await leases.close();
    expect(row).toEqual({
      role: "scopefloor_app",
      statement: "5s",
      lock: "5s",
      idle: "1min",
      jit: "off",
      memory: "32MB",
      path: "pg_catalog, public",
      zone: "UTC",
    });
  });

  test("values are what they are in JavaScript: JSON as it is, times as RFC 3339, counts as numbers", async () => {
    const lease = await leases.acquire();
    const [row] = await lease.query(
      `SELECT $1::jsonb AS object, $2::jsonb AS text, '[1, "a"]'::json AS list, $3::timestamptz AS given,
         timestamptz '2026-01-02 03:04:05.6+02' AS at, timestamptz '0044-03-15 00:00:00+00 BC' AS ides, 42::bigint AS count, $4::bigint AS back`,
      [{ a: [1] }, '"a word"', "2026-01-01T00:00:00Z", 9_007_199_254_740_991],
    );
    await lease.release();
    await leases.close();
    expect(row).toEqual({
      object: { a: [1] },
      text: "a word",
      list: [1, "a"],
      given: "2026-01-01T00:00:00.000Z",
      at: "2026-01-02T01:04:05.600Z",
      ides: "0044-03-15 00:00:00+00 BC",
      count: 42,
      back: 9_007_199_254_740_991,
    });
  });

  test("a stale query of A is refused, and is not in B's transaction", async () => {
    expect(await crossing((a) => write(a, "a"))).toEqual(["refused", "refused"]);
    expect(await notes()).toEqual(["b"]);
  });

  test("A throws: its ROLLBACK does not undo B", async () => {
    expect(await crossing((a) => a.query("ROLLBACK"))).toEqual(["refused", "refused"]);
    expect(await notes()).toEqual(["b"]);
  });

  test("A returns: its COMMIT does not commit half of B, and A is told", async () => {
    expect(await crossing((a) => a.query("COMMIT"))).toEqual(["refused", "refused"]);
    expect(await notes()).toEqual(["b"]);
  });

  test("B rolls back: nothing of A or B stays", async () => {
    expect(await crossing((a) => a.query("COMMIT"), "ROLLBACK")).toEqual(["refused", "refused"]);
    expect(await notes()).toEqual([]);
  });

  test("inTransaction reports the loss and the next one works on a new connection", async () => {
    const lost = inTransaction(leases, async (lease) => {
      await write(lease, "a");
      await kill(lease);
      await write(lease, "a");
    });
    await expect(lost).rejects.toThrow(/connection was lost|CONNECTION_CLOSED|terminat/);
    await inTransaction(leases, (lease) => write(lease, "b"));
    expect(await notes()).toEqual(["b"]);
    await leases.close();
  });

  test("leaves no planted statement, cursor, role or large object for the next tenant", async () => {
    const enter = "SELECT scopefloor.enter($1, $2, $3, $4, $5) AS answer";
    const values = [new Uint8Array(32), "self", '{"mode":"id"}', null, null];
    await inTransaction(leases, (lease) => lease.query(enter, values));
    let pid: unknown;
    await inTransaction(leases, async (lease) => {
      [pid] = await lease.query("SELECT pg_backend_pid() AS pid");
      const [cached] = await lease.query(
        "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT scopefloor.enter%'",
      );
      await lease.query(`DEALLOCATE "${cached?.name}"`);
      await lease.query(
        `PREPARE "${cached?.name}"(bytea, text, jsonb, text, text) AS SELECT '{"status": "planted"}'::jsonb AS answer`,
      );
    });
    const [answer] = await inTransaction(leases, (lease) => lease.query(enter, values));
    expect(answer).toEqual({ answer: { status: "unauthorized" } });
    const [other] = await inTransaction(leases, (lease) => lease.query("SELECT pg_backend_pid() AS pid"));
    expect(other).not.toEqual(pid);

    await inTransaction(leases, async (lease) => {
      await lease.query("DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1");
      await lease.query("SET ROLE scopefloor_worker");
    });
    const [state] = await inTransaction(leases, (lease) =>
      lease.query(
        "SELECT current_user AS who, (SELECT count(*)::int FROM pg_cursors WHERE name = 'left_behind') AS cursors",
      ),
    );
    expect(state).toEqual({ who: "scopefloor_app", cursors: 0 });
    await expect(inTransaction(leases, (lease) => lease.query("SELECT lo_from_bytea(0, 'x')"))).rejects.toMatchObject({
      code: "42501",
    });
    await leases.close();
  });

  test("the control: the same orders on postgres.js's own pool do cross", async () => {
    const pool = postgres(database.url ?? "", { max: 1, onnotice: () => undefined });
    let resumeA: () => void = () => undefined;
    const paused = new Promise<void>((resolve) => {
      resumeA = resolve;
    });
    let killed: () => void = () => undefined;
    const dead = new Promise<void>((resolve) => {
      killed = resolve;
    });
    const a = pool
      .begin(async (sql) => {
        await sql`INSERT INTO public.note VALUES ('a', 'by a')`;
        const [row] = await sql`SELECT pg_backend_pid() AS pid`;
        await killer.unsafe(`SELECT pg_terminate_backend(${Number(row?.pid)}, 2000)`);
        await new Promise((resolve) => setTimeout(resolve, 50));
        killed();
        await paused;
        await sql`INSERT INTO public.note VALUES ('a', 'stale')`;
      })
      .catch(() => undefined);
    await dead;
    const b = pool
      .begin(async (sql) => {
        await sql`INSERT INTO public.note VALUES ('b', 'by b')`;
        resumeA();
        await new Promise((resolve) => setTimeout(resolve, 300));
        await sql`SELECT 1`;
      })
      .catch(() => undefined);
    await Promise.race([Promise.all([a, b]), new Promise((resolve) => setTimeout(resolve, 2_000))]);
    // A's row was written by B's transaction: what the leases above never let happen.
    expect(await notes()).toContain("a");
    await pool.end({ timeout: 1 });
  });
});

describe("a lease", () => {
  test("that was released refuses every later call", async () => {
    const database = await createTestDatabase();
    const lease = await database.app.acquire();
    await lease.release();
    await expect(lease.query("SELECT 1")).rejects.toThrow(/released/);
    await database.drop();
  });

  test("whose sent statement fails says why, also where a later one is refused for it", async () => {
    const database = await createTestDatabase();
    const failing = (text: string) =>
      inTransaction(database.app, async ({ query, send }) => {
        send(text);
        return query("SELECT 1");
      });
    await expect(failing("SELECT 1 / 0")).rejects.toMatchObject({ code: "22012" });
    await expect(failing("SELECT no_such_column")).rejects.toMatchObject({ code: "42703" });
    // The control: what nothing sent is to blame for stays as it is.
    const caught = inTransaction(database.app, async ({ query }) => {
      await query("SELECT 1 / 0").catch(() => undefined);
      return query("SELECT 1");
    });
    await expect(caught).rejects.toMatchObject({ code: "25P02" });
    await database.drop();
  });

  test("leaves nothing of its session behind: settings, locks, the ticket", async () => {
    const database = await createTestDatabase({ connections: 1 });
    await inTransaction(database.app, async (lease) => {
      await lease.query("SET work_mem = '7MB'");
      await lease.query("SET scopefloor.ticket = 'left behind'");
    });
    // Nobody but the owner may take one; were one held, it would go too.
    await expect(
      inTransaction(database.app, (lease) => lease.query("SELECT pg_advisory_lock(42)")),
    ).rejects.toMatchObject({
      code: "42501",
    });
    const [row] = await inTransaction(database.app, (lease) =>
      lease.query(
        `SELECT current_setting('work_mem') AS mem, coalesce(current_setting('scopefloor.ticket', true), '') AS ticket`,
      ),
    );
    expect(row).toEqual({ mem: expect.not.stringMatching("7MB"), ticket: "" });
    await database.drop();
  });

  test("is waited for, at most as long as a statement may take; then 503", async () => {
    if (!onPostgres()) {
      // One connection, and no time limit on it: transactions wait for each other in turn.
      const database = await createTestDatabase();
      const order: number[] = [];
      await Promise.all([1, 2, 3].map((n) => inTransaction(database.app, async () => void order.push(n))));
      expect(order).toEqual([1, 2, 3]);
      await database.drop();
      return;
    }
    const database = await createTestDatabase({ connections: 1, timeoutMs: 200 });
    const held = await database.app.acquire();
    await expect(database.app.acquire()).rejects.toMatchObject({ status: 503, retryAfter: 1 });
    await held.release();
    await (await database.app.acquire()).release();
    await database.drop();
  });
});
