import { z } from "zod";
import { invalid } from "../../errors.ts";
import { bringUpToDate } from "../../metering/budgets.ts";
import { dropLimits, LIMITS, listLimits, RATES, setLimits } from "../../metering/limits.ts";
import { endpoint } from "../endpoint.ts";
import { refuseUnnamed, subtreeOf } from "../wire/access.ts";
import { amount, fields, pageAndSize, querySelector, uuidText, writeSelector } from "../wire/fields.ts";
import { eachLimit, limitShape } from "../wire/metering-shapes.ts";
import { object, pageShape } from "../wire/shapes.ts";

const reads = { verb: "usage:read" } as const;
const manages = { verb: "manage" } as const;

export const limitEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/contexts/{ctx}/limits",
    operation: "limits",
    summary: "Limits of a subtree, with what is used of them",
    answer: object({ limits: z.array(limitShape), ...pageShape }),
    query: fields({ scope: querySelector, ...pageAndSize }),
    handle: async ({ enter, peek, query: { scope, page, pageSize } }) => {
      await peek(subtreeOf(scope), bringUpToDate);
      return enter(subtreeOf(scope), async (tx) => ({ ...(await listLimits(tx, pageSize, page)), page, pageSize }));
    },
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/limits",
    operation: "limit_set",
    summary: "Set the limits of a scope, or of a key",
    answer: limitShape,
    body: fields({ scope: writeSelector, key: uuidText.optional(), ...eachLimit(amount.optional()) }),
    handle: async ({ enter, body: { scope, key, ...limits } }) => {
      if (scope !== undefined && key !== undefined) throw invalid("give scope or key, not both");
      const kept = LIMITS.filter((name) => limits[name] !== undefined && !RATES.some((rate) => rate === name));
      if (key !== undefined && kept.length > 0)
        throw invalid(`${kept.join(", ")}: what is kept is limited by scope; a key has ${RATES.join(", ")}`);
      if (Object.values(limits).every((most) => most === undefined))
        throw invalid(`say what to limit: ${LIMITS.join(", ")}`);
      return enter(subtreeOf(scope), (tx) => {
        if (key === undefined) refuseUnnamed(tx, scope);
        return setLimits(tx, key, limits);
      });
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
      return enter(subtreeOf(scope), (tx) => {
        if (key === undefined) refuseUnnamed(tx, scope);
        return dropLimits(tx, key);
      });
    },
  }),
];
