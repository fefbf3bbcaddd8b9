import { z } from "zod";
import { auditRows } from "../../traces/audit.ts";
import { getTrace, listTraces, traceStats } from "../../traces/list.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import { fields, limitAndOffset, querySelector, scopeView, time, uuidText } from "../wire/fields.ts";
import { instant, integer, numbers, object, principalKind, scopeTags, trace, uuid } from "../wire/shapes.ts";

const lens = { lens: querySelector, scopeView: scopeView.optional() };

const KINDS = ["retrieval", "decision", "response", "model", "forget", "denied"] as const;

const tracesResponse = object({ traces: z.array(trace) });
const traceStatsResponse = object({
  total: integer,
  byOperation: numbers,
  byTier: numbers,
  totalTokens: z.number(),
  averageLatencyMs: z.number().nullable(),
  cache: object({ hits: integer, hitRate: z.number().nullable(), savedTokens: z.number() }),
});

const auditResponse = object({
  rows: z.array(
    object({
      id: uuid,
      createdAt: instant,
      kind: z.string(),
      operation: z.string(),
      principal: principalKind,
      keyId: uuid,
      onBehalfOf: uuid.nullable(),
      scope: scopeTags,
      sessionId: uuid.nullable(),
      status: z.string(),
      returned: integer.nullable(),
      totalTokens: integer,
    }),
  ),
});

export const traceEndpoints = [
  endpoint({
    method: "get",
    path: "/{ctx}/audit",
    verb: "memory:read",
    operation: "audit",
    summary: "Who did what, newest first",
    answer: auditResponse,
    query: fields({
      ...lens,
      principal: z.enum(["management", "supervisor", "agent"]).optional(),
      key: uuidText.optional(),
      kind: z.enum(KINDS).optional(),
      since: time.optional(),
      until: time.optional(),
      limit: limitAndOffset.limit,
    }),
    handle: ({ enter, query }) => enter(listAccess(query), async (tx) => ({ rows: await auditRows(tx, query) })),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/traces",
    verb: "memory:read",
    operation: "traces",
    summary: "Decision traces, newest first",
    answer: tracesResponse,
    query: fields({
      ...limitAndOffset,
      ...lens,
      operation: z.string().max(40).optional(),
      since: time.optional(),
      until: time.optional(),
    }),
    handle: ({ enter, query }) => enter(listAccess(query), async (tx) => ({ traces: await listTraces(tx, query) })),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/traces/stats",
    verb: "memory:read",
    operation: "traces",
    summary: "Sums over traces",
    answer: traceStatsResponse,
    query: fields(lens),
    handle: ({ enter, query }) => enter(listAccess(query), traceStats),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/traces/{id}",
    verb: "memory:read",
    operation: "traces",
    summary: "One trace",
    answer: trace,
    params: z.object({ id: uuidText }),
    handle: ({ enter, params }) => enter({}, (tx) => getTrace(tx, params.id)),
  }),
];
