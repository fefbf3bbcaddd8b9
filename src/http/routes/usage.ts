import { z } from "zod";
import { invalid } from "../../errors.ts";
import { billAsCsv, billOf } from "../../metering/bill.ts";
import { USAGE_GROUPS, usage } from "../../traces/usage.ts";
import { endpoint, TextAnswer } from "../endpoint.ts";
import { subtreeOf } from "../wire/access.ts";
import { fields, querySelector } from "../wire/fields.ts";
import { billShape } from "../wire/metering-shapes.ts";
import { instant, object, usageShape } from "../wire/shapes.ts";
import { fromTime, untilTime } from "../wire/times.ts";

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

export const usageEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/usage",
    operation: "usage",
    summary: "Calls, tokens, cost and storage of a subtree",
    answer: usageResponse,
    query: fields({
      scope: querySelector,
      from: fromTime.optional(),
      to: untilTime.optional(),
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
    handle: async ({ enter, query, http }) => {
      if (query.scope !== undefined && query.scopeHash !== undefined)
        throw invalid("give scope or scopeHash, not both");
      const bill = await enter(subtreeOf(query.scope), (tx) => billOf(tx, query.month, query.scopeHash));
      return http.accepts("text/csv") ? new TextAnswer("text/csv; charset=utf-8", billAsCsv(bill)) : bill;
    },
  }),
];
