import { sql } from "drizzle-orm";
import { bigint, customType, integer, numeric, pgSchema, timestamp, uuid } from "drizzle-orm/pg-core";
import { NIL } from "uuid";

export const scopefloor = pgSchema("scopefloor");

export const bytea = customType<{ data: Uint8Array }>({ dataType: () => "bytea" });

/** No fixed dimension, so that passages of an old and a new model can stand side by side. */
export const halfvec = customType<{ data: string }>({ dataType: () => "halfvec" });

/** The signs of a vector's components, as bits. */
export const signs = customType<{ data: string }>({ dataType: () => "bit varying" });

export const time = (name: string) => timestamp(name, { withTimezone: true, mode: "string" });

/** Numeric(…) without a scale: amounts are exact. */
export const usd = (name: string) => numeric(name);
export const count = (name: string) => bigint(name, { mode: "number" }).notNull().default(0);

/** What a word of the row is looked up by: a trigger sets it, whatever is inserted (scopefloor.set_lookup). */
export const lookupHash = (name: string) =>
  uuid(name)
    .notNull()
    .$defaultFn(() => NIL);

export const createdAt = () => time("created_at").notNull().default(sql`now()`);

/**
 * Where a row belongs: its scope, and the tenant of that scope (its `org`; 0 without one). Both are in
 * every primary key, unique constraint and foreign key of what is stored, so that no row can refer to one
 * of another tenant or scope. (Keys, scopes and tenants are the directory by which a tenant is found: they
 * are looked up by a secret's hash, by tags, or by an id, before one is known.) The tenant stands last in them, because rows are found by their scope.
 */
export const place = () => ({ tenantId: integer("tenant_id").notNull(), scopeId: integer("scope_id").notNull() });
