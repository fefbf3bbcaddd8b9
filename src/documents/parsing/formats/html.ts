/** HTML to what a person reads of the page. */
import { type DefaultTreeAdapterTypes, defaultTreeAdapter, parse } from "parse5";
import { UnreadableDocument } from "../unreadable.ts";
import type { Extracted } from "./extracted.ts";
import { Flow } from "./flow.ts";

type Node = DefaultTreeAdapterTypes.ChildNode | DefaultTreeAdapterTypes.Document;
type Element = DefaultTreeAdapterTypes.Element;

/** The parser's own stack of open elements makes it slow in depth; no page that people read is as deep. */
const MAX_DEPTH = 5_000;

/** What a browser does not show. */
const UNSEEN = new Set(
  "head script style template noscript title meta link base datalist noembed noframes param rp source track area object iframe audio video canvas".split(
    " ",
  ),
);
/** What begins and ends with a blank line, and what with a line. */
const PARAGRAPHS = new Set(
  "p ul ol dl table blockquote pre figure section article main aside header footer nav form fieldset details hr address hgroup menu search".split(
    " ",
  ),
);
const LINES = new Set(
  "div li dt dd tr caption figcaption summary legend option optgroup center thead tbody tfoot body html dialog textarea select".split(
    " ",
  ),
);
const HEADING = /^h[1-6]$/;

/** @throws UnreadableDocument where it is nested too deeply */
export function readHtml(html: string): Extracted {
  const flow = new Flow();
  writeHtml(html, flow);
  return flow.done();
}

/** Writes a page, or a part of one, where the flow is. */
export function writeHtml(html: string, flow: Flow): void {
  walk(parse(html, { treeAdapter: boundedAdapter(), scriptingEnabled: false }), flow);
}

/** A tree that refuses to become deeper than any page is, as it is built. */
function boundedAdapter(): typeof defaultTreeAdapter {
  const depths = new WeakMap<object, number>();
  return {
    ...defaultTreeAdapter,
    appendChild: (parent, child) => {
      const depth = (depths.get(parent) ?? 0) + 1;
      if (depth > MAX_DEPTH) throw new UnreadableDocument("the HTML is nested too deeply");
      depths.set(child, depth);
      defaultTreeAdapter.appendChild(parent, child);
    },
  };
}

/** Without recursion: depth is the page's, not this program's. */
function walk(root: Node, flow: Flow): void {
  const open: (Node | (() => void))[] = [root];
  const state: State = { flow, pre: 0, lists: [], open };
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (typeof next === "function") next();
    else if (next.nodeName === "#text") writeText((next as DefaultTreeAdapterTypes.TextNode).value, state);
    else if ("tagName" in next) enter(next, state);
    else if ("childNodes" in next) for (const child of [...next.childNodes].reverse()) open.push(child);
  }
}

interface State {
  readonly flow: Flow;
  /** How many elements around keep their white space. */
  pre: number;
  /** The lists around: the number of the next item, or undefined for a bullet. */
  readonly lists: (number | undefined)[];
  /** What is still to be done, the next last. */
  readonly open: (Node | (() => void))[];
}

function writeText(value: string, { flow, pre }: State): void {
  const text = value.replaceAll("\u00ad", "");
  if (pre > 0) flow.verbatim(text);
  else flow.text(text);
}

const attribute = ({ attrs }: Element, name: string) => attrs.find((one) => one.name === name)?.value;

function isUnseen(element: Element): boolean {
  if (UNSEEN.has(element.tagName)) return true;
  for (const { name, value } of element.attrs) {
    if (name === "hidden" && value.toLowerCase() !== "until-found") return true;
    if (name === "aria-hidden" && value.trim().toLowerCase() === "true") return true;
    if (name === "style" && /(^|;)\s*(display\s*:\s*none|visibility\s*:\s*(hidden|collapse))/i.test(value)) return true;
  }
  return element.tagName === "dialog" && attribute(element, "open") === undefined;
}

function enter(element: Element, state: State): void {
  if (isUnseen(element)) return;
  const { flow, open } = state;
  const { tagName } = element;
  const leave = open.length;
  const after = (work: () => void) => open.splice(leave, 0, work);
  if (HEADING.test(tagName)) {
    flow.openHeading();
    after(() => flow.closeHeading());
  } else if (tagName === "br") flow.line(true);
  else if (tagName === "hr") flow.paragraph();
  else if (tagName === "img") flow.text(attribute(element, "alt") ?? "");
  else if (tagName === "input") writeInput(element, flow);
  else if (tagName === "tr") {
    flow.openRow();
    after(() => flow.closeRow());
  } else if (tagName === "td" || tagName === "th") {
    flow.openCell();
    after(() => flow.closeCell());
  } else if (tagName === "li") {
    flow.line();
    writeMark(element, state);
    after(() => flow.line());
  } else if (PARAGRAPHS.has(tagName)) {
    // A list inside an item belongs to it.
    const isInner = (tagName === "ul" || tagName === "ol") && state.lists.length > 0;
    const end = isInner || tagName === "fieldset" ? () => flow.line() : () => flow.paragraph();
    end();
    after(end);
  } else if (LINES.has(tagName)) {
    flow.line();
    after(() => flow.line());
  } else if (tagName === "button" || tagName === "label") {
    flow.space();
    after(() => flow.space());
  } else if (tagName === "sup" || tagName === "sub" || tagName === "rt") flow.space();
  else if (tagName === "q") {
    flow.text("“");
    after(() => flow.text("”"));
  }
  if (tagName === "ul" || tagName === "ol" || tagName === "menu") {
    state.lists.push(tagName === "ol" ? startOf(element) : undefined);
    after(() => state.lists.pop());
  }
  if (tagName === "pre" || tagName === "textarea" || tagName === "listing" || tagName === "xmp") {
    state.pre++;
    after(() => state.pre--);
  }
  // Of a select a person sees what is chosen.
  const children = tagName === "select" ? chosenIn(element) : element.childNodes;
  for (let i = children.length - 1; i >= 0; i--) open.push(children[i] as Node);
}

function startOf(list: Element): number {
  const start = Number.parseInt(attribute(list, "start") ?? "", 10);
  return Number.isNaN(start) ? 1 : start;
}

function writeMark(element: Element, { flow, lists }: State): void {
  const number = lists.at(-1);
  if (number === undefined) {
    flow.text("- ");
    return;
  }
  const own = Number.parseInt(attribute(element, "value") ?? "", 10);
  const mark = Number.isNaN(own) ? number : own;
  lists[lists.length - 1] = mark + 1;
  flow.text(`${mark}. `);
}

function writeInput(element: Element, flow: Flow): void {
  const type = (attribute(element, "type") ?? "text").toLowerCase();
  if (type === "hidden" || type === "password" || type === "file" || type === "image") return;
  const isBox = type === "checkbox" || type === "radio";
  const shown = isBox
    ? attribute(element, "checked") === undefined
      ? "☐"
      : "☑"
    : (attribute(element, "value") ?? attribute(element, "placeholder") ?? "");
  flow.space();
  flow.text(shown);
  flow.space();
}

function chosenIn(select: Element): Element[] {
  const options: Element[] = [];
  const open: Element[] = [select];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (next.tagName === "option") options.push(next);
    else for (const child of [...next.childNodes].reverse()) if ("tagName" in child) open.push(child);
  }
  const chosen = options.filter((option) => attribute(option, "selected") !== undefined);
  return chosen.length > 0 ? chosen : options.slice(0, attribute(select, "multiple") === undefined ? 1 : 0);
}
