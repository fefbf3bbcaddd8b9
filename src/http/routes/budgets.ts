import { z } from "zod";
import { invalid } from "../../errors.ts";
import { bringUpToDate, dropBudget, getBudget, listBudgets, PERIODS, setBudget } from "../../metering/budgets.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import { endpoint } from "../endpoint.ts";
import { subtreeOf } from "../wire/access.ts";
import { amount, fields, pageAndSize, querySelector, time, usd, uuidText, writeSelector } from "../wire/fields.ts";
import { budgetShape } from "../wire/metering-shapes.ts";
import { object, pageShape } from "../wire/shapes.ts";

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
  tokenLimit: amount.optional(),
  costLimitUsd: usd.optional(),
  requestLimit: amount.optional(),
  timezone: timezone.optional(),
  mode: z.enum(["hard", "soft"]).optional(),
  alertAt: z.array(z.number().gt(0).max(100)).max(10).optional(),
  temporaryIncrease: fields({ tokens: amount.optional(), costUsd: usd.optional(), until: time }).optional(),
};

function refuseBoundless(budget: { tokenLimit?: unknown; costLimitUsd?: unknown; requestLimit?: unknown }): void {
  if (budget.tokenLimit === undefined && budget.costLimitUsd === undefined && budget.requestLimit === undefined)
    throw invalid("a budget has a tokenLimit, a costLimitUsd or a requestLimit");
}

const reads = { verb: "usage:read" } as const;
const manages = { verb: "manage" } as const;
const id = z.object({ id: uuidText });

export const budgetEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/budgets",
    operation: "budgets",
    summary: "Budgets of a subtree, with what was spent of them",
    answer: object({ budgets: z.array(budgetShape), ...pageShape }),
    query: fields({ scope: querySelector, ...pageAndSize }),
    handle: async ({ enter, peek, query: { scope, page, pageSize } }) => {
      await peek(subtreeOf(scope), bringUpToDate);
      return enter(subtreeOf(scope), async (tx) => ({ ...(await listBudgets(tx, pageSize, page)), page, pageSize }));
    },
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
    handle: async ({ enter, peek, params }) => {
      await peek({}, bringUpToDate);
      return enter({}, (tx) => getBudget(tx, params.id));
    },
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
      const { scope, period: of, name, timezone: zone } = await peek({}, (tx) => getBudget(tx, params.id));
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
];
