import { z } from "zod";
import { refuseUnoffered } from "../../context/offered.ts";
import { contextSettings } from "../../context/settings.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { retentionOf } from "../../governance/retention.ts";
import { dropTemplate, getTemplate, listTemplates, putTemplate } from "../../governance/templates.ts";
import {
  beginOffboarding,
  changeTenant,
  getTenant,
  listTenants,
  makeTenant,
  requireTenant,
  type TenantParts,
  undoOffboarding,
} from "../../governance/tenants.ts";
import { canonicalPath } from "../../scope/scope.ts";
import { parseSelector } from "../../scope/selector.ts";
import { endpoint } from "../endpoint.ts";
import { subtreeOf } from "../wire/access.ts";
import {
  amount,
  defaultView,
  fields,
  given,
  keyName,
  keyVerbs,
  namedScope,
  pageAndSize,
  queryNamedScope,
  ruleName,
  scopeObject,
  wholeNumber,
} from "../wire/fields.ts";
import { eachLimit, newBudget } from "../wire/metering-shapes.ts";
import { instant, integer, object, pageShape, principalKind, scopeTags, uuid } from "../wire/shapes.ts";
import { retentionRule } from "./retention.ts";

const manages = { verb: "manage" } as const;

const tenantShape = object({
  scope: scopeTags,
  path: z.string(),
  name: z.string().nullable(),
  template: z.string().nullable(),
  templateVersion: integer.nullable(),
  state: z.enum(["active", "suspended", "leaving"]),
  leavesAt: instant.nullable().describe("When one that leaves is erased"),
  createdAt: instant,
  keys: integer.describe("Live ones"),
  lastUsedAt: instant.nullable(),
  usage: object({ from: instant, calls: integer, totalTokens: z.number(), costUsd: z.number() }).describe(
    "Of this month, UTC",
  ),
  storage: object({ scopes: integer, passages: z.number(), bytes: z.number() }),
});

const tenantName = z.string().trim().min(1).max(200);
const parts = {
  keys: z
    .array(
      fields({
        name: keyName,
        principal: z.enum(["agent", "supervisor", "management"]),
        verbs: keyVerbs.optional(),
        content: z.boolean().optional(),
        defaultView: defaultView.optional(),
        scopeFloor: scopeObject.optional().describe("Tags besides the tenant's own"),
      }),
    )
    .max(50)
    .optional(),
  budgets: z.array(newBudget).max(20).optional(),
  limits: fields(eachLimit(amount.optional())).optional(),
  retention: z.array(retentionRule).max(20).optional(),
  settings: fields(contextSettings).optional(),
};

/** As the functions below take them: without what was not given. */
const partsOf = ({
  keys,
  budgets,
  limits,
  retention,
  settings,
}: z.output<ReturnType<typeof fields<typeof parts>>>): TenantParts => ({
  ...(keys === undefined ? {} : { keys }),
  ...(budgets === undefined ? {} : { budgets }),
  ...(limits === undefined ? {} : { limits: given(limits) }),
  ...(retention === undefined ? {} : { retention: retention.map(retentionOf) }),
  ...(settings === undefined ? {} : { settings: given(settings) }),
});

const templateShape = object({
  name: z.string(),
  version: integer,
  template: z.record(z.string(), z.unknown()),
  createdAt: instant,
  versions: z.array(integer).optional(),
});
const templateName = z.object({ name: ruleName });

/** A tenant in a path: `org%2Facme`, or the two parts of it. */
const scopeIn = (path: string) => subtreeOf(parseSelector(path));
const tenantRoutes = [
  {
    path: "/contexts/{ctx}/tenants/{path}",
    params: z.object({ path: z.string() }),
    of: ({ path }: Record<string, string>) => path ?? "",
  },
  {
    path: "/contexts/{ctx}/tenants/{dimension}/{value}",
    params: z.object({ dimension: z.string(), value: z.string() }),
    of: ({ dimension, value }: Record<string, string>) => `${dimension}/${value}`,
  },
] as const;

