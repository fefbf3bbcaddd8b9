import { Command } from "commander";
import type { Hold } from "../../governance/holds.ts";
import { scopeText } from "../../scope/scope.ts";
import { allPages, type CommandContext, scopeOf } from "../command-context.ts";

const HEADER = ["id", "scope", "subject", "document", "since", "reason"];
const rowOf = ({ id, scope, subject, documentId, createdAt, reason }: Hold) => [
  id,
  scopeText(scope),
  subject,
  documentId,
  createdAt,
  reason,
];

export function holdCommand({ service, print, tell }: CommandContext): Command {
  const command = new Command("hold").description("legal holds: what may be neither forgotten nor changed");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .action(async ({ scope }) => {
      const holds = await allPages<"holds", Hold>(service(), "holds", scope);
      print({ holds, total: holds.length }, HEADER, holds.map(rowOf));
    });
  command
    .command("set")
    .description("hold a scope and all below it, or there one document or what mentions a subject")
    .requiredOption("--scope <path>", "{}: everybody", scopeOf)
    .requiredOption("--reason <text>", "for management alone")
    .option("--subject <name>")
    .option("--document <id>")
    .action(async ({ document: documentId, ...body }) => {
      const hold = await service().call<Hold>("PUT", "/holds", { body: { ...body, documentId } });
      print(hold, HEADER, [rowOf(hold)]);
    });
  command.command("delete <id>").action(async (id: string) => {
    await service().call("DELETE", `/holds/${encodeURIComponent(id)}`);
    tell("deleted\n");
  });
  return command;
}
