/** Text that a PDF draws with no ink, so that nobody sees it. */
import type { PDFPageProxy } from "pdfjs-dist";

type Matrix = readonly [number, number, number, number, number, number];
const IDENTITY: Matrix = [1, 0, 0, 1, 0, 0];
const INVISIBLE = 3;
/** With more drawing than this on a page nothing is looked for: it would take seconds. */
const MOST_OPERATORS = 300_000;

const times = ([a, b, c, d, e, f]: Matrix, [g, h, i, j, k, l]: Matrix): Matrix => [
  a * g + c * h,
  b * g + d * h,
  a * i + c * j,
  b * i + d * j,
  a * k + c * l + e,
  b * k + d * l + f,
];

interface Glyph {
  readonly width?: number;
  readonly isSpace?: boolean;
}

interface State {
  matrix: Matrix;
  mode: number;
  size: number;
  scale: number;
  leading: number;
  rise: number;
  ofCharacter: number;
  ofWord: number;
}

/**
 * Whether the text at a place of a page is invisible; undefined: none is, or most, which is the text of a scan below
 * the picture of it.
 */
export async function invisibleText(
  { OPS }: Pick<typeof import("pdfjs-dist"), "OPS">,
  page: PDFPageProxy,
): Promise<((x: number, y: number) => boolean) | undefined> {
  const { fnArray, argsArray } = await page.getOperatorList();
  const isUsed = fnArray.some((fn, i) => fn === OPS.setTextRenderingMode && isInvisible(argsArray[i]?.[0]));
  if (!isUsed || fnArray.length > MOST_OPERATORS) return undefined;
  const stack: State[] = [];
  let state: State = { matrix: IDENTITY, mode: 0, size: 1, scale: 1, leading: 0, rise: 0, ofCharacter: 0, ofWord: 0 };
  let [line, text]: [Matrix, Matrix] = [IDENTITY, IDENTITY];
  const runs: { readonly isInvisible: boolean; readonly glyphs: number; readonly from: Matrix; readonly to: Matrix }[] =
    [];
  const next = (x: number, y: number) => {
    line = times(line, [1, 0, 0, 1, x, y]);
    text = line;
  };
  const show = (glyphs: readonly (Glyph | number | null)[]) => {
    let width = 0;
    for (const glyph of glyphs) {
      if (glyph === null) continue;
      if (typeof glyph === "number") width -= (glyph * state.size) / 1000;
      else
        width +=
          ((glyph.width ?? 0) * state.size) / 1000 + state.ofCharacter + (glyph.isSpace === true ? state.ofWord : 0);
    }
    const from = times(times(state.matrix, text), [1, 0, 0, 1, 0, state.rise]);
    text = times(text, [1, 0, 0, 1, width * state.scale, 0]);
    const to = times(times(state.matrix, text), [1, 0, 0, 1, 0, state.rise]);
    runs.push({ isInvisible: isInvisible(state.mode), glyphs: glyphs.length, from, to });
  };
  for (const [i, fn] of fnArray.entries()) {
    const args = (argsArray[i] ?? []) as number[];
    const [first = 0, second = 0] = args;
    if (fn === OPS.save) stack.push({ ...state });
    else if (fn === OPS.restore) state = stack.pop() ?? state;
    else if (fn === OPS.transform) state.matrix = times(state.matrix, args as unknown as Matrix);
    else if (fn === OPS.paintFormXObjectBegin) {
      stack.push({ ...state });
      const own = argsArray[i]?.[0] as Matrix | null | undefined;
      if (own) state.matrix = times(state.matrix, own);
    } else if (fn === OPS.paintFormXObjectEnd) state = stack.pop() ?? state;
    else if (fn === OPS.beginText) line = text = IDENTITY;
    else if (fn === OPS.setTextMatrix) line = text = matrixIn(argsArray[i]);
    else if (fn === OPS.moveText) next(first, second);
    else if (fn === OPS.setLeadingMoveText) {
      state.leading = -second;
      next(first, second);
    } else if (fn === OPS.nextLine) next(0, -state.leading);
    else if (fn === OPS.setLeading) state.leading = -first;
    else if (fn === OPS.setFont) state.size = second;
    else if (fn === OPS.setHScale) state.scale = first / 100;
    else if (fn === OPS.setTextRise) state.rise = first;
    else if (fn === OPS.setCharSpacing) state.ofCharacter = first;
    else if (fn === OPS.setWordSpacing) state.ofWord = first;
    else if (fn === OPS.setTextRenderingMode) state.mode = first;
    else if (fn === OPS.showText) show((argsArray[i]?.[0] ?? []) as (Glyph | number | null)[]);
  }
  // Of a scan the text lies below its picture; a stamp or a page's number may lie above both.
  const glyphs = (isInvisible: boolean) =>
    runs.reduce((sum, run) => sum + (run.isInvisible === isInvisible ? run.glyphs : 0), 0);
  if (glyphs(true) >= glyphs(false)) return undefined;
  const unseen = runs.filter((run) => run.isInvisible);
  return (x, y) => unseen.some((run) => isAt(run, x, y)) && !runs.some((run) => !run.isInvisible && isAt(run, x, y));
}

const isInvisible = (mode: unknown) => mode === INVISIBLE;

/** As an array, or as its one element. */
function matrixIn(args: unknown): Matrix {
  const given = args as ArrayLike<number> | readonly [ArrayLike<number>];
  const numbers = typeof given[0] === "number" ? (given as ArrayLike<number>) : (given[0] as ArrayLike<number>);
  return Array.from({ length: 6 }, (_, i) => numbers[i] ?? 0) as unknown as Matrix;
}

const TOLERANCE = 1.5;
const isAt = ({ from, to }: { readonly from: Matrix; readonly to: Matrix }, x: number, y: number) =>
  x >= Math.min(from[4], to[4]) - TOLERANCE &&
  x <= Math.max(from[4], to[4]) + TOLERANCE &&
  y >= Math.min(from[5], to[5]) - TOLERANCE &&
  y <= Math.max(from[5], to[5]) + TOLERANCE;
