import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { spellValue } from "../exact-json.ts";
import type { Embedded } from "../models/embedder.ts";
import { countTokens } from "../models/tokens.ts";
import { foldedName, identityOf, normalKey, wordsOfKey } from "../text/names.ts";
import { plantedIn } from "../text/planted.ts";
import { sameTextDigest } from "../text/same-text.ts";
import { indexerOf } from "./store-passages.ts";

export interface EntityName {
  readonly type: string;
  readonly name: string;
}

export type MemoryCategory = "identity" | "knowledge" | "context";

/** A literal fact: an entity has a value for a key, or stands in a relation to another. */
export interface Triple {
  readonly entity: EntityName;
  readonly key: string;
  readonly category: MemoryCategory | null;
  /** Exactly one of the two. */
  readonly value?: unknown;
  readonly target?: EntityName;
}

/** What came of a triple. */
export interface Outcome {
  readonly id: string;
  readonly entityId: string;
  /** Of the target. */
  readonly targetId?: string;
  /** Those of its entities that nobody had spoken of at this scope before. */
  readonly newEntities: readonly string[];
  /** False: it confirms what was known already, and the id is that fact's. */
  readonly stored: boolean;
  /** Whether it is so at present: not over, and not of the future. */
  readonly current: boolean;
  /** The facts that it ended. */
  readonly superseded: readonly string[];
}

export type StoredTriple = Triple & Outcome;

/** A fact in words, as recall finds and shows it. */
export const sentenceOf = ({ entity, key, value, target }: Pick<Triple, "entity" | "key" | "value" | "target">) =>
  target === undefined
    ? `${entity.name}: ${wordsOfKey(key)}: ${spellValue(value)}`
    : `${entity.name} ${wordsOfKey(key)} ${target.name}`;

const named = (entity: EntityName) => ({ ...entity, identity: identityOf(entity), folded: foldedName(entity.name) });

/** Where and how triples are said. */
export interface Saying {
  readonly sessionId: string;
  readonly turnId: string | null;
  /** RFC 3339; undefined: now, by the database's clock. */
  readonly observedAt: string | undefined;
  readonly labels: readonly string[];
  /** How long what is only so for a while is so, in seconds. */
  readonly contextSeconds: number;
}

/**
 * Stores triples at the write scope, with what follows for what was known before, and makes each one that is
 * not over a passage: the database does all of it (src/db/sql/2_memory/7_facts.sql).
 *
 * @param embedded the vectors of their sentences, in order; undefined: the queue makes them
 */
export async function storeTriples(
  tx: ScopedTransaction,
  triples: readonly Triple[],
  about: Saying,
  embedded: Embedded | undefined,
): Promise<StoredTriple[]> {
  const index = await indexerOf(tx);
  const rows = triples.map(({ entity, key, value, target, category }, i) => {
    const sentence = sentenceOf({ entity, key, value, ...(target === undefined ? {} : { target }) });
    return {
      id: uuid(),
      entity: named(entity),
      key,
      normalKey: normalKey(key),
      category,
      ...(target === undefined ? { value } : { target: named(target) }),
      sentence,
      ...index({ text: sentence }),
      digest: sameTextDigest(sentence),
      suspicious: plantedIn(sentence),
      tokens: countTokens(sentence),
      labels: about.labels,
      ...(about.observedAt === undefined ? {} : { at: about.observedAt }),
      ...(category === "context" ? { lifetime: about.contextSeconds } : {}),
      ...(embedded === undefined ? {} : { embedding: embedded.vectors[i] ?? null }),
    };
  });
  const outcomes = await tx.call<Outcome[]>(
    "put_triples",
    json(rows),
    about.sessionId,
    about.turnId,
    embedded?.embedderId ?? null,
  );
  const stored = triples.map((triple, i) => ({ ...triple, ...outcomes[i] }) as StoredTriple);
  // Of two values for the same key in one call the later has taken the earlier one's place already.
  const gone = new Set(stored.flatMap(({ superseded }) => superseded));
  return stored.map((triple) => (gone.has(triple.id) ? { ...triple, current: false } : triple));
}
