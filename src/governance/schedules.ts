import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { invalid, notFound, unprocessable } from "../errors.ts";
import type { OldKind, Since } from "../forget/forget-old.ts";
import { canonicalPath, GENERAL, sameScope } from "../scope/scope.ts";
import { recordTrace } from "../traces/record.ts";
import { type Answer, accepted } from "./answer.ts";
import { nextRun } from "./cron.ts";

/** What goes; none of it: all of the scope. */
export interface ForgetSelector {
  readonly query?: string | undefined;
  readonly labels?: readonly string[] | undefined;
  readonly olderThan?: string | undefined;
  readonly since?: Since | undefined;
  readonly kinds?: readonly OldKind[] | undefined;
}

export interface NewSchedule extends ForgetSelector {
  readonly name?: string | undefined;
  readonly subtree?: boolean | undefined;
  /** Five fields. */
  readonly cron: string;
  /** IANA name. */
  readonly timezone: string;
  readonly action: "expire" | "erase";
  readonly dryRun?: boolean | undefined;
  readonly paused?: boolean | undefined;
}

export interface ForgetRun {
  readonly id: string;
  readonly tick: string;
  /** held: a legal hold was in the way. */
  readonly state: "queued" | "running" | "done" | "held" | "failed";
  readonly dryRun: boolean;
  readonly counts: Readonly<Record<string, number>>;
  readonly receiptId: string | null;
  readonly error: string | null;
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
}

export interface Schedule {
  readonly id: string;
  readonly scope: Record<string, string>;
  readonly name: string;
  readonly subtree: boolean;
  readonly cron: string;
  readonly timezone: string;
  readonly query: string | null;
  readonly labels: readonly string[];
  readonly olderThan: string | null;
  readonly since: Since | null;
  readonly kinds: readonly OldKind[] | null;
  readonly action: "expire" | "erase";
  readonly dryRun: boolean;
  readonly paused: boolean;
  /** Null: it is paused, or never runs again. */
  readonly nextRun: string | null;
  readonly lastRun: ForgetRun | null;
  readonly receipts: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
}

const selectorOf = ({ query, labels, olderThan, since, kinds }: ForgetSelector) => ({
  ...(query === undefined ? {} : { query }),
  ...(labels === undefined || labels.length === 0 ? {} : { labels }),
  ...(olderThan === undefined ? {} : { olderThan }),
  ...(since === undefined ? {} : { since }),
  ...(kinds === undefined ? {} : { kinds }),
});

/** @throws AppError 400 or 422 for fields that exclude each other */
function refuseImpossible(schedule: NewSchedule): void {
  const { query, olderThan, since, kinds, action, subtree } = schedule;
  if (since !== undefined && olderThan === undefined)
    throw invalid("since: says what olderThan counts from; send that too");
  if (query !== undefined && kinds !== undefined)
    throw unprocessable("a query takes whatever says it; leave kinds out");
  if (query !== undefined && since === "lastUsed")
    throw unprocessable("a query goes with since: observed or created, not with lastUsed");
  if (Object.keys(selectorOf(schedule)).length === 0 && action === "erase" && subtree !== true)
    throw unprocessable(
      "without query, labels, olderThan or kinds this erases the scope with all below it; say so with subtree: true, or narrow it",
    );
}

/** Whether nothing narrows an erasure: all of the scope goes. */
const takesWholeScope = (schedule: Pick<NewSchedule, keyof ForgetSelector | "action">) =>
  schedule.action === "erase" && Object.keys(selectorOf(schedule)).length === 0;

/** @throws AppError 422 where all of a scope goes, or what everyone shares is touched, and nobody has typed its path */
function refuseUnconfirmed(tx: ScopedTransaction, schedule: NewSchedule, confirm: string | undefined): void {
  const scope = tx.entry.effective ?? tx.entry.floor;
  const path = canonicalPath(scope);
  const takesAll = takesWholeScope(schedule);
  if ((takesAll || sameScope(scope, GENERAL)) && confirm !== path)
    throw unprocessable(
      `this forgets ${takesAll ? "all of the scope" : "general knowledge, which everyone shares"}, again and again; confirm it with "confirm": "${path}"`,
    );
}

