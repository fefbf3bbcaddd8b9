import type { ScopedTransaction } from "../db/access/scoped.ts";
import { recordTrace } from "../traces/record.ts";

/** Rows of each kind and scope at once. */
const MOST_ENDED = 10_000;

/**
 * Closes what is over below the caller's floor: facts, which stay findable for the past, and texts that were
 * said for a while, which are expired. No answer waits for it: recall goes by the time. Gives how many.
 */
export async function endOver(tx: ScopedTransaction): Promise<number> {
  const affected = await tx.call<number>("end_over_within", MOST_ENDED);
  recordTrace(tx, { kind: "decision", operation: "lifecycle_expire", returned: affected });
  return affected;
}
