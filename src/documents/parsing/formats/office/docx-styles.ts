/** What styles and lists of a DOCX document mean for its text. */
import { childOf, nodesOf, within, type XmlNode } from "./xml.ts";

interface Style {
  readonly basedOn: string | undefined;
  readonly heading: number | undefined;
  readonly isHidden: boolean | undefined;
  readonly numbering: XmlNode | undefined;
}

const isOn = (node: XmlNode | undefined) =>
  node === undefined ? undefined : !/^(0|false|off)$/.test(node.attributes.val ?? "");

export class Styles {
  readonly #styles: ReadonlyMap<string, Style>;

  constructor(root: XmlNode | undefined) {
    this.#styles = new Map(
      nodesOf(root)
        .filter(({ name }) => name === "style")
        .map((style) => {
          const name = childOf(style, "name")?.attributes.val ?? "";
          const level = /^heading (\d)$/i.exec(name)?.[1] ?? (/^title$/i.test(name) ? "1" : undefined);
          return [
            style.attributes.styleId ?? "",
            {
              basedOn: childOf(style, "basedOn")?.attributes.val,
              heading: level === undefined ? outlineOf(childOf(style, "pPr")) : Number(level),
              isHidden: isOn(within(style, "rPr", "vanish")),
              numbering: within(style, "pPr", "numPr"),
            },
          ];
        }),
    );
  }

  /** Of a paragraph that is a heading its level. */
  headingOf(style: string | undefined, properties: XmlNode | undefined): number | undefined {
    return outlineOf(properties) ?? this.#inherited(style, "heading");
  }

  isHidden(style: string | undefined): boolean {
    return this.#inherited(style, "isHidden") ?? false;
  }

  numberingOf(style: string | undefined): XmlNode | undefined {
    return this.#inherited(style, "numbering");
  }

  #inherited<K extends Exclude<keyof Style, "basedOn">>(id: string | undefined, what: K): Style[K] | undefined {
    let style = this.#styles.get(id ?? "");
    // Styles that are based on each other in a circle end too.
    for (let steps = 0; style !== undefined && steps < 20; steps++) {
      if (style[what] !== undefined) return style[what];
      style = this.#styles.get(style.basedOn ?? "");
    }
    return undefined;
  }
}

/** Nine is the level of text. */
function outlineOf(properties: XmlNode | undefined): number | undefined {
  const level = Number(childOf(properties, "outlineLvl")?.attributes.val ?? "9");
  return level >= 0 && level < 9 ? level + 1 : undefined;
}

interface Level {
  readonly format: string;
  readonly text: string;
  readonly start: number;
}

/** The marks in front of list items, counted as the document counts them. */
export class Numbering {
  readonly #styles: Styles;
  /** Of each list its levels, and which lists count together. */
  readonly #lists: ReadonlyMap<string, { readonly counter: string; readonly levels: readonly Level[] }>;
  readonly #counts = new Map<string, number[]>();

  constructor(root: XmlNode | undefined, styles: Styles) {
    this.#styles = styles;
    const nodes = nodesOf(root);
    const patterns = new Map(
      nodes
        .filter(({ name }) => name === "abstractNum")
        .map((pattern) => [pattern.attributes.abstractNumId ?? "", levelsOf(pattern)]),
    );
    this.#lists = new Map(
      nodes
        .filter(({ name }) => name === "num")
        .map((list) => {
          const pattern = childOf(list, "abstractNumId")?.attributes.val ?? "";
          const restarts = childOf(list, "lvlOverride") !== undefined;
          const id = list.attributes.numId ?? "";
          return [id, { counter: restarts ? `list ${id}` : pattern, levels: patterns.get(pattern) ?? [] }];
        }),
    );
  }

  /** The mark of a paragraph; undefined: it is no list item. */
  markOf(properties: XmlNode | undefined, style: string | undefined): string | undefined {
    const own = childOf(properties, "numPr") ?? this.#styles.numberingOf(style);
    const list = this.#lists.get(childOf(own, "numId")?.attributes.val ?? "");
    if (list === undefined) return undefined;
    const depth = Math.min(8, Math.max(0, Number(childOf(own, "ilvl")?.attributes.val ?? "0") || 0));
    const level = list.levels[depth];
    if (level === undefined || level.format === "none") return undefined;
    const counts = this.#counts.get(list.counter) ?? [];
    this.#counts.set(list.counter, counts);
    counts[depth] = (counts[depth] ?? level.start - 1) + 1;
    counts.length = depth + 1;
    if (level.format === "bullet") return "-";
    return level.text.replace(/%(\d)/g, (_, digit: string) => {
      const at = Number(digit) - 1;
      const { format = "decimal", start = 1 } = list.levels[at] ?? {};
      return numeral(counts[at] ?? start, format);
    });
  }
}

function levelsOf(pattern: XmlNode): Level[] {
  const levels: Level[] = [];
  for (const level of nodesOf(pattern).filter(({ name }) => name === "lvl")) {
    levels[Number(level.attributes.ilvl ?? "0")] = {
      format: childOf(level, "numFmt")?.attributes.val ?? "decimal",
      text: childOf(level, "lvlText")?.attributes.val ?? "",
      start: Number(childOf(level, "start")?.attributes.val ?? "1"),
    };
  }
  return levels;
}

const ROMAN = [
  [1000, "m"],
  [900, "cm"],
  [500, "d"],
  [400, "cd"],
  [100, "c"],
  [90, "xc"],
  [50, "l"],
  [40, "xl"],
  [10, "x"],
  [9, "ix"],
  [5, "v"],
  [4, "iv"],
  [1, "i"],
] as const;

function numeral(n: number, format: string): string {
  if (/roman/i.test(format) && n > 0 && n < 4_000) {
    let [rest, text] = [n, ""];
    for (const [value, letters] of ROMAN) for (; rest >= value; rest -= value) text += letters;
    return format === "upperRoman" ? text.toUpperCase() : text;
  }
  if (/letter/i.test(format) && n > 0) {
    const letter = String.fromCharCode(97 + ((n - 1) % 26)).repeat(Math.min(20, Math.ceil(n / 26)));
    return format === "upperLetter" ? letter.toUpperCase() : letter;
  }
  return String(n);
}