const runAfter = ({ cron, timezone }: Pick<NewSchedule, "cron" | "timezone">): string => {
  const next = nextRun(cron, timezone);
  if (next === null) throw invalid(`cron: ${cron} never comes`);
  return next;
};

/** What a schedule takes, and all else of it. */
const split = <S extends ForgetSelector>({ query, labels, olderThan, since, kinds, ...rest }: S) => ({
  selector: selectorOf({ query, labels, olderThan, since, kinds }),
  rest,
});

/**
 * Makes a schedule at the transaction's scope.
 *
 * @param confirm the scope's path, where all of it goes, or where it is general knowledge
 */
export async function makeSchedule(
  tx: ScopedTransaction,
  schedule: NewSchedule,
  confirm: string | undefined,
): Promise<Schedule> {
  refuseImpossible(schedule);
  refuseUnconfirmed(tx, schedule, confirm);
  const { selector, rest } = split(schedule);
  const given = { ...rest, selector, nextRun: runAfter(schedule) };
  const made = accepted(await tx.call<Answer<{ schedule: Schedule }>>("set_schedule", uuid(), true, json(given)));
  recordTrace(tx, { kind: "decision", operation: "schedule_make" });
  return made.schedule;
}

/** A schedule as a change would leave it. */
function merged(now: Schedule, change: Partial<NewSchedule>): { before: NewSchedule; after: NewSchedule } {
  const { name, subtree, cron, timezone, action, dryRun, paused } = now;
  const rest = { name, subtree, cron, timezone, action, dryRun, paused };
  const before = {
    ...rest,
    query: now.query ?? undefined,
    labels: now.labels,
    olderThan: now.olderThan ?? undefined,
    since: now.since ?? undefined,
    kinds: now.kinds ?? undefined,
  };
  const isNewSelector = Object.keys(selectorOf(change)).length > 0;
  return { before, after: { ...(isNewSelector ? rest : before), ...change } as NewSchedule };
}

/** Changes what is given. If query, labels, olderThan, since or kinds is given, it replaces all five. */
export async function changeSchedule(
  tx: ScopedTransaction,
  id: string,
  change: Partial<NewSchedule>,
): Promise<Schedule> {
  const { before, after } = merged(await getSchedule(tx, id), change);
  refuseImpossible(after);
  if (takesWholeScope(after) && !takesWholeScope(before))
    throw unprocessable("this would forget all of the scope; make a new schedule for that, which is confirmed");
  const { selector, rest } = split(change);
  const isNewTime = change.cron !== undefined || change.timezone !== undefined || change.paused === false;
  const given = {
    ...rest,
    ...(Object.keys(selector).length > 0 ? { selector } : {}),
    // What was missed in a pause is not made up for.
    ...(isNewTime ? { nextRun: runAfter(after) } : {}),
  };
  const changed = accepted(await tx.call<Answer<{ schedule: Schedule }>>("set_schedule", id, false, json(given)));
  recordTrace(tx, { kind: "decision", operation: "schedule_change" });
  return changed.schedule;
}

/** The schedules at the transaction's scope and below; `page` counts from 0. */
export const listSchedules = (
  tx: ScopedTransaction,
  pageSize: number,
  page: number,
): Promise<{ schedules: Schedule[]; total: number }> => tx.call("list_schedules", null, pageSize, page * pageSize);

export async function getSchedule(tx: ScopedTransaction, id: string): Promise<Schedule> {
  const { schedules } = await tx.call<{ schedules: Schedule[] }>("list_schedules", id, 1, 0);
  const [schedule] = schedules;
  if (schedule === undefined) throw notFound();
  return schedule;
}

export async function dropSchedule(tx: ScopedTransaction, id: string): Promise<void> {
  accepted(await tx.call<Answer>("drop_schedule", id));
  recordTrace(tx, { kind: "decision", operation: "schedule_delete" });
}

/** Orders a run now; the next one comes when it would have come anyway. */
export async function runNow(tx: ScopedTransaction, id: string): Promise<ForgetRun> {
  const { run } = accepted(await tx.call<Answer<{ run: ForgetRun }>>("run_schedule_now", id));
  recordTrace(tx, { kind: "decision", operation: "schedule_run" });
  return run;
}
