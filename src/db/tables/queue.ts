import { sql } from "drizzle-orm";
import { bigint, index, integer, primaryKey, text, uuid } from "drizzle-orm/pg-core";
import { createdAt, place, scopefloor, time } from "./columns.ts";

/**
 * The queue. The application only adds rows, through `scopefloor.enqueue`; the worker takes them. A
 * row holds whose work it is and ids, never text; what is done is deleted with its effect's commit.
 */
export const job = scopefloor.table(
  "job",
  {
    ...place(),
    id: uuid("id").notNull(),
    kind: text("kind").notNull(),
    documentId: uuid("document_id"),
    version: integer("version"),
    /** Of a forget: its run. */
    runId: uuid("run_id"),
    apiKeyId: uuid("api_key_id").notNull(),
    principal: text("principal").notNull(),
    onBehalfOf: uuid("on_behalf_of"),
    /** The scope's epoch when the work was ordered. */
    epoch: integer("epoch").notNull(),
    /** Whom it is charged to: a hash that stands for the tenant (`scopefloor.share_group_of`). */
    shareGroup: bigint("share_group", { mode: "bigint" }).notNull(),
    state: text("state").notNull().default("queued"),
    attempts: integer("attempts").notNull().default(0),
    runAfter: time("run_after").notNull().default(sql`now()`),
    /** Who has taken it: a new id each time, so that a late one cannot finish it again. */
    lease: uuid("lease"),
    leasedUntil: time("leased_until"),
    /** Why it was given up or is tried again. No text. */
    error: text("error"),
    createdAt: createdAt(),
  },
  (t) => [
    primaryKey({ columns: [t.scopeId, t.id, t.tenantId] }),
    index("job_id").on(t.id),
    index("job_due").on(t.state, t.shareGroup, t.runAfter),
    index("job_document").on(t.scopeId, t.documentId),
  ],
);

/** When each share group was last served. Hashes only. */
export const jobShare = scopefloor.table("job_share", {
  shareGroup: bigint("share_group", { mode: "bigint" }).primaryKey(),
  takenAt: time("taken_at").notNull(),
});
