import type { Logger } from "pino";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { nextRun } from "../governance/cron.ts";
import { failureOf } from "../log.ts";
import { type Rounds, startRounds } from "./rounds.ts";

const INTERVAL_MS = 5_000;
/** Rules, and schedules, that are looked at in one transaction. */
const AT_ONCE = 100;

interface Due {
  readonly id: string;
  readonly cron: string;
  readonly timezone: string;
  readonly due: string;
}

/**
 * Orders the runs of schedules and retention rules whose time has come, and of tenants that leave.
 * Several workers may do it at once: a tick is ordered once, and after a downtime a schedule runs once.
 */
export async function orderDueRuns(database: Database, log?: Logger): Promise<void> {
  const call = async (text: string, params: readonly unknown[]) =>
    (await inTransaction(database.worker, (worker) => worker.query(`SELECT scopefloor.${text} AS answer`, params)))[0]
      ?.answer;
  /** What goes wrong with one is no reason to leave the others. */
  const each = async (what: string, work: () => Promise<void>) =>
    work().catch((error: unknown) => log?.error(failureOf(error), `${what} could not be ordered`));
  for (const [what, order] of [
    ["retention", "order_retention($1)"],
    ["offboarding", "order_offboardings($1)"],
  ] as const)
    await each(what, async () => {
      for (let ordered = AT_ONCE; ordered === AT_ONCE; ) ordered = (await call(order, [AT_ONCE])) as number;
    });
  await each("scheduled forgets", async () => {
    for (let due: Due[] = []; ; ) {
      due = (await call("due_schedules($1)", [AT_ONCE])) as Due[];
      let ordered = 0;
      for (const { id, cron, timezone, due: tick } of due)
        await each(`the schedule ${id}`, async () => {
          if ((await call("tick_schedule($1, $2, $3)", [id, tick, nextRun(cron, timezone)])) === true) ordered++;
        });
      // Those that fail are looked at again in the next round.
      if (due.length < AT_ONCE || ordered === 0) return;
    }
  });
}

/** Does so every few seconds, until it is stopped. */
export const startSchedules = (database: Database, log: Logger): Rounds =>
  startRounds(() => orderDueRuns(database, log), {
    everyMs: INTERVAL_MS,
    failed: (error) => log.error(failureOf(error), "scheduled forgets could not be ordered"),
  });
