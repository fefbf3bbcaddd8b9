import { readFile } from "node:fs/promises";
import { Command } from "commander";
import type { JWK } from "jose";
import { type Scope, scopeFromDatabase } from "../../scope/scope.ts";
import { type Receipt, scopeDigest } from "../../traces/receipt.ts";
import { type ReceiptStatement, verifyReceipt } from "../../traces/receipt-signer.ts";
import { allPages, type CommandContext, jsonFile, scopeNamed, scopeOf } from "../command-context.ts";
import { Misused, Refused, type Service } from "../http-client.ts";

const HEADER = ["id", "at", "policy", "action", "taken"];
const rowOf = ({ id, createdAt, policy, action, counts }: Receipt) => [
  id,
  createdAt,
  policy,
  action,
  Object.entries(counts)
    .filter(([, n]) => n > 0)
    .map(([name, n]) => `${n} ${name}`)
    .join(", "),
];

/** A receipt as JSON, or its signature alone. */
async function signatureIn(path: string): Promise<{ jws: string; receipt: Partial<Receipt> | undefined }> {
  const text = (await readFile(path, "utf8").catch(() => Promise.reject(new Misused(`${path} cannot be read`)))).trim();
  if (text === "") throw new Misused(`${path} is empty`);
  if (!text.startsWith("{")) return { jws: text, receipt: undefined };
  const receipt = (await jsonFile(path)) as Partial<Receipt>;
  if (typeof receipt.jws !== "string") throw new Refused("the receipt has no signature");
  return { jws: receipt.jws, receipt };
}

/** What the file says beside its signature has to be what is signed. */
function refuseOther(receipt: Partial<Receipt>, signed: ReceiptStatement): void {
  const { target } = receipt;
  const spell = (value: unknown) =>
    JSON.stringify(typeof value === "object" && value !== null ? Object.entries(value).sort() : value);
  for (const [field, said, meant] of [
    ["id", receipt.id, signed.receipt],
    ["target", target && digestOf(target), signed.scope],
    ["subtree", receipt.subtree, signed.subtree],
    ["action", receipt.action, signed.action],
    ["policy", receipt.policy, signed.policy],
    ["counts", receipt.counts, signed.counts],
    ["keyId", receipt.keyId, signed.by],
    ["createdAt", receipt.createdAt, signed.at],
  ] as const)
    if (spell(said) !== spell(meant))
      throw new Refused(`the receipt says something else than what was signed: ${field} was ${spell(meant)}`);
}

/** Receipts, the newest first: all that the key sees, or those about one scope, which an erased one is known by the hash of. */
export async function receiptsOf(service: Service, scope: Scope | undefined): Promise<Receipt[]> {
  const all = await allPages<"receipts", Receipt>(service, "receipts", undefined);
  const digest = scope && scopeDigest(scope);
  return all.filter(({ target }) => digest === undefined || digestOf(target) === digest);
}

/** The hash of the scope that a receipt is about. */
const digestOf = (target: Receipt["target"]) => target["!digest"] ?? scopeDigest(scopeFromDatabase(target));

export function receiptCommand({ service, print, write }: CommandContext): Command {
  const command = new Command("receipt").description("what was forgotten, and the proof of it");
  command
    .command("list", { isDefault: true })
    .option("--scope <path>", "about this scope, erased ones too; absent: about all that the key sees", scopeOf)
    .action(async ({ scope }) => {
      const receipts = await receiptsOf(service(), scope === undefined ? undefined : scopeNamed(scope));
      print({ receipts }, HEADER, receipts.map(rowOf));
    });
  command.command("show <id>").action(async (id: string) => {
    const receipt = await service().call<Receipt>("GET", `/receipts/${encodeURIComponent(id)}`);
    print(receipt, HEADER, [rowOf(receipt)]);
  });
  command
    .command("keys")
    .description("the public keys that receipts are signed with, to keep for later")
    .action(async () => {
      write(`${JSON.stringify(await service().root("/receipt-keys"), null, 2)}\n`);
    });
  command
    .command("verify <file>")
    .description("without the service: a receipt as JSON, or its signature alone")
    .requiredOption("--keys <file>", "what `scopefloor receipt keys` has printed")
    .option("--scope <path>", "the receipt has to be about this scope", scopeOf)
    .action(async (file: string, { keys, scope }) => {
      const { jws, receipt } = await signatureIn(file);
      const known = (await jsonFile(keys)) as { keys?: JWK[] };
      if (!Array.isArray(known.keys))
        throw new Misused(`${keys} has no keys: it is what \`scopefloor receipt keys\` prints`);
      const signed = await verifyReceipt(jws, { keys: known.keys }).catch(() => {
        throw new Refused("the signature is not by one of these keys, or the receipt was changed");
      });
      if (receipt !== undefined) refuseOther(receipt, signed);
      if (scope !== undefined && scopeDigest(scopeNamed(scope)) !== signed.scope)
        throw new Refused("the receipt is about another scope");
      print(
        signed,
        ["receipt", "at", "policy", "action", "signature"],
        [[signed.receipt, signed.at, signed.policy, signed.action, "holds"]],
      );
    });
  return command;
}
