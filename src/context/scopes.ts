import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { notFound, unprocessable } from "../errors.ts";
import { canonicalPath, sameScope, scopeFromDatabase } from "../scope/scope.ts";
import { recordTrace } from "../traces/record.ts";

export interface RegisteredScope {
  readonly path: string;
  readonly displayName?: string;
  readonly description?: string;
  readonly createdAt: string;
  readonly tombstonedAt?: string;
}

interface ScopeRow {
  readonly tags: Record<string, string>;
  readonly displayName: string | null;
  readonly description: string | null;
  readonly createdAt: string;
  readonly tombstonedAt: string | null;
}

function toRegistered(row: ScopeRow): RegisteredScope {
  return {
    path: canonicalPath(scopeFromDatabase(row.tags)),
    ...(row.displayName === null ? {} : { displayName: row.displayName }),
    ...(row.description === null ? {} : { description: row.description }),
    createdAt: row.createdAt,
    ...(row.tombstonedAt === null ? {} : { tombstonedAt: row.tombstonedAt }),
  };
}

const COLUMNS = sql`
  s.tags, s.display_name AS "displayName", s.description, s.created_at AS "createdAt", s.tombstoned_at AS "tombstonedAt"`;

/** Makes the scope at E known, or known again; entering to write has put it into the dictionary. */
export async function registerScope(
  tx: ScopedTransaction,
  names: { readonly displayName?: string | undefined; readonly description?: string | undefined },
): Promise<RegisteredScope> {
  await tx.update(
    "scope",
    {
      tombstonedAt: null,
      tombstonedBy: null,
      ...(names.displayName === undefined ? {} : { displayName: names.displayName }),
      ...(names.description === undefined ? {} : { description: names.description }),
    },
    sql`true`,
  );
  recordTrace(tx, { kind: "decision", operation: "scope" });
  return currentScope(tx);
}

/** Marks the scope at E as deleted: writes are refused until it is registered again, rows stay. */
export async function tombstoneScope(tx: ScopedTransaction): Promise<void> {
  if (tx.entry.effective !== null && sameScope(tx.entry.effective, tx.entry.floor)) {
    throw unprocessable("this is the scope of the key's own floor; a key cannot delete what it stands on");
  }
  // Entering to write has made the scope if there was none: rolled back with this answer.
  const known = await tx.row(
    sql`SELECT 1 FROM ${tx.read("scope", "s")} WHERE s.id = ${tx.entry.write?.id ?? null}::int AND s.created_at < transaction_timestamp()`,
  );
  if (known === undefined) throw notFound();
  const tombstone = {
    tombstonedAt: sql`coalesce(tombstoned_at, now())`,
    // (Who comes here is not below the one who deleted it before.)
    tombstonedBy: sql`${json(tx.entry.floor)}`,
  };
  await tx.update("scope", tombstone, sql`true`);
  recordTrace(tx, { kind: "decision", operation: "scope_delete" });
}

async function currentScope(tx: ScopedTransaction): Promise<RegisteredScope> {
  const row = await tx.row<ScopeRow>(
    sql`SELECT ${COLUMNS} FROM ${tx.read("scope", "s")} WHERE s.id = ${tx.entry.write?.id ?? null}::int`,
  );
  if (row === undefined) throw notFound();
  return toRegistered(row);
}

/** The floor's scopes that were not erased, by age. */
export async function listScopes(tx: ScopedTransaction, limit: number, offset: number): Promise<RegisteredScope[]> {
  const rows = await tx.rows<ScopeRow>(sql`
    SELECT ${COLUMNS} FROM ${tx.read("scope", "s")} WHERE s.id <> 0 AND s.erased_at IS NULL
    ORDER BY s.created_at, s.id LIMIT ${limit} OFFSET ${offset}`);
  return rows.map(toRegistered);
}
