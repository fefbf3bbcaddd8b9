/** Runs every mutant and prints which test has killed it; exits with 1 when one survives. */
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MUTANTS, type Mutant } from "./mutants.ts";

const only = process.argv[2];
const chosen = MUTANTS.filter(({ name }) => only === undefined || name.includes(only));

interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

/** Most run embedded, where a test starts faster; some are about a server. */
function environmentFor({ on, name }: Mutant): NodeJS.ProcessEnv {
  const { TEST_DATABASE_URL, ...rest } = process.env;
  if (on !== "postgres") return rest;
  if (TEST_DATABASE_URL === undefined) throw new Error(`${name}: this one takes TEST_DATABASE_URL`);
  return { ...rest, TEST_DATABASE_URL };
}

/** The test that has failed; undefined: the mutant survives. */
async function killerOf(mutant: Mutant, folder: string): Promise<string | undefined> {
  const file = join(folder, "report.json");
  await rm(file, { force: true });
  const child = spawn(
    process.execPath,
    ["node_modules/vitest/vitest.mjs", "run", "--bail=1", "--reporter=json", `--outputFile=${file}`, ...mutant.tests],
    {
      env: { SCOPEFLOOR_PAIRS: "4", ...environmentFor(mutant), SCOPEFLOOR_MUTANT: mutant.name },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  let output = "";
  child.stdout.on("data", (data) => (output += data));
  child.stderr.on("data", (data) => (output += data));
  await new Promise((resolve) => child.once("exit", resolve));
  const report = await readFile(file, "utf8").then(
    (text) => JSON.parse(text) as Report,
    () => undefined,
  );
  if (report === undefined) throw new Error(`${mutant.name}: the tests did not run\n${output}`);
  for (const { name, status, message, assertionResults } of report.testResults) {
    const failed = assertionResults.find((one) => one.status === "failed");
    const path = name.slice(name.indexOf("test/"));
    if (failed !== undefined) return `${path}: ${failed.fullName.trim()}`;
    if (status === "failed")
      return `${path}: ${message.includes("not proven") ? "the statement proof" : message.split("\n")[0]}`;
  }
  return undefined;
}

const folder = await mkdtemp(join(tmpdir(), "scopefloor-mutants-"));
const began = performance.now();
const survivors: string[] = [];
try {
  for (const mutant of chosen) {
    const killer = await killerOf(mutant, folder);
    if (killer === undefined) survivors.push(mutant.name);
    process.stdout.write(
      `${killer === undefined ? "SURVIVES" : "killed  "}  ${mutant.name}\n          ${killer ?? mutant.tests.join(", ")}\n`,
    );
  }
} finally {
  await rm(folder, { recursive: true });
}
process.stdout.write(
  `\n${chosen.length - survivors.length} of ${chosen.length} mutants killed in ${Math.round((performance.now() - began) / 1000)} s\n` +
    `RESULT ${JSON.stringify({ soak: "mutants", mutants: chosen.length, killed: chosen.length - survivors.length, survivors })}\n`,
);
process.exitCode = survivors.length === 0 ? 0 : 1;
