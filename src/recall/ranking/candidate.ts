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
