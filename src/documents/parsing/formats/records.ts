/** Tables and JSON as lines of text. */
import { UnreadableDocument } from "../unreadable.ts";

/** One line for each record, each value under its column's name. The delimiter is what fits the first lines. */
export async function readRecords(text: string): Promise<string> {
  const { default: papaparse } = await import("papaparse");
  const { data, errors } = papaparse.parse<string[]>(text, { skipEmptyLines: true });
  // What remains is a table of one column, in which no delimiter is found.
  const fault = errors.find(({ type }) => type === "Quotes");
  if (fault !== undefined) throw new UnreadableDocument(`the CSV cannot be read: ${fault.message.toLowerCase()}`);
  const [header = [], ...rows] = data;
  if (rows.length === 0) return header.join(", ");
  return rows
    .map((row) =>
      row
        .flatMap((value, i) =>
          value.trim() === "" ? [] : [header[i]?.trim() ? `${header[i]?.trim()}: ${value.trim()}` : value.trim()],
        )
        .join("; "),
    )
    .join("\n");
}

/** One line for each value, under its path. */
export function readJson(text: string): string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new UnreadableDocument("the file says it is JSON and is not valid JSON", { cause });
  }
  const lines: string[] = [];
  const open: { path: string; value: unknown }[] = [{ path: "", value }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { path } = next;
    if (typeof next.value === "object" && next.value !== null) {
      // Paths of what is nested without end would grow without end.
      if (path.length > 2_000) throw new UnreadableDocument("the JSON is nested too deeply");
      const inside = Object.entries(next.value).map(([key, item]) => ({
        path: Array.isArray(next?.value) ? `${path}[${key}]` : path === "" ? key : `${path}.${key}`,
        value: item,
      }));
      open.push(...inside.reverse());
    } else if (next.value !== null && next.value !== "") {
      lines.push(path === "" ? String(next.value) : `${path}: ${next.value}`);
    }
  }
  return lines.join("\n");
}
