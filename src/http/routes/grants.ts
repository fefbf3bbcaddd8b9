import type { MemoryVerb } from "../../db/enter.ts";
import { canonicalPath, type Scope } from "../../scope/scope.ts";

/** Each verb with the paths that it reaches: the floor and what lies below it. */
export function grantsOf(floor: Scope, granted: readonly MemoryVerb[]): Record<string, string[]> {
  const path = canonicalPath(floor);
  return Object.fromEntries(granted.map((verb) => [verb, [path === "{}" ? "/*" : `${path}/*`]]));
}
