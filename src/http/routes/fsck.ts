import { z } from "zod";
import { spellValue } from "../../exact-json.ts";
import { checkMemory, FSCK_CHECKS } from "../../memory/fsck.ts";
import { PLANTED_KINDS } from "../../text/planted.ts";
import { endpoint } from "../endpoint.ts";
import { fields } from "../wire/fields.ts";
import { spellEntity } from "../wire/known.ts";
import { integer, object, scopeTags, uuid } from "../wire/shapes.ts";

const DEFAULT_THRESHOLD = 0.95;
const DEFAULT_RESULTS = 100;

const check = z.enum(FSCK_CHECKS);
const foundEntity = object({ id: uuid, type: z.string(), name: z.string(), scope: scopeTags });

const fsckResponse = object({
  duplicates: z.array(
    object({
      entityA: z.string().describe("<type>/<name>"),
      entityB: z.string().describe("<type>/<name>"),
      similarity: z.number(),
      entities: z.tuple([foundEntity, foundEntity]),
    }),
  ),
  contradictions: z.array(
    object({
      entity: z.string().describe("<type>/<name>"),
      key: z.string(),
      values: z.array(z.string()).describe("What is no string, as JSON"),
      facts: z.array(object({ id: uuid, value: z.unknown(), scope: scopeTags })),
    }),
  ),
  injection: z.array(object({ rowId: uuid, kind: z.enum(PLANTED_KINDS), snippet: z.string() })),
  unscopedContent: z.array(object({ table: z.string(), count: integer, sampleIds: z.array(uuid) })),
  total: integer,
  truncated: z.boolean(),
});

export const fsckEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/fsck",
    verb: "memory:read",
    operation: "fsck",
    summary: "Check memory for duplicates, contradictions, planted instructions and stray rows; changes nothing",
    answer: fsckResponse,
    body: fields({
      check: z.preprocess((one) => (typeof one === "string" ? [one] : one), z.array(check).min(1)).optional(),
      duplicateThreshold: z.number().min(0.5).max(1).optional(),
      maxResults: z.int().min(1).max(500).optional(),
    }),
    handle: ({ enter, body }) =>
      enter({}, async (tx) => {
        const { duplicates, contradictions, ...report } = await checkMemory(tx, {
          checks: body.check ?? FSCK_CHECKS,
          duplicateThreshold: body.duplicateThreshold ?? DEFAULT_THRESHOLD,
          maxResults: body.maxResults ?? DEFAULT_RESULTS,
        });
        return {
          duplicates: duplicates.map(({ entityA, entityB, similarity }) => ({
            entityA: spellEntity(entityA),
            entityB: spellEntity(entityB),
            similarity,
            entities: [entityA, entityB],
          })),
          contradictions: contradictions.map(({ entity, values, ...one }) => ({
            ...one,
            entity: spellEntity(entity),
            values: values.map(spellValue),
          })),
          ...report,
        };
      }),
  }),
];
