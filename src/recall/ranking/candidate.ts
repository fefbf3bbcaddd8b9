/** A passage that a ranking found. */
export interface Candidate {
  readonly id: string;
  readonly scopeId: number;
  readonly score: number;
}
