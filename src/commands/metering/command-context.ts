import { InvalidArgumentError } from "commander";
import { scopeText } from "../../scope/scope.ts";
import type { Service } from "../http-client.ts";
import type { Cell } from "../table.ts";

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

/** All of a list that the service gives by page. */
export async function allPages<N extends string, T>(
  service: Service,
  name: N,
  scope: string | undefined,
): Promise<T[]> {
  const all: T[] = [];
  for (let page = 0; ; page++) {
    const query = { scope, page: String(page), pageSize: "100" };
    const answer = await service.call<{ readonly [name in N]: readonly T[] } & { total: number }>("GET", `/${name}`, {
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
