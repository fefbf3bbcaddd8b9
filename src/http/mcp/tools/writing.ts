/** Tools that store. */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { z } from "zod";
import { spool } from "../../../documents/spool.ts";
import { invalid } from "../../../errors.ts";
import { contextId, labels, place, scope, sessionId, tool, writes } from "../tool.ts";

export const remember = tool({
  name: "remember",
  title: "Remember",
  description:
    "Remember a text for later: a fact, a preference, a decision, what somebody said. One thing at a time, in a whole sentence that is understood by itself.",
  verb: "memory:write",
  route: "post /{ctx}/facts",
  annotations: writes,
  input: {
    text: z.string().min(1).max(100_000).describe("What to remember"),
    session_id: sessionId,
    scope,
    labels,
    infer: z
      .enum(["full", "preview", "none"])
      .optional()
      .describe("Without a chat model, all store the text as it is but preview"),
    context_id: contextId,
  },
  output: z.object({
    mode: z.string(),
    session_id: z.string(),
    turn_id: z.string().optional(),
    memory_id: z.string().optional(),
  }),
  given: ({ text, session_id, scope: scopes, labels: has, infer }) => ({
    body: { text, session_id, scopes, labels: has, infer: infer === "preview" ? undefined : infer },
  }),
  tell: ({
    mode,
    sessionId: session_id,
    turnId,
    chunkId,
  }: {
    mode: string;
    sessionId: string;
    turnId?: string;
    chunkId?: string;
  }) => ({
    structured: {
      mode,
      session_id,
      ...(turnId === undefined ? {} : { turn_id: turnId }),
      ...(chunkId === undefined ? {} : { memory_id: chunkId }),
    },
    text: "Remembered.",
  }),
});

/** Bytes of a file in a call: as base64 it is a third longer. */
const FILE_BYTES = 11 * 1024 * 1024;

export const upload = tool({
  name: "upload",
  title: "Upload a document",
  description:
    "Store a file and make it searchable: text, Markdown, HTML, CSV, JSON, PDF, DOCX, XLSX, PPTX, ODT, or a message. It is processed in the background.",
  verb: "memory:write",
  route: "post /{ctx}/documents",
  annotations: { ...writes, idempotentHint: true },
  input: {
    bytes_base64: z.string().min(1).describe("The file's bytes, base64"),
    filename: z.string().min(1).max(255).optional().describe("With its extension, which says what it is"),
    mime_type: z.string().max(200).optional(),
    title: z.string().min(1).max(500).optional(),
    source: z.string().max(2_000).optional().describe("Where it is from, such as an address"),
    scope,
    scopes: place.optional().describe("The same as scope"),
    labels,
    context_id: contextId,
  },
  output: z.object({
    id: z.string(),
    status: z.string(),
    content_hash: z.string(),
    deduplicated: z.boolean(),
    version: z.int(),
  }),
  given: async ({ bytes_base64, filename, mime_type, title, source, scope: one, scopes, labels: has }) => {
    if (one !== undefined && scopes !== undefined) throw invalid("scope and scopes are the same: give one of them");
    if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(bytes_base64)) throw invalid("bytes_base64: must be base64");
    const bytes = Buffer.from(bytes_base64, "base64");
    if (bytes.length > FILE_BYTES)
      throw invalid(`bytes_base64: the file is over ${FILE_BYTES} bytes; upload it over HTTP`);
    const file = await spool(Readable.from([bytes]));
    return {
      body: { title, source, mime_type, labels: has, scopes: one ?? scopes },
      upload: {
        file,
        filename: filename ?? "upload",
        partType: "",
        charset: undefined,
        metadata: {},
        digest: createHash("sha256").update(bytes).digest(),
      },
    };
  },
  tell: ({
    id,
    status,
    contentHash,
    deduplicated,
    version,
  }: {
    id: string;
    status: string;
    contentHash: string;
    deduplicated: boolean;
    version: number;
  }) => ({
    structured: { id, status, content_hash: contentHash, deduplicated, version },
    text: deduplicated
      ? `The document is there already: ${id}.`
      : `Document ${id} is ${status}; inspect document:${id} says when it is ready.`,
  }),
});
