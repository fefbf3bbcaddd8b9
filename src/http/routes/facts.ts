import { z } from "zod";
import { invalid, unprocessable } from "../../errors.ts";
import { prepareTurns, storeTurns } from "../../memory/turns.ts";
import { endpoint } from "../endpoint.ts";
import { fields, labels, memoryCategory, role, text, time, uuidText, writeSelector } from "../wire.ts";

const BATCH_LIMIT = 16 * 1024 * 1024;
const infer = z.enum(["full", "triples", "preview", "none"]);

/** Without a chat model only `none`, and `full` as the same. */
function refuseInference(wanted: z.infer<typeof infer> | undefined): void {
  if (wanted === "triples" || wanted === "preview") {
    throw unprocessable(`infer: ${wanted} needs extraction, which is not built yet; use none or full`);
  }
}

export const factEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/facts",
    verb: "memory:write",
    mode: "write",
    operation: "facts",
    body: fields({
      text: text.optional(),
      infer: infer.optional(),
      sessionId: uuidText.optional(),
      role: role.optional(),
      scopes: writeSelector,
      labels: labels.optional(),
      triples: z.array(z.unknown()).optional(),
      memoryCategory: memoryCategory.optional(),
      observedAt: time.optional(),
    }),
    handle: async ({ enter, body, deps }) => {
      if (body.triples !== undefined && body.triples.length > 0)
        throw unprocessable("triples are not built yet; send text");
      refuseInference(body.infer);
      if (body.text === undefined) throw invalid("text: a fact needs a text");
      const prepared = await prepareTurns(deps.embedder, [
        {
          role: body.role ?? "user",
          content: body.text,
          labels: body.labels ?? [],
          category: body.memoryCategory ?? null,
          observedAt: body.observedAt,
        },
      ]);
      return enter({ selector: body.scopes, session: body.sessionId }, async (tx) => {
        const stored = await storeTurns(tx, deps.embedder, prepared, { sessionId: body.sessionId, operation: "facts" });
        return { mode: "none", sessionId: stored.sessionId, turnId: stored.turnIds[0], chunkId: stored.passageIds[0] };
      });
    },
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/facts/batch",
    verb: "memory:write",
    mode: "write",
    operation: "facts_batch",
    bodyLimit: BATCH_LIMIT,
    body: fields({
      messages: z
        .array(fields({ role, content: text, ts: time.optional() }))
        .min(1)
        .max(500),
      sessionId: uuidText.optional(),
      scopes: writeSelector,
      extract: z.boolean().optional(),
      infer: infer.optional(),
      labels: labels.optional(),
    }),
    handle: async ({ enter, body, deps }) => {
      refuseInference(body.infer);
      if (body.extract === true) throw unprocessable("extract is not built yet; leave it out");
      const prepared = await prepareTurns(
        deps.embedder,
        body.messages.map((message) => ({
          role: message.role,
          content: message.content,
          labels: body.labels ?? [],
          category: null,
          observedAt: message.ts,
        })),
      );
      return enter({ selector: body.scopes, session: body.sessionId }, async (tx) => {
        const stored = await storeTurns(tx, deps.embedder, prepared, {
          sessionId: body.sessionId,
          operation: "facts_batch",
        });
        return { sessionId: stored.sessionId, turnIds: stored.turnIds, extractions: [] };
      });
    },
  }),
];
