import { z } from "zod";
import { modelsFor } from "../../context/scope-models.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { stringifyJson } from "../../exact-json.ts";
import { FACT_VALUE_LIMIT, prepareFact, storeFact } from "../../memory/facts.ts";
import { ourSession, writtenSession } from "../../memory/session-ids.ts";
import { type StoredTriple, sentenceOf, type Triple } from "../../memory/triples.ts";
import { prepareTurns, storeTurns } from "../../memory/turns.ts";
import { endpoint } from "../endpoint.ts";
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
  time,
  writeSelector,
} from "../wire/fields.ts";
import { namedEntity, object, uuid } from "../wire/shapes.ts";

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

/** What is known of the entities after a write, or would be: `extraction` and `preview` have one shape. */
function extractionOf(triples: readonly (Triple | StoredTriple)[]) {
  const entities = new Map(
    triples
      .flatMap(({ entity, target }) => [entity, ...(target === undefined ? [] : [target])])
      .map((e) => [`${e.type}/${e.name}`, e]),
  );
  return {
    entities: [...entities.values()],
    attributes: triples.filter(({ target }) => target === undefined),
    relations: triples.filter(({ target }) => target !== undefined),
  };
}

type Outcome = Omit<StoredTriple, "entity" | "key" | "value" | "target">;
interface FactAnswer<T> {
  readonly extraction?: { readonly attributes: readonly T[]; readonly relations: readonly T[] };
}

const outcomeOf = ({ entity: _, key: __, value: ___, target: ____, ...outcome }: StoredTriple): Outcome => outcome;

/** An answer as it is stored: what the triples say is in the request. */
const withoutTriples = ({ extraction, ...ids }: FactAnswer<StoredTriple>): FactAnswer<Outcome> =>
  extraction === undefined
    ? ids
    : {
        ...ids,
        extraction: {
          attributes: extraction.attributes.map(outcomeOf),
          relations: extraction.relations.map(outcomeOf),
        },
      };

function withTriples({ extraction, ...ids }: FactAnswer<Outcome>, { body }: { readonly body: FactBody }) {
  if (extraction === undefined) return ids;
  const [attributes, relations] = [[...extraction.attributes], [...extraction.relations]];
  const stored = triplesOf(body).map(({ category: _, ...triple }) => ({
    ...triple,
    ...((triple.target === undefined ? attributes : relations).shift() as Outcome),
  }));
  return { ...ids, extraction: extractionOf(stored) };
}

/** Without a chat model nothing is read out of a text: triples are literal, and `full` does as `none`. */
function refuseExtraction(wanted: z.infer<typeof infer> | undefined, hasTriples: boolean): void {
  if ((wanted === "triples" || wanted === "preview") && !hasTriples) {
    throw unprocessable(
      `infer: ${wanted} without triples needs a chat model, which this service does not use yet; send triples, or use none or full`,
    );
  }
}

const storedTriple = object({
  id: uuid,
  entityId: uuid,
  entity: namedEntity,
  key: z.string(),
  value: z.unknown().optional(),
  target: namedEntity.optional(),
  stored: z.boolean(),
  current: z.boolean(),
  superseded: z.array(uuid),
});

const givenTriple = object({
  entity: namedEntity,
  key: z.string(),
  value: z.unknown().optional(),
  target: namedEntity.optional(),
  category: z.string().nullable(),
});

const extraction = (triple: z.ZodType) => ({
  entities: z.array(namedEntity),
  attributes: z.array(triple),
  relations: z.array(triple),
});

const factResponse = object({
  mode: z.enum(["none", "triples", "preview"]),
  sessionId: uuid.optional(),
  turnId: uuid.optional(),
  chunkId: uuid.optional(),
  extraction: object(extraction(storedTriple)).optional(),
  preview: object({ ...extraction(givenTriple), sentences: z.array(z.string()) }).optional(),
});

const factsResponse = object({
  sessionId: uuid,
  turnIds: z.array(uuid),
  chunkIds: z.array(uuid),
  extractions: z.array(z.never()),
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
          ...(own === undefined ? {} : { sessionId: own }),
          preview: { ...extractionOf(triples), sentences: triples.map(sentenceOf) },
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
          ...(triples.length > 0 && tx.entry.verbs.includes("memory:read") ? { extraction: extractionOf(stored) } : {}),
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
      extract: z.boolean().optional(),
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
