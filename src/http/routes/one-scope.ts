import { unprocessable } from "../../errors.ts";
import type { Scope } from "../../scope/scope.ts";
import type { Selector } from "../../scope/selector.ts";

/** The one scope that a filter names; absent: none. */
export function oneScope(selector: Selector | undefined): Scope | undefined {
  if (selector === undefined) return undefined;
  const [clause, ...more] = selector;
  if (clause === undefined || more.length > 0)
    throw unprocessable(`this takes exactly one scope, the selector has ${selector.length} clauses`);
  return clause.tags;
}
