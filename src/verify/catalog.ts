/**
 * What an auditor asks of the live catalog (threats 10, 14, 31, 32). A new table, policy or function
 * fails until it is listed here with what it is for.
 */
import type { Row } from "../db/lease.ts";

/** One thing that was checked, and what is wrong with it. */
export interface Finding {
  readonly check: string;
  /** Numbers of the threats that it answers. */
  readonly threats: readonly number[];
  /** How many tables, functions, … were looked at. */
  readonly looked: number;
  readonly problems: readonly string[];
}

type Query = (text: string, params?: readonly unknown[]) => Promise<readonly Row[]>;

interface Check {
  readonly name: string;
  readonly threats: readonly number[];
  run(query: Query): Promise<{ looked: number; problems: string[] }>;
}

/** Tables without scope_id. */
const UNSCOPED: Readonly<Record<string, string>> = {
  audit_batch: "hashes of hashes, numbers and times: the audit chain",
  context: "the deployment's configuration",
  embedder: "names and sizes of models",
  erasure: "hashes of what was erased, so that nothing of it lands later",
  forget_gate: "always empty: it is locked, never written",
  job_turn: "whose turn in the queue it is, by a hash",
  migration: "which migrations have run; no role of the service may read it",
  scope: "the dictionary; its own id is its scope",
  ticket_secret: "the secret that tickets are signed with; no role of the service may read it",
};

/** For whom each definer function is; `nobody`: for the other functions alone. */
const DEFINERS = {
  scopefloor_app: [
    "add_document",
    "audit_evidence",
    "cache_answer",
    "caller",
    "caller_principal",
    "claim_idempotency",
    "configure_context",
    "context_created_at",
    "deletes",
    "drop_recalled_answers",
    "embedders_in_use",
    "enqueue",
    "enter",
    "forgets",
    "has_work",
    "hides_scopes",
    "insertable",
    "known_key",
    "known_keys",
    "knows_lines",
    "list_keys",
    "listable",
    "lists_all",
    "may_add_turn",
    "may_record",
    "mint_key",
    "modifiable",
    "modifies_all",
    "my_turn",
    "narrow_key",
    "order_embedding",
    "own_keys",
    "pending_documents",
    "principal_of",
    "put_item",
    "put_triples",
    "queue_depth",
    "readable",
    "readable_own",
    "reads_all",
    "recall_state",
    "record_denial",
    "recordable",
    "relink_documents",
    "replace_document",
    "reserve_turns",
    "retire_scopes",
    "revoke_key",
    "rotate_key",
    "store_answer",
    "stored_answer",
    "touch_key",
    "usage",
    "write_receipt",
  ],
  scopefloor_worker: [
    "enter_job",
    "extend_job",
    "finish_job",
    "fold_counters",
    "note_vector_index",
    "postpone_job",
    "purge_old",
    "recover_jobs",
    "seal_audit",
    "take_job",
    "vector_index_work",
  ],
  nobody: [
    "begin_replay",
    "check_audit",
    "check_unchained",
    "count_passages",
    "descends_from",
    "end_replay",
    "ensure_context",
    "ensure_embedder",
    "ensure_entity",
    "ensure_scope",
    "erase_audited",
    "has_first_key",
    "hold_scope",
    "ids_in",
    "journal_lines",
    "key_row",
    "key_ticket",
    "live_key",
    "named_key",
    "named_scopes",
    "note_audit",
    "note_replayed",
    "recover_first_key",
    "register_embedder",
    "requeue_job",
    "retire_fact",
    "rotate_ticket_secret",
    "set_first_key",
    "sign_ticket",
    "ticket",
    "turn_of",
    "unknown_lines",
    "was_erased",
    "write_ticket",
  ],
} as const;

/** What a job's transaction needs beside the worker's own: the questions of the policies, and the queue. */
const ALSO_WORKER = [
  "caller",
  "caller_principal",
  "deletes",
  "enqueue",
  "forgets",
  "insertable",
  "listable",
  "lists_all",
  "may_record",
  "modifiable",
  "modifies_all",
  "queue_depth",
  "readable",
  "readable_own",
  "reads_all",
];

