/** DOCX to what a person reads of the document, with what stands around it: headers, notes, comments. */
import { decodeText } from "../../encoding.ts";
import { UnreadableDocument } from "../../unreadable.ts";
import { type Extracted, Warnings } from "../extracted.ts";
import { Flow } from "../flow.ts";
import { writeHtml } from "../html.ts";
import { cellsIn, rowsIn, symbol } from "./docx-parts.ts";
import { Numbering, Styles } from "./docx-styles.ts";
import { chartTexts, chosenVersion, diagramTexts, formula, OfficePackage, type Relation } from "./ooxml.ts";
import { allOf, childOf, isNode, nodesOf, textIn, type XmlNode } from "./xml.ts";

const WHAT = "DOCX document";
/** A document that is a part of a document that is a part of one: no further. */
const MAX_NESTED = 3;

/** @throws UnreadableDocument */
export async function readDocx(bytes: Uint8Array): Promise<Extracted> {
  const flow = new Flow();
  const warnings = new Warnings();
  await writeDocx(bytes, flow, warnings, 0);
  return { ...flow.done(), warnings: warnings.list };
}

async function writeDocx(bytes: Uint8Array, flow: Flow, warnings: Warnings, depth: number): Promise<void> {
  const office = await OfficePackage.open(bytes, WHAT);
  const main = office.mainPart;
  const relations = office.relationsOf(main);
  const body = childOf(office.part(main), "body");
  if (body === undefined) throw office.damaged();
  const styles = new Styles(office.relatedTo(relations, "styles"));
  const numbering = new Numbering(office.relatedTo(relations, "numbering"), styles);
  const embedded = await embeddedIn(office, relations, warnings, depth);
  const shared = { office, flow, styles, numbering, warnings, embedded };
  const notes = {
    footnote: byId(office.relatedTo(relations, "footnotes"), "footnote"),
    endnote: byId(office.relatedTo(relations, "endnotes"), "endnote"),
    comment: byId(office.relatedTo(relations, "comments"), "comment"),
  };
  const parts = [...relations.values()].filter(({ target }) => target !== undefined);
  writeAround(
    shared,
    parts.filter(({ type }) => type === "header"),
  );
  new BodyWriter({ ...shared, relations, notes }).blocks(body);
  writeAround(
    shared,
    parts.filter(({ type }) => type === "footer"),
  );
}

const byId = (root: XmlNode | undefined, name: string): ReadonlyMap<string, XmlNode> =>
  new Map(
    nodesOf(root)
      .filter((node) => node.name === name && (node.attributes.type ?? "normal") === "normal")
      .map((node) => [node.attributes.id ?? "", node]),
  );

type Shared = Pick<Context, "office" | "flow" | "styles" | "numbering" | "warnings" | "embedded">;

/** Headers or footers, each text once, however many sections have it; a page's number alone is none. */
function writeAround(shared: Shared, parts: readonly Relation[]): void {
  const said = new Set<string>();
  for (const { target } of parts) {
    const root = shared.office.part(target);
    const words = textIn(root).replace(/\s+/g, " ").trim();
    if (root === undefined || !/\p{L}/u.test(words) || said.has(words)) continue;
    said.add(words);
    const relations = shared.office.relationsOf(target ?? "");
    shared.flow.paragraph();
    new BodyWriter({ ...shared, relations, notes: {} }).blocks(root);
    shared.flow.paragraph();
  }
}

/** Documents that the document shows in their place, which take time to unpack. */
async function embeddedIn(
  office: OfficePackage,
  relations: ReadonlyMap<string, Relation>,
  warnings: Warnings,
  depth: number,
): Promise<ReadonlyMap<string, string>> {
  const texts = new Map<string, string>();
  for (const { type, target: path = "" } of relations.values()) {
    const bytes = office.files.get(path);
    if (type !== "afchunk" || !path.endsWith(".docx") || bytes === undefined || depth >= MAX_NESTED) continue;
    const flow = new Flow();
    try {
      await writeDocx(bytes, flow, warnings, depth + 1);
      texts.set(path, flow.done().text);
    } catch (error) {
      // Said where it stands; what is around it is read.
      if (!(error instanceof UnreadableDocument)) throw error;
    }
  }
  return texts;
}

