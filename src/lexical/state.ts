import type { RawLexicalState } from "../db/access/entry.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { type TermKey, termKey } from "../text/analysis/term-hash.ts";

export interface LexicalState {
  /** Under which each scope's terms are hashed; of those that hold anything, or of the one that is written to. */
  readonly keys: ReadonlyMap<number, TermKey>;
  /** In which the visible texts are, the most frequent first. */
  readonly languages: readonly string[];
  /** How many visible passages there are, and how many words in all of them. */
  readonly passages: number;
  readonly words: number;
  readonly segments: number;
  /** Passages that are in no segment, at most. */
  readonly tail: number;
}

/** Languages in which a question is asked. */
const MOST_LANGUAGES = 6;

/** The same for all that one transaction does, and asked for once. */
const known = new WeakMap<ScopedTransaction, Promise<LexicalState>>();

export function lexicalState(tx: ScopedTransaction): Promise<LexicalState> {
  let state = known.get(tx);
  if (state === undefined) {
    const given = tx.entry.lexical;
    state =
      given === null
        ? tx.call<RawLexicalState | null>("lexical_state").then(stateOf)
        : Promise.resolve(given).then(stateOf);
    known.set(tx, state);
  }
  return state;
}

function stateOf(raw: RawLexicalState | null): LexicalState {
  if (raw === null) throw new Error("the ticket of this transaction is for no content: it has no words");
  const languages = new Map<string, number>();
  for (const [codes, passages] of Object.entries(raw.languages)) {
    for (const code of codes.split(",")) if (code !== "") languages.set(code, (languages.get(code) ?? 0) + passages);
  }
  return {
    keys: new Map(Object.entries(raw.keys).map(([scope, key]) => [Number(scope), termKey(Buffer.from(key, "base64"))])),
    languages: [...languages]
      .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
      .slice(0, MOST_LANGUAGES)
      .map(([code]) => code),
    passages: raw.passages,
    words: raw.words,
    segments: raw.segments,
    tail: raw.tail,
  };
}
