import { z } from "zod";
import { unprocessable } from "../../errors.ts";
import { settingsOf } from "../../memory/settings.ts";
import { contextBlock } from "../../recall/context-block.ts";
import { NO_FILTER, type PassageFilter } from "../../recall/filter.ts";
import type { Hit } from "../../recall/passages.ts";
import { prepareQuery, recall } from "../../recall/recall.ts";
import { endpoint } from "../endpoint.ts";
import { fields, k, labels, queryText, readSelector, scopeView, time, uuidText, viewOf } from "../wire.ts";

const DEFAULT_K = 10;

const sourceKind = z.enum(["attribute", "entity", "chunk", "memory_chunk", "section"]);

/** Accepted, and named in the trace as having had no effect. */
const hints = {
  useHyde: z.boolean().optional(),
  useReranker: z.boolean().optional(),
  decomposeQuery: z.boolean().optional(),
  expandGraph: z.boolean().optional(),
  graphAlpha: z.number().optional(),
  graphDepth: z.number().optional(),
};

const queryBody = fields({
  query: queryText,
  k: k.optional(),
  mode: z.enum(["hybrid", "vector", "bm25", "graph"]).optional(),
  lens: readSelector,
  labels: labels.optional(),
  include: z.union([z.enum(["facts", "passages"]), z.array(z.enum(["facts", "passages"]))]).optional(),
  scopeView: scopeView.optional(),
  sessionId: uuidText.optional(),
  asOf: time.optional(),
  atInstant: time.optional(),
  validFrom: time.optional(),
  validUntil: time.optional(),
  location: z.unknown().optional(),
  includeDuplicates: z.boolean().optional(),
  source: z.union([sourceKind, z.array(sourceKind)]).optional(),
  ...hints,
});

type QueryBody = z.output<typeof queryBody>;

const asList = <T>(value: T | readonly T[] | undefined): readonly T[] | undefined =>
  value === undefined ? undefined : Array.isArray(value) ? value : [value as T];

/** The kinds of passages that `include` and `source` leave; undefined: all of them. */
function kindsOf(body: QueryBody): readonly string[] | undefined {
  const include = asList(body.include);
  if (include !== undefined && !include.includes("passages")) return [];
  const sources = asList(body.source);
  if (sources === undefined) return undefined;
  return [...(sources.includes("memory_chunk") ? ["turn"] : []), ...(sources.includes("chunk") ? ["chunk"] : [])];
}

function filterOf(body: QueryBody): PassageFilter {
  return {
    labels: body.labels ?? [],
    sessionId: body.sessionId,
    kinds: kindsOf(body),
    asOf: body.asOf,
    validFrom: body.validFrom,
    validUntil: earlier(body.validUntil, body.atInstant),
  };
}

/** The earlier of two instants in UTC; an absent one does not count. */
const earlier = (a: string | undefined, b: string | undefined) => [a, b].filter((time) => time !== undefined).sort()[0];

const hitOf = ({ id, source, text, score, scope, occurredAt }: Hit) => ({ id, source, text, score, scope, occurredAt });

/** A session's memory is found wherever in the floor the session is. */
function demandOf(body: {
  lens?: QueryBody["lens"];
  scopeView?: QueryBody["scopeView"];
  sessionId?: string | undefined;
}) {
  const view = viewOf(body.scopeView);
  const bySession = body.sessionId !== undefined && body.lens === undefined && view === undefined;
  return { selector: body.lens, view: bySession ? ("subtree" as const) : view };
}

export const recallEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/query",
    verb: "memory:read",
    mode: "select",
    operation: "query",
    recalls: true,
    body: queryBody,
    handle: async ({ enter, body, deps }) => {
      const mode = body.mode ?? "hybrid";
      if (mode === "graph") throw unprocessable("mode: graph is not built yet; use hybrid, vector or bm25");
      if (body.location !== undefined) throw unprocessable("location is not built yet");
      const startedAt = performance.now();
      const prepared = await prepareQuery(deps.embedder, body.query, mode);
      return enter(demandOf(body), async (tx) => {
        const { fullContextTokens } = settingsOf(tx);
        const { tier, hits, trace } = await recall(
          tx,
          deps.embedder,
          prepared,
          {
            query: body.query,
            k: body.k ?? DEFAULT_K,
            mode,
            filter: filterOf(body),
            includeDuplicates: body.includeDuplicates ?? false,
            fullContextTokens,
          },
          {
            operation: "query",
            sessionId: body.sessionId,
            hintsIgnored: Object.keys(hints).filter((hint) => body[hint as keyof typeof hints] !== undefined),
          },
        );
        return {
          tier,
          classificationKind: "open",
          hits: hits.map(hitOf),
          seedEntities: [],
          queryMs: elapsed(startedAt),
          trace,
        };
      });
    },
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/context",
    verb: "memory:read",
    mode: "select",
    operation: "context",
    recalls: true,
    body: fields({
      query: queryText,
      k: k.optional(),
      lens: readSelector,
      labels: labels.optional(),
      scopeView: scopeView.optional(),
      maxTokens: z.int().min(1).max(1_000_000).optional(),
    }),
    handle: async ({ enter, body, deps }) => {
      const startedAt = performance.now();
      const prepared = await prepareQuery(deps.embedder, body.query, "hybrid");
      return enter(demandOf(body), async (tx) => {
        const settings = settingsOf(tx);
        const { hits, tier } = await recall(
          tx,
          deps.embedder,
          prepared,
          {
            query: body.query,
            k: body.k ?? DEFAULT_K,
            mode: "hybrid",
            filter: { ...NO_FILTER, labels: body.labels ?? [] },
            includeDuplicates: false,
            fullContextTokens: settings.fullContextTokens,
          },
          { operation: "context" },
        );
        return {
          context: contextBlock(hits, body.maxTokens ?? settings.contextTokens),
          tier,
          queryMs: elapsed(startedAt),
        };
      });
    },
  }),
];

const elapsed = (startedAt: number) => Math.round((performance.now() - startedAt) * 1000) / 1000;
