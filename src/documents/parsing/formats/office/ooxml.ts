/** What the formats of Office Open XML share: parts that name each other, and formulas. */
import { UnreadableDocument } from "../../unreadable.ts";
import { allOf, childOf, nodesOf, parseXml, textIn, type XmlNode } from "./xml.ts";
import { inPackage, openPackage, type Package } from "./zip.ts";

/** A part's relation to another. */
export interface Relation {
  /** The last word of its type: `header`, `comments`. */
  readonly type: string;
  /** The other part's path in the package; of one outside of it, undefined. */
  readonly target: string | undefined;
}

export class OfficePackage {
  readonly files: Package;
  readonly #what: string;

  private constructor(files: Package, what: string) {
    this.files = files;
    this.#what = what;
  }

  /** @throws UnreadableDocument */
  static async open(bytes: Uint8Array, what: string): Promise<OfficePackage> {
    return new OfficePackage(await openPackage(bytes, what), what);
  }

  /** @throws UnreadableDocument where there is none */
  get mainPart(): string {
    const named = [...this.relationsOf("").values()].find(({ type }) => type === "officedocument")?.target;
    if (named === undefined || !this.files.has(named)) throw this.damaged();
    return named;
  }

  /** The root of a part; undefined: there is none. */
  part(path: string | undefined): XmlNode | undefined {
    const bytes = path === undefined ? undefined : this.files.get(path);
    if (bytes === undefined) return undefined;
    try {
      return nodesOf(parseXml(bytes))[0];
    } catch (cause) {
      throw this.damaged(cause);
    }
  }

  /** By id. */
  relationsOf(part: string): Map<string, Relation> {
    const slash = part.lastIndexOf("/") + 1;
    const folder = part.slice(0, slash);
    const root = this.part(`${folder}_rels/${part.slice(slash)}.rels`);
    return new Map(
      nodesOf(root).map(({ attributes: { Id = "", Type = "", Target = "", TargetMode } }) => [
        Id,
        {
          type: Type.slice(Type.lastIndexOf("/") + 1).toLowerCase(),
          target: TargetMode?.toLowerCase() === "external" ? undefined : resolvePath(folder, Target),
        },
      ]),
    );
  }

  /** The first part that this one names in a way. */
  relatedTo(relations: ReadonlyMap<string, Relation>, type: string): XmlNode | undefined {
    return this.part([...relations.values()].find((relation) => relation.type === type)?.target);
  }

  damaged(cause?: unknown): UnreadableDocument {
    return new UnreadableDocument(`the ${this.#what} is damaged and cannot be read`, { cause });
  }
}

function resolvePath(folder: string, target: string): string {
  const path: string[] = [];
  for (const step of inPackage(target.startsWith("/") ? target : folder + target).split("/")) {
    if (step === "..") path.pop();
    else if (step !== "." && step !== "") path.push(step);
  }
  return path.join("/");
}

/** Of a choice between versions of a drawing the first that has words: both are the same to a person. */
export function chosenVersion(node: XmlNode): XmlNode[] {
  const versions = nodesOf(node).filter(({ name }) => name === "Choice" || name === "Fallback");
  return nodesOf(versions.find((version) => textIn(version).trim() !== "") ?? versions[0]);
}

/** The words of a diagram, in the order of its points. */
export function diagramTexts(data: XmlNode | undefined): string[] {
  return nodesOf(childOf(data, "ptLst"))
    .filter(({ attributes }) => !["pres", "parTrans", "sibTrans", "doc"].includes(attributes.type ?? "node"))
    .map((point) => textIn(childOf(point, "t")).trim())
    .filter((text) => text !== "");
}

/** What a chart says: its titles, and the values of each series under their categories. */
export function chartTexts(chart: XmlNode | undefined): string[] {
  const titles = [...allOf(chart, "title")].map((title) => textIn(childOf(title, "tx")).replace(/\s+/g, " ").trim());
  const points = (node: XmlNode | undefined) =>
    [...allOf(node, "pt")].map((point) => textIn(childOf(point, "v")).trim());
  const series = [...allOf(chart, "ser")].map((one) => {
    const categories = points(childOf(one, "cat"));
    const values = points(childOf(one, "val")).map((value, i) => `${categories[i] ? `${categories[i]} ` : ""}${value}`);
    return [points(childOf(one, "tx")).join(" "), values.join(", ")].filter((part) => part !== "").join(": ");
  });
  return [...titles, ...series].filter((text) => text !== "");
}

const BRACKETED = /^([\p{L}\p{N}.,]+|[([{].*[)\]}])$/u;
const group = (text: string) => (BRACKETED.test(text) ? text : `(${text})`);

/** A formula in one line, as people type it: `(a+b)/2`, `x^2`. */
export function formula(node: XmlNode | undefined): string {
  if (node === undefined) return "";
  const of = (name: string) => formula(childOf(node, name));
  const value = (properties: string, name: string) => childOf(childOf(node, properties), name)?.attributes.val;
  switch (node.name) {
    case "t":
      return textIn(node);
    case "f":
      return `${group(of("num"))}/${group(of("den"))}`;
    case "sSup":
      return `${of("e")}^${group(of("sup"))}`;
    case "sSub":
      return `${of("e")}_${group(of("sub"))}`;
    case "sSubSup":
      return `${of("e")}_${group(of("sub"))}^${group(of("sup"))}`;
    case "rad": {
      const degree = of("deg");
      return degree === "" ? `√${group(of("e"))}` : `root(${degree}, ${of("e")})`;
    }
    case "nary": {
      const [below, above] = [of("sub"), of("sup")];
      return `${value("naryPr", "chr") ?? "∫"}${below === "" ? "" : `_${group(below)}`}${above === "" ? "" : `^${group(above)}`} ${of("e")}`;
    }
    case "d": {
      const inside = nodesOf(node)
        .filter(({ name }) => name === "e")
        .map(formula);
      return `${value("dPr", "begChr") ?? "("}${inside.join(value("dPr", "sepChr") ?? "|")}${value("dPr", "endChr") ?? ")"}`;
    }
    case "func":
      return `${of("fName")} ${of("e")}`;
    case "m":
      return `[${nodesOf(node)
        .filter(({ name }) => name === "mr")
        .map((row) => nodesOf(row).map(formula).join(", "))
        .join("; ")}]`;
    default:
      return node.name.endsWith("Pr") ? "" : nodesOf(node).map(formula).join("");
  }
}
