import { Command } from "commander";
import type { Budget } from "../../metering/budgets.ts";
import { Misused } from "../http-client.ts";
import type { Cell } from "../table.ts";
import { type Desk, eachNumber, given, number, pathOf } from "./desk.ts";

const BUDGET_HEADER = ["id", "scope", "name", "period", "mode", "of", "limit", "used", "reserved", "resets at"];

const budgetRows = ({ id, scope, name, period, mode, used, reserved, resetsAt, ...budget }: Budget): Cell[][] =>
  (
    [
      ["tokens", budget.tokenLimit, used.tokens, reserved.tokens],
      ["USD", budget.costLimitUsd, used.costUsd, reserved.costUsd],
      ["requests", budget.requestLimit, used.requests, reserved.requests],
    ] as const
  )
    .filter(([, limit]) => limit !== null)
    .map((row) => [id, pathOf(scope), name, period, mode, ...row, resetsAt]);

export function budgetCommand({ service, print }: Desk): Command {
  const command = new Command("budget").description("what may be spent at a scope, and all below it, in a period");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .option("--page <n>", "from 0", number)
    .action(async ({ scope, page }) => {
      const query = { scope, page: String(page ?? 0), pageSize: "100" };
      const answer = await service().call<{ budgets: Budget[] }>("GET", "/budgets", { query });
      print(answer, BUDGET_HEADER, answer.budgets.flatMap(budgetRows));
    });
  command
    .command("set")
    .description("make the budget of a scope with this period and name, or change it")
    .option("--scope <path>", "absent: the key's own floor")
    .requiredOption("--period <period>", "hour, day, week, month or total")
    .option("--name <name>", "to have several of one period")
    .option("--tokens <n>", "most tokens", number)
    .option("--cost <usd>", "most USD", number)
    .option("--requests <n>", "most requests", number)
    .option("--timezone <zone>", "IANA name, where days and months begin (UTC)")
    .option("--mode <mode>", "hard: what does not fit is refused; soft: it is counted and told (hard)")
    .option("--alert <share>", "of a limit to tell of, once a period; may be repeated (0.8 and 1)", eachNumber)
    .option("--raise-tokens <n>", "more tokens until --until", number)
    .option("--raise-cost <usd>", "more USD until --until", number)
    .option("--until <time>", "RFC 3339")
    .action(async (options) => {
      const { scope, period, name, tokens, cost, requests, timezone, mode, alert, raiseTokens, raiseCost, until } =
        options;
      if ((until === undefined) !== (raiseTokens === undefined && raiseCost === undefined))
        throw new Misused("--until goes with --raise-tokens or --raise-cost");
      const body = given({
        scope,
        period,
        name,
        tokenLimit: tokens,
        costLimitUsd: cost,
        requestLimit: requests,
        timezone,
        mode,
        alertAt: alert,
        temporaryIncrease: until === undefined ? undefined : given({ tokens: raiseTokens, costUsd: raiseCost, until }),
      });
      const budget = await service().call<Budget>("PUT", "/budgets", { body });
      print(budget, BUDGET_HEADER, budgetRows(budget));
    });
  command.command("delete <id>").action(async (id: string) => {
    await service().call("DELETE", `/budgets/${encodeURIComponent(id)}`);
  });
  return command;
}
