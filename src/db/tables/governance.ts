import { index, jsonb, primaryKey, text, uuid } from "drizzle-orm/pg-core";
import { createdAt, place, scopefloor } from "./columns.ts";

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