export const tenantEndpoints = [
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/templates",
    operation: "templates",
    summary: "What tenants are made from: the last version of each template",
    answer: object({ templates: z.array(templateShape) }),
    handle: ({ enter }) => enter({}, async (tx) => ({ templates: await listTemplates(tx) })),
  }),
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/templates/{name}",
    operation: "templates",
    summary: "One template, in its last version or another",
    answer: templateShape,
    params: templateName,
    query: fields({ version: wholeNumber(1, 1_000_000).optional() }),
    handle: ({ enter, params, query }) => enter({}, (tx) => getTemplate(tx, params.name, query.version)),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/templates/{name}",
    operation: "template_set",
    summary: "Store a template, as its next version where there is one",
    answer: templateShape,
    params: templateName,
    body: fields(parts),
    handle: ({ enter, deps, params, body }) => {
      refuseUnoffered(deps.models, body.settings);
      return enter({}, (tx) => putTemplate(tx, params.name, partsOf(body)));
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/templates/{name}",
    operation: "template_delete",
    summary: "Take a template away; what was made from it stays",
    status: 204,
    params: templateName,
    handle: ({ enter, params }) => enter({}, (tx) => dropTemplate(tx, params.name)),
  }),
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/tenants",
    operation: "tenants",
    summary: "Tenants, with what they use",
    answer: object({ tenants: z.array(tenantShape), ...pageShape }),
    query: fields({ state: z.enum(["active", "suspended", "leaving"]).optional(), ...pageAndSize }),
    handle: ({ enter, query: { state, page, pageSize } }) =>
      enter({}, async (tx) => ({ ...(await listTenants(tx, state, pageSize, page)), page, pageSize })),
  }),
  endpoint({
    ...manages,
    method: "post",
    path: "/contexts/{ctx}/tenants",
    operation: "tenant_make",
    summary:
      "Make a tenant with its keys, budgets, limits, retention and settings, all or nothing; secrets are in this answer alone",
    answer: object({
      ...tenantShape.shape,
      created: z.boolean(),
      keys: z.array(
        object({
          id: uuid.optional(),
          name: z.string(),
          principal: principalKind.optional(),
          scopeFloor: scopeTags,
          verbs: z.array(z.string()).optional(),
          key: z.string().optional().describe("The secret, of a key that was made just now"),
        }),
      ),
    }),
    status: 201,
    secret: true,
    body: fields({
      scope: namedScope,
      name: tenantName.optional(),
      template: ruleName.optional(),
      templateVersion: z.int().min(1).max(1_000_000).optional(),
      region: z.string().max(64).optional(),
      ...parts,
    }),
    handle: ({ enter, deps, body: { scope, name, template, templateVersion, region, ...rest } }) => {
      refuseUnoffered(deps.models, rest.settings);
      if (region !== undefined) throw unprocessable("regions are not built yet; leave region out");
      if (templateVersion !== undefined && template === undefined)
        throw invalid("templateVersion: needs template, the name of the template it is a version of");
      return enter(subtreeOf(scope), async (tx) => {
        const { tenant, created, keys } = await makeTenant(tx, { name, template, templateVersion, ...partsOf(rest) });
        return { ...tenant, created, keys };
      });
    },
  }),
  endpoint({
    ...manages,
    method: "post",
    path: "/contexts/{ctx}/tenants/offboard",
    operation: "tenant_offboard",
    summary: "Let a tenant leave: its keys are kept out at once; after the grace they are revoked and all is erased",
    answer: tenantShape,
    status: 202,
    body: fields({
      scope: namedScope,
      confirm: z.string().describe("The scope's path, typed out"),
      graceSeconds: z.int().min(0).max(31_536_000).optional().describe("In which it can be taken back; absent: none"),
    }),
    handle: async ({ enter, deps, body: { scope, confirm, graceSeconds = 0 } }) => {
      const tenant = await enter(subtreeOf(scope), (tx) => {
        requireTenant(tx);
        const path = canonicalPath(tx.entry.effective ?? tx.entry.floor);
        if (confirm !== path)
          throw unprocessable(`this erases all that ${path} has; confirm it with "confirm": "${path}"`);
        return beginOffboarding(tx, graceSeconds);
      });
      deps.wakeWorker();
      return tenant;
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/tenants/offboard",
    operation: "tenant_offboard_undo",
    summary: "Take an offboarding back, within its grace",
    answer: tenantShape,
    query: fields({ scope: queryNamedScope }),
    handle: ({ enter, query }) => enter(subtreeOf(query.scope), undoOffboarding),
  }),
  ...tenantRoutes.flatMap(({ path, params, of }) => [
    endpoint({
      ...manages,
      method: "get",
      path,
      operation: "tenants",
      summary: "One tenant",
      answer: tenantShape,
      params,
      handle: ({ enter, params: named }) => enter(scopeIn(of(named)), getTenant),
    }),
    endpoint({
      ...manages,
      method: "patch",
      path,
      operation: "tenant_change",
      summary: "Suspend a tenant, which keeps its keys out and loses nothing; let them in again; or name it",
      answer: tenantShape,
      params,
      body: fields({
        state: z.enum(["active", "suspended"]).optional(),
        name: tenantName.optional(),
      }).refine((change) => change.state !== undefined || change.name !== undefined, "needs state or name"),
      handle: ({ enter, params: named, body }) => enter(scopeIn(of(named)), (tx) => changeTenant(tx, body)),
    }),
  ]),
];
