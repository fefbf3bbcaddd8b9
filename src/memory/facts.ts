import { v7 as uuid } from "uuid";
import { contextSecondsOf } from "../context/settings.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import type { Meter } from "../metering/model-call.ts";
import type { Embedded } from "../models/embedder.ts";
import type { ScopeModels } from "../models/models.ts";
import { recordTrace, spending } from "../traces/record.ts";
import { insertSession } from "./sessions.ts";
import { type StoredTriple, sentenceOf, storeTriples, type Triple } from "./triples.ts";
import { countedTurns, insertTurns, type NewTurn, type PreparedTurns } from "./turns.ts";

/** A fact's value as JSON, in characters at most. */
export const FACT_VALUE_LIMIT = 16 * 1024;

/** A fact with its vectors: made before the transaction opens. */
export interface PreparedFact {
  readonly turns: Pick<PreparedTurns, "turns" | "embedded">;
  readonly triples: readonly Triple[];
  /** Of the triples' sentences; undefined: the queue sees to them. */
  readonly embedded: Embedded | undefined;
  readonly spent: PreparedTurns["spent"];
  readonly labels: readonly string[];
  readonly observedAt: string | undefined;
}

/** @param turn the fact in words, if it has any */
export async function prepareFact(
  models: ScopeModels,
  meter: Meter,
  turn: NewTurn | undefined,
  triples: readonly Triple[],
  about: { readonly labels: readonly string[]; readonly observedAt: string | undefined },
): Promise<PreparedFact> {
  const said = turn === undefined ? [] : [turn];
  const texts = [...said.map(({ content }) => content), ...triples.map(sentenceOf)];
  const [turns, now] = await Promise.all([countedTurns(said), models.embedNow(meter, texts)]);
  const { embedded } = now;
  const part = (from: number, to: number): Embedded | undefined =>
    embedded === undefined ? undefined : { ...embedded, vectors: embedded.vectors.slice(from, to) };
  return {
    turns: { turns, embedded: part(0, said.length) },
    triples,
    embedded: part(said.length, texts.length),
    spent: spending(now),
    labels: about.labels,
    observedAt: about.observedAt,
  };
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
  fact: PreparedFact,
  inSession: string | undefined,
): Promise<StoredFact> {
  const sessionId = inSession ?? (await insertSession(tx, {})).id;
  const turns = fact.turns.turns.length === 0 ? undefined : await insertTurns(tx, fact.turns, sessionId);
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
            contextSeconds: contextSecondsOf(tx),
          },
          fact.embedded,
        );
  const isMissing = fact.embedded === undefined;
  if (isMissing) await tx.call("enqueue", uuid(), "embed", null, null);
  recordTrace(tx, {
    kind: "decision",
    operation: "facts",
    sessionId,
    ...fact.spent,
  });
  return {
    sessionId,
    ...(turns === undefined ? {} : { turnId: turns.turnIds[0], chunkId: turns.passageIds[0] }),
    triples,
  };
}
