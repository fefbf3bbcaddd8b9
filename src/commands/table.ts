export type Cell = string | number | null | undefined;

const shown = (cell: Cell) => (cell === null || cell === undefined ? "" : String(cell));

/** Rows under a header, in columns for people: numbers to the right. */
export function tableOf(header: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const widths = header.map((name, i) => Math.max(name.length, ...rows.map((row) => shown(row[i]).length)));
  const isNumeric = header.map((_, i) => rows.some((row) => typeof row[i] === "number"));
  const line = (cells: readonly Cell[]) =>
    cells
      .map((cell, i) => (isNumeric[i] ? shown(cell).padStart(widths[i] ?? 0) : shown(cell).padEnd(widths[i] ?? 0)))
      .join("  ")
      .trimEnd();
  return `${[line(header), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n")}\n`;
}
