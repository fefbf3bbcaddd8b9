import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { Plugin } from "vite";
import type { Database, Row } from "../../src/db/connect/lease.ts";
import { type FunctionMutant, MUTANTS, type Mutant, type SourceMutant } from "./mutants.ts";

/** The mutant that this run is about, if any. */
export function chosenMutant(): Mutant | undefined {
  const name = process.env.SCOPEFLOOR_MUTANT;
  if (name === undefined) return undefined;
  const mutant = MUTANTS.find((one) => one.name === name);
  if (mutant === undefined) throw new Error(`there is no mutant ${name}`);
  return mutant;
}

/** Puts a source mutant into the file as it is loaded; the file itself stays as it is. */
export function mutantPlugin(): Plugin[] {
  const mutant = chosenMutant();
  if (mutant === undefined || !("file" in mutant)) return [];
  const id = resolve(mutant.file);
  mutated(readFileSync(id, "utf8"), mutant);
  return [
    {
      name: "scopefloor-mutant",
      enforce: "pre",
      transform: (code, file) => (file.split("?")[0] === id ? mutated(code, mutant) : undefined),
    },
  ];
}

/** Puts a database mutant into a migrated database. */
export async function mutateDatabase(database: Database): Promise<void> {
  const mutant = chosenMutant();
  if (mutant === undefined || "file" in mutant) return;
  const lease = await database.owner.acquire();
  try {
    if ("sql" in mutant) {
      await lease.query(mutant.sql);
      return;
    }
    await lease.query(mutated(await definitionOf(mutant, (text, params) => lease.query(text, params)), mutant));
  } finally {
    await lease.release();
  }
}

/** The function that the mutant breaks, as it stands in the database. */
export async function definitionOf(
  { function: name }: FunctionMutant,
  query: (text: string, params: readonly unknown[]) => Promise<readonly Row[]>,
): Promise<string> {
  const [row] = await query(
    "SELECT pg_get_functiondef(p.oid) AS text FROM pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace AND p.proname = $1",
    [name],
  );
  return String(row?.text);
}

/** @throws Error where what it replaces is not there, or in a file more than once */
export function mutated(text: string, mutant: SourceMutant | FunctionMutant): string {
  const pieces = text.split(mutant.from);
  const isOnce = "file" in mutant ? pieces.length === 2 : pieces.length > 1;
  if (!isOnce)
    throw new Error(`the mutant "${mutant.name}" does not apply: what it replaces is there ${pieces.length - 1} times`);
  return pieces.join(mutant.to);
}
