import { Command } from "commander";
import type { Price } from "../../metering/prices.ts";
import type { Cell } from "../table.ts";
import { type Desk, given, number } from "./desk.ts";

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

export function priceCommand({ service, print }: Desk): Command {
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
