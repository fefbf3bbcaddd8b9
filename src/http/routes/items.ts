import { z } from "zod";
import { modelsFor } from "../../context/scope-models.ts";
import { AppError, invalid } from "../../errors.ts";
import { parseItemFilter } from "../../memory/item-filter.ts";
import { INDEXED_FIELD, MOST_FIELD_CHARACTERS, MOST_INDEXED } from "../../memory/item-text.ts";
import {
  deleteItem,
  getItem,
  ITEM_ORDERS,
  type ItemOperation,
  type KeyedItem,
  listItems,
  listKeys,
  putItems,
} from "../../memory/items.ts";
import { prepareItems } from "../../memory/recalled-items.ts";
import { GENERAL } from "../../scope/scope.ts";
import { parseJson } from "../body.ts";
import { endpoint } from "../endpoint.ts";
import {
  fields,
  itemKey,
  jsonValue,
  limitAndOffset,
  querySelector,
  queryWriteSelector,
  scopeView,
  viewOf,
  writeSelector,
} from "../wire/fields.ts";
import { instant, integer, object, scopePaths, scopeTags } from "../wire/shapes.ts";

const reads = { verb: "memory:read" } as const;
const item = z.object({ key: itemKey });
/** The narrowest visible scope answers, never one from below E. */
const itemAccess = (selector: z.output<typeof querySelector>) =>
  ({ mode: "select", selector, view: "strict" }) as const;
/** Exactly E, which without a selector is the floor. */
const atScope = (selector: z.output<typeof queryWriteSelector>) => ({
  selector: selector ?? [{ tags: GENERAL, subtree: false }],
});

const itemShape = {
  key: z.string(),
  value: z.unknown(),
  scope: scopeTags,
  scopes: scopePaths,
  createdAt: instant,
  updatedAt: instant,
  version: integer.optional().describe("From 1 on, one more with each value; not told to a key that may not read"),
  expiresAt: instant.optional(),
  ttlSeconds: integer.optional(),
};
const itemResponse = object(itemShape).meta({ id: "Item" });
const itemsResponse = object({ items: z.array(itemResponse) });
const batchResponse = object({
  results: z
    .array(z.union([itemResponse, object({ key: z.string(), deleted: z.boolean() })]))
    .describe("For each operation, in their order"),
});

const FIELD_HINT = 'a name such as "title", "owner.name" or "tags[*]", or "$" for the whole value';

const indexedFields = z
  .array(z.string().max(MOST_FIELD_CHARACTERS).regex(INDEXED_FIELD, FIELD_HINT))
  .min(1)
  .max(MOST_INDEXED)
  .refine((given) => new Set(given).size === given.length, "has a field twice");

/** About 63 years. */
const ttl = z.int().min(1).max(2_000_000_000);
const put = {
  value: jsonValue.optional(),
  ttlSeconds: ttl.optional().describe("How long it stays; absent: until it is deleted"),
  refreshOnRead: z.boolean().optional().describe("Whether it stays for as long again once it is read"),
  ifVersion: z
    .int()
    .min(0)
    .max(2_147_483_647)
    .optional()
    .describe("Only where this version is there; 0: only where there is none"),
  index: z
    .union([z.literal(false), indexedFields], {
      error: `must be false, or a list of 1 to ${MOST_INDEXED} fields, none twice: ${FIELD_HINT}`,
    })
    .optional()
    .describe(
      'Fields of the value that recall finds the item by, such as ["title", "tags[*]"]; ["$"]: all of it. Absent or false: it is found by key and filter alone',
    ),
};
const operation = fields(
  {
    op: z.enum(["put", "delete"]).default("put"),
    key: itemKey,
    ...put,
  },
  ["value"],
).superRefine(({ op, value, ttlSeconds, refreshOnRead, index }, context) => {
  const extra = op === "delete" && [value, ttlSeconds, refreshOnRead, index].some((given) => given !== undefined);
  if (op === "put" && value === undefined) context.addIssue({ code: "custom", message: "an item needs a value" });
  if (extra) context.addIssue({ code: "custom", message: "what is deleted has no value, no time and no index" });
  if (refreshOnRead === true && ttlSeconds === undefined)
    context.addIssue({ code: "custom", message: "refreshOnRead goes with ttlSeconds" });
});

const OPERATIONS = 500;
const BATCH_LIMIT = 16 * 1024 * 1024;

const toOperation = ({
  op,
  key,
  value,
  ttlSeconds,
  refreshOnRead,
  ifVersion,
  index,
}: z.output<typeof operation>): ItemOperation =>
  op === "delete"
    ? { op, key, ifVersion }
    : { op, key, value, ttlSeconds, refreshOnRead, ifVersion, index: index === false ? undefined : index };

type Told = KeyedItem | { readonly key: string; readonly deleted: boolean };
type Kept = Omit<KeyedItem, "key" | "value"> | { readonly deleted: boolean };
/** An answer as it is stored: keys and values are in the request. */
const keptOf = (told: Told): Kept => {
  const { key: _, ...rest } = told;
  if ("deleted" in rest) return rest;
  const { value: __, ...times } = rest;
  return times;
};
const toldOf = (kept: Kept, { key, value }: { readonly key: string; readonly value: unknown }): Told =>
  "deleted" in kept ? { key, ...kept } : { key, value, ...kept };

