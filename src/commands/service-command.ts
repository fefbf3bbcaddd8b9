/** Runs a command that talks to a running service. */
import { type Command, CommanderError } from "commander";
import type { CommandContext } from "./command-context.ts";
import { CONNECTION_HELP, Misused, Refused, serviceOf } from "./http-client.ts";
import { tableOf } from "./table.ts";

/** A command as `cli.ts` runs it. */
export const serviceCommand =
  (name: string, build: (context: CommandContext) => Command) =>
  async (args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> => {
    let asJson = false;
    const write = (text: string) => process.stdout.write(text);
    const context: CommandContext = {
      service: () => serviceOf(environment),
      print: (answer, header, rows) => write(asJson ? `${JSON.stringify(answer, null, 2)}\n` : tableOf(header, rows)),
      write: (text) => void write(text),
      tell: (text) => void (asJson || write(text)),
    };
    const command = build(context);
    const misspelt = unknownIn(command, args);
    if (misspelt !== undefined) {
      process.stderr.write(`scopefloor ${name}: ${misspelt}\n`);
      return 2;
    }
    for (const one of allOf(command)) one.option("--json", "as JSON").exitOverride();
    command
      .name(`scopefloor ${name}`)
      .addHelpText("after", CONNECTION_HELP)
      .hook("preAction", (_, action) => {
        asJson = action.optsWithGlobals().json === true;
      });
    try {
      await command.parseAsync([...args], { from: "user" });
      return 0;
    } catch (error) {
      // Commander has said what was wrong.
      if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
      if (!(error instanceof Refused || error instanceof Misused)) throw error;
      process.stderr.write(`scopefloor ${name}: ${error.message}\n`);
      return error instanceof Misused ? 2 : 1;
    }
  };

/** What is wrong with the name of a subcommand; undefined: nothing, or none is named. */
function unknownIn({ commands }: Command, [first, ...rest]: readonly string[]): string | undefined {
  if (first === undefined || first.startsWith("-") || commands.length === 0) return undefined;
  const named = commands.find((one) => one.name() === first);
  if (named !== undefined) return unknownIn(named, rest);
  if (first === "help") return undefined;
  return `there is no command ${first}; there are ${commands.map((one) => one.name()).join(", ")}`;
}

/** A command with all below it. */
const allOf = (command: Command): Command[] => [command, ...command.commands.flatMap(allOf)];
