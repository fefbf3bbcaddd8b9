import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { spellValue } from "../exact-json.ts";
import { type Attribute, attributesWhere, NARROWEST_FIRST, type Relation, relationsWhere } from "../memory/entities.ts";
import { isPresent, type Moment } from "../memory/fact-timeline.ts";
import { IS_KEPT } from "../memory/items.ts";
import { sentenceOf } from "../memory/triples.ts";
import { type Scope, sameScope, scopeFromDatabase } from "../scope/scope.ts";
import { foldedName, identityOf, normalKey } from "../text/names.ts";

/** A question that names what it wants: a key of an entity, or a key of the keyed store. */
export type TypedQuestion =
  | { readonly kind: "attribute"; readonly entity: string; readonly type: string | undefined; readonly key: string }
  | { readonly kind: "keyed"; readonly key: string };

const OPENING =
  /^(?:what|who|where|when|which)(?:['’]s| is| are| was| were)\s+|^(?:tell me|give me|show me|get|find)\s+/i;
/** Letters of any script with their marks, digits, and what names have inside: O'Brien, AT&T, C++, St. John, John/Jane. */
const NAME = /^[\p{L}\p{N}][\p{L}\p{M}\p{N}\p{Cf} ._@'’&+#!,()/-]{0,127}$/u;

/**
 * What a question asks for by name; undefined: it is an open one. Known forms: `What is Alice's
 * favourite drink?`, `What is the favourite drink of Alice?`, `Person/Alice favourite_drink`,
 * `Alice.favourite_drink`, `memory:theme`.
 */
export function parseTypedQuestion(query: string): TypedQuestion | undefined {
  const asked = query.trim().replace(/\s*[?.!]+$/, "");
  const keyed = /^memory:(\S{1,256})$/.exec(asked)?.[1];
  if (keyed !== undefined) return { kind: "keyed", key: keyed };
  const bare = asked.replace(OPENING, "").trim();
  const isQuestion = bare !== asked;
  const named = /^(\p{L}[\p{L}\p{M}\p{N}_-]{0,63})\/([^/]{1,128}?)[ .]([\p{L}\p{M}\p{N}_-]{1,128})$/u.exec(bare);
  if (named !== null) return attribute(named[2], named[3], named[1]);
  const possessive = /^(.{1,128}?)(?:['’]s|(?<=s)['’])\s+(.{1,128})$/.exec(bare);
  if (possessive !== null) return attribute(possessive[1], possessive[2]);
  const of = isQuestion ? /^(?:the\s+)?(.{1,128}?)\s+of\s+(.{1,128})$/i.exec(bare) : null;
  if (of !== null) return attribute(of[2], of[1]);
  const dotted = /^([\p{L}\p{M}\p{N}_'’&+-]{1,128})\.([\p{L}\p{M}\p{N}_-]{1,128})$/u.exec(bare);
  return dotted === null ? undefined : attribute(dotted[1], dotted[2]);
}

function attribute(entity = "", key = "", type?: string): TypedQuestion | undefined {
  const name = entity.trim();
  return NAME.test(name) && NAME.test(key.trim())
    ? { kind: "attribute", entity: name, type, key: normalKey(key.trim()) }
    : undefined;
}

export interface DirectHit {
  readonly id: string;
  /** Of a keyed item. */
  readonly key?: string;
  readonly source: "attribute";
  readonly text: string;
  readonly score: number;
  readonly scope: Scope;
  readonly labels: readonly string[];
  readonly occurredAt: string;
  readonly createdAt: string;
  readonly sessionId?: string;
  readonly turnId?: string;
}

export interface DirectAnswer {
  readonly hits: readonly DirectHit[];
  readonly seedEntities: readonly { readonly type: string; readonly name: string }[];
  readonly reason: string;
}

/** Answers a typed question from what is stored under the very names; undefined: there is nothing. */
export async function answerDirectly(
  tx: ScopedTransaction,
  question: TypedQuestion,
  moment: Moment,
  k: number,
): Promise<DirectAnswer | undefined> {
  if (question.kind === "attribute") return byEntity(tx, question, moment, k);
  // The keyed store has no history.
  return isPresent(moment) ? byKey(tx, question.key) : undefined;
}

async function byKey(tx: ScopedTransaction, key: string): Promise<DirectAnswer | undefined> {
  // Never from below E, whatever the view; several clauses have no one E.
  if (tx.entry.effective === null) return undefined;
  const item = await tx.row<{ id: string; value: unknown; tags: Record<string, string>; updatedAt: string }>(sql`
    SELECT m.id, m.value, d.tags, m.updated_at AS "updatedAt"
    FROM ${tx.read("memory_item", "m")} JOIN ${tx.read("scope", "d")} ON d.id = m.scope_id
    WHERE ${tx.isNamed("m", "key_hash", key)} AND d.tags <@ ${json(tx.entry.effective)} AND ${IS_KEPT} ORDER BY ${NARROWEST_FIRST} LIMIT 1`);
  if (item === undefined) return undefined;
  return {
    hits: [
      {
        id: item.id,
        source: "attribute",
        key,
        text: `${key}: ${spellValue(item.value)}`,
        score: 1,
        scope: scopeFromDatabase(item.tags),
        labels: [],
        occurredAt: item.updatedAt,
        createdAt: item.updatedAt,
      },
    ],
    seedEntities: [],
    reason: "typed question: a key of the keyed store",
  };
}

/** The facts of the narrowest scope that says anything: that one answers. */
function ofTheNarrowest<F extends { readonly scope: Scope }>(facts: readonly F[]): F[] {
  const [first, ...rest] = facts;
  if (first === undefined) return [];
  const narrowest = rest.reduce(
    (best, { scope }) => (Object.keys(scope).length > Object.keys(best).length ? scope : best),
    first.scope,
  );
  return facts.filter(({ scope }) => sameScope(scope, narrowest));
}

async function byEntity(
  tx: ScopedTransaction,
  { entity, type, key }: Extract<TypedQuestion, { kind: "attribute" }>,
  moment: Moment,
  k: number,
): Promise<DirectAnswer | undefined> {
  const where = sql`${tx.isNamed("e", "folded_hash", foldedName(entity))} AND ${tx.isNamed("f", "key_hash", key)}`;
  const [attributes, relations] = await Promise.all([
    attributesWhere(tx, where, moment),
    relationsWhere(tx, where, moment),
  ]);
  const isOfType = ({ entity: { type: of } }: Attribute | Relation) =>
    type === undefined || foldedName(of) === foldedName(type);
  const facts: (Attribute | Relation)[] = [...attributes, ...relations].filter(isOfType);
  // Whoever has the very name comes before others of another spelling.
  const isExact = (fact: Attribute | Relation) =>
    identityOf({ type: "", name: fact.entity.name }) === identityOf({ type: "", name: entity });
  const answering = [
    ...ofTheNarrowest(facts.filter(isExact)),
    ...ofTheNarrowest(facts.filter((fact) => !isExact(fact))),
  ].slice(0, k);
  if (answering.length === 0) return undefined;
  return {
    hits: answering.map((fact) => ({
      id: fact.id,
      source: "attribute",
      text: sentenceOf(fact),
      score: 1,
      scope: fact.scope,
      labels: fact.labels,
      occurredAt: fact.validFrom,
      createdAt: fact.createdAt,
      ...(fact.sessionId === null ? {} : { sessionId: fact.sessionId }),
      ...(fact.turnId === null ? {} : { turnId: fact.turnId }),
    })),
    seedEntities: [...new Map(answering.map(({ entity }) => [`${entity.type}/${entity.name}`, entity])).values()],
    reason: "typed question: an attribute of an entity",
  };
}
