import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import type { Embedded } from "../models/embedder.ts";
import { countTokens } from "../models/tokens.ts";
import { storePassages } from "./store-passages.ts";

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

export interface StoredTriple {
  readonly id: string;
  readonly entityId: string;
  readonly entity: EntityName;
  readonly key: string;
  readonly value?: unknown;
  readonly target?: EntityName;
  /** False: the same was known already. */
  readonly stored: boolean;
  /** False: it was observed before the value that is current, and is history. */
  readonly current: boolean;
  /** The facts that it closed. */
  readonly superseded: readonly string[];
}

const spell = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));

/** A fact in words, as recall finds and shows it. */
export const sentenceOf = ({ entity, key, value, target }: Pick<Triple, "entity" | "key" | "value" | "target">) =>
  target === undefined
    ? `${entity.name}: ${key.replace(/[_-]+/g, " ")}: ${spell(value)}`
    : `${entity.name} ${key.replace(/[_-]+/g, " ")} ${target.name}`;

/**
 * Stores triples at the write scope, with what they supersede, and makes each current one a passage.
 *
 * @param embedded the vectors of their sentences, in order; undefined: the queue makes them
 */
export async function storeTriples(
  tx: ScopedTransaction,
  triples: readonly Triple[],
  about: {
    readonly sessionId: string;
    readonly turnId: string | null;
    readonly observedAt: string;
    readonly labels: readonly string[];
    readonly embedderId: number;
  },
  embedded: Embedded | undefined,
): Promise<StoredTriple[]> {
  const rows = triples.map(({ entity, key, value, target, category }) => ({
    id: uuid(),
    entity,
    key,
    category,
    at: about.observedAt,
    ...(target === undefined ? { value } : { target }),
  }));
  const outcomes = await tx.call<Pick<StoredTriple, "id" | "entityId" | "stored" | "current" | "superseded">[]>(
    "put_triples",
    json(rows),
    about.sessionId,
    about.turnId,
  );
  const stored = triples.map(({ category: _, ...triple }, i) => ({ ...triple, ...outcomes[i] }) as StoredTriple);
  // Of two values for the same key in one call the later has taken the earlier one's place already.
  const gone = new Set(stored.flatMap(({ superseded }) => superseded));
  const known = stored.map((triple) => (gone.has(triple.id) ? { ...triple, current: false } : triple));
  await storePassages(
    tx,
    embedded === undefined ? null : about.embedderId,
    known.flatMap((triple, i) => {
      if (!triple.stored || !triple.current) return [];
      const text = sentenceOf(triple);
      return [
        {
          id: triple.id,
          kind: "attribute" as const,
          sessionId: about.sessionId,
          text,
          labels: about.labels,
          category: triples[i]?.category ?? null,
          tokens: countTokens(text),
          embedding: embedded?.vectors[i] ?? null,
          observedAt: about.observedAt,
        },
      ];
    }),
  );
  return known;
}
