import { sql } from "drizzle-orm";
import { bigint, boolean, index, integer, jsonb, primaryKey, text, unique, uuid } from "drizzle-orm/pg-core";
import { createdAt, place, scopefloor, time } from "./columns.ts";

/** What may be neither forgotten nor changed: a scope and all below it, or there one document, or what mentions a subject. */
export const legalHold = scopefloor.table(
  "legal_hold",
  {
    ...place(),
    id: uuid("id").notNull(),
    /** A person or thing by its name; null: whatever it is about. */
    subject: text("subject"),
    /** Its words in lower case: what has all of them mentions it. */
    words: text("words").array(),
    documentId: uuid("document_id"),
    /** For management alone. */
    reason: text("reason").notNull(),
    /** The floor of the key that set it: it and those above may take it away. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("legal_hold_id").on(t.id),
    index("legal_hold_tenant").on(t.tenantId),
  ],
);

/** The public keys that receipts are signed with, as JWK. No tenant's data. */
export const receiptKey = scopefloor.table("receipt_key", {
  /** Its thumbprint (RFC 7638). */
  id: text("id").primaryKey(),
  jwk: jsonb("jwk").notNull(),
  createdAt: createdAt(),
});

/** How long what a scope and all below it hold stays (src/db/sql/3_governance/3_retention.sql). */
export const retentionRule = scopefloor.table(
  "retention_rule",
  {
    ...place(),
    id: uuid("id").notNull(),
    /** `turns`, `documents`, `facts`, `items`, `traces` or `receipts`. */
    kind: text("kind").notNull(),
    /** ISO 8601, such as P90D. */
    olderThan: text("older_than").notNull(),
    /** `observed`, `created` or `lastUsed`: from when on it counts. */
    since: text("since").notNull(),
    /** `expire` or `erase`. */
    action: text("action").notNull(),
    /** Whether it holds below, whatever a narrower rule says. */
    isMaximum: boolean("is_maximum").notNull(),
    nextRun: time("next_run").notNull().default(sql`now()`),
    /** The floor of the key that set it: it and those above may change it. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    unique("retention_rule_of").on(t.scopeId, t.kind, t.action, t.isMaximum, t.tenantId),
    index("retention_rule_tenant").on(t.tenantId, t.kind),
    index("retention_rule_due").on(t.nextRun),
  ],
);

/** A forget that is done again and again (src/db/sql/3_governance/5_schedules.sql). */
export const forgetSchedule = scopefloor.table(
  "forget_schedule",
  {
    ...place(),
    id: uuid("id").notNull(),
    name: text("name").notNull().default(""),
    subtree: boolean("subtree").notNull(),
    /** Five fields, and the IANA name of the zone that they are in. */
    cron: text("cron").notNull(),
    timezone: text("timezone").notNull(),
    /** {query?, labels?, olderThan?, since?, kinds?}; {}: all of the scope. */
    selector: jsonb("selector").notNull(),
    action: text("action").notNull(),
    dryRun: boolean("dry_run").notNull(),
    paused: boolean("paused").notNull(),
    /** Null: never again. */
    nextRun: time("next_run"),
    /** The floor of the key that made it: it and those above may change it. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("forget_schedule_id").on(t.id),
    index("forget_schedule_tenant").on(t.tenantId),
    index("forget_schedule_due").on(t.nextRun).where(sql`NOT paused`),
  ],
);

/** A forget in several transactions, and how far it is (src/db/sql/3_governance/4_runs.sql). */
export const forgetRun = scopefloor.table(
  "forget_run",
  {
    ...place(),
    id: uuid("id").notNull(),
    /** `retention`, `schedule` or `offboard`. */
    source: text("source").notNull(),
    /** The rule or schedule. */
    ruleId: uuid("rule_id").notNull(),
    tick: time("tick").notNull(),
    /** The floor in whose name it is done. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    action: text("action").notNull(),
    subtree: boolean("subtree").notNull(),
    dryRun: boolean("dry_run").notNull(),
    /** What goes: {query?, labels?, kinds?, since, before}; {}: all. */
    selector: jsonb("selector").notNull(),
    /** `queued`, `running`, `done`, `held` (a legal hold was in the way) or `failed`. */
    state: text("state").notNull().default("queued"),
    counts: jsonb("counts").notNull().default({}),
    /** The scopes up to this one are done. */
    afterScope: integer("after_scope").notNull().default(-1),
    /** One scope at a time, since a hold is in one of them. */
    isCareful: boolean("is_careful").notNull().default(false),
    /** All are. */
    isSwept: boolean("is_swept").notNull().default(false),
    receiptId: uuid("receipt_id"),
    error: text("error"),
    createdAt: createdAt(),
    startedAt: time("started_at"),
    finishedAt: time("finished_at"),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    unique("forget_run_once").on(t.scopeId, t.ruleId, t.tick, t.tenantId),
    index("forget_run_id").on(t.id),
    index("forget_run_over").on(t.finishedAt),
  ],
);

/** Scopes that an erasure is in the middle of, by the hash that their lock has: nothing new comes in. No names. */
export const erasing = scopefloor.table(
  "erasing",
  {
    runId: uuid("run_id").primaryKey(),
    hash: bigint("hash", { mode: "bigint" }).notNull(),
    createdAt: createdAt(),
  },
  (t) => [index("erasing_hash").on(t.hash)],
);

/** What a scope, and all below it, has set for itself (src/db/sql/3_governance/6_settings.sql). */
export const scopeSetting = scopefloor.table(
  "scope_setting",
  {
    ...place(),
    name: text("name").notNull(),
    value: jsonb("value").notNull(),
    /** The floor of the key that set it: it and those above may change it. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.name, t.tenantId] })],
);

/** Keys for providers that a scope, and all below it, has of its own (src/models/credentials.ts). */
export const scopeCredential = scopefloor.table(
  "scope_credential",
  {
    ...place(),
    provider: text("provider").notNull(),
    /** Of those that the operator offers; null: where the service's own calls go. */
    baseUrl: text("base_url"),
    /** With AES-256-GCM, under a key that the database does not know, for this scope, provider and address. */
    sealed: text("sealed").notNull(),
    /** The floor of the key that set it: it and those above may change it. */
    setBy: jsonb("set_by").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
    updatedAt: time("updated_at").notNull().default(sql`now()`),
  },
  (t) => [primaryKey({ columns: [t.scopeId, t.provider, t.tenantId] })],
);

/** What tenants are made from, each version of it. The operator's, and no tenant's data. */
export const template = scopefloor.table(
  "template",
  {
    name: text("name").notNull(),
    version: integer("version").notNull(),
    body: jsonb("body").notNull(),
    apiKeyId: uuid("api_key_id").notNull(),
    createdAt: createdAt(),
  },
  (t) => [primaryKey({ columns: [t.name, t.version] })],
);
