import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { sealAudit } from "../../src/jobs/housekeeping.ts";
import { auditChain, type ChainOptions } from "../../src/verify/chain.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { pause } from "../harness/service-process.ts";

let service: TestService;
let agent: Client;
let other: Client;

type Query = TestService["database"]["sql"];

const audit = (options: ChainOptions = {}, query: Query = service.database.sql) => {
  const answer = async <T>(call: string, params: readonly unknown[]) =>
    (await query(`SELECT ${call} AS answer`, params))[0]?.answer as T;
  return auditChain(
    {
      sealed: (first, upto) => answer("scopefloor.check_audit($1, $2)", [first, upto]),
      unchained: (since) => answer("scopefloor.check_unchained($1)", [since]),
    },
    options,
  );
};
const problems = async (options: ChainOptions = {}, query: Query = service.database.sql) =>
  (await audit(options, query)).findings.flatMap((finding) => finding.problems);
const seal = () => sealAudit(service.database);

/** Changes rows as an owner could, with or without the triggers, and looks for problems; nothing of it stays. */
async function afterTampering(statement: string, triggers: "replica" | "origin" = "replica"): Promise<string[]> {
  const lease = await service.database.owner.acquire();
  const query: Query = (text, params) => lease.query(text, params);
  try {
    await query("BEGIN");
    await query(`SET LOCAL session_replication_role = ${triggers}`);
    await query(statement);
    return await problems({}, query);
  } finally {
    await query("ROLLBACK");
    await lease.release();
  }
}

/** By a column's type, a value that is another than the one it has (`?`). */
const OTHERS: Readonly<Record<string, string>> = {
  text: "coalesce(?, '') || 'x'",
  uuid: "gen_random_uuid()",
  jsonb: `'{"org": "another"}'`,
  integer: "coalesce(?, 0) + 1",
  bigint: "coalesce(?, 0) + 1",
  numeric: "coalesce(?, 0) + 1",
  real: "coalesce(?, 0) + 1",
  boolean: "coalesce(?, false) IS FALSE",
  "timestamp with time zone": "coalesce(?, now()) + interval '1 s'",
};

beforeAll(async () => {
  service = await startService({ worker: {} });
  agent = await service.mint("agent", { org: "acme", user: "ann" });
  other = await service.mint("agent", { org: "globex" });
  for (const client of [agent, other]) {
    await client.remember("the harbour master keeps the ledger");
    await client.recall("harbour");
    await client.post("/query", { query: "harbour", lens: { org: "initech" } });
    await client.post("/forget", { query: "harbour" });
  }
  await seal();
});
afterAll(() => service.stop());

