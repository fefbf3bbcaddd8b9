/**
 * The shapes of good answers, for the API's description. The test suite checks every answer that it
 * gets against them, so that the description stays true.
 */
import { z } from "zod";
import { DOCUMENT_STATUSES } from "../documents/documents.ts";
import { VERBS } from "../keys/keys.ts";

const object = z.strictObject;
const id = z.uuid();
const time = z.iso.datetime();
const tags = z.record(z.string(), z.string()).describe("A scope: dimension to value");
const paths = z.array(z.array(z.string())).describe("The same scope as paths");
const count = z.int();
const counts = z.record(z.string(), z.number());
const grants = z.partialRecord(z.enum(VERBS), z.array(z.string()));
const principalKind = z.enum(["management", "supervisor", "agent"]);

const tokens = object({
  input: count,
  output: count,
  embedding: count,
  total: count,
  source: z.enum(["provider", "tokenizer"]).optional(),
});
const recallTrace = object({
  traceId: id,
  resolutionTier: z.string(),
  tierReason: z.string(),
  retrievedCount: count,
  topScores: z.array(z.number()),
  latencyMs: z.number(),
  scope: tags,
  tokens,
  plan: z.string(),
  savedTokens: count.optional(),
  hiddenByView: z.literal(true).optional(),
  hintsIgnored: z.array(z.string()).optional(),
});
const hit = object({
  id,
  source: z.enum(["attribute", "entity", "chunk", "memory_chunk", "section"]),
  text: z.string(),
  score: z.number(),
  scope: tags,
  occurredAt: time,
  documentTitle: z.string().optional(),
});
const entityName = object({ type: z.string(), name: z.string() });
export const query = object({
  tier: z.enum(["direct", "cache", "hybrid", "full_context"]),
  classificationKind: z.enum(["open", "attribute", "keyed"]),
  hits: z.array(hit),
  seedEntities: z.array(entityName),
  queryMs: z.number(),
  trace: recallTrace,
});
export const context = object({
  context: z.string(),
  tier: z.enum(["cache", "hybrid", "full_context"]),
  queryMs: z.number(),
});
export const sessionContext = object({ context: z.string() });

const storedTriple = object({
  id,
  entityId: id,
  entity: entityName,
  key: z.string(),
  value: z.unknown().optional(),
  target: entityName.optional(),
  stored: z.boolean(),
  current: z.boolean(),
  superseded: z.array(id),
});
const givenTriple = object({
  entity: entityName,
  key: z.string(),
  value: z.unknown().optional(),
  target: entityName.optional(),
  category: z.string().nullable(),
});
const extraction = (triple: z.ZodType) => ({
  entities: z.array(entityName),
  attributes: z.array(triple),
  relations: z.array(triple),
});
export const fact = object({
  mode: z.enum(["none", "triples", "preview"]),
  sessionId: id.optional(),
  turnId: id.optional(),
  chunkId: id.optional(),
  extraction: object(extraction(storedTriple)).optional(),
  preview: object({ ...extraction(givenTriple), sentences: z.array(z.string()) }).optional(),
});
export const facts = object({ sessionId: id, turnIds: z.array(id), extractions: z.array(z.never()) });

export const newSession = object({ id, scopes: paths, scope: tags, createdAt: time });
export const session = object({
  ...newSession.shape,
  metadata: z.record(z.string(), z.unknown()),
  closedAt: time.optional(),
});
export const sessions = object({ sessions: z.array(session) });
export const turns = object({
  turns: z.array(object({ id, session: id, role: z.string(), content: z.string(), seq: count, createdAt: time })),
});

