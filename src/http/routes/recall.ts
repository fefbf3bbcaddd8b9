import { z } from "zod";
import { unprocessable } from "../../errors.ts";
import { settingsOf } from "../../memory/settings.ts";
import { contextBlock } from "../../recall/context-block.ts";
import { parseTypedQuestion, type TypedQuestion } from "../../recall/direct.ts";
import { NO_FILTER, type PassageFilter } from "../../recall/filter.ts";
import type { Hit } from "../../recall/passages.ts";
import { recallDirectly, recallThroughTiers } from "../../recall/recall.ts";
import * as answers from "../answers.ts";
import { recallDeps } from "../app.ts";
import { endpoint } from "../endpoint.ts";
import { fields, k, labels, queryText, readSelector, scopeView, time, uuidText, viewOf } from "../wire.ts";
import { elapsed } from "./elapsed.ts";
import { hints, ignoredHints } from "./hints.ts";

const DEFAULT_K = 10;

const sourceKind = z.enum(["attribute", "entity", "chunk", "memory_chunk", "section"]);

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

/** The kinds of passages by the source that an answer names. There are no passages of the other sources. */
const KINDS: Partial<Record<z.infer<typeof sourceKind>, string>> = {
  memory_chunk: "turn",
  chunk: "chunk",
  attribute: "attribute",
};
const INCLUDED = { passages: ["turn", "chunk"], facts: ["attribute"] };

/** The kinds of passages that `include` and `source` leave; undefined: all of them. */
function kindsOf(body: QueryBody): readonly string[] | undefined {
  const included = asList(body.include)?.flatMap((part) => INCLUDED[part]);
  const named = asList(body.source)?.flatMap((source) => KINDS[source] ?? []);
  return included === undefined
    ? named
    : named === undefined
      ? included
      : included.filter((kind) => named.includes(kind));
}

/** Only what says which values it wants is answered from them; what narrows a search is for a search. */
function typedQuestion(body: QueryBody): TypedQuestion | undefined {
  const isNarrowed = body.mode !== undefined || (body.labels ?? []).length > 0 || body.sessionId !== undefined;
  const kinds = kindsOf(body);
  return isNarrowed || (kinds !== undefined && !kinds.includes("attribute"))
    ? undefined
    : parseTypedQuestion(body.query);
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

const hitOf = ({ id, source, text, score, scope, occurredAt, documentTitle }: Hit) => ({
  id,
  source,
  text,
  score,
  scope,
  occurredAt,
  ...(documentTitle === null ? {} : { documentTitle }),
});

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

/** Leaves the transaction, with all that it claimed: the question is asked again as an open one. */
class NotDirect extends Error {}

export const recallEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/query",
    verb: "memory:read",
    mode: "select",
    operation: "query",
    summary: "Recall",
    answer: answers.query,
    recalls: true,
    body: queryBody,
    handle: async ({ enter, body, deps }) => {
      const mode = body.mode ?? "hybrid";
      if (mode === "graph") throw unprocessable("mode: graph is not built yet; use hybrid, vector or bm25");
      if (body.location !== undefined) throw unprocessable("location is not built yet");
      const startedAt = performance.now();
      const question = typedQuestion(body);
      let direct: Awaited<ReturnType<typeof recallDirectly>>;
      if (question !== undefined) {
        // No vector is made for what is found by its name.
        try {
          direct = await enter(demandOf(body), async (tx) => {
            const found = await recallDirectly(tx, body.query, question, {
              moment: body,
              k: body.k ?? DEFAULT_K,
              hintsIgnored: ignoredHints(body),
            });
            if (found === undefined) throw new NotDirect();
            return { ...found, queryMs: elapsed(startedAt) };
          });
        } catch (error) {
          if (!(error instanceof NotDirect)) throw error;
        }
        if (direct !== undefined) return direct;
      }
      return recallThroughTiers(
        (demand, work) => enter({ ...demandOf(body), ...demand }, work),
        recallDeps(deps),
        {
          query: body.query,
          k: body.k ?? DEFAULT_K,
          mode,
          filter: filterOf(body),
          includeDuplicates: body.includeDuplicates ?? false,
        },
        { operation: "query", sessionId: body.sessionId, hintsIgnored: ignoredHints(body) },
        (_, { tier, hits, trace }) => ({
          tier,
          classificationKind: "open",
          hits: hits.map(hitOf),
          seedEntities: [],
          queryMs: elapsed(startedAt),
          trace,
        }),
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
    answer: answers.context,
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
      return recallThroughTiers(
        (demand, work) => enter({ ...demandOf(body), ...demand }, work),
        recallDeps(deps),
        {
          query: body.query,
          k: body.k ?? DEFAULT_K,
          mode: "hybrid",
          filter: { ...NO_FILTER, labels: body.labels ?? [] },
          includeDuplicates: false,
        },
        { operation: "context" },
        (tx, { hits, tier }) => ({
          context: contextBlock(hits, body.maxTokens ?? settingsOf(tx).contextTokens),
          tier,
          queryMs: elapsed(startedAt),
        }),
      );
    },
  }),
];
