import { type Hidden, hiddenByView } from "../context/hidden-scopes.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { notFound, unprocessable } from "../errors.ts";
import { refuseOthersSession } from "../memory/sessions.ts";
import type { QueryVectors } from "../models/metered.ts";
import { fetchHits } from "../recall/answer/hits.ts";
import type { Candidate } from "../recall/ranking/candidate.ts";
import { NO_FILTER } from "../recall/ranking/filter.ts";
import { rankByDistance } from "../recall/ranking/vector.ts";
import { type ForgottenItems, NOTHING, writeReceipt } from "../traces/receipt.ts";
import { recordSpent, recordTrace, spentOn, type TraceFields } from "../traces/record.ts";
import { forgetItems } from "./forget-items.ts";
import { matchNames } from "./matching/document-names.ts";
import { factsOfSession, type Match, matchUnranked } from "./matching/facts-and-items.ts";
import { isNarrow, KEEP_ALL, type Keep, keepSelected, matchSelected, type Selection } from "./matching/selection.ts";
import { hasIdentifiers, passagesAbout, type Topic, topicOf } from "./matching/topic.ts";

/** More than this at once is a scope to erase, not a topic to forget. */
export const MAX_MATCHES = 1_000;
/** Of what needs no ranking. */
const MOST_SELECTED = 10_000;

export interface ForgetRequest {
  readonly query: string | undefined;
  readonly prepared: QueryVectors;
  readonly sessionId: string | undefined;
  /** Share, by weight, of what the query says that a row must say. */
  readonly threshold: number;
  readonly dryRun: boolean;
  /** Erase; otherwise expire. */
  readonly purge: boolean;
  /** The typed confirmation for general knowledge was given. */
  readonly confirmed: boolean;
  /** Of more than goes at once the first: whoever asks comes again. */
  readonly inBatches?: boolean | undefined;
  /** What is forgotten by what it is; with a query or a session it narrows that. */
  readonly selection?: Selection | undefined;
}

/** What a row must say of a request's words, and how near a model's nearest may be, unless the request says otherwise. */
export const DEFAULT_THRESHOLD = 0.6;

export interface ForgetMatch {
  readonly id: string;
  readonly text: string;
  readonly score: number;
  /** In a few words of the request. */
  readonly why: string;
  readonly scope: Record<string, string>;
}

export interface ForgetAnswer extends Hidden {
  /** How many rows went, or in a dry run would go. */
  readonly deleted: number;
  readonly receiptId?: string;
  readonly matches?: readonly ForgetMatch[];
}

/**
 * Forgets what a query is about, or a session, or what a query is about in a session, inside E.
 *
 * A row matches when it says at least `threshold` of what the query says, by the rarity of its words and
 * with every identifier (matching/topic.ts), or lies no further from it than a model's calibrated distance.
 * It is no matter what else there is: what is not there takes nothing.
 */
export async function forgetMatching(tx: ScopedTransaction, request: ForgetRequest): Promise<ForgetAnswer> {
  const topic = request.query === undefined ? undefined : await topicOf(tx, request.query);
  const matches = await matchesOf(tx, request, topic);
  const { prepared } = request;
  const trace = {
    kind: "forget",
    operation: "forget",
    query: null,
    ...spentOn(prepared.spent),
  } as const;
  if (request.dryRun) {
    traceForget(tx, prepared, { ...trace, candidates: matches.length, returned: 0, tierReason: "dry run" });
    return {
      deleted: matches.length,
      matches: matches.map(({ id, text, score, scope, why }) => ({ id, text, score, scope, why })),
      ...(matches.length === 0 ? await hiddenByView(tx) : {}),
    };
  }
  const named = topic === undefined ? {} : await matchNames(tx, topic, request.threshold);
  const found = itemsOf(matches, request);
  const items = { ...found, ...named, facts: [...found.facts, ...(await confirmationsOf(tx, request, found.facts))] };
  const counts = await forgetItems(tx, items, request.purge);
  const pendingDocuments = await tx.call<number>("pending_documents");
  await tx.call("drop_cached_answers");
  const receiptId = await writeReceipt(
    tx,
    {
      subtree: tx.entry.view === "subtree",
      action: request.purge ? "erase" : "expire",
      policy: policyOf(request),
      items,
    },
    {
      ...counts,
      ...(pendingDocuments > 0 ? { pendingDocuments } : {}),
    },
  );
  traceForget(tx, prepared, { ...trace, candidates: matches.length, returned: matches.length });
  return { deleted: matches.length, receiptId, ...(matches.length === 0 ? await hiddenByView(tx) : {}) };
}

