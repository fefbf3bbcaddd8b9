import type { Candidate } from "./candidate.ts";
import { likenessInTime, type NamedTime, timesNamed } from "./named-time.ts";

/** A passage that the lexical ranking found, with what its place in a conversation says of it. */
export interface WordHit extends Candidate {
  /** How often each of the query's lexemes is in it, in the order of {@link WordHits.lexemes}. */
  readonly frequencies: readonly number[];
  /** As the database spells it: few are looked at. */
  readonly observedAt: string;
  /** Its length in lexemes. */
  readonly words: number;
  /** Of a turn: where it stands. */
  readonly sessionId: string | null;
  readonly position: number | null;
  /** How many turns its session has. */
  readonly turns: number | null;
  /** Of a turn that begins with a name and a colon: the name. */
  readonly speaker: string | null;
}

export interface WordHits {
  /** The query's lexemes that the visible scopes know, rarest first: idf, and the share of the passages that have it. */
  readonly lexemes: readonly { readonly idf: number; readonly share: number }[];
  /** Best first. */
  readonly hits: readonly WordHit[];
}

/** A turn beside one that was found: known by its place alone. */
export interface Place {
  readonly scopeId: number;
  readonly sessionId: string;
  readonly position: number;
}

export interface Placed {
  readonly id: string | undefined;
  readonly scopeId: number;
  readonly place: Place | undefined;
  readonly score: number;
  /** As {@link Candidate} has it; of one that is known by its place alone whoever looks it up gives them. */
  readonly digest?: string | null;
  readonly observedAt?: string;
}

/** Share of a word's frequency that a turn takes over from the turns one and two away from it. */
const NEIGHBOURS = [1, 0.4, 0.2] as const;
const NEIGHBOUR_REACH_TURNS = NEIGHBOURS.length - 1;
/** A lexeme of so many passages says nothing of the turns beside it. */
const COMMON_LEXEME_SHARE = 0.25;
/** Saturation of a frequency in a turn with its neighbours, and in a session. */
const K1 = 1.2;
const SESSION_K1 = 2;
/** How much the length of a session, in turns, is held against it. */
const SESSION_B = 0.75;
/** What a session's own score adds to its turns'. */
const SESSION_SHARE = 0.6;
/** What it adds that the query names who said it, and when. In units of idf: a word of every seventh, or third, passage. */
const SPEAKER_WEIGHT = 1.2;
const DATE_MATCH_WEIGHT = 2;

/**
 * Ranks what shares words with the query by what was said around it. A turn often answers in words
 * that the question does not have, while the turns beside it do; so a turn takes over a share of its
 * neighbours' frequencies, and of its session's score. What is no turn keeps its own score and is
 * its own context. Gains of each part: docs/retrieval.md.
 *
 * Nothing is read: neighbours without a word of the query are known by their place alone.
 */
export function rankInContext({ lexemes, hits }: WordHits, query: string): Placed[] {
  const named = timesNamed(query);
  const said = new Map<string, boolean>();
  const isNamed = (speaker: string | null) => {
    if (speaker === null) return false;
    // A question's first letter is a small one (src/recall/question.ts).
    const known =
      said.get(speaker) ??
      (query.includes(speaker) || query.startsWith(speaker.charAt(0).toLowerCase() + speaker.slice(1)));
    said.set(speaker, known);
    return known;
  };
  const sessions = sessionsOf(hits);
  const ranked: Placed[] = [];
  for (const hit of hits) {
    if (isOfConversation(hit)) continue;
    const bonus = bonusOf(named, hit.observedAt, false);
    ranked.push({
      id: hit.id,
      scopeId: hit.scopeId,
      place: undefined,
      score: hit.score * (1 + SESSION_SHARE) + bonus,
      digest: hit.digest,
      observedAt: hit.observedAt,
    });
  }
  const wholes = scoreSessions(lexemes, sessions);
  for (const [sessionId, turns] of sessions) {
    const session = SESSION_SHARE * (wholes.get(sessionId) ?? 0);
    for (const [position, frequencies] of around(lexemes, turns.byPosition)) {
      const hit = turns.byPosition.get(position);
      const bonus = bonusOf(named, hit?.observedAt ?? turns.observedAt, isNamed(hit?.speaker ?? null));
      ranked.push({
        id: hit?.id,
        scopeId: turns.scopeId,
        place: hit === undefined ? { scopeId: turns.scopeId, sessionId, position } : undefined,
        score: saturated(lexemes, frequencies, K1) + session + bonus,
        ...(hit === undefined ? {} : { digest: hit.digest, observedAt: hit.observedAt }),
      });
    }
  }
  return ranked.sort((a, b) => b.score - a.score || (keyOf(a) < keyOf(b) ? -1 : 1));
}