interface Context {
  readonly office: OfficePackage;
  readonly relations: ReadonlyMap<string, Relation>;
  readonly flow: Flow;
  readonly styles: Styles;
  readonly numbering: Numbering;
  readonly notes: Partial<Record<"footnote" | "endnote" | "comment", ReadonlyMap<string, XmlNode>>>;
  readonly warnings: Warnings;
  /** The texts of the documents in the package, by path. */
  readonly embedded: ReadonlyMap<string, string>;
}

/** What is not in the text: it was taken out, or is an instruction to the program. */
const LEFT_OUT = new Set([
  "del",
  "moveFrom",
  "delText",
  "instrText",
  "delInstrText",
  "pPr",
  "sectPr",
  "tblPr",
  "tblGrid",
  "trPr",
  "tcPr",
  "sdtPr",
  "sdtEndPr",
  "rubyPr",
  "rt",
]);

/** Writes the blocks of one part. */
class BodyWriter {
  readonly #context: Context;
  /** What a paragraph names, to be said behind it. */
  #behind: (() => void)[] = [];

  constructor(context: Context) {
    this.#context = context;
  }

  blocks(parent: XmlNode): void {
    for (const node of nodesOf(parent)) this.#block(node);
  }

  #block(node: XmlNode): void {
    const { flow, office, relations } = this.#context;
    if (LEFT_OUT.has(node.name)) return;
    if (node.name === "p") this.#paragraph(node);
    else if (node.name === "tbl") this.#table(node);
    else if (node.name === "altChunk") {
      this.#embedded(relations.get(node.attributes.id ?? "")?.target);
    } else if (node.name === "oMathPara" || node.name === "oMath") {
      flow.line();
      flow.text(formula(node));
      flow.line();
    } else if (node.name === "AlternateContent") for (const child of chosenVersion(node)) this.#block(child);
    else if (node.name === "relIds" || node.name === "chart") {
      const part = office.part(relations.get(node.attributes.dm ?? node.attributes.id ?? "")?.target);
      for (const text of node.name === "chart" ? chartTexts(part) : diagramTexts(part)) {
        flow.line();
        flow.text(text);
        flow.line();
      }
    } else this.blocks(node);
  }

  /** A file of another kind that the document shows in its place. */
  #embedded(path: string | undefined): void {
    const { flow, office, warnings, embedded } = this.#context;
    const bytes = office.files.get(path ?? "");
    const text = embedded.get(path ?? "");
    flow.paragraph();
    if (text !== undefined) flow.verbatim(text);
    else if (bytes === undefined || path === undefined || path.endsWith(".docx"))
      warnings.add("a document that is embedded in it is not read");
    else if (/\.html?$/.test(path)) writeHtml(decodeText(bytes, { isHtml: true }).text, flow);
    else flow.verbatim(decodeText(bytes, {}).text);
    flow.paragraph();
  }

  #paragraph(node: XmlNode): void {
    const { flow, styles, numbering } = this.#context;
    const properties = childOf(node, "pPr");
    const style = childOf(properties, "pStyle")?.attributes.val;
    const level = styles.headingOf(style, properties);
    const mark = numbering.markOf(properties, style);
    if (level !== undefined) flow.openHeading();
    else if (mark === undefined) flow.paragraph();
    else flow.line();
    if (mark !== undefined && this.#hasWords(node)) flow.text(`${mark} `);
    this.#inline(node, styles.isHidden(style));
    if (level !== undefined) flow.closeHeading();
    else if (mark === undefined) flow.paragraph();
    else flow.line();
    for (const say of this.#behind.splice(0)) say();
  }

  readonly #hasWords = (node: XmlNode) => /\S/.test([...allOf(node, "t")].map(textIn).join(""));

  #inline(parent: XmlNode, isHidden: boolean): void {
    for (const child of parent.children) if (isNode(child)) this.#run(child, isHidden);
  }

  #run(node: XmlNode, isHidden: boolean): void {
    const { flow } = this.#context;
    if (LEFT_OUT.has(node.name)) return;
    switch (node.name) {
      case "r":
        this.#inline(node, isHidden || this.#isHiddenRun(node));
        return;
      case "t":
        if (!isHidden) flow.text(textIn(node));
        return;
      case "tab":
      case "ptab":
        flow.space();
        return;
      case "br":
      case "cr":
        flow.line(true);
        return;
      case "noBreakHyphen":
        flow.text("-");
        return;
      case "sym":
        if (!isHidden) flow.text(symbol(node));
        return;
      case "oMath":
      case "oMathPara":
        flow.space();
        flow.text(formula(node));
        flow.space();
        return;
      case "footnoteReference":
      case "endnoteReference":
      case "commentReference":
        this.#note(node);
        return;
      case "ffData":
        this.#formField(node);
        return;
      case "vertAlign":
        if (/^(super|sub)script$/.test(node.attributes.val ?? "")) flow.space();
        return;
      case "txbxContent":
        // A box of its own is read behind the paragraph that it hangs on.
        this.#behind.push(() => this.blocks(node));
        return;
      case "AlternateContent":
        for (const child of chosenVersion(node)) this.#run(child, isHidden);
        return;
      case "docPr":
        flow.text(node.attributes.descr ?? "");
        return;
      case "relIds":
      case "chart":
        this.#behind.push(() => this.#block(node));
        return;
      default:
        this.#inline(node, isHidden);
    }
  }

  #isHiddenRun(run: XmlNode): boolean {
    const properties = childOf(run, "rPr");
    const vanish = childOf(properties, "vanish") ?? childOf(properties, "specVanish");
    if (vanish !== undefined) return !/^(0|false|off)$/.test(vanish.attributes.val ?? "");
    return this.#context.styles.isHidden(childOf(properties, "rStyle")?.attributes.val);
  }

  #note(node: XmlNode): void {
    const kind = node.name.replace("Reference", "") as "footnote" | "endnote" | "comment";
    const note = this.#context.notes[kind]?.get(node.attributes.id ?? "");
    if (note === undefined) return;
    const { flow } = this.#context;
    const { author, date } = note.attributes;
    const day = date?.slice(0, 10);
    const label =
      kind === "comment"
        ? `Comment${author ? ` by ${author}` : ""}${day ? ` on ${day}` : ""}: `
        : `${kind === "footnote" ? "Footnote" : "Endnote"}: `;
    if (kind !== "comment") flow.space();
    this.#behind.push(() => {
      flow.line();
      flow.text(label);
      for (const block of nodesOf(note)) {
        if (block.name === "p") this.#inline(block, false);
        else this.#block(block);
        flow.line();
      }
      flow.paragraph();
      // Notes name no notes of their own.
      this.#behind.length = 0;
    });
  }

  /** A field of a form as it was before content controls; what is typed into others is text. */
  #formField(node: XmlNode): void {
    const box = childOf(node, "checkBox");
    if (box === undefined) return;
    const state = childOf(box, "checked") ?? childOf(box, "default");
    const isOn = state !== undefined && !/^(0|false|off)$/.test(state.attributes.val ?? "");
    this.#context.flow.text(isOn ? "☒ " : "☐ ");
  }

  #table(table: XmlNode): void {
    const { flow } = this.#context;
    flow.paragraph();
    for (const row of rowsIn(table)) {
      if (childOf(childOf(row, "trPr"), "del") !== undefined) continue;
      flow.openRow();
      for (const cell of cellsIn(row)) {
        flow.openCell();
        this.blocks(cell);
        flow.closeCell();
      }
      flow.closeRow();
    }
    flow.paragraph();
  }
}
