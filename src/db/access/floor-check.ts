import { holds, type Scope, sameScope } from "../../scope/scope.ts";
import { isVisible, reachOf } from "../../scope/visibility.ts";
import type { AccessRequest, Entry } from "./entry.ts";

/** A forget reaches what is below E where it says so, and without a selector where the key sees it by default. */
const takesSubtree = ({ mode, selector, subtree }: AccessRequest, { key }: Entry): boolean =>
  subtree ?? (mode === "forget" && selector === undefined && key.defaultView === "subtree");

/**
 * The first lock trusts no id: what the database resolved is checked against the algebra, from the
 * request and the floor alone.
 */
export function checkAgainstFloor(entry: Entry, request: AccessRequest): void {
  const { floor, effective, read } = entry;
  const reach = reachOf(
    floor,
    request.mode === "id" || request.mode === "modify" ? undefined : request.selector,
    entry.view,
  );
  const single = reach?.clauses.length === 1 ? reach.clauses[0]?.effective : undefined;
  const byWrite = request.mode === "write"; // reads the floor's subtree, writes at E or where its session or document is
  const isExact = request.mode === "delete" && request.selector !== undefined;
  const isReached = (scope: Scope) => {
    if (byWrite) return holds(scope, floor);
    if (request.mode === "forget" || request.mode === "erase" || isExact) {
      return single !== undefined && (takesSubtree(request, entry) ? holds(scope, single) : sameScope(scope, single));
    }
    return reach !== undefined && isVisible(scope, reach, false);
  };
  const isExpected =
    reach !== undefined &&
    [...read.scopes.values(), ...read.trees].every(isReached) &&
    (effective === null || holds(effective, floor)) &&
    (single === undefined ||
      request.session !== undefined ||
      request.document !== undefined ||
      request.memory !== undefined ||
      (effective !== null && sameScope(effective, single)));
  if (!isExpected) throw new Error("scopefloor.enter resolved a scope outside the key's floor or the request");
}
