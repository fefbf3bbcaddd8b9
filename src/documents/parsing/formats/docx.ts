/** DOCX to what a person reads of the document, with what stands around it: headers, notes, comments. */
import dingbatToUnicode from "dingbat-to-unicode";
import { decodeText } from "../encoding.ts";
import { Numbering, Styles } from "./docx-styles.ts";
import { type Extracted, Warnings } from "./extracted.ts";
import { Flow } from "./flow.ts";
import { writeHtml } from "./html.ts";
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
  const shared = { office, flow, styles, numbering, warnings };
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
  const writer = new BodyWriter({ ...shared, relations, notes });
  writer.blocks(body);
  for (const chunk of writer.embedded) await writeEmbedded(office, chunk, flow, warnings, depth);
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

type Shared = Pick<Context, "office" | "flow" | "styles" | "numbering" | "warnings">;

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

/** A file of another kind that the document shows in its place. */
async function writeEmbedded(
  office: OfficePackage,
  { path }: { readonly path: string },
  flow: Flow,
  warnings: Warnings,
  depth: number,
): Promise<void> {
  const bytes = office.files.get(path);
  flow.paragraph();
  if (bytes === undefined || (path.endsWith(".docx") && depth >= MAX_NESTED))
    warnings.add("a document that is embedded in it is not read");
  else if (path.endsWith(".docx")) await writeDocx(bytes, flow, warnings, depth + 1);
  else if (/\.html?$/.test(path)) writeHtml(decodeText(bytes, { isHtml: true }).text, flow);
  else flow.verbatim(decodeText(bytes, {}).text);
  flow.paragraph();
}

interface Context {
  readonly office: OfficePackage;
  readonly relations: ReadonlyMap<string, Relation>;
  readonly flow: Flow;
  readonly styles: Styles;
  readonly numbering: Numbering;
  readonly notes: Partial<Record<"footnote" | "endnote" | "comment", ReadonlyMap<string, XmlNode>>>;
  readonly warnings: Warnings;
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
  /** Files that stand in the document's place of them; they are read when it is. */
  readonly embedded: { readonly path: string }[] = [];
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
      const path = relations.get(node.attributes.id ?? "")?.target;
      if (path !== undefined) this.embedded.push({ path });
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
      for (const [i, paragraph] of nodesOf(note)
        .filter(({ name }) => name === "p")
        .entries()) {
        if (i > 0) flow.line();
        this.#inline(paragraph, false);
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

/** Rows and cells may stand in content controls. */
const unwrapped = (name: string) =>
  function find(parent: XmlNode): XmlNode[] {
    return nodesOf(parent).flatMap((node) =>
      node.name === name ? [node] : ["sdt", "sdtContent", "customXml", "ins"].includes(node.name) ? find(node) : [],
    );
  };
const rowsIn = unwrapped("tr");
const cellsIn = unwrapped("tc");

/** A character of a font of pictures. */
function symbol({ attributes: { font = "", char = "" } }: XmlNode): string {
  const code = Number.parseInt(char, 16);
  if (Number.isNaN(code)) return "";
  const known = dingbatToUnicode.codePoint(font, code) ?? dingbatToUnicode.codePoint(font, code & 0xff);
  if (known !== undefined) return known.string;
  // The private area says nothing without its font.
  return code >= 0xf000 && code <= 0xf0ff ? "" : String.fromCodePoint(code);
}
