/** What is known, as answers have it: entities, facts about them, instructions. */
import { z } from "zod";
import { spellValue } from "../../exact-json.ts";
import type { Attribute, DescribedEntity, Entity, Relation } from "../../memory/entities.ts";
import type { Instruction, Profile, State, StatePart } from "../../memory/profile.ts";
import type { EntityName, MemoryCategory } from "../../memory/triples.ts";
import { memoryCategory } from "./fields.ts";
import { instant, object, scopeTags, uuid } from "./shapes.ts";

/** An entity in one word, as `GET /inspect?ref=entity:…` takes it. */
export const spellEntity = ({ type, name }: EntityName) => `${type}/${name}`;

/** How much it matters, by how lasting what is said is. */
const IMPORTANCE: Record<MemoryCategory, number> = { identity: 1, knowledge: 0.8, context: 0.5 };
/** What was given no category is knowledge. */
export const categoryOf = (category: string | null): MemoryCategory => (category ?? "knowledge") as MemoryCategory;
const weight = (category: string | null) => ({
  memoryCategory: categoryOf(category),
  importance: IMPORTANCE[categoryOf(category)],
});

const inOneWord = z.string().describe("<type>/<name> of an entity");

export const entity = object({
  id: uuid,
  type: z.string(),
  entityType: z.string(),
  name: z.string(),
  memoryCategory,
  importance: z.number(),
  scope: scopeTags,
  createdAt: instant,
  updatedAt: instant,
}).meta({ id: "Entity" });

const fact = {
  id: uuid,
  entity: inOneWord,
  entityId: uuid,
  entityType: z.string(),
  entityName: z.string(),
  key: z.string(),
  category: z.string().nullable().describe("As it was given"),
  memoryCategory,
  importance: z.number(),
  validFrom: instant,
  validUntil: instant.nullable(),
  supersededBy: uuid.nullable(),
  createdAt: instant,
  closedAt: instant.nullable(),
  sessionId: uuid.nullable(),
  turnId: uuid.nullable(),
  labels: z.array(z.string()),
  scope: scopeTags,
};

export const attribute = object({
  ...fact,
  value: z.string().describe("Its value; what is no string, as JSON"),
  json: z.unknown().describe("Its value as JSON"),
}).meta({ id: "Attribute" });
export const relation = object({
  ...fact,
  subject: inOneWord,
  label: z.string().describe("The key"),
  object: inOneWord,
  value: inOneWord.describe("The object"),
  target: object({ type: z.string(), name: z.string() }),
}).meta({ id: "Relation" });
export const described = { entity, attributes: z.array(attribute), relations: z.array(relation) };
export const facet = z.array(z.union([attribute, relation]));

export const instruction = object({
  id: uuid,
  label: z.string().describe("Its beginning"),
  description: z.string().describe("All of it"),
  text: z.string(),
  scope: scopeTags,
  occurredAt: instant,
}).meta({ id: "Instruction" });

const latest = (facts: readonly (Attribute | Relation)[], otherwise: string) =>
  facts.reduce((last, { createdAt }) => (createdAt > last ? createdAt : last), otherwise);

/** @param facts that are said of it, where they are at hand */
export const tellEntity = (one: Entity, facts: readonly (Attribute | Relation)[] = []) => ({
  ...one,
  entityType: one.type,
  ...weight(facts[0]?.category ?? null),
  updatedAt: latest(facts, one.createdAt),
});

function tellFact({ entity: of, entityCreatedAt: _, ...rest }: Omit<Attribute, "value"> | Omit<Relation, "target">) {
  return { ...rest, entity: spellEntity(of), entityType: of.type, entityName: of.name, ...weight(rest.category) };
}

export const tellAttribute = ({ value, ...rest }: Attribute) => ({
  ...tellFact(rest),
  value: spellValue(value),
  json: value,
});

export const tellRelation = ({ target, ...rest }: Relation) => ({
  ...tellFact(rest),
  subject: spellEntity(rest.entity),
  label: rest.key,
  object: spellEntity(target),
  value: spellEntity(target),
  target,
});

export const tellFacts = (facts: readonly (Attribute | Relation)[]) =>
  facts.map((one) => ("target" in one ? tellRelation(one) : tellAttribute(one)));

export const tellDescribed = ({ entity: one, attributes, relations }: DescribedEntity) => ({
  entity: tellEntity(one, [...attributes, ...relations]),
  attributes: attributes.map(tellAttribute),
  relations: relations.map(tellRelation),
});

/** Characters of an instruction's label. */
const LABEL_CHARACTERS = 60;

const tellInstruction = (one: Instruction) => {
  const [line = ""] = one.text.trim().split("\n");
  const label = line.length <= LABEL_CHARACTERS ? line : `${line.slice(0, LABEL_CHARACTERS - 1).toWellFormed()}…`;
  return { ...one, label, description: one.text };
};

export const tellProfile = (profile: Profile) => ({
  static: profile.static.map(tellAttribute),
  dynamic: profile.dynamic.map(tellAttribute),
  preferences: profile.preferences.map(tellAttribute),
  instructions: profile.instructions.map(tellInstruction),
  truncated: profile.truncated,
});

const tellPart = (part: StatePart) => {
  const facts = [...part.attributes, ...part.relations];
  const of = new Map(facts.map((one) => [one.entityId, one]));
  return {
    entities: [...of.values()].map(({ entity: { type, name }, entityId: id, entityCreatedAt: createdAt, scope }) =>
      tellEntity(
        { id, type, name, createdAt, scope },
        facts.filter(({ entityId }) => entityId === id),
      ),
    ),
    attributes: part.attributes.map(tellAttribute),
    relations: part.relations.map(tellRelation),
  };
};

export const tellState = (state: State) => ({
  identity: tellPart(state.identity),
  knowledge: tellPart(state.knowledge),
  context: tellPart(state.context),
  instructions: state.instructions.map(tellInstruction),
  unknowns: state.unknowns.map((one) => ({
    about: spellEntity(one),
    reason: "something points at it, and nothing is said of it",
    ...one,
  })),
  truncated: state.truncated,
});
