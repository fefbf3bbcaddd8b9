#!/usr/bin/env node
/** `scopefloor <command>`: what an operator or an auditor runs beside the service (`main.ts`). */
import { meteringCommand } from "./commands/metering/run.ts";
import { recoverKey } from "./commands/recover-key.ts";
import { scrubDatabase } from "./commands/scrub.ts";
import { verify } from "./commands/verify.ts";

/** Each gives the exit code. */
type Command = (args: readonly string[], environment: NodeJS.ProcessEnv) => Promise<number>;

const COMMANDS: ReadonlyMap<string, Command> = new Map<string, Command>([
  ["recover-key", recoverKey],
  ["verify", verify],
  ["scrub", scrubDatabase],
  ...(["usage", "bill", "budget", "limit", "price"] as const).map((name): [string, Command] => [
    name,
    meteringCommand(name),
  ]),
]);

const [name = "", ...args] = process.argv.slice(2);
const command = COMMANDS.get(name);
if (command === undefined) {
  const isAsked = ["--help", "-h", "help"].includes(name);
  const usage = `usage: scopefloor <command> [--help]\ncommands: ${[...COMMANDS.keys()].join(", ")}\n`;
  (isAsked ? process.stdout : process.stderr).write(usage);
  process.exitCode = isAsked ? 0 : 2;
} else {
  process.exitCode = await command(args, process.env).catch((error: unknown) => {
    process.stderr.write(`scopefloor ${name}: ${(error as Error).message}\n`);
    return 2;
  });
}
