import { z } from "zod";
import { refuseUnoffered } from "../../context/offered.ts";
import { orderEmbedding } from "../../context/reembed.ts";
import { modelsOf } from "../../context/scope-models.ts";
import { type ContextSettings, configureContext, contextSettings, readContext } from "../../context/settings.ts";
import { listDenied } from "../../traces/denied.ts";
import { getReceipt, listReceipts } from "../../traces/receipt.ts";
import { endpoint } from "../endpoint.ts";
import { subtreeOf } from "../wire/access.ts";
import { defaultView, fields, limitAndOffset, pageAndSize, uuidText, writeSelector } from "../wire/fields.ts";
import { instant, integer, numbers, object, scopeTags, uuid } from "../wire/shapes.ts";

const settings = fields({ config: fields(contextSettings) });

const manage = { verb: "manage" } as const;

const contextDescriptionResponse = object({
  id: z.string(),
  config: object({
    fullContextTokens: integer,
    contextTokens: integer,
    cacheSeconds: integer,
    contextDays: integer,
    language: z.string(),
    chunkTokens: integer,
    reranker: z.boolean(),
    mediaReading: z.boolean(),
    embeddings: z.string().optional(),
    defaultView: defaultView.optional(),
    models: object({ embeddings: z.string(), chat: z.null() }),
  }),
  createdAt: instant,
});

const contextsResponse = object({ contexts: z.array(contextDescriptionResponse) });
const reembeddingResponse = object({
  model: z.string(),
  scopes: integer,
  passages: integer,
  pending: integer,
  embedded: integer,
});

const deniedResponse = object({
  denied: z.array(
    object({
      id: uuid,
      keyId: uuid,
      scopeFloor: scopeTags,
      asked: z.unknown(),
      onBehalfOf: z.string().nullable(),
      route: z.string(),
      reason: z.string(),
      createdAt: instant,
    }),
  ),
});

const receiptResponse = object({
  id: uuid,
  target: z.record(z.string(), z.string()),
  subtree: z.boolean(),
  action: z.enum(["expire", "erase"]),
  policy: z.string(),
  counts: numbers,
  keyId: uuid,
  createdAt: instant,
  jws: z
    .string()
    .nullable()
    .describe("Signed by the service, with one of GET /receipt-keys (a compact JWS); null: it has no signature"),
});

const receiptsResponse = object({ receipts: z.array(receiptResponse), page: integer, pageSize: integer });

export const contextEndpoints = [
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts",
    operation: "contexts",
    summary: "The deployment's one Context",
    answer: contextsResponse,
    handle: ({ enter, deps }) => enter({}, async (tx) => ({ contexts: [await readContext(tx, deps)] })),
  }),
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts/{ctx}",
    operation: "contexts",
    summary: "The Context's configuration",
    answer: contextDescriptionResponse,
    handle: ({ enter, deps }) => enter({}, (tx) => readContext(tx, deps)),
  }),
  endpoint({
    ...manage,
    method: "patch",
    path: "/contexts/{ctx}",
    operation: "contexts_change",
    summary: "Change the Context's configuration",
    answer: contextDescriptionResponse,
    body: settings,
    handle: ({ enter, deps, body }) => {
      refuseUnoffered(deps.models, body.config);
      return enter({}, (tx) => configureContext(tx, deps, body.config as Partial<ContextSettings>));
    },
  }),
  endpoint({
    ...manage,
    method: "post",
    path: "/contexts/{ctx}/reembed",
    operation: "reembed",
    summary: "Give a subtree the vectors of the models that its scopes have now; asked again, its progress",
    answer: reembeddingResponse,
    body: fields({ scope: writeSelector }),
    handle: async ({ enter, body, deps }) => {
      const answer = await enter(subtreeOf(body.scope), async (tx) => {
        const { provider, model } = modelsOf(tx, deps.models).current;
        return { model: `${provider}:${model}`, ...(await orderEmbedding(tx, deps.context, deps.models)) };
      });
      deps.wakeWorker();
      return answer;
    },
  }),
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts/{ctx}/denied",
    operation: "denied",
    summary: "Refused attempts",
    answer: deniedResponse,
    query: fields(limitAndOffset),
    handle: ({ enter, query }) =>
      enter({}, async (tx) => ({ denied: await listDenied(tx, query.limit, query.offset) })),
  }),
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts/{ctx}/receipts",
    operation: "receipts",
    summary: "Receipts of what was forgotten",
    answer: receiptsResponse,
    query: fields(pageAndSize),
    handle: ({ enter, query }) =>
      enter({}, async (tx) => ({
        receipts: await listReceipts(tx, query.pageSize, query.page * query.pageSize),
        page: query.page,
        pageSize: query.pageSize,
      })),
  }),
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts/{ctx}/receipts/{id}",
    operation: "receipts",
    summary: "One receipt",
    answer: receiptResponse,
    params: z.object({ id: uuidText }),
    handle: ({ enter, params }) => enter({}, (tx) => getReceipt(tx, params.id)),
  }),
];
