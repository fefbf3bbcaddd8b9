import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Database, inTransaction, type Transaction } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/**
 * Two worlds, which differ in one foreign tenant's words and in nothing else: whatever a statement on the
 * application's login answers, by rows, by error, or by what its plan counted, has to be the same in both.
 * A third world lacks that tenant: what tells it from the others is a size, which is not promised.
 */
interface World {
  readonly service: TestService;
  readonly acme: Client;
  readonly login: { database: Database; drop(): Promise<void> };
}

/** Of equal length and shape, so that sizes are the same. */
const WORDS = ["zanzibarium", "quizzicalot"] as const;
const worlds: World[] = [];

beforeAll(async () => {
  for (const word of WORDS) worlds.push(await makeWorld(word));
  worlds.push(await makeWorld(undefined));
}, 60_000);
afterAll(async () => {
  for (const { service, login } of worlds) {
    await login.drop();
    await service.stop();
  }
});

async function makeWorld(word: string | undefined): Promise<World> {
  const service = await startService({ worker: {} });
  const acme = await service.mint("agent", { org: "acme", user: "alice" });
  await acme.remember("acme text");
  // Of another tenant, of the same tenant's other user, and of nobody's: each has its own secret.
  for (const floor of word === undefined ? [] : [{ org: "globex" }, { org: "acme", user: "bob" }, { user: "dora" }]) {
    const globex = await service.mint("agent", floor);
    await globex.remember(`the ${word} text`, { labels: [`kind=${word}`] });
    await globex.post("/facts", {
      infer: "triples",
      triples: [{ entity: { type: "Thing", name: word }, key: word, value: word }],
    });
    await globex.call("PUT", `/memory/${word}`, { value: word });
    const { body } = await globex.upload(`# ${word}\n\nthe ${word} file about ${word}`, `${word}.md`, { title: word });
    await globex.processed(body.id);
  }
  // Nothing changes any more by itself; the planner knows the same of each world.
  for (const { name } of await service.database.sql(
    "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace AND relkind = 'r'",
  ))
    await service.database.sql(`ALTER TABLE ${name} SET (autovacuum_enabled = off)`);
  await service.database.sql("ANALYZE");
  return { service, acme, login: await openLogin(service) };
}

async function openLogin(service: TestService): Promise<World["login"]> {
  if (!onPostgres()) return { database: service.database, drop: async () => undefined };
  const name = `inferring_${randomBytes(4).toString("hex")}`;
  await service.database.sql(`CREATE ROLE ${name} LOGIN IN ROLE scopefloor_app`);
  const url = new URL(service.database.url ?? "");
  url.username = name;
  const database = openPostgres({ app: url.toString(), worker: url.toString(), connections: 1, timeoutMs: 5_000 });
  return {
    database,
    drop: async () => {
      await database.close();
      await service.database.sql(`DROP ROLE ${name}`);
    },
  };
}

/** Columns with content that the role may read, each as text. */
const CONTENT: readonly (readonly [table: string, column: string])[] = [
  ["turn", "content"],
  ["passage", "text"],
  ["passage", "section"],
  ["passage", "array_to_string(labels, ',')"],
  ["document", "title"],
  ["document", "source"],
  ["document", "content_hash"],
  ["keyword", "normalised"],
  ["keyword", "phrase"],
  ["entity", "name"],
  ["attribute", "key"],
  ["attribute", "value #>> '{}'"],
  ["memory_item", "key"],
  ["memory_item", "value #>> '{}'"],
  ["scope", "tags::text"],
  ["decision_trace", "query"],
];

/** What an attacker asks of a column: whether any row says the word, or begins with it, or is beyond it. */
const COMPARISONS: readonly ((column: string) => string)[] = [
  (column) => `${column} = '${WORDS[0]}'`,
  (column) => `${column} = 'the ${WORDS[0]} text'`,
  (column) => `${column} >= 'the z' AND ${column} < 'the {'`,
  (column) => `${column} >= 'z' AND ${column} < '{'`,
  (column) => `${column} <> '${WORDS[0]}'`,
  (column) => `starts_with(${column}, '${WORDS[0].slice(0, 3)}')`,
  (column) => `${column} LIKE '%${WORDS[0]}%'`,
  (column) => `(${column})::name = '${WORDS[0]}'`,
  (column) => `(${column})::bpchar >= 'z'`,
  (column) => `md5(${column}) = md5('${WORDS[0]}')`,
  (column) => `sha256(convert_to(${column}, 'UTF8')) = sha256('${WORDS[0]}')`,
  (column) => `length(${column}) > 3 AND ${column} ~>=~ 'z'`,
  (column) => `least(${column}, 'z') = 'z'`,
  (column) => `1 / (position('${WORDS[0]}' IN ${column}) - 1) > 9`,
];
const PROBES = CONTENT.flatMap(([table, column]) =>
  COMPARISONS.map((compare) => `SELECT 1 FROM scopefloor.${table} WHERE ${compare(column)}`),
);

