#!/usr/bin/env node
/**
 * `scopefloor <command>`: what an operator or an auditor runs beside the service (`main.ts`). Each command is loaded only
 * when it is asked for.
 */

/** Gives the exit code. */
type Command = (args: readonly string[], environment: NodeJS.ProcessEnv) => Promise<number>;

/** Those that talk to a running service. */
const OF_THE_SERVICE = {
  tenant: async () => (await import("./commands/governance/tenant.ts")).tenantCommand,
  key: async () => (await import("./commands/governance/key.ts")).keyCommand,
  usage: async () => (await import("./commands/metering/usage.ts")).usageCommand,
  bill: async () => (await import("./commands/metering/usage.ts")).billCommand,
  budget: async () => (await import("./commands/metering/budget.ts")).budgetCommand,
  limit: async () => (await import("./commands/metering/limit.ts")).limitCommand,
  price: async () => (await import("./commands/metering/price.ts")).priceCommand,
  retention: async () => (await import("./commands/governance/retention.ts")).retentionCommand,
  schedule: async () => (await import("./commands/governance/schedule.ts")).scheduleCommand,
  hold: async () => (await import("./commands/governance/hold.ts")).holdCommand,
  receipt: async () => (await import("./commands/governance/receipt.ts")).receiptCommand,
};

const COMMANDS: ReadonlyMap<string, () => Promise<Command>> = new Map<string, () => Promise<Command>>([
  ["try", async () => (await import("./commands/first/try.ts")).tryService],
  ["doctor", async () => (await import("./commands/first/doctor.ts")).doctor],
  ["recover-key", async () => (await import("./commands/recover-key.ts")).recoverKey],
  ["verify", async () => (await import("./commands/verify.ts")).verify],
  ["scrub", async () => (await import("./commands/scrub.ts")).scrubDatabase],
  ...Object.entries(OF_THE_SERVICE).map(([name, load]): [string, () => Promise<Command>] => [
    name,
    async () => (await import("./commands/service-command.ts")).serviceCommand(name, await load()),
  ]),
]);

// Whoever reads has had enough (`| head`): that is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

const [name = "", ...args] = process.argv.slice(2);
const load = COMMANDS.get(name);
if (load === undefined) {
  const isAsked = ["--help", "-h", "help"].includes(name);
  const usage = `usage: scopefloor <command> [--help]\ncommands: ${[...COMMANDS.keys()].join(", ")}\n`;
  (isAsked ? process.stdout : process.stderr).write(usage);
  process.exitCode = isAsked ? 0 : 2;
} else {
  const command = await load();
  process.exitCode = await command(args, process.env).catch((error: unknown) => {
    process.stderr.write(`scopefloor ${name}: ${(error as Error).message}\n`);
    return 2;
  });
}
