/** JSON and JSON Lines as lines of text. */
import { parseNumbersAsText } from "../../../exact-json.ts";
import { UnreadableDocument } from "../unreadable.ts";
import { type Extracted, Warnings } from "./extracted.ts";

/** One line for each value, under its path; of several values a paragraph each. */
export function readJson(text: string): Extracted {
  const warnings = new Warnings();
  const whole = parsed(text);
  // Files of lines are often named .json too.
  const body =
    whole === undefined
      ? readLines(text, warnings, "the file says it is JSON and is not valid JSON")
      : linesOf(whole.value).join("\n");
  return { text: body, sections: [{ title: null, start: 0, end: body.length }], warnings: warnings.list };
}

/** A value a line. A line that is none is left out, and said. */
export function readJsonLines(text: string): Extracted {
  const warnings = new Warnings();
  const body = readLines(text, warnings, "the file says it is JSON Lines, and none of its lines is JSON");
  return { text: body, sections: [{ title: null, start: 0, end: body.length }], warnings: warnings.list };
}

function readLines(text: string, warnings: Warnings, nothing: string): string {
  const values: string[] = [];
  const wrong: number[] = [];
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const value = parsed(line);
    if (value === undefined) wrong.push(i + 1);
    else values.push(linesOf(value.value).join("\n"));
  }
  // One line of many that happens to be JSON makes no such file.
  if (values.length === 0 || values.length < wrong.length) throw new UnreadableDocument(nothing);
  for (const line of wrong) warnings.add(`line ${line}: is not JSON, and was left out`);
  return values.filter((value) => value !== "").join("\n\n");
}

function parsed(text: string): { readonly value: unknown } | undefined {
  try {
    return { value: parseNumbersAsText(text) };
  } catch (error) {
    if (error instanceof RangeError) throw new UnreadableDocument("the JSON is nested too deeply");
    return undefined;
  }
}

function linesOf(value: unknown): string[] {
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
      for (let i = inside.length - 1; i >= 0; i--) open.push(inside[i] as { path: string; value: unknown });
    } else if (next.value !== null && next.value !== "") {
      lines.push(path === "" ? String(next.value) : `${path}: ${next.value}`);
    }
  }
  return lines;
}
