/** Markdown: the text as it is, cut where headings open a section. */
import type { Heading, Nodes, Root } from "mdast";
import type { Extracted } from "./extracted.ts";
import { sectionsFrom } from "./flow.ts";

const MAX_TITLE_CHARACTERS = 300;
/** A tree takes some hundred bytes for each character of its text: of a longer one, a piece at a time. */
const PIECE_CHARACTERS = 1_000_000;
/** Lines of front matter at most. */
const MOST_FRONT_MATTER = 500;

/** A heading belongs to the section that it opens. */
export async function readMarkdown(text: string): Promise<Extracted> {
  const [{ unified }, { default: remarkParse }] = await Promise.all([import("unified"), import("remark-parse")]);
  const parser = unified().use(remarkParse);
  const opened: { readonly title: string | null; readonly start: number }[] = [];
  for (const { start, end } of pieces(text, lengthOfFrontMatter(text))) {
    for (const heading of headingsIn(parser.parse(text.slice(start, end)))) {
      opened.push({ title: titleOf(heading), start: start + (heading.position?.start.offset ?? 0) });
    }
  }
  return { text, sections: sectionsFrom(opened, text.length) };
}

/** Front matter is about the file, and its rule is no underline. A rule over text is none: each of its lines is a key, an item, or goes on with one. */
function lengthOfFrontMatter(text: string): number {
  const open = /^---[ \t]*\r?\n/.exec(text);
  if (open === null) return 0;
  let at = open[0].length;
  for (let lines = 0; lines < MOST_FRONT_MATTER && at < text.length; lines++) {
    const end = text.indexOf("\n", at);
    const line = text.slice(at, end < 0 ? text.length : end).trimEnd();
    at = end < 0 ? text.length : end + 1;
    if (/^(---|\.\.\.)$/.test(line)) return lines === 0 ? 0 : at;
    if (!/^(\s*$|#|\s+\S|- |[^\s:#][^:]*:(\s|$))/.test(line)) return 0;
  }
  return 0;
}

/** Cut behind blank lines: a heading never stands on both sides of one. */
function* pieces(text: string, from: number): Generator<{ start: number; end: number }> {
  for (let start = from; start < text.length; ) {
    const blank = /\r?\n[ \t]*\r?\n/g;
    blank.lastIndex = start + PIECE_CHARACTERS;
    const end = blank.exec(text) === null ? text.length : blank.lastIndex;
    yield { start, end };
    start = end;
  }
}

/** Those of the document itself, not of something that it quotes. */
const headingsIn = (tree: Root): Heading[] => tree.children.filter((node) => node.type === "heading");

const titleOf = (heading: Heading): string | null =>
  textOf(heading).replace(/\s+/g, " ").trim().slice(0, MAX_TITLE_CHARACTERS) || null;

const textOf = (node: Nodes): string =>
  "children" in node ? node.children.map(textOf).join("") : "value" in node ? node.value : "";
