import { z } from "zod";
import { invalid } from "../../errors.ts";
import { deleteItem, getItem, type KeyedItem, listItems, putItem } from "../../memory/items.ts";
import { GENERAL } from "../../scope/scope.ts";
import { endpoint } from "../endpoint.ts";
import {
  fields,
  itemKey,
  jsonValue,
  limitAndOffset,
  querySelector,
  queryWriteSelector,
  writeSelector,
} from "../wire/fields.ts";
import { instant, object, scopePaths, scopeTags } from "../wire/shapes.ts";

const reads = { verb: "memory:read" } as const;
const item = z.object({ key: itemKey });
/** The narrowest visible scope answers, never one from below E. */
const itemAccess = (selector: z.output<typeof querySelector>) =>
  ({ mode: "select", selector, view: "strict" }) as const;
/** Exactly E, which without a selector is the floor. */
const atScope = (selector: z.output<typeof queryWriteSelector>) => ({
  selector: selector ?? [{ tags: GENERAL, subtree: false }],
});

const itemResponse = object({
  key: z.string(),
  value: z.unknown(),
  scope: scopeTags,
  scopes: scopePaths,
  createdAt: instant,
  updatedAt: instant,
});

const itemsResponse = object({ items: z.array(itemResponse) });

/** The keyed store. */
export const itemEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/memory",
    operation: "items",
    summary: "Keyed items, each with the narrowest visible scope's value",
    answer: itemsResponse,
    query: fields({ ...limitAndOffset, lens: querySelector, prefix: z.string().max(256).default("") }),
    handle: ({ enter, query }) => enter(itemAccess(query.lens), async (tx) => ({ items: await listItems(tx, query) })),
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
      strip: ({ key: _, value: __, ...rest }: KeyedItem) => rest,
      tell: (rest: Omit<KeyedItem, "key" | "value">, { params, body }) => ({
        key: params.key,
        value: body.value,
        ...rest,
      }),
    },
    params: item,
    body: fields({ value: jsonValue, scopes: writeSelector }),
    handle: ({ enter, params, body }) => {
      if (body.value === undefined) throw invalid("value: an item needs a value; DELETE takes one away");
      return enter({ selector: body.scopes }, (tx) => putItem(tx, params.key, body.value));
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
