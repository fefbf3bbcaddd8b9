import type { Logger } from "pino";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { nextRun } from "../governance/cron.ts";
import { failureOf } from "../log.ts";

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
 * Orders the runs of schedules and retention rules whose time has come, and of tenants that leave. Several workers may do it at once: a tick is
 * ordered once, and after a downtime a schedule runs once.
 */
export async function orderDueRuns(database: Database): Promise<void> {
  const call = async (text: string, params: readonly unknown[]) =>
    (await inTransaction(database.worker, (worker) => worker.query(`SELECT scopefloor.${text} AS answer`, params)))[0]
      ?.answer;
  for (const order of ["order_retention($1)", "order_offboardings($1)"])
    for (let ordered = AT_ONCE; ordered === AT_ONCE; ) ordered = (await call(order, [AT_ONCE])) as number;
  for (let due: Due[] = []; ; ) {
    due = (await call("due_schedules($1)", [AT_ONCE])) as Due[];
    for (const { id, cron, timezone, due: tick } of due)
      await call("tick_schedule($1, $2, $3)", [id, tick, nextRun(cron, timezone)]);
    if (due.length < AT_ONCE) return;
  }
}

/** Does so every few seconds, until it is stopped. */
export function startSchedules(database: Database, log: Logger): { stop(): Promise<void> } {
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let round = Promise.resolve();
  const run = () => {
    round = orderDueRuns(database)
      .catch((error: unknown) => {
        if (!stopped) log.error(failureOf(error), "scheduled forgets could not be ordered");
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
