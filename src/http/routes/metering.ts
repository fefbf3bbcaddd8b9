import { z } from "zod";
import type { ScopedTransaction } from "../../db/access/scoped.ts";
import { invalid } from "../../errors.ts";
import { billAsCsv, billOf } from "../../metering/bill.ts";
import { dropBudget, getBudget, listBudgets, PERIODS, setBudget } from "../../metering/budgets.ts";
import { dropLimits, LIMITS, listLimits, setLimits } from "../../metering/limits.ts";
import { dropPrice, listPrices, setPrice } from "../../metering/prices.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import { USAGE_GROUPS, usage } from "../../traces/usage.ts";
import { endpoint, TextAnswer } from "../endpoint.ts";
import { subtreeOf } from "../wire/access.ts";
import { fields, pageAndSize, querySelector, time, uuidText, writeSelector } from "../wire/fields.ts";
import { billShape, budgetShape, eachLimit, limitShape, priceShape } from "../wire/metering-shapes.ts";
import { instant, object, pageShape, usageShape } from "../wire/shapes.ts";

/** The largest numbers that JSON clients read exactly. */
const MOST = Number.MAX_SAFE_INTEGER;
const count = z.int().min(0).max(MOST);
const usd = z.number().min(0).max(1_000_000_000);

const timezone = z
  .string()
  .max(64)
  .refine((name) => {
    try {
      return /^[A-Za-z]/.test(name) && new Intl.DateTimeFormat("en", { timeZone: name }) !== undefined;
    } catch {
      return false;
    }
  }, "must be an IANA time zone, such as Europe/Berlin");

const ruleName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9 ._:@-]{0,63}$/, "must be 1 to 64 letters, digits, spaces, or ._:@-");

const period = z.enum(PERIODS);

const budgetFields = {
  tokenLimit: count.optional(),
  costLimitUsd: usd.optional(),
  requestLimit: count.optional(),
  timezone: timezone.optional(),
  mode: z.enum(["hard", "soft"]).optional(),
  alertAt: z.array(z.number().gt(0).max(100)).max(10).optional(),
  temporaryIncrease: fields({ tokens: count.optional(), costUsd: usd.optional(), until: time }).optional(),
};

function refuseBoundless(budget: { tokenLimit?: unknown; costLimitUsd?: unknown; requestLimit?: unknown }): void {
  if (budget.tokenLimit === undefined && budget.costLimitUsd === undefined && budget.requestLimit === undefined)
    throw invalid("a budget has a tokenLimit, a costLimitUsd or a requestLimit");
}

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
    .string()
    .regex(/^[a-z_]{1,40}$/, "must be an operation as traces name it, such as query")
    .optional(),
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

const usageResponse = object({
  groupBy: z.string().nullable(),
  from: instant.nullable(),
  to: instant.nullable(),
  rows: z.array(object({ group: z.unknown().optional(), ...usageShape })),
});

const groupBy = z
  .string()
  .regex(
    new RegExp(`^(${USAGE_GROUPS.join("|")}|dimension:[a-z][a-z0-9_]{0,31})$`),
    `must be one of ${USAGE_GROUPS.join(", ")}, or dimension:<name>`,
  );

const reads = { verb: "usage:read" } as const;
const manages = { verb: "manage" } as const;
const id = z.object({ id: uuidText });

