/** `scopefloor usage`, `bill`, `budget`, `limit` and `price`: the metering routes on the command line. */
import { Command, CommanderError, InvalidArgumentError } from "commander";
import type { Bill } from "../metering/bill.ts";
import type { Budget } from "../metering/budgets.ts";
import { LIMITS, type Limits } from "../metering/limits.ts";
import type { Price } from "../metering/prices.ts";
import { canonicalPath, scopeFromDatabase } from "../scope/scope.ts";
import type { UsageRow } from "../traces/usage.ts";
import { CONNECTION_HELP, Misused, Refused, type Service, serviceOf } from "./http-client.ts";
import { type Cell, tableOf } from "./table.ts";

type Print = (json: unknown, header: readonly string[], rows: readonly (readonly Cell[])[]) => void;

/** What a subcommand works with. */
interface Desk {
  readonly service: () => Service;
  readonly print: Print;
  readonly write: (text: string) => void;
}

const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("it takes a number");
  return value;
};
const eachNumber = (text: string, before: readonly number[] = []) => [...before, number(text)];

const pathOf = (scope: Readonly<Record<string, string>>): string =>
  Object.keys(scope).some((dimension) => dimension.startsWith("!"))
    ? JSON.stringify(scope)
    : canonicalPath(scopeFromDatabase(scope));
const groupOf = (group: unknown): Cell =>
  group === null || group === undefined
    ? "-"
    : typeof group === "object"
      ? pathOf(group as Record<string, string>)
      : String(group);
const given = (values: object) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
const thisMonth = () => new Date().toISOString().slice(0, 7);

function usageCommand({ service, print }: Desk): Command {
  return new Command("usage")
    .description("calls, tokens, cost and storage of a scope and all below it")
    .option("--scope <path>", "such as org/acme; absent: the key's own floor")
    .option("--from <time>", "RFC 3339")
    .option("--to <time>", "RFC 3339")
    .option("--by <group>", "scope, org, key, model, operation, day, or dimension:<name>")
    .action(async ({ scope, from, to, by }) => {
      const answer = await service().call<{ rows: UsageRow[] }>("GET", "/usage", {
        query: { scope, from, to, groupBy: by },
      });
      print(
        answer,
        [by ?? "", "calls", "input", "output", "embedding", "total", "USD", "unpriced", "bytes"],
        answer.rows.map((row) => [
          groupOf(row.group),
          row.calls,
          row.inputTokens,
          row.outputTokens,
          row.embeddingTokens,
          row.totalTokens,
          row.costUsd,
          row.unpricedCalls,
          row.storedBytes,
        ]),
      );
    });
}

function billCommand({ service, print, write }: Desk): Command {
  return new Command("bill")
    .description("what the calls and the storage of a month cost, by scope")
    .option("--month <month>", "such as 2026-11", thisMonth())
    .option("--scope <path>", "absent: the key's own floor")
    .option("--scope-hash <sha256>", "of a tenant that was erased: the hash of its path")
    .option("--csv", "as CSV")
    .action(async ({ month, scope, scopeHash, csv }) => {
      const query = { month, scope, scopeHash };
      if (csv) return write(await service().call<string>("GET", "/usage/bill", { query, accept: "text/csv" }));
      const bill = await service().call<Bill>("GET", "/usage/bill", { query });
      print(
        bill,
        ["scope", "for", "model", "calls", "tokens", "GB months", "unpriced", "USD"],
        [
          ...bill.lines.map((line) => [
            pathOf(line.scope),
            line.operation ?? line.kind,
            line.model,
            line.calls,
            line.inputTokens + line.outputTokens + line.embeddingTokens,
            line.gbMonths,
            line.unpriced,
            line.costUsd,
          ]),
          ["total", "", "", undefined, undefined, undefined, bill.unpriced, bill.costUsd],
        ],
      );
    });
}

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

function budgetCommand({ service, print }: Desk): Command {
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

function limitCommand({ service, print }: Desk): Command {
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

const PRICE_HEADER = ["id", "for", "input", "cached input", "output", "embedding", "call", "GB month", "from"];

const priceRow = (price: Price): Cell[] => [
  price.id,
  price.model ?? price.operation ?? "storage",
  price.inputPerMillion,
  price.cachedInputPerMillion,
  price.outputPerMillion,
  price.embeddingPerMillion,
  price.perCall,
  price.storagePerGbMonth,
  price.effectiveFrom,
];

function priceCommand({ service, print }: Desk): Command {
  const command = new Command("price").description(
    "what models, operations and storage cost, in USD; tokens by the million",
  );
  command.command("list", { isDefault: true }).action(async () => {
    const answer = await service().call<{ prices: Price[] }>("GET", "/prices");
    print(answer, PRICE_HEADER, answer.prices.map(priceRow));
  });
  command
    .command("set")
    .description("set a price from now, or from a time on")
    .option("--model <name>", "provider:model, or the model's name")
    .option("--input <usd>", "a million tokens", number)
    .option("--cached-input <usd>", "a million tokens that the provider had in its cache", number)
    .option("--output <usd>", "a million tokens", number)
    .option("--embedding <usd>", "a million tokens", number)
    .option("--operation <name>", "as traces name it, such as query")
    .option("--call <usd>", "one call of the operation", number)
    .option("--storage <usd>", "a gigabyte (10⁹ bytes) kept for a month", number)
    .option("--from <time>", "RFC 3339")
    .action(async ({ model, input, cachedInput, output, embedding, operation, call, storage, from }) => {
      const body = given({
        model,
        inputPerMillion: input,
        cachedInputPerMillion: cachedInput,
        outputPerMillion: output,
        embeddingPerMillion: embedding,
        operation,
        perCall: call,
        storagePerGbMonth: storage,
        effectiveFrom: from,
      });
      const price = await service().call<Price>("PUT", "/prices", { body });
      print(price, PRICE_HEADER, [priceRow(price)]);
    });
  command.command("delete <id>").action(async (id: string) => {
    await service().call("DELETE", "/prices", { query: { id } });
  });
  return command;
}

const COMMANDS = {
  usage: usageCommand,
  bill: billCommand,
  budget: budgetCommand,
  limit: limitCommand,
  price: priceCommand,
} as const;

/** One of the commands, as `cli.ts` runs it. */
export const meteringCommand =
  (name: keyof typeof COMMANDS) =>
  async (args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> => {
    let asJson = false;
    const write = (text: string) => process.stdout.write(text);
    const desk: Desk = {
      service: () => serviceOf(environment),
      print: (answer, header, rows) => write(asJson ? `${JSON.stringify(answer, null, 2)}\n` : tableOf(header, rows)),
      write: (text) => void write(text),
    };
    const command = COMMANDS[name](desk);
    for (const one of [command, ...command.commands]) one.option("--json", "as JSON").exitOverride();
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
