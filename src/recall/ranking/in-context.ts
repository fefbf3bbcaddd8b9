import type { WordSearch } from "../../lexical/word-search.ts";
import { ASKS, typesAsked } from "../../text/answer-cues.ts";
import { bonusInTime, isOfNamedTime, type NamedTime } from "../../text/named-time.ts";
import type { FoundPassage } from "./bm25.ts";
import { byScore, type Candidate } from "./candidate.ts";

/** A turn of a session that was read as a whole. */
export interface SessionTurn extends FoundPassage {
  readonly sessionId: string;
  readonly position: number;
  /** As src/text/answer-cues.ts has them. */
  readonly cues: number;
}

/** A word of the question as it counts in a conversation. */
export interface WeighedWord {
  /** Its place in the search. */
  readonly place: number;
  readonly weight: number;
  /** The same without regard to conversations: its idf. */
  readonly idf: number;
  /** Whether it says anything of the turns beside one that has it. */
  readonly spreads: boolean;
}

export interface Conversation {
  readonly words: readonly WeighedWord[];
  /** Best first. */
  readonly hits: readonly FoundPassage[];
  readonly turns: readonly SessionTurn[];
  readonly query: string;
  readonly named: readonly NamedTime[];
}

/** Share of a word's frequency that a turn takes over from the turns one and two away from it. */
const NEIGHBOURS = [1, 0.4, 0.2] as const;
/** A word of so many passages says nothing of the turns beside it. */
const COMMON_SHARE = 0.25;
/** Saturation of a frequency in a turn with its neighbours, and in a session. */
const K1 = 1.2;
const SESSION_K1 = 2;
/** How much the length of a session, in turns, is held against it. */
const SESSION_B = 0.75;
/** What a session's own score adds to its turns'; what is no turn is its own session. */
const SESSION_SHARE = 0.9;
/** Sessions that are read whole. */
const MOST_SESSIONS = 10;
/** Rare words are not worth quite as much more than others as their idf says. */
const IDF_POWER = 0.8;
/** Words of one question that count. */
const MOST_WORDS = 24;
/** Words that frame a question rather than say what it is about, and what they count for. */
const FRAMING = new Set(
  `kind type sort mani many much mention describ describe say said tell told accord could would might like long often someth something thing one also
   plan recent recently current use ever alreadi already share express mean discuss talk`.split(/\s+/),
);
const FRAMING_WEIGHT = 0.6;
/** What it adds, in units of a word's weight, that a turn is by the one whom the query names; that it may be of the type that is asked for; that it asks itself; and for each power of e of its length. */
const SPEAKER_WEIGHT = 4;
const TYPE_WEIGHT = 2.5;
const ASKING_WEIGHT = -1.2;
const LENGTH_WEIGHT = 0.7;
/** In a scope of few passages no word is worth much: from this weight of the rarest word on these count in full. */
const FULL_WEIGHT = 3;
/** What a turn takes over of what the question before it, by another, shares with the query. */
const ANSWER_SHARE = 0.3;

/** A session of one turn is a fact by itself, as a chunk is: its own text is all its context. */
export const isOfConversation = (hit: FoundPassage): boolean =>
  hit.sessionId !== null && hit.position !== null && (hit.turns ?? 1) > 1;

/** The words of a search that any passage has, the weightiest first. What names a time is no word where anything else is asked. */
export function weighWords(search: WordSearch, query: string): WeighedWord[] {
  const weighed = search.words.flatMap(({ df, idf, weight, variants }, place) => {
    if (df === 0) return [];
    const isFraming = variants.some(([term]) => FRAMING.has(term));
    return [
      {
        place,
        term: variants[0]?.[0] ?? "",
        weight: weight * (isFraming ? FRAMING_WEIGHT : 1) * idf ** IDF_POWER,
        idf: weight * idf,
        spreads: df / search.passages <= COMMON_SHARE,
      },
    ];
  });
  const isOfTime = isOfNamedTime(query);
  const others = weighed.filter(({ term }) => !isOfTime(term));
  return (others.length > 0 ? others : weighed).sort((a, b) => b.weight - a.weight).slice(0, MOST_WORDS);
}

