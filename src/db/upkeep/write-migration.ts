/**
 * Writes the next migration from what has changed since the last: `npm run migration -- <name>`.
 * With `--check` it writes nothing and fails where there is something to write.
 */
import { execFile } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { composeMigration, correctTables, joinParts, readPast, readPresent } from "./present.ts";

const FOLDER = fileURLToPath(new URL("../../../drizzle", import.meta.url));

interface Journal {
  readonly entries: readonly { idx: number; version: string; when: number; tag: string; breakpoints: boolean }[];
}

const readJournal = async (): Promise<Journal> => JSON.parse(await readFile(`${FOLDER}/meta/_journal.json`, "utf8"));

/** Lets drizzle-kit write what has changed in the tables; takes its file back and gives what is in it. */
async function changesOfTables(): Promise<string> {
  const journal = await readFile(`${FOLDER}/meta/_journal.json`);
  const before = new Set(await readdir(FOLDER));
  await promisify(execFile)("npx", ["drizzle-kit", "generate", "--name", "tables"]);
  const made = (await readdir(FOLDER)).find((file) => file.endsWith(".sql") && !before.has(file));
  if (made === undefined) return "";
  const statements = correctTables(await readFile(`${FOLDER}/${made}`, "utf8"));
  await rm(`${FOLDER}/${made}`);
  await writeFile(`${FOLDER}/meta/_journal.json`, journal);
  return statements;
}

async function add(name: string, text: string): Promise<string> {
  const { entries, ...journal } = await readJournal();
  const tag = `${String(entries.length).padStart(4, "0")}_${name}`;
  await writeFile(`${FOLDER}/${tag}.sql`, text);
  const entry = { idx: entries.length, version: "7", when: Date.now(), tag, breakpoints: true };
  const added = JSON.stringify({ ...journal, entries: [...entries, entry] }, null, 2);
  await writeFile(`${FOLDER}/meta/_journal.json`, `${added}\n`);
  return `drizzle/${tag}.sql`;
}

/** The names of the files that it wrote. */
async function writeMigration(name: string): Promise<string[]> {
  const { entries } = await readJournal();
  const past = readPast(await Promise.all(entries.map(({ tag }) => readFile(`${FOLDER}/${tag}.sql`, "utf8"))));
  const next = composeMigration(past, await readPresent(), await changesOfTables());
  if (next === undefined) return [];
  // The very first are two: the tables, and all that stands on them.
  if (entries.length === 0) return [await add("tables", next.tables), await add(name, next.rest)];
  return [await add(name, joinParts(next))];
}

/** Whether anything would be written; leaves the folder as it was. */
async function isBehind(): Promise<boolean> {
  const copy = await mkdtemp(`${FOLDER}-`);
  await cp(FOLDER, copy, { recursive: true });
  try {
    return (await writeMigration("check")).length > 0;
  } finally {
    await rm(FOLDER, { recursive: true });
    await cp(copy, FOLDER, { recursive: true });
    await rm(copy, { recursive: true });
  }
}

const { positionals, values } = parseArgs({ allowPositionals: true, options: { check: { type: "boolean" } } });
const [name] = positionals;
if (values.check === true) {
  if (await isBehind()) throw new Error("src/db has changed since the last migration: npm run migration -- <name>");
} else if (name !== undefined && /^[a-z][a-z0-9_]*$/.test(name)) {
  const written = await writeMigration(name);
  process.stdout.write(written.length === 0 ? "nothing has changed\n" : `wrote ${written.join(", ")}\n`);
} else {
  throw new Error("usage: npm run migration -- <name_in_snake_case>, or --check");
}
