import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { enterScope } from "../../src/db/access/enter.ts";
import { inTransaction } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { receiptJournal } from "../../src/forget/replay/journal.ts";
import { isReplayed, replayReceipts } from "../../src/forget/replay/replay.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { createLog } from "../../src/log.ts";
import { writeReceipt } from "../../src/traces/receipt.ts";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { serviceProcess } from "../harness/service-process.ts";

const log = createLog("silent");
let folder: string;
let path: string;
let service: TestService;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scopefloor-journal-"));
  path = join(folder, "receipts.jsonl");
  await writeFile(path, "");
  service = await startService({ worker: {} });
});
afterAll(async () => {
  await service.stop();
  await rm(folder, { recursive: true });
});

const callerOf = ({ key }: Client) => ({
  keyHash: hashSecret(key),
  onBehalfOf: undefined,
  route: "test",
  operation: "test",
});

const count = async (where: string) =>
  Number((await service.database.sql(`SELECT count(*) AS n FROM scopefloor.passage WHERE ${where}`))[0]?.n);

/** What a restored backup is: the rows as they were, and no receipt of later. */
async function restored<T>(forget: () => Promise<unknown>, work: () => Promise<T>): Promise<T> {
  await receiptJournal(service.database, path).save();
  const tables = (
    await service.database.sql(
      `SELECT relname FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
         AND relname NOT IN ('migration', 'ticket_secret')`,
    )
  ).map((row) => String(row.relname));
  const owner = async (statements: readonly string[]) => {
    const lease = await service.database.owner.acquire();
    try {
      for (const statement of ["SET session_replication_role = replica", ...statements]) await lease.query(statement);
      await lease.query("SET session_replication_role = origin");
    } finally {
      await lease.release();
    }
  };
  const columns = new Map<string, string>();
  for (const table of tables) {
    const [row] = await service.database.sql(
      `SELECT string_agg(quote_ident(attname), ', ') AS names FROM pg_attribute
       WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`,
      [`scopefloor.${table}`],
    );
    columns.set(table, String(row?.names));
  }
  await owner([
    "CREATE SCHEMA backup",
    ...tables.map((t) => `CREATE TABLE backup.${t} AS SELECT * FROM scopefloor.${t}`),
  ]);
  await forget();
  await receiptJournal(service.database, path).save();
  await owner([
    ...tables.map((t) => `DELETE FROM scopefloor.${t}`),
    ...tables.map((t) => `INSERT INTO scopefloor.${t} (${columns.get(t)}) SELECT ${columns.get(t)} FROM backup.${t}`),
    "DROP SCHEMA backup CASCADE",
  ]);
  return work();
}

/** A process of the role `api` on the same PostgreSQL, until it is ready. */
async function startAsApi(): Promise<void> {
  const DATABASE_URL = service.database.url ?? "";
  const api = await serviceProcess({ DATABASE_URL, SCOPEFLOOR_ROLE: "api", SCOPEFLOOR_RECEIPTS: path });
  await api.start();
  expect(await api.end("SIGTERM")).toBe(0);
}

