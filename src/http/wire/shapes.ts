/** Shapes that several answers share. A test checks every answer of the suite against them, so that the API's description stays true. */
import { z } from "zod";
import { DOCUMENT_STATUSES, type Document } from "../../documents/documents.ts";
import { KEY_VERBS } from "../../keys/keys.ts";
import { MEMORY_SOURCES } from "../../memory/memories.ts";

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
}).meta({ id: "Tokens" });

export const namedEntity = object({ type: z.string(), name: z.string() });
export const document = object({
  id: uuid,
  title: z.string(),
  source: z.string().describe("As the upload says; empty where it does not"),
  mimeType: z.string(),
  sizeBytes: integer,
  contentHash: z
    .string()
    .describe("SHA-256, hex; empty once a part of the document was forgotten, and its bytes with it"),
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
}).meta({ id: "Document" });

export const tellDocument = ({ source, contentHash, ...document }: Document) => ({
  ...document,
  source: source ?? "",
  contentHash: contentHash ?? "",
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
}).meta({ id: "Chunk" });

/** What an answer says of a hit where there is something to say. */
export const remarks = {
  suspicious: z.array(z.string()).optional().describe("The kinds of planted instructions that the text looks like"),
  duplicates: integer.optional().describe("How many others that say the same it stands for"),
};

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

export const memory = object({
  id: uuid.describe("The id that hits have"),
  source: z.enum(MEMORY_SOURCES),
  text: z.string(),
  scope: scopeTags,
  labels: z.array(z.string()),
  occurredAt: instant,
  createdAt: instant,
  expiresAt: instant.optional(),
  role: z.string().optional(),
  sessionId: uuid.optional(),
  turnId: uuid.optional(),
  documentId: uuid.optional(),
  documentTitle: z.string().optional(),
  key: z.string().optional(),
  value: z.unknown().optional(),
}).meta({ id: "Memory" });
export const memoryWithHistory = object({
  ...memory.shape,
  history: z
    .array(object({ text: z.string(), until: instant }))
    .optional()
    .describe("What a turn said before it was corrected, newest first"),
});
