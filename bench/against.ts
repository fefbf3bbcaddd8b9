/** The same bench on this checkout and on another, alternately, and the ratios of their figures. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";

/** Each checkout's runs: their order is turned around each time, so that a machine that grows slower favours neither. */
const PAIRS = 2;

/**
 * @param checkout a folder with its packages installed; it is built first
 * @returns each figure of both (the median of the runs), and this one's divided by the other's
 */
export async function compareWith(checkout: string, name: string): Promise<Record<string, unknown>> {
  const folders = { this: process.cwd(), other: resolve(checkout) } as const;
  await run(folders.other, ["npm", "run", "--silent", "build"]);
  const figures: Record<keyof typeof folders, Map<string, number>[]> = { this: [], other: [] };
  const options = process.argv.slice(3).filter((option) => !/^--(against|pairs)/.test(option));
  for (let pair = 0; pair < numberOption("pairs", PAIRS); pair++) {
    const order = pair % 2 === 0 ? (["this", "other"] as const) : (["other", "this"] as const);
    for (const which of order) {
      const printed = await run(folders[which], ["npx", "tsx", "bench/run.ts", name, ...options]);
      const line = printed.split("\n").findLast((text) => text.startsWith("RESULT "));
      if (line === undefined) throw new Error(`the bench ${name} of ${folders[which]} printed no result`);
      figures[which].push(new Map(numbersOf(JSON.parse(line.slice("RESULT ".length)))));
    }
  }
  const compared: Record<string, { this: number; other: number; ratio: number }> = {};
  for (const path of figures.this[0]?.keys() ?? []) {
    const [own, others] = [figures.this, figures.other].map((runs) => runs.flatMap((run) => run.get(path) ?? []));
    if (own === undefined || others === undefined || others.length === 0) continue;
    const [a, b] = [quantile(own, 0.5), quantile(others, 0.5)];
    compared[path] = { this: a, other: b, ratio: round(a / b) };
  }
  const rows = Object.entries(compared).map(([path, figure]) => [path, figure.this, figure.other, figure.ratio]);
  process.stdout.write(`\n${table([["figure", "this", "other", "ratio"], ...rows])}\n`);
  return { against: checkout, compared };
}

/** Every number in a result, under its path. */
function numbersOf(value: unknown, path = ""): [string, number][] {
  if (typeof value === "number") return [[path, value]];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => numbersOf(inner, path === "" ? key : `${path}.${key}`));
}

async function run(cwd: string, [command = "", ...args]: readonly string[]): Promise<string> {
  const child = spawn(command, args, { cwd, stdio: ["ignore", "pipe", "inherit"] });
  let printed = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    printed += text;
    process.stdout.write(text);
  });
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} in ${cwd} ended with ${code}`);
  return printed;
}
