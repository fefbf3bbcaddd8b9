/**
 * Writes the next migration from what has changed since the last: `npm run migration -- <name>`.
 * With `--check` it writes nothing and fails where there is something to write.
 */
import { execFile } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { composeMigration, correctTables, joinParts, readPast, readPresent } from "./present.ts";

const FOLDER = fileURLToPath(new URL("../../../drizzle", import.meta.url));

interface Journal {
  readonly entries: readonly { idx: number; version: string; when: number; tag: string; breakpoints: boolean }[];
}

const readJournal = async (folder: string): Promise<Journal> =>
  JSON.parse(await readFile(`${folder}/meta/_journal.json`, "utf8"));

/** Lets drizzle-kit write what has changed in the tables; takes its file back and gives what is in it. */
async function changesOfTables(folder: string): Promise<string> {
  const journal = await readFile(`${folder}/meta/_journal.json`);
  const before = new Set(await readdir(folder));
  // It takes no absolute path, and where it fails it ends without a code of its own.
  const { stdout } = await promisify(execFile)("npx", ["drizzle-kit", "generate", "--name", "tables"], {
    env: { ...process.env, DRIZZLE_FOLDER: relative(process.cwd(), folder) },
  });
  if (!/No schema changes|Your SQL migration file/.test(stdout))
    throw new Error(`drizzle-kit wrote nothing: ${stdout}`);
  const made = (await readdir(folder)).find((file) => file.endsWith(".sql") && !before.has(file));
  if (made === undefined) return "";
  const statements = correctTables(await readFile(`${folder}/${made}`, "utf8"));
  await rm(`${folder}/${made}`);
  await writeFile(`${folder}/meta/_journal.json`, journal);
  return statements;
}

async function add(folder: string, name: string, text: string): Promise<string> {
  const { entries, ...journal } = await readJournal(folder);
  const tag = `${String(entries.length).padStart(4, "0")}_${name}`;
  await writeFile(`${folder}/${tag}.sql`, text);
  const entry = { idx: entries.length, version: "7", when: Date.now(), tag, breakpoints: true };
  const added = JSON.stringify({ ...journal, entries: [...entries, entry] }, null, 2);
  await writeFile(`${folder}/meta/_journal.json`, `${added}\n`);
  return `drizzle/${tag}.sql`;
}

/** The names of the files that it wrote. */
async function writeMigration(folder: string, name: string): Promise<string[]> {
  const { entries } = await readJournal(folder);
  const past = readPast(await Promise.all(entries.map(({ tag }) => readFile(`${folder}/${tag}.sql`, "utf8"))));
  const next = composeMigration(past, await readPresent(), await changesOfTables(folder));
  if (next === undefined) return [];
  // The very first are two: the tables, and all that stands on them.
  if (entries.length === 0) return [await add(folder, "tables", next.tables), await add(folder, name, next.rest)];
  return [await add(folder, name, joinParts(next))];
}

/** Whether anything would be written; works in a copy. */
async function isBehind(): Promise<boolean> {
  const copy = await mkdtemp(`${FOLDER}-`);
  try {
    await cp(FOLDER, copy, { recursive: true });
    return (await writeMigration(copy, "check")).length > 0;
  } finally {
    await rm(copy, { recursive: true });
  }
}

const { positionals, values } = parseArgs({ allowPositionals: true, options: { check: { type: "boolean" } } });
const [name] = positionals;
if (values.check === true) {
  if (await isBehind()) throw new Error("src/db has changed since the last migration: npm run migration -- <name>");
} else if (name !== undefined && /^[a-z][a-z0-9_]*$/.test(name)) {
  const written = await writeMigration(FOLDER, name);
  process.stdout.write(written.length === 0 ? "nothing has changed\n" : `wrote ${written.join(", ")}\n`);
} else {
  throw new Error("usage: npm run migration -- <name_in_snake_case>, or --check");
}
