import type { Extracted, Section } from "./extracted.ts";

const MAX_TITLE_CHARACTERS = 300;
/** Between two cells of a row; and, as long, between two that are no longer one row. */
const CELL = " | ";
const APART = "\n\n\n";

interface Cell {
  /** The part that stands before it; undefined: it is the row's first. */
  separator: number | undefined;
  start: number;
}
interface Row {
  readonly cells: Cell[];
  hadBlocks: boolean;
}

/**
 * Writes text down as a person reads it: words with single spaces between, lines, paragraphs with a blank line
 * between, rows of a table with their cells apart. Headings open sections.
 */
export class Flow {
  readonly #parts: string[] = [];
  readonly #opened: { title: string | null; start: number }[] = [];
  readonly #rows: Row[] = [];
  #length = 0;
  /** New lines that are due before the next word. */
  #due = 0;
  #space = false;
  /** Whether the line has a word. */
  #hasWord = false;
  /** Whether a cell has begun and has no word yet: no line ends in it. */
  #isFresh = false;
  /** A heading that is open, with where it begins once it has a word. */
  #heading: { start?: number; part?: number } | undefined;
  /** Titles of sections that begin with the next word. */
  #pending: string[] = [];

  /** Words of a line; white space between them is one space. */
  text(words: string): void {
    if (words === "") return;
    const startsApart = /^[ \t\r\n\f\u200b]/.test(words);
    if (startsApart) this.#space = true;
    const own = words.split(/[ \t\r\n\f\u200b]+/).filter((word) => word !== "");
    if (own.length === 0) return;
    this.#write(own.join(" "));
    this.#space = /[ \t\r\n\f\u200b]$/.test(words);
  }

  /** Text with its own lines and spaces. */
  verbatim(text: string): void {
    const lines = text.replace(/\r\n?/g, "\n").split("\n");
    for (const [i, line] of lines.entries()) {
      if (i > 0) this.line(true);
      if (line !== "") this.#write(line, false);
    }
  }

  /** Keeps the next word apart from the one before. */
  space(): void {
    this.#space = true;
  }

  /** @param also where the line is empty, too */
  line(also = false): void {
    if (this.#isFresh) return;
    if (this.#hasWord) this.#due = Math.max(this.#due, 1);
    else if (also && this.#length > 0) this.#due = Math.min(this.#due + 1, 2);
    this.#hasWord = false;
    this.#space = false;
  }

  paragraph(): void {
    this.line();
    if (this.#length > 0 && !this.#isFresh) this.#due = 2;
  }

  openHeading(): void {
    this.paragraph();
    this.#heading = {};
  }

  closeHeading(): void {
    const heading = this.#heading;
    this.#heading = undefined;
    if (heading?.start === undefined) return;
    const title = this.#parts.slice(heading.part).join("").replace(/\s+/g, " ").trim();
    this.#opened.push({ title: title.slice(0, MAX_TITLE_CHARACTERS).toWellFormed(), start: heading.start });
    this.paragraph();
  }

  /** A section whose title is not in the text. */
  openSection(title: string): void {
    this.paragraph();
    this.#pending.push(title.slice(0, MAX_TITLE_CHARACTERS).toWellFormed());
  }

  openRow(): void {
    this.line();
    if (this.#due > 0 && this.#length > 0) this.#push("\n".repeat(this.#due));
    this.#due = 0;
    this.#rows.push({ cells: [], hadBlocks: false });
  }

  openCell(): void {
    const row = this.#rows.at(-1);
    if (row === undefined) return;
    this.#isFresh = true;
    if (row.cells.length === 0) {
      row.cells.push({ separator: undefined, start: this.#parts.length });
      return;
    }
    // It may turn out to be no cell of one line: then what stands between is made a break of the same length.
    this.#due = 0;
    this.#space = false;
    this.#push(row.hadBlocks ? APART : CELL);
    row.cells.push({ separator: this.#parts.length - 1, start: this.#parts.length });
    row.hadBlocks = false;
    this.#hasWord = false;
  }

  closeCell(): void {
    const row = this.#rows.at(-1);
    const cell = row?.cells.at(-1);
    if (row === undefined || cell === undefined) return;
    this.#due = 0;
    this.#space = false;
    this.#isFresh = false;
    const hasBlocks = this.#parts.slice(cell.start).some((part) => part.includes("\n"));
    if (!hasBlocks) return;
    row.hadBlocks = true;
    if (cell.separator !== undefined) this.#parts[cell.separator] = APART;
  }

  closeRow(): void {
    const row = this.#rows.pop();
    this.#hasWord = true;
    this.line();
    if (row?.hadBlocks) this.paragraph();
  }

  /** What there is, of which this flow is of no more use. */
  done(): Extracted {
    const text = this.#parts.join("");
    return { text, sections: sectionsFrom(this.#opened, text.length) };
  }

  /** Of the text so far. */
  get length(): number {
    return this.#length;
  }

  get isEmpty(): boolean {
    return this.#length === 0;
  }

  #write(words: string, mayJoin = true): void {
    if (this.#due > 0 && this.#length > 0) this.#push("\n".repeat(this.#due));
    else if (this.#space && this.#hasWord && mayJoin) this.#push(" ");
    this.#due = 0;
    this.#space = false;
    this.#hasWord = true;
    this.#isFresh = false;
    for (const title of this.#pending.splice(0)) this.#opened.push({ title, start: this.#length });
    if (this.#heading !== undefined && this.#heading.start === undefined)
      this.#heading = { start: this.#length, part: this.#parts.length };
    this.#push(words);
  }

  #push(part: string): void {
    this.#parts.push(part);
    this.#length += part.length;
  }
}

/** Sections from where each begins; what stands before the first has no title. */
export function sectionsFrom(
  opened: readonly { readonly title: string | null; readonly start: number }[],
  length: number,
): Section[] {
  const inside = opened.filter(({ start }) => start < length);
  const untitled = (inside[0]?.start ?? length) > 0 || length === 0 ? [{ title: null, start: 0 }] : [];
  return [...untitled, ...inside].map(({ title, start }, i, all) => ({
    title,
    start,
    end: all[i + 1]?.start ?? length,
  }));
}