export const accepted = object({
  id,
  status: z.enum(DOCUMENT_STATUSES),
  contentHash: z.string(),
  deduplicated: z.boolean(),
  version: count,
});
export const document = object({
  id,
  title: z.string(),
  source: z.string().nullable(),
  mimeType: z.string(),
  sizeBytes: count,
  contentHash: z.string().nullable().describe("SHA-256, hex; null once a part of the document was forgotten"),
  status: z.enum(DOCUMENT_STATUSES),
  error: z.string().optional(),
  version: count,
  labels: z.array(z.string()),
  scope: tags,
  scopes: paths,
  observedAt: time,
  createdAt: time,
  updatedAt: time,
  processingStartedAt: time.optional(),
  processingCompletedAt: time.optional(),
  progress: object({ chunks: count, embedded: count }).optional(),
});
const page = { page: count, pageSize: count, total: count };
export const documents = object({ documents: z.array(document), ...page });
const chunk = object({
  id,
  document: id,
  position: count,
  section: z.string().optional(),
  charStart: count,
  charEnd: count,
  text: z.string(),
  tokenCount: count,
  duplicateOf: id.optional(),
});
export const chunks = object({ chunks: z.array(chunk) });
export const documentResults = object({
  results: z.array(
    object({
      chunk,
      document: object({ id, title: z.string(), mimeType: z.string(), source: z.string().nullable(), version: count }),
      score: z.number(),
    }),
  ),
  queryMs: z.number(),
});
export const links = object({ linksEmitted: count });
const keyword = object({ keyword: z.string(), normalised: z.string(), documentCount: count, score: z.number() });
export const keywords = object({ keywords: z.array(keyword), ...page });
export const keywordResults = object({ results: z.array(keyword), queryMs: z.number() });
export const describedKeyword = object({
  ...keyword.shape,
  documents: z.array(object({ id, title: z.string(), score: z.number(), count })),
});
export const documentKeywords = object({
  keywords: z.array(object({ keyword: z.string(), normalised: z.string(), score: z.number(), count })),
});

const entity = object({ id, type: z.string(), name: z.string(), scope: tags, createdAt: time });
const factShape = {
  id,
  entity: entityName,
  key: z.string(),
  category: z.string().nullable(),
  validFrom: time,
  validUntil: time.nullable(),
  supersededBy: id.nullable(),
  createdAt: time,
  closedAt: time.nullable(),
  sessionId: id.nullable(),
  turnId: id.nullable(),
  scope: tags,
};
const attribute = object({ ...factShape, value: z.unknown() });
const relation = object({ ...factShape, target: entityName });
const instruction = object({ id, text: z.string(), scope: tags, occurredAt: time });
const described = { entity, attributes: z.array(attribute), relations: z.array(relation) };
export const entities = object({ entities: z.array(entity) });
export const describedEntity = object(described);
const facet = z.array(z.union([attribute, relation]));
export const history = object({ history: facet });
export const profile = object({
  static: z.array(attribute),
  dynamic: z.array(attribute),
  preferences: z.array(attribute),
  instructions: z.array(instruction),
});
const statePart = object({
  entities: z.array(entityName),
  attributes: z.array(attribute),
  relations: z.array(relation),
});
export const state = object({
  identity: statePart,
  knowledge: statePart,
  context: statePart,
  instructions: z.array(instruction),
  unknowns: z.array(entityName),
});
export const item = object({
  key: z.string(),
  value: z.unknown(),
  scope: tags,
  scopes: paths,
  createdAt: time,
  updatedAt: time,
});
export const items = object({ items: z.array(item) });

export const trace = object({
  id,
  createdAt: time,
  kind: z.string(),
  operation: z.string(),
  scope: tags,
  queryText: z.string().nullable(),
  resolutionTier: z.string().nullable(),
  tierReason: z.string().nullable(),
  plan: z.string().nullable(),
  latencyMs: z.number(),
  cached: z.boolean(),
  status: z.string(),
  sessionId: id.nullable(),
  tokens,
  retrievals: z.array(id).optional(),
});
export const traces = object({ traces: z.array(trace) });
export const traceStats = object({
  total: count,
  byOperation: counts,
  byTier: counts,
  totalTokens: z.number(),
  averageLatencyMs: z.number().nullable(),
  cache: object({ hits: count, hitRate: z.number().nullable(), savedTokens: z.number() }),
});
export const audit = object({
  rows: z.array(
    object({
      id,
      createdAt: time,
      kind: z.string(),
      operation: z.string(),
      principal: principalKind,
      keyId: id,
      onBehalfOf: id.nullable(),
      scope: tags,
      sessionId: id.nullable(),
      status: z.string(),
      returned: count.nullable(),
      totalTokens: count,
    }),
  ),
});
export const inspection = z.union([
  object({ kind: z.literal("entity"), ...described, history: facet }),
  object({ kind: z.literal("document"), document, chunks: z.array(chunk) }),
  object({
    kind: z.literal("trace"),
    trace,
    evidence: z.array(
      object({
        id,
        kind: z.string(),
        text: z.string(),
        sessionId: id.nullable(),
        turnId: id.nullable(),
        documentId: id.nullable(),
        occurredAt: time,
      }),
    ),
  }),
]);

