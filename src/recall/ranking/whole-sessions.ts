import { list, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import type { WordSearch } from "../../lexical/word-search.ts";
import { cuesOf } from "../../text/answer-cues.ts";
import { COLUMNS, type FoundPassage, withSession } from "./bm25.ts";
import { andFilterSql, type PassageFilter } from "./filter.ts";
import type { SessionTurn } from "./in-context.ts";

/** Of a longer session what lies around the best of its found turns is read, and of all sessions so many turns. */
const WHOLE_TURNS = 100;
const AROUND_BEST = 12;
const AROUND_TURNS = 2;
const MOST_TURNS = 400;

/** All turns of sessions, with how often they have the words of a search. */
export async function readSessions(
  tx: ScopedTransaction,
  search: WordSearch,
  sessions: readonly {
    readonly id: string;
    readonly scopeId: number;
    readonly positions: readonly number[];
    readonly turns: number;
  }[],
  filter: PassageFilter,
): Promise<SessionTurn[]> {
  let left = MOST_TURNS;
  const ranges = sessions.flatMap(({ id, scopeId, positions, turns }) => {
    const read =
      turns <= Math.min(WHOLE_TURNS, left) ? [{ from: 0, to: turns - 1 }] : around(positions.slice(0, AROUND_BEST));
    const some = read.filter(({ from, to }) => {
      const fits = left > 0;
      if (fits) left -= to - from + 1;
      return fits;
    });
    return some.map((range) => ({ id, scopeId, ...range }));
  });
  if (ranges.length === 0) return [];
  const rows = await tx.rows<
    Omit<FoundPassage, "frequencies" | "score"> & {
      terms: Uint8Array | null;
      cues: number | null;
      beginning: string | null;
    }
  >(sql`
    SELECT ${COLUMNS}, p.terms, p.cues, CASE WHEN p.cues IS NULL THEN p.text END AS beginning
    FROM unnest(${list(ranges.map(({ scopeId }) => scopeId))}::int[], ${list(ranges.map(({ id }) => id))}::uuid[],
                ${list(ranges.map(({ from }) => from))}::int[], ${list(ranges.map(({ to }) => to))}::int[]) AS r(scope_id, session_id, low, high)
    CROSS JOIN LATERAL (
      SELECT * FROM ${tx.read("passage", "o")}
      WHERE o.scope_id = r.scope_id AND o.session_id = r.session_id AND o.position BETWEEN r.low AND r.high LIMIT ${MOST_TURNS}::int) p ${withSession(tx)}
    WHERE p.kind = 'turn' AND p.expired_at IS NULL${andFilterSql(tx, filter)}`);
  return rows.flatMap(({ terms, cues, beginning, ...row }) => {
    const frequencies = search.frequenciesIn(row.scopeId, terms ?? new Uint8Array());
    if (row.sessionId === null || row.position === null || frequencies === undefined) return [];
    const { sessionId, position } = row;
    return [{ ...row, sessionId, position, score: 0, frequencies, cues: cues ?? cuesOf(beginning ?? "") }];
  });
}

/** Ranges around positions, those that meet as one. */
function around(positions: readonly number[]): { from: number; to: number }[] {
  const ranges: { from: number; to: number }[] = [];
  for (const position of [...positions].sort((a, b) => a - b)) {
    const [from, to] = [position - AROUND_TURNS, position + AROUND_TURNS];
    const last = ranges.at(-1);
    if (last !== undefined && from <= last.to + 1) last.to = Math.max(last.to, to);
    else ranges.push({ from, to });
  }
  return ranges;
}
