import { z } from "zod";
import { settingsOf } from "../../context/settings.ts";
import type { ScopedTransaction } from "../../db/access/scoped.ts";
import { unprocessable } from "../../errors.ts";
import { isOurs, visibleSession } from "../../memory/session-ids.ts";
import { contextBlock } from "../../recall/answer/context-block.ts";
import type { Recalled } from "../../recall/conclude.ts";
import { answerQuery } from "../../recall/query.ts";
import { type PassageFilter, PRESENT } from "../../recall/ranking/filter.ts";
import { recallThroughTiers } from "../../recall/recall.ts";
import { recallRecent } from "../../recall/recent.ts";
import { wholeMs } from "../../traces/record.ts";
import { recallDeps } from "../deps.ts";
import { endpoint } from "../endpoint.ts";
import {
  fields,
  hints,
  ignoredHints,
  k,
  labels,
  queryOrNothing,
  queryText,
  readSelector,
  scopeView,
  sessionName,
  viewOf,
} from "../wire/fields.ts";
import { instant, integer, object, remarks, scopeTags, tokens, uuid } from "../wire/shapes.ts";
import { moment, refuseReversed } from "../wire/times.ts";

const DEFAULT_K = 10;

const sourceKind = z.enum(["attribute", "entity", "chunk", "memory_chunk", "section"]);

/** What the caller calls itself. */
const sourceLabel = z
  .string()
  .regex(/^[\p{L}\p{N}][\p{L}\p{M}\p{N} ._:@/+-]{0,127}$/u, "must be 1 to 128 letters, digits, spaces, or ._:@/+-")
  .describe("A label for the trace, such as the name of the client; what narrows the search is sources");

const includedPart = z.enum(["facts", "passages", "items"]).describe("items: of the keyed store; facts has them too");

const queryBody = fields({
  query: queryText,
  k: k.optional(),
  mode: z.enum(["hybrid", "vector", "bm25", "graph"]).optional(),
  lens: readSelector,
  labels: labels.optional(),
  include: z.union([includedPart, z.array(includedPart)]).optional(),
  scopeView: scopeView.optional(),
  sessionId: sessionName.optional(),
  ...moment,
  location: z.unknown().optional(),
  includeDuplicates: z.boolean().optional(),
  excludeSuspicious: z.boolean().optional(),
  source: sourceLabel.optional(),
  sources: z.union([sourceKind, z.array(sourceKind)]).optional(),
  ...hints,
});

type QueryBody = z.output<typeof queryBody>;

const asList = <T>(value: T | readonly T[] | undefined): readonly T[] | undefined =>
  value === undefined ? undefined : Array.isArray(value) ? value : [value as T];

/** The kinds of passages by the source that an answer names. There are no passages of the other sources. */
const KINDS: Partial<Record<z.infer<typeof sourceKind>, readonly string[]>> = {
  memory_chunk: ["turn"],
  chunk: ["chunk"],
  attribute: ["attribute", "item"],
};
const INCLUDED = { passages: ["turn", "chunk"], facts: ["attribute", "item"], items: ["item"] };

/** The kinds of passages that `include` and `sources` leave; undefined: all of them. */
function kindsOf(body: QueryBody): readonly string[] | undefined {
  const included = asList(body.include)?.flatMap((part) => INCLUDED[part]);
  const named = asList(body.sources)?.flatMap((source) => KINDS[source] ?? []);
  return included === undefined
    ? named
    : named === undefined
      ? included
      : included.filter((kind) => named.includes(kind));
}

const momentOf = ({ asOf, atInstant, validFrom, validUntil }: QueryBody) => ({
  asOf,
  atInstant,
  validFrom,
  validUntil,
});

function filterOf(body: QueryBody, sessionId: string | undefined): PassageFilter {
  return {
    labels: body.labels ?? [],
    sessionId,
    kinds: kindsOf(body),
    moment: momentOf(body),
    excludeSuspicious: body.excludeSuspicious ?? false,
  };
}

/** A session's memory is found wherever in the floor the session is. */
function accessOf(body: {
  lens?: QueryBody["lens"];
  scopeView?: QueryBody["scopeView"];
  sessionId?: string | undefined;
}) {
  const view = viewOf(body.scopeView);
  const bySession = body.sessionId !== undefined && body.lens === undefined && view === undefined;
  return { selector: body.lens, view: bySession ? ("subtree" as const) : view };
}

