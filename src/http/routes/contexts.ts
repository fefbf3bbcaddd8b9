import { z } from "zod";
import { getReceipt, listReceipts } from "../../forget/receipt.ts";
import { orderEmbedding } from "../../memory/reembed.ts";
import { type ContextSettings, configureContext, contextSettings, readContext } from "../../memory/settings.ts";
import { listDenied } from "../../traces/denied.ts";
import { USAGE_GROUPS, usage } from "../../traces/usage.ts";
import * as answers from "../answers.ts";
import { endpoint } from "../endpoint.ts";
import { fields, limitAndOffset, pageAndSize, querySelector, time, uuidText, writeSelector } from "../wire.ts";
import { subtreeOf } from "./demand.ts";

const settings = fields({ config: fields(contextSettings) });

const manage = { verb: "manage" } as const;

export const contextEndpoints = [
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts",
    operation: "contexts",
    summary: "The deployment's one Context",
    answer: answers.contexts,
    handle: ({ enter, deps }) => enter({}, async (tx) => ({ contexts: [await readContext(tx, deps)] })),
  }),
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts/{ctx}",
    operation: "contexts",
    summary: "The Context's configuration",
    answer: answers.contextDescription,
    handle: ({ enter, deps }) => enter({}, (tx) => readContext(tx, deps)),
  }),
  endpoint({
    ...manage,
    method: "patch",
    path: "/contexts/{ctx}",
    operation: "contexts_change",
    summary: "Change the Context's configuration",
    answer: answers.contextDescription,
    body: settings,
    handle: ({ enter, deps, body }) =>
      enter({}, (tx) => configureContext(tx, deps, body.config as Partial<ContextSettings>)),
  }),
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts/{ctx}/usage",
    operation: "usage",
    summary: "Calls, tokens, cost and storage of a subtree",
    answer: answers.usage,
    query: fields({
      scope: querySelector,
      from: time.optional(),
      to: time.optional(),
      groupBy: z.enum(USAGE_GROUPS).optional(),
    }),
    handle: ({ enter, query }) =>
      enter(subtreeOf(query.scope), async (tx) => ({
        groupBy: query.groupBy ?? null,
        from: query.from ?? null,
        to: query.to ?? null,
        rows: await usage(tx, query),
      })),
  }),
  endpoint({
    ...manage,
    method: "post",
    path: "/contexts/{ctx}/reembed",
    operation: "reembed",
    summary: "Give a subtree the present model's vectors; asked again, its progress",
    answer: answers.reembedding,
    body: fields({ scope: writeSelector }),
    handle: async ({ enter, body, deps }) => {
      const { provider, model, id } = deps.models.current;
      const progress = await enter(subtreeOf(body.scope), (tx) => orderEmbedding(tx, id));
      deps.wakeWorker();
      return { model: `${provider}:${model}`, ...progress };
    },
  }),
  endpoint({
    ...manage,
    method: "get",
    path: "/contexts/{ctx}/denied",
    operation: "denied",
    summary: "Refused attempts",
    answer: answers.denied,
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
    answer: answers.receipts,
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
    answer: answers.receipt,
    params: z.object({ id: uuidText }),
    handle: ({ enter, params }) => enter({}, (tx) => getReceipt(tx, params.id)),
  }),
];
