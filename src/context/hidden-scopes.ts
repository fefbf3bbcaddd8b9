import type { ScopedTransaction } from "../db/access/scoped.ts";

/** Of an answer without anything in it: that the view may be why, and what to do. */
export interface Hidden {
  readonly hiddenByView?: true;
  readonly hint?: string;
}

/** Whether the floor holds scopes that this view does not. */
export const hiddenByView = async (tx: ScopedTransaction): Promise<Hidden> =>
  (await tx.call<boolean>("hides_scopes"))
    ? {
        hiddenByView: true,
        hint: "there are scopes below what this request sees: name one, ask for the subtree, or give the key the default view subtree",
      }
    : {};
