import type { Extracted } from "./extracted.ts";
import { sectionsFrom } from "./flow.ts";

/** What was read of a place that had only a picture or a sound. */
export interface Read {
  readonly number: number;
  readonly text: string;
}

/** The text with what a model read, each where it belongs, and as a section where it is one. */
export function withRead({ unread = [], ...extracted }: Extracted, read: readonly Read[]): Extracted {
  const texts = new Map(read.map(({ number, text }) => [number, text.replaceAll("\0", " ").toWellFormed().trim()]));
  const parts: string[] = [];
  const opened: { title: string | null; start: number }[] = [];
  let length = 0;
  let done = 0;
  const push = (part: string) => {
    parts.push(part);
    length += part.length;
  };
  /** The file's own text up to there, as a paragraph. */
  const own = (until: number) => {
    const from = done + (/^\n*/.exec(extracted.text.slice(done, until))?.[0].length ?? 0);
    done = until;
    if (from >= until) return;
    if (length > 0) push("\n\n");
    for (const { title, start } of extracted.sections)
      if (start >= from && start < until) opened.push({ title, start: length + start - from });
    push(extracted.text.slice(from, until));
  };
  for (const { number, at, title } of unread) {
    const text = texts.get(number) ?? "";
    if (text === "") continue;
    own(at);
    if (length > 0) push("\n\n");
    opened.push({ title, start: length });
    push(text);
  }
  own(extracted.text.length);
  const text = parts.join("");
  return { ...extracted, text, sections: sectionsFrom(opened, text.length) };
}
