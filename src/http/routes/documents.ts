import { Readable } from "node:stream";
import { z } from "zod";
import { describeBytes, readPart } from "../../documents/bytes.ts";
import { listChunks } from "../../documents/chunks.ts";
import {
  addDocument,
  DOCUMENT_STATUSES,
  deleteDocument,
  getDocument,
  listDocuments,
  type NewDocument,
  processAgain,
  replaceDocument,
} from "../../documents/documents.ts";
import { charsetIn, mediaTypeOf } from "../../documents/parsing/media-type.ts";
import { invalid, unprocessable } from "../../errors.ts";
import type { MediaReaders } from "../../models/media.ts";
import { queryDocuments } from "../../recall/search-documents.ts";
import { prepareQuery } from "../../recall/vectors.ts";
import { wholeMs } from "../../traces/record.ts";
import { Download, endpoint } from "../endpoint.ts";
import type { Upload } from "../upload.ts";
import { listAccess } from "../wire/access.ts";
import {
  fields,
  hints,
  ignoredHints,
  k,
  labels,
  limitAndOffset,
  pageAndSize,
  querySelector,
  queryText,
  readSelector,
  scopeView,
  uuidText,
  viewOf,
  writeSelector,
} from "../wire/fields.ts";
import { chunk, document, integer, object, pageShape, tellDocument, uuid } from "../wire/shapes.ts";
import { time } from "../wire/times.ts";

const id = z.object({ id: uuidText });
const lens = { lens: querySelector, scopeView: scopeView.optional() };

const metadata = {
  title: z.string().trim().min(1).max(500).optional(),
  source: z.string().max(2_000).optional(),
  mimeType: z.string().max(200).optional(),
  labels: labels.optional(),
  observedAt: time.optional(),
};

const newDocument = (
  upload: Upload,
  said: { [field in "title" | "source" | "mimeType" | "observedAt"]?: string | undefined } & {
    labels?: string[] | undefined;
  },
  title: string | undefined,
  readers: MediaReaders,
): NewDocument => ({
  title: said.title ?? title,
  source: said.source,
  mimeType: mediaTypeOf({ mimeType: said.mimeType, partType: upload.partType, filename: upload.filename }, readers),
  charset: charsetIn(said.mimeType ?? "") ?? upload.charset,
  labels: said.labels,
  observedAt: said.observedAt,
  file: upload.file,
});

/** A file's name as a title: without a path, and without what cannot be stored. */
const titleOf = ({ filename }: Upload) =>
  filename
    .replace(/^.*[\\/]/, "")
    .replace(/\p{C}/gu, "")
    .trim()
    .slice(0, 500) || "untitled";

const acceptedResponse = object({
  id: uuid,
  status: z.enum(DOCUMENT_STATUSES),
  contentHash: z.string(),
  deduplicated: z.boolean(),
  version: integer,
});

const documentsResponse = object({ documents: z.array(document), ...pageShape });
const chunksResponse = object({ chunks: z.array(chunk), ...pageShape });
const documentResultsResponse = object({
  results: z.array(
    object({
      chunk,
      document: object({
        id: uuid,
        title: z.string(),
        mimeType: z.string(),
        source: z.string(),
        version: integer,
      }),
      score: z.number(),
    }),
  ),
  queryMs: integer,
});

/** Kinds of edges between documents, by the words of the field. Here keywords make the links, and there are no sections or summaries to link. */
const GRAPH_EDGES = [
  "keyword",
  "knowledge_has_keyword",
  "document_link",
  "section_match",
  "document_summary",
  "hybrid_graph",
] as const;
const LINKS: ReadonlySet<string> = new Set(["keyword", "knowledge_has_keyword", "document_link", "hybrid_graph"]);

