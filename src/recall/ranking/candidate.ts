/** The best first, and what scores alike by id, so that the same rows always give the same order. */
export const byScore = (a: Candidate, b: Candidate): number => b.score - a.score || (a.id < b.id ? -1 : 1);

/** A passage that a ranking found. */
export interface Candidate {
  readonly id: string;
  readonly scopeId: number;
  readonly score: number;
  /** The same for texts that say the same (src/text/same-text.ts), hex; absent: it is taken to be like no other. */
  readonly digest?: string | null;
  readonly observedAt?: string;
  /** How many others that say the same it stands for. */
  readonly duplicates?: number;
}
