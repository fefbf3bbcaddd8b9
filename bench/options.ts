/** `--name=value` of the command line, as a number. */
export function numberOption(name: string, fallback: number): number {
  const given = process.argv.find((argument) => argument.startsWith(`--${name}=`))?.slice(name.length + 3);
  if (given === undefined) return fallback;
  const value = Number(given);
  if (!Number.isFinite(value)) throw new Error(`--${name} must be a number, not ${given}`);
  return value;
}

/** `--name=value` of the command line. */
export function textOption(name: string): string | undefined {
  return process.argv.find((argument) => argument.startsWith(`--${name}=`))?.slice(name.length + 3);
}
