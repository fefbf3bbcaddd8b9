import { z } from "zod";
import type { ScopedTransaction } from "../../db/access/scoped.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { DEFAULT_THRESHOLD, forgetMatching } from "../../forget/forget-query.ts";
import { isNarrow } from "../../forget/matching/selection.ts";
import { eraseSubtree } from "../../forget/subtree.ts";
import { isOurs, visibleSession } from "../../memory/session-ids.ts";
import { NO_VECTORS } from "../../models/metered.ts";
import { prepareQuery } from "../../recall/vectors.ts";
import { canonicalPath, GENERAL, sameScope } from "../../scope/scope.ts";
import { wordsOfSubject } from "../../text/names.ts";
import { endpoint } from "../endpoint.ts";
import { fields, labels, queryText, sessionName, uuidText, writeSelector } from "../wire/fields.ts";
import { integer, object, scopeTags, uuid } from "../wire/shapes.ts";
import { fromTime, refuseReversed, untilTime } from "../wire/times.ts";

/** General knowledge is everybody's: forgetting there takes its name, typed. */
function refuseUnconfirmed(tx: ScopedTransaction, confirm: string | undefined): void {
  if (tx.entry.effective !== null && sameScope(tx.entry.effective, GENERAL) && confirm !== "{}") {
    throw unprocessable('this would forget at the scope {}, which everyone shares; confirm it with "confirm": "{}"');
  }
}

/** So is a purge that does not say where, by a key that sees the whole subtree: it may take anything of its floor. */
function refuseUnconfirmedPurge(tx: ScopedTransaction, confirm: string | undefined): void {
  const path = canonicalPath(tx.entry.floor);
  if (tx.entry.view === "subtree" && confirm !== path)
    throw unprocessable(
      `this would erase what it finds anywhere in ${path}; confirm it with "confirm": "${path}", or say where with scopes or subtree`,
    );
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
  hint: z.string().optional().describe("What to do where the view hides what there may be"),
});

const erasedResponse = object({ forgotten: integer, receiptId: uuid });

export const forgetEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/forget",
    verb: "memory:forget",
    mode: "forget",
    operation: "forget",
    summary: "Forget what a query is about, a session, or what is named by what it is",
    answer: forgottenResponse,
    readsOnly: (body) => body.dryRun === true,
    body: fields({
      query: queryText.optional(),
      sessionId: sessionName.optional(),
      dryRun: z.boolean().optional(),
      purge: z.boolean().optional(),
      scopes: writeSelector,
      threshold: z.number().gt(0).max(1).optional(),
      labels: labels.optional().describe("What has all of these"),
      subject: z
        .string()
        .trim()
        .min(1)
        .max(256)
        .optional()
        .describe(
          "What mentions this person or thing: has each word of the name, in any case and order, with or without its accents",
        ),
      documentId: uuidText.optional(),
      ids: z.array(uuidText).min(1).max(1_000).optional().describe("The ids that hits have"),
      since: fromTime.optional().describe("What was observed from this time on"),
      until: untilTime.optional().describe("What was observed up to this time"),
      subtree: z.boolean().optional(),
      confirm,
    }),
    handle: async ({ enter, peek, meter, body, deps }) => {
      const { query, sessionId: named } = body;
      const { labels: having, subject, documentId, ids, since, until } = body;
      const selection = { labels: having, subject, documentId, ids, since, until };
      if (query === undefined && named === undefined && !isNarrow(selection))
        throw invalid(
          "query: say what to forget: a query, sessionId, labels, subject, documentId, ids, since or until",
        );
      refuseReversed({ since, until });
      if (subject !== undefined && wordsOfSubject(subject).length === 0)
        throw invalid("subject: must have a letter or a digit");
      // What is named by its id is meant wherever in the floor it is. Otherwise what the key sees by default.
      const isById = named !== undefined || documentId !== undefined || ids !== undefined;
      const subtree = body.subtree ?? (isById && body.scopes === undefined ? true : undefined);
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
        if (body.dryRun !== true && sessionId === undefined) {
          refuseUnconfirmed(tx, body.confirm);
          if (body.purge === true && body.scopes === undefined && body.subtree === undefined && !isById)
            refuseUnconfirmedPurge(tx, body.confirm);
        }
        return forgetMatching(tx, {
          query,
          prepared,
          sessionId,
          threshold: body.threshold ?? DEFAULT_THRESHOLD,
          dryRun: body.dryRun ?? false,
          confirmed: body.confirm === "{}",
          purge: body.purge ?? false,
          selection,
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
