import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { unprocessable } from "../errors.ts";
import { refuseOthersSession, TURN, type Turn } from "../memory/sessions.ts";
import { NOTHING, writeReceipt } from "../traces/receipt.ts";
import { recordTrace } from "../traces/record.ts";
import { forgetItems } from "./forget-items.ts";

/** A receipt names each turn. */
const MOST_TURNS = 10_000;

/**
 * Erases a session's turns, all or the last ones, with what they said before; the session stays open.
 *
 * @param last how many; undefined: all
 * @returns how many, with a receipt where there were any; of the last ones what they were, in their order
 * @throws AppError 404, 403 for another agent's session, 422 for more turns than a receipt names
 */
export async function forgetTurns(tx: ScopedTransaction, sessionId: string, last: number | undefined) {
  await refuseOthersSession(tx, sessionId);
  const own = sql`t.session_id = ${sessionId}::uuid AND t.expired_at IS NULL`;
  const limit = last ?? MOST_TURNS + 1;
  const ids = (
    await tx.rows<{ id: string }>(
      sql`SELECT t.id FROM ${tx.read("turn", "t")} WHERE ${own} ORDER BY t.seq DESC LIMIT ${limit}`,
    )
  ).map(({ id }) => id);
  if (ids.length > MOST_TURNS)
    throw unprocessable(
      `the session has more than ${MOST_TURNS} turns; forget it as a whole (POST /forget with sessionId and purge), or some at a time (?last=)`,
    );
  const select = sql`SELECT ${TURN} FROM ${tx.read("turn", "t")} WHERE t.id = ANY (${list(ids)}::uuid[]) ORDER BY t.seq`;
  const turns = last === undefined ? undefined : (await tx.rows<Turn>(withinAnswer(select, "content"))).map(uncounted);
  const told = turns === undefined ? {} : { turns };
  if (ids.length === 0) {
    recordTrace(tx, { kind: "forget", operation: "turns_delete", sessionId, returned: 0 });
    return { deleted: 0, ...told };
  }
  await tx.call("drop_cached_answers");
  const passages = await tx.rows<{ id: string }>(
    sql`SELECT p.id FROM ${tx.read("passage", "p")} WHERE p.turn_id = ANY (${list(ids)}::uuid[])`,
  );
  const items = { ...NOTHING, passages: passages.map(({ id }) => id), turns: ids };
  const counts = await forgetItems(tx, items, true);
  const about = { policy: "session", action: "erase", subtree: tx.entry.view === "subtree", items } as const;
  const receiptId = await writeReceipt(tx, about, counts);
  recordTrace(tx, { kind: "forget", operation: "turns_delete", sessionId, returned: ids.length });
  return { deleted: ids.length, receiptId, ...told };
}
