import { setImmediate } from "node:timers/promises";
import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { spellValue, stringifyJson } from "../exact-json.ts";
import { type Scope, scopeFromDatabase } from "../scope/scope.ts";
import { foldedName, identityOf } from "../text/names.ts";
import { type PlantedKind, plantedIn } from "../text/planted.ts";
import { recordTrace } from "../traces/record.ts";
import { factsAt } from "./fact-timeline.ts";
import type { EntityName } from "./triples.ts";

export const FSCK_CHECKS = ["duplicates", "contradictions", "injection", "unscopedContent"] as const;
export type FsckCheck = (typeof FSCK_CHECKS)[number];

export interface FsckRequest {
  readonly checks: readonly FsckCheck[];
  /** How alike two names are, from 0 to 1, that are reported. */
  readonly duplicateThreshold: number;
  /** Findings of each kind at most. */
  readonly maxResults: number;
}

interface FoundEntity extends EntityName {
  readonly id: string;
  readonly scope: Scope;
}

/** What a check of the caller's own memory found. Nothing is changed. */
export interface FsckReport {
  /** Entities of one type whose names are nearly the same. */
  readonly duplicates: readonly { entityA: FoundEntity; entityB: FoundEntity; similarity: number }[];
  /** An entity that has two values for a key at present, at whatever scopes. */
  readonly contradictions: readonly {
    entity: EntityName;
    key: string;
    values: readonly unknown[];
    facts: readonly { id: string; value: unknown; scope: Scope }[];
  }[];
  /** Texts that look like planted instructions. */
  readonly injection: readonly { rowId: string; kind: PlantedKind; snippet: string }[];
  /** Rows that no scope explains; looked for by who sees all of them. */
  readonly unscopedContent: readonly { table: string; count: number; sampleIds: readonly string[] }[];
  readonly total: number;
  /** There may be more: a limit was reached. */
  readonly truncated: boolean;
}

/** Entities whose names are compared, and keyed items that are read. */
const MOST_ENTITIES = 5_000;
const MOST_ITEMS = 2_000;
/** A trigram of so many names tells none of them apart. */
const COMMON_TRIGRAM = 200;
const SNIPPET_CHARACTERS = 160;

type Part<Found> = { readonly found: readonly Found[]; readonly isCut: boolean };
const NOTHING = { found: [], isCut: false };

/** Checks what the caller's floor holds, without a model. */
export async function checkMemory(tx: ScopedTransaction, request: FsckRequest): Promise<FsckReport> {
  const wants = (check: FsckCheck) => request.checks.includes(check);
  const duplicates = wants("duplicates") ? await duplicateEntities(tx, request) : NOTHING;
  const contradictions = wants("contradictions") ? await contradictingFacts(tx, request) : NOTHING;
  const injection = wants("injection") ? await plantedTexts(tx, request) : NOTHING;
  const unscopedContent = wants("unscopedContent") ? await unexplainedRows(tx) : [];
  const total = duplicates.found.length + contradictions.found.length + injection.found.length + unscopedContent.length;
  recordTrace(tx, { kind: "retrieval", operation: "fsck", returned: total });
  return {
    duplicates: duplicates.found,
    contradictions: contradictions.found,
    injection: injection.found,
    unscopedContent,
    total,
    truncated: [duplicates, contradictions, injection].some(({ isCut }) => isCut),
  };
}

async function duplicateEntities(
  tx: ScopedTransaction,
  { duplicateThreshold, maxResults }: FsckRequest,
): Promise<Part<FsckReport["duplicates"][number]>> {
  const rows = await tx.rows<EntityName & { id: string; tags: Record<string, string> }>(sql`
    SELECT e.id, e.type, e.name, d.tags FROM ${tx.read("entity", "e")} JOIN ${tx.read("scope", "d")} ON d.id = e.scope_id
    ORDER BY e.type, e.name, e.id LIMIT ${MOST_ENTITIES + 1}`);
  const entities = rows
    .slice(0, MOST_ENTITIES)
    .map(({ tags, ...row }): FoundEntity => ({ ...row, scope: scopeFromDatabase(tags) }));
  const pairs = (await similarNames(entities, duplicateThreshold)).sort((a, b) => b.similarity - a.similarity);
  return {
    found: pairs.slice(0, maxResults),
    isCut: rows.length > MOST_ENTITIES || pairs.length > maxResults,
  };
}

/** Letters and digits of a name, with a mark at each end. */
const skeletonOf = (name: string) => `^${foldedName(name).replace(/[^\p{L}\p{M}\p{N}]+/gu, "")}$`;

const trigramsOf = (text: string): ReadonlySet<string> =>
  new Set(Array.from({ length: Math.max(1, text.length - 2) }, (_, i) => text.slice(i, i + 3)));

/**
 * Pairs of names of one type by Dice's coefficient of their trigrams. Names that share no rare trigram are
 * not compared. (The same name at two scopes is the same entity there, and no pair.)
 */
