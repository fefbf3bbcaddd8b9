import { v7 as uuid } from "uuid";
import { contextSecondsOf } from "../context/settings.ts";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError, invalid, notFound, unprocessable } from "../errors.ts";
import { stringifyJson } from "../exact-json.ts";
import type { Meter } from "../metering/model-call.ts";
import type { Embedded } from "../models/embedder.ts";
import type { EmbeddedNow } from "../models/metered.ts";
import type { ScopeModels } from "../models/models.ts";
import { countTokens } from "../models/tokens.ts";
import { cuesOf } from "../text/answer-cues.ts";
import { wordsOfKey } from "../text/names.ts";
import { plantedIn } from "../text/planted.ts";
import { sameTextDigest } from "../text/same-text.ts";
import { recordTrace, spending } from "../traces/record.ts";
import { FACT_VALUE_LIMIT } from "./facts.ts";
import { ItemTexts } from "./item-text.ts";
import { findMemory, type Memory, type MemoryWithHistory, withHistory } from "./memories.ts";
import { recallItems } from "./recalled-items.ts";
import { indexerOf } from "./store-passages.ts";
import { type EntityName, type MemoryCategory, sentenceOf, storeTriples } from "./triples.ts";

/** What is to be different; what is absent stays. */
export interface Correction {
  readonly text?: string | undefined;
  /** Of a fact with a value, or of a keyed item. */
  readonly value?: unknown;
  readonly labels?: readonly string[] | undefined;
  /** RFC 3339; `never`: it stays. */
  readonly expiresAt?: string | undefined;
  /** Keep what it said before, for those who ask for it by its id, or for a moment of the past. */
  readonly keepHistory?: boolean | undefined;
}

interface FactValue {
  readonly entity: EntityName;
  readonly key: string;
  readonly category: MemoryCategory | null;
}

/** A correction that was checked against the memory, with what it makes of its text. */
export interface CheckedCorrection {
  readonly memory: Memory;
  readonly change: Correction;
  /** Of an attribute. */
  readonly fact?: FactValue;
  /** The new text, as it is recalled; absent: it stays, or is an item's that is not recalled. */
  readonly said?: string;
  /** The new value of a fact or an item. */
  readonly value?: unknown;
}

/**
 * Looks whether a memory can be changed in this way.
 *
 * @throws AppError 404; 422 for what this kind of memory does not have
 */
export async function checkCorrection(
  tx: ScopedTransaction,
  id: string,
  change: Correction,
): Promise<CheckedCorrection> {
  const memory = await findMemory(tx, id);
  refuseChunk(memory);
  const isNew = change.text !== undefined || change.value !== undefined;
  if (memory.source === "item") return { memory, change, ...(await itemSaid(tx, memory, itemValue(memory, change))) };
  if (memory.source === "memory_chunk") {
    if (change.value !== undefined) throw unprocessable("a turn has a text and no value; send text");
    return { memory, change, ...(change.text === undefined ? {} : { said: change.text }) };
  }
  if (!isNew) return { memory, change };
  const fact = await tx.row<FactValue>(sql`
    SELECT jsonb_build_object('type', e.type, 'name', e.name) AS entity, a.key, a.category
    FROM ${tx.read("attribute", "a")} JOIN ${tx.read("entity", "e")} ON e.scope_id = a.scope_id AND e.id = a.entity_id WHERE a.id = ${id}::uuid`);
  if (fact === undefined)
    throw unprocessable(
      "this fact relates two entities and has no value; delete it, and store the right one with POST /facts",
    );
  if (change.keepHistory === true && change.expiresAt !== undefined)
    throw unprocessable(
      "the new value of a fact that keeps its history is a fact of its own: set its expiresAt after this",
    );
  const value = change.value ?? valueIn(change.text ?? "", fact);
  if (stringifyJson(value).length > FACT_VALUE_LIMIT)
    throw invalid(`value: is over ${FACT_VALUE_LIMIT} characters, which a fact may have`);
  return { memory, change, fact, value, said: sentenceOf({ ...fact, value }) };
}

/** @throws AppError 422 */
export function refuseChunk({ source, documentId }: Memory): void {
  if (source === "chunk")
    throw unprocessable(
      `this is a part of the document ${documentId}: replace that with PUT /documents/${documentId}, or delete it`,
    );
}

function itemValue({ value }: Memory, { text, value: given, labels, keepHistory }: Correction) {
  if (labels !== undefined) throw unprocessable("a keyed item has no labels");
  if (keepHistory === true) throw unprocessable("a keyed item keeps no history; leave keepHistory out");
  if (given !== undefined) return { value: given };
  if (text === undefined) return {};
  if (typeof value !== "string") throw unprocessable("the item's value is not a text; send value");
  return { value: text };
}

/** With what recall finds it by. */
async function itemSaid(tx: ScopedTransaction, { id, key = "" }: Memory, changed: { readonly value?: unknown }) {
  if (changed.value === undefined) return changed;
  const row = await tx.row<{ indexed: string[] | null }>(sql`
    SELECT m.indexed FROM ${tx.read("memory_item", "m")} WHERE m.id = ${id}::uuid`);
  const said = new ItemTexts().of(key, changed.value, row?.indexed ?? null);
  return { ...changed, ...(said === undefined ? {} : { said }) };
}

