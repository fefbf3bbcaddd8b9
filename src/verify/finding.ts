/** One thing that was checked, and what is wrong with it. */
export interface Finding {
  readonly check: string;
  /** Numbers of the threats that it answers. */
  readonly threats: readonly number[];
  /** How many tables, functions, … were looked at. */
  readonly looked: number;
  readonly problems: readonly string[];
}
