/** A part of the text under one heading, in UTF-16 units. */
export interface Section {
  readonly title: string | null;
  readonly start: number;
  readonly end: number;
}

export interface Extracted {
  readonly text: string;
  readonly sections: readonly Section[];
}
