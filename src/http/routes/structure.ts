import { z } from "zod";
import { invalid } from "../../errors.ts";
import { deleteEntity, describeEntity, historyOf, listEntities } from "../../memory/entities.ts";
import { inspect, parseReference } from "../../memory/inspect.ts";
import { deleteItem, getItem, listItems, putItem } from "../../memory/items.ts";
import { profileOf, stateOf } from "../../memory/profile.ts";
import { GENERAL } from "../../scope/scope.ts";
import * as answers from "../answers.ts";
import { endpoint } from "../endpoint.ts";
import {
  entityName,
  entityType,
  factKey,
  fields,
  itemKey,
  limitAndOffset,
  querySelector,
  queryWriteSelector,
  readSelector,
  scopeView,
  time,
  viewOf,
  writeSelector,
} from "../wire.ts";
import { listDemand } from "./demand.ts";

const lens = { lens: querySelector, scopeView: scopeView.optional() };
const moment = {
  asOf: time.optional(),
  atInstant: time.optional(),
  validFrom: time.optional(),
  validUntil: time.optional(),
};
const reads = { verb: "memory:read" } as const;
const named = z.object({ type: entityType, name: entityName });

const ITEM_LIMIT = 64 * 1024;
const item = z.object({ key: itemKey });
/** The narrowest visible scope answers, never one from below E. */
const itemDemand = (selector: z.output<typeof querySelector>) =>
  ({ mode: "select", selector, view: "strict" }) as const;
/** Exactly E, which without a selector is the floor. */
const atScope = (selector: z.output<typeof queryWriteSelector>) => ({
  selector: selector ?? [{ tags: GENERAL, subtree: false }],
});

export const structureEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/entities",
    operation: "entities",
    summary: "List entities",
    answer: answers.entities,
    query: fields({ ...limitAndOffset, ...lens, type: entityType.optional() }),
    handle: ({ enter, query }) => enter(listDemand(query), async (tx) => ({ entities: await listEntities(tx, query) })),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/entities/{type}/{name}",
    operation: "entities",
    summary: "An entity with what is said of it",
    answer: answers.describedEntity,
    params: named,
    query: fields({ ...lens, ...moment }),
    handle: ({ enter, params, query }) => enter(listDemand(query), (tx) => describeEntity(tx, params, query)),
  }),
  endpoint({
    method: "delete",
    path: "/{ctx}/entities/{type}/{name}",
    verb: "memory:write",
    mode: "delete",
    operation: "entity_delete",
    summary: "Delete an entity and what is said of it",
    status: 204,
    params: named,
    query: fields({ scopes: queryWriteSelector }),
    handle: ({ enter, params, query }) => enter({ selector: query.scopes }, (tx) => deleteEntity(tx, params)),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/entities/{type}/{name}/history/{key}",
    operation: "history",
    summary: "Everything that was ever said under a key, newest first",
    answer: answers.history,
    params: z.object({ type: entityType, name: entityName, key: factKey }),
    query: fields(lens),
    handle: ({ enter, params, query }) =>
      enter(listDemand(query), async (tx) => ({ history: await historyOf(tx, params, params.key) })),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/profile",
    mode: "select",
    operation: "profile",
    summary: "What is known, sorted by how lasting it is",
    answer: answers.profile,
    query: fields(lens),
    handle: ({ enter, query }) => enter({ selector: query.lens, view: viewOf(query.scopeView) }, profileOf),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/state",
    mode: "select",
    operation: "state",
    summary: "What is known, by category",
    answer: answers.state,
    query: fields(lens),
    handle: ({ enter, query }) => enter({ selector: query.lens, view: viewOf(query.scopeView) }, stateOf),
  }),
  endpoint({
    ...reads,
    method: "post",
    path: "/{ctx}/state",
    mode: "select",
    operation: "state",
    summary: "What is known, by category",
    answer: answers.state,
    recalls: true,
    body: fields({ lens: readSelector, scopeView: scopeView.optional() }),
    handle: ({ enter, body }) => enter({ selector: body.lens, view: viewOf(body.scopeView) }, stateOf),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/inspect",
    operation: "inspect",
    summary: "One thing, and where it comes from",
    answer: answers.inspection,
    query: fields({ ref: z.string().min(1).max(600), ...lens, ...moment }),
    handle: ({ enter, query }) => {
      const reference = parseReference(query.ref);
      return enter(listDemand(query), (tx) => inspect(tx, reference, query));
    },
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/memory",
    operation: "items",
    summary: "Keyed items, each with the narrowest visible scope's value",
    answer: answers.items,
    query: fields({ ...limitAndOffset, lens: querySelector, prefix: z.string().max(256).default("") }),
    handle: ({ enter, query }) => enter(itemDemand(query.lens), async (tx) => ({ items: await listItems(tx, query) })),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/memory/{key}",
    operation: "item",
    summary: "A keyed item's value at the narrowest visible scope",
    answer: answers.item,
    params: item,
    query: fields({ lens: querySelector }),
    handle: ({ enter, params, query }) => enter(itemDemand(query.lens), (tx) => getItem(tx, params.key)),
  }),
  endpoint({
    method: "put",
    path: "/{ctx}/memory/{key}",
    verb: "memory:write",
    mode: "write",
    operation: "item_put",
    summary: "Set a keyed item",
    answer: answers.item,
    recalls: true,
    params: item,
    body: fields({ value: z.unknown(), scopes: writeSelector }),
    handle: ({ enter, params, body }) => {
      if (body.value === undefined) throw invalid("value: an item needs a value; DELETE takes one away");
      if (Buffer.byteLength(JSON.stringify(body.value)) > ITEM_LIMIT)
        throw invalid(`value: is over ${ITEM_LIMIT} bytes of JSON`);
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
