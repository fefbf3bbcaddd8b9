/** A part of the text under one heading, in UTF-16 units. */
export interface Section {
  readonly title: string | null;
  readonly start: number;
  readonly end: number;
}

/** How a file was read, where it did not say so itself. No text of it. */
export interface Reading {
  /** The charset's name, lower case, and whether the upload, the file, or its bytes told it. */
  readonly encoding?: string;
  readonly encodingFrom?: "declared" | "byte order mark" | "file" | "detected";
  /** Of a table: what stands between two values, and whether its first line names the columns. */
  readonly delimiter?: string;
  readonly header?: boolean;
  /** Who read what of it is a picture or a sound, `provider:model`. */
  readonly readBy?: string;
}

/** A place of which there is only a picture or a sound. */
export interface Unread {
  /** Of the page, from 1. */
  readonly number: number;
  /** Where its text belongs, in UTF-16 units of the text that there is. */
  readonly at: number;
  /** Of the section that it is. */
  readonly title: string | null;
}

export interface Extracted {
  readonly text: string;
  readonly sections: readonly Section[];
  /** What a person sees in the file and is not in the text, each with where. No text of the file. */
  readonly warnings?: readonly string[];
  readonly reading?: Reading;
  /** In order; absent: none, or they are not looked for. */
  readonly unread?: readonly Unread[];
}

/** Of these at most, and the rest counted: a file of faults is no reason for a list without end. */
const MOST_WARNINGS = 50;

/** What could not be read, as it is found. */
export class Warnings {
  readonly #said = new Set<string>();
  #unsaid = 0;

  add(warning: string): void {
    if (this.#said.has(warning)) return;
    if (this.#said.size < MOST_WARNINGS) this.#said.add(warning);
    else this.#unsaid++;
  }

  get list(): string[] {
    return [...this.#said, ...(this.#unsaid === 0 ? [] : [`and ${this.#unsaid} more of the same kind`])];
  }
}

/** Numbers as a person lists them: `1, 3 to 5`. */
export function ranges(numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const n of numbers) {
    const last = runs.at(-1);
    if (last !== undefined && n === last[1] + 1) last[1] = n;
    else runs.push([n, n]);
  }
  return runs
    .map(([from, to]) => (from === to ? `${from}` : to === from + 1 ? `${from}, ${to}` : `${from} to ${to}`))
    .join(", ");
}
