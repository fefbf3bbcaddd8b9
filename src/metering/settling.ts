import type { Logger } from "pino";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { sealAudit } from "../jobs/housekeeping.ts";
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
export function startSettling(database: Database, log: Logger): { stop(): Promise<void> } {
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let round = Promise.resolve();
  let rounds = 0;
  const run = () => {
    round = settleHolds(database)
      .then(() => (++rounds % SEAL_EVERY === 0 ? sealAudit(database) : undefined))
      .catch((error: unknown) => {
        if (!stopped) log.error(failureOf(error), "budgets could not be settled");
      })
      .finally(() => {
        if (!stopped) timer = setTimeout(run, INTERVAL_MS);
      });
  };
  timer = setTimeout(run, INTERVAL_MS);
  return {
    stop: async () => {
      stopped = true;
      clearTimeout(timer);
      await round;
    },
  };
}
