import { readFile } from "node:fs/promises";
import { Command } from "commander";
import type { JWK } from "jose";
import { GENERAL, type Scope } from "../../scope/scope.ts";
import { parseSelector } from "../../scope/selector.ts";
import { type Receipt, scopeDigest } from "../../traces/receipt.ts";
import { type ReceiptStatement, verifyReceipt } from "../../traces/receipt-signer.ts";
import { type CommandContext, jsonFile, scopeOf } from "../command-context.ts";
import { Misused, Refused } from "../http-client.ts";

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

const tagsOf = (scope: unknown): Scope => parseSelector(scope)?.[0]?.tags ?? GENERAL;

/** A receipt as JSON, or its signature alone. */
async function signatureIn(path: string): Promise<{ jws: string; receipt: Partial<Receipt> | undefined }> {
  const text = (await readFile(path, "utf8").catch(() => Promise.reject(new Misused(`${path} cannot be read`)))).trim();
  if (!text.startsWith("{")) return { jws: text, receipt: undefined };
  const receipt = (await jsonFile(path)) as Partial<Receipt>;
  if (typeof receipt.jws !== "string") throw new Refused("the receipt has no signature");
  return { jws: receipt.jws, receipt };
}

/** What the file says beside its signature has to be what is signed. */
function refuseOther(receipt: Partial<Receipt>, signed: ReceiptStatement): void {
  const said = { id: receipt.id, action: receipt.action, policy: receipt.policy, at: receipt.createdAt };
  const meant = { id: signed.receipt, action: signed.action, policy: signed.policy, at: signed.at };
  const spell = (counts: object = {}) => JSON.stringify(Object.entries(counts).sort());
  if (JSON.stringify(said) !== JSON.stringify(meant) || spell(receipt.counts) !== spell(signed.counts))
    throw new Refused("the receipt says something else than what was signed");
}

export function receiptCommand({ service, print }: CommandContext): Command {
  const command = new Command("receipt").description("what was forgotten, and the proof of it");
  command
    .command("list", { isDefault: true })
    .option("--page <n>", "of 100", "0")
    .action(async ({ page }) => {
      const { receipts } = await service().call<{ receipts: Receipt[] }>("GET", "/receipts", {
        query: { page, pageSize: "100" },
      });
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
      const { root } = service();
      const keys = await fetch(`${root}/receipt-keys`).then((answer) => answer.json());
      process.stdout.write(`${JSON.stringify(keys, null, 2)}\n`);
    });
  command
    .command("verify <file>")
    .description("without the service: a receipt as JSON, or its signature alone")
    .requiredOption("--keys <file>", "what `scopefloor receipt keys` has printed")
    .option("--scope <path>", "the receipt has to be about this scope", scopeOf)
    .action(async (file: string, { keys, scope }) => {
      const { jws, receipt } = await signatureIn(file);
      const signed = await verifyReceipt(jws, (await jsonFile(keys)) as { keys: JWK[] }).catch(() => {
        throw new Refused("the signature is not by one of these keys, or the receipt was changed");
      });
      if (receipt !== undefined) refuseOther(receipt, signed);
      if (scope !== undefined && scopeDigest(tagsOf(scope)) !== signed.scope)
        throw new Refused("the receipt is about another scope");
      print(
        signed,
        ["receipt", "at", "policy", "action", "signature"],
        [[signed.receipt, signed.at, signed.policy, signed.action, "holds"]],
      );
    });
  return command;
}
