import { Command, Option } from "commander";
import type { ApiKey } from "../../keys/keys.ts";
import { scopeText } from "../../scope/scope.ts";
import { VIEWS } from "../../scope/visibility.ts";
import { allPages, type CommandContext, confirmed, namesOf, number, scopeNamed, scopeOf } from "../command-context.ts";

const HEADER = ["id", "name", "principal", "floor", "verbs", "status", "last used", "expires"];
const rowOf = (key: ApiKey) => [
  key.id,
  key.name,
  key.principal,
  scopeText(key.scopeFloor),
  key.verbs.map((verb) => verb.replace("memory:", "")).join(","),
  key.status,
  key.lastUsedAt,
  key.expiresAt,
];
type Secret = Pick<ApiKey, "id" | "name" | "scopeFloor"> & { readonly key: string };

export function keyCommand({ service, print, tell }: CommandContext): Command {
  const shown = (key: Secret) =>
    print(key, ["id", "name", "floor", "key (shown once)"], [[key.id, key.name, scopeText(key.scopeFloor), key.key]]);
  const command = new Command("key").description("API keys");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "absent: the key's own floor")
    .option("--name <name>")
    .action(async ({ scope, name }) => {
      const keys = await allPages<"keys", ApiKey>(service(), "keys", scope, { name });
      print({ keys, total: keys.length }, HEADER, keys.map(rowOf));
    });
  command
    .command("mint <name>")
    .description("the secret is printed once")
    .addOption(new Option("--principal <kind>").choices(["agent", "supervisor", "management"]).makeOptionMandatory())
    .requiredOption("--floor <path>", "what it is confined to; {}: nothing, for management", scopeOf)
    .option(
      "--verbs <names>",
      "memory:read,memory:write,memory:forget or usage:read; absent: as the key that mints",
      namesOf,
    )
    .addOption(
      new Option(
        "--default-view <view>",
        "what it sees where a request does not say; absent: strict for agents, subtree for others",
      ).choices(VIEWS),
    )
    .option("--ttl <seconds>", "", number)
    .action(async (name: string, { principal, floor, verbs, defaultView, ttl }) => {
      const body = { name, principal, scopeFloor: scopeNamed(floor), verbs, defaultView, ttlSeconds: ttl };
      shown(await service().call("POST", "/keys", { body }));
    });
  command
    .command("rotate <idOrName>")
    .description("a new secret, printed once")
    .option("--grace <seconds>", "how long the old one opens too; without, keys that agents minted with it end")
    .action(async (key: string, { grace }) => {
      shown(
        await service().call("POST", `/keys/${encodeURIComponent(key)}/rotate`, { query: { graceSeconds: grace } }),
      );
    });
  command
    .command("revoke <idOrName>")
    .option("--confirm <idOrName>", "the same again, where nobody can be asked")
    .action(async (key: string, { confirm }) => {
      await confirmed(confirm, key, `ends the key ${key} at once`);
      await service().call("DELETE", `/keys/${encodeURIComponent(key)}`);
      tell("revoked\n");
    });
  return command;
}
