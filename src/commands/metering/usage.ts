import { Command } from "commander";
import type { Bill } from "../../metering/bill.ts";
import { scopeText } from "../../scope/scope.ts";
import type { UsageRow } from "../../traces/usage.ts";
import { type CommandContext, groupOf } from "../command-context.ts";

const thisMonth = () => new Date().toISOString().slice(0, 7);

export function usageCommand({ service, print }: CommandContext): Command {
  return new Command("usage")
    .description("calls, tokens and cost of a scope and all below it, and the bytes that it keeps now")
    .option("--scope <path>", "such as org/acme; absent: the key's own floor")
    .option("--from <time>", "RFC 3339; absent: from the beginning")
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

export function billCommand({ service, print, write }: CommandContext): Command {
  return new Command("bill")
    .description("what the calls and the storage of a month (UTC) cost, by scope")
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
            scopeText(line.scope),
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
