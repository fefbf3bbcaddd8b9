import { Command } from "commander";
import { LIMITS, type Limits } from "../../metering/limits.ts";
import { scopeText } from "../../scope/scope.ts";
import { allPages, type CommandContext, number, scopeOf } from "../command-context.ts";
import { Misused } from "../http-client.ts";
import type { Cell } from "../table.ts";

const LIMIT_HEADER = ["scope", "key", "of", "limit", "used"];

const limitRows = (limits: Limits): Cell[][] =>
  LIMITS.filter((name) => limits[name] !== null).map((name) => [
    scopeText(limits.scope),
    limits.key,
    name,
    limits[name],
    limits.used[name],
  ]);

const flagOf = (name: string) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} <n>`;

export function limitCommand({ service, print, tell }: CommandContext): Command {
  const command = new Command("limit").description("what a scope or a key may do a minute, and what a scope may keep");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .action(async ({ scope }) => {
      const limits = await allPages<"limits", Limits>(service(), "limits", scope);
      print({ limits, total: limits.length }, LIMIT_HEADER, limits.flatMap(limitRows));
    });
  const set = command
    .command("set")
    .description("set all limits of a scope or a key: one that is left out is none")
    .option("--scope <path>", "{}: everybody; absent: the key's own floor", scopeOf)
    .option("--key <id>", "instead of a scope");
  for (const name of LIMITS) set.option(flagOf(name), "", number);
  set.action(async (body) => {
    if (LIMITS.every((name) => body[name] === undefined))
      throw new Misused(`say what to limit: ${LIMITS.map((name) => flagOf(name).replace(" <n>", "")).join(", ")}`);
    const limits = await service().call<Limits>("PUT", "/limits", { body: body });
    print(limits, LIMIT_HEADER, limitRows(limits));
  });
  command
    .command("delete")
    .option("--scope <path>", "absent: the key's own floor")
    .option("--key <id>", "instead of a scope")
    .action(async ({ scope, key }) => {
      await service().call("DELETE", "/limits", { query: { scope, key } });
      tell("deleted\n");
    });
  return command;
}
