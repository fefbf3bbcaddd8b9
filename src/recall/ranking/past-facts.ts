import { analyserOf } from "../../context/settings.ts";
import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { bm25 } from "../../lexical/bm25-score.ts";
import { alone, searchedWords } from "../../lexical/searched-words.ts";
import { lexicalState } from "../../lexical/state.ts";
import { WordSearch } from "../../lexical/word-search.ts";
import { eachInSlices } from "../../load/slices.ts";
import { factsAt, isPresent, withTables } from "../../memory/fact-timeline.ts";
import { plantedIn } from "../../text/planted.ts";
import { sameTextDigest } from "../../text/same-text.ts";
import { byScore, type Candidate } from "./candidate.ts";
import type { PassageFilter } from "./filter.ts";

/** The idf of a word of the only passage that there is. */
const RAREST = Math.log(1 + 1.5 / 0.5);

/** A fact of another time, as a ranking finds it. */
export interface PastFact extends Candidate {
  readonly observedAt: string;
  readonly digest: string;
}

/** Whether a recall asks about a time at which facts may have held that are over by now. */
export const asksForPastFacts = ({ moment, kinds, documentIds, mimeTypes }: PassageFilter): boolean =>
  moment !== undefined &&
  !isPresent(moment) &&
  documentIds === undefined &&
  mimeTypes === undefined &&
  (kinds === undefined || kinds.includes("attribute"));

/** The facts of the filter's moment, of both tables, as rows (id, scope_id, sentence, valid_from). */
function factsOf(tx: ScopedTransaction, { moment = {}, labels, sessionId }: PassageFilter) {
  const tables = (["attribute", "relation"] as const).map((table) => factsAt(tx, table, sql`true`, moment));
  // As known now, what is not over is found by its passage.
  const narrowed: SQL[] = [
    moment.asOf === undefined
      ? sql`NOT EXISTS (SELECT 1 FROM ${tx.read("passage", "own")} WHERE own.scope_id = f.scope_id AND own.id = f.id)`
      : sql`true`,
  ];
  if (labels.length > 0) narrowed.push(sql`f.labels @> ${list(labels)}::text[]`);
  if (sessionId !== undefined) narrowed.push(sql`f.session_id = ${sessionId}::uuid`);
  const rows = tables.map(
    ({ from }) =>
      sql`SELECT f.id, f.scope_id, f.sentence, f.valid_from FROM ${from} WHERE ${sql.join(narrowed, sql` AND `)}`,
  );
  return { tables: tables.flatMap((table) => table.tables), rows: sql.join(rows, sql` UNION ALL `) };
}

/**
 * The facts of a moment by BM25 with the visible scopes' own statistics. What is over is in no index of words,
 * so that it takes nothing from answers about the present: here each fact of the moment is looked at.
 */
export async function rankPastFacts(
  tx: ScopedTransaction,
  query: string,
  filter: PassageFilter,
  limit: number,
): Promise<PastFact[]> {
  const { tables, rows } = factsOf(tx, filter);
  const facts = await tx.rows<{ id: string; scopeId: number; text: string; observedAt: string }>(sql`
    ${withTables(tables)}
    SELECT f.id, f.scope_id AS "scopeId", f.sentence AS text, f.valid_from AS "observedAt" FROM (${rows}) f ORDER BY f.id`);
  const analyser = analyserOf(tx);
  const texts = await eachInSlices(facts, ({ text }) => analyser.text(text));
  const search = await WordSearch.of(tx, query);
  // Nothing may be visible but facts that are over: their languages are asked in as well.
  const languages = [...new Set([...(await lexicalState(tx)).languages, ...texts.flatMap((text) => text.languages)])];
  const words =
    search.words.length > 0
      ? search.words
      : searchedWords(analyser.question(query, languages)).map((word) => ({ ...word, idf: RAREST }));
  const found = facts.flatMap((fact, i) => {
    const { terms, length = 0 } = texts[i] ?? {};
    const frequencies = words.map(({ variants }) =>
      Math.max(0, ...variants.map(([term, share]) => share * (terms?.get(term) ?? 0))),
    );
    const score = bm25(words, alone(words, frequencies), length / search.meanLength);
    return score > 0 ? [{ ...fact, score }] : [];
  });
  return found
    .sort(byScore)
    .filter(({ text }) => filter.excludeSuspicious !== true || plantedIn(text).length === 0)
    .slice(0, limit)
    .map(({ text, ...fact }) => ({ ...fact, digest: sameTextDigest(text) }));
}

/** What a ranking found, with the best of the facts of the time that is asked about which are over by now. */
export async function withPastFacts(
  tx: ScopedTransaction,
  found: readonly Candidate[],
  query: string,
  filter: PassageFilter,
  limit: number,
): Promise<readonly Candidate[]> {
  if (!asksForPastFacts(filter)) return found;
  const known = new Set(found.map(({ id }) => id));
  const facts = (await rankPastFacts(tx, query, filter, limit)).filter(({ id }) => !known.has(id));
  return [...found, ...facts].sort(byScore);
}

/** The facts of a moment, the newest first. */
export async function recentPastFacts(
  tx: ScopedTransaction,
  filter: PassageFilter,
  limit: number,
): Promise<Candidate[]> {
  const { tables, rows } = factsOf(tx, filter);
  return tx.rows<Candidate>(sql`
    ${withTables(tables)}
    SELECT f.id, f.scope_id AS "scopeId", 0 AS score, f.valid_from AS "observedAt" FROM (${rows}) f ORDER BY f.valid_from DESC, f.id DESC LIMIT ${limit}`);
}
