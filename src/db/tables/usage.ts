import { bigint, date, index, integer, numeric, primaryKey, text, uuid } from "drizzle-orm/pg-core";
import { count, place, scopefloor, time, usd } from "./columns.ts";

const sums = () => ({
  calls: count("calls"),
  inputTokens: count("input_tokens"),
  cachedInputTokens: count("cached_input_tokens"),
  outputTokens: count("output_tokens"),
  embeddingTokens: count("embedding_tokens"),
  savedTokens: count("saved_tokens"),
  /** USD, of the traces that have a price. */
  costUsd: usd("cost_usd").notNull().default("0"),
  /** Traces of models without a price. */
  unpriced: count("unpriced"),
  durationMs: numeric("duration_ms").notNull().default("0"),
});

/**
 * Traces summed by hour, scope, key, operation, model, tier and status. Each trace is in it once: it is
 * added when the audit chain takes the trace up (scopefloor.seal_audit).
 */
export const usageHour = scopefloor.table(
  "usage_hour",
  {
    ...place(),
    hour: time("hour").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    operation: text("operation").notNull(),
    /** '' where no model was called. */
    provider: text("provider").notNull(),
    model: text("model").notNull(),
    tier: text("tier").notNull(),
    status: text("status").notNull(),
    ...sums(),
    /** When the last of them was made. */
    lastAt: time("last_at").notNull(),
  },
  (t) => [
    primaryKey({
      columns: [t.scopeId, t.hour, t.apiKeyId, t.operation, t.provider, t.model, t.tier, t.status, t.tenantId],
    }),
    index("usage_hour_time").on(t.hour),
  ],
);

/** The same by tenant and day (UTC): what reports over all tenants read. */
export const usageDay = scopefloor.table(
  "usage_day",
  {
    tenantId: integer("tenant_id").notNull(),
    day: date("day").notNull(),
    operation: text("operation").notNull(),
    provider: text("provider").notNull(),
    model: text("model").notNull(),
    tier: text("tier").notNull(),
    status: text("status").notNull(),
    ...sums(),
  },
  (t) => [
    primaryKey({ columns: [t.day, t.tenantId, t.operation, t.provider, t.model, t.tier, t.status] }),
    index("usage_day_tenant").on(t.tenantId, t.day),
  ],
);

/** What a scope kept on a day (UTC), and what that cost. */
export const storageDay = scopefloor.table(
  "storage_day",
  {
    ...place(),
    day: date("day").notNull(),
    /** Of texts and files, as UTF-8. */
    bytes: bigint("bytes", { mode: "number" }).notNull(),
    /** USD; null: there was no price. */
    costUsd: usd("cost_usd"),
    passages: integer("passages").notNull(),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.day, t.tenantId] }), index("storage_day_day").on(t.day)],
);
