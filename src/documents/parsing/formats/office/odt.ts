/** ODT to what a person reads of the document. */
import { UnreadableDocument } from "../../unreadable.ts";
import type { Extracted } from "../extracted.ts";
import { Flow } from "../flow.ts";
import { allOf, childOf, isNode, nodesOf, parseXml, textIn, within, type XmlNode } from "./xml.ts";
import { openPackage, type Package } from "./zip.ts";

const DAMAGED = "the ODT document is damaged and cannot be read";

/** @throws UnreadableDocument */
export async function readOdt(bytes: Uint8Array): Promise<Extracted> {
  const files = await openPackage(bytes, "ODT document");
  const content = rootOf(files, "content.xml");
  const body = within(content, "body", "text");
  if (body === undefined) throw new UnreadableDocument(DAMAGED);
  const styles = rootOf(files, "styles.xml");
  const writer = new OdtWriter(hiddenStyles(content, styles));
  const masters = [...allOf(styles, "master-page")];
  for (const master of masters) writer.around(childOf(master, "header"));
  writer.blocks(body);
  for (const master of masters) writer.around(childOf(master, "footer"));
  return writer.flow.done();
}

function rootOf(files: Package, name: string): XmlNode | undefined {
  const bytes = files.get(name);
  if (bytes === undefined) return undefined;
  try {
    return nodesOf(parseXml(bytes))[0];
  } catch (cause) {
    throw new UnreadableDocument(DAMAGED, { cause });
  }
}

function hiddenStyles(...roots: (XmlNode | undefined)[]): ReadonlySet<string> {
  const hidden = new Set<string>();
  for (const root of roots)
    for (const style of allOf(root, "style"))
      if (childOf(style, "text-properties")?.attributes.display === "none") hidden.add(style.attributes.name ?? "");
  return hidden;
}

/** What is no text of the document: what was taken out, instructions, and what is hidden. */
const LEFT_OUT = new Set(
  "tracked-changes forms sequence-decls variable-decls user-field-decls hidden-text hidden-paragraph page-number page-count change change-start change-end bookmark annotation-end".split(
    " ",
  ),
);

class OdtWriter {
  readonly flow = new Flow();
  readonly #hidden: ReadonlySet<string>;
  readonly #said = new Set<string>();
  #behind: (() => void)[] = [];

  constructor(hidden: ReadonlySet<string>) {
    this.#hidden = hidden;
  }

  /** A header or footer, each text once. */
  around(node: XmlNode | undefined): void {
    const words = textIn(node).replace(/\s+/g, " ").trim();
    if (node === undefined || !/\p{L}/u.test(words) || this.#said.has(words)) return;
    this.#said.add(words);
    this.blocks(node);
  }

  blocks(parent: XmlNode): void {
    for (const node of nodesOf(parent)) this.#block(node);
  }

  #block(node: XmlNode): void {
    const { flow } = this;
    if (LEFT_OUT.has(node.name)) return;
    if (node.name === "h") {
      flow.openHeading();
      this.#inline(node);
      flow.closeHeading();
      this.#sayBehind();
    } else if (node.name === "p") {
      flow.paragraph();
      if (!this.#hidden.has(node.attributes["style-name"] ?? "")) this.#inline(node);
      flow.paragraph();
      this.#sayBehind();
    } else if (node.name === "list") this.#list(node, 0);
    else if (node.name === "table-row") {
      flow.openRow();
      for (const cell of nodesOf(node).filter(({ name }) => name === "table-cell")) {
        flow.openCell();
        this.blocks(cell);
        flow.closeCell();
      }
      flow.closeRow();
    } else {
      if (node.name === "table") flow.paragraph();
      this.blocks(node);
      if (node.name === "table") flow.paragraph();
    }
  }

  #list(list: XmlNode, depth: number): void {
    const { flow } = this;
    if (depth === 0) flow.paragraph();
    for (const item of nodesOf(list)) {
      flow.line();
      if (item.name === "list-item") flow.text("- ");
      for (const block of nodesOf(item)) {
        if (block.name === "list") this.#list(block, depth + 1);
        else if (block.name === "p") {
          if (!this.#hidden.has(block.attributes["style-name"] ?? "")) this.#inline(block);
          flow.line();
        } else this.#block(block);
      }
    }
    if (depth === 0) flow.paragraph();
    this.#sayBehind();
  }

  #inline(parent: XmlNode): void {
    const { flow } = this;
    for (const child of parent.children) {
      if (!isNode(child)) flow.text(child);
      else if (LEFT_OUT.has(child.name)) continue;
      else if (child.name === "s" || child.name === "tab") flow.space();
      else if (child.name === "line-break") flow.line(true);
      else if (child.name === "note") this.#note(child);
      else if (child.name === "annotation") this.#annotation(child);
      else if (child.name === "frame" || child.name === "custom-shape" || child.name === "text-box")
        this.#behind.push(() => this.blocks(child));
      else if (!this.#hidden.has(child.attributes["style-name"] ?? "")) this.#inline(child);
    }
  }

  #note(note: XmlNode): void {
    const label = note.attributes["note-class"] === "endnote" ? "Endnote: " : "Footnote: ";
    this.flow.space();
    this.#later(label, childOf(note, "note-body"));
  }

  #annotation(note: XmlNode): void {
    const [by, on] = [textIn(childOf(note, "creator")), textIn(childOf(note, "date")).slice(0, 10)];
    this.#later(`Comment${by === "" ? "" : ` by ${by}`}${on === "" ? "" : ` on ${on}`}: `, note);
  }

  #later(label: string, body: XmlNode | undefined): void {
    this.#behind.push(() => {
      this.flow.line();
      this.flow.text(label);
      for (const block of nodesOf(body).filter(({ name }) => name !== "creator" && name !== "date")) {
        if (block.name === "p") this.#inline(block);
        else this.#block(block);
        this.flow.line();
      }
      this.flow.paragraph();
    });
  }

  #sayBehind(): void {
    const due = this.#behind;
    this.#behind = [];
    for (const say of due) say();
  }
}