const recallTrace = object({
  traceId: uuid,
  resolutionTier: z.string(),
  tierReason: z.string(),
  retrievedCount: integer,
  topScores: z.array(z.number()),
  latencyMs: integer,
  scope: scopeTags,
  tokens,
  plan: z.string(),
  source: z.string().optional().describe("The request's own label"),
  savedTokens: integer.optional(),
  hiddenByView: z.literal(true).optional(),
  hint: z.string().optional().describe("What to do where the view hides what there may be"),
  hintsIgnored: z.array(z.string()).optional(),
});

const hit = object({
  id: uuid,
  source: z.enum(["attribute", "entity", "chunk", "memory_chunk", "section"]),
  text: z.string(),
  score: z.number(),
  scope: scopeTags,
  labels: z.array(z.string()),
  occurredAt: instant,
  createdAt: instant,
  sessionId: uuid.optional(),
  turnId: uuid.optional(),
  role: z.string().optional().describe("Of a turn: who said it"),
  seq: integer.optional().describe("Of a turn: its place in the session"),
  documentId: uuid.optional(),
  documentTitle: z.string().optional(),
  position: integer.optional().describe("Of a chunk: its place in the document"),
  key: z.string().optional().describe("Of a keyed item that is recalled; GET /memories/{id} has its value"),
  ...remarks,
}).meta({ id: "Hit" });

const queryResponse = object({
  tier: z.enum(["direct", "cache", "hybrid", "full_context"]),
  classificationKind: z.enum(["direct_lookup", "hybrid", "full_context"]),
  hits: z.array(hit),
  seedEntities: z.array(z.string()).describe("<type>/<name> of each"),
  queryMs: integer,
  trace: recallTrace,
});

const contextResponse = object({
  context: z.string(),
  tier: z.enum(["cache", "hybrid", "full_context"]),
  queryMs: integer,
});

export const recallEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/query",
    verb: "memory:read",
    mode: "select",
    operation: "query",
    summary: "Recall",
    answer: queryResponse,
    body: queryBody,
    handle: async ({ enter, peek, meter, body, deps }) => {
      if (body.mode === "graph") throw unprocessable("mode: graph is not built yet; use hybrid, vector or bm25");
      refuseReversed({ validFrom: body.validFrom, validUntil: body.validUntil });
      if (body.location !== undefined) throw unprocessable("location is not built yet");
      const named = body.sessionId;
      const sessionId =
        named === undefined || isOurs(named)
          ? named
          : await peek({ ...accessOf(body), mode: "select" }, (tx) => visibleSession(tx, named));
      return answerQuery(
        (access, work) => enter({ ...accessOf(body), ...access }, work),
        recallDeps(deps, meter(accessOf(body))),
        {
          query: body.query,
          k: body.k ?? DEFAULT_K,
          mode: body.mode,
          filter: filterOf(body, sessionId),
          includeDuplicates: body.includeDuplicates ?? false,
          moment: momentOf(body),
          sessionId,
          hintsIgnored: ignoredHints(body),
          source: body.source,
        },
      );
    },
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/context",
    verb: "memory:read",
    mode: "select",
    operation: "context",
    summary: "Recall, as Markdown for a prompt",
    answer: contextResponse,
    body: fields({
      query: queryOrNothing,
      k: k.optional(),
      lens: readSelector,
      labels: labels.optional(),
      scopeView: scopeView.optional(),
      maxTokens: z.int().min(1).max(1_000_000).optional(),
      includeDuplicates: z.boolean().optional(),
      excludeSuspicious: z.boolean().optional(),
    }),
    handle: async ({ enter, meter, body, deps }) => {
      const startedAt = performance.now();
      const filter = { ...PRESENT, labels: body.labels ?? [], excludeSuspicious: body.excludeSuspicious ?? false };
      const blockOf = (tx: ScopedTransaction, { hits, tier }: Pick<Recalled, "hits" | "tier">) => ({
        context: contextBlock(hits, body.maxTokens ?? settingsOf(tx).contextTokens),
        tier,
        queryMs: wholeMs(startedAt),
      });
      if (body.query === "")
        return enter(accessOf(body), async (tx) => blockOf(tx, await recallRecent(tx, filter, body.k)));
      return recallThroughTiers(
        (access, work) => enter({ ...accessOf(body), ...access }, work),
        recallDeps(deps, meter(accessOf(body))),
        {
          query: body.query,
          k: body.k ?? DEFAULT_K,
          mode: "hybrid",
          filter,
          includeDuplicates: body.includeDuplicates ?? false,
        },
        { operation: "context" },
        blockOf,
      );
    },
  }),
];
