import { Command } from "commander";
import { LIMITS, type Limits } from "../../metering/limits.ts";
import type { Cell } from "../table.ts";
import { type Desk, given, number, pathOf } from "./desk.ts";

const LIMIT_HEADER = ["scope", "key", "of", "limit", "used"];

const limitRows = (limits: Limits): Cell[][] =>
  LIMITS.filter((name) => limits[name] !== null).map((name) => [
    pathOf(limits.scope),
    limits.key,
    name,
    limits[name],
    limits.used[name],
  ]);

const flagOf = (name: string) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} <n>`;

export function limitCommand({ service, print }: Desk): Command {
  const command = new Command("limit").description("what a scope or a key may do a minute, and what a scope may keep");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .option("--page <n>", "from 0", number)
    .action(async ({ scope, page }) => {
      const query = { scope, page: String(page ?? 0), pageSize: "100" };
      const answer = await service().call<{ limits: Limits[] }>("GET", "/limits", { query });
      print(answer, LIMIT_HEADER, answer.limits.flatMap(limitRows));
    });
  const set = command
    .command("set")
    .description("set all limits of a scope or a key: one that is left out is none")
    .option("--scope <path>", "absent: the key's own floor")
    .option("--key <id>", "instead of a scope");
  for (const name of LIMITS) set.option(flagOf(name), "", number);
  set.action(async (body) => {
    const limits = await service().call<Limits>("PUT", "/limits", { body: given(body) });
    print(limits, LIMIT_HEADER, limitRows(limits));
  });
  command
    .command("delete")
    .option("--scope <path>", "absent: the key's own floor")
    .option("--key <id>", "instead of a scope")
    .action(async ({ scope, key }) => {
      await service().call("DELETE", "/limits", { query: { scope, key } });
    });
  return command;
}