test("what was forgotten after a backup is forgotten again when that is restored, and revoked keys stay so", async () => {
  const doomed = await service.mint("agent", { org: "doomed" });
  const stays = await service.mint("agent", { org: "stays" });
  const rotated = await service.mint("agent", { org: "stays" });
  const narrowed = await service.mint("agent", { org: "stays" });
  await doomed.remember("doomed at the org");
  await doomed.remember("doomed at a user", { scopes: "user/ann" });
  await stays.remember("the passphrase is xylophone");
  await stays.remember("the code is marimba");
  await stays.call("PUT", "/memory/passphrase", { value: "the passphrase is xylophone" });
  const { sessionId } = await stays.remember("a session that is about to go");
  await stays.remember("what stays for good");
  await stays.call("PUT", "/memory/gone", { value: "an item that is deleted" });
  await stays.post("/facts", {
    infer: "triples",
    triples: [{ entity: { type: "Person", name: "Ann" }, key: "note", value: "an entity that is deleted" }],
  });
  const deleted = (await stays.upload("a document that is deleted", "gone.txt")).body.id;
  const titled = (await stays.upload("the minutes of it", "the accordion affair.txt")).body.id;
  await Promise.all([deleted, titled].map((id) => stays.processed(id)));
  await stays.remember("a note of ann-surname", { scopes: "user/ann-surname" });
  const forget = async () => {
    await service.operator.del(`/contexts/default/keys/${doomed.id}`);
    expect((await service.operator.post("/scopes/forget", { path: "org/doomed" })).status).toBe(200);
    expect((await stays.post("/forget", { query: "passphrase", purge: true })).body.deleted).toBe(2);
    expect((await stays.post("/forget", { query: "marimba" })).body.deleted).toBe(1);
    expect((await stays.post("/forget", { sessionId, purge: true })).body.deleted).toBe(1);
    for (const gone of ["/memory/gone", "/entities/Person/Ann", `/documents/${deleted}`]) {
      expect((await stays.del(gone)).status, gone).toBe(204);
    }
    await stays.post("/forget", { query: "accordion affair", purge: true });
    expect((await stays.get<{ title: string }>(`/documents/${titled}`)).body.title).toBe("untitled");
    const ann = { scopes: "user/ann-surname" };
    expect((await stays.post("/forget", { query: "note", purge: true, ...ann })).body.deleted).toBe(1);
    expect((await service.operator.post(`/contexts/default/keys/${rotated.id}/rotate`, {})).status).toBe(200);
    expect((await narrowed.post(`/principals/${narrowed.id}/grants`, { verbs: ["memory:read"] })).status).toBe(200);
  };
  await restored(forget, async () => {
    const back = () => count("text ~ 'doomed|xylophone|about to go|is deleted|a note of ann'");
    // The control: without the replay all of it is back.
    expect(await back()).toBe(7);
    expect((await doomed.get("/me")).status).toBe(200);
    expect((await rotated.get("/me")).status).toBe(200);
    expect((await narrowed.post("/facts", { text: "may write" })).status).toBe(200);
    expect(await stays.recall("marimba code")).toContain("the code is marimba");
    const before = await service.database.sql("SELECT count(*) AS n FROM scopefloor.forget_receipt");
    expect(Number(before[0]?.n)).toBe(0);
    // A process that may not do it again itself does not start on this.
    expect(await isReplayed(service.database, path)).toBe(false);
    if (onPostgres())
      await expect(startAsApi()).rejects.toThrow(
        /lists forgets that this database has not applied; start a worker first/,
      );

    expect(await replayReceipts(service.database, path, log)).toBe(12);
    expect(await back()).toBe(0);
    // A key that is as it was before a change is of no use: its old secret or rights do not come back.
    for (const key of [doomed, rotated, narrowed]) expect((await key.get("/me")).status).toBe(401);
    expect(await stays.recall("marimba code")).not.toContain("the code is marimba");
    const gone = ["/memory/passphrase", "/memory/gone", "/entities/Person/Ann", `/sessions/${sessionId}`];
    for (const path of [...gone, `/documents/${deleted}`]) expect((await stays.get(path)).status, path).toBe(404);
    expect((await stays.get<{ title: string }>(`/documents/${titled}`)).body.title).toBe("untitled");
    expect(await stays.recall("what stays for good")).toContain("what stays for good");
    const names = await service.database.sql("SELECT 1 FROM scopefloor.scope WHERE tags->>'org' = 'doomed'");
    expect(names).toEqual([]);
    // The receipts are there again, at the scopes where they stood; the erased one's is the operator's.
    const admin = await service.mint("management", { org: "stays" });
    const receipts = (await admin.get<{ receipts: { policy: string }[] }>("/contexts/default/receipts")).body.receipts;
    expect(receipts.map(({ policy }) => policy).sort()).toEqual(
      ["document", "entity", "item", "query", "query", "query", "query", "session"].sort(),
    );
    // The key that did it is of no use any more, and a second start has nothing to do.
    expect(await isReplayed(service.database, path)).toBe(true);
    if (onPostgres()) await startAsApi();
    expect(await replayReceipts(service.database, path, log)).toBe(0);
    const keys = await service.database.sql(
      "SELECT 1 FROM scopefloor.api_key WHERE name LIKE 'replay %' AND revoked_at IS NULL",
    );
    expect(keys).toEqual([]);
  });
});

