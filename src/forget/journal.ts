/**
 * Receipts and changed keys in a file beside the database, one JSON object a line: ids, numbers and
 * hashes, no name and no text. A backup is older than what was forgotten after it; replay.ts does
 * again what the file has and a restored database has not.
 */
import { createReadStream } from "node:fs";
import { appendFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { z } from "zod";
import { type Database, inTransaction } from "../db/lease.ts";
import { ofEachKind } from "./receipt.ts";

const ids = z.array(z.uuid()).default([]);
const digest = z.hex().length(64);

const receiptLine = z.object({
  kind: z.literal("receipt"),
  id: z.uuid(),
  at: z.string(),
  /** The scope that was forgotten in, and where the receipt stands: their hashes (receipt.ts). */
  target: digest,
  scope: digest,
  subtree: z.boolean(),
  action: z.enum(["expire", "erase"]),
  policy: z.string(),
  counts: z.record(z.string(), z.number()),
  /** Null: the whole target. */
  items: z.object(ofEachKind(ids)).nullable(),
  /** The key that did it. */
  by: z.uuid(),
});
/** A key whose secret, rights or end were changed then: as it was before it must not come back. */
const keyLine = z.object({ kind: z.literal("key"), id: z.uuid(), at: z.string() });
const journalLine = z.discriminatedUnion("kind", [receiptLine, keyLine]);

export type ReceiptLine = z.output<typeof receiptLine>;
export type JournalLine = z.output<typeof journalLine>;

/** Receipts of transactions that were still open at the last look: none takes so long. */
const OVERLAP = "10 minutes";

/** What makes a line one that the file has: a key has one for each change. */
const nameOf = ({ kind, id, at }: JournalLine) => (kind === "key" ? `${kind} ${id} ${at}` : `${kind} ${id}`);

/** Appends what is new since the last call; the first one compares everything. */
export function receiptJournal(database: Database, path: string): { save(): Promise<void> } {
  let known: Set<string> | undefined;
  let since: string | undefined;
  return {
    save: async () => {
      if (known === undefined) {
        known = new Set();
        for await (const line of readJournal(path)) known.add(nameOf(line));
      }
      const { rows, looked } = await inTransaction(database.owner, async (owner) => {
        // By the database's clock, which its rows have their times from.
        const [clock] = await owner.query("SELECT (clock_timestamp() - $1::interval)::text AS looked", [OVERLAP]);
        const rows = await owner.query("SELECT line FROM scopefloor.journal_lines($1)", [since ?? null]);
        return { rows, looked: clock?.looked as string };
      });
      const fresh = rows.map((row) => row.line as JournalLine).filter((line) => known?.has(nameOf(line)) === false);
      if (fresh.length > 0) {
        // Begun on a line of its own, also behind one that was cut short.
        const lines = fresh.map((line) => `\n${JSON.stringify(line)}`).join("");
        await appendFile(path, `${lines}\n`, { mode: 0o600, flush: true });
        for (const line of fresh) known.add(nameOf(line));
      }
      since = looked;
    },
  };
}

/**
 * The file's lines, in order. A line that a crash cut short is left out: the next save has written, or
 * writes, it again.
 *
 * @throws Error when the file is not there, cannot be read or is something else: then nobody knows what
 *   was forgotten
 */
export async function* readJournal(path: string): AsyncGenerator<JournalLine> {
  let cut: { line: string; number: number } | undefined;
  let number = 0;
  for await (const line of linesOf(path)) {
    number++;
    if (line === "") continue;
    if (cut !== undefined && line.startsWith(cut.line)) cut = undefined;
    const value = jsonOf(line);
    if (value === undefined) {
      if (cut !== undefined) throw notALine(path, cut.number);
      cut = { line, number };
      continue;
    }
    const parsed = journalLine.safeParse(value);
    if (!parsed.success) throw notALine(path, number);
    yield parsed.data;
  }
  // Only the last thing that was written may have been cut short.
  if (cut !== undefined && cut.number !== number) throw notALine(path, cut.number);
}

async function* linesOf(path: string): AsyncGenerator<string> {
  const file = createReadStream(path, "utf8");
  try {
    yield* createInterface({ input: file, crlfDelay: Number.POSITIVE_INFINITY });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Error(
      code === "ENOENT"
        ? `SCOPEFLOOR_RECEIPTS: ${path} is not there; where a journal is to begin, make an empty file`
        : `SCOPEFLOOR_RECEIPTS: ${path} cannot be read (${code})`,
    );
  } finally {
    file.destroy();
  }
}

const notALine = (path: string, number: number) =>
  new Error(`SCOPEFLOOR_RECEIPTS: line ${number} of ${path} is not one of a journal`);

function jsonOf(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