async function similarNames(entities: readonly FoundEntity[], threshold: number) {
  const known = entities.map((entity) => ({
    entity,
    identity: identityOf(entity),
    type: foldedName(entity.type),
    trigrams: trigramsOf(skeletonOf(entity.name)),
  }));
  const byTrigram = new Map<string, number[]>();
  for (const [i, { type, trigrams }] of known.entries())
    for (const trigram of trigrams) {
      const others = byTrigram.get(`${type}\u001f${trigram}`);
      if (others === undefined) byTrigram.set(`${type}\u001f${trigram}`, [i]);
      else others.push(i);
    }
  const pairs = [];
  for (const [i, one] of known.entries()) {
    const candidates = new Set<number>();
    for (const trigram of one.trigrams) {
      const others = byTrigram.get(`${one.type}\u001f${trigram}`) ?? [];
      if (others.length <= COMMON_TRIGRAM) for (const other of others) if (other > i) candidates.add(other);
    }
    for (const j of candidates) {
      const other = known[j];
      if (other === undefined || other.identity === one.identity) continue;
      let shared = 0;
      for (const trigram of one.trigrams) if (other.trigrams.has(trigram)) shared++;
      const similarity = (2 * shared) / (one.trigrams.size + other.trigrams.size);
      if (similarity >= threshold) pairs.push({ entityA: one.entity, entityB: other.entity, similarity });
    }
    if (i % 50 === 49) await setImmediate(); // other requests go on between them
  }
  return pairs;
}

async function contradictingFacts(
  tx: ScopedTransaction,
  { maxResults }: FsckRequest,
): Promise<Part<FsckReport["contradictions"][number]>> {
  const { from } = factsAt(tx, "attribute", sql`true`, {});
  type Said = { readonly id: string; readonly value: unknown; readonly tags: Record<string, string> };
  const select = sql`
    SELECT min(e.type) AS type, min(e.name) AS name, min(f.key) AS key,
           jsonb_agg(jsonb_build_object('id', f.id, 'value', f.value, 'tags', d.tags) ORDER BY f.valid_from DESC, f.id) AS facts
    FROM ${from} JOIN ${tx.read("entity", "e")} ON e.scope_id = f.scope_id AND e.id = f.entity_id
    JOIN ${tx.read("scope", "d")} ON d.id = f.scope_id
    GROUP BY e.identity, f.normal_key HAVING count(DISTINCT f.value) > 1
    ORDER BY e.identity, f.normal_key LIMIT ${maxResults + 1}`;
  const rows = (await tx.rows<EntityName & { key: string; facts: Said[] }>(withinAnswer(select, "facts"))).map(
    uncounted,
  );
  const found = rows.slice(0, maxResults).map(({ type, name, key, facts }) => ({
    entity: { type, name },
    key,
    values: [...new Map(facts.map(({ value }) => [stringifyJson(value), value])).values()],
    facts: facts.map(({ tags, ...fact }) => ({ ...fact, scope: scopeFromDatabase(tags) })),
  }));
  return { found, isCut: rows.length > maxResults };
}

async function plantedTexts(
  tx: ScopedTransaction,
  { maxResults }: FsckRequest,
): Promise<Part<FsckReport["injection"][number]>> {
  const passages = await tx.rows<{ id: string; text: string; kinds: PlantedKind[] }>(sql`
    SELECT p.id, left(p.text, ${SNIPPET_CHARACTERS}) AS text, to_jsonb(p.suspicious) AS kinds FROM ${tx.read("passage", "p")}
    WHERE p.suspicious <> '{}' AND p.kind <> 'item' AND p.expired_at IS NULL ORDER BY p.observed_at DESC, p.id LIMIT ${maxResults + 1}`);
  const select = sql`
    SELECT m.id, m.key, m.value FROM ${tx.read("memory_item", "m")} ORDER BY m.updated_at DESC, m.id LIMIT ${MOST_ITEMS + 1}`;
  const items = (await tx.rows<{ id: string; key: string; value: unknown }>(withinAnswer(select, "value"))).map(
    uncounted,
  );
  const said = items.map(({ id, key, value }) => {
    const text = `${key}: ${spellValue(value)}`;
    return { id, text: text.slice(0, SNIPPET_CHARACTERS), kinds: plantedIn(text) };
  });
  const found = [...passages, ...said].flatMap(({ id, text, kinds }) =>
    kinds.map((kind) => ({ rowId: id, kind, snippet: text })),
  );
  return { found: found.slice(0, maxResults), isCut: found.length > maxResults || items.length > MOST_ITEMS };
}

async function unexplainedRows(tx: ScopedTransaction): Promise<FsckReport["unscopedContent"]> {
  const rows = await tx.callRows<{ name: string; n: number; samples: string[] }>("unscoped_content");
  return rows.map(({ name, n, samples }) => ({ table: name, count: n, sampleIds: samples }));
}
