/** Words where a PDF draws them, to lines as a person reads them. */

/** A run of text in one place, in the page's units. */
export interface Piece {
  readonly text: string;
  /** Where its baseline begins. */
  readonly x: number;
  readonly y: number;
  /** Of the writing, in degrees. */
  readonly angle: number;
  readonly size: number;
  readonly width: number;
  readonly isRightToLeft: boolean;
  readonly isVertical: boolean;
  readonly endsLine: boolean;
}

/** Seen along its writing: from where to where, and how high the line is. */
interface Placed {
  readonly piece: Piece;
  readonly from: number;
  readonly to: number;
  readonly height: number;
  /** White space is drawn in front of it. */
  readonly isApart: boolean;
}

export interface Line {
  readonly text: string;
  readonly from: number;
  readonly to: number;
  readonly height: number;
  readonly size: number;
  readonly angle: number;
}

/** Shares of the size of the letters. */
const SAME_LINE = 0.35;
const RAISED = 0.75;
const SPACE = 0.17;
const PARAGRAPH = 1.75;
/** A neighbour of letters is a column of a table where its lines are as short as this. */
const SHORT_LINE = 28;
const ALIGNED_SHARE = 0.7;

/** Lines in the order in which they are read. */
export function linesOf(pieces: readonly Piece[]): Line[] {
  const lines: Line[] = [];
  let open: Placed[] = [];
  let isApart = false;
  const close = () => {
    const line = lineOf(open);
    if (line !== undefined) lines.push(line);
    open = [];
  };
  for (const piece of pieces) {
    if (piece.text.trim() === "") {
      if (piece.text !== "") isApart = true;
      continue;
    }
    const placed = place(piece, isApart);
    if (open.length > 0 && !continues(open, placed)) close();
    open.push(placed);
    isApart = /\s$/.test(piece.text);
  }
  close();
  return inRows(lines);
}

function place(piece: Piece, isApart: boolean): Placed {
  const turn = (piece.angle * Math.PI) / 180;
  const [cos, sin] = [Math.cos(turn), Math.sin(turn)];
  // A vertical line runs down, and the next one is to its left.
  const [along, height] = piece.isVertical
    ? [-piece.y, piece.x]
    : [piece.x * cos + piece.y * sin, piece.y * cos - piece.x * sin];
  return { piece, from: along, to: along + piece.width, height, isApart: isApart || /^\s/.test(piece.text) };
}

function continues(line: readonly Placed[], next: Placed): boolean {
  const main = mainOf(line);
  if (main.piece.angle !== next.piece.angle || main.piece.isVertical !== next.piece.isVertical) return false;
  const apart = Math.abs(main.height - next.height);
  const size = Math.max(main.piece.size, next.piece.size);
  if (apart <= SAME_LINE * size) return true;
  // Raised or lowered beside its word.
  const isSmall = next.piece.size < RAISED * main.piece.size || main.piece.size < RAISED * next.piece.size;
  const last = line.at(-1) as Placed;
  const gap = next.from - last.to;
  return isSmall && apart <= RAISED * size && gap > -size && gap < size;
}

/** The largest of a line says where it is. */
const mainOf = (line: readonly Placed[]): Placed =>
  line.reduce((main, one) => (one.piece.size > main.piece.size ? one : main));

function lineOf(drawn: readonly Placed[]): Line | undefined {
  if (drawn.length === 0) return undefined;
  const main = mainOf(drawn);
  const isRightToLeft = drawn.filter(({ piece }) => piece.isRightToLeft).length * 2 > drawn.length;
  const ordered = [...drawn].sort((a, b) => (isRightToLeft ? b.from - a.from : a.from - b.from));
  let text = "";
  let last: Placed | undefined;
  for (const next of ordered) {
    if (last !== undefined && isDrawnTwice(last, next)) continue;
    if (last !== undefined && areApart(last, next, isRightToLeft)) text += " ";
    text += next.piece.text.trim();
    last = next;
  }
  return {
    text,
    ...extent(drawn),
    height: main.height,
    size: main.piece.size,
    angle: main.piece.angle + (main.piece.isVertical ? 1_000 : 0),
  };
}

/** Bold is often the same word a hair beside itself. */
const isDrawnTwice = (a: Placed, b: Placed) =>
  a.piece.text === b.piece.text && Math.abs(a.from - b.from) < 0.25 * a.piece.size && Math.abs(a.height - b.height) < 1;

