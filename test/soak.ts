/**
 * `npm run soak -- <name>`: the long forms of tests, on PostgreSQL or with `--embedded` on PGlite;
 * several beside each other with a comma between them. Each prints one line `RESULT {json}` at its end
 * and exits with 1 when something was found.
 */
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";

interface Soak {
  readonly files: readonly string[];
  /** The environment variable that says how much, the option's name, and how much in full. */
  readonly size: readonly [variable: string, option: string, full: number];
}

const SOAKS: Readonly<Record<string, Soak>> = {
  model: { files: ["test/isolation/model.test.ts"], size: ["SCOPEFLOOR_MODEL_COMMANDS", "commands", 1_000_000] },
  noninterference: { files: ["test/isolation/noninterference.test.ts"], size: ["SCOPEFLOOR_PAIRS", "pairs", 20_000] },
  faults: {
    files: ["test/faults/ledger.test.ts", "test/faults/disk-full.test.ts", "test/jobs/kill.test.ts"],
    size: ["SCOPEFLOOR_FAULTS", "times", 30],
  },
  races: { files: ["test/forget/race.test.ts"], size: ["SCOPEFLOOR_RACES", "races", 10_000] },
};

const {
  positionals: [name = ""],
  values,
} = parseArgs({ strict: false, allowPositionals: true });
const given = (option: string) => (typeof values[option] === "string" ? values[option] : undefined);

const environment = { ...process.env };
if (values.embedded !== undefined) delete environment.TEST_DATABASE_URL;

const run = (script: readonly string[]) =>
  new Promise<number>((resolve) => {
    spawn(process.execPath, script, { stdio: "inherit", env: environment }).once("exit", (code) => resolve(code ?? 1));
  });

/** Stryker's own score: mutants that a test or a hang gave away, of those that were made. */
async function mutationScore() {
  const report = JSON.parse(await readFile("reports/mutation.json", "utf8")) as {
    files: Record<string, { mutants: { status: string }[] }>;
  };
  const statuses = Object.values(report.files).flatMap(({ mutants }) => mutants.map(({ status }) => status));
  const count = (...which: string[]) => statuses.filter((status) => which.includes(status)).length;
  const [killed, alive] = [count("Killed", "Timeout"), count("Survived", "NoCoverage")];
  return { mutants: killed + alive, killed, percent: Math.round((1000 * killed) / (killed + alive)) / 10 };
}

if (name === "mutants") {
  const only = given("only");
  process.exitCode = await run(["--import", "tsx", "test/mutants/run.ts", ...(only === undefined ? [] : [only])]);
} else if (name === "mutation") {
  // `--files=src/keys/*.ts`: those alone.
  const files = given("files");
  const code = await run([
    "node_modules/@stryker-mutator/core/bin/stryker.js",
    "run",
    ...(files === undefined ? [] : ["--mutate", files]),
  ]);
  process.stdout.write(`RESULT ${JSON.stringify({ soak: name, ...(await mutationScore()), passed: code === 0 })}\n`);
  process.exitCode = code;
} else {
  const soaks = name.split(",").map((one) => SOAKS[one]);
  if (!soaks.every((soak) => soak !== undefined)) {
    process.stderr.write(
      `usage: npm run soak -- <${[...Object.keys(SOAKS), "mutants", "mutation"].join("|")}> [--embedded]\n`,
    );
    process.exit(1);
  }
  const sizes = soaks.map(({ size: [, option, full] }) => [option, Number(given(option) ?? full)] as const);
  const seed = given("seed") ?? String(Date.now() % 1_000_000);
  environment.SCOPEFLOOR_SEED = seed;
  soaks.forEach(({ size: [variable] }, at) => {
    environment[variable] = String(sizes[at]?.[1]);
  });
  const began = performance.now();
  const code = await run(["node_modules/vitest/vitest.mjs", "run", ...soaks.flatMap(({ files }) => files)]);
  const seconds = Math.round((performance.now() - began) / 1000);
  const database = environment.TEST_DATABASE_URL === undefined ? "embedded" : "postgres";
  process.stdout.write(
    `RESULT ${JSON.stringify({ soak: name, database, ...Object.fromEntries(sizes), seed, seconds, passed: code === 0 })}\n`,
  );
  process.exitCode = code;
}
