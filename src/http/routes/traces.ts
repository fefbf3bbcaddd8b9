import { z } from "zod";
import { auditRows } from "../../traces/audit.ts";
import { getTrace, listTraces, traceStats } from "../../traces/list.ts";
import * as answers from "../answers.ts";
import { endpoint } from "../endpoint.ts";
import { fields, limitAndOffset, querySelector, scopeView, time, uuidText } from "../wire.ts";
import { listDemand } from "./demand.ts";

const lens = { lens: querySelector, scopeView: scopeView.optional() };

const KINDS = ["retrieval", "decision", "response", "model", "forget", "denied"] as const;

export const traceEndpoints = [
  endpoint({
    method: "get",
    path: "/{ctx}/audit",
    verb: "memory:read",
    operation: "audit",
    summary: "Who did what, newest first",
    answer: answers.audit,
    query: fields({
      ...lens,
      principal: z.enum(["management", "supervisor", "agent"]).optional(),
      key: uuidText.optional(),
      kind: z.enum(KINDS).optional(),
      since: time.optional(),
      until: time.optional(),
      limit: limitAndOffset.limit,
    }),
    handle: ({ enter, query }) => enter(listDemand(query), async (tx) => ({ rows: await auditRows(tx, query) })),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/traces",
    verb: "memory:read",
    operation: "traces",
    summary: "Decision traces, newest first",
    answer: answers.traces,
    query: fields({
      ...limitAndOffset,
      ...lens,
      operation: z.string().max(40).optional(),
      since: time.optional(),
      until: time.optional(),
    }),
    handle: ({ enter, query }) => enter(listDemand(query), async (tx) => ({ traces: await listTraces(tx, query) })),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/traces/stats",
    verb: "memory:read",
    operation: "traces",
    summary: "Sums over traces",
    answer: answers.traceStats,
    query: fields(lens),
    handle: ({ enter, query }) => enter(listDemand(query), traceStats),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/traces/{id}",
    verb: "memory:read",
    operation: "traces",
    summary: "One trace",
    answer: answers.trace,
    params: z.object({ id: uuidText }),
    handle: ({ enter, params }) => enter({}, (tx) => getTrace(tx, params.id)),
  }),
];
