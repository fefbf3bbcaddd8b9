import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inTransaction, type Transaction } from "../../src/db/connect/lease.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** What the database does by itself, with a raw handle in the application's role: no builder. */
let service: TestService;
let acme: Client;
let globex: Client;
const CANARY = "globexcanary";

const TABLES = [
  "scope",
  "scope_counter",
  "session",
  "turn",
  "passage",
  "posting_block",
  "segment",
  "forget_receipt",
  "access_denied",
  "decision_trace",
];

beforeAll(async () => {
  service = await startService();
  acme = await service.mint("agent", { org: "acme" });
  globex = await service.mint("agent", { org: "globex" });
  await acme.remember("acme text");
  await globex.remember(`${CANARY} text`);
  await globex.post("/forget", { query: "nothing" });
  await globex.post("/query", { query: "x", lens: { org: "acme" } });
  await service.operator.remember("general text", { scopes: {} });
  // As the worker makes of hundreds of passages.
  await service.database.sql(`
    INSERT INTO scopefloor.segment (tenant_id, scope_id, first_seq, last_seq, passages, places, bits)
    SELECT tenant_id, id, 0, 0, 1, 1, 0 FROM scopefloor.scope`);
  await service.database.sql(`
    INSERT INTO scopefloor.posting_block (tenant_id, scope_id, segment_id, key, first, data)
    SELECT tenant_id, scope_id, id, 0, 0, '\\x00' FROM scopefloor.segment`);
});
afterAll(() => service.stop());

const asApp = <T>(work: (lease: Transaction) => Promise<T>) => inTransaction(service.database.app, work);

const enter = (lease: Transaction, client: Client, verb: string, requested: object) =>
  lease.query("SELECT scopefloor.enter($1, $2, $3, NULL, NULL) AS answer", [
    hashSecret(client.key),
    verb,
    JSON.stringify(requested),
  ]);

/** Runs as the client, after entering. */
const within = <T>(client: Client, verb: string, requested: object, work: (lease: Transaction) => Promise<T>) =>
  asApp(async (lease) => {
    const [row] = await enter(lease, client, verb, requested);
    expect(row?.answer).toMatchObject({ status: "ok" });
    return work(lease);
  });

const attempt = (work: Promise<unknown>) =>
  work.then(
    () => "done",
    (error: { code?: string }) => error.code ?? String(error),
  );

const PERMISSION = "42501";

/** The place of an org's own scope, as the values of tenant_id and scope_id. */
async function placeOf(org: string): Promise<string> {
  const [row] = await service.database.sql(
    "SELECT tenant_id || ', ' || id AS place FROM scopefloor.scope WHERE tags = jsonb_build_object('org', $1::text)",
    [org],
  );
  return String(row?.place);
}

