import { z } from "zod";
import type { ScopedTransaction } from "../../db/scoped.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { forgetMatching } from "../../forget/by-meaning.ts";
import { eraseSubtree } from "../../forget/subtree.ts";
import { NO_VECTORS } from "../../models/models.ts";
import { prepareQuery } from "../../recall/prepare.ts";
import { GENERAL, sameScope } from "../../scope/scope.ts";
import * as answers from "../answers.ts";
import { endpoint } from "../endpoint.ts";
import { fields, queryText, uuidText, writeSelector } from "../wire.ts";

/** General knowledge is everybody's: forgetting there takes its name, typed. */
function refuseUnconfirmed(tx: ScopedTransaction, confirm: string | undefined): void {
  if (tx.entry.effective !== null && sameScope(tx.entry.effective, GENERAL) && confirm !== "{}") {
    throw unprocessable('this would forget at the scope {}, which everyone shares; confirm it with "confirm": "{}"');
  }
}

const confirm = z.string().optional();

export const forgetEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/forget",
    verb: "memory:forget",
    mode: "forget",
    operation: "forget",
    summary: "Forget what a query is about, or a session",
    answer: answers.forgotten,
    recalls: true,
    body: fields({
      query: queryText.optional(),
      sessionId: uuidText.optional(),
      dryRun: z.boolean().optional(),
      purge: z.boolean().optional(),
      scopes: writeSelector,
      threshold: z.number().gt(0).max(1).optional(),
      subtree: z.boolean().optional(),
      confirm,
    }),
    handle: async ({ enter, body, deps }) => {
      const { query, sessionId } = body;
      if (query === undefined && sessionId === undefined)
        throw invalid("query: say what to forget, or give a sessionId");
      // A session is named by its id: wherever in the floor it is.
      const subtree = body.subtree ?? (sessionId !== undefined && body.scopes === undefined);
      const demand = { selector: body.scopes, subtree };
      const prepared =
        query === undefined
          ? NO_VECTORS
          : await prepareQuery(deps.models, query, "hybrid", (work) => enter(demand, work));
      return enter(demand, (tx) => {
        if (body.dryRun !== true && sessionId === undefined) refuseUnconfirmed(tx, body.confirm);
        return forgetMatching(tx, deps.models, {
          query,
          prepared,
          sessionId,
          subtree,
          threshold: body.threshold ?? 0.5,
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
    answer: answers.erased,
    body: fields({ path: writeSelector, confirm }),
    handle: ({ enter, body }) =>
      enter({ selector: body.path, subtree: true }, (tx) => {
        refuseUnconfirmed(tx, body.confirm);
        return eraseSubtree(tx);
      }),
  }),
];
