/**
 * What clients of the system that this one follows are promised of each answer, written from its published
 * description: typed clients fail on a field that is missing, null, or of another type. What is more is no fault.
 */
import { z } from "zod";

const text = z.string();
const whole = z.int();
const some = z.looseObject;
/** May be null or left out. */
const maybe = <T extends z.ZodType>(type: T) => type.nullish();
const category = z.enum(["identity", "knowledge", "context"]);
const status = z.enum([
  "queued",
  "extracting",
  "chunking",
  "embedding",
  "keywording",
  "extracting_nodes",
  "ready",
  "failed",
]);
const tier = z.enum(["direct", "cache", "hybrid", "full_context"]);
const grants = z.record(text, z.array(text));

const source = maybe(some({ kind: text, ref: maybe(text), sessionId: maybe(text) }));
const attribute = some({
  createdAt: text,
  entity: text,
  id: text,
  importance: z.number(),
  key: text,
  memoryCategory: category,
  source: source.optional(),
  supersededBy: maybe(text),
  supersedes: maybe(text),
  validFrom: maybe(text),
  validUntil: maybe(text),
  value: text,
});
const entity = some({
  createdAt: text,
  entityType: text,
  id: text,
  importance: z.number(),
  memoryCategory: category,
  name: text,
  updatedAt: text,
});
const relation = some({
  createdAt: text,
  id: text,
  label: text,
  memoryCategory: category,
  object: text,
  subject: text,
  validFrom: maybe(text),
  validUntil: maybe(text),
});
const instruction = some({ description: text, id: text, label: text });
const uncertainty = some({ about: text, reason: text });
const extraction = some({
  attributes: z.array(some({ entityId: text, id: text, key: text, memoryCategory: category, value: text })),
  corrections: z.array(some({ entityId: text, key: text, newValue: text, oldValue: text })),
  entities: z.array(some({ entityType: text, id: text, isNew: z.boolean(), memoryCategory: category, name: text })),
  instructions: z.array(instruction),
  relations: z.array(some({ label: text, memoryCategory: category, object: text, subject: text })),
  turnId: text,
  uncertainties: z.array(uncertainty),
});
const retrieval = some({
  createdAt: text,
  id: text,
  latencyMs: whole,
  mode: text,
  retrievedIds: z.array(text),
  returned: z.array(
    some({ id: text, label: maybe(text), rank: maybe(whole), ref: maybe(text), score: maybe(z.number()), table: text }),
  ),
  scores: z.array(z.number()),
  tierEntered: whole,
  tierReason: text,
});
const trace = some({
  cached: z.boolean(),
  createdAt: text,
  id: text,
  latencyMs: whole,
  parent: maybe(some({})),
  queryText: text,
  resolutionTier: text,
  retrievals: maybe(z.array(retrieval)),
  tierReason: text,
});
const chunk = some({
  charEnd: whole,
  charStart: whole,
  document: text,
  id: text,
  position: whole,
  section: maybe(text),
  text,
  tokenCount: maybe(whole),
});
const document = some({
  contentHash: text,
  createdAt: text,
  error: maybe(text),
  id: text,
  mimeType: text,
  processingCompletedAt: maybe(text),
  processingStartedAt: maybe(text),
  sizeBytes: whole,
  source: text,
  status,
  title: text,
  updatedAt: text,
  version: whole,
});
const page = { page: whole, pageSize: whole, total: whole };
const upload = some({ contentHash: text, deduplicated: z.boolean(), id: text, status });
const keyword = { id: text, normalised: text, text };
const minted = some({ id: text, key: text, validUntil: maybe(text) });
const principal = some({ displayName: text, grants, id: text, kind: text });
const scope = some({ createdAt: text, path: text, tombstonedAt: maybe(text) });
const state = some({ attributes: z.array(attribute), entities: z.array(entity), relations: z.array(relation) });
const profileEntry = some({ key: text, value: text });

/** Of what is refused. */
export const publicError = some({ message: text });