/** The sessions of the found turns that promise most. */
export function chooseSessions(
  words: readonly WeighedWord[],
  hits: readonly FoundPassage[],
  named: readonly NamedTime[],
): { readonly id: string; readonly scopeId: number; readonly positions: readonly number[]; readonly turns: number }[] {
  const sessions = bySession(hits.filter(isOfConversation));
  const wholes = scoreSessions(words, sessions);
  return [...sessions]
    .map(([id, session]) => ({
      id,
      scopeId: session[0]?.scopeId ?? 0,
      positions: session.map(({ position }) => position ?? 0),
      turns: session[0]?.turns ?? 1,
      score:
        SESSION_SHARE * (wholes.get(id) ?? 0) +
        bonusInTime(named, session[0]?.observedAt ?? "") +
        (session[0]?.score ?? 0),
    }))
    .sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1))
    .slice(0, MOST_SESSIONS);
}

/**
 * Ranks what shares words with the query by what was said around it. A turn often answers in words that the
 * question does not have, while the turns beside it do; so each turn of the best sessions takes over a share of its
 * neighbours' frequencies, and of its session's score. What is no turn keeps its own score and is its own context.
 * Gains of each part: docs/retrieval.md.
 */
export function rankInContext({ words, hits, turns, query, named }: Conversation): Candidate[] {
  const isNamed = speakerNamed(query, [...hits, ...turns]);
  const asked = typesAsked(query);
  const read = new Map(turns.map((turn) => [turn.id, turn]));
  const sessions = bySession<FoundPassage | SessionTurn>([
    ...turns,
    ...hits.filter((hit) => isOfConversation(hit) && !read.has(hit.id)),
  ]);
  const wholes = scoreSessions(words, sessions);
  const idf = words.reduce((sum, word) => sum + word.idf, 0);
  // What a word is worth in a conversation, so that turns and others compare.
  const scale = idf === 0 ? 1 : words.reduce((sum, { weight }) => sum + weight, 0) / idf;
  const part = Math.min(1, Math.max(0, ...words.map(({ weight }) => weight)) / FULL_WEIGHT);
  const ranked: Candidate[] = hits
    .filter((hit) => !isOfConversation(hit))
    .map((hit) => ({
      ...candidateOf(hit),
      score: hit.score * scale * (1 + SESSION_SHARE) + part * bonusInTime(named, hit.observedAt),
    }));
  const all = [...sessions.values()].flat();
  const meanLength = all.reduce((sum, turn) => sum + turn.words, 0) / Math.max(all.length, 1);
  for (const [id, session] of sessions) {
    const whole = SESSION_SHARE * (wholes.get(id) ?? 0);
    const byPosition = new Map(session.map((turn) => [turn.position ?? 0, turn]));
    for (const turn of session) {
      const before = byPosition.get((turn.position ?? 0) - 1);
      const cues = "cues" in turn ? turn.cues : 0;
      const bonus =
        bonusInTime(named, turn.observedAt) +
        TYPE_WEIGHT * countBits(asked & cues) +
        LENGTH_WEIGHT * (Math.log(1 + turn.words) - Math.log(1 + meanLength)) +
        (isNamed(turn.speaker) ? SPEAKER_WEIGHT : 0) +
        ((cues & ASKS) === 0 ? 0 : ASKING_WEIGHT);
      let score = saturated(words, around(words, turn, byPosition), K1) + whole + part * bonus;
      if (before !== undefined && "cues" in before && (before.cues & ASKS) !== 0 && before.speaker !== turn.speaker)
        score += ANSWER_SHARE * saturated(words, frequenciesOf(words, before), K1);
      ranked.push({ ...candidateOf(turn), score });
    }
  }
  return ranked.sort(byScore);
}

const candidateOf = ({ id, scopeId, score, digest, observedAt }: FoundPassage): Candidate => ({
  id,
  scopeId,
  score,
  digest,
  observedAt,
});

function countBits(bits: number): number {
  let n = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) n++;
  return n;
}

