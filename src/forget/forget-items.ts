import { list, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { forgetBytes } from "../documents/bytes.ts";
import { removeDocuments } from "../documents/documents.ts";
import { removeEntities } from "../memory/entities.ts";
import type { ForgottenItems } from "../traces/receipt.ts";
import { removeNames } from "./matching/document-names.ts";

/** Takes the items away, for good or out of every answer; gives how many by table. */
export async function forgetItems(
  tx: ScopedTransaction,
  items: ForgottenItems,
  purge: boolean,
): Promise<Record<string, number>> {
  const counts = purge ? await erase(tx, items) : await expire(tx, items);
  // Bytes and keywords hold what a chunk of theirs held.
  const document = items.contents.length === 0 ? 0 : await forgetBytes(tx, items.contents);
  const names = await removeNames(tx, items);
  const entity = items.entities.length === 0 ? 0 : (await removeEntities(tx, items.entities)).length;
  const whole =
    items.documents.length === 0
      ? 0
      : purge
        ? await removeDocuments(tx, items.documents)
        : await expireDocuments(tx, items.documents);
  return { ...counts, ...nonZero({ document: document + whole, names, entity }) };
}

/** Their parts are recalled no more; the files stay. Gives how many there were. */
async function expireDocuments(tx: ScopedTransaction, ids: readonly string[]): Promise<number> {
  await tx.update(
    "passage",
    { expiredAt: sql`now()`, embedding: null, embedderId: null, terms: sql`''::bytea` },
    sql`document_id = ANY (${list(ids)}::uuid[]) AND expired_at IS NULL`,
  );
  return ids.length;
}

/** Out of every route and tier at once, but kept for audit: no vector, no words. */
async function expire(tx: ScopedTransaction, { passages: ids, turns, facts, items }: ForgottenItems) {
  // The keyed store has no expired values: what is forgotten there is gone.
  const memory_item = await removeItems(tx, items);
  const passage = await tx.update(
    "passage",
    { expiredAt: sql`now()`, embedding: null, embedderId: null, terms: sql`''::bytea` },
    sql`id = ANY (${list(ids)}::uuid[]) AND expired_at IS NULL`,
  );
  const turn = await tx.update(
    "turn",
    { expiredAt: sql`now()` },
    sql`id = ANY (${list(turns)}::uuid[]) AND expired_at IS NULL`,
  );
  const expired = await forgetFacts(tx, facts, false);
  return { passage, turn, ...nonZero({ ...expired, memory_item }) };
}

/** Takes facts away, and works out what is known without them; gives how many by table. */
const forgetFacts = async (tx: ScopedTransaction, ids: readonly string[], forGood: boolean) =>
  ids.length === 0 ? {} : tx.call<Record<string, number>>("forget_facts", sql`${list(ids)}::uuid[]`, forGood);

/** Before any passage: whoever sets an item waits for it first, and for the index of words then. */
const removeItems = (tx: ScopedTransaction, ids: readonly string[]) =>
  ids.length === 0 ? 0 : tx.remove("memory_item", sql`id = ANY (${list(ids)}::uuid[])`);

const nonZero = (counts: Record<string, number>) => Object.fromEntries(Object.entries(counts).filter(([, n]) => n > 0));

/** Entities of which nothing is said any more: their names were said with what was forgotten. */
const removeUnused = (tx: ScopedTransaction, entities: readonly string[]) =>
  tx.remove(
    "entity",
    sql`id = ANY (${list(entities)}::uuid[])
      AND NOT EXISTS (SELECT 1 FROM ${tx.read("attribute", "a")} WHERE a.entity_id = entity.id)
      AND NOT EXISTS (SELECT 1 FROM ${tx.read("relation", "r")} WHERE r.entity_id = entity.id OR r.target_id = entity.id)`,
  );

/** Facts, by a condition on them, with the entities that nothing else is said of. */
async function eraseFacts(tx: ScopedTransaction, where: SQL) {
  const facts = await tx.rows<{ id: string; about: string[] }>(sql`
    SELECT a.id, jsonb_build_array(a.entity_id) AS about FROM ${tx.read("attribute", "a")} WHERE ${where}
    UNION ALL SELECT r.id, jsonb_build_array(r.entity_id, r.target_id) FROM ${tx.read("relation", "r")} WHERE ${where}`);
  if (facts.length === 0) return {};
  const erased = await forgetFacts(
    tx,
    facts.map(({ id }) => id),
    true,
  );
  const entity = await removeUnused(tx, [...new Set(facts.flatMap(({ about }) => about))]);
  return nonZero({ ...erased, entity });
}

async function erase(tx: ScopedTransaction, { passages: ids, turns, facts, items, sessions }: ForgottenItems) {
  if (sessions.length > 0) {
    // What was expired in it before goes as well.
    const inSession = sql`session_id = ANY (${list(sessions)}::uuid[])`;
    const passage = await tx.remove("passage", inSession);
    const turn = await tx.remove("turn", inSession);
    const erased = await eraseFacts(tx, inSession);
    return {
      passage,
      turn,
      ...erased,
      session: await tx.remove("session", sql`id = ANY (${list(sessions)}::uuid[])`),
    };
  }
  const memory_item = await removeItems(tx, items);
  const passage = await tx.remove("passage", sql`id = ANY (${list(ids)}::uuid[])`);
  // With what they said before.
  const turn = await tx.remove(
    "turn",
    sql`id = ANY (${list(turns)}::uuid[]) OR corrected_id = ANY (${list(turns)}::uuid[])`,
  );
  const erased = facts.length === 0 ? {} : await eraseFacts(tx, sql`id = ANY (${list(facts)}::uuid[])`);
  return { passage, turn, ...erased, ...nonZero({ memory_item }) };
}