export const forgotten = object({
  deleted: count,
  receiptId: id.optional(),
  matches: z.array(object({ id, text: z.string(), score: z.number(), scope: tags })).optional(),
});
export const erased = object({ forgotten: count, receiptId: id });
export const scope = object({
  path: z.string(),
  displayName: z.string().optional(),
  description: z.string().optional(),
  createdAt: time,
  tombstonedAt: time.optional(),
});
export const scopes = z.array(scope);

export const me = object({
  principalId: id,
  displayName: z.string(),
  kind: principalKind,
  scopeFloor: tags,
  verbs: z.array(z.enum(VERBS)),
  grants,
  effectiveGrants: grants,
  delegatedPrincipalId: id.optional(),
});
const used = {
  calls: count,
  inputTokens: z.number(),
  outputTokens: z.number(),
  embeddingTokens: z.number(),
  totalTokens: z.number(),
  costUsd: z.number(),
  storedBytes: z.number().optional(),
};
export const ownUsage = object({
  scope: tags,
  period: z.literal("month"),
  from: time,
  ...used,
  limits: z.array(z.never()),
  resetsAt: time,
});
export const usage = object({
  groupBy: z.string().nullable(),
  from: time.nullable(),
  to: time.nullable(),
  rows: z.array(object({ group: z.unknown().optional(), ...used })),
});
export const mintedSelf = object({ id, name: z.string(), key: z.string(), validUntil: time.optional() });
export const ownKeys = z.array(
  object({ id, name: z.string(), createdAt: time, lastUsedAt: time.nullable(), validUntil: time.nullable(), grants }),
);
export const principal = object({ id, displayName: z.string(), kind: principalKind, grants });
export const principals = z.array(principal);
export const effective = object({ path: z.string(), verbs: z.array(z.enum(VERBS)), asOf: time.optional() });

export const contextDescription = object({
  id: z.string(),
  config: object({
    fullContextTokens: count,
    contextTokens: count,
    cacheSeconds: count,
    models: object({ embeddings: z.string(), chat: z.null() }),
  }),
  createdAt: time,
});
export const contexts = object({ contexts: z.array(contextDescription) });
export const reembedding = object({
  model: z.string(),
  scopes: count,
  passages: count,
  pending: count,
  embedded: count,
});
export const denied = object({
  denied: z.array(
    object({
      id,
      keyId: id,
      scopeFloor: tags,
      asked: z.unknown(),
      onBehalfOf: z.string().nullable(),
      route: z.string(),
      reason: z.string(),
      createdAt: time,
    }),
  ),
});
export const receipt = object({
  id,
  target: z.record(z.string(), z.string()),
  subtree: z.boolean(),
  action: z.enum(["expire", "erase"]),
  policy: z.string(),
  counts,
  keyId: id,
  createdAt: time,
});
export const receipts = object({ receipts: z.array(receipt), page: count, pageSize: count });

const keyShape = {
  id,
  name: z.string(),
  principal: principalKind,
  scopeFloor: tags,
  verbs: z.array(z.enum(VERBS)),
  content: z.boolean(),
  createdAt: time,
  expiresAt: time.nullable(),
};
export const mintedKey = object({ ...keyShape, key: z.string() });
export const keys = object({
  keys: z.array(
    object({
      ...keyShape,
      status: z.enum(["active", "expired", "revoked"]),
      createdBy: id.nullable(),
      lastUsedAt: time.nullable(),
      revokedAt: time.nullable(),
    }),
  ),
  ...page,
});

export const auditReport = object({
  version: z.string(),
  at: time,
  requests: count,
  failed: count,
  findings: z.array(
    object({ check: z.string(), threats: z.array(count), looked: count, problems: z.array(z.string()) }),
  ),
  warnings: z.array(z.string()),
  chain: object({
    head: object({ batch: count, hash: z.string() }).nullable(),
    entries: count,
    unsealed: count,
    checkedFrom: count,
  }).nullable(),
});
