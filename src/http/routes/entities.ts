import { z } from "zod";
import { deleteEntity, describeEntity, historyOf, listEntities } from "../../memory/entities.ts";
import { inspect, parseReference } from "../../memory/inspect.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import {
  entityName,
  entityType,
  factKey,
  fields,
  lens,
  limitAndOffset,
  moment,
  queryWriteSelector,
  refuseReversed,
} from "../wire/fields.ts";
import { chunk, described, document, entity, facet, instant, object, trace, uuid } from "../wire/shapes.ts";

const reads = { verb: "memory:read" } as const;
const named = z.object({ type: entityType, name: entityName });

const entitiesResponse = object({ entities: z.array(entity) });
const describedEntityResponse = object(described);
const historyResponse = object({ history: facet });
const inspectionResponse = z.union([
  object({ kind: z.literal("entity"), ...described, history: facet }),
  object({ kind: z.literal("document"), document, chunks: z.array(chunk) }),
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
    handle: ({ enter, query }) => enter(listAccess(query), async (tx) => ({ entities: await listEntities(tx, query) })),
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
      return enter(listAccess(query), (tx) => describeEntity(tx, params, query));
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
      enter(listAccess(query), async (tx) => ({ history: await historyOf(tx, params, params.key) })),
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
      return enter(listAccess(query), (tx) => inspect(tx, reference, query));
    },
  }),
];