describe("the audit chain", () => {
  test("holds each trace, refused attempt and receipt, and stands its check", async () => {
    const { findings, chain } = await audit();
    expect(findings.flatMap((finding) => finding.problems)).toEqual([]);
    const [row] = await service.database.sql(`
      SELECT (SELECT count(*) FROM scopefloor.decision_trace) + (SELECT count(*) FROM scopefloor.access_denied)
           + (SELECT 2 * count(*) FROM scopefloor.forget_receipt) AS n`);
    expect(chain).toMatchObject({ entries: Number(row?.n), unsealed: 0, checkedFrom: 1 });
    expect(Number(row?.n)).toBeGreaterThan(9);
  });

  const TRACE = "(SELECT id FROM scopefloor.decision_trace WHERE query IS NOT NULL ORDER BY id LIMIT 1)";
  test.each([
    ["decision_trace", `UPDATE scopefloor.decision_trace SET input_tokens = 7 WHERE id = ${TRACE}`, "was altered"],
    [
      "decision_trace",
      `UPDATE scopefloor.decision_trace SET query = 'another' WHERE id = ${TRACE}`,
      "had its text altered",
    ],
    ["decision_trace", `UPDATE scopefloor.decision_trace SET query = NULL WHERE id = ${TRACE}`, "had its text altered"],
    [
      "decision_trace",
      `UPDATE scopefloor.decision_trace SET scope = '{"org": "x"}' WHERE id = ${TRACE}`,
      "had its text altered",
    ],
    ["decision_trace", `DELETE FROM scopefloor.decision_trace WHERE id = ${TRACE}`, "was removed"],
    [
      "decision_trace",
      `UPDATE scopefloor.decision_trace SET id = gen_random_uuid() WHERE id = ${TRACE}`,
      "is not in the chain",
    ],
    ["access_denied", "DELETE FROM scopefloor.access_denied", "was removed"],
    ["access_denied", "UPDATE scopefloor.access_denied SET reason = 'none'", "was altered"],
    ["forget_receipt", "UPDATE scopefloor.forget_receipt SET counts = '{}'", "was altered"],
    ["forget_receipt", `UPDATE scopefloor.forget_receipt SET target = '{"org": "x"}'`, "had its text altered"],
    ["forget_receipt", "UPDATE scopefloor.forget_receipt SET items = '{}'", "was altered"],
    ["audit_entry", "DELETE FROM scopefloor.audit_entry WHERE source = 'denial'", "entries of batch 1 were altered"],
    [
      "audit_entry",
      `UPDATE scopefloor.audit_entry SET salt = NULL WHERE id = ${TRACE}`,
      "lost its salt without an erasure",
    ],
    ["audit_batch", "UPDATE scopefloor.audit_batch SET sealed_at = now()", "batch 1 does not follow"],
    ["audit_batch", "UPDATE scopefloor.audit_batch SET n = n + 1", "batch 1 is missing"],
  ])("finds what was done to %s by hand: %s", async (_, statement, problem) => {
    expect((await afterTampering(statement)).join("; ")).toContain(problem);
    expect(await problems()).toEqual([]);
  });

  test("holds every column: whichever is changed by hand is noticed", async () => {
    const unnoticed: string[] = [];
    const columns = await service.database.sql(`
      SELECT a.attrelid::regclass::text AS table, a.attname AS column, a.atttypid::regtype::text AS type
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
      WHERE a.attrelid = ANY ('{scopefloor.decision_trace,scopefloor.access_denied,scopefloor.forget_receipt}'::regclass[])
        AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        -- Made from the others, for an erasure to find the row by.
        AND a.attname NOT IN ('elsewhere', 'named')
        -- A signature, which vouches for itself.
        AND a.attname <> 'jws'`);
    for (const { table, column, type } of columns) {
      const other = OTHERS[String(type)];
      if (other === undefined)
        throw new Error(`${table}.${column} has a type of which no other value is known: ${type}`);
      const changed = `
        UPDATE ${table} SET ${column} = ${other.replaceAll("?", String(column))} WHERE (scope_id, id) = (SELECT scope_id, id FROM ${table} LIMIT 1)`;
      if ((await afterTampering(changed)).length === 0) unnoticed.push(`${table}.${column}`);
    }
    expect(unnoticed).toEqual([]);
  });

  test("does not take for an erasure what was emptied by hand, the triggers beside it", async () => {
    const found = await afterTampering(
      `UPDATE scopefloor.decision_trace SET query = NULL WHERE id = ${TRACE}`,
      "origin",
    );
    expect(found.join("; ")).toContain("had its text altered");
  });

  test("of which the last batches were cut off still tells, from a batch that was noted down", async () => {
    const { chain } = await audit();
    if (chain.head === null) throw new Error("nothing is sealed");
    expect(await problems({ anchor: chain.head })).toEqual([]);
    expect(await problems({ anchor: { ...chain.head, hash: "0".repeat(64) } })).toHaveLength(1);
    expect(await problems({ anchor: { batch: chain.head.batch + 1, hash: chain.head.hash } })).toHaveLength(1);
  });

  test("seals what came since into a batch that follows", async () => {
    const before = (await audit()).chain;
    await other.recall("ledger");
    expect((await audit()).chain.unsealed).toBe(1);
    await seal();
    const after = (await audit()).chain;
    expect(after).toMatchObject({ unsealed: 0, entries: before.entries + 1 });
    expect(after.head?.batch).toBe((before.head?.batch ?? 0) + 1);
    await seal();
    expect((await audit()).chain.head).toEqual(after.head);
  });

  test("has batches that hold all before them: one made anew does not fit the next", async () => {
    const found = await afterTampering(`
      UPDATE scopefloor.audit_batch SET sealed_at = now(), hash = scopefloor.audit_batch_hash(NULL, n, entries, digest, now()) WHERE n = 1`);
    expect(found).toEqual(["batch 2 does not follow from the one before"]);
  });
});

describe("an erasure", () => {
  beforeEach(seal);

  test("takes the salts with the text, and the chain stays whole", async () => {
    const salts = async () =>
      (await service.database.sql("SELECT id, salt IS NULL AS gone FROM scopefloor.audit_entry WHERE source = 'trace'"))
        .filter((row) => row.gone)
        .map((row) => row.id);
    expect(await salts()).toEqual([]);
    await service.operator.post("/scopes/forget", { path: "org/globex" });
    expect(await problems()).toEqual([]);
    await seal();
    expect(await problems()).toEqual([]);
    const gone = await salts();
    expect(gone.length).toBeGreaterThan(1);
    // Neither the text nor the tags can be guessed any more: their hash is of a salt that is nowhere.
    const [row] = await service.database.sql(
      "SELECT count(*) AS n FROM scopefloor.audit_entry WHERE salt IS NULL AND source NOT LIKE '% erased'",
    );
    const [erased] = await service.database.sql(
      "SELECT count(*) AS n FROM scopefloor.audit_entry WHERE source LIKE '% erased'",
    );
    expect(row?.n).toBe(erased?.n);
  });

  test("cannot be followed by another text", async () => {
    const found = await afterTampering(
      "UPDATE scopefloor.decision_trace SET query = 'planted' WHERE id IN (SELECT id FROM scopefloor.audit_entry WHERE source = 'trace' AND salt IS NULL)",
    );
    expect(found.join("; ")).toContain("was given text after its erasure");
  });
});

