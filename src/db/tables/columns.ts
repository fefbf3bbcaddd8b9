import { sql } from "drizzle-orm";
import { customType, integer, pgSchema, timestamp } from "drizzle-orm/pg-core";

export const scopefloor = pgSchema("scopefloor");

export const bytea = customType<{ data: Uint8Array }>({ dataType: () => "bytea" });

/** No fixed dimension, so that passages of an old and a new model can stand side by side. */
export const halfvec = customType<{ data: string }>({ dataType: () => "halfvec" });

/** The signs of a vector's components, as bits. */
export const signs = customType<{ data: string }>({ dataType: () => "bit varying" });

export const time = (name: string) => timestamp(name, { withTimezone: true, mode: "string" });

export const createdAt = () => time("created_at").notNull().default(sql`now()`);

export const scopeId = () => integer("scope_id").notNull();