/** Tells the one whom the query names among those who speak; where it names several, or none, nobody. */
function speakerNamed(query: string, hits: readonly FoundPassage[]): (speaker: string | null) => boolean {
  const speakers = new Set(hits.flatMap(({ speaker }) => (speaker === null ? [] : [speaker])));
  // A question's first letter is a small one (src/recall/question.ts).
  const asked = ` ${query.charAt(0).toUpperCase()}${query.slice(1)} ${query} `;
  const named = [...speakers].filter((speaker) => isWordOf(asked, speaker));
  return (speaker) => named.length === 1 && speaker === named[0];
}

const LETTER = /[\p{L}\p{N}]/u;
function isWordOf(text: string, word: string): boolean {
  for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1)) {
    if (!LETTER.test(text.charAt(at - 1)) && !LETTER.test(text.charAt(at + word.length))) return true;
  }
  return false;
}

function bySession<Turn extends FoundPassage>(turns: readonly Turn[]): Map<string, Turn[]> {
  const sessions = new Map<string, Turn[]>();
  for (const turn of turns) {
    const id = turn.sessionId ?? "";
    const known = sessions.get(id);
    if (known === undefined) sessions.set(id, [turn]);
    else known.push(turn);
  }
  return sessions;
}

const frequenciesOf = (words: readonly WeighedWord[], { frequencies }: FoundPassage): number[] =>
  words.map(({ place }) => frequencies[place] ?? 0);

/** BM25 of one text. Without a length for a window of turns, which is about as long as any other. */
function saturated(
  words: readonly Pick<WeighedWord, "weight">[],
  frequencies: readonly number[],
  k1: number,
  length = 1,
): number {
  let score = 0;
  // Counted loops, here and in `around`: a recall goes through them some ten thousand times.
  for (let w = 0; w < words.length; w++) {
    const tf = frequencies[w] ?? 0;
    if (tf > 0) score += ((words[w]?.weight ?? 0) * tf * (k1 + 1)) / (tf + k1 * length);
  }
  return score;
}

/** BM25 of the sessions among one another, each taken as one text of its turns that are known. */
function scoreSessions(
  words: readonly WeighedWord[],
  sessions: ReadonlyMap<string, readonly FoundPassage[]>,
): Map<string, number> {
  const wholes = [...sessions].map(([id, session]) => ({
    id,
    turns: session[0]?.turns ?? 1,
    frequencies: words.map(({ place }) => session.reduce((sum, turn) => sum + (turn.frequencies[place] ?? 0), 0)),
  }));
  const n = wholes.length;
  const mean = wholes.reduce((sum, { turns }) => sum + turns, 0) / Math.max(n, 1);
  const among = words.map(({ weight, idf }, w) => {
    const df = wholes.filter(({ frequencies }) => (frequencies[w] ?? 0) > 0).length;
    const framing = idf === 0 ? 1 : weight / idf ** IDF_POWER;
    return { weight: framing * Math.log(1 + (n - df + 0.5) / (df + 0.5)) };
  });
  return new Map(
    wholes.map(({ id, turns, frequencies }) => [
      id,
      saturated(among, frequencies, SESSION_K1, 1 - SESSION_B + (SESSION_B * turns) / mean),
    ]),
  );
}

/** The frequencies in a turn with what it takes over from the turns beside it. */
function around(
  words: readonly WeighedWord[],
  turn: FoundPassage,
  byPosition: ReadonlyMap<number, FoundPassage>,
): number[] {
  const position = turn.position ?? 0;
  const sums = frequenciesOf(words, turn);
  for (let away = 1; away < NEIGHBOURS.length; away++) {
    for (const neighbour of [byPosition.get(position - away), byPosition.get(position + away)]) {
      if (neighbour === undefined) continue;
      for (let w = 0; w < words.length; w++) {
        const word = words[w];
        if (word?.spreads !== true) continue;
        sums[w] = (sums[w] ?? 0) + (NEIGHBOURS[away] ?? 0) * (neighbour.frequencies[word.place] ?? 0);
      }
    }
  }
  return sums;
}