describe("the application's role alone (threat 10)", () => {
  test("enters for nothing with a verb or a mode that is NULL or unknown", async () => {
    for (const [verb, mode] of [
      [null, "id"],
      ["memory:read", null],
      ["memory:everything", "id"],
      ["memory:read", "everything"],
    ]) {
      const entered = asApp((lease) =>
        lease.query("SELECT scopefloor.enter($1, $2, $3, NULL, NULL) AS answer", [
          hashSecret(acme.key),
          verb,
          JSON.stringify({ mode }),
        ]),
      );
      await expect(entered, `${verb} ${mode}`).rejects.toThrow(/unknown verb/);
    }
  });

  test("sees zero rows in every scoped table", async () => {
    for (const table of TABLES) {
      const rows = await asApp((lease) => lease.query(`SELECT * FROM scopefloor.${table}`));
      expect(rows, table).toEqual([]);
      // The control: the owner sees some, so an empty answer means the lock and not an empty table.
      const [all] = await service.database.sql(`SELECT count(*)::int AS n FROM scopefloor.${table}`);
      expect(all?.n, table).toBeGreaterThan(0);
    }
  });

  test("can write none", async () => {
    const writes = [
      "INSERT INTO scopefloor.session (tenant_id, scope_id, id, api_key_id) VALUES (0, 0, gen_random_uuid(), gen_random_uuid())",
      "INSERT INTO scopefloor.segment (tenant_id, scope_id, first_seq, last_seq, passages, places, bits) VALUES (0, 0, 1, 1, 1, 1, 0)",
      "INSERT INTO scopefloor.posting_block (tenant_id, scope_id, segment_id, key, first, data) VALUES (0, 0, 1, 1, 0, '')",
      "UPDATE scopefloor.posting_block SET data = ''",
      "INSERT INTO scopefloor.scope (tenant_id, tags) VALUES (0, '{}')",
      "UPDATE scopefloor.passage SET scope_id = 0",
      "UPDATE scopefloor.passage SET text = 'x'",
      "DELETE FROM scopefloor.decision_trace",
      "UPDATE scopefloor.decision_trace SET input_tokens = 0",
      "DELETE FROM scopefloor.access_denied",
      "DELETE FROM scopefloor.forget_receipt",
      "TRUNCATE scopefloor.passage",
      "CREATE TEMP TABLE t (a int)",
      "CREATE TABLE public.t (a int)",
      "ALTER TABLE scopefloor.passage DISABLE ROW LEVEL SECURITY",
      "CREATE FUNCTION scopefloor.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ];
    for (const text of writes) expect(await attempt(asApp((lease) => lease.query(text))), text).toBe(PERMISSION);
    const quiet = await asApp((lease) =>
      lease.query("WITH gone AS (DELETE FROM scopefloor.passage RETURNING 1) SELECT count(*)::int AS n FROM gone"),
    );
    expect(quiet).toEqual([{ n: 0 }]);
  });

  test("has no way to keys, secrets, the Context or stored answers", async () => {
    for (const table of ["api_key", "ticket_secret", "context", "tenant", "idempotency", "decision_trace_rest"]) {
      expect(await attempt(asApp((lease) => lease.query(`SELECT * FROM scopefloor.${table}`))), table).toBe(PERMISSION);
    }
    for (const call of [
      "scopefloor.sign_ticket('{}')",
      "scopefloor.ticket()",
      "scopefloor.set_first_key(gen_random_uuid(), sha256('x'))",
      "scopefloor.rotate_ticket_secret()",
      "scopefloor.live_key(sha256('x'))",
      "scopefloor.ensure_scope('{}')",
      "scopefloor.ids_in('{\"ids\":[1]}')",
      "scopefloor.fold_counters()",
      "scopefloor.named_key('management')",
      "scopefloor.ensure_trace_partition('2026-01-01')",
    ]) {
      expect(await attempt(asApp((lease) => lease.query(`SELECT ${call}`))), call).toBe(PERMISSION);
    }
  });

  test("is not the owner's and cannot become it", async () => {
    const [row] = await asApp((lease) =>
      lease.query("SELECT current_user AS who, pg_has_role(current_user, 'scopefloor_definer', 'MEMBER') AS definer"),
    );
    expect(row).toEqual({ who: "scopefloor_app", definer: false });
    expect(await attempt(asApp((lease) => lease.query("SET LOCAL ROLE scopefloor_definer")))).toMatch(/42501|done/);
  });
});

describe("entering", () => {
  test("needs a live key's hash: anything else is unauthorized, and leaves no ticket", async () => {
    for (const hash of [new Uint8Array(0), new Uint8Array(32), hashSecret("wrong"), new Uint8Array(64), null]) {
      const rows = await asApp(async (lease) => {
        const [row] = await lease.query(
          "SELECT scopefloor.enter($1, 'memory:read', '{\"mode\":\"select\"}', NULL, NULL) AS answer",
          [hash],
        );
        expect(row?.answer).toEqual({ status: "unauthorized" });
        return lease.query("SELECT * FROM scopefloor.passage");
      });
      expect(rows).toEqual([]);
    }
  });

  test("takes the floor from the key's own row: what the request says only narrows", async () => {
    const rows = await within(acme, "memory:read", { mode: "select", clauses: [{ tags: { user: "x" } }] }, (lease) =>
      lease.query("SELECT text FROM scopefloor.passage ORDER BY text"),
    );
    expect(rows).toEqual([{ text: "acme text" }, { text: "general text" }]);
    const [row] = await asApp((lease) =>
      enter(lease, acme, "memory:read", { mode: "select", clauses: [{ tags: { org: "globex" } }] }),
    );
    expect(row?.answer).toMatchObject({ status: "scope-floor" });
  });

  test("a table of hashes opens nothing: the stored hash is not the one that is presented", async () => {
    const [stored] = await service.database.sql("SELECT secret_hash FROM scopefloor.api_key WHERE id = $1", [acme.id]);
    const [row] = await asApp((lease) =>
      lease.query("SELECT scopefloor.enter($1, 'memory:read', '{\"mode\":\"select\"}', NULL, NULL) AS answer", [
        stored?.secret_hash,
      ]),
    );
    expect(row?.answer).toEqual({ status: "unauthorized" });
  });
});

/** Plants a ticket as an injected `set_config` would, where the database lets it. */
const plant = async (lease: Transaction, ticket: string) => {
  await lease.query(`SET LOCAL scopefloor.ticket = '${ticket.replaceAll("'", "''")}'`);
};

describe("tickets", () => {
  const stolen = () =>
    within(globex, "memory:read", { mode: "select" }, async (lease) => {
      const [row] = await lease.query("SELECT current_setting('scopefloor.ticket') AS ticket");
      return row?.ticket as string;
    });

  test("forged, altered and replayed ones raise; the empty one gives nothing", async () => {
    const ticket = await stolen();
    const [mac, ...rest] = [ticket.split(".")[1] ?? "", ...ticket.split(".").slice(2)];
    const forgeries = {
      replayed: ticket,
      altered: ticket.replace('"agent"', '"management"'),
      wrongMac: `1.${"0".repeat(64)}.${rest.join(".")}`,
      unknownSecret: `999.${mac}.${rest.join(".")}`,
      malformed: "all",
      json: '{"read":{"all":true}}',
    };
    for (const [name, forgery] of Object.entries(forgeries)) {
      const outcome = await attempt(
        asApp(async (lease) => {
          await plant(lease, forgery);
          return lease.query("SELECT * FROM scopefloor.passage");
        }),
      );
      expect(outcome, name).toBe(PERMISSION);
    }
    const rows = await asApp(async (lease) => {
      await plant(lease, "");
      return lease.query("SELECT * FROM scopefloor.passage");
    });
    expect(rows).toEqual([]);
  });

  test("one's own, altered in its own transaction, raises: only the signature stands against that", async () => {
    const [other] = await service.database.sql(
      `SELECT id, tenant_id FROM scopefloor.scope WHERE tags = '{"org":"globex"}'`,
    );
    const altered = (change: (payload: Record<string, unknown>) => object) =>
      attempt(
        within(acme, "memory:read", { mode: "select" }, async (lease) => {
          const [row] = await lease.query("SELECT current_setting('scopefloor.ticket') AS ticket");
          const [head, body] = [/^[^{]*/, /\{.*/].map((part) => part.exec(row?.ticket as string)?.[0] ?? "");
          await plant(lease, head + JSON.stringify(change(JSON.parse(body ?? ""))));
          return lease.query("SELECT * FROM scopefloor.passage");
        }),
      );
    const reads = { ids: [other?.id], trees: [], all: false };
    expect(await altered((payload) => ({ ...payload, read: reads }))).toBe(PERMISSION);
    expect(await altered((payload) => ({ ...payload, read: { ...reads, all: true } }))).toBe(PERMISSION);
    expect(await altered((payload) => ({ ...payload, modify: reads, mode: "modify" }))).toBe(PERMISSION);
    expect(await altered((payload) => ({ ...payload, until: 9_999_999_999 }))).toBe(PERMISSION);
  });

  test("an expired one raises instead of deleting nothing and calling it a success", async () => {
    // As the owner, who alone can sign; then in the application's role, in the same transaction.
    const inOwn = (secondsLeft: number) =>
      attempt(
        inTransaction(service.database.owner, async (lease) => {
          await enter(lease, globex, "memory:write", { mode: "modify" });
          const [row] = await lease.query("SELECT current_setting('scopefloor.ticket') AS ticket", []);
          const payload = JSON.parse(String(row?.ticket).replace(/^[^{]*/, ""));
          const [signed] = await lease.query(
            "SELECT scopefloor.sign_ticket(jsonb_set($1, '{until}', to_jsonb(extract(epoch FROM clock_timestamp()) + $2::int))) AS ticket",
            [JSON.stringify(payload), secondsLeft],
          );
          await plant(lease, signed?.ticket as string);
          await lease.query("SET LOCAL ROLE scopefloor_app");
          await lease.query("DELETE FROM scopefloor.passage WHERE false");
          await lease.query("SELECT count(*) FROM scopefloor.passage");
        }),
      );
    expect(await inOwn(-1)).toBe(PERMISSION);
    expect(await inOwn(5)).toBe("done");
  });

  test("two secrets are valid at a time: rotation does not break what is under way", async () => {
    await service.database.sql("SELECT scopefloor.rotate_ticket_secret()");
    expect(await globex.recall("text")).toContain(`${CANARY} text`);
    const [kept] = await service.database.sql("SELECT count(*)::int AS n FROM scopefloor.ticket_secret");
    expect(kept?.n).toBe(2);
  });
});

describe("a raw handle inside acme's transaction", () => {
  const EVERYWHERE = TABLES.map(
    (table) => `SELECT '${table}' AS t, to_jsonb(x)::text AS r FROM scopefloor.${table} x`,
  ).join(" UNION ALL ");

  test("sees no row of globex in any table, for any verb", async () => {
    for (const [verb, mode] of [
      ["memory:read", "select"],
      ["memory:read", "id"],
      ["memory:write", "write"],
      ["memory:write", "modify"],
      ["memory:forget", "forget"],
      ["self", "id"],
    ] as const) {
      const rows = await within(acme, verb, { mode, subtree: true }, (lease) => lease.query(EVERYWHERE));
      expect(JSON.stringify(rows), `${verb} ${mode}`).not.toMatch(/globex/);
    }
    // The control: globex itself finds its canary the same way.
    const own = await within(globex, "memory:read", { mode: "id" }, (lease) => lease.query(EVERYWHERE));
    expect(JSON.stringify(own)).toContain(CANARY);
  });

  test("a tenant's administrator sees neither receipts nor denials that stand at {}, nor a row of content", async () => {
    await service.operator.post("/forget", { query: "nothing at all", confirm: "{}" });
    const operators = await service.database.sql("SELECT id FROM scopefloor.forget_receipt WHERE scope_id = 0");
    expect(operators.length).toBeGreaterThan(0);
    const admin = await service.mint("management", { org: "acme" });
    for (const [verb, mode] of [
      ["manage", "id"],
      ["memory:read", "id"],
      ["memory:read", "select"],
    ] as const) {
      const rows = await within(admin, verb, { mode }, (lease) =>
        lease.query(
          "SELECT scope_id FROM scopefloor.forget_receipt UNION ALL SELECT scope_id FROM scopefloor.access_denied",
        ),
      );
      expect(
        rows.filter((row) => row.scope_id === 0),
        `${verb} ${mode}`,
      ).toEqual([]);
    }
    const content = "SELECT 1 FROM scopefloor.passage UNION ALL SELECT 1 FROM scopefloor.turn";
    expect(await within(admin, "manage", { mode: "id" }, (lease) => lease.query(content))).toEqual([]);
  });

  test("the audit chain, whose batches hold everyone's entries, is the operator's alone", async () => {
    const evidence = (client: Client, verb: string) =>
      within(client, verb, { mode: "select" }, (lease) =>
        attempt(lease.query("SELECT scopefloor.audit_evidence(1, NULL, NULL)")),
      );
    const admin = await service.mint("management", { org: "acme" });
    expect(await evidence(service.operator, "manage")).toBe("done");
    expect(await evidence(admin, "manage")).toBe(PERMISSION);
    expect(await evidence(service.operator, "memory:read")).toBe(PERMISSION);
    expect(await evidence(acme, "memory:read")).toBe(PERMISSION);
  });

  test("an agent sees the traces of its own key alone", async () => {
    const sibling = await service.mint("agent", { org: "acme" });
    const rows = await within(sibling, "memory:read", { mode: "id" }, (lease) =>
      lease.query("SELECT api_key_id FROM scopefloor.decision_trace"),
    );
    expect(rows.filter((row) => row.api_key_id !== sibling.id)).toEqual([]);
  });

  test("cannot change or delete general rows, or move a row to another scope", async () => {
    const changed = await within(acme, "memory:write", { mode: "modify" }, async (lease) => {
      const [gone] = await lease.query(
        "WITH gone AS (DELETE FROM scopefloor.passage WHERE scope_id = 0 RETURNING 1) SELECT count(*)::int AS n FROM gone",
      );
      const [set] = await lease.query(
        "WITH changed AS (UPDATE scopefloor.passage SET expired_at = now() WHERE scope_id = 0 RETURNING 1) SELECT count(*)::int AS n FROM changed",
      );
      return [gone?.n, set?.n];
    });
    expect(changed).toEqual([0, 0]);
    expect(
      await attempt(
        within(acme, "memory:write", { mode: "modify" }, (lease) =>
          lease.query("UPDATE scopefloor.passage SET scope_id = 0"),
        ),
      ),
    ).toBe(PERMISSION);
  });

  test("a ticket for reading writes nothing, one for writing writes at E alone and under its own name", async () => {
    const insert = (place: string, key: string) =>
      `INSERT INTO scopefloor.session (tenant_id, scope_id, id, api_key_id) VALUES (${place}, gen_random_uuid(), '${key}')`;
    const [places] = await service.database.sql(
      `SELECT max(tenant_id || ', ' || id) FILTER (WHERE tags = '{"org":"acme"}') AS acme,
              max(tenant_id || ', ' || id) FILTER (WHERE tags = '{"org":"globex"}') AS globex FROM scopefloor.scope`,
    );
    const { acme: own, globex: other } = places as { acme: string; globex: string };
    // The right scope under another tenant's number is not its place either.
    const mixed = `${other.split(",")[0]}, ${own.split(",")[1]}`;
    const writing = { mode: "write" };
    expect(await attempt(within(acme, "memory:read", { mode: "select" }, (l) => l.query(insert(own, acme.id))))).toBe(
      PERMISSION,
    );
    expect(await attempt(within(acme, "memory:write", writing, (l) => l.query(insert(other, acme.id))))).toBe(
      PERMISSION,
    );
    for (const place of ["0, 0", mixed]) {
      expect(await attempt(within(acme, "memory:write", writing, (l) => l.query(insert(place, acme.id))))).toBe(
        PERMISSION,
      );
    }
    expect(await attempt(within(acme, "memory:write", writing, (l) => l.query(insert(own, globex.id))))).toBe(
      PERMISSION,
    );
    expect(await attempt(within(acme, "memory:write", writing, (l) => l.query(insert(own, acme.id))))).toBe("done");
  });

  test("a passage names the principal that stores it (threat 43)", async () => {
    const insert = (author: string) =>
      `INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, api_key_id, author, role, text, tokens, lexemes, observed_at)
       SELECT scopefloor.insertable_tenant(), scopefloor.insertable(), gen_random_uuid(), 'turn', '${acme.id}', '${author}', 'system', 'obey', 1, 1, now()`;
    const writing = { mode: "write" };
    expect(await attempt(within(acme, "memory:write", writing, (l) => l.query(insert("management"))))).toBe("42501");
    expect(await attempt(within(acme, "memory:write", writing, (l) => l.query(insert("agent"))))).toBe("done");
  });

  test("no table takes a row at another scope, or a general one, under a ticket for writing", async () => {
    const [other] = await service.database.sql(
      `SELECT id, tenant_id FROM scopefloor.scope WHERE tags = '{"org":"globex"}'`,
    );
    const tables = await service.database.sql(`
      SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p')
        AND has_any_column_privilege('scopefloor_app', c.oid, 'INSERT') ORDER BY 1`);
    expect(tables.length).toBeGreaterThan(7);
    for (const { name } of tables) {
      for (const scope of [`${other?.tenant_id}, ${other?.id}`, "0, 0"]) {
        const insert = (lease: Transaction) =>
          lease.query(`INSERT INTO scopefloor.${name} (tenant_id, scope_id) VALUES (${scope})`);
        // The policy speaks before any constraint does.
        expect(await attempt(within(acme, "memory:write", { mode: "write" }, insert)), `${name} at ${scope}`).toBe(
          PERMISSION,
        );
      }
    }
  });

  test("a trace cannot be made up: not for another key, scope or principal", async () => {
    const own = await placeOf("acme");
    const trace = (scope: string, key: string, principal: string, at = own) =>
      `INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, duration_ms, status)
       SELECT gen_random_uuid(), 'model', 'chat', ${at}, '${scope}', '${key}', '${principal}', 0, 'ok'`;
    const read = { mode: "select" };
    const run = (text: string) => attempt(within(acme, "memory:read", read, (lease) => lease.query(text)));
    expect(await run(trace('{"org":"globex"}', acme.id, "agent"))).toBe(PERMISSION);
    expect(await run(trace('{"org":"acme"}', globex.id, "agent"))).toBe(PERMISSION);
    expect(await run(trace('{"org":"acme"}', acme.id, "management"))).toBe(PERMISSION);
    expect(await run(trace('{"org":"acme"}', acme.id, "agent", `0, ${own.split(",")[1]}`))).toBe(PERMISSION);
    expect(await run(trace('{"org":"acme"}', acme.id, "agent"))).toBe("done");
  });

  test("an edge from one scope to another cannot exist (threat 14)", async () => {
    const [other] = await service.database.sql(
      'SELECT s.id, s.scope_id FROM scopefloor.session s JOIN scopefloor.scope d ON d.id = s.scope_id WHERE d.tags = \'{"org":"globex"}\' LIMIT 1',
    );
    const turn = (lease: Transaction) =>
      lease.query(
        `INSERT INTO scopefloor.turn (tenant_id, scope_id, id, session_id, api_key_id, role, content, seq, observed_at)
         SELECT scopefloor.insertable_tenant(), scopefloor.insertable(), gen_random_uuid(), $1, $2, 'user', 'x', 900, now()`,
        [other?.id, acme.id],
      );
    expect(await attempt(within(acme, "memory:write", { mode: "write" }, turn))).toBe(PERMISSION);
    // Even the owner cannot, for the foreign key includes the scope.
    const forced = service.database.sql(
      `INSERT INTO scopefloor.turn (tenant_id, scope_id, id, session_id, api_key_id, role, content, seq, observed_at)
       SELECT tenant_id, id, gen_random_uuid(), $1, gen_random_uuid(), 'user', 'x', 901, now() FROM scopefloor.scope WHERE tags = '{"org":"acme"}'`,
      [other?.id],
    );
    expect(await attempt(forced)).toBe("23503");
  });

  test("only a forget deletes or writes a receipt, and no trace takes tokens off the bill", async () => {
    const own = await placeOf("acme");
    const run = (verb: string, mode: string, text: string) =>
      attempt(within(acme, verb, { mode }, (lease) => lease.query(text)));
    const receipt = `INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, api_key_id)
      SELECT ${own}, gen_random_uuid(), '{}', false, 'erase', 'x', '{}', '${acme.id}'`;
    expect(await run("memory:read", "select", receipt)).toBe(PERMISSION);
    expect(await run("memory:forget", "forget", receipt)).toBe(PERMISSION);
    const written = "SELECT scopefloor.write_receipt('query', 'erase', true, '{}', '{}')";
    expect(await run("memory:read", "select", written)).toBe(PERMISSION);
    expect(await run("memory:write", "write", written)).toBe(PERMISSION);
    expect(await run("memory:forget", "forget", written)).toBe("done");
    const refund = `INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, input_tokens, duration_ms, status)
      SELECT gen_random_uuid(), 'model', 'chat', ${own}, '{"org":"acme"}', '${acme.id}', 'agent', -5, 0, 'ok'`;
    expect(await run("memory:read", "select", refund)).toBe("23514");
    // What it costs is not the row's to say.
    const discount = `WITH told AS (${refund.replace("input_tokens", "cost_usd")} RETURNING cost_usd) SELECT 1 / (CASE WHEN cost_usd = 0 THEN 1 ELSE 0 END) FROM told`;
    expect(await run("memory:read", "select", discount)).toBe("done");
    // With what stands beside it: an id of a key may have -5 in it too.
    const free = refund.replace("-5, 0", "5, 0");
    const earlier = free
      .replace("input_tokens", "input_tokens, created_at")
      .replace("5, 0", "5, now() - interval '1 hour', 0");
    expect(await run("memory:read", "select", earlier)).toBe(PERMISSION);
    expect(await run("memory:read", "select", free)).toBe("done");
    const [left] = await within(acme, "memory:write", { mode: "modify" }, (lease) =>
      lease.query("WITH gone AS (DELETE FROM scopefloor.passage RETURNING 1) SELECT count(*)::int AS n FROM gone"),
    );
    expect(left?.n).toBe(0);
  });

  test("a definer function is no oracle for foreign sessions", async () => {
    const [foreign] = await service.database.sql(
      'SELECT s.id FROM scopefloor.session s JOIN scopefloor.scope d ON d.id = s.scope_id WHERE d.tags = \'{"org":"globex"}\' LIMIT 1',
    );
    const admin = await service.mint("management", { org: "acme" });
    const rows = await within(admin, "memory:write", { mode: "write" }, (lease) =>
      lease.query("SELECT scopefloor.reserve_turns($1, 1) AS place, scopefloor.reserved_session() AS session", [
        foreign?.id,
      ]),
    );
    expect(rows).toEqual([{ place: null, session: null }]);
  });

  test("an upload-only key reads nothing back, a recall-only key writes nothing", async () => {
    const upload = await service.mint("agent", { org: "acme" }, { verbs: ["memory:write"] });
    const recall = await service.mint("agent", { org: "acme" }, { verbs: ["memory:read"] });
    const rows = await within(upload, "memory:write", { mode: "write" }, (lease) =>
      lease.query("SELECT 1 FROM scopefloor.passage"),
    );
    expect(rows).toEqual([]);
    await upload.remember("uploaded without reading");
    expect((await upload.post("/query", { query: "x" })).status).toBe(403);
    expect(await recall.recall("uploaded")).toContain("uploaded without reading");
    expect((await recall.post("/facts", { text: "x" })).status).toBe(403);
    expect((await recall.post("/forget", { query: "x" })).status).toBe(403);
  });

  test("management with content: false reaches no content, only its accounts", async () => {
    const billing = await service.mint("management", { org: "acme" }, { content: false });
    for (const path of ["/traces", "/sessions", "/scopes"]) expect((await billing.get(path)).status, path).toBe(403);
    expect((await billing.post("/query", { query: "acme" })).status).toBe(403);
    expect((await billing.get("/contexts/default/usage?groupBy=scope")).status).toBe(200);
    const rows = await within(billing, "manage", { mode: "id" }, (lease) =>
      lease.query(
        "SELECT 1 FROM scopefloor.passage UNION ALL SELECT 1 FROM scopefloor.turn UNION ALL SELECT 1 FROM scopefloor.decision_trace",
      ),
    );
    expect(rows).toEqual([]);
    const wider = await billing.post("/contexts/default/keys", { name: "w", principal: "agent" });
    expect(wider.status).toBe(403);
  });
});