const filter = z
  .string()
  .max(8_000)
  .transform((text, context) => {
    try {
      return parseItemFilter(parseJson(Buffer.from(text), "application/json"));
    } catch (error) {
      context.addIssue({
        code: "custom",
        message: error instanceof AppError ? error.message.replace(/^filter: /, "") : "must be JSON",
      });
      return z.NEVER;
    }
  })
  .meta({
    description:
      'Of the value\'s fields, as JSON: {"status": "open", "size": {"$gt": 3}}; operators $eq $ne $gt $gte $lt $lte $in',
  });
const order = z.preprocess(
  (given) => (given === "asc" ? "key" : given === "desc" ? "-key" : given),
  z.enum(ITEM_ORDERS).default("key"),
);
const prefix = z.string().max(256).default("");

/** Several scopes' items, or those of the narrowest visible one. */
const listAt = (query: {
  lens?: z.output<typeof querySelector>;
  scopeView?: z.output<typeof scopeView> | undefined;
}) => ({
  mode: "select" as const,
  selector: query.lens,
  view: viewOf(query.scopeView) ?? ("strict" as const),
});

/** The keyed store. */
export const itemEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/memory",
    operation: "items",
    summary: "Keyed items, each with the narrowest visible scope's value",
    answer: itemsResponse,
    query: fields({
      ...limitAndOffset,
      lens: querySelector,
      scopeView: scopeView.optional().describe("subtree: the values of all scopes below, each by itself"),
      prefix,
      filter: filter.optional(),
      order,
    }),
    handle: ({ enter, query }) =>
      enter(listAt(query), async (tx) => ({
        items: await listItems(tx, {
          ...query,
          filter: query.filter ?? [],
          ofEachScope: query.scopeView === "subtree",
        }),
      })),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/memory/keys",
    operation: "items",
    summary: "Keys of items, or what they begin with",
    answer: object({
      keys: z.array(z.string()),
      prefixes: z.array(object({ prefix: z.string(), keys: integer })).describe("With how many keys each stands for"),
    }),
    query: fields({
      ...limitAndOffset,
      lens: querySelector,
      scopeView: scopeView.optional(),
      prefix,
      delimiter: z.string().max(16).default(""),
    }),
    handle: ({ enter, query }) => enter(listAt(query), (tx) => listKeys(tx, query)),
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/memory/batch",
    verb: "memory:write",
    mode: "write",
    operation: "item_put",
    summary: "Set and delete up to 500 keyed items, all or none",
    answer: batchResponse,
    bodyLimit: BATCH_LIMIT,
    retold: {
      strip: ({ results }: { results: Told[] }) => results.map(keptOf),
      tell: (kept: Kept[], { body }) => ({
        results: kept.map((one, i) => toldOf(one, { key: "", value: undefined, ...body.operations[i] })),
      }),
    },
    body: fields({ operations: z.array(operation).min(1).max(OPERATIONS), scopes: writeSelector }),
    handle: async ({ enter, peek, meter, body, deps }) => {
      const keys = body.operations.map(({ key }) => key);
      const twice = keys.find((key, i) => keys.indexOf(key) !== i);
      if (twice !== undefined) throw invalid(`operations: ${JSON.stringify(twice)} is there twice`);
      const where = { selector: body.scopes };
      const operations = body.operations.map(toOperation);
      const recalled = await prepareItems(() => modelsFor(deps.models, peek, where), meter(where), operations);
      return enter(where, async (tx) => ({ results: await putItems(tx, operations, recalled) }));
    },
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/memory/{key}",
    operation: "item",
    summary: "A keyed item's value at the narrowest visible scope",
    answer: itemResponse,
    params: item,
    query: fields({ lens: querySelector }),
    handle: ({ enter, params, query }) => enter(itemAccess(query.lens), (tx) => getItem(tx, params.key)),
  }),
  endpoint({
    method: "put",
    path: "/{ctx}/memory/{key}",
    verb: "memory:write",
    mode: "write",
    operation: "item_put",
    summary: "Set a keyed item",
    answer: itemResponse,
    retold: {
      strip: keptOf,
      tell: (kept: Kept, { params, body }) => toldOf(kept, { key: params.key, value: body.value }),
    },
    params: item,
    body: fields({ ...put, scopes: writeSelector }, ["value"]),
    handle: async ({ enter, peek, meter, params, body, deps }) => {
      const { scopes, ...rest } = body;
      if (body.value === undefined) throw invalid("value: an item needs a value; DELETE takes one away");
      if (body.refreshOnRead === true && body.ttlSeconds === undefined)
        throw invalid("refreshOnRead goes with ttlSeconds");
      const one = toOperation({ op: "put", key: params.key, ...rest });
      const where = { selector: scopes };
      const recalled = await prepareItems(() => modelsFor(deps.models, peek, where), meter(where), [one]);
      return enter(where, async (tx) => (await putItems(tx, [one], recalled))[0]);
    },
  }),
  endpoint({
    method: "delete",
    path: "/{ctx}/memory/{key}",
    verb: "memory:write",
    mode: "delete",
    operation: "item_delete",
    summary: "Delete a keyed item",
    status: 204,
    params: item,
    query: fields({ scopes: queryWriteSelector }),
    handle: ({ enter, params, query }) => enter(atScope(query.scopes), (tx) => deleteItem(tx, params.key)),
  }),
];