const policyOf = ({ query, sessionId }: ForgetRequest) =>
  query !== undefined
    ? sessionId === undefined
      ? "query"
      : "query in a session"
    : sessionId !== undefined
      ? "session"
      : "selection";

function traceForget(tx: ScopedTransaction, { spentOnOthers }: QueryVectors, fields: TraceFields): void {
  const { traceId } = recordTrace(tx, fields);
  for (const spent of spentOnOthers) recordSpent(tx, spent, { parentId: traceId });
}

/** The rows that a passage is made from: its turn, or the fact that has the same id. */
const itemsOf = (matches: readonly Match[], { sessionId, query, selection }: ForgetRequest): ForgottenItems => ({
  ...NOTHING,
  passages: matches.map((hit) => hit.id),
  turns: matches.flatMap((hit) => (hit.turnId === null ? [] : [hit.turnId])),
  facts: matches.flatMap((hit) => (hit.source === "attribute" ? [hit.id] : [])),
  items: matches.flatMap((hit) => (hit.source === "item" ? [hit.id] : [])),
  contents: [...new Set(matches.flatMap((hit) => (hit.documentId === null ? [] : [hit.documentId])))],
  documents: matches.flatMap((hit) => (hit.source === "document" ? [hit.id] : [])),
  // Of a session that is narrowed only what matches goes.
  sessions: query === undefined && sessionId !== undefined && !isNarrow(selection ?? {}) ? [sessionId] : [],
});

/** What confirms a fact that goes says the same, and goes with it; but of a session its own rows alone. */
export async function confirmationsOf(
  tx: ScopedTransaction,
  { sessionId }: Pick<ForgetRequest, "sessionId">,
  facts: readonly string[],
) {
  if (facts.length === 0 || sessionId !== undefined) return [];
  const confirming = (table: "attribute" | "relation", what: SQL) => sql`
    SELECT o.id FROM ${tx.read(table, "f")} JOIN ${tx.read(table, "o")}
      ON o.scope_id = f.scope_id AND o.entity_id = f.entity_id AND o.key_hash = f.key_hash AND o.${what} = f.${what}
    WHERE f.id = ANY (${list(facts)}::uuid[]) AND o.is_confirmation AND o.expired_at IS NULL`;
  const rows = await tx.rows<{ id: string }>(
    sql`${confirming("attribute", sql`value`)} UNION ${confirming("relation", sql`target_id`)}`,
  );
  return rows.map(({ id }) => id);
}

async function matchesOf(tx: ScopedTransaction, request: ForgetRequest, topic: Topic | undefined): Promise<Match[]> {
  const { selection } = request;
  if (request.query === undefined && request.sessionId === undefined) {
    const selected = await matchSelected(tx, selection ?? {}, request.purge, MOST_SELECTED);
    if (selected.length > MOST_SELECTED)
      throw unprocessable(
        `more than ${MOST_SELECTED} memories match; narrow it, or use a forget schedule, which goes on until all are gone`,
      );
    return selected;
  }
  const keep = selection === undefined || !isNarrow(selection) ? KEEP_ALL : keepSelected(tx, selection);
  return matchesOfWords(tx, request, topic, keep);
}

