import { sql } from "drizzle-orm";
import { bigint, check, foreignKey, index, jsonb, numeric, primaryKey, text, unique, uuid } from "drizzle-orm/pg-core";
import { count, createdAt, place, scopefloor, time, usd } from "./columns.ts";

/**
 * What things cost, in USD, from a time on: tokens of a model, a call of an operation, a gigabyte kept for a
 * month. The operator's, and no tenant's data. A trace is priced when it is written (scopefloor.price_trace).
 */
export const price = scopefloor.table(
  "price",
  {
    id: uuid("id").primaryKey(),
    /** `model`, `operation` or `storage`. */
    kind: text("kind").notNull(),
    /** A model as `provider:model` or by its name alone; an operation as traces spell it; nothing for storage. */
    name: text("name").notNull(),
    /** Per million tokens; null: not priced. */
    input: usd("input"),
    cachedInput: usd("cached_input"),
    output: usd("output"),
    embedding: usd("embedding"),
    perCall: usd("per_call"),
    /** Per 10⁹ bytes kept for a whole month. */
    perGbMonth: usd("per_gb_month"),
    effectiveFrom: time("effective_from").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    unique("price_from").on(t.kind, t.name, t.effectiveFrom),
    check("price_not_negative", sql`least(input, cached_input, output, embedding, per_call, per_gb_month) >= 0`),
  ],
);

/** What may be spent at a scope, and at all that lies below it, in a period. */
export const budget = scopefloor.table(
  "budget",
  {
    ...place(),
    id: uuid("id").notNull(),
    /** Several of one period at one scope are told apart by it. */
    name: text("name").notNull().default(""),
    /** `hour`, `day`, `week`, `month`, or `total`: for ever. */
    period: text("period").notNull(),
    /** IANA name: where days, weeks and months begin. */
    timezone: text("timezone").notNull(),
    tokenLimit: bigint("token_limit", { mode: "number" }),
    /** USD. */
    costLimit: usd("cost_limit"),
    requestLimit: bigint("request_limit", { mode: "number" }),
    /** `hard`: what does not fit is refused; `soft`: it is counted and told. */
    mode: text("mode").notNull(),
    /** Shares of a limit that are told of once a period. */
    alertAt: numeric("alert_at").array().notNull().default(sql`'{}'`),
    /** What the limits are raised by until a time. */
    moreTokens: bigint("more_tokens", { mode: "number" }).notNull().default(0),
    moreCost: usd("more_cost").notNull().default("0"),
    moreUntil: time("more_until"),
    /** The floor of the key that set it: it and those above may change it. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    unique("budget_name").on(t.scopeId, t.period, t.name, t.tenantId),
    index("budget_id").on(t.id),
    index("budget_tenant").on(t.tenantId),
  ],
);

/** What was spent of a budget in one period, and what is held for calls that are under way. */
export const budgetWindow = scopefloor.table(
  "budget_window",
  {
    ...place(),
    budgetId: uuid("budget_id").notNull(),
    /** When the period began. */
    starts: time("starts").notNull(),
    usedTokens: count("used_tokens"),
    usedCost: usd("used_cost").notNull().default("0"),
    usedRequests: count("used_requests"),
    heldTokens: count("held_tokens"),
    heldCost: usd("held_cost").notNull().default("0"),
    heldRequests: count("held_requests"),
    /** The largest share that was told of. */
    alerted: numeric("alerted").notNull().default("0"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.budgetId, t.starts, t.tenantId] }),
    foreignKey({
      name: "budget_window_budget_fk",
      columns: [t.scopeId, t.budgetId, t.tenantId],
      foreignColumns: [budget.scopeId, budget.id, budget.tenantId],
    }).onDelete("cascade"),
  ],
);

/** That a share of a budget was reached in a period. */
export const budgetEvent = scopefloor.table(
  "budget_event",
  {
    ...place(),
    id: uuid("id").notNull(),
    budgetId: uuid("budget_id").notNull(),
    starts: time("starts").notNull(),
    threshold: numeric("threshold").notNull(),
    usedTokens: count("used_tokens"),
    usedCost: usd("used_cost").notNull().default("0"),
    usedRequests: count("used_requests"),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    unique("budget_event_once").on(t.scopeId, t.budgetId, t.starts, t.threshold, t.tenantId),
    foreignKey({
      name: "budget_event_budget_fk",
      columns: [t.scopeId, t.budgetId, t.tenantId],
      foreignColumns: [budget.scopeId, budget.id, budget.tenantId],
    }).onDelete("cascade"),
  ],
);