function areApart(a: Placed, b: Placed, isRightToLeft: boolean): boolean {
  if (b.isApart || /\s$/.test(a.piece.text)) return true;
  const gap = isRightToLeft ? a.from - b.to : b.from - a.to;
  const size = Math.min(a.piece.size, b.piece.size);
  if (gap > SPACE * size || gap < -0.5 * a.piece.width - size) return true;
  // A power is no digit of its number, and a note's mark none of its word.
  const isRaised = Math.abs(a.height - b.height) > 0.12 * Math.max(a.piece.size, b.piece.size);
  return isRaised && /[\p{L}\p{N}]$/u.test(a.piece.text) && /^[\p{L}\p{N}]/u.test(b.piece.text);
}

/** Columns of a table that were drawn one after the other are read by their rows; columns of a page are not. */
function inRows(lines: readonly Line[]): Line[] {
  const blocks: Line[][] = [];
  for (const line of lines) {
    const last = blocks.at(-1)?.at(-1);
    const isNext =
      last !== undefined &&
      last.angle === line.angle &&
      line.height < last.height &&
      line.from < last.to + 1 &&
      line.to > last.from - 1;
    if (isNext) blocks.at(-1)?.push(line);
    else blocks.push([line]);
  }
  const read: Line[] = [];
  for (let i = 0; i < blocks.length; i++) {
    const table = [blocks[i] as Line[]];
    while (i + 1 < blocks.length && table.every((column) => areColumns(column, blocks[i + 1] as Line[])))
      table.push(blocks[++i] as Line[]);
    for (const line of table.length === 1 ? (table[0] as Line[]) : rowsOf(table)) read.push(line);
  }
  return read;
}

function areColumns(a: readonly Line[], b: readonly Line[]): boolean {
  if (a.length < 2 || b.length < 2) return false;
  const isBeside = extent(a).to <= extent(b).from || extent(b).to <= extent(a).from;
  const areShort = [a, b].every((column) => median(column.map(({ text }) => text.length)) <= SHORT_LINE);
  if (!isBeside || !areShort) return false;
  const [fewer, more] = a.length < b.length ? [a, b] : [b, a];
  const aligned = fewer.filter((line) => more.some((other) => areAligned(line, other)));
  return aligned.length >= ALIGNED_SHARE * fewer.length;
}

const extent = (runs: readonly { readonly from: number; readonly to: number }[]) => ({
  from: runs.reduce((least, { from }) => Math.min(least, from), Number.POSITIVE_INFINITY),
  to: runs.reduce((most, { to }) => Math.max(most, to), Number.NEGATIVE_INFINITY),
});
const median = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
const areAligned = (a: Line, b: Line) =>
  a.angle === b.angle && Math.abs(a.height - b.height) <= SAME_LINE * Math.max(a.size, b.size);

function rowsOf(columns: readonly (readonly Line[])[]): Line[] {
  const rows: Line[][] = [];
  for (const line of columns.flat().sort((a, b) => b.height - a.height)) {
    const row = rows.at(-1);
    if (row?.[0] !== undefined && areAligned(row[0], line)) row.push(line);
    else rows.push([line]);
  }
  return rows.map((row) => {
    const cells = row.sort((a, b) => a.from - b.from);
    return { ...(cells[0] as Line), ...extent(cells), text: cells.map(({ text }) => text).join(" ") };
  });
}

const HYPHENATED = /\p{Ll}[-\u00ad\u2010]$/u;

/** Lines as text: words that a line's end has cut are whole again, and what stands apart is a paragraph. */
export function textOfLines(lines: readonly Line[]): string {
  let text = "";
  let last: Line | undefined;
  for (const line of lines) {
    if (last === undefined) text = line.text;
    else if (HYPHENATED.test(text.slice(-3)) && /^\p{Ll}/u.test(line.text)) text = text.slice(0, -1) + line.text;
    else {
      const step = last.height - line.height;
      const isNear = last.angle === line.angle && step >= 0 && step < PARAGRAPH * Math.max(last.size, line.size);
      text += `${isNear ? "\n" : "\n\n"}${line.text}`;
    }
    last = line;
  }
  return text.replaceAll("\u00ad", "");
}
