import type { z } from "zod";
import type { ScopedTransaction } from "../../db/access/scoped.ts";
import { invalid, unprocessable } from "../../errors.ts";
import type { Selector } from "../../scope/selector.ts";
import { type querySelector, type scopeView, viewOf } from "./fields.ts";

/** What enters for one scope's subtree. The floor's own where none is named. */
export function subtreeOf(selector: Selector | undefined) {
  if (selector === undefined) return {};
  if (selector.length !== 1) {
    throw unprocessable(`this takes exactly one scope, the selector has ${selector.length} clauses`);
  }
  return { mode: "select", selector, view: "subtree" } as const;
}

/** A rule for everybody is never one whose scope was forgotten. */
export function refuseUnnamed(tx: ScopedTransaction, selector: Selector | undefined): void {
  if (selector === undefined && Object.keys(tx.entry.floor).length === 0)
    throw invalid("scope is missing; {} is everybody");
}

/** A list without a selector is the floor's subtree; with one, or a view, what those say. */
export function listAccess(query: {
  lens?: z.output<typeof querySelector>;
  scopeView?: z.infer<typeof scopeView> | undefined;
}) {
  return query.lens === undefined && query.scopeView === undefined
    ? ({ mode: "id" } as const)
    : ({ mode: "select", selector: query.lens, view: viewOf(query.scopeView) } as const);
}
