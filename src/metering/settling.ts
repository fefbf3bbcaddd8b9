import type { Logger } from "pino";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { sealAudit } from "../jobs/housekeeping.ts";
import { type Rounds, startRounds } from "../jobs/rounds.ts";
import { failureOf } from "../log.ts";

const INTERVAL_MS = 1_000;
/** Rounds between two that add traces to the sums of usage. */
const SEAL_EVERY = 5;
/** Holds that are settled in one transaction. */
const HOLDS_AT_ONCE = 1_000;

/** Moves what holds were settled for to what budgets have used. */
export async function settleHolds(database: Database): Promise<void> {
  for (let folded = HOLDS_AT_ONCE; folded === HOLDS_AT_ONCE; ) {
    const [row] = await inTransaction(database.worker, (worker) =>
      worker.query("SELECT scopefloor.fold_holds($1) AS folded", [HOLDS_AT_ONCE]),
    );
    folded = row?.folded as number;
  }
}

/** Keeps budgets and the sums of usage up to date, until it is stopped. */
export function startSettling(database: Database, log: Logger): Rounds {
  let rounds = 0;
  const settle = async () => {
    await settleHolds(database);
    if (++rounds % SEAL_EVERY === 0) await sealAudit(database);
  };
  return startRounds(settle, {
    everyMs: INTERVAL_MS,
    failed: (error) => log.error(failureOf(error), "budgets could not be settled"),
  });
}
