import { z } from "zod";
import { deleteEntity, describeEntity, historyOf, listEntities } from "../../memory/entities.ts";
import { type Inspected, inspect, parseReference } from "../../memory/inspect.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import { entityName, entityType, factKey, fields, lens, limitAndOffset, queryWriteSelector } from "../wire/fields.ts";
import {
  attribute,
  described,
  entity,
  facet,
  relation,
  tellAttribute,
  tellDescribed,
  tellEntity,
  tellFacts,
  tellRelation,
} from "../wire/known.ts";
import { chunk, document, instant, memoryWithHistory, object, tellDocument, uuid } from "../wire/shapes.ts";
import { moment, refuseReversed } from "../wire/times.ts";
import { tellTrace, trace } from "../wire/traces.ts";

const reads = { verb: "memory:read" } as const;
const named = z.object({ type: entityType, name: entityName });

const entitiesResponse = object({ entities: z.array(entity) });
const describedEntityResponse = object(described);
const historyResponse = object({ history: facet });
const inspectionResponse = z.union([
  object({ kind: z.literal("entity"), ...described, history: facet }),
  object({ kind: z.literal("attribute"), current: attribute.nullable(), history: facet }),
  object({ kind: z.literal("relation"), matches: z.array(relation) }),
  object({ kind: z.literal("document"), document, chunks: z.array(chunk) }),
  object({ kind: z.literal("passage"), document, chunk }),
  object({ kind: z.literal("memory"), memory: memoryWithHistory }),
  object({
    kind: z.literal("trace"),
    trace,
    evidence: z.array(
      object({
        id: uuid,
        kind: z.string(),
        text: z.string(),
        sessionId: uuid.nullable(),
        turnId: uuid.nullable(),
        documentId: uuid.nullable(),
        occurredAt: instant,
      }),
    ),
  }),
]);

/** An inspected thing as answers have it. */
function tellInspected(found: Inspected) {
  switch (found.kind) {
    case "entity":
      return { kind: found.kind, ...tellDescribed(found), history: tellFacts(found.history) };
    case "attribute":
      return {
        kind: found.kind,
        current: found.current === undefined ? null : tellAttribute(found.current),
        history: tellFacts(found.history),
      };
    case "relation":
      return { kind: found.kind, matches: found.matches.map(tellRelation) };
    case "trace":
      return { ...found, trace: tellTrace(found.trace) };
    case "document":
      return { ...found, document: tellDocument(found.document) };
    case "passage":
      return { ...found, document: tellDocument(found.document) };
    case "memory":
      return found;
  }
}

/** Entities, what is said of them, and where it comes from. */
export const entityEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/entities",
    operation: "entities",
    summary: "List entities",
    answer: entitiesResponse,
    query: fields({ ...limitAndOffset, ...lens, type: entityType.optional() }),
    handle: ({ enter, query }) =>
      enter(listAccess(query), async (tx) => ({
        entities: (await listEntities(tx, query)).map((one) => tellEntity(one)),
      })),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/entities/{type}/{name}",
    operation: "entities",
    summary: "An entity with what is said of it",
    answer: describedEntityResponse,
    params: named,
    query: fields({ ...lens, ...moment }),
    handle: ({ enter, params, query }) => {
      refuseReversed({ validFrom: query.validFrom, validUntil: query.validUntil });
      return enter(listAccess(query), async (tx) => tellDescribed(await describeEntity(tx, params, query)));
    },
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
    answer: historyResponse,
    params: z.object({ type: entityType, name: entityName, key: factKey }),
    query: fields(lens),
    handle: ({ enter, params, query }) =>
      enter(listAccess(query), async (tx) => ({
        history: tellFacts(await historyOf(tx, params, params.key)),
      })),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/inspect",
    operation: "inspect",
    summary: "One thing, and where it comes from",
    answer: inspectionResponse,
    query: fields({ ref: z.string().min(1).max(600), ...lens, ...moment }),
    handle: ({ enter, query }) => {
      const reference = parseReference(query.ref);
      refuseReversed({ validFrom: query.validFrom, validUntil: query.validUntil });
      return enter(listAccess(query), async (tx) => tellInspected(await inspect(tx, reference, query)));
    },
  }),
];
