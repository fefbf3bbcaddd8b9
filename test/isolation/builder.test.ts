import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { sql as rawSql } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { enterScope, unauthorized } from "../../src/db/access/enter.ts";
import type { AccessRequest, Caller } from "../../src/db/access/entry.ts";
import { type ScopedTransaction, sql } from "../../src/db/access/scoped.ts";
import type { Leases } from "../../src/db/connect/lease.ts";
import { passage } from "../../src/db/tables/memory.ts";
import { type AppError, notFound } from "../../src/errors.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { ShareGroups } from "../../src/load/share-groups.ts";
import { GENERAL, scopeFromDatabase } from "../../src/scope/scope.ts";
import { withQuery } from "../harness/leases.ts";
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

interface RawAnswer {
  read: { scopes: Record<string, object> };
  effective: object | null;
  floor: object;
}

/** The application's leases, with what `scopefloor.enter` has answered said in another way. */
const lies = (change: (answer: RawAnswer) => void) =>
  withQuery(service.database.app, async (lease, text, params) => {
    const rows = await lease.query(text, params);
    if (text.includes("scopefloor.enter(")) change(rows[0]?.answer as RawAnswer);
    return rows;
  });

/** The application's leases, and the statements that they send, with their values. */
function listening() {
  const sent: { text: string; params: readonly unknown[] }[] = [];
  const leases = withQuery(service.database.app, (lease, text, params = []) => {
    sent.push({ text, params });
    return lease.query(text, params);
  });
  return { leases, sent };
}

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
    const { leases, sent } = listening();
    await within(
      (tx) =>
        tx.rows(sql`
          WITH RECURSIVE walk AS (
            SELECT p.id, 1 AS depth FROM ${tx.read("passage", "p")}
            UNION ALL
            SELECT q.id, depth + 1 FROM walk JOIN ${tx.read("passage", "q")} ON q.id = walk.id AND depth < 2)
          SELECT (SELECT count(*) FROM ${tx.read("turn", "t")}) AS turns FROM walk
          LEFT JOIN ${tx.read("scope", "d")} ON true WHERE d.id = 1 OR true`),
      leases,
    );
    const statement = sent.find(({ text }) => text.includes("RECURSIVE"))?.text ?? "";
    const references = statement.match(/"scopefloor"\."\w+"/g) ?? [];
    const guarded =
      statement.match(
        /\(SELECT \* FROM "scopefloor"\."\w+" WHERE ("id" = ANY \(\$\d+::int\[\]\)|\("scope_id" = ANY \(\$\d+::int\[\]\) AND tenant_id = ANY \(\$\d+::int\[\]\)\))\) AS/g,
      ) ?? [];
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

  test("binds the visible scopes and no other: general ones where knowledge is read, the own one where it is written", async () => {
    const idOf = async (org: string | undefined) => {
      const tags = org === undefined ? {} : { org };
      const [row] = await service.database.sql("SELECT id FROM scopefloor.scope WHERE tags = $1", [
        JSON.stringify(tags),
      ]);
      return row?.id as number;
    };
    const [own, general] = [await idOf("acme"), await idOf(undefined)];
    const bound = async (client: Client, demand: AccessRequest, table: "passage" | "session" | "scope") => {
      const { leases, sent } = listening();
      await enterScope(leases, caller(client), demand, (tx) =>
        tx.rows(sql`SELECT 'the one' AS one FROM ${tx.read(table, "x")} LIMIT 1`),
      );
      const one = sent.find(({ text }) => text.includes("the one"));
      return String(one?.params[0]).replace(/[{}]/g, "").split(",").map(Number);
    };
    const read = { verb: "memory:read", mode: "select" } as const;
    expect(await bound(acme, read, "passage")).toEqual([own, general]);
    expect(await bound(acme, read, "session")).toEqual([own]);
    expect(await bound(acme, read, "scope")).toEqual([own, general]);
    const forget = { verb: "memory:forget", mode: "forget" } as const;
    for (const table of ["passage", "session", "scope"] as const)
      expect(await bound(acme, forget, table)).toEqual([own]);
    const write = {
      verb: "memory:write",
      mode: "write",
      selector: [{ tags: scopeFromDatabase({ team: "red" }), subtree: false }],
    } as const;
    expect(await bound(acme, write, "session")).not.toContain(general);
    const created = { org: "acme", team: "red" };
    const scopes = await bound(acme, write, "scope");
    const [red] = await service.database.sql("SELECT id FROM scopefloor.scope WHERE tags = $1", [
      JSON.stringify(created),
    ]);
    // The scope that this write has just made is not among those that its key could see before.
    expect(scopes).toContain(red?.id);
    const everywhere = await bound(service.operator, read, "passage");
    expect(everywhere).toEqual([...new Set(everywhere)]);
  });

  test("refuses a table by name in a value that is set, in a list and in a call too; text is not looked into", async () => {
    const { leases, sent } = listening();
    const forget = { verb: "memory:forget", mode: "forget" } as const;
    const changing = (work: (tx: ScopedTransaction) => Promise<unknown>) =>
      enterScope(leases, caller(acme), forget, work);
    for (const work of [
      (tx: ScopedTransaction) => tx.update("session", { metadata: sql`(SELECT 1 FROM scopefloor.turn)` }, sql`false`),
      (tx: ScopedTransaction) => tx.remove("session", sql`id IN ${[sql`(SELECT id FROM scopefloor.turn)`]}`),
      (tx: ScopedTransaction) => tx.call("usage", sql`(SELECT 1 FROM scopefloor.turn)`),
    ]) {
      await expect(changing(work)).rejects.toThrow(/use tx\.read\(\)/);
    }
    await changing((tx) => tx.update("document", { title: "scopefloor.passage" }, sql`false`));
    await changing(async (tx) => tx.sendCall("drop_cached_answers"));
    expect(sent.filter(({ text }) => text.includes("drop_cached_answers"))).toHaveLength(1);
  });

  test("inserts only where the transaction was entered to write", async () => {
    await expect(
      within((tx) => tx.insert("memory_item", [{ id: acme.id, key: "k", value: 1 } as never])),
    ).rejects.toThrow("not entered to write into memory_item");
  });

  const ACME = { org: "acme" };
  const ANN = [{ tags: scopeFromDatabase({ user: "ann" }), subtree: false }];
  test.each([
    ["another tenant's, in a read", { verb: "memory:read", mode: "select" }, { org: "globex" }],
    ["another tenant's, in a write", { verb: "memory:write", mode: "write" }, { org: "globex" }],
    [
      "one below, in a forget of the one alone",
      { verb: "memory:forget", mode: "forget" },
      { org: "acme", user: "ann" },
    ],
    ["one above, in a forget", { verb: "memory:forget", mode: "forget", subtree: true }, {}],
    ["the floor's, in a forget of one below it", { verb: "memory:forget", mode: "forget", selector: ANN }, ACME],
    ["the floor's, in an erasure of one below it", { verb: "memory:forget", mode: "erase", selector: ANN }, ACME],
    ["the floor's, in a deletion at one below it", { verb: "memory:write", mode: "delete", selector: ANN }, ACME],
    [
      "one below, in a deletion at the one",
      { verb: "memory:write", mode: "delete", selector: [{ tags: GENERAL, subtree: false }] },
      { org: "acme", user: "ann" },
    ],
  ] as const)(
    "refuses a scope that the database resolved outside the floor or the request: %s",
    async (_, demand, scope) => {
      const lying = lies((answer) => {
        answer.read.scopes["77"] = scope;
      });
      await expect(enterScope(lying, caller(acme), demand, async () => 1)).rejects.toThrow(/outside the key's floor/);
    },
  );

  test("refuses what the database let through: another scope than the one asked for, a request against the floor", async () => {
    const elsewhere = lies((answer) => {
      answer.effective = { org: "acme", user: "ann" };
    });
    const read = { verb: "memory:read", mode: "select" } as const;
    await expect(enterScope(elsewhere, caller(acme), read, async () => 1)).rejects.toThrow(/outside the key's floor/);
    const nowhere = lies((answer) => {
      answer.read.scopes = {};
      answer.effective = null;
      answer.floor = { org: "globex" };
    });
    const against = { ...read, selector: [{ tags: scopeFromDatabase({ org: "acme" }), subtree: false }] };
    await expect(enterScope(nowhere, caller(acme), against, async () => 1)).rejects.toThrow(/outside the key's floor/);
  });

  test("says why it refuses, and records what was forbidden and nothing else", async () => {
    const denials = async () =>
      Number((await service.database.sql("SELECT count(*) AS n FROM scopefloor.access_denied"))[0]?.n);
    const reader = await service.mint("agent", { org: "acme" }, { verbs: ["memory:read"] });
    const refused = (client: { key: string }, demand: AccessRequest) =>
      enterScope(service.database.app, caller(client as Client), demand, async () => 1).then(
        () => undefined,
        (error: AppError) => `${error.status} ${error.message}`,
      );
    const before = await denials();
    const write = { verb: "memory:write", mode: "write" } as const;
    expect(await refused({ key: "nobody's" }, write)).toBe(`401 ${unauthorized().message}`);
    expect(await refused(acme, { ...write, session: "01900000-0000-4000-8000-000000000000" })).toBe(
      `404 ${notFound().message}`,
    );
    const two = [GENERAL, GENERAL].map((tags) => ({ tags, subtree: false }));
    expect(await refused(acme, { verb: "memory:forget", mode: "forget", selector: two })).toMatch(
      /^422 a forget names/,
    );
    expect(await denials()).toBe(before);
    expect(await refused(reader, write)).toBe("403 this key does not have the verb memory:write");
    expect(await denials()).toBe(before + 1);
  });

  test("asks which group a key is charged to once, and only where that is kept", async () => {
    const asked = async (shareGroups?: ShareGroups) => {
      const { leases, sent } = listening();
      const circumstances = {
        context: "default",
        arrivedAt: performance.now(),
        ...(shareGroups === undefined ? {} : { shareGroups }),
      };
      await enterScope(leases, caller(acme), { verb: "memory:read", mode: "select" }, async () => 1, circumstances);
      return sent.filter(({ text }) => text.includes("own_share_group")).length;
    };
    const groups = new ShareGroups();
    expect([await asked(), await asked(groups), await asked(groups)]).toEqual([0, 1, 0]);
    expect(groups.of(hashSecret(acme.key))).toEqual(expect.any(String));
  });

  test("is the only door: outside src/db no file imports tables or a driver, or spells a table's name", async () => {
    const files = (await readdir("src", { recursive: true })).filter(
      (name) => name.endsWith(".ts") && !name.startsWith("db/"),
    );
    expect(files.length).toBeGreaterThan(20);
    for (const file of files) {
      const text = await readFile(join("src", file), "utf8");
      expect(text, file).not.toMatch(
        /from "[^"]*(db\/tables|connect\/postgres|drizzle-orm|@electric-sql)|from "postgres"/,
      );
      const tables = text.match(/scopefloor\.(?!dev)\w+/g) ?? [];
      // Functions of the owner's and the worker's connections, which have no ticket and read no content.
      const functions =
        /^scopefloor\.(enter|retire_scopes|ensure_\w+|number_deployment|close_side_channels|try_write|set_first_key|recover_first_key|has_first_key|touch_key|fold_counters|hold_calls|end_holds|fold_holds|fold_calls|record_spent|record_lost_call|sample_storage|seal_audit|check_audit|check_unchained|journal_lines|unknown_lines|named_scopes|knows_lines|begin_replay|end_replay|note_replayed|purge_old|end_over_anywhere|vector_index_work|note_vector_index|embedder|register_embedder|embedders_in_use|(take|extend|postpone)_job|recover_jobs|queue_depth|has_work|enqueue|register_receipt_key|receipt_keys|credentials_under_others|reseal_credential)$/;
      expect(
        tables.filter((name) => !functions.test(name)),
        file,
      ).toEqual([]);
    }
  });
});

/** The application's leases, with the first lock's predicate taken out of every statement. */
const withoutFirstLock = (leases: Leases) =>
  withQuery(leases, (lease, text, params) =>
    lease.query(
      text.replace(/(?:"scope_id"|"id"|tenant_id) = ANY \((\$\d+)::int\[\]\)/g, "($1::int[] IS NOT NULL OR true)"),
      params,
    ),
  );

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
