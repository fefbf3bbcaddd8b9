import { z } from "zod";
import type { ScopedTransaction } from "../../db/access/scoped.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { DEFAULT_THRESHOLD, forgetMatching } from "../../forget/forget-query.ts";
import { eraseSubtree } from "../../forget/subtree.ts";
import { isOurs, visibleSession } from "../../memory/session-ids.ts";
import { NO_VECTORS } from "../../models/models.ts";
import { prepareQuery } from "../../recall/vectors.ts";
import { canonicalPath, GENERAL, sameScope } from "../../scope/scope.ts";
import { endpoint } from "../endpoint.ts";
import { fields, queryText, sessionName, writeSelector } from "../wire/fields.ts";
import { integer, object, scopeTags, uuid } from "../wire/shapes.ts";

/** General knowledge is everybody's: forgetting there takes its name, typed. */
function refuseUnconfirmed(tx: ScopedTransaction, confirm: string | undefined): void {
  if (tx.entry.effective !== null && sameScope(tx.entry.effective, GENERAL) && confirm !== "{}") {
    throw unprocessable('this would forget at the scope {}, which everyone shares; confirm it with "confirm": "{}"');
  }
}

/** So is the erasure of all that a key reaches: an agent's one wrong call is not enough. */
function refuseUnconfirmedFloor(tx: ScopedTransaction, confirm: string | undefined): void {
  const { effective, floor } = tx.entry;
  const path = canonicalPath(floor);
  if (effective !== null && sameScope(effective, floor) && confirm !== path) {
    throw unprocessable(
      `this would erase ${path === "{}" ? "the scope {}, which everyone shares, and everything" : "all that this key reaches"}; confirm it with "confirm": "${path}"`,
    );
  }
}

const confirm = z.string().optional();

const forgottenResponse = object({
  deleted: integer,
  receiptId: uuid.optional(),
  matches: z
    .array(object({ id: uuid, text: z.string(), score: z.number(), scope: scopeTags, why: z.string() }))
    .optional(),
  hiddenByView: z.literal(true).optional(),
});

const erasedResponse = object({ forgotten: integer, receiptId: uuid });

export const forgetEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/forget",
    verb: "memory:forget",
    mode: "forget",
    operation: "forget",
    summary: "Forget what a query is about, or a session",
    answer: forgottenResponse,
    readsOnly: (body) => body.dryRun === true,
    body: fields({
      query: queryText.optional(),
      sessionId: sessionName.optional(),
      dryRun: z.boolean().optional(),
      purge: z.boolean().optional(),
      scopes: writeSelector,
      threshold: z.number().gt(0).max(1).optional(),
      subtree: z.boolean().optional(),
      confirm,
    }),
    handle: async ({ enter, peek, meter, body, deps }) => {
      const { query, sessionId: named } = body;
      if (query === undefined && named === undefined) throw invalid("query: say what to forget, or give a sessionId");
      // A session is named by its id: wherever in the floor it is. Otherwise what the key sees by default.
      const subtree = body.subtree ?? (named !== undefined && body.scopes === undefined ? true : undefined);
      const access = { selector: body.scopes, subtree };
      const sessionId =
        named === undefined || isOurs(named)
          ? named
          : await peek({ ...access, mode: "forget" }, (tx) => visibleSession(tx, named));
      const prepared =
        query === undefined
          ? NO_VECTORS
          : await prepareQuery(deps.models, meter(access), query, "hybrid", (work) =>
              peek({ ...access, mode: "forget" }, work),
            );
      return enter(access, (tx) => {
        if (body.dryRun !== true && sessionId === undefined) refuseUnconfirmed(tx, body.confirm);
        return forgetMatching(tx, {
          query,
          prepared,
          sessionId,
          threshold: body.threshold ?? DEFAULT_THRESHOLD,
          dryRun: body.dryRun ?? false,
          confirmed: body.confirm === "{}",
          purge: body.purge ?? false,
        });
      });
    },
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/scopes/forget",
    verb: "memory:forget",
    mode: "erase",
    operation: "forget_scope",
    summary: "Erase a scope and everything below it",
    answer: erasedResponse,
    body: fields({ path: writeSelector, confirm }),
    handle: ({ enter, body }) =>
      enter({ selector: body.path, subtree: true }, (tx) => {
        refuseUnconfirmedFloor(tx, body.confirm);
        return eraseSubtree(tx);
      }),
  }),
];
