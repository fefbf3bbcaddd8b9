import { z } from "zod";
import type { MemoryVerb } from "../../db/access/entry.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { type ApiKey, grantsOf, KEY_VERBS, mintKey, ownKeys, revokeKey, rotateKey, VERBS } from "../../keys/keys.ts";
import { bringUpToDate, listBudgets } from "../../metering/budgets.ts";
import { listLimits } from "../../metering/limits.ts";
import { type Scope, sameScope, scopeFromDatabase } from "../../scope/scope.ts";
import { parseSelector } from "../../scope/selector.ts";
import { usage } from "../../traces/usage.ts";
import { endpoint } from "../endpoint.ts";
import {
  defaultView,
  fields,
  graceSeconds,
  keepChildren,
  keyName,
  scopeObject,
  ttlSeconds,
  verbs,
} from "../wire/fields.ts";
import { budgetShape, limitShape } from "../wire/metering-shapes.ts";
import { grantedPaths, instant, object, principalKind, scopeTags, usageShape, uuid } from "../wire/shapes.ts";
import { expiry } from "../wire/times.ts";

const listed = (key: ApiKey) => ({
  id: key.id,
  name: key.name,
  createdAt: key.createdAt,
  lastUsedAt: key.lastUsedAt,
  validUntil: key.expiresAt,
  grants: grantsOf(scopeFromDatabase(key.scopeFloor), key.verbs),
});

const minted = (key: ApiKey & { readonly secret: string }) => ({
  id: key.id,
  name: key.name,
  key: key.secret,
  ...(key.expiresAt === null ? {} : { validUntil: key.expiresAt }),
});

const grants = z.partialRecord(z.enum(VERBS), z.array(z.string()).min(1));

const narrower = fields({
  name: keyName.optional(),
  scopeFloor: scopeObject.optional(),
  verbs: verbs.optional(),
  grants: grants.optional(),
  defaultView: defaultView.optional(),
});

/** Grants say the same as scopeFloor and verbs: verbs that all reach the same path. */
function narrowingOf(body: z.output<typeof narrower>): {
  scopeFloor: Scope | undefined;
  verbs: readonly MemoryVerb[] | undefined;
} {
  if (body.grants === undefined) return { scopeFloor: body.scopeFloor, verbs: body.verbs };
  if (body.scopeFloor !== undefined || body.verbs !== undefined)
    throw invalid("give grants, or scopeFloor and verbs, not both");
  const floors = Object.values(body.grants).flatMap((paths) => parseSelector(paths) ?? []);
  const [first] = floors;
  if (first === undefined || floors.some((floor) => !sameScope(floor.tags, first.tags))) {
    throw unprocessable("a key has one scope floor: all grants must name the same path");
  }
  return { scopeFloor: first.tags, verbs: VERBS.filter((verb) => body.grants?.[verb] !== undefined) };
}

const nameParam = z.object({ name: z.string().min(1).max(200) });
const self = { verb: "self" } as const;

const meResponse = object({
  principalId: uuid,
  displayName: z.string(),
  kind: principalKind,
  scopeFloor: scopeTags,
  verbs: z.array(z.enum(KEY_VERBS)),
  grants: grantedPaths,
  effectiveGrants: grantedPaths,
  defaultView: defaultView.describe("What the key sees where a request names no view"),
  delegatedPrincipalId: uuid.optional(),
});

/** Budgets and limits that an answer lists. */
const MOST_RULES = 100;

const ownUsageResponse = object({
  scope: scopeTags,
  period: z.literal("month"),
  from: instant,
  ...usageShape,
  budgets: z.array(budgetShape),
  limits: z.array(limitShape),
  resetsAt: instant,
});

const mintedSelfResponse = object({ id: uuid, name: z.string(), key: z.string(), validUntil: instant.optional() });
const rotatedSelfResponse = object({
  ...mintedSelfResponse.shape,
  children: z.array(object({ id: uuid, name: z.string() })),
});
const ownKeysResponse = z.array(
  object({
    id: uuid,
    name: z.string(),
    createdAt: instant,
    lastUsedAt: instant.nullable(),
    validUntil: instant.nullable(),
    grants: grantedPaths,
  }),
);

