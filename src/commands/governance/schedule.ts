import { setTimeout } from "node:timers/promises";
import { Command, Option } from "commander";
import { OLD_KINDS, SINCE } from "../../forget/forget-old.ts";
import type { ForgetRun, Schedule } from "../../governance/schedules.ts";
import { scopeText } from "../../scope/scope.ts";
import { allPages, type CommandContext, confirmed, namesOf, scopeOf } from "../command-context.ts";
import { Refused, type Service } from "../http-client.ts";

const HEADER = ["id", "scope", "what", "action", "cron", "time zone", "next run", "last run"];
const countsOf = (counts: ForgetRun["counts"]) =>
  Object.entries(counts)
    .map(([name, n]) => `${n} ${name}`)
    .join(", ");

function rowOf(schedule: Schedule) {
  const { query, labels, kinds, olderThan, subtree, lastRun } = schedule;
  const what = [
    ...(query === null ? [] : [`"${query}"`]),
    ...labels,
    ...(kinds ?? []),
    ...(olderThan === null ? [] : [`older than ${olderThan}`]),
  ];
  return [
    schedule.id,
    `${scopeText(schedule.scope)}${subtree ? "/*" : ""}`,
    what.length === 0 ? "all" : what.join(" "),
    `${schedule.action}${schedule.dryRun ? " (dry run)" : ""}`,
    schedule.cron,
    schedule.timezone,
    schedule.paused ? "paused" : schedule.nextRun,
    lastRun === null ? "" : `${lastRun.state} ${lastRun.tick} ${countsOf(lastRun.counts)}`.trim(),
  ];
}

/** Until the last run of a schedule is over. */
async function ended(service: Service, id: string, say: (text: string) => void): Promise<Schedule> {
  for (let before = ""; ; await setTimeout(500)) {
    const schedule = await service.call<Schedule>("GET", `/forget-schedules/${id}`);
    const { lastRun } = schedule;
    if (lastRun === null || !["queued", "running"].includes(lastRun.state)) return schedule;
    const now = `${lastRun.state} ${countsOf(lastRun.counts)}\n`;
    if (now !== before) say(now);
    before = now;
  }
}

export function scheduleCommand({ service, print, tell }: CommandContext): Command {
  const show = (schedule: Schedule) => print(schedule, HEADER, [rowOf(schedule)]);
  const command = new Command("schedule").description("forgets that are done again and again");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .action(async ({ scope }) => {
      const schedules = await allPages<"schedules", Schedule>(service(), "schedules", scope, {}, "forget-schedules");
      print({ schedules, total: schedules.length }, HEADER, schedules.map(rowOf));
    });
  command
    .command("add")
    .requiredOption("--scope <path>", "{}: everybody", scopeOf)
    .requiredOption("--cron <fields>", "minute hour day month weekday")
    .addOption(new Option("--action <what>").choices(["expire", "erase"]).makeOptionMandatory())
    .option("--timezone <name>", "absent: UTC")
    .option("--name <name>")
    .option("--subtree", "what is below the scope, too")
    .option("--query <words>", "what memories are about")
    .option("--labels <names>", "key=value, with commas between", namesOf)
    .option("--older-than <duration>", "ISO 8601, such as P90D")
    .addOption(new Option("--since <when>", "absent: created").choices([...SINCE]))
    .option("--kinds <names>", `of ${OLD_KINDS.join(", ")}`, namesOf)
    .option("--dry-run", "count, and take nothing")
    .option("--confirm <path>", "the scope again, where it is to lose everything, or is {}")
    .action(async (body) => show(await service().call("POST", "/forget-schedules", { body })));
  for (const [name, paused] of [
    ["pause", true],
    ["resume", false],
  ] as const)
    command.command(`${name} <id>`).action(async (id: string) => {
      show(await service().call("PATCH", `/forget-schedules/${encodeURIComponent(id)}`, { body: { paused } }));
    });
  command
    .command("run <id>")
    .description("now; waits until it is done")
    .action(async (id: string) => {
      await service().call("POST", `/forget-schedules/${encodeURIComponent(id)}/run`);
      const schedule = await ended(service(), id, tell);
      show(schedule);
      const state = schedule.lastRun?.state;
      if (state === "held" || state === "failed")
        throw new Refused(`the run ended as ${state}: ${schedule.lastRun?.error}`);
    });
  command
    .command("delete <id>")
    .option("--confirm <id>", "the same again, where nobody can be asked")
    .action(async (id: string, { confirm }) => {
      await confirmed(confirm, id, "takes the schedule away");
      await service().call("DELETE", `/forget-schedules/${encodeURIComponent(id)}`);
      tell("deleted\n");
    });
  return command;
}
