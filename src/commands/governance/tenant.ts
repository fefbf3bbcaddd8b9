import { setTimeout } from "node:timers/promises";
import { Command, Option } from "commander";
import type { Template } from "../../governance/templates.ts";
import type { ProvisionedKey, Tenant } from "../../governance/tenants.ts";
import { scopeText } from "../../scope/scope.ts";
import { allPages, type CommandContext, confirmed, jsonFile, number, scopeNamed } from "../command-context.ts";
import { Misused, Refused } from "../http-client.ts";
import { receiptsOf } from "./receipt.ts";

const HEADER = ["tenant", "name", "state", "template", "keys", "memories", "bytes", "calls", "USD", "last used"];
const rowOf = (tenant: Tenant) => [
  tenant.path,
  tenant.name,
  tenant.leavesAt === null ? tenant.state : `${tenant.state}, erased ${tenant.leavesAt}`,
  tenant.template === null ? "" : `${tenant.template} ${tenant.templateVersion}`,
  tenant.keys,
  tenant.storage.passages,
  tenant.storage.bytes,
  tenant.usage.calls,
  tenant.usage.costUsd,
  tenant.lastUsedAt,
];
const at = (path: string) => `/tenants/${encodeURIComponent(path)}`;
/** A week to think it over. */
const GRACE_SECONDS = 604_800;
const POLL_MS = 1_000;

export function tenantCommand({ service, print, write, tell }: CommandContext): Command {
  const show = (tenant: Tenant) => print(tenant, HEADER, [rowOf(tenant)]);
  const command = new Command("tenant").description("tenants, from the first key to the last receipt");
  command
    .command("list", { isDefault: true })
    .addOption(new Option("--state <state>").choices(["active", "suspended", "leaving"]))
    .action(async ({ state }) => {
      const tenants = await allPages<"tenants", Tenant>(service(), "tenants", undefined, { state });
      print({ tenants, total: tenants.length }, HEADER, tenants.map(rowOf));
    });
  command.command("show <path>").action(async (path: string) => show(await service().call("GET", at(path))));
  command
    .command("add <path>")
    .description("with its keys, budgets, limits, retention and settings; secrets are printed once")
    .option("--name <text>")
    .option("--template <name>")
    .option("--template-version <n>", "absent: the last", number)
    .option("--file <json>", "keys, budgets, limits, retention and settings, on top of the template's")
    .action(async (scope: string, { file, ...body }) => {
      const parts = file === undefined ? {} : await jsonFile(file);
      const made = await service().call<Omit<Tenant, "keys"> & { keys: ProvisionedKey[] }>("POST", "/tenants", {
        body: { ...parts, ...body, scope },
      });
      print(
        made,
        ["key", "floor", "principal", "secret (shown once)"],
        made.keys.map(({ name, scopeFloor, principal, key }) => [
          name,
          scopeText(scopeFloor),
          principal,
          key ?? "was there",
        ]),
      );
    });
  for (const [name, state] of [
    ["suspend", "suspended"],
    ["resume", "active"],
  ] as const)
    command
      .command(`${name} <path>`)
      .description(name === "suspend" ? "its keys are kept out, and nothing is lost" : "its keys come in again")
      .action(async (path: string) => show(await service().call("PATCH", at(path), { body: { state } })));
  command
    .command("rename <path> <name>")
    .action(async (path: string, name: string) => show(await service().call("PATCH", at(path), { body: { name } })));
  command
    .command("offboard <path>")
    .description("its keys are kept out; after the grace they end, and all that it has is erased")
    .option("--grace <seconds>", "in which it can be taken back; 0: none", number, GRACE_SECONDS)
    .option("--confirm <path>", "the path again, where nobody can be asked")
    .option("--wait", "until nothing is left; takes --grace 0")
    .action(async (scope: string, { grace, confirm, wait }) => {
      if (wait === true && grace > 0)
        throw new Misused("--wait waits for the erasure, which begins after the grace: use --grace 0");
      const typed = await confirmed(confirm, scope, `erases all that ${scope} has`);
      const tenant = await service().call<Tenant>("POST", "/tenants/offboard", {
        body: { scope, confirm: typed, graceSeconds: grace },
      });
      show(tenant);
      if (wait === true) await gone(scope);
    });
  command
    .command("keep <path>")
    .description("takes an offboarding back, within its grace")
    .action(async (scope: string) => show(await service().call("DELETE", "/tenants/offboard", { query: { scope } })));

  /** Says how much is left, until there is nothing. */
  async function gone(path: string): Promise<void> {
    for (let before = ""; ; await setTimeout(POLL_MS)) {
      const tenant = await service()
        .call<Tenant>("GET", at(path))
        .catch((error: unknown) => {
          if (error instanceof Refused && error.status === 404) return undefined;
          throw error;
        });
      if (tenant === undefined) {
        const receipt = (await receiptsOf(service(), scopeNamed(path)))[0];
        tell(`${path} is gone${receipt === undefined ? "" : `: receipt ${receipt.id}`}\n`);
        return;
      }
      const left = `${tenant.storage.passages} memories are left\n`;
      if (left !== before) tell(left);
      before = left;
      // A run that was stopped is ordered again later, and the tenant says when.
      if (tenant.leavesAt !== null && Date.parse(tenant.leavesAt) - Date.now() > 60_000 && (await isHeld(path)))
        throw new Refused(`a legal hold is in the way; the erasure is tried again at ${tenant.leavesAt}`);
    }
  }

  const isHeld = async (path: string) =>
    (await service().call<{ total: number }>("GET", "/holds", { query: { scope: path } })).total > 0;

  const template = command.command("template").description("what tenants are made from, each change a version");
  template.command("list", { isDefault: true }).action(async () => {
    const { templates } = await service().call<{ templates: Template[] }>("GET", "/templates");
    print(
      { templates },
      ["template", "version", "since"],
      templates.map(({ name, version, createdAt }) => [name, version, createdAt]),
    );
  });
  template
    .command("show <name>")
    .option("--at <version>", "absent: the last")
    .action(async (name: string, { at: version }) => {
      const shown = await service().call<Template>("GET", `/templates/${encodeURIComponent(name)}`, {
        query: { version },
      });
      write(`${JSON.stringify(shown.template, null, 2)}\n`);
    });
  template
    .command("put <name>")
    .requiredOption("--file <json>", "keys, budgets, limits, retention and settings")
    .action(async (name: string, { file }) => {
      const stored = await service().call<Template>("PUT", `/templates/${encodeURIComponent(name)}`, {
        body: await jsonFile(file),
      });
      print(stored, ["template", "version"], [[stored.name, stored.version]]);
    });
  template.command("delete <name>").action(async (name: string) => {
    await service().call("DELETE", `/templates/${encodeURIComponent(name)}`);
    tell("deleted\n");
  });
  return command;
}
