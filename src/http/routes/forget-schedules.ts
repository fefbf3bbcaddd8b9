import { z } from "zod";
import { invalid } from "../../errors.ts";
import { OLD_KINDS, SINCE } from "../../forget/forget-old.ts";
import {
  changeSchedule,
  dropSchedule,
  getSchedule,
  listSchedules,
  makeSchedule,
  runNow,
} from "../../governance/schedules.ts";
import { endpoint } from "../endpoint.ts";
import { refuseUnnamed, subtreeOf } from "../wire/access.ts";
import {
  duration,
  fields,
  labels,
  pageAndSize,
  querySelector,
  queryText,
  ruleName,
  timezone,
  uuidText,
  writeSelector,
} from "../wire/fields.ts";
import { instant, numbers, object, pageShape, scopeTags, uuid } from "../wire/shapes.ts";

const manages = { verb: "manage" } as const;
const id = z.object({ id: uuidText });

const runShape = object({
  id: uuid,
  tick: instant.describe("The time of the schedule that it is for; what was stored later is the next one's"),
  state: z.enum(["queued", "running", "done", "held", "failed"]).describe("held: a legal hold was in the way"),
  dryRun: z.boolean(),
  counts: numbers,
  receiptId: uuid.nullable(),
  error: z.string().nullable(),
  startedAt: instant.nullable(),
  finishedAt: instant.nullable(),
});

const scheduleShape = object({
  id: uuid,
  scope: scopeTags,
  name: z.string(),
  subtree: z.boolean(),
  cron: z.string(),
  timezone: z.string(),
  query: z.string().nullable(),
  labels: z.array(z.string()),
  olderThan: z.string().nullable(),
  since: z.enum(SINCE).nullable(),
  kinds: z.array(z.enum(OLD_KINDS)).nullable(),
  action: z.enum(["expire", "erase"]),
  dryRun: z.boolean(),
  paused: z.boolean(),
  nextRun: instant.nullable(),
  lastRun: runShape.nullable(),
  receipts: z.array(uuid).describe("Of the last runs, the newest first"),
  createdAt: instant,
  updatedAt: instant,
});

const scheduleFields = {
  name: ruleName.optional(),
  subtree: z.boolean().optional().describe("What is below the scope, too"),
  query: queryText.optional().describe("What memories are about, by their words"),
  labels: labels.min(1).optional(),
  olderThan: duration.optional(),
  since: z.enum(SINCE).optional().describe("What olderThan counts from; absent: created"),
  kinds: z.array(z.enum(OLD_KINDS)).min(1).optional(),
  dryRun: z.boolean().optional().describe("Count what would go, and take nothing"),
  paused: z.boolean().optional(),
};
const cron = z.string().max(200).describe("minute hour day month weekday, such as 0 3 * * 1");
const action = z.enum(["expire", "erase"]);

export const forgetScheduleEndpoints = [
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/forget-schedules",
    operation: "schedules",
    summary: "Forget schedules of a subtree, with their last and next runs",
    answer: object({ schedules: z.array(scheduleShape), ...pageShape }),
    query: fields({ scope: querySelector, ...pageAndSize }),
    handle: ({ enter, query: { scope, page, pageSize } }) =>
      enter(subtreeOf(scope), async (tx) => ({ ...(await listSchedules(tx, pageSize, page)), page, pageSize })),
  }),
  endpoint({
    ...manages,
    method: "post",
    path: "/contexts/{ctx}/forget-schedules",
    operation: "schedule_make",
    summary: "Forget again and again: by age, kinds, labels, a query, or all of a scope",
    answer: scheduleShape,
    status: 201,
    body: fields({
      scope: writeSelector,
      cron,
      timezone: timezone.optional().describe("IANA name; absent: UTC"),
      action,
      confirm: z
        .string()
        .optional()
        .describe("The scope's path, where all of it goes, or where it is general knowledge"),
      ...scheduleFields,
    }),
    handle: ({ enter, body: { scope, confirm, timezone: zone = "UTC", ...schedule } }) =>
      enter(subtreeOf(scope), (tx) => {
        refuseUnnamed(tx, scope);
        return makeSchedule(tx, { ...schedule, timezone: zone }, confirm);
      }),
  }),
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/forget-schedules/{id}",
    operation: "schedules",
    summary: "One forget schedule",
    answer: scheduleShape,
    params: id,
    handle: ({ enter, params }) => enter({}, (tx) => getSchedule(tx, params.id)),
  }),
  endpoint({
    ...manages,
    method: "patch",
    path: "/contexts/{ctx}/forget-schedules/{id}",
    operation: "schedule_change",
    summary:
      "Change, pause or resume a forget schedule. If query, labels, olderThan, since or kinds is given, it replaces all five",
    answer: scheduleShape,
    params: id,
    body: fields({
      cron: cron.optional(),
      timezone: timezone.optional(),
      action: action.optional(),
      ...scheduleFields,
    }),
    handle: ({ enter, params, body }) => {
      if (Object.values(body).every((value) => value === undefined)) throw invalid("say what to change");
      return enter({}, (tx) => changeSchedule(tx, params.id, body));
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/forget-schedules/{id}",
    operation: "schedule_delete",
    summary: "Take a forget schedule away; a run that is under way goes on",
    status: 204,
    params: id,
    handle: ({ enter, params }) => enter({}, (tx) => dropSchedule(tx, params.id)),
  }),
  endpoint({
    ...manages,
    method: "post",
    path: "/contexts/{ctx}/forget-schedules/{id}/run",
    operation: "schedule_run",
    summary: "Run a forget schedule now",
    answer: runShape,
    status: 202,
    params: id,
    handle: async ({ enter, params, deps }) => {
      const run = await enter({}, (tx) => runNow(tx, params.id));
      deps.wakeWorker();
      return run;
    },
  }),
];
