import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError, type ErrorSlug, invalid, notFound, unprocessable } from "../errors.ts";
import type { OldKind } from "../forget/forget-old.ts";
import { recordTrace } from "../traces/record.ts";
import { nextRun } from "./cron.ts";
import { notDropped } from "./not-dropped.ts";
import type { Since } from "./retention.ts";

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

type Answer<T> = ({ status: "ok" } & T) | { status: ErrorSlug; detail: string };

function accepted<T extends object>(answer: Answer<T>): T {
  if (answer.status === "ok") return answer as T;
  const refusal = answer as { status: ErrorSlug; detail: string };
  throw refusal.status === "not-found" ? notFound() : new AppError(refusal.status, refusal.detail);
}

const selectorOf = ({ query, labels, olderThan, since, kinds }: ForgetSelector) => ({
  ...(query === undefined ? {} : { query }),
  ...(labels === undefined || labels.length === 0 ? {} : { labels }),
  ...(olderThan === undefined ? {} : { olderThan }),
  ...(since === undefined ? {} : { since }),
  ...(kinds === undefined ? {} : { kinds }),
});

/** @throws AppError for what goes together with nothing */
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

const takesAll = (schedule: Pick<NewSchedule, keyof ForgetSelector | "action">) =>
  schedule.action === "erase" && Object.keys(selectorOf(schedule)).length === 0;

const runAfter = ({ cron, timezone }: Pick<NewSchedule, "cron" | "timezone">): string => {
  const next = nextRun(cron, timezone);
  if (next === null) throw invalid(`cron: ${cron} never comes`);
  return next;
};

/** Makes a schedule at the transaction's scope. */
export async function makeSchedule(tx: ScopedTransaction, schedule: NewSchedule): Promise<Schedule> {
  refuseImpossible(schedule);
  const { query: _, labels: __, olderThan: ___, since: ____, kinds: _____, ...rest } = schedule;
  const given = { ...rest, selector: selectorOf(schedule), nextRun: runAfter(schedule) };
  const made = accepted(await tx.call<Answer<{ schedule: Schedule }>>("set_schedule", uuid(), true, json(given)));
  recordTrace(tx, { kind: "decision", operation: "schedule_make" });
  return made.schedule;
}

/** Changes what is given; of query, labels, olderThan, since and kinds all, where one is. */
export async function changeSchedule(
  tx: ScopedTransaction,
  id: string,
  change: Partial<NewSchedule>,
): Promise<Schedule> {
  const now = await getSchedule(tx, id);
  const kept = {
    query: now.query ?? undefined,
    labels: now.labels,
    olderThan: now.olderThan ?? undefined,
    since: now.since ?? undefined,
    kinds: now.kinds ?? undefined,
  };
  const selector = selectorOf(change);
  const isNewSelector = Object.keys(selector).length > 0;
  const schedule = {
    ...now,
    ...kept,
    ...(isNewSelector
      ? { query: undefined, labels: undefined, olderThan: undefined, since: undefined, kinds: undefined }
      : {}),
    ...change,
  };
  refuseImpossible(schedule as NewSchedule);
  if (takesAll(schedule as NewSchedule) && !(takesAll({ ...now, ...kept }) && now.action === schedule.action))
    throw unprocessable("this would forget all of the scope; make a new schedule for that, which is confirmed");
  const { query: _, labels: __, olderThan: ___, since: ____, kinds: _____, ...rest } = change;
  const isNewTime = change.cron !== undefined || change.timezone !== undefined || change.paused === false;
  const given = {
    ...rest,
    ...(isNewSelector ? { selector } : {}),
    // What was missed in a pause is not made up for.
    ...(isNewTime ? { nextRun: runAfter(schedule) } : {}),
  };
  const changed = accepted(await tx.call<Answer<{ schedule: Schedule }>>("set_schedule", id, false, json(given)));
  recordTrace(tx, { kind: "decision", operation: "schedule_change" });
  return changed.schedule;
}

/** Those at the transaction's scope and below. */
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
  const dropped = await tx.call<number>("drop_schedule", id);
  if (dropped === 0) throw notFound();
  if (dropped < 0) throw notDropped(dropped, "a key above this one has made this schedule");
  recordTrace(tx, { kind: "decision", operation: "schedule_delete" });
}

/** Orders a run now; the next one comes when it would have come anyway. */
export async function runNow(tx: ScopedTransaction, id: string): Promise<ForgetRun> {
  const { run } = accepted(await tx.call<Answer<{ run: ForgetRun }>>("run_schedule_now", id));
  recordTrace(tx, { kind: "decision", operation: "schedule_run" });
  return run;
}