export const selfEndpoints = [
  endpoint({
    ...self,
    method: "get",
    path: "/{ctx}/me",
    operation: "me",
    summary: "Who the key is, and what it may",
    answer: meResponse,
    handle: ({ enter }) =>
      enter({}, async ({ entry }) => {
        const granted = grantsOf(entry.floor, entry.verbs);
        return {
          principalId: entry.key.id,
          displayName: entry.key.name,
          kind: entry.key.principal,
          scopeFloor: entry.floor,
          verbs: entry.verbs,
          grants: granted,
          effectiveGrants: entry.key.content ? granted : {},
          defaultView: entry.key.defaultView,
          ...(entry.onBehalfOf === null ? {} : { delegatedPrincipalId: entry.onBehalfOf }),
        };
      }),
  }),
  endpoint({
    ...self,
    method: "get",
    path: "/{ctx}/usage",
    operation: "usage",
    summary: "What the key's own floor used this month, and its budgets and limits",
    answer: ownUsageResponse,
    handle: async ({ enter, peek }) => {
      await peek({}, bringUpToDate);
      return enter({}, async (tx) => {
        const now = new Date();
        const month = (offset: number) =>
          new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + offset, 1)).toISOString();
        const [used] = await usage(tx, { from: month(0) });
        const { budgets } = await listBudgets(tx, MOST_RULES, 0);
        const { limits } = await listLimits(tx, MOST_RULES, 0);
        return { scope: tx.entry.floor, period: "month", from: month(0), ...used, budgets, limits, resetsAt: month(1) };
      });
    },
  }),
  endpoint({
    ...self,
    method: "get",
    path: "/{ctx}/keys",
    operation: "list_keys",
    summary: "The key itself and those that it minted",
    answer: ownKeysResponse,
    handle: ({ enter }) => enter({}, async (tx) => (await ownKeys(tx)).map(listed)),
  }),
  endpoint({
    ...self,
    method: "post",
    path: "/{ctx}/keys",
    operation: "mint_key",
    summary: "Mint a narrower key",
    answer: mintedSelfResponse,
    status: 201,
    secret: true,
    query: fields({ ttlSeconds: ttlSeconds.optional() }),
    body: narrower,
    handle: ({ enter, body, query }) => {
      const narrowing = narrowingOf(body);
      return enter({}, async (tx) =>
        minted(
          await mintKey(tx, {
            name: body.name,
            ...narrowing,
            principal: tx.entry.key.principal,
            content: undefined,
            defaultView: body.defaultView,
            expiresAt: expiry(query.ttlSeconds),
          }),
        ),
      );
    },
  }),
  endpoint({
    ...self,
    method: "delete",
    path: "/{ctx}/keys/{name}",
    operation: "revoke_key",
    summary: "Revoke the key itself or one that it minted",
    status: 204,
    params: nameParam,
    handle: ({ enter, params }) => enter({}, (tx) => revokeKey(tx, params.name)),
  }),
  endpoint({
    ...self,
    method: "post",
    path: "/{ctx}/keys/{name}/rotate",
    operation: "rotate_key",
    summary: "Give the key itself, or one that it minted, a new secret",
    answer: rotatedSelfResponse,
    secret: true,
    params: nameParam,
    query: fields({ ttlSeconds: ttlSeconds.optional(), graceSeconds, keepChildren }),
    handle: ({ enter, params, query }) =>
      enter({}, async (tx) => {
        const rotated = await rotateKey(tx, params.name, {
          expiresAt: expiry(query.ttlSeconds),
          graceSeconds: query.graceSeconds,
          keepChildren: query.keepChildren,
        });
        return { ...minted(rotated), children: rotated.children };
      }),
  }),
];
