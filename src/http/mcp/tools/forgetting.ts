/** The tool that forgets. */
import { z } from "zod";
import { contextId, place, question, tool } from "../tool.ts";

interface Match {
  readonly id: string;
  readonly text: string;
  readonly score: number;
  readonly why?: string;
}

export const forget = tool({
  name: "forget",
  title: "Forget",
  description:
    "Forget what a query is about. It only shows what would go until it is called with apply: true; ask the user before that.",
  verb: "memory:forget",
  route: "post /{ctx}/forget",
  annotations: { readOnlyHint: false, destructiveHint: true, idempotentHint: true, openWorldHint: false },
  input: {
    query: question.describe("What to forget, as precisely as can be"),
    apply: z.boolean().optional().describe("true: forget it; otherwise nothing changes"),
    purge: z
      .boolean()
      .optional()
      .describe("true: erase it for good; otherwise it leaves every answer and is kept for audit"),
    scope: place.optional().describe("Where; absent: what the key sees by default"),
    threshold: z
      .number()
      .gt(0)
      .max(1)
      .optional()
      .describe("How much of the query a text must hold, 0.6 where it is left out"),
    confirm: z
      .string()
      .optional()
      .describe("The key's own scope as a path, where the whole of it is reached with purge"),
    context_id: contextId,
  },
  output: z.object({
    applied: z.boolean(),
    deleted: z.int().describe("How many went, or would go"),
    receipt_id: z.string().optional(),
    matches: z.array(z.object({ id: z.string(), text: z.string(), score: z.number(), why: z.string().optional() })),
  }),
  given: ({ query, apply, purge, scope: scopes, threshold, confirm }) => ({
    body: { query, dryRun: apply !== true, purge, scopes, threshold, confirm },
  }),
  tell: (
    { deleted, receiptId, matches = [] }: { deleted: number; receiptId?: string; matches?: Match[] },
    { apply },
  ) => {
    const applied = apply === true;
    const told = matches.map(({ id, text, score, why }) => ({
      id,
      text,
      score,
      ...(why === undefined ? {} : { why }),
    }));
    const list = told.map(({ text }, i) => `${i + 1}. ${JSON.stringify(text)}`).join("\n");
    const preview =
      deleted === 0
        ? "Nothing matches."
        : `This would forget ${deleted}:\n${list}\nCall it again with apply: true to forget them.`;
    return {
      structured: { applied, deleted, ...(receiptId === undefined ? {} : { receipt_id: receiptId }), matches: told },
      text: applied ? `Forgot ${deleted}.` : preview,
    };
  },
});