test("general knowledge that was erased as a whole is erased again, with all that lies below", async () => {
  const agent = await service.mint("agent", { org: "under" });
  await agent.remember("an okapi at the org");
  await service.operator.remember("an okapi for everyone", { scopes: {} });
  const erase = async () => {
    const erased = await service.operator.post("/scopes/forget", { path: {}, confirm: "{}" });
    expect(erased.status, erased.text).toBe(200);
  };
  await restored(erase, async () => {
    expect(await count("text LIKE '%okapi%'")).toBe(2);
    expect(await replayReceipts(service.database, path, log)).toBe(1);
    expect(await count("text LIKE '%okapi%'")).toBe(0);
  });
});

test("a receipt that names others' rows takes none of them when it is done again (threat 9)", async () => {
  const victim = await service.mint("agent", { org: "victim" });
  await victim.remember("the victim's heron");
  const attacker = await service.mint("agent", { org: "mallory" });
  const [heron] = await service.database.sql("SELECT id FROM scopefloor.passage WHERE text LIKE '%heron%'");
  const demand = { verb: "memory:forget", mode: "forget" } as const;
  const plant = () =>
    enterScope(service.database.app, callerOf(attacker), demand, (tx) =>
      writeReceipt(
        tx,
        { policy: "query", action: "erase", subtree: true, items: { passages: [String(heron?.id)] } },
        { passage: 1 },
      ),
    );
  await restored(plant, async () => {
    expect(await replayReceipts(service.database, path, log)).toBe(1);
    expect(await count("text LIKE '%heron%'")).toBe(1);
  });
  // Nor is there another way to one: what it says comes from the ticket.
  const raw = (statement: string) =>
    inTransaction(service.database.app, async (lease) => {
      await lease.query("SELECT scopefloor.enter($1, 'memory:forget', $2, NULL, NULL)", [
        hashSecret(attacker.key),
        JSON.stringify({ mode: "forget", context: "default" }),
      ]);
      return lease.query(statement);
    });
  await expect(
    raw(`INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, api_key_id)
      SELECT 0, 0, gen_random_uuid(), '{"org": "victim"}', true, 'erase', 'scope', '{}', scopefloor.caller()`),
  ).rejects.toThrow(/permission denied/);
  // Nor does it learn, under its ticket, which receipts and keys of others there are.
  expect(await raw("SELECT scopefloor.knows_lines('[]') AS known")).toEqual([{ known: null }]);
  for (const args of [
    `'scope', 'erase', true, '{}', '{}'`,
    `'query', 'erase', true, '{"passage": "many"}', '{}'`,
    `'query', 'erase', true, '{"passage": -1}', '{}'`,
    `'query', 'erase', true, '{"passage": 1e400}', '{}'`,
    `'query', 'erase', true, '{"passage": 0.5}', '{}'`,
    `'query', 'erase', true, '{"pas\u2028sage": 1}', '{}'`,
    `'query', 'erase', true, '{}', '{"everything": []}'`,
    `'query', 'erase', true, '{}', '{"passages": ["no id"]}'`,
    `'query', 'drop', true, '{}', '{}'`,
  ]) {
    await expect(raw(`SELECT scopefloor.write_receipt(${args})`), args).rejects.toThrow(/not a receipt|uuid/);
  }
});

test("the file holds hashes and ids, no text and no name; each line once", async () => {
  await receiptJournal(service.database, path).save();
  const text = await readFile(path, "utf8");
  expect(text).not.toMatch(/doomed|xylophone|marimba|ann-surname|stays|mallory|accordion/);
  const lines = text.split("\n").filter((line) => line !== "");
  expect(new Set(lines).size).toBe(lines.length);
});

