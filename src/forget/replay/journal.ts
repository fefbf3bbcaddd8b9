/**
 * Receipts and changed keys in a file beside the database, one JSON object a line: ids, numbers and
 * hashes, no name and no text. A backup is older than what was forgotten after it; replay.ts does
 * again what the file has and a restored database has not.
 */
import { createReadStream } from "node:fs";
import { appendFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { z } from "zod";
import { type Database, inTransaction } from "../../db/connect/lease.ts";
import { ofEachKind } from "../../traces/receipt.ts";
import { OLD_KINDS, SINCE } from "../forget-old.ts";

// As the database takes them: of no particular version.
const ids = z.array(z.guid()).default([]);
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
  /** What it took by age and kind. */
  selector: z
    .object({
      kinds: z.array(z.enum(OLD_KINDS)).optional(),
      since: z.enum(SINCE).optional(),
      before: z.string(),
    })
    .nullish(),
  /** Its signature. */
  jws: z.string().nullish(),
  /** The key that did it. */
  by: z.uuid(),
});
/** A key whose secret, rights or end were changed then: as it was before it must not come back. */
const keyLine = z.object({ kind: z.literal("key"), id: z.uuid(), at: z.string() });
/** Says of an earlier line that a crash cut it short: nothing is known by it. */
const cutLine = z.object({ kind: z.literal("cut"), text: z.string() });
const anyLine = z.discriminatedUnion("kind", [receiptLine, keyLine, cutLine]);

export type ReceiptLine = z.output<typeof receiptLine>;
export type JournalLine = ReceiptLine | z.output<typeof keyLine>;

/** Receipts of transactions that were still open at the last look: none takes so long. */
const OVERLAP = "10 minutes";

/** What makes a line one that the file has: a key has one for each change. */
export const nameOf = ({ kind, id, at }: JournalLine) => (kind === "key" ? `${kind} ${id} ${at}` : `${kind} ${id}`);

/** Appends what is new since the last call; the first one compares everything. */
export function receiptJournal(database: Database, path: string): { save(): Promise<void> } {
  let known: Set<string> | undefined;
  let since: string | undefined;
  /** What could not be written: again word for word, since the file may have a part of it. */
  let unwritten: readonly JournalLine[] = [];
  const append = (lines: readonly object[]) =>
    // Begun on a line of its own, also behind one that was cut short.
    appendFile(path, `${lines.map((line) => `\n${JSON.stringify(line)}`).join("")}\n`, { mode: 0o600, flush: true });
  return {
    save: async () => {
      if (known === undefined) {
        const { names, cuts } = await namesIn(path);
        if (cuts.length > 0) await append(cuts.map((text) => ({ kind: "cut", text })));
        known = names;
      }
      const { rows, looked } = await inTransaction(database.owner, async (owner) => {
        // By the database's clock, which its rows have their times from.
        const [clock] = await owner.query("SELECT (clock_timestamp() - $1::interval)::text AS looked", [OVERLAP]);
        const rows = await owner.query("SELECT line FROM scopefloor.journal_lines($1)", [since ?? null]);
        return { rows, looked: clock?.looked as string };
      });
      const waiting = new Set(unwritten.map(nameOf));
      const fresh = rows
        .map((row) => row.line as JournalLine)
        .filter((line) => known?.has(nameOf(line)) === false && !waiting.has(nameOf(line)));
      unwritten = [...unwritten, ...fresh];
      since = looked;
      if (unwritten.length === 0) return;
      await append(unwritten);
      for (const line of unwritten) known.add(nameOf(line));
      unwritten = [];
    },
  };
}

async function namesIn(path: string): Promise<{ names: Set<string>; cuts: readonly string[] }> {
  const names = new Set<string>();
  const lines = readJournal(path);
  for (let next = await lines.next(); ; next = await lines.next()) {
    if (next.done === true) return { names, cuts: next.value };
    names.add(nameOf(next.value));
  }
}

/**
 * The file's lines, in order; and at its end what comes last and was cut short by a crash. What was cut
 * short earlier is left out where a later line has all of it, or says so.
 *
 * @throws Error when the file is not there, cannot be read or is something else: then nobody knows what
 *   was forgotten
 */
export async function* readJournal(path: string): AsyncGenerator<JournalLine, readonly string[]> {
  let cuts: { readonly line: string; readonly number: number }[] = [];
  let number = 0;
  let lastWhole = 0;
  for await (const line of linesOf(path)) {
    number++;
    if (line === "") continue;
    const value = jsonOf(line);
    if (value === undefined) {
      cuts.push({ line, number });
      continue;
    }
    const parsed = anyLine.safeParse(value);
    if (!parsed.success) throw notALine(path, number);
    lastWhole = number;
    const whole = parsed.data.kind === "cut" ? parsed.data.text : line;
    cuts = cuts.filter((cut) => !whole.startsWith(cut.line));
    if (parsed.data.kind !== "cut") yield parsed.data;
  }
  const spoilt = cuts.find((cut) => cut.number < lastWhole);
  if (spoilt !== undefined) throw notALine(path, spoilt.number);
  return cuts.map(({ line }) => line);
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
