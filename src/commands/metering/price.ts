import { Command } from "commander";
import type { Price } from "../../metering/prices.ts";
import { type CommandContext, number } from "../command-context.ts";
import type { Cell } from "../table.ts";

const PRICE_HEADER = ["id", "for", "input", "cached input", "output", "embedding", "call", "GB month", "from", "state"];

const subjectOf = ({ model, operation }: Price) => model ?? operation ?? "storage";

/** Whether a price is in effect, was before another, or is to come. The list has the newest of a name first. */
function stateOf(price: Price, all: readonly Price[]): string {
  if (Date.parse(price.effectiveFrom) > Date.now()) return "to come";
  const newest = all.find((one) => subjectOf(one) === subjectOf(price) && Date.parse(one.effectiveFrom) <= Date.now());
  return newest === undefined || newest.id === price.id ? "in effect" : "past";
}

const priceRow = (price: Price, _: number, all: readonly Price[]): Cell[] => [
  price.id,
  subjectOf(price),
  price.inputPerMillion,
  price.cachedInputPerMillion,
  price.outputPerMillion,
  price.embeddingPerMillion,
  price.perCall,
  price.storagePerGbMonth,
  price.effectiveFrom,
  stateOf(price, all),
];

export function priceCommand({ service, print, tell }: CommandContext): Command {
  const command = new Command("price").description(
    "what models, operations and storage cost, in USD; tokens by the million",
  );
  command.command("list", { isDefault: true }).action(async () => {
    const answer = await service().call<{ prices: Price[] }>("GET", "/prices");
    print(answer, PRICE_HEADER, answer.prices.map(priceRow));
  });
  command
    .command("set")
    .description("set a price from now, or from a time on; of a model, what is left out stays as it is")
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
      const body = {
        model,
        inputPerMillion: input,
        cachedInputPerMillion: cachedInput,
        outputPerMillion: output,
        embeddingPerMillion: embedding,
        operation,
        perCall: call,
        storagePerGbMonth: storage,
        effectiveFrom: from,
      };
      const price = await service().call<Price>("PUT", "/prices", { body });
      print(price, PRICE_HEADER, [price].map(priceRow));
    });
  command.command("delete <id>").action(async (id: string) => {
    await service().call("DELETE", "/prices", { query: { id } });
    tell("deleted\n");
  });
  return command;
}
