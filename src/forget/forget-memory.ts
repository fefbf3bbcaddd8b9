import type { ScopedTransaction } from "../db/access/scoped.ts";
import { refuseChunk } from "../memory/correct.ts";
import { findMemory } from "../memory/memories.ts";
import { NOTHING, writeReceipt } from "../traces/receipt.ts";
import { recordTrace } from "../traces/record.ts";
import { forgetItems } from "./forget-items.ts";
import { confirmationsOf } from "./forget-query.ts";

/**
 * Erases one memory by the id that hits have: a turn with what it said before, a fact with what confirms it, or a
 * keyed item. Gives its receipt's id.
 *
 * @throws AppError 404; 422 for a part of a document
 */
export async function forgetMemory(tx: ScopedTransaction, id: string): Promise<string> {
  const memory = await findMemory(tx, id);
  refuseChunk(memory);
  await tx.call("drop_cached_answers");
  const isFact = memory.source === "attribute";
  const items = {
    ...NOTHING,
    passages: memory.source === "item" ? [] : [id],
    turns: memory.turnId === undefined ? [] : [memory.turnId],
    facts: isFact ? [id, ...(await confirmationsOf(tx, { sessionId: undefined }, [id]))] : [],
    items: memory.source === "item" ? [id] : [],
  };
  const counts = await forgetItems(tx, items, true);
  const receiptId = await writeReceipt(
    tx,
    { policy: "memory", action: "erase", subtree: tx.entry.view === "subtree", items },
    counts,
  );
  recordTrace(tx, { kind: "forget", operation: "memory_delete", returned: 1 });
  return receiptId;
}