describe("the audit report", () => {
  interface Report {
    failed: number;
    requests: number;
    findings: { check: string; looked: number; problems: string[] }[];
    chain: { head: { batch: number; hash: string } | null; entries: number } | null;
    version: string;
  }
  const report = (client: Client) => client.call<Report>("GET", "/contexts/default/audit-report");

  test("gives an operator catalog, probes and chain, and leaves nothing behind", async () => {
    await seal();
    const { status, body } = await report(service.operator);
    expect(status).toBe(200);
    expect(body.findings.flatMap((finding) => finding.problems)).toEqual([]);
    expect(body).toMatchObject({ failed: 0, version: expect.stringMatching(/^\d+\.\d+\.\d+$/) });
    expect(body.findings.length).toBeGreaterThan(20);
    expect(body.requests).toBeGreaterThan(50);
    expect(body.chain?.entries).toBeGreaterThan(10);
    expect(await service.database.sql("SELECT tags FROM scopefloor.scope WHERE tags ? 'verify'")).toEqual([]);
    await seal();
    expect(await problems()).toEqual([]);
  });

  test("says what was altered (the control)", { tags: ["long"] }, async () => {
    await service.database.sql("ALTER TABLE scopefloor.turn NO FORCE ROW LEVEL SECURITY");
    await service.database.sql("UPDATE scopefloor.decision_trace SET returned = 99 WHERE operation = 'query'");
    const { body } = await report(service.operator);
    await service.database.sql("ALTER TABLE scopefloor.turn FORCE ROW LEVEL SECURITY");
    expect(body.failed).toBe(2);
    expect(body.findings.flatMap((finding) => finding.problems).join("; ")).toMatch(
      /turn does not force row security.*was altered/,
    );
  });

  test("gives a tenant's administrator no chain, whose length tells of the others", { tags: ["long"] }, async () => {
    const admin = await service.mint("management", { org: "acme" });
    const { status, body } = await report(admin);
    expect(status).toBe(200);
    expect(body.chain).toBeNull();
    expect(body.findings.map((finding) => finding.check).join()).not.toContain("chain");
  });

  test("is refused to a key that could not run the attacks, in place of an answer that says nothing", async () => {
    const mint = (more: object) =>
      service.operator.post<{ id: string; key: string }>("/contexts/default/keys", {
        name: `auditor ${Math.random()}`,
        principal: "management",
        scopeFloor: { org: "acme" },
        ...more,
      });
    const deep = Object.fromEntries(Array.from({ length: 7 }, (_, n) => [`d${n}`, "x"]));
    for (const [more, expected] of [
      [{ content: false }, 403],
      [{ verbs: ["memory:read"] }, 403],
      [{ scopeFloor: deep }, 422],
    ] as const) {
      const minted = await mint(more);
      expect(minted.status, minted.text).toBe(201);
      expect((await report(service.client(minted.body.key))).status, JSON.stringify(more)).toBe(expected);
    }
  });

  test("is made one at a time, and in turn: one tenant's loop keeps nobody out", { tags: ["long"] }, async () => {
    const admin = await service.mint("management", { org: "acme" });
    const sibling = await service.mint("management", { org: "acme", user: "1" });
    const another = await service.mint("management", { org: "acme", user: "2" });
    const statuses = new Set<number>();
    let made = 0;
    let isServed = false;
    // Whatever key it asks with, one of the same tenant's may wait; the third is told so.
    const loops = [admin, sibling, another].map(async (client) => {
      while (!isServed) {
        const { status } = await report(client);
        statuses.add(status);
        if (status === 200) made++;
        else await pause(20);
      }
    });
    const begun = "SELECT 1 FROM scopefloor.scope WHERE tags ? 'verify'";
    while ((await service.database.sql(begun)).length === 0) await pause(5);
    const waitedFor: number[] = [];
    for (let round = 0; round < 3; round++) {
      const before = made;
      expect((await report(service.operator)).status).toBe(200);
      waitedFor.push(made - before);
    }
    isServed = true;
    // For the one at work, and not for the one that waits; on a slow machine one may get its place just before.
    expect(Math.max(...waitedFor)).toBeLessThanOrEqual(2);
    expect(Math.min(...waitedFor)).toBeLessThanOrEqual(1);
    await Promise.all(loops);
    expect([...statuses].sort()).toEqual([200, 429]);
  });
});
