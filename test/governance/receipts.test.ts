import { mkdtemp, readFile, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { JWK } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { scopeFromDatabase } from "../../src/scope/scope.ts";
import { scopeDigest } from "../../src/traces/receipt.ts";
import {
  newReceiptKey,
  openReceiptKey,
  parseReceiptKey,
  ReceiptSigner,
  verifyReceipt,
} from "../../src/traces/receipt-signer.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());

interface Receipt {
  id: string;
  jws: string;
  counts: Record<string, number>;
  createdAt: string;
}
const keysOf = async () => (await (await fetch(`${service.url}/receipt-keys`)).json()) as { keys: JWK[] };
const receipt = async (by: Client, id: unknown) =>
  (await by.get<Receipt>(`/contexts/default/receipts/${String(id)}`)).body;

describe("a receipt", () => {
  test("is signed with a key that anyone may have, and says what was forgotten without a name", async () => {
    const floor = { org: "signed" };
    const client = await service.mint("agent", floor);
    await client.remember("the password is persimmon");
    const { body } = await client.post("/forget", { query: "password persimmon", purge: true });
    const one = await receipt(service.operator, body.receiptId);
    const keys = await keysOf();
    expect(JSON.stringify(keys)).not.toMatch(/"d":/);
    const statement = await verifyReceipt(one.jws, keys);
    expect(statement).toEqual({
      receipt: one.id,
      scope: scopeDigest(scopeFromDatabase(floor)),
      subtree: false,
      action: "erase",
      policy: "query",
      counts: one.counts,
      by: client.id,
      at: one.createdAt,
    });
    expect(one.jws).not.toContain("persimmon");
  });

  test("of each kind of forgetting has a signature, also once its scope was erased", async () => {
    const client = await service.mint("agent", { org: "kinds" });
    await client.remember("one thing");
    await client.call("PUT", "/memory/theme", { value: 1 });
    await client.del("/memory/theme");
    await client.post("/facts", { triples: [{ entity: { type: "A", name: "B" }, key: "c", value: 1 }] });
    await client.del("/entities/A/B");
    await client.eraseFloor();
    const { receipts } = (await service.operator.get<{ receipts: Receipt[] }>("/contexts/default/receipts")).body;
    const keys = await keysOf();
    for (const { jws, id } of receipts) expect((await verifyReceipt(jws, keys)).receipt).toBe(id);
    expect(receipts.length).toBeGreaterThanOrEqual(4);
  });

  test("that was changed, or is signed by another, does not verify", async () => {
    const client = await service.mint("agent", { org: "forged" });
    await client.remember("some fact");
    const { body } = await client.post("/forget", { query: "some fact" });
    const { jws } = await receipt(service.operator, body.receiptId);
    const keys = await keysOf();
    const [header = "", payload = "", signature = ""] = jws.split(".");
    const changed = JSON.parse(Buffer.from(payload, "base64url").toString());
    const forged = Buffer.from(JSON.stringify({ ...changed, counts: { turn: 1_000 } })).toString("base64url");
    await expect(verifyReceipt(`${header}.${forged}.${signature}`, keys)).rejects.toThrow();
    const stranger = await ReceiptSigner.of(parseReceiptKey(newReceiptKey()));
    await expect(verifyReceipt(await stranger.sign(changed), keys)).rejects.toThrow();
    await expect(verifyReceipt(await stranger.sign(changed), { keys: [stranger.jwk] })).resolves.toEqual(changed);
  });
});

describe("the key that receipts are signed with", () => {
  test("is made once, for its owner alone to read, or comes from the configuration", async () => {
    const dataDir = join(await mkdtemp(join(tmpdir(), "receipt-key-")), "data");
    const [one, two] = await Promise.all(
      [1, 2].map(async () => ReceiptSigner.of(await openReceiptKey({ configured: undefined, dataDir }))),
    );
    expect(one?.jwk.kid).toBe(two?.jwk.kid);
    expect((await stat(join(dataDir, "receipts.key"))).mode & 0o777).toBe(0o600);
    const pem = await readFile(join(dataDir, "receipts.key"), "utf8");
    const configured = await ReceiptSigner.of(
      await openReceiptKey({ configured: pem.replaceAll("\n", "\\n"), dataDir: "unused" }),
    );
    expect(configured.jwk.kid).toBe(one?.jwk.kid);
    expect(() => parseReceiptKey("nonsense")).toThrow("SCOPEFLOOR_RECEIPT_KEY");
  });
});
