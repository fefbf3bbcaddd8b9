import { InvalidArgumentError } from "commander";
import { canonicalPath, scopeFromDatabase } from "../../scope/scope.ts";
import type { Service } from "../http-client.ts";
import type { Cell } from "../table.ts";

type Print = (json: unknown, header: readonly string[], rows: readonly (readonly Cell[])[]) => void;

/** What a subcommand works with. */
export interface Desk {
  readonly service: () => Service;
  readonly print: Print;
  readonly write: (text: string) => void;
}

export const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("it takes a number");
  return value;
};
export const eachNumber = (text: string, before: readonly number[] = []) => [...before, number(text)];

export const pathOf = (scope: Readonly<Record<string, string>>): string =>
  Object.keys(scope).some((dimension) => dimension.startsWith("!"))
    ? JSON.stringify(scope)
    : canonicalPath(scopeFromDatabase(scope));
export const groupOf = (group: unknown): Cell =>
  group === null || group === undefined
    ? "-"
    : typeof group === "object"
      ? pathOf(group as Record<string, string>)
      : String(group);
export const given = (values: object) =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