/** What a scope, and all that lies below it, or one key may do a minute and may keep. */
export const scopeLimit = scopefloor.table(
  "scope_limit",
  {
    ...place(),
    id: uuid("id").notNull(),
    /** The nil id: every key. */
    keyId: uuid("key_id").notNull(),
    requestsPerMinute: bigint("requests_per_minute", { mode: "number" }),
    tokensPerMinute: bigint("tokens_per_minute", { mode: "number" }),
    concurrentRequests: bigint("concurrent_requests", { mode: "number" }),
    storageBytes: bigint("storage_bytes", { mode: "number" }),
    documents: bigint("documents", { mode: "number" }),
    sessions: bigint("sessions", { mode: "number" }),
    keys: bigint("keys", { mode: "number" }),
    scopes: bigint("scopes", { mode: "number" }),
    /** The floor of the key that set it: it and those above may change it. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    unique("scope_limit_of").on(t.scopeId, t.keyId, t.tenantId),
    index("scope_limit_key").on(t.keyId),
    index("scope_limit_tenant").on(t.tenantId),
  ],
);

/** The calls of the last minute under a limit, and those that are under way. */
export const limitRate = scopefloor.table(
  "limit_rate",
  {
    ...place(),
    limitId: uuid("limit_id").notNull(),
    /** The second, since 1970, that was written last; slot `second % 61` of the two lists is its. */
    second: bigint("second", { mode: "number" }).notNull(),
    requests: bigint("requests", { mode: "number" }).array().notNull(),
    tokens: bigint("tokens", { mode: "number" }).array().notNull(),
    running: bigint("running", { mode: "number" }).notNull().default(0),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.limitId, t.tenantId] }),
    foreignKey({
      name: "limit_rate_limit_fk",
      columns: [t.scopeId, t.limitId, t.tenantId],
      foreignColumns: [scopeLimit.scopeId, scopeLimit.id, scopeLimit.tenantId],
    }).onDelete("cascade"),
  ],
);

/** What is kept under a limit. */
export const limitStore = scopefloor.table(
  "limit_store",
  {
    ...place(),
    limitId: uuid("limit_id").notNull(),
    bytes: count("bytes"),
    documents: count("documents"),
    sessions: count("sessions"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.limitId, t.tenantId] }),
    foreignKey({
      name: "limit_store_limit_fk",
      columns: [t.scopeId, t.limitId, t.tenantId],
      foreignColumns: [scopeLimit.scopeId, scopeLimit.id, scopeLimit.tenantId],
    }).onDelete("cascade"),
  ],
);

/** What a transaction changes of what its scopes keep: looked at when it commits, and gone with that. */
export const storedChange = scopefloor.table(
  "stored_change",
  {
    ...place(),
    id: uuid("id").notNull().default(sql`gen_random_uuid()`),
    /** The limits above the scope as its tags were then. */
    limitIds: uuid("limit_ids").array().notNull(),
    bytes: count("bytes"),
    documents: count("documents"),
    sessions: count("sessions"),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.id, t.tenantId] })],
);

/**
 * What is held of budgets and limits for one call, under the id of the trace that is to come: that trace settles it
 * (scopefloor.fold_holds).
 */
export const budgetHold = scopefloor.table(
  "budget_hold",
  {
    /** Where the trace stands. */
    ...place(),
    id: uuid("id").notNull(),
    /** The budgets, with the beginning of the period of each. */
    budgetIds: uuid("budget_ids").array().notNull(),
    starts: time("starts").array().notNull(),
    tokens: count("tokens"),
    cost: usd("cost").notNull().default("0"),
    requests: count("requests"),
    /** The limits of rates that it counts against, as so many calls in that second. */
    limitIds: uuid("limit_ids").array().notNull().default(sql`'{}'`),
    calls: count("calls"),
    second: count("second"),
    apiKeyId: uuid("api_key_id").notNull(),
    operation: text("operation").notNull(),
    provider: text("provider"),
    model: text("model"),
    /**
     * `held`: for a call in this process; `sent`: a provider may have got it, and then it costs what is held, until a
     * trace says otherwise; `charged`: such a one has expired, and stays for a day, since its trace may come late.
     */
    state: text("state").notNull(),
    expiresAt: time("expires_at").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("budget_hold_id").on(t.id),
    index("budget_hold_budgets").using("gin", t.budgetIds),
    index("budget_hold_limits").using("gin", t.limitIds),
    index("budget_hold_open").on(t.expiresAt),
  ],
);