/** What a fact's sentence says for its value. */
function valueIn(text: string, { entity, key }: FactValue): string {
  const before = `${entity.name}: ${wordsOfKey(key)}: `;
  if (!text.startsWith(before) || text.length === before.length)
    throw unprocessable(`the text of this fact begins with "${before}" and goes on with its value; or send value`);
  return text.slice(before.length);
}

/** Makes the vector of the new text, before the transaction opens. */
export const embedCorrection = (
  models: ScopeModels,
  meter: Meter,
  { said }: CheckedCorrection,
): Promise<EmbeddedNow | undefined> =>
  said === undefined ? Promise.resolve(undefined) : models.embedNow(meter, [said]);

/**
 * Changes a memory, in a transaction that was entered to write where it is.
 *
 * @throws AppError 404 where it has gone meanwhile
 */
export async function correctMemory(
  tx: ScopedTransaction,
  checked: CheckedCorrection,
  now: EmbeddedNow | undefined,
): Promise<MemoryWithHistory> {
  const { memory, change, fact } = checked;
  const embedded = now?.embedded;
  const id =
    fact !== undefined && change.keepHistory === true
      ? await sayAnew(tx, checked, fact, embedded)
      : await (memory.source === "item" ? changeItem : changeInPlace)(tx, checked, embedded);
  recordTrace(tx, {
    kind: "decision",
    operation: "memory_change",
    sources: [id],
    ...(memory.sessionId === undefined ? {} : { sessionId: memory.sessionId }),
    ...(now === undefined ? {} : spending(now)),
  });
  tx.speaksOf(id);
  return withHistory(tx, await findMemory(tx, id));
}

async function changeInPlace(
  tx: ScopedTransaction,
  { memory, change, said, value }: CheckedCorrection,
  embedded: Embedded | undefined,
): Promise<string> {
  const text = said === undefined ? undefined : await indexed(tx, memory, said, embedded);
  const corrected = await tx.call<{ id: string; full?: number } | null>(
    "correct_memory",
    memory.id,
    json({
      ...(text === undefined ? {} : { text }),
      ...(value === undefined ? {} : { value }),
      ...(change.labels === undefined ? {} : { labels: change.labels }),
      ...endOf(change),
      keepHistory: change.keepHistory ?? false,
    }),
    sql`${embedded?.embedderId ?? null}::int`,
  );
  if (corrected === null) throw notFound();
  if (corrected.full !== undefined)
    throw new AppError(
      "conflict",
      `a turn keeps ${corrected.full} former texts at most; correct it without keepHistory`,
    );
  if (said !== undefined && embedded === undefined) await orderVectors(tx);
  return corrected.id;
}

/** A keyed item, and what recall finds it by. */
async function changeItem(
  tx: ScopedTransaction,
  { memory: { id, key = "" }, change, said, value }: CheckedCorrection,
  embedded: Embedded | undefined,
): Promise<string> {
  const corrected = await tx.call<{ indexed?: string[]; endsAt?: string | null } | null>(
    "correct_memory",
    id,
    json({ ...(value === undefined ? {} : { value }), ...endOf(change) }),
    sql`NULL::int`,
  );
  if (corrected === null) throw notFound();
  // By the fields that it has now: where they are others than before, its vector is still to come.
  const text = new ItemTexts().of(key, value, corrected.indexed ?? null);
  if (text !== undefined) {
    const now = { embedded: text === said ? embedded : undefined };
    await recallItems(tx, { texts: [text], tokens: [countTokens(text)], now }, [
      { id, expiresAt: corrected.endsAt ?? null },
    ]);
  }
  return id;
}

const orderVectors = (tx: ScopedTransaction) => tx.call<void>("enqueue", uuid(), "embed", null, null);

const endOf = ({ expiresAt }: Correction) =>
  expiresAt === undefined ? {} : { endsAt: expiresAt === "never" ? null : expiresAt };

/** A text as the row has it. */
async function indexed(tx: ScopedTransaction, memory: Memory, said: string, embedded: Embedded | undefined) {
  const index = await indexerOf(tx);
  const isTurn = memory.source === "memory_chunk";
  return {
    said,
    tokens: countTokens(said),
    ...index({ text: said }),
    digest: sameTextDigest(said, memory.role),
    suspicious: plantedIn(said),
    ...(isTurn ? { cues: cuesOf(said) } : {}),
    ...(embedded === undefined ? {} : { embedding: embedded.vectors[0] ?? null }),
  };
}

/** The new value follows the old one, which stays for the past. */
async function sayAnew(
  tx: ScopedTransaction,
  { memory, change, value }: CheckedCorrection,
  { entity, key, category }: FactValue,
  embedded: Embedded | undefined,
): Promise<string> {
  if (memory.sessionId === undefined) throw notFound();
  const [stored] = await storeTriples(
    tx,
    [{ entity, key, category, value }],
    {
      labels: change.labels ?? memory.labels,
      observedAt: undefined,
      sessionId: memory.sessionId,
      turnId: null,
      contextSeconds: contextSecondsOf(tx),
    },
    embedded,
  );
  if (stored === undefined) throw notFound();
  if (embedded === undefined) await orderVectors(tx);
  return stored.id;
}
