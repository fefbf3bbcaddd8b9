/** Does again what was forgotten after a backup, once that was restored and before anyone is answered. */
import type { Logger } from "pino";
import { v7 as uuid } from "uuid";
import { enterScope } from "../../db/access/enter.ts";
import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { type Database, inTransaction, type Row } from "../../db/connect/lease.ts";
import { removeChunks } from "../../documents/documents.ts";
import { hashSecret, newSecret } from "../../keys/secret.ts";
import { type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import { type ForgottenItems, scopeDigest } from "../../traces/receipt.ts";
import { forgetItems } from "../forget-items.ts";
import { forgetOld } from "../forget-old.ts";
import { eraseSubtree } from "../subtree.ts";
import { type JournalLine, nameOf, type ReceiptLine, readJournal } from "./journal.ts";

/** Lines that the database is asked about at once. */
const LINES_PER_BATCH = 1_000;

/**
 * Does again what the file has and the database has not; gives how many lines.
 *
 * Each is done inside the scope that it was done in, whatever ids it names. A key that is as it was
 * before a change is revoked: its old secret or rights must not come back.
 *
 * @throws Error when the file cannot be read
 */
export async function replayReceipts(database: Database, path: string, log: Logger): Promise<number> {
  if (database.kind === "embedded") return replayAlone(database, path, log);
  // One process at a time: a second one that is late would take what was written since the first was through.
  const lease = await database.owner.acquire("replay");
  try {
    await lease.query("SELECT pg_catalog.pg_advisory_lock(7700, 7)");
    return await replayAlone(database, path, log);
  } finally {
    await lease.release();
  }
}

async function replayAlone(database: Database, path: string, log: Logger): Promise<number> {
  // Two processes with one file, or a write that failed half way, leave a line twice.
  const byName = new Map<string, JournalLine>();
  for await (const lines of inBatches(readJournal(path))) {
    const unknown = await ownerRows(database, "SELECT place FROM scopefloor.unknown_lines($1)", [asked(lines)]);
    const places = new Set(unknown.map(({ place }) => place));
    for (const line of lines.filter((_, at) => places.has(at))) byName.set(nameOf(line), line);
  }
  const open = [...byName.values()];
  if (open.length === 0) return 0;
  const receipts = open.filter((line) => line.kind === "receipt");
  const scopes = await scopesByDigest(database, new Set(receipts.flatMap(({ target, scope }) => [target, scope])));
  const replay = await openReplay(database);
  let unnamed = 0;
  try {
    // Keys first: the dictionary keeps the name of an erased scope where a live key has it as its floor.
    for (const line of open.filter(({ kind }) => kind === "key")) await noteReplayed(database, line);
    for (const line of receipts) {
      const target = scopes.get(line.target);
      // None: the backup is older than the scope itself, and nothing in it says its name.
      if (target === undefined) unnamed++;
      else await replay.forget(line, target);
      await noteReplayed(database, line, scopes.get(line.scope));
    }
  } finally {
    await replay.close();
  }
  log.warn(
    { lines: open.length, ofScopesThatAreNotThere: unnamed },
    "what was forgotten after this backup was made has been forgotten again",
  );
  return open.length;
}

const noteReplayed = (database: Database, line: JournalLine, stoodAt?: Scope) =>
  ownerRows(database, "SELECT scopefloor.note_replayed($1, $2)", [
    JSON.stringify(line),
    JSON.stringify(stoodAt ?? null),
  ]);

/** Whether all that the file has is done, for a process that may not do it itself. */
export async function isReplayed(database: Database, path: string): Promise<boolean> {
  for await (const lines of inBatches(readJournal(path))) {
    const [row] = await inTransaction(database.app, (app) =>
      app.query("SELECT scopefloor.knows_lines($1) AS known", [asked(lines)]),
    );
    if (row?.known !== true) return false;
  }
  return true;
}

const asked = (lines: readonly JournalLine[]) => JSON.stringify(lines.map(({ kind, id, at }) => ({ kind, id, at })));

async function* inBatches(lines: AsyncIterable<JournalLine>): AsyncGenerator<JournalLine[]> {
  let batch: JournalLine[] = [];
  for await (const line of lines) {
    batch.push(line);
    if (batch.length < LINES_PER_BATCH) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

async function openReplay(database: Database) {
  const [id, secret] = [uuid(), newSecret("management")];
  const keyHash = hashSecret(secret);
  await ownerRows(database, "SELECT scopefloor.begin_replay($1, $2)", [id, keyHash]);
  const caller = { keyHash, onBehalfOf: undefined, route: "start", operation: "replay" };
  return {
    forget: async ({ items, action, policy, subtree, selector: old }: ReceiptLine, tags: Scope) => {
      const selector = [{ tags, subtree: true }];
      const demand = { verb: "memory:forget", selector, subtree: true } as const;
      if (old !== undefined && old !== null) {
        const run = { ...old, purge: action === "erase" };
        const within = { ...demand, subtree, selector: [{ tags, subtree: false }] };
        for (let isAll = false; !isAll; )
          ({ isAll } = await enterScope(database.app, caller, { ...within, mode: "forget" }, (tx) =>
            forgetOld(tx, run),
          ));
      } else if (policy === "scope") await enterScope(database.app, caller, { ...demand, mode: "erase" }, eraseSubtree);
      else if (items !== null)
        await enterScope(database.app, caller, { ...demand, mode: "forget" }, async (tx) => {
          for (const id of await otherVersions(tx, items)) await removeChunks(tx, id);
          await forgetItems(tx, items, action === "erase");
          await tx.call("drop_cached_answers");
        });
    },
    close: () => ownerRows(database, "SELECT scopefloor.end_replay($1)", [id]),
  };
}

/**
 * Documents that the backup has in another version than the one whose chunks were forgotten: which of
 * its own say the same is not known, so all of them go.
 */
async function otherVersions(tx: ScopedTransaction, { contents, passages }: ForgottenItems): Promise<string[]> {
  if (contents.length === 0) return [];
  const rows = await tx.rows<{ id: string }>(sql`
    SELECT o.id FROM ${tx.read("document", "o")} WHERE o.id = ANY (${list(contents)}::uuid[])
      AND NOT EXISTS (SELECT 1 FROM ${tx.read("passage", "p")} WHERE p.document_id = o.id AND p.id = ANY (${list(passages)}::uuid[]))`);
  return rows.map(({ id }) => id);
}

/** Of all scopes that anything names, and those above them, the ones with such hashes. */
async function scopesByDigest(database: Database, wanted: ReadonlySet<string>): Promise<Map<string, Scope>> {
  const found = new Map<string, Scope>();
  if (wanted.size === 0) return found;
  for (const { tags } of await ownerRows(database, "SELECT tags FROM scopefloor.named_scopes()", [])) {
    const whole = Object.entries(tags as Record<string, string>).filter(([dimension]) => !dimension.startsWith("!"));
    for (let subset = 0; subset < 1 << whole.length && found.size < wanted.size; subset++) {
      const scope = scopeFromDatabase(Object.fromEntries(whole.filter((_, i) => (subset >> i) & 1)));
      const digest = scopeDigest(scope);
      if (wanted.has(digest)) found.set(digest, scope);
    }
  }
  return found;
}

const ownerRows = (database: Database, text: string, params: readonly unknown[]): Promise<Row[]> =>
  inTransaction(database.owner, (owner) => owner.query(text, params));
