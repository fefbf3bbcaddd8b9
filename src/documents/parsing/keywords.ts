/** Runs in the parser's process: what a document is about, in a few phrases. */

import type { Nodes } from "nlcst";
import retextEnglish from "retext-english";
import retextKeywords from "retext-keywords";
import retextPos from "retext-pos";
import { unified } from "unified";
import { normalise } from "./normalise.ts";

export interface Keyword {
  /** Lower case, single spaces: what two documents share. */
  readonly normalised: string;
  readonly phrase: string;
  /** 0 to 1, 1 for the best of its document. */
  readonly score: number;
  /** How often the document says it. */
  readonly count: number;
}

/** Characters that are read: what a document is about shows in its beginning, and tagging a whole book would take minutes. */
const MAX_KEYWORD_INPUT = 60_000;
const MAX_KEYWORDS = 20;

interface Found {
  readonly score: number;
  readonly weight?: number;
  /** Of a phrase several nodes, of a word one. */
  readonly matches: readonly { readonly nodes?: Nodes[]; readonly node?: Nodes }[];
}

/** Of a sentence; one without end takes time by the square of its length. */
const LONGEST_SENTENCE = 600;

/** The text with a break in what goes on for longer than a sentence: at a line's end or a space, or wherever. */
function inSentences(text: string): string {
  const parts: string[] = [];
  let start = 0;
  let lastBreak = 0;
  for (let at = 0; at < text.length; at++) {
    const c = text[at] as string;
    if (c === " " || c === "\n") lastBreak = at + 1;
    const isEnd = (/[.!?。！？]/.test(c) && /\s/.test(text[at + 1] ?? " ")) || (c === "\n" && text[at + 1] === "\n");
    if (isEnd) {
      parts.push(text.slice(start, at + 1));
      start = at + 1;
    } else if (at - start >= LONGEST_SENTENCE) {
      const cut = lastBreak > start ? lastBreak : at;
      parts.push(text.slice(start, cut), "\n\n");
      start = cut;
    }
  }
  return parts.join("") + text.slice(start);
}

/** The key phrases and key words of a text by retext-keywords (English parts of speech), best first. */
export async function keywordsOf(text: string): Promise<Keyword[]> {
  const processor = unified().use(retextEnglish).use(retextPos).use(retextKeywords, { maximum: MAX_KEYWORDS });
  const { VFile } = await import("vfile");
  const file = new VFile(inSentences(text.slice(0, MAX_KEYWORD_INPUT)));
  await processor.run(processor.parse(file), file);
  const { toString: textOf } = await import("nlcst-to-string");
  const { keyphrases = [], keywords = [] } = file.data as { keyphrases?: Found[]; keywords?: Found[] };
  const found = new Map<string, Keyword>();
  // Phrases and single words are scored on scales of their own.
  for (const list of [keyphrases, keywords]) {
    const best = Math.max(...list.map(({ score }) => score), Number.MIN_VALUE);
    for (const { score, weight, matches } of list) {
      const first = matches[0];
      if (first === undefined) continue;
      const phrase = textOf(first.nodes ?? first.node ?? [])
        .replace(/\s+/g, " ")
        .trim()
        .slice(0, 120);
      const normalised = normalise(phrase);
      if (normalised.length < 3 || !/\p{L}/u.test(normalised) || found.has(normalised)) continue;
      found.set(normalised, {
        normalised,
        phrase,
        score: Math.round(Math.min(1, score / best) * 1e4) / 1e4,
        count: Math.max(1, Math.round(weight ?? matches.length)),
      });
    }
  }
  return [...found.values()]
    .sort((a, b) => b.score - a.score || (a.normalised < b.normalised ? -1 : 1))
    .slice(0, MAX_KEYWORDS);
}
