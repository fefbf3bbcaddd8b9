import { z } from "zod";
import { invalid } from "../../errors.ts";
import { dropPrice, listPrices, PRICED_OPERATIONS, setPrice } from "../../metering/prices.ts";
import { endpoint } from "../endpoint.ts";
import { fields, usd, uuidText } from "../wire/fields.ts";
import { priceShape } from "../wire/metering-shapes.ts";
import { object } from "../wire/shapes.ts";
import { time } from "../wire/times.ts";

/** Of a model, what is left out stays as it is. */
const newPrice = fields({
  model: z
    .string()
    .regex(/^\S{1,200}$/, "must be a model's name, or provider:model")
    .optional(),
  inputPerMillion: usd.optional(),
  cachedInputPerMillion: usd.optional(),
  outputPerMillion: usd.optional(),
  embeddingPerMillion: usd.optional(),
  operation: z
    .enum(PRICED_OPERATIONS, `must be one of ${PRICED_OPERATIONS.join(", ")}`)
    .optional()
    .describe("As traces name it"),
  perCall: usd.optional(),
  storagePerGbMonth: usd.optional(),
  effectiveFrom: time.optional(),
});

/** One subject a price, and amounts of its kind. */
function refuseMixed(price: z.output<typeof newPrice>): void {
  const { model, operation, perCall, storagePerGbMonth, effectiveFrom: _, ...perMillion } = price;
  const hasTokens = Object.values(perMillion).some((amount) => amount !== undefined);
  const kinds = [model !== undefined, operation !== undefined, storagePerGbMonth !== undefined].filter(Boolean).length;
  if (kinds !== 1) throw invalid("a price is for one of model, operation and storagePerGbMonth");
  if ((model !== undefined) !== hasTokens || (operation !== undefined) !== (perCall !== undefined))
    throw invalid("a model is priced per million tokens, an operation per call");
}

const reads = { verb: "usage:read" } as const;
const manages = { verb: "manage" } as const;

export const priceEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/prices",
    operation: "prices",
    summary: "What models, operations and storage cost",
    answer: object({ prices: z.array(priceShape) }),
    handle: ({ enter }) => enter({}, async (tx) => ({ prices: await listPrices(tx) })),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/prices",
    operation: "price_set",
    summary: "Set a price in USD, from now or from a time on",
    answer: priceShape,
    body: newPrice,
    handle: async ({ enter, body }) => {
      refuseMixed(body);
      return enter({}, (tx) => setPrice(tx, body));
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/prices",
    operation: "price_delete",
    summary: "Take away a price by its id, or all of a model, an operation or storage",
    status: 204,
    query: fields({
      id: uuidText.optional(),
      model: z.string().max(200).optional(),
      operation: z.string().max(40).optional(),
      storage: z.enum(["true"]).optional(),
    }),
    handle: async ({ enter, query }) => {
      if (Object.values(query).filter((value) => value !== undefined).length !== 1)
        throw invalid("say which price: id, model, operation, or storage=true");
      return enter({}, (tx) => dropPrice(tx, query));
    },
  }),
];
