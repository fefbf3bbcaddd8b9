import { z } from "zod";
import { SINCE } from "../../forget/forget-old.ts";
import {
  dropRetention,
  effectiveRetention,
  listRetention,
  RETAINED_KINDS,
  retentionOf,
  setRetention,
} from "../../governance/retention.ts";
import { endpoint } from "../endpoint.ts";
import { refuseUnnamed, subtreeOf } from "../wire/access.ts";
import { duration, fields, flag, listed, pageAndSize, querySelector, writeSelector } from "../wire/fields.ts";
import { instant, integer, object, scopeTags, uuid } from "../wire/shapes.ts";

const manages = { verb: "manage" } as const;

const ruleShape = object({
  id: uuid,
  scope: scopeTags,
  kind: z.enum(RETAINED_KINDS),
  olderThan: z.string(),
  since: z.enum(SINCE),
  action: z.enum(["expire", "erase"]),
  maximum: z.boolean(),
  nextRun: instant,
  createdAt: instant,
  updatedAt: instant,
});

const ruleFields = {
  kinds: z.array(z.enum(RETAINED_KINDS)).min(1).optional().describe("Absent: turns, documents, facts and items"),
  olderThan: duration,
  since: z.enum(SINCE).optional().describe("From when on it counts; absent: observed, of records created"),
  action: z.enum(["expire", "erase"]),
  maximum: z.boolean().optional().describe("It holds for all below, whatever a narrower rule says"),
};
export const retentionRule = fields(ruleFields);

export const retentionEndpoints = [
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/retention",
    operation: "retention",
    summary: "Retention rules of a subtree; or with effective=true those in force at a scope, wherever they were set",
    answer: object({
      rules: z.array(ruleShape),
      page: integer.optional(),
      pageSize: integer.optional(),
      total: integer,
    }),
    query: fields({ scope: querySelector, effective: flag, ...pageAndSize }),
    handle: ({ enter, query: { scope, effective, page, pageSize } }) =>
      enter(subtreeOf(scope), async (tx) => {
        if (!effective) return { ...(await listRetention(tx, pageSize, page)), page, pageSize };
        const rules = await effectiveRetention(tx);
        return { rules, total: rules.length };
      }),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/retention",
    operation: "retention_set",
    summary: "Set how long kinds of memory stay at a scope and below",
    answer: object({ rules: z.array(ruleShape) }),
    body: fields({ scope: writeSelector, ...ruleFields }),
    handle: ({ enter, body: { scope, ...rule } }) => {
      const wanted = retentionOf(rule);
      return enter(subtreeOf(scope), (tx) => {
        refuseUnnamed(tx, scope);
        return setRetention(tx, wanted);
      });
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/retention",
    operation: "retention_delete",
    summary: "Take a scope's retention rules away",
    status: 204,
    query: fields({
      scope: querySelector,
      kinds: listed(RETAINED_KINDS).optional().describe("One or several of them, with commas between; absent: all"),
      action: z.enum(["expire", "erase"]).optional(),
    }),
    handle: ({ enter, query: { scope, kinds, action } }) =>
      enter(subtreeOf(scope), (tx) => {
        refuseUnnamed(tx, scope);
        return dropRetention(tx, { kinds, action });
      }),
  }),
];
