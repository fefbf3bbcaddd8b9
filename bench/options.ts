import { parseArgs } from "node:util";

const { values } = parseArgs({ strict: false, allowPositionals: true });

/** `--name=value` of the command line, as a number. */
export function numberOption(name: string, fallback: number): number {
  const given = textOption(name);
  if (given === undefined) return fallback;
  const value = Number(given);
  if (!Number.isFinite(value)) throw new Error(`--${name} must be a number, not ${given}`);
  return value;
}

/** `--name=value` of the command line. */
export function textOption(name: string): string | undefined {
  const given = values[name];
  return typeof given === "string" ? given : undefined;
}

/** Whether `--name` was given. */
export const hasOption = (name: string): boolean => values[name] !== undefined;
