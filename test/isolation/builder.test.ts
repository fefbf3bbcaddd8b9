import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { sql as rawSql } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Caller, enterScope } from "../../src/db/enter.ts";
import type { Lease, Leases } from "../../src/db/lease.ts";
import { type ScopedTransaction, sql } from "../../src/db/scoped.ts";
import { passage } from "../../src/db/tables/memory.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { proving } from "../harness/statement-proof.ts";

let service: TestService;
let acme: Client;

beforeAll(async () => {
  service = await startService();
  acme = await service.mint("agent", { org: "acme" });
  await acme.remember("acme text");
});
afterAll(() => service.stop());

const caller = (client: Client): Caller => ({
  keyHash: hashSecret(client.key),
  onBehalfOf: undefined,
  route: "test",
  operation: "test",
});

const within = <T>(work: (tx: ScopedTransaction) => Promise<T>, leases: Leases = service.database.app) =>
  enterScope(leases, caller(acme), { verb: "memory:read", mode: "select" }, work);

describe("the scoped builder", () => {
  test("refuses a statement that names a table by itself, in any position", async () => {
    const statements = [
      sql`SELECT * FROM scopefloor.passage`,
      sql`SELECT * FROM "scopefloor"."passage"`,
      sql`SELECT * FROM scopefloor . passage`,
      sql`SELECT (SELECT count(*) FROM Scopefloor.turn) AS n`,
      sql`SELECT * FROM pg_catalog.pg_stats`,
      sql`WITH x AS (${sql`SELECT * FROM scopefloor.turn`}) SELECT * FROM x`,
      sql`SELECT * FROM ${passage}`,
      sql`SELECT ${passage.text}`,
      sql.join([sql`SELECT 1`, sql`UNION SELECT 1 FROM scopefloor.scope`], sql` `),
      rawSql`SELECT * FROM ${rawSql.raw("scopefloor.passage")}`,
      sql`SELECT * FROM scopefloor/**/.passage`,
      sql`SELECT * FROM ${rawSql.raw("scope")}${rawSql.raw("floor")}.passage`,
      sql`SELECT * FROM ${rawSql.identifier("scopefloor")}.passage`,
      sql`SELECT * FROM U&"\\0073copefloor".passage`,
      sql`SELECT * FROM pg_stats`,
    ];
    for (const statement of statements) {
      await expect(within((tx) => tx.rows(statement))).rejects.toThrow(/use tx\.read\(\)/);
    }
    // Without its schema a table cannot be found at all.
    await expect(within((tx) => tx.rows(sql`SELECT * FROM passage`))).rejects.toThrow(/passage/);
    await expect(within((tx) => tx.rows(sql`SELECT * FROM ${tx.read("passage", "p")}`))).resolves.toHaveLength(1);
  });

  test("puts the predicate into the query level of each reference: joins, subqueries, both recursive arms (threats 15, 24)", async () => {
    const seen: string[] = [];
    const listening: Leases = {
      close: () => service.database.app.close(),
      acquire: async () => {
        const lease = await service.database.app.acquire();
        return {
          release: () => lease.release(),
          query: (text, params) => {
            seen.push(text);
            return lease.query(text, params);
          },
        } satisfies Lease;
      },
    };
    await within(
      (tx) =>
        tx.rows(sql`
          WITH RECURSIVE walk AS (
            SELECT p.id, 1 AS depth FROM ${tx.read("passage", "p")}
            UNION ALL
            SELECT q.id, depth + 1 FROM walk JOIN ${tx.read("passage", "q")} ON q.id = walk.id AND depth < 2)
          SELECT (SELECT count(*) FROM ${tx.read("turn", "t")}) AS turns FROM walk
          LEFT JOIN ${tx.read("scope", "d")} ON true WHERE d.id = 1 OR true`),
      listening,
    );
    const statement = seen.find((text) => text.includes("RECURSIVE")) ?? "";
    const references = statement.match(/"scopefloor"\."\w+"/g) ?? [];
    const guarded =
      statement.match(/\(SELECT \* FROM "scopefloor"\."\w+" WHERE "(scope_id|id)" = ANY \(\$\d+::int\[\]\)\) AS/g) ??
      [];
    expect(references).toHaveLength(4);
    expect(guarded).toHaveLength(4);
  });

  test("an update's or delete's own OR stays inside the predicate", async () => {
    const foreign = await service.mint("agent", { org: "globex" });
    await foreign.remember("globex text");
    const proven = proving(service.database);
    const changed = await enterScope(
      proven.app,
      caller(acme),
      { verb: "memory:forget", mode: "forget" },
      async (tx) => [
        await tx.update("passage", { expiredAt: null }, sql`false OR true`),
        await tx.remove("session", sql`false OR true`),
      ],
    );
    expect(changed).toEqual([1, 1]);
    expect(await foreign.recall("globex text")).toEqual(["globex text"]);
    // The second lock alone would have kept the other tenant's rows too.
    await proven.assertProven();
  });

  test("refuses a scope that the database resolved outside the floor", async () => {
    const lying: Leases = {
      close: () => service.database.app.close(),
      acquire: async () => {
        const lease = await service.database.app.acquire();
        return {
          release: () => lease.release(),
          query: async (text, params) => {
            const rows = await lease.query(text, params);
            const answer = rows[0]?.answer as { read: { scopes: Record<string, object> } } | undefined;
            if (answer) answer.read.scopes["77"] = { org: "globex" };
            return rows;
          },
        };
      },
    };
    await expect(within((tx) => tx.rows(sql`SELECT 1 AS one`), lying)).rejects.toThrow(/outside the key's floor/);
  });

  test("is the only door: outside src/db no file imports tables or a driver, or spells a table's name", async () => {
    const files = (await readdir("src", { recursive: true })).filter(
      (name) => name.endsWith(".ts") && !name.startsWith("db/"),
    );
    expect(files.length).toBeGreaterThan(20);
    for (const file of files) {
      const text = await readFile(join("src", file), "utf8");
      expect(text, file).not.toMatch(/from "[^"]*(db\/tables|db\/postgres|drizzle-orm|@electric-sql)|from "postgres"/);
      const tables = text.match(/scopefloor\.(?!dev)\w+/g) ?? [];
      // Functions of the owner's and the worker's connections, which have no ticket and read no content.
      const functions =
        /^scopefloor\.(enter|retire_scopes|ensure_\w+|set_first_key|has_first_key|touch_key|fold_counters|seal_audit|check_audit|check_unchained|journal_lines|unknown_lines|named_scopes|knows_lines|begin_replay|end_replay|note_replayed|purge_old|vector_index_work|note_vector_index|embedder|register_embedder|embedders_in_use|(take|extend|postpone)_job|recover_jobs|queue_depth|has_work|enqueue)$/;
      expect(
        tables.filter((name) => !functions.test(name)),
        file,
      ).toEqual([]);
    }
  });
});

