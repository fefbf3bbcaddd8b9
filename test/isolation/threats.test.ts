import { readFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";

/** The attacks by their numbers; a test names in its title the ones that it is about. */
const THREATS = (readFileSync("docs/threats.md", "utf8").match(/^\| \d+ \|/gm) ?? []).length;

/** Against what is not there yet there is nothing to try. */
const NOT_BUILT: Readonly<Record<number, string>> = {};

/** Numbers in the titles of tests: `(threat 9)`, `(threats 20, 21, 33)`. */
async function numbersNamed(): Promise<Set<number>> {
  const files = (await readdir("test", { recursive: true })).filter((name) => name.endsWith(".test.ts"));
  const texts = await Promise.all(files.map((name) => readFile(join("test", name), "utf8")));
  return new Set(
    texts.flatMap((text) =>
      [...text.matchAll(/\(threats? ([\d, ]+)\)["`]/g)].flatMap(([, list = ""]) => list.split(",").map(Number)),
    ),
  );
}

test("each attack on the list is named in the title of a test that tries it", async () => {
  const named = await numbersNamed();
  const missing = Array.from({ length: THREATS }, (_, i) => i + 1).filter(
    (number) => !named.has(number) && NOT_BUILT[number] === undefined,
  );
  expect(missing).toEqual([]);
  expect([...named].filter((number) => number > THREATS || NOT_BUILT[number] !== undefined)).toEqual([]);
});
