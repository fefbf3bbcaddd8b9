import { Cron } from "croner";
import { invalid } from "../errors.ts";

/**
 * The next time after `from` at which the schedule is due, RFC 3339; null: there is none.
 *
 * Five fields, to the minute. Where a clock is set forward, a time that is left out comes at the next one that there
 * is; where it is set back, a time that comes twice counts once. (croner 11)
 *
 * @param timezone an IANA name
 * @throws AppError 400 for what is no such schedule
 */
export function nextRun(cron: string, timezone: string, from: Date = new Date()): string | null {
  try {
    const next = new Cron(cron, { timezone, mode: "5-part", paused: true }).nextRun(from);
    return next?.toISOString() ?? null;
  } catch (cause) {
    const why = (cause as Error).message.replace(/^CronPattern: /, "");
    throw invalid(`cron: ${why}; it has five fields: minute, hour, day, month, weekday`);
  }
}
