import { settingsOf } from "../context/settings.ts";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { recentHits } from "./answer/hits.ts";
import { conclude, type Recalled } from "./conclude.ts";
import type { PassageFilter } from "./ranking/filter.ts";

/** Rows that are looked at. */
const MOST_RECENT = 50;

/** What is newest, for a caller that asks nothing in particular. */
export async function recallRecent(
  tx: ScopedTransaction,
  filter: PassageFilter,
  k: number = MOST_RECENT,
): Promise<Recalled> {
  const hits = await recentHits(tx, filter, settingsOf(tx).fullContextTokens, k);
  const outcome = {
    tier: "full_context",
    tierReason: "no question: the newest",
    plan: "by time",
    candidates: hits.length,
    hits,
  } as const;
  return conclude(tx, "", outcome, { operation: "context" }, {});
}
