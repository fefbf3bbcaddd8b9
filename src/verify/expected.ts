/** What the catalog audit expects to find, each with what it is for: what is new fails until it is listed here. */

/** Tables without scope_id. */
export const UNSCOPED: Readonly<Record<string, string>> = {
  audit_batch: "hashes of hashes, numbers and times: the audit chain",
  context: "the deployment's configuration",
  embedder: "names and sizes of models",
  erasure: "hashes of what was erased, so that nothing of it lands later",
  job_share: "when each share group was last served, by a hash",
  migration: "which migrations have run",
  price: "what the operator charges for models, operations and storage; no role of the service may read it",
  scope: "the dictionary; its own id is its scope",
  tenant: "the dictionary of tenants; of the service's roles the reporting one reads their names",
  usage_day: "sums of traces by tenant and day",
  ticket_secret: "the secret that tickets are signed with; no role of the service may read it",
};

/** Unique without a scope: a key is found by its hash or its random id, which can be neither guessed nor chosen, and has its name below its parent. */
export const UNIQUE_ANYWHERE = [
  "api_key: id",
  "api_key: secret_hash",
  "api_key: name,parent_id",
  "idempotency: api_key_id,endpoint,key",
];

/** Words in an index as they are, and why. */
export const INDEXED_WORDS: Readonly<Record<string, string>> = {
  "embedder.name": "models, no tenant's words",
  "api_key.secret_hash": "a hash of a hash; the reporting role may not name the column",
  "api_key.previous_hash": "the same",
  "api_key.name": "names of keys, which the reporting role reads",
  "audit_entry.source": "the service's own words",
  "usage_day.model": "of the service and of models, no tenant's words",
  "usage_hour.model": "models, no tenant's words",
  "usage_day.operation": "of the service and of models, no tenant's words",
  "usage_hour.operation": "the service's own words",
  "usage_day.provider": "of the service and of models, no tenant's words",
  "usage_hour.provider": "models, no tenant's words",
  "usage_day.status": "of the service and of models, no tenant's words",
  "usage_hour.status": "the service's own words",
  "usage_day.tier": "of the service and of models, no tenant's words",
  "usage_hour.tier": "the service's own words",
  "budget.name": "an administrator's word for a rule, beside its scope",
  "budget.period": "the service's own words",
};

/** Policies that let every row through, and for what. */
export const OPEN_POLICIES: Readonly<Record<string, string>> = {
  "decision_trace.report": "the reporting role, which may read no column with content",
  "embedder.read": "names and sizes of models",
  ...Object.fromEntries(
    [
      "scope",
      "tenant",
      "usage_day",
      "audit_entry",
      "usage_hour",
      "storage_day",
      "api_key",
      "access_denied",
      "budget",
      "budget_window",
      "forget_receipt",
    ].map((table) => [`${table}.report`, "the reporting role, over all scopes, which may read no column with content"]),
  ),
};

/** Columns of text that the planner may sample: words of the service's own, and of the operator's. */
export const SAMPLED: ReadonlySet<string> = new Set([
  "access_denied.on_behalf_of", // an id
  "access_denied.reason",
  "access_denied.route",
  "api_key.minted_verbs",
  "api_key.principal",
  "api_key.verbs",
  "attribute.category",
  "audit_entry.source",
  "budget.mode",
  "budget.period",
  "budget.timezone",
  "budget_hold.model",
  "budget_hold.provider",
  "budget_hold.state",
  "context.config",
  "context.id",
  "decision_trace.kind",
  "decision_trace.model",
  "decision_trace.operation",
  "decision_trace.plan",
  "decision_trace.principal",
  "decision_trace.provider",
  "decision_trace.sources", // ids
  "decision_trace.status",
  "decision_trace.tier",
  "decision_trace.tier_reason",
  "decision_trace.token_source",
  "document.mime_type",
  "document.status",
  "embedder.name",
  "forget_receipt.action",
  "forget_receipt.counts",
  "forget_receipt.policy",
  "job.error",
  "job.kind",
  "job.principal",
  "job.state",
  "migration.hash",
  "passage.author",
  "passage.category",
  "passage.kind",
  "passage.role",
  "price.kind",
  "price.name",
  "relation.category",
  "turn.role",
  "usage_day.model",
  "usage_hour.model",
  "usage_day.operation",
  "usage_hour.operation",
  "usage_day.provider",
  "usage_hour.provider",
  "usage_day.status",
  "usage_hour.status",
  "usage_day.tier",
  "usage_hour.tier",
]);