export const meteringEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/usage",
    operation: "usage",
    summary: "Calls, tokens, cost and storage of a subtree",
    answer: usageResponse,
    query: fields({
      scope: querySelector,
      from: time.optional(),
      to: time.optional(),
      groupBy: groupBy.optional(),
    }),
    handle: ({ enter, query }) =>
      enter(subtreeOf(query.scope), async (tx) => ({
        groupBy: query.groupBy ?? null,
        from: query.from ?? null,
        to: query.to ?? null,
        rows: await usage(tx, query),
      })),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/usage/bill",
    operation: "bill",
    summary: "A month's bill by scope, as JSON or with Accept: text/csv",
    answer: billShape,
    query: fields({
      month: z.string().regex(/^[12]\d{3}-(0[1-9]|1[0-2])$/, "must be a month, such as 2026-11"),
      scope: querySelector,
      scopeHash: z
        .string()
        .regex(/^[0-9a-f]{64}$/, "must be the SHA-256 of a path, as receipts of erased scopes have it")
        .optional(),
    }),
    handle: async ({ enter, query, accepts }) => {
      if (query.scope !== undefined && query.scopeHash !== undefined)
        throw invalid("give scope or scopeHash, not both");
      const bill = await enter(subtreeOf(query.scope), (tx) => billOf(tx, query.month, query.scopeHash));
      return accepts("text/csv") ? new TextAnswer("text/csv; charset=utf-8", billAsCsv(bill)) : bill;
    },
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/budgets",
    operation: "budgets",
    summary: "Budgets of a subtree, with what was spent of them",
    answer: object({ budgets: z.array(budgetShape), ...pageShape }),
    query: fields({ scope: querySelector, ...pageAndSize }),
    handle: ({ enter, query: { scope, page, pageSize } }) =>
      enter(subtreeOf(scope), async (tx) => ({ ...(await listBudgets(tx, pageSize, page)), page, pageSize })),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/budgets",
    operation: "budget_set",
    summary: "Set the budget of a scope with this period and name",
    answer: budgetShape,
    body: fields({ scope: writeSelector, name: ruleName.optional(), period, ...budgetFields }),
    handle: async ({ enter, body: { scope, ...budget } }) => {
      refuseBoundless(budget);
      return enter(subtreeOf(scope), (tx) => setBudget(tx, budget));
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/budgets",
    operation: "budget_delete",
    summary: "Take away the budget of a scope with this period and name",
    status: 204,
    query: fields({ scope: querySelector, period, name: ruleName.optional() }),
    handle: ({ enter, query }) => enter(subtreeOf(query.scope), (tx) => dropBudget(tx, query)),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/budgets/{id}",
    operation: "budgets",
    summary: "One budget",
    answer: budgetShape,
    params: id,
    handle: ({ enter, params }) => enter({}, (tx) => getBudget(tx, params.id)),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/budgets/{id}",
    operation: "budget_set",
    summary: "Change a budget's limits",
    answer: budgetShape,
    params: id,
    body: fields(budgetFields),
    handle: async ({ enter, peek, params, body }) => {
      refuseBoundless(body);
      const {
        scope,
        period: of,
        name,
        timezone: zone,
      } = await peek({}, (tx: ScopedTransaction) => getBudget(tx, params.id));
      return enter(subtreeOf([{ tags: scopeFromDatabase(scope), subtree: false }]), (tx) =>
        setBudget(tx, { timezone: zone, ...body, period: of, ...(name === "" ? {} : { name }) }),
      );
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/budgets/{id}",
    operation: "budget_delete",
    summary: "Take a budget away",
    status: 204,
    params: id,
    handle: ({ enter, params }) => enter({}, (tx) => dropBudget(tx, params)),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/limits",
    operation: "limits",
    summary: "Limits of a subtree, with what is used of them",
    answer: object({ limits: z.array(limitShape), ...pageShape }),
    query: fields({ scope: querySelector, ...pageAndSize }),
    handle: ({ enter, query: { scope, page, pageSize } }) =>
      enter(subtreeOf(scope), async (tx) => ({ ...(await listLimits(tx, pageSize, page)), page, pageSize })),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/limits",
    operation: "limit_set",
    summary: "Set the limits of a scope, or of a key",
    answer: limitShape,
    body: fields({ scope: writeSelector, key: uuidText.optional(), ...eachLimit(count.optional()) }),
    handle: async ({ enter, body: { scope, key, ...limits } }) => {
      if (scope !== undefined && key !== undefined) throw invalid("give scope or key, not both");
      if (Object.values(limits).every((most) => most === undefined))
        throw invalid(`say what to limit: ${LIMITS.join(", ")}`);
      return enter(subtreeOf(scope), (tx) => setLimits(tx, key, limits));
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/limits",
    operation: "limit_delete",
    summary: "Take away the limits of a scope, or of a key",
    status: 204,
    query: fields({ scope: querySelector, key: uuidText.optional() }),
    handle: async ({ enter, query: { scope, key } }) => {
      if (scope !== undefined && key !== undefined) throw invalid("give scope or key, not both");
      return enter(subtreeOf(scope), (tx) => dropLimits(tx, key));
    },
  }),
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
