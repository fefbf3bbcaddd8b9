import { createHash } from "node:crypto";
import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction, sql } from "../db/scoped.ts";
import { notFound } from "../errors.ts";
import { canonicalPath, type Scope } from "../scope/scope.ts";

/** What was forgotten, by table. No content. */
export type ForgetCounts = Readonly<Record<string, number>>;

export interface Receipt {
  readonly id: string;
  readonly target: Record<string, string>;
  readonly subtree: boolean;
  readonly action: "expire" | "erase";
  /** What decided it: a query, a session, a whole scope. */
  readonly policy: string;
  readonly counts: ForgetCounts;
  readonly keyId: string;
  readonly createdAt: string;
}

/**
 * The hash by which someone who knows a scope's name finds the receipt of its erasure: the name
 * itself is erased with it.
 */
export const scopeDigest = (scope: Scope) => createHash("sha256").update(canonicalPath(scope)).digest("hex");

/** Written in the transaction of the forget itself. */
export async function writeReceipt(
  tx: ScopedTransaction,
  about: {
    readonly target: Record<string, string>;
    readonly subtree: boolean;
    readonly action: "expire" | "erase";
    readonly policy: string;
    /** Ids, where the target does not say all of it. */
    readonly items?: object;
  },
  counts: ForgetCounts,
): Promise<string> {
  const id = uuid();
  await tx.insert("forget_receipt", [
    {
      id,
      target: json(about.target) as never,
      subtree: about.subtree,
      action: about.action,
      policy: about.policy,
      counts: json(counts) as never,
      items: about.items === undefined ? null : (json(about.items) as never),
      apiKeyId: tx.entry.key.id,
    },
  ]);
  return id;
}

const COLUMNS = sql`
  r.id, r.target, r.subtree, r.action, r.policy, r.counts, r.api_key_id AS "keyId", r.created_at AS "createdAt"`;

/** Newest first. */
export async function listReceipts(tx: ScopedTransaction, limit: number, offset: number): Promise<Receipt[]> {
  return tx.rows<Receipt>(sql`
    SELECT ${COLUMNS} FROM ${tx.read("forget_receipt", "r")} ORDER BY r.created_at DESC, r.id DESC LIMIT ${limit} OFFSET ${offset}`);
}

export async function getReceipt(tx: ScopedTransaction, id: string): Promise<Receipt> {
  const receipt = await tx.row<Receipt>(
    sql`SELECT ${COLUMNS} FROM ${tx.read("forget_receipt", "r")} WHERE r.id = ${id}::uuid`,
  );
  if (receipt === undefined) throw notFound();
  return receipt;
}