/** The definer functions that each of the service's roles may call. */
export const DEFINERS_OF: Readonly<Record<"app" | "worker", ReadonlySet<string>>> = {
  app: new Set(DEFINERS.scopefloor_app),
  worker: new Set([...DEFINERS.scopefloor_worker, ...ALSO_WORKER]),
};

/** Unique without a scope: a key is found by its hash or its random id, which can be neither guessed nor chosen. */
const UNIQUE_ANYWHERE = ["api_key: id", "api_key: secret_hash"];

/** Policies that let every row through, and for what. */
const OPEN_POLICIES: Readonly<Record<string, string>> = {
  "decision_trace.report": "the reporting role, which may read no column with content",
  "embedder.read": "names and sizes of models",
};

/** Columns of text that the planner may sample: words of the service's own, and of the operator's. */
const SAMPLED: ReadonlySet<string> = new Set([
  "access_denied.on_behalf_of", // an id
  "access_denied.reason",
  "access_denied.route",
  "api_key.principal",
  "api_key.verbs",
  "attribute.category",
  "audit_entry.source",
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
  "passage.category",
  "passage.kind",
  "passage.role",
  "relation.category",
  "turn.role",
]);

const ROLES = ["scopefloor_app", "scopefloor_worker"] as const;

const CHECKS: readonly Check[] = [
  {
    name: "every table has scope_id NOT NULL and forced row security, or is on the written list",
    threats: [32],
    run: async (query) => {
      const rows = await query(`
        SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
               EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'scope_id' AND a.attnotnull) AS scoped
        FROM pg_catalog.pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f') ORDER BY 1`);
      const problems = rows.flatMap(({ name, scoped, enabled, forced }) => [
        ...(scoped || UNSCOPED[String(name)] !== undefined ? [] : [`${name} has no scope_id`]),
        ...((enabled && forced) || name === "migration" ? [] : [`${name} does not force row security`]),
      ]);
      return { looked: rows.length, problems };
    },
  },
  ...ROLES.map(
    (role): Check => ({
      name: `each command that ${role} may use on a table has a policy of its own, and none may empty a table or move a row`,
      threats: [24, 32],
      run: async (query) => {
        const rows = await query(
          `SELECT c.relname AS name, p.privilege, EXISTS (
             SELECT 1 FROM pg_catalog.pg_policies y WHERE y.schemaname = 'scopefloor' AND y.tablename = c.relname AND y.cmd = p.privilege
               AND y.roles <@ '{scopefloor_app,scopefloor_worker}' AND $1 = ANY (y.roles)) AS policed
           FROM pg_catalog.pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p(privilege)
           WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'migration'
             AND (has_table_privilege($1::name, c.oid, p.privilege) OR (p.privilege = 'UPDATE' AND has_any_column_privilege($1::name, c.oid, 'UPDATE')))`,
          [role],
        );
        const excess = await query(
          `SELECT c.relname || ' ' || p.privilege AS what FROM pg_catalog.pg_class c, unnest(ARRAY['TRUNCATE', 'REFERENCES', 'TRIGGER']) p(privilege)
           WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND has_table_privilege($1::name, c.oid, p.privilege)
           UNION ALL
           SELECT a.attrelid::regclass || ' UPDATE (scope_id)' FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
           WHERE c.relnamespace = 'scopefloor'::regnamespace AND a.attname = 'scope_id' AND c.relkind IN ('r', 'p')
             AND has_column_privilege($1::name, a.attrelid, a.attnum, 'UPDATE')`,
          [role],
        );
        const unpoliced = rows
          .filter(({ policed }) => !policed)
          .map(({ name, privilege }) => `${privilege} on ${name}: no policy`);
        return { looked: rows.length, problems: [...unpoliced, ...excess.map(({ what }) => `${what} is granted`)] };
      },
    }),
  ),
  {
    name: "a table has one policy for each command and role, none of which lets every row through",
    threats: [10, 32],
    run: async (query) => {
      const rows = await query(`
        SELECT tablename || '.' || policyname AS name, tablename || ' ' || cmd || ' ' || role AS place, cmd, qual, with_check
        FROM pg_catalog.pg_policies, unnest(roles) AS role WHERE schemaname = 'scopefloor' AND role <> 'scopefloor_definer' ORDER BY 1, 2`);
      const seen = new Map<string, string>();
      const problems = rows.flatMap(({ name, place, cmd, qual, with_check }) => {
        const own = String(name);
        const other = seen.get(String(place));
        seen.set(String(place), own);
        return [
          ...(cmd === "ALL" ? [`${own} is for every command`] : []),
          ...((qual === "true" || with_check === "true") && OPEN_POLICIES[own] === undefined
            ? [`${own} lets every row through`]
            : []),
          // Policies of one command are joined by OR.
          ...(other === undefined ? [] : [`${own} stands beside ${other}`]),
        ];
      });
      return { looked: rows.length, problems: [...new Set(problems)] };
    },
  },
  {
    name: "scope_id, or the key's id, is in every unique constraint, and scope_id in every foreign key between scoped tables",
    threats: [3, 4, 14, 31],
    run: async (query) => {
      const uniques = await query(`
        SELECT c.relname AS name, array_to_string(ARRAY(
            SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey)), ',') AS columns
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'scopefloor'::regnamespace AND i.indisunique`);
      const foreign = await query(`
        SELECT conname AS name, EXISTS (
          SELECT 1 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) AND a.attname = 'scope_id') AS scoped
        FROM pg_catalog.pg_constraint c WHERE contype = 'f' AND connamespace = 'scopefloor'::regnamespace`);
      const open = uniques
        .filter(
          ({ name, columns }) =>
            UNSCOPED[String(name)] === undefined && !/(^|,)(scope_id|api_key_id|parent_id)(,|$)/.test(String(columns)),
        )
        .map(({ name, columns }) => `${name}: ${columns}`)
        .filter((what) => !UNIQUE_ANYWHERE.includes(what));
      const loose = foreign.filter(({ scoped }) => !scoped).map(({ name }) => `foreign key ${name}`);
      return {
        looked: uniques.length + foreign.length,
        problems: [...open.map((what) => `unique without a scope: ${what}`), ...loose],
      };
    },
  },
  {
    name: "definer functions are exactly those listed, with a fixed search_path, open to the listed role alone",
    threats: [32],
    run: async (query) => {
      const rows = await query(`
        SELECT p.proname AS name, count(*) OVER (PARTITION BY p.proname) > 1 AS overloaded, pg_get_userbyid(p.proowner) AS owner, coalesce(array_to_string(p.proconfig, ','), '') AS config,
               has_function_privilege('scopefloor_app', p.oid, 'EXECUTE') AS app,
               has_function_privilege('scopefloor_worker', p.oid, 'EXECUTE') AS worker,
               has_function_privilege('scopefloor_report', p.oid, 'EXECUTE') AS report
        FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace AND p.prosecdef ORDER BY 1`);
      const listed: readonly string[] = Object.values(DEFINERS).flat();
      const found = rows.map((row) => String(row.name));
      const problems = rows.flatMap((row) => {
        const name = String(row.name);
        return [
          ...(listed.includes(name) ? [] : [`${name} is not listed`]),
          ...(row.overloaded ? [`${name} is there more than once`] : []),
          ...(row.owner === "scopefloor_definer" ? [] : [`${name} belongs to ${row.owner}`]),
          ...(String(row.config).includes("search_path=pg_catalog, pg_temp")
            ? []
            : [`${name} has no fixed search_path`]),
          ...(row.app === DEFINERS_OF.app.has(name)
            ? []
            : [`${name}: open to scopefloor_app, or not, against the list`]),
          ...(row.worker === DEFINERS_OF.worker.has(name)
            ? []
            : [`${name}: open to scopefloor_worker, or not, against the list`]),
          ...(row.report ? [`${name} is open to scopefloor_report`] : []),
        ];
      });
      const missing = listed.filter((name) => !found.includes(name)).map((name) => `${name} is listed and not there`);
      return { looked: rows.length, problems: [...new Set([...problems, ...missing])] };
    },
  },
  {
    name: "no function or view outside of the schema lends the service's roles its owner's rights",
    threats: [32],
    run: async (query) => {
      const rows = await query(`
        SELECT CASE WHEN p.prosecdef AND (has_function_privilege('scopefloor_app', p.oid, 'EXECUTE')
                                          OR has_function_privilege('scopefloor_worker', p.oid, 'EXECUTE')) THEN p.oid::regprocedure::text END AS lending
        FROM pg_catalog.pg_proc p WHERE p.pronamespace <> 'scopefloor'::regnamespace
        UNION ALL
        SELECT CASE WHEN (has_any_column_privilege('scopefloor_app', c.oid, 'SELECT') OR has_any_column_privilege('scopefloor_worker', c.oid, 'SELECT'))
                     AND NOT coalesce(c.reloptions::text LIKE '%security_invoker=true%', false) THEN c.oid::regclass::text END
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('v', 'm') AND n.nspname NOT IN ('scopefloor', 'pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'`);
      return {
        looked: rows.length,
        problems: rows.flatMap(({ lending }) => (lending === null ? [] : [`${lending} runs with its owner's rights`])),
      };
    },
  },
  {
    name: "the planner keeps no samples of columns that hold a tenant's names or words",
    threats: [18],
    run: async (query) => {
      const rows = await query(`
        SELECT c.relname || '.' || a.attname AS name, coalesce(a.attstattarget, -1) <> 0 AS sampled
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND a.attnum > 0 AND NOT a.attisdropped AND format_type(a.atttypid, NULL) ~ '(^|[.])(text|text\\[\\]|jsonb|halfvec)$'
        ORDER BY 1`);
      return {
        looked: rows.length,
        problems: rows
          .filter(({ name, sampled }) => sampled && !SAMPLED.has(String(name)))
          .map(({ name }) => `${name} is sampled`),
      };
    },
  },
  {
    name: "no role of the service can log in, bypass, own a table or become another",
    threats: [32],
    run: async (query) => {
      const roles = await query(`
        SELECT rolname AS name, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication AS mighty,
               EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.relowner = r.oid) AS owns,
               EXISTS (SELECT 1 FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid) AND rolname <> 'scopefloor_definer' AS member
        FROM pg_catalog.pg_roles r WHERE rolname = ANY ('{scopefloor_app,scopefloor_worker,scopefloor_report,scopefloor_definer}')`);
      const problems = roles.flatMap(({ name, mighty, owns, member }) => [
        ...(mighty ? [`${name} can log in, bypass or make roles`] : []),
        ...(owns ? [`${name} owns a table`] : []),
        ...(member ? [`${name} can become another role`] : []),
      ]);
      return {
        looked: roles.length,
        problems: roles.length === 4 ? problems : [...problems, `${roles.length} of 4 roles are there`],
      };
    },
  },
  {
    name: "views run as whoever asks, and nothing is granted to everyone",
    threats: [32],
    run: async (query) => {
      const rows = await query(`
        SELECT relname AS name, relkind = 'v' AND NOT coalesce(reloptions::text LIKE '%security_invoker=true%', false) AS owned,
               EXISTS (SELECT 1 FROM aclexplode(c.relacl) a WHERE a.grantee = 0) AS loose
        FROM pg_catalog.pg_class c WHERE relnamespace = 'scopefloor'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')`);
      const problems = rows.flatMap(({ name, owned, loose }) => [
        ...(owned ? [`the view ${name} runs with its owner's rights`] : []),
        ...(loose ? [`${name} is granted to everyone`] : []),
      ]);
      return { looked: rows.length, problems };
    },
  },
];

/** Runs every check, with a connection of the database's owner. */
export async function auditCatalog(query: Query): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { name, threats, run } of CHECKS) findings.push({ check: name, threats, ...(await run(query)) });
  return findings;
}