/** Of rows that everybody may read or that say nothing of a tenant; and what the server tells of itself. */
const OTHERS: readonly string[] = [
  `SELECT 1 FROM scopefloor.passage WHERE position(substring(sha256('${WORDS[0]}') FROM 1 FOR 6) IN terms) > 0`,
  "SELECT 1 FROM scopefloor.posting_block WHERE key BETWEEN 0 AND 65535 AND octet_length(data) > 0",
  `SELECT 1 FROM scopefloor.document_content WHERE bytes = convert_to('# ${WORDS[0]}\n\nthe ${WORDS[0]} file about ${WORDS[0]}', 'UTF8')`,
  "SELECT 1 FROM scopefloor.document_content WHERE bytes >= convert_to('# z', 'UTF8')",
  `SELECT 1 FROM scopefloor.entity WHERE scope_id > 0 AND name_hash = ANY (ARRAY(SELECT h.hash FROM scopefloor.lookup_hashes(ARRAY['Thing' || chr(31) || '${WORDS[0]}']) h))`,
  `SELECT 1 FROM scopefloor.keyword WHERE scope_id > 0 AND normalised_hash = ANY (ARRAY(SELECT h.hash FROM scopefloor.lookup_hashes('{${WORDS[0]}}') h))`,
  `SELECT 1 FROM scopefloor.entity WHERE name_hash = md5('${WORDS[0]}')::uuid`,
  `SELECT 1 FROM scopefloor.memory_item m WHERE m.key_hash = ANY (ARRAY(SELECT h.hash FROM scopefloor.lookup_hashes('{${WORDS[0]}}') h))`,
  "SELECT * FROM pg_catalog.pg_stat_user_tables",
  "SELECT * FROM pg_catalog.pg_stat_xact_user_tables",
  "SELECT * FROM pg_catalog.pg_locks",
  "SELECT pg_catalog.pg_stat_get_xact_tuples_returned('scopefloor.passage_seq'::regclass)",
  "SELECT s.* FROM pg_catalog.pg_stats s WHERE s.schemaname = 'scopefloor' ORDER BY 1, 2, 3",
  `SELECT query_to_xml('SELECT 1 FROM scopefloor.entity WHERE name = ''${WORDS[0]}''', true, false, '')::text`,
  `SELECT ts_stat FROM ts_stat('SELECT to_tsvector(text) FROM scopefloor.passage')`,
  `SELECT t.id FROM scopefloor.turn t JOIN scopefloor.passage p ON p.turn_id = t.id AND p.text >= 'the z'`,
  `SELECT count(*) FROM scopefloor.passage TABLESAMPLE system (100) WHERE text >= 'the z'`,
  `UPDATE scopefloor.passage SET expired_at = now() WHERE text >= 'the z' RETURNING 1`,
  `DELETE FROM scopefloor.memory_item WHERE key >= 'z' RETURNING 1`,
  `SELECT 1 FROM scopefloor.turn WHERE content >= 'the z' FOR UPDATE`,
  `INSERT INTO scopefloor.entity (tenant_id, scope_id, id, type, name, name_hash, api_key_id) VALUES (1, 2, gen_random_uuid(), 'Thing', '${WORDS[0]}', gen_random_uuid(), gen_random_uuid())`,
];

/** In which transaction it is tried. */
const STATES: readonly (readonly [name: string, before: (tx: Transaction, world: World) => Promise<unknown>])[] = [
  ["without a ticket", async () => undefined],
  ["with a ticket that is none", (tx) => tx.query("SET LOCAL scopefloor.ticket = 'garbage'")],
  [
    "with acme's ticket",
    (tx, { acme }) =>
      tx.query("SELECT scopefloor.enter($1, 'memory:read', '{\"mode\": \"id\"}', NULL, NULL)", [hashSecret(acme.key)]),
  ],
];
const PLANS: readonly (readonly [name: string, settings: readonly string[]])[] = [
  ["as planned", []],
  ["by index", ["SET LOCAL enable_seqscan = off", "SET LOCAL enable_bitmapscan = off"]],
];

