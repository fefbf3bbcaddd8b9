/** Shapes that several answers share. A test checks every answer of the suite against them, so that the API's description stays true. */
import { z } from "zod";
import { DOCUMENT_STATUSES } from "../../documents/documents.ts";
import { KEY_VERBS } from "../../keys/keys.ts";

export const object = z.strictObject;
export const uuid = z.uuid();
export const instant = z.iso.datetime();
export const scopeTags = z.record(z.string(), z.string()).describe("A scope: dimension to value");
export const scopePaths = z.array(z.array(z.string())).describe("The same scope as paths");
export const integer = z.int();
export const numbers = z.record(z.string(), z.number());
export const grantedPaths = z.partialRecord(z.enum(KEY_VERBS), z.array(z.string()));
export const principalKind = z.enum(["management", "supervisor", "agent"]);
export const tokens = object({
  input: integer,
  output: integer,
  embedding: integer,
  total: integer,
  source: z.enum(["provider", "tokenizer"]).optional(),
});

export const namedEntity = object({ type: z.string(), name: z.string() });
export const document = object({
  id: uuid,
  title: z.string(),
  source: z.string().nullable(),
  mimeType: z.string(),
  sizeBytes: integer,
  contentHash: z.string().nullable().describe("SHA-256, hex; null once a part of the document was forgotten"),
  status: z.enum(DOCUMENT_STATUSES),
  error: z.string().optional(),
  warnings: z
    .array(z.string())
    .optional()
    .describe("What a person sees in the file and could not be read, with its pages or lines"),
  reading: object({
    encoding: z.string().optional(),
    encodingFrom: z.enum(["declared", "byte order mark", "file", "detected"]).optional(),
    delimiter: z.string().optional(),
    header: z.boolean().optional(),
    readBy: z.string().optional(),
  })
    .optional()
    .describe("How it was read, where that is not plain"),
  version: integer,
  labels: z.array(z.string()),
  scope: scopeTags,
  scopes: scopePaths,
  observedAt: instant,
  createdAt: instant,
  updatedAt: instant,
  processingStartedAt: instant.optional(),
  processingCompletedAt: instant.optional(),
  progress: object({ chunks: integer, embedded: integer }).optional(),
});

export const pageShape = { page: integer, pageSize: integer, total: integer };
export const chunk = object({
  id: uuid,
  document: uuid,
  position: integer,
  section: z.string().optional(),
  charStart: integer,
  charEnd: integer,
  text: z.string(),
  tokenCount: integer,
  duplicateOf: uuid.optional(),
  suspicious: z.array(z.string()).optional(),
});

/** What an answer says of a hit where there is something to say. */
export const remarks = {
  suspicious: z.array(z.string()).optional().describe("The kinds of planted instructions that the text looks like"),
  duplicates: integer.optional().describe("How many others that say the same it stands for"),
};

export const trace = object({
  id: uuid,
  createdAt: instant,
  kind: z.string(),
  operation: z.string(),
  scope: scopeTags,
  queryText: z.string().nullable(),
  resolutionTier: z.string().nullable(),
  tierReason: z.string().nullable(),
  plan: z.string().nullable(),
  latencyMs: z.number(),
  cached: z.boolean(),
  status: z.string(),
  sessionId: uuid.nullable(),
  tokens,
  retrievals: z.array(uuid).optional(),
});

export const usageShape = {
  calls: integer,
  inputTokens: z.number(),
  outputTokens: z.number(),
  embeddingTokens: z.number(),
  totalTokens: z.number(),
  costUsd: z.number(),
  unpricedCalls: integer,
  storedBytes: z.number().optional(),
};

export const entity = object({ id: uuid, type: z.string(), name: z.string(), scope: scopeTags, createdAt: instant });
export const factShape = {
  id: uuid,
  entity: namedEntity,
  key: z.string(),
  category: z.string().nullable(),
  validFrom: instant,
  validUntil: instant.nullable(),
  supersededBy: uuid.nullable(),
  createdAt: instant,
  closedAt: instant.nullable(),
  sessionId: uuid.nullable(),
  turnId: uuid.nullable(),
  scope: scopeTags,
};

export const attribute = object({ ...factShape, value: z.unknown() });
export const relation = object({ ...factShape, target: namedEntity });
export const described = { entity, attributes: z.array(attribute), relations: z.array(relation) };
export const facet = z.array(z.union([attribute, relation]));