/** By method and path, as this service has them. */
export const PUBLIC_SHAPES: Readonly<Record<string, z.ZodType>> = {
  "get /{ctx}/audit": some({
    rows: z.array(
      some({
        cost: z.number(),
        createdAt: text,
        kind: z.enum(["decision", "retrieval", "response"]),
        latencyMs: whole,
        model: maybe(text),
        principal: maybe(text),
        rowsTouched: whole,
        traceId: text,
      }),
    ),
  }),
  "post /{ctx}/context": some({ context: text, queryMs: whole, tier }),
  "get /{ctx}/documents": some({ documents: z.array(document), ...page }),
  "post /{ctx}/documents": upload,
  "put /{ctx}/documents/{id}": upload,
  "get /{ctx}/documents/{id}": document,
  "get /{ctx}/documents/{id}/chunks": some({ chunks: z.array(chunk), ...page }),
  "get /{ctx}/documents/{id}/keywords": some({ keywords: z.array(some({ ...keyword, score: z.number() })) }),
  "get /{ctx}/documents/keywords": some({ keywords: z.array(some({ ...keyword, documentCount: whole })), ...page }),
  "get /{ctx}/documents/keywords/{normalised}": some({
    ...keyword,
    documentCount: whole,
    documents: z.array(some({ id: text, score: z.number(), title: text })),
  }),
  "post /{ctx}/documents/keywords/search": some({
    queryMs: whole,
    results: z.array(some({ ...keyword, documentCount: whole, score: z.number() })),
  }),
  "post /{ctx}/documents/query": some({
    queryMs: whole,
    results: z.array(some({ chunk, document: some({ id: text, source: text, title: text }), score: z.number() })),
  }),
  "post /{ctx}/documents/recompute-links": some({ linksEmitted: whole }),
  "get /{ctx}/entities": some({ entities: z.array(entity) }),
  "get /{ctx}/entities/{type}/{name}": some({ attributes: z.array(attribute), entity, relations: z.array(relation) }),
  "get /{ctx}/entities/{type}/{name}/history/{key}": some({ history: z.array(attribute) }),
  "post /{ctx}/facts": some({
    chunkId: text.optional(),
    extraction: maybe(extraction),
    mode: z.enum(["full", "triples", "preview", "none"]),
    preview: z.boolean().optional(),
    sessionId: text,
    turnId: text.optional(),
  }),
  "post /{ctx}/facts/batch": some({ extractions: z.array(extraction), sessionId: text, turnIds: z.array(text) }),
  "post /{ctx}/forget": some({ deleted: whole }),
  "post /{ctx}/scopes/forget": some({ forgotten: whole }),
  "post /{ctx}/fsck": some({
    contradictions: z.array(some({ entity: text, key: text, values: z.array(text) })),
    duplicates: z.array(some({ entityA: text, entityB: text, similarity: z.number() })),
    injection: z.array(
      some({
        kind: z.enum([
          "instruction_override",
          "role_override",
          "tool_override",
          "system_prompt_leak",
          "prompt_template_injection",
          "base64_instruction",
        ]),
        rowId: text,
        snippet: text,
      }),
    ),
    total: whole,
    unscopedContent: z.array(some({ count: whole, sampleIds: z.array(text), table: text })),
  }),
  "get /{ctx}/inspect": some({ kind: text }).and(
    z.union([
      some({ kind: z.literal("entity"), attributes: z.array(attribute), entity, relations: z.array(relation) }),
      some({ kind: z.literal("attribute"), current: maybe(attribute), history: z.array(attribute) }),
      some({ kind: z.literal("relation"), matches: z.array(relation) }),
      some({ kind: z.literal("trace"), trace }),
      // Kinds of this service's own.
      some({ kind: z.enum(["document", "passage", "memory"]) }),
    ]),
  ),
  "get /{ctx}/keys": z.array(
    some({
      createdAt: text,
      grants: maybe(grants),
      id: text,
      lastUsedAt: maybe(text),
      name: text,
      validUntil: maybe(text),
    }),
  ),
  "post /{ctx}/keys": minted,
  "post /{ctx}/keys/{name}/rotate": minted,
  "post /{ctx}/lifecycle/expire": some({ affected: whole }),
  "post /{ctx}/lifecycle/decay": some({ affected: whole }),
  "get /{ctx}/me": some({
    delegatedPrincipalId: maybe(text),
    displayName: text,
    effectiveGrants: grants,
    grants,
    kind: text,
    principalId: text,
    tokenGrants: maybe(grants),
  }),
  "get /{ctx}/principals": z.array(principal),
  "get /{ctx}/principals/{id}": principal,
  "get /{ctx}/principals/{id}/effective": some({ asOf: maybe(text), path: text, verbs: z.array(text) }),
  "post /{ctx}/principals/{id}/grants": principal,
  "delete /{ctx}/principals/{id}/grants": principal,
  "get /{ctx}/profile": some({
    dynamic: z.array(profileEntry),
    instructions: z.array(instruction),
    preferences: z.array(profileEntry),
    static: z.array(profileEntry),
  }),
  "post /{ctx}/query": some({
    classificationKind: z.enum(["direct_lookup", "hybrid", "full_context"]),
    hits: z.array(
      some({
        id: text,
        score: z.number(),
        source: z.enum(["attribute", "entity", "chunk", "memory_chunk", "section"]),
        text,
      }),
    ),
    queryMs: whole,
    seedEntities: z.array(text),
    tier,
    trace: some({
      latencyMs: whole,
      resolutionTier: tier,
      retrievedCount: whole,
      tierReason: text,
      topScores: z.array(z.number()),
      traceId: text,
    }),
  }),
  "get /{ctx}/scopes": z.array(scope),
  "post /{ctx}/scopes": scope,
  "post /{ctx}/sessions": some({ createdAt: text, id: text, scopes: z.array(z.array(text)) }),
  "post /{ctx}/sessions/{id}/context": some({ context: text }),
  "get /{ctx}/sessions/{id}/turns": some({
    turns: z.array(
      some({
        content: text,
        createdAt: text,
        id: text,
        role: z.enum(["user", "assistant", "system", "tool"]),
        seq: whole,
        session: text,
      }),
    ),
  }),
  "get /{ctx}/state": some({
    context: state,
    identity: state,
    instructions: z.array(instruction),
    knowledge: state,
    unknowns: z.array(uncertainty),
  }),
  "get /{ctx}/traces": some({ traces: z.array(trace) }),
  "get /{ctx}/traces/{id}": trace,
  "get /{ctx}/traces/stats": some({
    avgLatencyMs: z.number(),
    cacheHitRate: z.number(),
    cacheHits: whole,
    contradiction: some({ contradictionRate: z.number(), contradictions: whole, reconciliations: whole }),
    responseTracesCached: whole,
    responseTracesTotal: whole,
    retrieval: some({ avgCandidateSet: z.number(), maxCandidateSet: whole, traces: whole }),
    sourceKindDistribution: z.array(some({ count: whole, kind: text })),
    supersession: some({ churnPerEntity: z.number(), entitiesChurned: whole, supersessionEvents: whole }),
    tierCounts: some({ direct: whole, fullContext: whole, hybrid: whole }),
    totalQueries: whole,
    windowHours: whole,
  }),
};
