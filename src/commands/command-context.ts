import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline/promises";
import { InvalidArgumentError } from "commander";
import { type Scope, scopeText } from "../scope/scope.ts";
import { parseSelector } from "../scope/selector.ts";
import { Misused, type Service } from "./http-client.ts";
import type { Cell } from "./table.ts";

type Print = (json: unknown, header: readonly string[], rows: readonly (readonly Cell[])[]) => void;

/** What a subcommand works with. */
export interface CommandContext {
  readonly service: () => Service;
  readonly print: Print;
  readonly write: (text: string) => void;
  /** For people: nothing where JSON is asked for. */
  readonly tell: (text: string) => void;
}

export const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("must be a number");
  return value;
};
export const eachNumber = (text: string, before: readonly number[] = []) => [...before, number(text)];

/** A path as it is, or tags as JSON, such as {} for everybody. */
export const scopeOf = (text: string): unknown => {
  if (!text.startsWith("{")) return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new InvalidArgumentError("must be a path, such as org/acme, or {}");
  }
};

/**
 * The tags that a path or an object names.
 *
 * @throws Misused for what is not one scope
 */
export function scopeNamed(given: unknown): Scope {
  let clauses: ReturnType<typeof parseSelector>;
  try {
    clauses = parseSelector(given);
  } catch (error) {
    throw new Misused((error as Error).message);
  }
  const [clause, ...more] = clauses ?? [];
  if (clause === undefined || clause.subtree || more.length > 0)
    throw new Misused(`"${String(given)}" must name one scope, such as org/acme`);
  return clause.tags;
}

/** Names with commas between them. */
export const namesOf = (text: string): string[] => text.split(",").filter((name) => name !== "");

/** A JSON file's object. */
export async function jsonFile(path: string): Promise<object> {
  try {
    const value: unknown = JSON.parse(await readFile(path, "utf8"));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  } catch (error) {
    throw new Misused(`${path} cannot be read as JSON: ${(error as Error).message}`);
  }
  throw new Misused(`${path} has no JSON object`);
}

/**
 * What is to be typed before something is destroyed: given with `--confirm`, or asked for in a terminal.
 *
 * @throws Misused for another word, or where nobody can be asked
 */
export async function confirmed(given: string | undefined, word: string, what: string): Promise<string> {
  const { stdin, stderr } = process;
  let typed = given;
  if (typed === undefined && stdin.isTTY) {
    const asking = createInterface({ input: stdin, output: stderr });
    typed = (await asking.question(`This ${what}. Type ${word} to confirm: `)).trim();
    asking.close();
  }
  if (typed !== word) throw new Misused(`this ${what}: confirm it with --confirm ${word}`);
  return typed;
}

/** All of a list that the service gives by page. */
export async function allPages<N extends string, T>(
  service: Service,
  name: N,
  scope: string | undefined,
  filter: Readonly<Record<string, string | undefined>> = {},
  path: string = name,
): Promise<T[]> {
  const all: T[] = [];
  for (let page = 0; ; page++) {
    const query = { ...filter, scope, page: String(page), pageSize: "100" };
    const answer = await service.call<{ readonly [name in N]: readonly T[] } & { total: number }>("GET", `/${path}`, {
      query,
    });
    all.push(...answer[name]);
    if (answer[name].length === 0 || all.length >= answer.total) return all;
  }
}

/** The value of a group, for people; `-` for what has none. */
export const groupOf = (group: unknown): Cell =>
  group === null || group === undefined
    ? "-"
    : typeof group === "object"
      ? scopeText(group as Record<string, string>)
      : String(group);