async function matchesOfWords(
  tx: ScopedTransaction,
  request: ForgetRequest,
  topic: Topic | undefined,
  keep: Keep,
): Promise<Match[]> {
  if (request.sessionId !== undefined) {
    const known = await tx.row<{ scopeId: number }>(
      sql`SELECT s.scope_id AS "scopeId" FROM ${tx.read("session", "s")} WHERE s.id = ${request.sessionId}::uuid`,
    );
    if (known?.scopeId === 0 && !request.dryRun && !request.confirmed) {
      throw unprocessable(
        'the session holds general knowledge, which everyone shares; confirm it with "confirm": "{}"',
      );
    }
    if (known === undefined) throw notFound();
    if (request.query === undefined) await refuseOthersSession(tx, request.sessionId);
  }
  if (request.query === undefined || topic === undefined) return keep(await wholeSession(tx, request));
  const said = await passagesAbout(tx, topic, request.threshold, request.sessionId, MAX_MATCHES, keep);
  const nearest = await nearby(tx, request, topic);
  const near = await keep(nearest);
  const reasons = new Map<string, { score: number; why: string }>();
  for (const { id, share, says } of said) reasons.set(id, { score: share, why: `says ${says.join(", ")}` });
  for (const { id, score } of near)
    if (score > (reasons.get(id)?.score ?? 0)) reasons.set(id, { score, why: "is near in meaning" });
  const found = [
    ...new Map(
      [...said, ...near].map(({ id, scopeId }) => [id, { id, scopeId, score: reasons.get(id)?.score ?? 0 }]),
    ).values(),
  ];
  found.sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1));
  const unranked = await matchUnranked(tx, topic, { ...request, keep }, MAX_MATCHES);
  if ((found.length + unranked.length >= MAX_MATCHES || nearest.length >= MAX_MATCHES) && request.inBatches !== true) {
    throw unprocessable(
      `${MAX_MATCHES} passages or more match; narrow the query, or erase a scope with POST /scopes/forget`,
    );
  }
  const hits = await fetchHits(tx, found);
  // Items that are recalled are found both ways.
  const known = new Set(hits.map(({ id }) => id));
  return [
    ...hits.map((hit) => ({ ...hit, why: reasons.get(hit.id)?.why ?? "" })),
    ...unranked.filter(({ id }) => !known.has(id)),
  ];
}

/** What a model of meaning finds no further from the request than its calibrated distance, with the topic's identifiers. */
async function nearby(
  tx: ScopedTransaction,
  { prepared, sessionId, threshold }: ForgetRequest,
  topic: Topic,
): Promise<Candidate[]> {
  const filter = { ...NO_FILTER, sessionId };
  const ranked = await Promise.all(
    prepared.vectors
      // The built-in embedder knows words alone, which the topic does better.
      .filter(({ embedder }) => embedder.isDense)
      .map(async ({ embedder, vector }) =>
        (await rankByDistance(tx, embedder, vector, filter, MAX_MATCHES)).ranking.map((candidate) => ({
          ...candidate,
          // The calibrated distance is worth the default threshold, none at all is worth 1.
          score: 1 - (1 - DEFAULT_THRESHOLD) * ((1 - candidate.score) / embedder.nearDistance),
        })),
      ),
  );
  const near = ranked.flat().filter(({ score }) => score >= threshold);
  if (topic.identifiers.length === 0 || near.length === 0) return near;
  const texts = new Map((await fetchHits(tx, near)).map((hit) => [hit.id, hit.text]));
  return near.filter(({ id }) => hasIdentifiers(texts.get(id) ?? "", topic));
}

async function wholeSession(tx: ScopedTransaction, request: ForgetRequest): Promise<Match[]> {
  const rows = await tx.rows<{ id: string; scopeId: number }>(sql`
    SELECT p.id, p.scope_id AS "scopeId" FROM ${tx.read("passage", "p")}
    WHERE p.session_id = ${request.sessionId}::uuid AND p.expired_at IS NULL ORDER BY p.id`);
  const hits = await fetchHits(
    tx,
    rows.map((row) => ({ ...row, score: 1 })),
  );
  const facts = await factsOfSession(tx, request.sessionId ?? "");
  return [...hits.map((hit) => ({ ...hit, why: "is in the session" })), ...facts];
}
