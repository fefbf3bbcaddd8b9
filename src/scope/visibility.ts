import { GENERAL, holds, merge, type Scope, sameScope } from "./scope.ts";
import type { Selector } from "./selector.ts";

/** `strict`: rows between the floor and E. `subtree`: rows at E and below it. */
export const VIEWS = ["strict", "subtree"] as const;
export type View = (typeof VIEWS)[number];

/** What a read may see: the floor, its clauses merged with the floor, and whether `{}` counts. */
export interface Reach {
  readonly floor: Scope;
  readonly clauses: readonly { readonly effective: Scope; readonly view: View }[];
  readonly general: boolean;
}

/**
 * The reach of a read selector under a floor; undefined where a clause contradicts the floor.
 * An absent selector is the floor alone; an empty one reaches nothing, general knowledge included.
 */
export function reachOf(floor: Scope, selector: Selector | undefined, view: View): Reach | undefined {
  const asked = selector ?? [{ tags: GENERAL, subtree: false }];
  const clauses = [];
  for (const clause of asked) {
    const effective = merge(clause.tags, floor);
    if (effective === undefined) return undefined;
    clauses.push({ effective, view: clause.subtree ? "subtree" : view } as const);
  }
  return { floor, clauses, general: clauses.length > 0 };
}

/** Whether a row is among what the reach sees; general rows only in knowledge tables. */
export function isVisible(row: Scope, reach: Reach, knowledge: boolean): boolean {
  if (knowledge && reach.general && sameScope(row, GENERAL)) return true;
  return reach.clauses.some(({ effective, view }) =>
    view === "subtree" ? holds(row, effective) : holds(row, reach.floor) && holds(effective, row),
  );
}
