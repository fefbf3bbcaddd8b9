import { z } from "zod";
import { modelsFor } from "../../context/scope-models.ts";
import { forgetMemory } from "../../forget/forget-memory.ts";
import { checkCorrection, correctMemory, embedCorrection } from "../../memory/correct.ts";
import { getMemory, listMemories, MEMORY_SOURCES } from "../../memory/memories.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import { fields, jsonValue, labels, lens, listed, pageLimit, queryLabels, text, uuidText } from "../wire/fields.ts";
import { integer, memory, memoryWithHistory, object, uuid } from "../wire/shapes.ts";
import { fromTime, refuseReversed, time, untilTime } from "../wire/times.ts";

const id = z.object({ id: uuidText });

export const memoryEndpoints = [
  endpoint({
    method: "get",
    path: "/{ctx}/memories",
    verb: "memory:read",
    operation: "memories",
    summary: "Everything that this key can recall, newest first",
    answer: object({ memories: z.array(memory), nextCursor: z.string().optional() }),
    query: fields({
      ...lens,
      labels: queryLabels,
      source: listed(MEMORY_SOURCES).optional().describe("One or several of them, with commas between; absent: all"),
      since: fromTime.optional(),
      until: untilTime.optional(),
      limit: pageLimit,
      cursor: z.string().max(200).optional().describe("`nextCursor` of the page before"),
    }),
    handle: ({
      enter,
      query: { source = MEMORY_SOURCES, labels: wanted = [], since, until, limit, cursor, ...where },
    }) => {
      refuseReversed({ since, until });
      return enter(listAccess(where), (tx) =>
        listMemories(tx, { labels: wanted, sources: source, since, until }, limit, cursor),
      );
    },
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/memories/{id}",
    verb: "memory:read",
    operation: "memories",
    summary: "One memory, by the id that hits have",
    answer: memoryWithHistory,
    params: id,
    handle: ({ enter, params }) => enter({}, (tx) => getMemory(tx, params.id)),
  }),
  endpoint({
    method: "patch",
    path: "/{ctx}/memories/{id}",
    verb: "memory:write",
    mode: "write",
    operation: "memory_change",
    summary: "Correct, relabel or expire one memory",
    answer: memoryWithHistory,
    params: id,
    body: fields({
      text: text
        .regex(/\S/, "must say something")
        .optional()
        .describe("What a turn, a fact or an item of text says from now on"),
      value: jsonValue.optional().describe("The value of a fact or of a keyed item"),
      labels: labels.optional(),
      expiresAt: z
        .union([time, z.literal("never")], {
          error: "must be an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z, or never",
        })
        .optional()
        .describe("From when on it is not recalled any more; never: it stays"),
      keepHistory: z.boolean().optional().describe("Keep what it said before, out of recall; otherwise that is gone"),
    })
      .refine(
        ({ keepHistory: _, ...change }) => Object.values(change).some((value) => value !== undefined),
        "needs text, value, labels or expiresAt",
      )
      .refine(({ text: said, value }) => said === undefined || value === undefined, "send text or value, not both"),
    handle: async ({ enter, peek, meter, params, body, deps }) => {
      const where = { memory: params.id };
      const checked = await peek({ mode: "modify" }, (tx) => checkCorrection(tx, params.id, body));
      const models = await modelsFor(deps.models, peek, where);
      const embedded = await embedCorrection(models, meter(where), checked);
      return enter(where, (tx) => correctMemory(tx, checked, embedded));
    },
  }),
  endpoint({
    method: "delete",
    path: "/{ctx}/memories/{id}",
    verb: "memory:forget",
    mode: "forget",
    operation: "memory_delete",
    summary: "Erase one memory",
    answer: object({ deleted: integer, receiptId: uuid }),
    params: id,
    handle: ({ enter, params }) =>
      enter({ subtree: true }, async (tx) => ({
        deleted: 1,
        receiptId: await forgetMemory(tx, params.id),
      })),
  }),
];
