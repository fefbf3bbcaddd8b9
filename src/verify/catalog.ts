/**
 * What an auditor asks of the live catalog (threats 10, 14, 31, 32). A new table, policy or function
 * fails until it is listed here with what it is for.
 */
import { DEFINERS, definersOf } from "../db/access/definers.ts";
import type { Row } from "../db/connect/lease.ts";
import { INDEXED_WORDS, OPEN_POLICIES, SAMPLED, UNIQUE_ANYWHERE, UNSCOPED } from "./expected.ts";
import type { Finding } from "./finding.ts";

type Query = (text: string, params?: readonly unknown[]) => Promise<readonly Row[]>;

interface Check {
  readonly name: string;
  readonly threats: readonly number[];
  run(query: Query): Promise<{ looked: number; problems: string[] }>;
}

const ROLES = ["scopefloor_app", "scopefloor_worker"] as const;

const CHECKS: readonly Check[] = [
  {
    name: "every table has scope_id and tenant_id NOT NULL and forced row security, or is on the written list",
    threats: [32],
    run: async (query) => {
      const rows = await query(`
        SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
               (SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('scope_id', 'tenant_id') AND a.attnotnull) = 2 AS scoped
        FROM pg_catalog.pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f') ORDER BY 1`);
      const problems = rows.flatMap(({ name, scoped, enabled, forced }) => [
        ...(scoped || UNSCOPED[String(name)] !== undefined ? [] : [`${name} has no scope_id and tenant_id`]),
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
           SELECT a.attrelid::regclass || ' UPDATE (' || a.attname || ')' FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
           WHERE c.relnamespace = 'scopefloor'::regnamespace AND a.attname IN ('scope_id', 'tenant_id') AND c.relkind IN ('r', 'p')
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
    name: "scope_id and tenant_id, or the key's id, are in every unique constraint, and both in every foreign key between scoped tables",
    threats: [3, 4, 14, 31],
    run: async (query) => {
      const uniques = await query(`
        SELECT c.relname AS name, array_to_string(ARRAY(
            SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey)), ',') AS columns
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'scopefloor'::regnamespace AND i.indisunique`);
      const foreign = await query(`
        SELECT conname AS name, (
          SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) AND a.attname IN ('scope_id', 'tenant_id')) = 2 AS scoped
        FROM pg_catalog.pg_constraint c WHERE contype = 'f' AND connamespace = 'scopefloor'::regnamespace AND confrelid::regclass::text NOT LIKE '%.tenant'`);
      const open = uniques
        .filter(
          ({ name, columns }) =>
            UNSCOPED[String(name)] === undefined &&
            !(/(^|,)(scope_id|api_key_id)(,|$)/.test(String(columns)) && /(^|,)tenant_id(,|$)/.test(String(columns))),
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
      const listed: readonly string[] = Object.keys(DEFINERS);
      const [app, worker] = [definersOf("app"), definersOf("worker")];
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
          ...(row.app === app.has(name) ? [] : [`${name}: open to scopefloor_app, or not, against the list`]),
          ...(row.worker === worker.has(name) ? [] : [`${name}: open to scopefloor_worker, or not, against the list`]),
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
    name: "no function that is not a definer function is open to the service's roles",
    threats: [32],
    run: async (query) => {
      const rows = await query(`
        SELECT p.proname AS name, has_function_privilege('scopefloor_app', p.oid, 'EXECUTE') OR has_function_privilege('scopefloor_worker', p.oid, 'EXECUTE')
               OR has_function_privilege('scopefloor_report', p.oid, 'EXECUTE') AS open
        FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace AND NOT p.prosecdef`);
      return {
        looked: rows.length,
        problems: rows.flatMap(({ name, open }) => (open ? [`${name} is open to a role of the service`] : [])),
      };
    },
  },
  {
    name: "an index that a role of the service may read holds ids, numbers, times and keyed hashes, and no words",
    threats: [36],
    run: async (query) => {
      const rows = await query(`
        SELECT c.relname || '.' || a.attname AS name, a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bytea'::regtype, 'bit'::regtype, 'varbit'::regtype) AS words
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
        WHERE c.relnamespace = 'scopefloor'::regnamespace
          AND (has_any_column_privilege('scopefloor_app', c.oid, 'SELECT') OR has_any_column_privilege('scopefloor_worker', c.oid, 'SELECT')
               OR has_any_column_privilege('scopefloor_report', c.oid, 'SELECT'))`);
      return {
        looked: rows.length,
        problems: rows.flatMap(({ name, words }) =>
          words && INDEXED_WORDS[String(name)] === undefined ? [`${name} is indexed as it is`] : [],
        ),
      };
    },
  },
  {
    name: "the service's logins have no settings of their own, and everyone creates nothing in the schemas that it looks in",
    threats: [32],
    run: async (query) => {
      const rows = await query(`
        SELECT r.rolname || ' has ' || s.setting AS problem FROM pg_catalog.pg_db_role_setting d
        JOIN pg_catalog.pg_roles r ON r.oid = d.setrole, unnest(d.setconfig) AS s(setting)
        WHERE d.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
          AND (pg_has_role(r.oid, 'scopefloor_app', 'MEMBER') OR pg_has_role(r.oid, 'scopefloor_worker', 'MEMBER')) AND NOT r.rolsuper
        UNION ALL
        SELECT 'everyone may create in ' || n.nspname FROM pg_catalog.pg_namespace n
        WHERE n.nspname IN ('public', 'pg_catalog', 'scopefloor') AND has_schema_privilege('scopefloor_app', n.oid, 'CREATE')`);
      return { looked: rows.length + 4, problems: rows.map(({ problem }) => String(problem)) };
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