/** The application's leases, with the first lock's predicate taken out of every statement. */
function withoutFirstLock(leases: Leases): Leases {
  return {
    close: () => leases.close(),
    acquire: async () => {
      const lease = await leases.acquire();
      return {
        release: () => lease.release(),
        query: (text, params) =>
          lease.query(
            text.replace(/"(?:scope_id|id)" = ANY \((\$\d+)::int\[\]\)/g, "($1::int[] IS NOT NULL OR true)"),
            params,
          ),
      };
    },
  };
}

describe("each lock by itself, and neither (the control)", () => {
  const CANARY = "controlcanary";
  const leaked = async (leases: Leases) => {
    const rows = await within(
      (tx) => tx.rows<{ text: string }>(sql`SELECT p.text FROM ${tx.read("passage", "p")}`),
      leases,
    );
    return rows.some(({ text }) => text.includes(CANARY));
  };

  test("either lock alone keeps a foreign canary out; without both the same oracle finds it", async () => {
    const foreign = await service.mint("agent", { org: "control" });
    await foreign.remember(`a ${CANARY} of another tenant`);
    const both = service.database.app;
    const onlySecond = withoutFirstLock(both);
    expect([await leaked(both), await leaked(onlySecond)]).toEqual([false, false]);
    await service.database.sql("ALTER TABLE scopefloor.passage DISABLE ROW LEVEL SECURITY");
    try {
      expect(await leaked(both)).toBe(false);
      expect(await leaked(onlySecond)).toBe(true);
    } finally {
      await service.database.sql("ALTER TABLE scopefloor.passage ENABLE ROW LEVEL SECURITY");
    }
  });
});
