import type { ScopedTransaction } from "../db/access/scoped.ts";
import { RolledBack } from "../db/connect/lease.ts";
import type { Moment } from "../memory/fact-timeline.ts";
import { wholeMs } from "../traces/record.ts";
import { type Hit, remarksOn } from "./answer/hits.ts";
import { type RecallAbout, traceRecall } from "./conclude.ts";
import { answerDirectly, parseTypedQuestion, type TypedQuestion } from "./direct.ts";
import type { PassageFilter } from "./ranking/filter.ts";
import type { Mode } from "./ranking/search.ts";
import { type Enter, type RecallDeps, recallThroughTiers } from "./recall.ts";

export interface QueryRequest {
  readonly query: string;
  readonly k: number;
  /** Undefined: hybrid, after the direct tier and the cache. */
  readonly mode: Mode | undefined;
  readonly filter: PassageFilter;
  readonly includeDuplicates: boolean;
  readonly moment: Moment;
  readonly sessionId: string | undefined;
  readonly hintsIgnored: readonly string[];
  /** What the caller calls itself. */
  readonly source: string | undefined;
}

/** Answers a query through the tiers: direct where it is a typed question that has an answer, then the others. */
export async function answerQuery(enter: Enter, deps: RecallDeps, request: QueryRequest) {
  const startedAt = performance.now();
  const { query, k, moment, filter, includeDuplicates, sessionId, hintsIgnored, source } = request;
  const about = { operation: "query", sessionId, hintsIgnored, source } as const;
  const typed = typedQuestion(request);
  if (typed !== undefined) {
    // No vector is made for what is found by its name.
    const direct = await enter(
      {},
      async (tx) => (await recallDirectly(tx, query, typed, moment, k, about)) ?? new RolledBack(undefined),
    );
    if (!(direct instanceof RolledBack)) return { ...direct, queryMs: wholeMs(startedAt) };
  }
  return recallThroughTiers(
    enter,
    deps,
    { query, k, mode: request.mode ?? "hybrid", filter, includeDuplicates },
    about,
    (_, { tier, hits, trace }) => ({
      tier,
      classificationKind: tier === "full_context" ? "full_context" : "hybrid",
      hits: hits.map(hitOf),
      seedEntities: [],
      queryMs: wholeMs(startedAt),
      trace,
    }),
  );
}

/** Only what says which values it wants is answered from them; what narrows a search is for a search. */
function typedQuestion({ query, mode, filter, sessionId }: QueryRequest): TypedQuestion | undefined {
  const isNarrowed =
    mode !== undefined || filter.labels.length > 0 || sessionId !== undefined || filter.excludeSuspicious === true;
  const hasFacts = filter.kinds === undefined || filter.kinds.includes("attribute");
  return isNarrowed || !hasFacts ? undefined : parseTypedQuestion(query);
}

/** The answer of the direct tier to a typed question, with its trace; undefined: it has none. */
async function recallDirectly(
  tx: ScopedTransaction,
  query: string,
  question: TypedQuestion,
  moment: Moment,
  k: number,
  about: RecallAbout,
) {
  const answer = await answerDirectly(tx, question, moment, k);
  if (answer === undefined) return undefined;
  const { hits, seedEntities, reason: tierReason } = answer;
  const plan = "by name over the visible scopes";
  const outcome = { tier: "direct", tierReason, plan, candidates: hits.length, hits } as const;
  return {
    tier: outcome.tier,
    classificationKind: "direct_lookup",
    hits,
    seedEntities: seedEntities.map(({ type, name }) => `${type}/${name}`),
    trace: traceRecall(tx, query, outcome, about, {}),
  };
}

/** A hit as answers have it: what it has not is left out. */
const hitOf = (hit: Hit) => {
  const { id, source, text, score, scope, labels, occurredAt, createdAt, position } = hit;
  const isTurn = source === "memory_chunk";
  const isItem = source === "item";
  const said = given({
    sessionId: hit.sessionId,
    turnId: hit.turnId,
    role: hit.role,
    seq: isTurn ? position : null,
    documentId: hit.documentId,
    documentTitle: hit.documentTitle,
    position: isTurn ? null : position,
    // The text begins with it, and no key has a space.
    key: isItem ? text.slice(0, text.indexOf(": ")) : null,
  });
  // (As the direct tier names what is asked for by its key.)
  return {
    id,
    source: isItem ? "attribute" : source,
    text,
    score,
    scope,
    labels,
    occurredAt,
    createdAt,
    ...said,
    ...remarksOn(hit),
  };
};

const given = (values: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null && value !== undefined));
