import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../harness/database.ts";
import { definitionOf, mutated } from "../mutants/apply.ts";
import { MUTANTS } from "../mutants/mutants.ts";

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

const OF_TEXT = MUTANTS.filter((mutant) => "from" in mutant);

test.each(OF_TEXT)("the mutant $name still finds what it breaks", async (mutant) => {
  const text = "file" in mutant ? readFileSync(mutant.file, "utf8") : await definitionOf(mutant, database.sql);
  expect(mutated(text, mutant)).not.toBe(text);
});
