import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { link, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CompactSign, calculateJwkThumbprint, compactVerify, createLocalJWKSet, exportJWK, type JWK } from "jose";
import { v7 as uuid } from "uuid";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { type Database, inTransaction } from "../db/connect/lease.ts";

/** What a signed receipt says: numbers, ids, and the hashes of names. */
export interface ReceiptStatement {
  readonly receipt: string;
  /** SHA-256 of the canonical path of the scope that it is about, hex. */
  readonly scope: string;
  readonly subtree: boolean;
  readonly action: string;
  readonly policy: string;
  readonly counts: Readonly<Record<string, number>>;
  /** The key that ordered it. */
  readonly by: string;
  readonly at: string;
}

/** Signs receipts: a compact JWS (RFC 7515) with EdDSA over Ed25519. */
export class ReceiptSigner {
  readonly #key: KeyObject;
  readonly jwk: JWK & { readonly kid: string };

  private constructor(key: KeyObject, jwk: JWK & { readonly kid: string }) {
    this.#key = key;
    this.jwk = jwk;
  }

  /** @throws Error for a key of another kind */
  static async of(key: KeyObject): Promise<ReceiptSigner> {
    if (key.asymmetricKeyType !== "ed25519") throw new Error("receipts are signed with an Ed25519 key");
    const jwk = await exportJWK(createPublicKey(key));
    return new ReceiptSigner(key, { ...jwk, kid: await calculateJwkThumbprint(jwk), alg: "EdDSA", use: "sig" });
  }

  sign(statement: ReceiptStatement): Promise<string> {
    return new CompactSign(new TextEncoder().encode(JSON.stringify(statement)))
      .setProtectedHeader({ alg: "EdDSA", kid: this.jwk.kid, typ: "scopefloor-receipt+jws" })
      .sign(this.#key);
  }

  /** Makes its public key known in the database. */
  async register(database: Database): Promise<this> {
    await inTransaction(database.owner, (owner) =>
      owner.query("SELECT scopefloor.register_receipt_key($1, $2)", [this.jwk.kid, JSON.stringify(this.jwk)]),
    );
    return this;
  }

  /** Whether its public key is there. */
  async isKnown(database: Database): Promise<boolean> {
    const { keys } = await knownKeys(database);
    return keys.some(({ kid }) => kid === this.jwk.kid);
  }
}

/** All public keys that receipts were ever signed with, as a JWK Set (RFC 7517). */
export async function knownKeys(database: Database): Promise<{ readonly keys: JWK[] }> {
  const [row] = await inTransaction(database.app, (app) => app.query("SELECT scopefloor.receipt_keys() AS keys"));
  return row?.keys as { keys: JWK[] };
}

/** A new key, as it is written to a file. */
export const newReceiptKey = (): string =>
  generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" }).toString();

/** @throws Error for what is no key */
export function parseReceiptKey(pem: string): KeyObject {
  try {
    // An environment variable may have its line ends spelled out.
    return createPrivateKey(pem.replaceAll("\\n", "\n"));
  } catch {
    throw new Error(
      "SCOPEFLOOR_RECEIPT_KEY: must be an Ed25519 private key as PEM (openssl genpkey -algorithm ed25519)",
    );
  }
}

/** The configured key, or the one in `<data dir>/receipts.key`, made (mode 0600) where there is none. */
export async function openReceiptKey(options: {
  readonly configured: string | undefined;
  readonly dataDir: string;
}): Promise<KeyObject> {
  if (options.configured !== undefined) return parseReceiptKey(options.configured);
  const path = join(options.dataDir, "receipts.key");
  const kept = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (kept !== undefined) return parseReceiptKey(kept);
  await mkdir(options.dataDir, { recursive: true, mode: 0o700 });
  const draft = `${path}.${uuid()}`;
  await writeFile(draft, newReceiptKey(), { mode: 0o600, flag: "wx" });
  try {
    await link(draft, path);
  } catch (error) {
    // Another process of this folder was first.
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    await rm(draft);
  }
  return openReceiptKey(options);
}

/** Signs the receipts that a transaction has written, in that transaction. */
export async function signReceipts(tx: ScopedTransaction, signer: ReceiptSigner | undefined): Promise<void> {
  if (signer === undefined) return;
  for (const id of tx.receiptIds) {
    const statement = await tx.call<ReceiptStatement | null>("receipt_statement", id);
    if (statement !== null) await tx.call("sign_receipt", id, await signer.sign(statement));
  }
}

/**
 * What a receipt's signature vouches for.
 *
 * @param keys the service's public keys, as `GET /api/v1/receipt-keys` gives them
 * @throws Error where it is not signed by one of them
 */
export async function verifyReceipt(jws: string, keys: { readonly keys: JWK[] }): Promise<ReceiptStatement> {
  const { payload } = await compactVerify(jws, createLocalJWKSet(keys), { algorithms: ["EdDSA"] });
  return JSON.parse(new TextDecoder().decode(payload)) as ReceiptStatement;
}
