/** What a write says of entities, as answers have it. */
import { z } from "zod";
import { spellValue } from "../../exact-json.ts";
import { type Outcome, sentenceOf, type Triple } from "../../memory/triples.ts";
import { memoryCategory } from "./fields.ts";
import { categoryOf, spellEntity } from "./known.ts";
import { object } from "./shapes.ts";

const fact = {
  id: z.string(),
  entityId: z.string(),
  entity: z.string().describe("<type>/<name>"),
  key: z.string(),
  memoryCategory,
  sentence: z.string().describe("The fact in words, as recall finds it"),
  stored: z.boolean().describe("False: it confirms what was known already, and the id is that fact's"),
  current: z.boolean().describe("Whether it is so at present"),
  superseded: z.array(z.string()).describe("The facts that it ended"),
};

export const extraction = object({
  turnId: z.string().describe("Empty: there is no turn"),
  entities: z.array(
    object({
      id: z.string(),
      type: z.string(),
      entityType: z.string(),
      name: z.string(),
      memoryCategory,
      isNew: z.boolean(),
    }),
  ),
  attributes: z.array(object({ ...fact, value: z.string(), json: z.unknown() })),
  relations: z.array(
    object({ ...fact, subject: z.string(), label: z.string(), object: z.string(), targetId: z.string() }),
  ),
  instructions: z.array(z.never()),
  uncertainties: z.array(z.never()),
  corrections: z.array(z.never()),
}).meta({ id: "Extraction" });

/** Of what is only looked at: nothing has an id. */
const NOTHING_STORED: Outcome = {
  id: "",
  entityId: "",
  newEntities: [],
  stored: false,
  current: false,
  superseded: [],
};

export const isAttribute = ({ target }: Triple) => target === undefined;

/** @param triples with what came of them, where they were stored */
export function extractionOf(triples: readonly (Triple & Partial<Outcome>)[], turnId = "") {
  // In one order, whether they are told for the first time or again.
  const inOrder = [...triples.filter(isAttribute), ...triples.filter((triple) => !isAttribute(triple))];
  const all = inOrder.map((triple) => ({ ...NOTHING_STORED, ...triple }));
  const entities = new Map(
    all.flatMap(({ entity, target, entityId, targetId = "", newEntities, category }) =>
      [{ ...entity, id: entityId }, ...(target === undefined ? [] : [{ ...target, id: targetId }])].map(
        ({ id, type, name }) => [
          spellEntity({ type, name }),
          { id, type, entityType: type, name, memoryCategory: categoryOf(category), isNew: newEntities.includes(id) },
        ],
      ),
    ),
  );
  const told = ({
    id,
    entityId,
    entity,
    key,
    category,
    stored,
    current,
    superseded,
    ...said
  }: (typeof all)[number]) => ({
    id,
    entityId,
    entity: spellEntity(entity),
    key,
    memoryCategory: categoryOf(category),
    sentence: sentenceOf({ entity, key, ...said }),
    stored,
    current,
    superseded,
  });
  return {
    turnId,
    entities: [...entities.values()],
    attributes: all
      .filter(isAttribute)
      .map((triple) => ({ ...told(triple), value: spellValue(triple.value), json: triple.value })),
    relations: all.flatMap((triple) =>
      triple.target === undefined
        ? []
        : [
            {
              ...told(triple),
              subject: spellEntity(triple.entity),
              label: triple.key,
              object: spellEntity(triple.target),
              targetId: triple.targetId ?? "",
            },
          ],
    ),
    instructions: [],
    uncertainties: [],
    corrections: [],
  };
}

/** What came of the triples of an extraction: of its attributes, and then of its relations. */
export function outcomesIn({ entities, attributes, relations }: ReturnType<typeof extractionOf>): Outcome[] {
  const fresh = new Set(entities.flatMap(({ id, isNew }) => (isNew ? [id] : [])));
  return [...attributes, ...relations].map((one) => {
    const { id, entityId, stored, current, superseded } = one;
    const targetId = "targetId" in one ? one.targetId : undefined;
    const newEntities = [entityId, ...(targetId === undefined ? [] : [targetId])].filter((of) => fresh.has(of));
    return { id, entityId, ...(targetId === undefined ? {} : { targetId }), newEntities, stored, current, superseded };
  });
}
