import { v7 as uuid } from "uuid";
import { contextSecondsOf } from "../context/settings.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import type { Embedded } from "../models/embedder.ts";
import type { Models } from "../models/models.ts";
import { recordTrace, spentOn } from "../traces/record.ts";
import { insertSession } from "./sessions.ts";
import { type StoredTriple, sentenceOf, storeTriples, type Triple } from "./triples.ts";
import { insertTurns, type NewTurn, type PreparedTurns, prepareTurns } from "./turns.ts";

/** A fact with its vectors: made before the transaction opens. */
export interface PreparedFact {
  readonly turns: PreparedTurns;
  readonly triples: readonly Triple[];
  /** Of the triples' sentences; undefined: the queue sees to them. */
  readonly embedded: Embedded | undefined;
  readonly labels: readonly string[];
  readonly observedAt: string | undefined;
}

/** @param turn the fact in words, if it has any */
export async function prepareFact(
  models: Models,
  turn: NewTurn | undefined,
  triples: readonly Triple[],
  about: { readonly labels: readonly string[]; readonly observedAt: string | undefined },
): Promise<PreparedFact> {
  const [turns, embedded] = await Promise.all([
    prepareTurns(models, turn === undefined ? [] : [turn]),
    triples.length === 0 ? undefined : models.embedNow(triples.map(sentenceOf)),
  ]);
  return { turns, triples, embedded, labels: about.labels, observedAt: about.observedAt };
}

export interface StoredFact {
  readonly sessionId: string;
  readonly turnId?: string;
  readonly chunkId?: string;
  readonly triples: readonly StoredTriple[];
}

/** Stores a fact's words as a turn, and its triples as entities, attributes and relations. */
export async function storeFact(
  tx: ScopedTransaction,
  models: Models,
  fact: PreparedFact,
  inSession: string | undefined,
): Promise<StoredFact> {
  const sessionId = inSession ?? (await insertSession(tx, {})).id;
  const turns = fact.turns.turns.length === 0 ? undefined : await insertTurns(tx, models, fact.turns, sessionId);
  const triples =
    fact.triples.length === 0
      ? []
      : await storeTriples(
          tx,
          fact.triples,
          {
            labels: fact.labels,
            observedAt: fact.observedAt,
            sessionId,
            turnId: turns?.turnIds[0] ?? null,
            embedderId: models.current.id,
            contextSeconds: contextSecondsOf(tx),
          },
          fact.embedded,
        );
  const isMissing = fact.turns.embedded === undefined || (fact.triples.length > 0 && fact.embedded === undefined);
  if (isMissing) await tx.call("enqueue", uuid(), "embed", null, null);
  const spent = [fact.turns.embedded, fact.embedded].filter(
    (embedded) => embedded !== undefined && embedded.tokens > 0,
  );
  recordTrace(tx, {
    kind: "decision",
    operation: "facts",
    sessionId,
    ...spentOn(models.current, spent.length === 0 ? undefined : sumOf(spent)),
  });
  return {
    sessionId,
    ...(turns === undefined ? {} : { turnId: turns.turnIds[0], chunkId: turns.passageIds[0] }),
    triples,
  };
}

const sumOf = (spent: readonly (Embedded | undefined)[]) => ({
  tokens: spent.reduce((sum, embedded) => sum + (embedded?.tokens ?? 0), 0),
  tokenSource: spent.some((embedded) => embedded?.tokenSource === "provider")
    ? ("provider" as const)
    : ("tokenizer" as const),
});
