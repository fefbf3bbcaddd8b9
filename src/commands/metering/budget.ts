import { Command } from "commander";
import type { Budget } from "../../metering/budgets.ts";
import { scopeText } from "../../scope/scope.ts";
import { allPages, type CommandContext, eachNumber, number, scopeOf } from "../command-context.ts";
import { Misused } from "../http-client.ts";
import type { Cell } from "../table.ts";

const BUDGET_HEADER = [
  "id",
  "scope",
  "name",
  "period",
  "zone",
  "mode",
  "of",
  "limit",
  "raised",
  "used",
  "reserved",
  "resets at",
];

function budgetRows(budget: Budget): Cell[][] {
  const { id, scope, name, period, timezone, mode, used, reserved, resetsAt, temporaryIncrease } = budget;
  const raise =
    temporaryIncrease !== null && Date.parse(temporaryIncrease.until) > Date.now() ? temporaryIncrease : null;
  return (
    [
      ["tokens", budget.tokenLimit, raise?.tokens, used.tokens, reserved.tokens],
      ["USD", budget.costLimitUsd, raise?.costUsd, used.costUsd, reserved.costUsd],
      ["requests", budget.requestLimit, undefined, used.requests, reserved.requests],
    ] as const
  )
    .filter(([, limit]) => limit !== null)
    .map((row) => [id, scopeText(scope), name, period, timezone, mode, ...row, resetsAt]);
}

export function budgetCommand({ service, print, tell }: CommandContext): Command {
  const command = new Command("budget").description("what may be spent at a scope, and all below it, in a period");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .action(async ({ scope }) => {
      const budgets = await allPages<"budgets", Budget>(service(), "budgets", scope);
      print({ budgets, total: budgets.length }, BUDGET_HEADER, budgets.flatMap(budgetRows));
    });
  command
    .command("set")
    .description("make the budget of a scope with this period and name, or change what is given of it")
    .option("--scope <path>", "{}: everybody; absent: the key's own floor", scopeOf)
    .requiredOption("--period <period>", "hour, day, week, month or total")
    .option("--name <name>", "to have several of one period")
    .option("--tokens <n>", "most tokens", number)
    .option("--cost <usd>", "most USD", number)
    .option("--requests <n>", "most requests", number)
    .option("--timezone <zone>", "IANA name, where days and months begin (of a new one: UTC)")
    .option("--mode <mode>", "hard: what does not fit is refused; soft: it is counted (of a new one: hard)")
    .option("--alert <share>", "of a limit, such as 0.8, that is listed in `alerts`; may be repeated", eachNumber)
    .option("--raise-tokens <n>", "more tokens until --until", number)
    .option("--raise-cost <usd>", "more USD until --until", number)
    .option("--until <time>", "RFC 3339")
    .action(async (options) => {
      const { scope, period, name, tokens, cost, requests, timezone, mode, alert, raiseTokens, raiseCost, until } =
        options;
      const isRaise = raiseTokens !== undefined || raiseCost !== undefined;
      if (isRaise && until === undefined) throw new Misused("--raise-tokens and --raise-cost need --until");
      if (!isRaise && until !== undefined) throw new Misused("--until needs --raise-tokens or --raise-cost");
      const body = {
        scope,
        period,
        name,
        tokenLimit: tokens,
        costLimitUsd: cost,
        requestLimit: requests,
        timezone,
        mode,
        alertAt: alert,
        temporaryIncrease: until === undefined ? undefined : { tokens: raiseTokens, costUsd: raiseCost, until },
      };
      const budget = await service().call<Budget>("PUT", "/budgets", { body });
      print(budget, BUDGET_HEADER, budgetRows(budget));
    });
  command.command("delete <id>").action(async (id: string) => {
    await service().call("DELETE", `/budgets/${encodeURIComponent(id)}`);
    tell("deleted\n");
  });
  return command;
}