/** What the statement gives, and what its plan counted; or the error. Ids and keys differ between worlds anyway. */
async function observe(world: World, statement: string): Promise<string> {
  const seen: string[] = [];
  // A plan that runs tells the number of rows and the error as well; what comes back by itself is looked at once.
  const explained = `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) ${statement}`;
  for (const [state, before] of STATES) {
    for (const [plan, settings] of PLANS) {
      // (The server's own tables change under everybody's hands, and with them the plans over them.)
      const plans = statement.includes("pg_catalog.") ? [] : [explained];
      for (const text of plan === "as planned" ? [...plans, statement] : plans) {
        const outcome = await inTransaction(world.login.database.app, async (tx) => {
          for (const setting of settings) await tx.query(setting);
          await before(tx, world);
          return tx.query(text);
        }).catch((error: { code?: string; message?: string }) => `${error.code} ${error.message}`);
        seen.push(`${state}, ${plan}: ${JSON.stringify(outcome)}`);
      }
    }
  }
  return seen.join("\n").replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "<id>");
}

const inBoth = (statement: string) => Promise.all(worlds.slice(0, 2).map((world) => observe(world, statement)));

describe("two worlds that differ in a foreign tenant's words (threat 36)", () => {
  const isAlike = async (table: string, column: string) => {
    for (const probe of PROBES.filter((text) => text.includes(`scopefloor.${table} WHERE`) && text.includes(column))) {
      const [one, other] = await inBoth(probe);
      expect(one, probe).toBe(other);
    }
  };
  const TITLE = "answer alike, whatever is asked of %s.%s";
  test.each(CONTENT.slice(1, 2))(TITLE, isAlike);
  test.each([...CONTENT.slice(0, 1), ...CONTENT.slice(2)])(TITLE, { tags: ["long"] }, isAlike);

  const isAlikeTo = async (statement: string) => {
    const [one, other] = await inBoth(statement);
    expect(one).toBe(other);
  };
  test.each(OTHERS.slice(0, 3))("answer alike to %s", isAlikeTo);
  test.each(OTHERS.slice(3))("answer alike to %s", { tags: ["long"] }, isAlikeTo);

  test("number their locks and hash their words by a secret of their own", async () => {
    const { service } = worlds[0] as World;
    const numbers = async () => {
      const [row] =
        await service.database.sql(`SELECT scopefloor.scope_hash('{"org": "acme"}')::text AS lock, scopefloor.word_hash(scopefloor.word_secret(0, 0), 'acme') AS general,
        scopefloor.word_hash(scopefloor.word_secret(0, 1), 'acme') AS word`);
      return Object.values(row ?? {});
    };
    const secret = "(SELECT encode(secret, 'hex') AS secret FROM scopefloor.tenant WHERE id = 0)";
    const [kept] = await service.database.sql(secret);
    const before = await numbers();
    await service.database.sql("UPDATE scopefloor.tenant SET secret = sha256('another') WHERE id = 0");
    const after = await numbers();
    await service.database.sql("UPDATE scopefloor.tenant SET secret = decode($1, 'hex') WHERE id = 0", [kept?.secret]);
    expect(before).toHaveLength(3);
    expect(new Set([...before, ...after]).size).toBe(6);
  });

  test("lose a tenant's secret with the tenant", async () => {
    const [world] = worlds;
    if (world === undefined) throw new Error("no world");
    const { service } = world;
    const initech = await service.mint("agent", { org: "initech" });
    await initech.remember("initech text");
    const secrets = async () => {
      const rows = await service.database.sql(
        `SELECT id, root, encode(secret, 'hex') AS secret FROM scopefloor.tenant ORDER BY id`,
      );
      return new Map(rows.map(({ id, root, secret }) => [Number(id), { root, secret }]));
    };
    const before = await secrets();
    const [id] = [...before].find(([, { root }]) => JSON.stringify(root).includes("initech")) ?? [];
    await service.operator.del(`/contexts/default/keys/${initech.id}`);
    expect((await service.operator.post("/scopes/forget", { path: "org/initech" })).status).toBe(200);
    const after = await secrets();
    expect(after.get(id ?? -1)?.secret).not.toBe(before.get(id ?? -1)?.secret);
    for (const [other, { secret }] of before) if (other !== id) expect(after.get(other)?.secret).toBe(secret);
  });

  test("are there: their owner tells them apart, and the third by its size", async () => {
    const [one, other] = await Promise.all(
      worlds.map(({ service }) => service.database.sql(`SELECT 1 FROM scopefloor.passage WHERE text >= 'the z'`)),
    );
    expect(one?.length).not.toBe(other?.length);
    const [own, , none] = await Promise.all(
      worlds.map((world) => observe(world, "SELECT 1 FROM scopefloor.passage WHERE tokens > 0")),
    );
    expect(own).not.toBe(none);
  });
});