test("a line that a crash cut short is written again; one that is something else stops the start", async () => {
  const journal = receiptJournal(service.database, path);
  await journal.save();
  const whole = await readFile(path, "utf8");
  const lines = whole.split("\n").filter((line) => line !== "");
  const last = lines.at(-1) ?? "";
  await writeFile(path, `${lines.slice(0, -1).join("\n")}\n${last.slice(0, 30)}`);
  expect(await replayReceipts(service.database, path, log)).toBe(0);
  await receiptJournal(service.database, path).save();
  expect((await readFile(path, "utf8")).trimEnd().split("\n").at(-1)).toBe(last);
  expect(await replayReceipts(service.database, path, log)).toBe(0);
  const first = lines[0] ?? "";
  for (const spoilt of [
    `${whole}{"id": "not a receipt"}\n`,
    whole.replace(first, first.slice(0, 40)),
    whole.replace(first, first.replace(/"id":"./, '"id":"x')),
  ]) {
    await writeFile(path, spoilt);
    await expect(replayReceipts(service.database, path, log)).rejects.toThrow(/line \d+ of .* is not one of a journal/);
    await expect(receiptJournal(service.database, path).save()).rejects.toThrow(/is not one of a journal/);
  }
  await writeFile(path, whole);
});

test("what was forgotten of a document's later version is not remembered from the one in the backup", {
  tags: ["long"],
}, async () => {
  const agent = await service.mint("agent", { org: "versions" });
  const [first, beside] = await Promise.all(
    ["the bassoon is in the attic", "the cellar is dry"].map((text) => agent.upload(text, "house.txt")),
  );
  const id = String(first?.body.id);
  for (const each of [id, String(beside?.body.id)]) await agent.processed(each);
  const forget = async () => {
    const path = `/documents/${id}`;
    await agent.upload("the bassoon is in the attic still", "house.txt", {}, { method: "PUT", path });
    await agent.processed(id);
    expect((await agent.post("/forget", { query: "bassoon", purge: true })).body.deleted).toBe(1);
  };
  await restored(forget, async () => {
    expect(await count("text LIKE '%bassoon%'")).toBe(1);
    expect(await replayReceipts(service.database, path, log)).toBe(1);
    expect(await count("text LIKE '%bassoon%'")).toBe(0);
    expect(await agent.recall("cellar")).toEqual(["the cellar is dry"]);
  });
});

test("a line that a crash cut short spoils nothing, though it is never written again; one that is there twice is done once", async () => {
  const agent = await service.mint("agent", { org: "cut-short" });
  await agent.remember("the plover is back");
  const forget = async () => {
    expect((await agent.post("/forget", { query: "plover", purge: true })).body.deleted).toBe(1);
  };
  const before = await readFile(path, "utf8");
  await restored(forget, async () => {
    const own = (await readFile(path, "utf8")).slice(before.length);
    expect(own).toContain('"receipt"');
    const gone = own.replace(/"id":"(.)/, (_, first) => `"id":"${first === "0" ? 1 : 0}`).trim();
    // A full disk, three times; then the process ended.
    await writeFile(path, `${before}${own}${own}\n${gone.slice(0, 90)}\n${gone.slice(0, 20)}\n${gone.slice(0, 50)}`);
    await receiptJournal(service.database, path).save();
    await appendFile(path, '\n{"kind":"cut","te');
    await receiptJournal(service.database, path).save();
    expect(await count("text LIKE '%plover%'")).toBe(1);
    expect(await replayReceipts(service.database, path, log)).toBe(1);
    expect(await count("text LIKE '%plover%'")).toBe(0);
    expect(await isReplayed(service.database, path)).toBe(true);
  });
});

// Embedded there is one process.
test.runIf(onPostgres())(
  "of two processes that start at once one does it, and the other does nothing twice",
  async () => {
    const agent = await service.mint("agent", { org: "two-starts" });
    await agent.remember("the curlew is back");
    const forget = async () => {
      expect((await service.operator.post("/scopes/forget", { path: "org/two-starts" })).status).toBe(200);
    };
    await restored(forget, async () => {
      const starts = [1, 2, 3].map(async () => {
        const process = openPostgres({ app: service.database.url ?? "", connections: 2, timeoutMs: 30_000 });
        const lines = await replayReceipts(process, path, log);
        await process.close();
        // Served, it takes new ones: what is late must not take those.
        await service.operator.post("/facts", { text: "a curlew of now", scopes: "org/two-starts" });
        return lines;
      });
      expect((await Promise.all(starts)).sort()).toEqual([0, 0, 1]);
      expect(await count("text = 'the curlew is back'")).toBe(0);
      expect(await count("text = 'a curlew of now'")).toBe(3);
    });
  },
);

test("a file that is not there stops the start: a journal begins with an empty one", async () => {
  const missing = join(folder, "not mounted");
  await expect(replayReceipts(service.database, missing, log)).rejects.toThrow(/is not there; .* make an empty file/);
  await expect(isReplayed(service.database, missing)).rejects.toThrow(/is not there/);
  await expect(receiptJournal(service.database, missing).save()).rejects.toThrow(/is not there/);
  await writeFile(missing, "");
  expect(await replayReceipts(service.database, missing, log)).toBe(0);
});
