import { z } from "zod";
import { modelsFor } from "../../context/scope-models.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { stringifyJson } from "../../exact-json.ts";
import { FACT_VALUE_LIMIT, prepareFact, storeFact } from "../../memory/facts.ts";
import { ourSession, writtenSession } from "../../memory/session-ids.ts";
import type { Outcome, Triple } from "../../memory/triples.ts";
import { prepareTurns, storeTurns } from "../../memory/turns.ts";
import { endpoint } from "../endpoint.ts";
import { extraction, extractionOf, isAttribute, outcomesIn } from "../wire/extraction.ts";
import {
  entityName,
  entityType,
  factKey,
  fields,
  labels,
  memoryCategory,
  role,
  sessionName,
  text,
  writeSelector,
} from "../wire/fields.ts";
import { object, uuid } from "../wire/shapes.ts";
import { time } from "../wire/times.ts";

const BATCH_LIMIT = 16 * 1024 * 1024;
const MOST_TRIPLES = 200;
const infer = z.enum(["full", "triples", "preview", "none"]);

const named = fields({ type: entityType, name: entityName });
const triple = fields({
  entity: named,
  key: factKey,
  value: z.unknown().optional(),
  target: named.optional(),
  memoryCategory: memoryCategory.optional(),
}).superRefine((item, context) => {
  if ((item.value === undefined) === (item.target === undefined)) {
    context.addIssue({ code: "custom", message: "a triple has either a value or a target" });
  } else if (stringifyJson(item.value ?? null).length > FACT_VALUE_LIMIT) {
    context.addIssue({ code: "custom", message: `the value is over ${FACT_VALUE_LIMIT} characters` });
  }
});

type FactBody = z.output<typeof factBody>;
const factBody = fields({
  text: text.optional(),
  infer: infer.optional(),
  sessionId: sessionName.optional(),
  role: role.optional(),
  scopes: writeSelector,
  labels: labels.optional(),
  triples: z.array(triple).max(MOST_TRIPLES).optional(),
  memoryCategory: memoryCategory.optional(),
  observedAt: time.optional(),
});

const triplesOf = (body: FactBody): Triple[] =>
  (body.triples ?? []).map(({ memoryCategory: category, ...item }) => ({
    ...item,
    category: category ?? body.memoryCategory ?? null,
  }));

interface FactAnswer<T> {
  readonly turnId?: string;
  readonly extraction?: T;
}
type Extraction = ReturnType<typeof extractionOf>;

/** An answer as it is stored: what the triples say is in the request. */
const withoutTriples = ({ extraction, ...ids }: FactAnswer<Extraction>): FactAnswer<readonly Outcome[]> =>
  extraction === undefined ? ids : { ...ids, extraction: outcomesIn(extraction) };

function withTriples({ extraction, ...ids }: FactAnswer<readonly Outcome[]>, { body }: { readonly body: FactBody }) {
  if (extraction === undefined) return ids;
  const triples = triplesOf(body);
  const inOrder = [...triples.filter(isAttribute), ...triples.filter((triple) => !isAttribute(triple))];
  const stored = inOrder.map((triple, i) => ({ ...triple, ...(extraction[i] as Outcome) }));
  return { ...ids, extraction: extractionOf(stored, ids.turnId) };
}

/** Without a chat model nothing is read out of a text: triples are literal, and `full` does as `none`. */
function refuseExtraction(wanted: z.infer<typeof infer> | undefined, hasTriples: boolean): void {
  if ((wanted === "triples" || wanted === "preview") && !hasTriples) {
    throw unprocessable(
      `infer: ${wanted} without triples needs a chat model, which this service does not use yet; send triples, or use none or full`,
    );
  }
}

const factResponse = object({
  mode: z.enum(["none", "triples", "preview"]),
  sessionId: z.string().describe("Empty where a preview is of no session"),
  turnId: uuid.optional(),
  chunkId: uuid.optional(),
  preview: z.literal(true).optional().describe("Nothing was stored, and the ids in the extraction are empty"),
  extraction: extraction.optional(),
});

const factsResponse = object({
  sessionId: uuid,
  turnIds: z.array(uuid),
  chunkIds: z.array(uuid),
  extractions: z.array(z.never()).describe("Empty: nothing is read out of texts"),
});

export const factEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/facts",
    verb: "memory:write",
    mode: "write",
    operation: "facts",
    summary: "Remember a text, triples, or both",
    answer: factResponse,
    readsOnly: (body) => body.infer === "preview",
    retold: { strip: withoutTriples, tell: withTriples },
    body: factBody,
    handle: async ({ enter, peek, meter, body, deps }) => {
      const triples = triplesOf(body);
      refuseExtraction(body.infer, triples.length > 0);
      if (body.text === undefined && triples.length === 0) throw invalid("text: a fact needs a text, or triples");
      const where = { selector: body.scopes, session: ourSession(body.sessionId) };
      if (body.infer === "preview") {
        const own = ourSession(body.sessionId);
        return enter(where, async () => ({
          mode: "preview",
          sessionId: own ?? "",
          preview: true,
          extraction: extractionOf(triples),
        }));
      }
      const said = { labels: body.labels ?? [], observedAt: body.observedAt };
      const turn =
        body.text === undefined
          ? undefined
          : { role: body.role ?? "user", content: body.text, category: body.memoryCategory ?? null, ...said };
      const models = await modelsFor(deps.models, peek, where);
      const prepared = await prepareFact(models, meter(where), turn, triples, said);
      return enter(where, async (tx) => {
        const { triples: stored, ...ids } = await storeFact(tx, prepared, await writtenSession(tx, body.sessionId));
        tx.speaksOf(...stored.map(({ id }) => id), ...(ids.turnId === undefined ? [] : [ids.turnId]));
        return {
          mode: triples.length > 0 ? "triples" : "none",
          ...ids,
          // What was known before is for those who may read.
          ...(triples.length > 0 && tx.entry.verbs.includes("memory:read")
            ? { extraction: extractionOf(stored, ids.turnId) }
            : {}),
        };
      });
    },
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/facts/batch",
    verb: "memory:write",
    mode: "write",
    operation: "facts_batch",
    summary: "Remember up to 500 messages",
    answer: factsResponse,
    bodyLimit: BATCH_LIMIT,
    body: fields({
      messages: z
        .array(fields({ role, content: text, ts: time.optional() }))
        .min(1)
        .max(500),
      sessionId: sessionName.optional(),
      scopes: writeSelector,
      extract: z.union([z.enum(["per_message", "whole_conversation"]), z.boolean()]).optional(),
      infer: infer.optional(),
      labels: labels.optional(),
    }),
    handle: async ({ enter, peek, meter, body, deps }) => {
      refuseExtraction(body.infer, false);
      if (body.extract === true)
        throw unprocessable("extract needs a chat model, which this service does not use yet; leave it out");
      const where = { selector: body.scopes, session: ourSession(body.sessionId) };
      const models = await modelsFor(deps.models, peek, where);
      const prepared = await prepareTurns(
        models,
        meter(where),
        body.messages.map((message) => ({
          role: message.role,
          content: message.content,
          labels: body.labels ?? [],
          category: null,
          observedAt: message.ts,
        })),
      );
      return enter(where, async (tx) => {
        const stored = await storeTurns(tx, prepared, await writtenSession(tx, body.sessionId));
        return { sessionId: stored.sessionId, turnIds: stored.turnIds, chunkIds: stored.passageIds, extractions: [] };
      });
    },
  }),
];
