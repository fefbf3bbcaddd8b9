/** Markdown and HTML: text under headings. */
import type { Element, Root as HtmlTree } from "hast";
import type { Heading, Image, ImageReference, Link, LinkReference, Nodes, Root, RootContent, Table, Text } from "mdast";
import type { Handle, Handlers } from "mdast-util-to-markdown";
import { UnreadableDocument } from "../unreadable.ts";
import type { Extracted, Section } from "./extracted.ts";

const MAX_TITLE_CHARACTERS = 300;
/** A tree takes some hundred bytes for each character of its text: of a longer one, a piece at a time. */
const PIECE_CHARACTERS = 1_000_000;
/** Walking a tree without end takes time and stack without end. */
const MAX_HTML_DEPTH = 1_000;

/** The text as it is, cut where headings open a section; a heading belongs to the section that it opens. */
export async function sectionsOfMarkdown(text: string): Promise<Extracted> {
  const [{ unified }, { default: remarkParse }] = await Promise.all([import("unified"), import("remark-parse")]);
  const parser = unified().use(remarkParse);
  const opened: { readonly title: string | null; readonly start: number }[] = [];
  // Front matter is about the file, and its rule is no underline.
  const body = /^---\r?\n[\s\S]*?\n---\r?\n/.exec(text)?.[0].length ?? 0;
  for (const { start, end } of pieces(text, body)) {
    for (const heading of headingsIn(parser.parse(text.slice(start, end)))) {
      opened.push({ title: titleOf(heading), start: start + (heading.position?.start.offset ?? 0) });
    }
  }
  return { text, sections: sectionsFrom(opened, text.length) };
}

/** Cut behind blank lines: a heading never stands on both sides of one. */
function* pieces(text: string, from: number): Generator<{ start: number; end: number }> {
  for (let start = from; start < text.length; ) {
    const blank = text.indexOf("\n\n", start + PIECE_CHARACTERS);
    const end = blank < 0 ? text.length : blank + 2;
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

function sectionsFrom(opened: readonly { title: string | null; start: number }[], length: number): Section[] {
  const untitled = (opened[0]?.start ?? length) > 0 || length === 0 ? [{ title: null, start: 0 }] : [];
  return [...untitled, ...opened].map(({ title, start }, i, all) => ({
    title,
    start,
    end: all[i + 1]?.start ?? length,
  }));
}

/** What a person reads of a page, in the form of Markdown but with no character that the page does not have. */
export async function htmlToText(html: string): Promise<Extracted> {
  const [{ unified }, { default: rehypeParse }, { default: rehypeRemark }, { toMarkdown }] = await Promise.all([
    import("unified"),
    import("rehype-parse"),
    import("rehype-remark"),
    import("mdast-util-to-markdown"),
  ]);
  try {
    const tree = unified().use(rehypeParse).parse(html);
    refuseDeepTree(tree);
    const document = await unified().use(rehypeRemark, { handlers: LEFT_OUT }).run(tree);
    return underHeadings(document.children, (node) => toMarkdown(node, { handlers: PLAIN, bullet: "-" }));
  } catch (cause) {
    if (cause instanceof UnreadableDocument) throw cause;
    const why = cause instanceof RangeError ? "is nested too deeply" : "cannot be read";
    throw new UnreadableDocument(`the HTML ${why}`, { cause });
  }
}

/** Each block in turn, so that it is known where a heading begins. */
function underHeadings(blocks: readonly RootContent[], render: (block: RootContent) => string): Extracted {
  const opened: { title: string | null; start: number }[] = [];
  let text = "";
  for (const block of blocks) {
    if (block.type === "heading") opened.push({ title: titleOf(block), start: text.length });
    text += `${render(block).trimEnd()}\n\n`;
  }
  return { text, sections: sectionsFrom(opened, text.length) };
}

function refuseDeepTree(tree: HtmlTree): void {
  let level: (HtmlTree | Element)[] = [tree];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_HTML_DEPTH) throw new UnreadableDocument("the HTML is nested too deeply");
    level = level.flatMap(({ children }) => [...children].filter(isElement));
  }
}

const isElement = (node: { readonly type: string }): node is Element => node.type === "element";

/** What a browser does not show. */
const HIDDEN = ["head", "script", "style", "noscript", "template", "title"];
const LEFT_OUT = Object.fromEntries(HIDDEN.map((name) => [name, () => undefined]));

const ROW = { before: "", after: "", lineShift: 0, now: { line: 1, column: 1 } };
/** What a picture or a link points at is not text; what is written on it is. Words are never escaped. */
const phrasing: Handle = (node: Link | LinkReference, _, state, info) => state.containerPhrasing(node, info);
const PLAIN: Partial<Handlers> = {
  text: ({ value }: Text) => value,
  link: phrasing,
  linkReference: phrasing,
  image: ({ alt }: Image) => alt ?? "",
  imageReference: ({ alt }: ImageReference) => alt ?? "",
  table: (node: Table, _, state) =>
    node.children
      .map((row) =>
        row.children.map((cell) => state.containerPhrasing(cell, ROW).replace(/\s+/g, " ").trim()).join(" | "),
      )
      .join("\n"),
};
