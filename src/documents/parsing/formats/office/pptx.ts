/** PPTX: each slide that is shown is a section, with its notes. */
import { type Extracted, ranges, Warnings } from "../extracted.ts";
import { Flow } from "../flow.ts";
import { chartTexts, chosenVersion, diagramTexts, formula, OfficePackage, type Relation } from "./ooxml.ts";
import { allOf, childOf, nodesOf, textIn, within, type XmlNode } from "./xml.ts";

/** @throws UnreadableDocument */
export async function readPptx(bytes: Uint8Array): Promise<Extracted> {
  const office = await OfficePackage.open(bytes, "PPTX presentation");
  const main = office.mainPart;
  const relations = office.relationsOf(main);
  const presentation = office.part(main);
  if (presentation?.name !== "presentation") throw office.damaged();
  const flow = new Flow();
  const warnings = new Warnings();
  const hidden: number[] = [];
  for (const [i, { attributes }] of nodesOf(childOf(presentation, "sldIdLst")).entries()) {
    const path = relations.get(attributes["r:id"] ?? attributes.id ?? "")?.target;
    const slide = office.part(path);
    if (slide === undefined || path === undefined) continue;
    if (slide.attributes.show === "0") {
      hidden.push(i + 1);
      continue;
    }
    new SlideWriter(office, office.relationsOf(path), flow).write(slide, i + 1);
  }
  if (hidden.length > 0) warnings.add(`hidden slides were left out: ${ranges(hidden)}`);
  return { ...flow.done(), warnings: warnings.list };
}

class SlideWriter {
  readonly #office: OfficePackage;
  readonly #relations: ReadonlyMap<string, Relation>;
  readonly #flow: Flow;

  constructor(office: OfficePackage, relations: ReadonlyMap<string, Relation>, flow: Flow) {
    this.#office = office;
    this.#relations = relations;
    this.#flow = flow;
  }

  write(slide: XmlNode, number: number): void {
    const tree = within(slide, "cSld", "spTree");
    const title = [...allOf(tree, "sp")].find((shape) => /^(ctrTitle|title)$/.test(placeholderOf(shape) ?? ""));
    const words = textIn(childOf(title, "txBody")).replace(/\s+/g, " ").trim();
    this.#flow.openSection(words === "" ? `Slide ${number}` : `Slide ${number}: ${words}`);
    // The title is read first, wherever it lies.
    if (title !== undefined) this.#shape(title);
    for (const shape of nodesOf(tree)) if (shape !== title) this.#shape(shape);
    this.#notes();
    this.#flow.paragraph();
  }

  #shape(node: XmlNode): void {
    const flow = this.#flow;
    if (/^(sldNum|dt|hdr)$/.test(placeholderOf(node) ?? "")) return;
    const { hidden, descr } = findProperties(node);
    if (hidden === "1" || hidden === "true") return;
    if (node.name === "grpSp") for (const shape of nodesOf(node)) this.#shape(shape);
    else if (node.name === "AlternateContent") for (const shape of chosenVersion(node)) this.#shape(shape);
    else if (node.name === "sp" || node.name === "cxnSp") this.#paragraphs(childOf(node, "txBody"));
    else if (node.name === "pic" && descr !== undefined) {
      flow.paragraph();
      flow.text(descr);
      flow.paragraph();
    } else if (node.name === "graphicFrame") this.#frame(node);
  }

  #frame(node: XmlNode): void {
    const flow = this.#flow;
    for (const row of allOf(node, "tr")) {
      flow.openRow();
      for (const cell of nodesOf(row).filter(({ name }) => name === "tc")) {
        flow.openCell();
        this.#paragraphs(childOf(cell, "txBody"));
        flow.closeCell();
      }
      flow.closeRow();
    }
    const part = (id: string | undefined) => this.#office.part(this.#relations.get(id ?? "")?.target);
    const drawn = [
      ...[...allOf(node, "relIds")].flatMap(({ attributes }) => diagramTexts(part(attributes.dm))),
      ...[...allOf(node, "chart")].flatMap(({ attributes }) => chartTexts(part(attributes.id))),
    ];
    for (const text of drawn) {
      flow.line();
      flow.text(text);
      flow.line();
    }
    flow.paragraph();
  }

  #paragraphs(body: XmlNode | undefined): void {
    const flow = this.#flow;
    flow.paragraph();
    for (const paragraph of nodesOf(body).filter(({ name }) => name === "p")) {
      flow.line();
      this.#runs(paragraph);
      flow.line();
    }
    flow.paragraph();
  }

  #runs(parent: XmlNode): void {
    for (const node of nodesOf(parent)) {
      if (node.name === "t") this.#flow.text(textIn(node));
      else if (node.name === "br") this.#flow.line();
      else if (node.name === "tab") this.#flow.space();
      else if (node.name === "oMath" || node.name === "oMathPara") this.#flow.text(` ${formula(node)} `);
      else if (node.name === "AlternateContent") for (const one of chosenVersion(node)) this.#runs(one);
      else if (!node.name.endsWith("Pr")) this.#runs(node);
    }
  }

  #notes(): void {
    const notes = this.#office.relatedTo(this.#relations, "notesslide");
    for (const shape of allOf(within(notes, "cSld", "spTree"), "sp")) {
      if (placeholderOf(shape) !== "body") continue;
      const words = textIn(childOf(shape, "txBody")).trim();
      if (words === "") continue;
      this.#flow.paragraph();
      this.#flow.text("Notes: ");
      for (const [i, paragraph] of nodesOf(childOf(shape, "txBody"))
        .filter(({ name }) => name === "p")
        .entries()) {
        if (i > 0) this.#flow.line();
        this.#runs(paragraph);
      }
      this.#flow.paragraph();
    }
  }
}

/** The drawing's own properties, whatever kind of shape it is. */
const findProperties = (shape: XmlNode): Readonly<Record<string, string>> =>
  nodesOf(nodesOf(shape).find(({ name }) => /^nv\w*Pr$/.test(name))).find(({ name }) => name === "cNvPr")?.attributes ??
  {};

const placeholderOf = (shape: XmlNode): string | undefined => {
  const placeholder = within(
    nodesOf(shape).find(({ name }) => /^nv\w*Pr$/.test(name)),
    "nvPr",
    "ph",
  );
  return placeholder === undefined ? undefined : (placeholder.attributes.type ?? "obj");
};
