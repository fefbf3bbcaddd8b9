import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { type Scope, scopeFromDatabase } from "../scope/scope.ts";
import { identityOf, normalKey } from "../text/names.ts";
import { recordTrace } from "../traces/record.ts";
import { type Attribute, attributesWhere, type FirstOf, type Relation, relationsWhere } from "./entities.ts";
import type { EntityName } from "./triples.ts";

/** A text that management gave as an instruction: a turn of the role `system`. Such turns of others are turns like any. */
export interface Instruction {
  readonly id: string;
  readonly text: string;
  readonly scope: Scope;
  readonly occurredAt: string;
}

const MOST_INSTRUCTIONS = 100;

/** Turns know no general rows: passages do, so that everyone's instructions are among them. */
async function instructionsOf(tx: ScopedTransaction): Promise<FirstOf<Instruction>> {
  const rows = await tx.rows<Omit<Instruction, "scope"> & { tags: Record<string, string> }>(sql`
    SELECT p.id, p.text, p.observed_at AS "occurredAt", d.tags FROM ${tx.read("passage", "p")}
    JOIN ${tx.read("scope", "d")} ON d.id = p.scope_id
    WHERE p.kind = 'turn' AND p.role = 'system' AND p.author = 'management' AND p.expired_at IS NULL AND (p.ends_at > now()) IS NOT FALSE
    ORDER BY p.observed_at DESC, p.id DESC LIMIT ${MOST_INSTRUCTIONS + 1}`);
  const newest = rows
    .slice(0, MOST_INSTRUCTIONS)
    .map(({ tags, ...row }) => ({ ...row, scope: scopeFromDatabase(tags) }));
  return Object.assign(newest, { isCut: rows.length > MOST_INSTRUCTIONS });
}

const everything = sql`true`;
/** The first word of a key that says so: `likes`, `favourite_tea`, and not `likelihood_of_rain`. */
const PREFERENCE =
  /^(prefer(s|red|ences?)?|(dis)?like[sd]?|favou?rites?|love[sd]?|hate[sd]?|avoid(s|ed)?)(_|$)|_preferences?$/;
const saysPreference = ({ key }: Attribute) => PREFERENCE.test(normalKey(key));

export interface Profile {
  /** What changes seldom: facts of the categories identity and knowledge. */
  readonly static: readonly Attribute[];
  /** What is so at the moment: facts of the category context, or of none. */
  readonly dynamic: readonly Attribute[];
  /** Facts whose key says that somebody prefers, likes or avoids something. */
  readonly preferences: readonly Attribute[];
  readonly instructions: readonly Instruction[];
  /** There is more than this. */
  readonly truncated: boolean;
}

export async function profileOf(tx: ScopedTransaction): Promise<Profile> {
  const [attributes, instructions] = await Promise.all([attributesWhere(tx, everything), instructionsOf(tx)]);
  recordTrace(tx, { kind: "retrieval", operation: "profile", returned: attributes.length + instructions.length });
  const others = attributes.filter((attribute) => !saysPreference(attribute));
  const isStatic = ({ category }: Attribute) => category === "identity" || category === "knowledge";
  return {
    static: others.filter(isStatic),
    dynamic: others.filter((attribute) => !isStatic(attribute)),
    preferences: attributes.filter(saysPreference),
    instructions,
    truncated: attributes.isCut || instructions.isCut,
  };
}

/** What is known of one category. */
export interface StatePart {
  readonly attributes: readonly Attribute[];
  readonly relations: readonly Relation[];
}

export interface State {
  readonly identity: StatePart;
  /** With the facts that were given no category. */
  readonly knowledge: StatePart;
  readonly context: StatePart;
  readonly instructions: readonly Instruction[];
  /** Entities that something points at and of which nothing is known. */
  readonly unknowns: readonly EntityName[];
  /** There is more than this. */
  readonly truncated: boolean;
}

export async function stateOf(tx: ScopedTransaction): Promise<State> {
  const [attributes, relations, instructions] = await Promise.all([
    attributesWhere(tx, everything),
    relationsWhere(tx, everything),
    instructionsOf(tx),
  ]);
  recordTrace(tx, {
    kind: "retrieval",
    operation: "state",
    returned: attributes.length + relations.length + instructions.length,
  });
  const part = (category: string): StatePart => {
    const isIn = (fact: { category: string | null }) => (fact.category ?? "knowledge") === category;
    return { attributes: attributes.filter(isIn), relations: relations.filter(isIn) };
  };
  const known = new Set([...attributes, ...relations].map(({ entity }) => identityOf(entity)));
  return {
    identity: part("identity"),
    knowledge: part("knowledge"),
    context: part("context"),
    instructions,
    unknowns: distinct(relations.map(({ target }) => target)).filter((target) => !known.has(identityOf(target))),
    truncated: attributes.isCut || relations.isCut || instructions.isCut,
  };
}

const distinct = (names: readonly EntityName[]) => [...new Map(names.map((name) => [identityOf(name), name])).values()];
