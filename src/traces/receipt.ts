import { createHash } from "node:crypto";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
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
  /** The service's signature (receipt-signer.ts); null: it has none. */
  readonly jws: string | null;
}

/**
 * The hash by which someone who knows a scope's name finds the receipt of its erasure: the name
 * itself is erased with it.
 */
export const scopeDigest = (scope: Scope) => createHash("sha256").update(canonicalPath(scope)).digest("hex");

/** What a forget or a deletion takes, by kind; the database (`write_receipt`) knows the same ones. */
export const FORGOTTEN_KINDS = [
  "passages",
  // The rows that passages are made from.
  "turns",
  "facts",
  "items",
  // Documents that stay, without their bytes and keywords.
  "contents",
  // What goes as a whole.
  "sessions",
  "documents",
  "entities",
  // Passages without their heading, documents without their title or source.
  "sections",
  "titles",
  "sources",
] as const;

/** A value for each of {@link FORGOTTEN_KINDS}. */
export const ofEachKind = <T>(value: T) =>
  Object.fromEntries(FORGOTTEN_KINDS.map((kind) => [kind, value])) as Record<(typeof FORGOTTEN_KINDS)[number], T>;

/** By their ids, what a forget or a deletion took: what makes it possible to do it again to an older backup. */
export type ForgottenItems = Readonly<Record<(typeof FORGOTTEN_KINDS)[number], readonly string[]>>;

export const NOTHING: ForgottenItems = ofEachKind([]);

/**
 * Written in the transaction of the forget itself. Whose it is, when it was and which scope it is about
 * the database takes from the ticket.
 *
 * @param about `items` unless the whole scope was erased
 */
export async function writeReceipt(
  tx: ScopedTransaction,
  about: {
    readonly policy:
      | "scope"
      | "query"
      | "session"
      | "query in a session"
      | "document"
      | "entity"
      | "item"
      | "memory"
      | "selection"
      | "retention"
      | "schedule";
    readonly action: "expire" | "erase";
    readonly subtree: boolean;
    readonly items?: Partial<ForgottenItems>;
  },
  counts: ForgetCounts,
): Promise<string> {
  const id = await tx.call<string>(
    "write_receipt",
    about.policy,
    about.action,
    about.subtree,
    json(counts),
    json(about.items ?? {}),
  );
  tx.noteReceipt(id);
  return id;
}

const COLUMNS = sql`
  r.id, r.target, r.subtree, r.action, r.policy, r.counts, r.api_key_id AS "keyId", r.created_at AS "createdAt", r.jws`;

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
