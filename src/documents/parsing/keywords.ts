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

/** The key phrases and key words of a text by retext-keywords (English parts of speech), best first. */
export async function keywordsOf(text: string): Promise<Keyword[]> {
  const processor = unified().use(retextEnglish).use(retextPos).use(retextKeywords, { maximum: MAX_KEYWORDS });
  const { VFile } = await import("vfile");
  const file = new VFile(text.slice(0, MAX_KEYWORD_INPUT));
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