/** A session of one turn is a fact by itself, as a chunk is: its own text is all its context. */
export const isOfConversation = (hit: WordHit): boolean =>
  hit.sessionId !== null && hit.position !== null && (hit.turns ?? 1) > 1;

const keyOf = ({ id, place }: Placed) => id ?? `${place?.sessionId} ${place?.position}`;

const bonusOf = (named: readonly NamedTime[], observedAt: string, isSpeaker: boolean) =>
  DATE_MATCH_WEIGHT * likenessInTime(named, observedAt) + (isSpeaker ? SPEAKER_WEIGHT : 0);

/** BM25 of one text. Without a length for a window of turns, which is about as long as any other. */
function saturated(lexemes: WordHits["lexemes"], frequencies: readonly number[], k1: number, length = 1): number {
  let score = 0;
  // Counted loops, here and in `around`: a recall goes through them some ten thousand times.
  for (let l = 0; l < lexemes.length; l++) {
    const tf = frequencies[l] ?? 0;
    if (tf > 0) score += ((lexemes[l]?.idf ?? 0) * tf * (k1 + 1)) / (tf + k1 * length);
  }
  return score;
}

/** BM25 of the sessions among one another, each taken as one text of the turns that were found in it. */
function scoreSessions(lexemes: WordHits["lexemes"], sessions: ReadonlyMap<string, Session>): Map<string, number> {
  const wholes = [...sessions].map(([id, { hits, turns }]) => ({
    id,
    turns,
    frequencies: lexemes.map((_, l) => hits.reduce((sum, hit) => sum + (hit.frequencies[l] ?? 0), 0)),
  }));
  const n = wholes.length;
  const mean = wholes.reduce((sum, { turns }) => sum + turns, 0) / Math.max(n, 1);
  const among = lexemes.map((_, l) => {
    const df = wholes.filter(({ frequencies }) => (frequencies[l] ?? 0) > 0).length;
    return { idf: Math.log(1 + (n - df + 0.5) / (df + 0.5)), share: df / n };
  });
  return new Map(
    wholes.map(({ id, turns, frequencies }) => [
      id,
      saturated(among, frequencies, SESSION_K1, 1 - SESSION_B + (SESSION_B * turns) / mean),
    ]),
  );
}

interface Session {
  readonly scopeId: number;
  /** Of its best turn. */
  readonly observedAt: string;
  readonly turns: number;
  readonly hits: WordHit[];
  readonly byPosition: Map<number, WordHit>;
}

function sessionsOf(hits: readonly WordHit[]): Map<string, Session> {
  const sessions = new Map<string, Session>();
  for (const hit of hits) {
    if (hit.sessionId === null || hit.position === null || !isOfConversation(hit)) continue;
    const session: Session = sessions.get(hit.sessionId) ?? {
      scopeId: hit.scopeId,
      observedAt: hit.observedAt,
      turns: hit.turns ?? 1,
      hits: [],
      byPosition: new Map(),
    };
    session.hits.push(hit);
    session.byPosition.set(hit.position, hit);
    sessions.set(hit.sessionId, session);
  }
  return sessions;
}

/** The frequencies at each place of a session that a hit reaches, the hits' neighbours included. */
function around(lexemes: WordHits["lexemes"], turns: ReadonlyMap<number, WordHit>): Map<number, number[]> {
  const places = new Map<number, number[]>();
  const spreads = lexemes.map(({ share }) => share <= COMMON_LEXEME_SHARE);
  for (const [position, hit] of turns) {
    for (let away = -NEIGHBOUR_REACH_TURNS; away <= NEIGHBOUR_REACH_TURNS; away++) {
      const at = position + away;
      if (at < 0) continue;
      const weight = NEIGHBOURS[Math.abs(away)] ?? 0;
      let sum = places.get(at);
      if (sum === undefined) {
        sum = new Array<number>(lexemes.length).fill(0);
        places.set(at, sum);
      }
      for (let l = 0; l < sum.length; l++) {
        if (away === 0 || spreads[l]) sum[l] = (sum[l] ?? 0) + weight * (hit.frequencies[l] ?? 0);
      }
    }
  }
  return places;
}
