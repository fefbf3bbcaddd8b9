import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { receiptJournal, replayReceipts } from "../../src/forget/journal.ts";
import { createLog } from "../../src/log.ts";
import { startService, type TestService } from "../harness/service.ts";

const log = createLog("silent");
let folder: string;
let path: string;
let service: TestService;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scopefloor-journal-"));
  path = join(folder, "receipts.jsonl");
  service = await startService();
});
afterAll(async () => {
  await service.stop();
  await rm(folder, { recursive: true });
});

const count = async (where: string) =>
  Number((await service.database.sql(`SELECT count(*) AS n FROM scopefloor.passage WHERE ${where}`))[0]?.n);

/** What a restored backup is: the rows as they were, and no receipt of later. */
async function restored<T>(forget: () => Promise<unknown>, work: () => Promise<T>): Promise<T> {
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

test("what was forgotten after a backup is forgotten again when that is restored, and revoked keys stay so", async () => {
  const doomed = await service.mint("agent", { org: "doomed" });
  const stays = await service.mint("agent", { org: "stays" });
  await doomed.remember("doomed at the org");
  await doomed.remember("doomed at a user", { scopes: "user/ann" });
  await stays.remember("the passphrase is xylophone");
  await stays.remember("the code is marimba");
  await stays.call("PUT", "/memory/passphrase", { value: "the passphrase is xylophone" });
  const { sessionId } = await stays.remember("a session that is about to go");
  await stays.remember("what stays for good");
  const forget = async () => {
    await service.operator.del(`/contexts/default/keys/${doomed.id}`);
    expect((await service.operator.post("/scopes/forget", { path: "org/doomed" })).status).toBe(200);
    expect((await stays.post("/forget", { query: "passphrase", purge: true })).body.deleted).toBe(2);
    expect((await stays.post("/forget", { query: "marimba" })).body.deleted).toBe(1);
    expect((await stays.post("/forget", { sessionId, purge: true })).body.deleted).toBe(1);
  };
  await restored(forget, async () => {
    // The control: without the replay all of it is back.
    expect(await count("text LIKE '%doomed%' OR text LIKE '%xylophone%' OR text LIKE '%about to go%'")).toBe(4);
    expect((await doomed.get("/me")).status).toBe(200);
    expect(await stays.recall("marimba code")).toContain("the code is marimba");
    const before = await service.database.sql("SELECT count(*) AS n FROM scopefloor.forget_receipt");
    expect(Number(before[0]?.n)).toBe(0);

    expect(await replayReceipts(service.database, path, log)).toBe(5);
    expect(await count("text LIKE '%doomed%' OR text LIKE '%xylophone%' OR text LIKE '%about to go%'")).toBe(0);
    expect((await doomed.get("/me")).status).toBe(401);
    expect(await stays.recall("marimba code")).not.toContain("the code is marimba");
    expect((await stays.get("/memory/passphrase")).status).toBe(404);
    expect((await stays.get(`/sessions/${sessionId}`)).status).toBe(404);
    expect(await stays.recall("what stays for good")).toContain("what stays for good");
    const names = await service.database.sql("SELECT 1 FROM scopefloor.scope WHERE tags->>'org' = 'doomed'");
    expect(names).toEqual([]);
    // The key that did it is of no use any more, and a second start has nothing to do.
    expect(await replayReceipts(service.database, path, log)).toBe(0);
    const keys = await service.database.sql(
      "SELECT 1 FROM scopefloor.api_key WHERE name LIKE 'replay %' AND revoked_at IS NULL",
    );
    expect(keys).toEqual([]);
  });
});

test("the file holds hashes and ids, no text and no name; each line once", async () => {
  await receiptJournal(service.database, path).save();
  const text = await readFile(path, "utf8");
  expect(text).not.toMatch(/doomed|xylophone|marimba|"org"\s*:\s*"doomed/);
  const ids = text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line).id);
  expect(new Set(ids).size).toBe(ids.length);
});

test("a line that a crash cut short is written again; one that is something else stops the start", async () => {
  const journal = receiptJournal(service.database, path);
  await journal.save();
  const whole = await readFile(path, "utf8");
  const lines = whole.split("\n").filter((line) => line !== "");
  const last = lines.at(-1) ?? "";
  await writeFile(path, `${lines.slice(0, -1).join("\n")}\n${last.slice(0, 30)}`);
  await receiptJournal(service.database, path).save();
  expect((await readFile(path, "utf8")).trimEnd().split("\n").at(-1)).toBe(last);
  expect(await replayReceipts(service.database, path, log)).toBe(0);
  await appendFile(path, '{"id": "not a receipt"}\n');
  await expect(replayReceipts(service.database, path, log)).rejects.toThrow(/line \d+ of .* is not one of a journal/);
  expect(await replayReceipts(service.database, join(folder, "none yet"), log)).toBe(0);
});
