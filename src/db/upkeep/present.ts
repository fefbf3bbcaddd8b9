/**
 * The database as it should be now: the tables of src/db/tables and everything else in src/db/sql, one
 * file a subject. Migrations are written from it (write-migration.ts) and never read.
 */
import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { DEFINERS } from "../access/definers.ts";

const FOLDER = fileURLToPath(new URL("../sql/", import.meta.url));

/** One file of src/db/sql. It may be run again on a database that has it already. */
export interface SqlFile {
  readonly name: string;
  readonly text: string;
}

/** Every file, in the order in which they run. */
export async function readPresent(): Promise<SqlFile[]> {
  const names = (await readdir(FOLDER, { recursive: true })).filter((name) => name.endsWith(".sql")).sort();
  return Promise.all(
    names.map(async (name) => ({ name, text: withGrants(await readFile(`${FOLDER}/${name}`, "utf8")) })),
  );
}

/** The grants of functions come from the list that the builder has. */
const withGrants = (text: string) => text.replace("{{definers}}", JSON.stringify(DEFINERS)).trim();

/** What tables are made on (roles, the extension, the schema) comes before them, everything else after. */
const isFoundation = ({ name }: SqlFile) => name.startsWith("0_");

/** What drizzle-kit writes, corrected: the schema is there before the tables, and it does not know partitions. */
export const correctTables = (ddl: string): string =>
  ddl
    .replace(/CREATE SCHEMA "scopefloor";\n?(--> statement-breakpoint\n)?/, "")
    .replace(/(CREATE TABLE "scopefloor"\."decision_trace" \([\s\S]*?\n\));/, '$1 PARTITION BY RANGE ("created_at");');

/** Between two parts of a migration, as drizzle's reader expects it. */
const BREAK = "\n--> statement-breakpoint\n";
const HEADER = /^-- src\/db\/sql\/(\S+)\n/;
const FUNCTION = /^CREATE OR REPLACE FUNCTION scopefloor\.(\w+)([\s\S]*?)\nLANGUAGE/gm;

/** Each function's arguments and result. */
const signaturesOf = (files: readonly SqlFile[]) =>
  new Map(files.flatMap(({ text }) => [...text.matchAll(FUNCTION)].map(([, name = "", rest = ""]) => [name, rest])));

/** The files as migrations have left them: the last copy of each. */
export function readPast(migrations: readonly string[]): SqlFile[] {
  const past = new Map<string, string>();
  for (const part of migrations.flatMap((text) => text.split(BREAK))) {
    const name = HEADER.exec(part)?.[1];
    if (name !== undefined) past.set(name, part.replace(HEADER, "").trim());
  }
  return [...past].map(([name, text]) => ({ name, text }));
}

/** What stands for a file that is no longer there. */
const GONE_FILE = "-- Its subject stands in other files now.";

export interface NextMigration {
  /** What comes up to the tables, and with them. */
  readonly tables: string;
  readonly rest: string;
}

/** Policies and grants: what is made anew has neither, so they run after every change. */
const isForAll = ({ name }: SqlFile) => /^[56]_/.test(name);

/** A policy holds on to the functions that it asks; the file of policies, which follows, makes each anew. */
const DROP_POLICIES = `DO $$
DECLARE
  p record;
BEGIN
  FOR p IN SELECT polname AS name, polrelid::regclass AS at FROM pg_policy
           WHERE polrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace) LOOP
    EXECUTE format('DROP POLICY %I ON %s', p.name, p.at);
  END LOOP;
END $$;`;

/**
 * The migration from one state of the files to another: each changed file as a whole, the files of
 * policies and grants, and a DROP for each function that is gone or has other arguments.
 *
 * @param tables the statements that change the tables, or nothing
 * @returns undefined where nothing has changed
 */
export function composeMigration(
  past: readonly SqlFile[],
  present: readonly SqlFile[],
  tables: string,
): NextMigration | undefined {
  const before = new Map(past.map(({ name, text }) => [name, text]));
  const differing = present.filter(({ name, text }) => before.get(name) !== text);
  const [old, now] = [signaturesOf(past), signaturesOf(present)];
  const drop = (name: string) => `DROP FUNCTION scopefloor.${name};`;
  const gone = [...old.keys()].filter((name) => !now.has(name)).map(drop);
  const replaced = [...old]
    .filter(([name, rest]) => now.has(name) && now.get(name) !== rest)
    .map(([name]) => drop(name));
  const left = past.filter(({ name, text }) => text !== GONE_FILE && !present.some((file) => file.name === name));
  if (tables === "" && differing.length + gone.length + left.length === 0) return undefined;
  const changed = present.filter((file) => differing.includes(file) || isForAll(file));
  const asPart = ({ name, text }: SqlFile) => `-- src/db/sql/${name}\n${text}\n`;
  return {
    tables: [...changed.filter(isFoundation).map(asPart), ...(tables === "" ? [] : [tables])].join(BREAK),
    rest: [
      ...(replaced.length === 0 ? [] : [DROP_POLICIES]),
      ...replaced,
      ...changed.filter((file) => !isFoundation(file)).map(asPart),
      ...left.map(({ name }) => asPart({ name, text: GONE_FILE })),
      ...gone,
    ].join(BREAK),
  };
}

export const joinParts = ({ tables, rest }: NextMigration): string =>
  [tables, rest].filter((part) => part !== "").join(BREAK);
