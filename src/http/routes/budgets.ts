import { z } from "zod";
import { bringUpToDate, dropBudget, getBudget, listBudgets, setBudget } from "../../metering/budgets.ts";
import { scopeFromDatabase } from "../../scope/scope.ts";
import { endpoint } from "../endpoint.ts";
import { refuseUnnamed, subtreeOf } from "../wire/access.ts";
import { fields, pageAndSize, querySelector, ruleName, uuidText, writeSelector } from "../wire/fields.ts";
import { budgetFields, budgetShape, newBudgetFields, period } from "../wire/metering-shapes.ts";
import { object, pageShape } from "../wire/shapes.ts";

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
    body: fields({ scope: writeSelector, ...newBudgetFields }),
    handle: async ({ enter, peek, body: { scope, ...budget } }) => {
      await peek(subtreeOf(scope), bringUpToDate);
      return enter(subtreeOf(scope), (tx) => {
        refuseUnnamed(tx, scope);
        return setBudget(tx, budget);
      });
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
    handle: ({ enter, query }) =>
      enter(subtreeOf(query.scope), (tx) => {
        refuseUnnamed(tx, query.scope);
        return dropBudget(tx, query);
      }),
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
      await peek({}, bringUpToDate);
      const { scope, period: of, name } = await peek({}, (tx) => getBudget(tx, params.id));
      return enter(subtreeOf([{ tags: scopeFromDatabase(scope), subtree: false }]), (tx) =>
        setBudget(tx, { ...body, period: of, name }, params.id),
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
