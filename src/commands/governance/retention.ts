import { Command, Option } from "commander";
import { SINCE } from "../../forget/forget-old.ts";
import { RETAINED_KINDS, type RetentionRule } from "../../governance/retention.ts";
import { scopeText } from "../../scope/scope.ts";
import { allPages, type CommandContext, namesOf, scopeOf } from "../command-context.ts";

const HEADER = ["scope", "kind", "older than", "since", "action", "maximum", "next run"];
const rowOf = (rule: RetentionRule) => [
  scopeText(rule.scope),
  rule.kind,
  rule.olderThan,
  rule.since,
  rule.action,
  rule.maximum ? "yes" : "",
  rule.nextRun,
];

export function retentionCommand({ service, print, tell }: CommandContext): Command {
  const command = new Command("retention").description("how long what a scope holds stays");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .option("--effective", "the rules in force at the scope, wherever they were set")
    .action(async ({ scope, effective }) => {
      const rules =
        effective === true
          ? (
              await service().call<{ rules: RetentionRule[] }>("GET", "/retention", {
                query: { scope, effective: "true" },
              })
            ).rules
          : await allPages<"rules", RetentionRule>(service(), "rules", scope, {}, "retention");
      print({ rules, total: rules.length }, HEADER, rules.map(rowOf));
    });
  command
    .command("set")
    .requiredOption("--scope <path>", "{}: everybody", scopeOf)
    .requiredOption("--older-than <duration>", "ISO 8601, such as P90D")
    .addOption(new Option("--action <what>").choices(["expire", "erase"]).makeOptionMandatory())
    .option("--kinds <names>", `of ${RETAINED_KINDS.join(", ")}; absent: the first four`, namesOf)
    .addOption(new Option("--since <when>", "absent: observed").choices([...SINCE]))
    .option("--maximum", "for all below, whatever a narrower rule says")
    .action(async (body) => {
      const { rules } = await service().call<{ rules: RetentionRule[] }>("PUT", "/retention", { body });
      print({ rules }, HEADER, rules.map(rowOf));
    });
  command
    .command("delete")
    .requiredOption("--scope <path>", "{}: everybody")
    .option("--kinds <names>", "absent: all")
    .addOption(new Option("--action <what>", "absent: both").choices(["expire", "erase"]))
    .action(async ({ scope, kinds, action }) => {
      await service().call("DELETE", "/retention", { query: { scope, kinds, action } });
      tell("deleted\n");
    });
  return command;
}
