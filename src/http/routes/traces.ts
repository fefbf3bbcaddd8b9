import { z } from "zod";
import { invalid } from "../../errors.ts";
import { type AuditRow, auditRows } from "../../traces/audit.ts";
import { getTrace, listTraces } from "../../traces/list.ts";
import { traceStats } from "../../traces/stats.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import { fields, limitAndOffset, querySelector, scopeView, uuidText } from "../wire/fields.ts";
import { instant, integer, numbers, object, principalKind, scopeTags, uuid } from "../wire/shapes.ts";
import { fromTime, untilTime } from "../wire/times.ts";
import { tellTrace, trace } from "../wire/traces.ts";

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
  windowHours: integer.describe("From the oldest of them until now"),
  totalQueries: integer,
  avgLatencyMs: z.number(),
  tierCounts: object({ direct: integer, hybrid: integer, fullContext: integer }),
  cacheHits: integer,
  cacheHitRate: z.number(),
  retrieval: object({ traces: integer, avgCandidateSet: z.number(), maxCandidateSet: integer }),
  responseTracesTotal: integer,
  responseTracesCached: integer,
  supersession: object({ supersessionEvents: integer, entitiesChurned: integer, churnPerEntity: z.number() }),
  contradiction: object({
    contradictions: integer.describe("Keys of an entity that have several values at present"),
    contradictionRate: z.number(),
    reconciliations: integer,
  }),
  sourceKindDistribution: z.array(object({ kind: z.string(), count: integer })),
});

const auditResponse = object({
  rows: z.array(
    object({
      traceId: uuid,
      id: uuid,
      createdAt: instant,
      kind: z.enum(["decision", "retrieval", "response"]),
      traceKind: z.enum(KINDS).describe("The trace's own kind"),
      operation: z.string(),
      principal: uuid.describe("The id of the key"),
      principalKind,
      keyId: uuid,
      onBehalfOf: uuid.nullable(),
      scope: scopeTags,
      sessionId: uuid.nullable(),
      status: z.string(),
      returned: integer.nullable(),
      totalTokens: integer,
      model: z.string().nullable(),
      rowsTouched: integer,
      latencyMs: integer,
      cost: z.number().describe("In USD; 0 where there is no price"),
    }),
  ),
});

/** Of the kinds of traces three are those of an audit; the others are decisions, and answers of models. */
const AUDITED = { retrieval: "retrieval", response: "response", model: "response" } as const;

const tellAuditRow = ({ kind, principal, costUsd, returned, ...row }: AuditRow) => ({
  ...row,
  traceId: row.id,
  kind: AUDITED[kind as keyof typeof AUDITED] ?? "decision",
  traceKind: kind,
  principal: row.keyId,
  principalKind: principal,
  returned,
  rowsTouched: returned ?? 0,
  latencyMs: Math.round(row.latencyMs),
  cost: costUsd ?? 0,
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
      principal: z
        .union([principalKind, uuidText])
        .optional()
        .describe("A kind of key, or a key's id; key is the latter"),
      key: uuidText.optional(),
      kind: z.enum(KINDS).optional(),
      since: fromTime.optional(),
      until: untilTime.optional(),
      limit: limitAndOffset.limit,
    }),
    handle: ({ enter, query }) => {
      const { principal, ...filter } = query;
      const isKind = principalKind.safeParse(principal).success;
      const isOther = filter.key?.toLowerCase() !== principal?.toLowerCase();
      if (principal !== undefined && !isKind && filter.key !== undefined && isOther)
        throw invalid("principal and key name two keys");
      return enter(listAccess(query), async (tx) => ({
        rows: (await auditRows(tx, { ...filter, ...(isKind ? { principal } : { key: filter.key ?? principal }) })).map(
          tellAuditRow,
        ),
      }));
    },
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
      since: fromTime.optional(),
      until: untilTime.optional(),
    }),
    handle: ({ enter, query }) =>
      enter(listAccess(query), async (tx) => ({
        traces: (await listTraces(tx, query)).map(tellTrace),
      })),
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
    handle: ({ enter, params }) => enter({}, async (tx) => tellTrace(await getTrace(tx, params.id))),
  }),
];
