/**
 * Receipts and revocations in a file beside the database, one JSON object a line: no names and no
 * text, but hashes and ids. A backup is older than what was forgotten after it; when it is restored,
 * what the file has and the database has not is done again before anyone is answered.
 */
import { appendFile, readFile } from "node:fs/promises";
import type { Logger } from "pino";
import { v7 as uuid } from "uuid";
import { z } from "zod";
import { enterScope } from "../db/enter.ts";
import { type Database, inTransaction, type Row } from "../db/lease.ts";
import { hashSecret, newSecret } from "../keys/secret.ts";
import { GENERAL, type Scope, scopeFromDatabase } from "../scope/scope.ts";
import { forgetItems } from "./by-meaning.ts";
import { scopeDigest } from "./receipt.ts";
import { eraseSubtree } from "./subtree.ts";

const ids = z.array(z.uuid());
const receiptLine = z.looseObject({
  id: z.uuid(),
  target: z.record(z.string(), z.string()),
  action: z.enum(["expire", "erase"]),
  policy: z.string(),
  items: z.object({ ids, turns: ids, facts: ids, items: ids, documents: ids, session: z.uuid().nullable() }).nullable(),
});
const revocationLine = z.looseObject({ id: z.uuid(), revoked_at: z.string() });
const journalLine = z.union([receiptLine, revocationLine]);
type JournalLine = z.output<typeof journalLine>;

/** Receipts of transactions that were still open at the last look: none takes so long. */
const OVERLAP_MS = 10 * 60_000;

/** Appends what is new since the last call; the first one compares everything. */
export function receiptJournal(database: Database, path: string): { save(): Promise<void> } {
  let known: Set<string> | undefined;
  let since: Date | undefined;
  return {
    save: async () => {
      known ??= new Set((await readJournal(path)).map(({ id }) => id));
      const looked = new Date();
      const rows = await ownerRows(database, "SELECT scopefloor.journal_lines($1) AS line", [
        since === undefined ? null : new Date(since.getTime() - OVERLAP_MS).toISOString(),
      ]);
      const fresh = rows.map((row) => row.line as JournalLine).filter(({ id }) => known?.has(id) === false);
      if (fresh.length > 0) {
        // Begun on a line of its own, also behind one that was cut short.
        const lines = fresh.map((line) => `\n${JSON.stringify(line)}`).join("");
        await appendFile(path, `${lines}\n`, { mode: 0o600, flush: true });
        for (const { id } of fresh) known.add(id);
      }
      since = looked;
    },
  };
}

/**
 * Does again what the file has and the database has not; gives how many lines.
 *
 * @throws Error when the file is there and cannot be read: then nobody knows what was forgotten
 */
export async function replayReceipts(database: Database, path: string, log: Logger): Promise<number> {
  const lines = await readJournal(path);
  const unknown = await ownerRows(database, "SELECT scopefloor.unknown_lines($1) AS id", [
    JSON.stringify(lines.map(({ id, ...line }) => ("revoked_at" in line ? { id, revoked_at: 1 } : { id }))),
  ]);
  const missing = new Set(unknown.map(({ id }) => id));
  const open = lines.filter(({ id }) => missing.has(id));
  if (open.length === 0) return 0;
  const replay = await openReplay(database);
  try {
    for (const line of open) {
      if (!("revoked_at" in line)) await replay.forget(line as z.output<typeof receiptLine>);
      await ownerRows(database, "SELECT scopefloor.note_replayed($1)", [JSON.stringify(line)]);
    }
  } finally {
    await replay.close();
  }
  log.warn({ lines: open.length }, "what was forgotten after this backup was made has been forgotten again");
  return open.length;
}

async function openReplay(database: Database) {
  const [id, secret] = [uuid(), newSecret("management")];
  const keyHash = hashSecret(secret);
  await ownerRows(database, "SELECT scopefloor.begin_replay($1, $2)", [id, keyHash]);
  const caller = { keyHash, onBehalfOf: undefined, route: "start", operation: "replay" };
  const scopes = await scopesByDigest(database);
  return {
    forget: async ({ target, items, action }: z.output<typeof receiptLine>) => {
      const digest = target["!digest"];
      const verb = "memory:forget" as const;
      if (items !== null) {
        const everywhere = {
          verb,
          mode: "forget",
          selector: [{ tags: GENERAL, subtree: true }],
          subtree: true,
        } as const;
        await enterScope(database.app, caller, everywhere, async (tx) => {
          await forgetItems(tx, items, action === "erase");
          await tx.call("drop_recalled_answers");
        });
      } else if (digest !== undefined) {
        // None: the backup is older than the scope itself.
        const tags = scopes.get(digest);
        if (tags === undefined) return;
        const below = { verb, mode: "erase", selector: [{ tags, subtree: true }], subtree: true } as const;
        await enterScope(database.app, caller, below, eraseSubtree);
      }
    },
    close: () => ownerRows(database, "SELECT scopefloor.end_replay($1)", [id]),
  };
}

/** Every scope of the dictionary and every one above it, by the hash that a receipt names it with. */
async function scopesByDigest(database: Database): Promise<Map<string, Scope>> {
  const found = new Map<string, Scope>();
  for (const { tags } of await ownerRows(database, "SELECT tags FROM scopefloor.every_scope()", [])) {
    const whole = Object.entries(tags as Record<string, string>).filter(([dimension]) => !dimension.startsWith("!"));
    for (let subset = 1; subset < 1 << whole.length; subset++) {
      const scope = scopeFromDatabase(Object.fromEntries(whole.filter((_, i) => (subset >> i) & 1)));
      found.set(scopeDigest(scope), scope);
    }
  }
  return found;
}

/** Nothing where there is no file yet. A line that a crash cut short is left out: the next save writes it again. */
async function readJournal(path: string): Promise<JournalLine[]> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw new Error(`SCOPEFLOOR_RECEIPTS: ${path} cannot be read (${error.code})`);
  });
  return text.split("\n").flatMap((line, i) => {
    const value = jsonOf(line);
    if (value === undefined) return [];
    const parsed = journalLine.safeParse(value);
    if (!parsed.success) throw new Error(`SCOPEFLOOR_RECEIPTS: line ${i + 1} of ${path} is not one of a journal`);
    return [parsed.data];
  });
}

function jsonOf(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

const ownerRows = (database: Database, text: string, params: readonly unknown[]): Promise<Row[]> =>
  inTransaction(database.owner, (owner) => owner.query(text, params));
