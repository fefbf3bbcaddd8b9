#!/usr/bin/env node
/** `scopefloor <command>`: what an operator or an auditor runs beside the service (`main.ts`). */
import type { Command as ServiceCommand } from "commander";
import type { CommandContext } from "./commands/command-context.ts";
import { holdCommand } from "./commands/governance/hold.ts";
import { keyCommand } from "./commands/governance/key.ts";
import { receiptCommand } from "./commands/governance/receipt.ts";
import { retentionCommand } from "./commands/governance/retention.ts";
import { scheduleCommand } from "./commands/governance/schedule.ts";
import { tenantCommand } from "./commands/governance/tenant.ts";
import { budgetCommand } from "./commands/metering/budget.ts";
import { limitCommand } from "./commands/metering/limit.ts";
import { priceCommand } from "./commands/metering/price.ts";
import { billCommand, usageCommand } from "./commands/metering/usage.ts";
import { recoverKey } from "./commands/recover-key.ts";
import { scrubDatabase } from "./commands/scrub.ts";
import { serviceCommand } from "./commands/service-command.ts";
import { verify } from "./commands/verify.ts";

/** Each gives the exit code. */
type Command = (args: readonly string[], environment: NodeJS.ProcessEnv) => Promise<number>;

/** Those that talk to a running service. */
const OF_THE_SERVICE: Readonly<Record<string, (context: CommandContext) => ServiceCommand>> = {
  tenant: tenantCommand,
  key: keyCommand,
  usage: usageCommand,
  bill: billCommand,
  budget: budgetCommand,
  limit: limitCommand,
  price: priceCommand,
  retention: retentionCommand,
  schedule: scheduleCommand,
  hold: holdCommand,
  receipt: receiptCommand,
};

const COMMANDS: ReadonlyMap<string, Command> = new Map<string, Command>([
  ["recover-key", recoverKey],
  ["verify", verify],
  ["scrub", scrubDatabase],
  ...Object.entries(OF_THE_SERVICE).map(([name, build]): [string, Command] => [name, serviceCommand(name, build)]),
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