export const documentEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/documents",
    verb: "memory:write",
    mode: "write",
    operation: "upload",
    summary: "Upload a file",
    answer: acceptedResponse,
    status: 202,
    upload: true,
    body: fields({ ...metadata, scopes: writeSelector }),
    handle: async ({ enter, body, upload, deps }) => {
      const document = newDocument(upload, body, titleOf(upload), deps.models.media);
      const accepted = await enter({ selector: body.scopes }, (tx) => addDocument(tx, document));
      deps.wakeWorker();
      return accepted;
    },
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/documents",
    verb: "memory:read",
    operation: "documents",
    summary: "List documents, newest first",
    answer: documentsResponse,
    query: fields({
      ...pageAndSize,
      ...lens,
      status: z.enum(DOCUMENT_STATUSES).optional(),
      mimeType: z.string().max(200).optional(),
    }),
    handle: ({ enter, query }) =>
      enter(listAccess(query), async (tx) => {
        const { documents, ...page } = await listDocuments(tx, query);
        return { documents: documents.map(tellDocument), ...page };
      }),
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/documents/query",
    verb: "memory:read",
    mode: "select",
    operation: "documents_query",
    summary: "Search the chunks of documents",
    answer: documentResultsResponse,
    body: fields({
      query: queryText,
      k: k.optional(),
      mode: z.enum(["hybrid", "vector", "bm25", "hybrid_graph"]).optional(),
      threshold: z.number().min(0).optional(),
      filter: fields({
        documentIds: z.array(uuidText).max(500).optional(),
        mimeType: z.union([z.string().max(200), z.array(z.string().max(200)).max(50)]).optional(),
      }).optional(),
      rrfK: z.int().min(1).max(1_000).optional(),
      vectorWeight: z.number().min(0).max(1).optional(),
      graphEdges: z.array(z.enum(GRAPH_EDGES)).max(10).optional(),
      location: z.unknown().optional(),
      lens: readSelector,
      scopeView: scopeView.optional(),
      labels: labels.optional(),
      includeDuplicates: z.boolean().optional(),
      excludeSuspicious: z.boolean().optional(),
      ...hints,
    }),
    handle: async ({ enter, peek, meter, body, deps }) => {
      if (body.location !== undefined) throw unprocessable("location is not built yet");
      const startedAt = performance.now();
      const mode = body.mode ?? "hybrid";
      const access = { selector: body.lens, view: viewOf(body.scopeView) };
      const prepared = await prepareQuery(
        deps.models,
        meter(access),
        body.query,
        mode === "hybrid_graph" ? "hybrid" : mode,
        (work) => peek({ ...access, mode: "select" }, work),
      );
      return enter(access, async (tx) => ({
        results: await queryDocuments(tx, prepared, {
          query: body.query,
          k: body.k ?? 10,
          // Links of no kind are no links.
          mode: mode === "hybrid_graph" && body.graphEdges?.some((edge) => LINKS.has(edge)) === false ? "hybrid" : mode,
          threshold: body.threshold,
          documentIds: body.filter?.documentIds,
          mimeTypes: typeof body.filter?.mimeType === "string" ? [body.filter.mimeType] : body.filter?.mimeType,
          labels: body.labels ?? [],
          includeDuplicates: body.includeDuplicates ?? false,
          excludeSuspicious: body.excludeSuspicious ?? false,
          rrfK: body.rrfK,
          vectorWeight: body.vectorWeight,
          hintsIgnored: ignoredHints(body),
        }),
        queryMs: wholeMs(startedAt),
      }));
    },
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/documents/{id}",
    verb: "memory:read",
    operation: "documents",
    summary: "One document, and how far it is",
    answer: document,
    params: id,
    handle: ({ enter, params }) => enter({}, async (tx) => tellDocument(await getDocument(tx, params.id))),
  }),
  endpoint({
    method: "put",
    path: "/{ctx}/documents/{id}",
    verb: "memory:write",
    mode: "write",
    operation: "upload",
    summary: "Upload a document's next version; without a body, read its bytes again",
    answer: acceptedResponse,
    status: 202,
    upload: "optional",
    params: id,
    body: fields({ ...metadata, scopes: writeSelector }),
    handle: async ({ enter, params, body, upload, deps }) => {
      const document = upload && newDocument(upload, body, undefined, deps.models.media);
      const accepted = await enter({ selector: body.scopes, document: params.id }, (tx) =>
        document === undefined ? processAgain(tx, params.id) : replaceDocument(tx, params.id, document),
      );
      deps.wakeWorker();
      return accepted;
    },
  }),
  endpoint({
    method: "delete",
    path: "/{ctx}/documents/{id}",
    verb: "memory:write",
    mode: "delete",
    operation: "document_delete",
    summary: "Delete a document and all that was made from it",
    status: 204,
    params: id,
    handle: ({ enter, params }) => enter({}, (tx) => deleteDocument(tx, params.id)),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/documents/{id}/raw",
    verb: "memory:read",
    operation: "document_raw",
    summary: "A document's bytes",
    params: id,
    handle: async ({ enter, params }) => {
      const stored = await enter({}, (tx) => describeBytes(tx, params.id));
      const part = (n: number) => enter({}, (tx) => readPart(tx, params.id, stored.version, n));
      // The first part before the answer begins: what is gone is 404 and not half an answer. Each in a
      // transaction of its own, so that a slow reader holds no connection.
      const first = stored.parts > 0 ? await part(0) : new Uint8Array();
      async function* bytes() {
        yield first;
        for (let n = 1; n < stored.parts; n++) yield await part(n);
      }
      return new Download(stored.mimeType, stored.size, stored.title, Readable.from(bytes(), { objectMode: false }));
    },
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/documents/{id}/chunks",
    verb: "memory:read",
    operation: "chunks",
    summary: "A document's chunks, in order",
    answer: chunksResponse,
    params: id,
    query: fields({
      limit: limitAndOffset.limit.unwrap().optional(),
      offset: limitAndOffset.offset.unwrap().optional(),
      page: pageAndSize.page.unwrap().optional(),
      pageSize: pageAndSize.pageSize.unwrap().optional(),
    }),
    handle: ({ enter, params, query }) => {
      const byPage = query.page !== undefined || query.pageSize !== undefined;
      if (byPage && (query.limit !== undefined || query.offset !== undefined))
        throw invalid("give page and pageSize, or limit and offset");
      const pageSize = (byPage ? query.pageSize : query.limit) ?? (byPage ? 20 : 100);
      const offset = byPage ? (query.page ?? 0) * pageSize : (query.offset ?? 0);
      return enter({}, async (tx) => {
        const { chunks, total } = await listChunks(tx, params.id, pageSize, offset);
        return { chunks, page: Math.floor(offset / pageSize), pageSize, total };
      });
    },
  }),
];
