import type { Row } from "../../src/db/connect/lease.ts";

type Query = (text: string) => Promise<readonly Row[]>;

/**
 * What PostgreSQL's catalogs say of the schema, as sorted lines of text: functions by their definition,
 * owner and callers, tables by column, constraint, index, trigger, policy, row security and grants. Two
 * databases with the same lines are the same to the service, whatever their object ids are.
 */
const PARTS: Readonly<Record<string, string>> = {
  functions: `
    SELECT pg_get_functiondef(p.oid) || E'\\nowner ' || pg_get_userbyid(p.proowner) || ' acl ' || coalesce((
      SELECT string_agg(a.grantee::regrole || '=' || a.privilege_type, ',' ORDER BY a.grantee::regrole::text) FROM aclexplode(p.proacl) a), 'default') AS line
    FROM pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace`,
  columns: `
    SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || concat_ws(' ',
      'notnull=' || a.attnotnull, 'default=' || pg_get_expr(d.adbin, d.adrelid), 'generated=' || a.attgenerated::text, 'identity=' || a.attidentity::text,
      'storage=' || a.attstorage::text, 'statistics=' || a.attstattarget, 'options=' || a.attoptions::text, 'acl=' || (
        SELECT string_agg(x.grantee::regrole || '=' || x.privilege_type, ',' ORDER BY x.grantee::regrole::text, x.privilege_type) FROM aclexplode(a.attacl) x)) AS line
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped AND c.relname <> 'migration'`,
  relations: `
    SELECT c.relname || ' ' || c.relkind::text || ' owner=' || pg_get_userbyid(c.relowner) || ' rls=' || c.relrowsecurity || c.relforcerowsecurity
      || ' options=' || coalesce(c.reloptions::text, '') || ' acl=' || coalesce((
        SELECT string_agg(x.grantee::regrole || '=' || x.privilege_type, ',' ORDER BY x.grantee::regrole::text, x.privilege_type)
        FROM aclexplode(c.relacl) x WHERE x.privilege_type <> 'MAINTAIN'), '') || coalesce(pg_get_viewdef(CASE WHEN c.relkind = 'v' THEN c.oid END), '') AS line
    FROM pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')`,
  constraints: `
    SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) AS line
    FROM pg_constraint WHERE connamespace = 'scopefloor'::regnamespace AND contype <> 'n'`,
  indexes: `
    SELECT pg_get_indexdef(indexrelid) AS line FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE c.relnamespace = 'scopefloor'::regnamespace`,
  triggers: `
    SELECT pg_get_triggerdef(t.oid) AS line FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'scopefloor'::regnamespace AND NOT t.tgisinternal`,
  policies: `
    SELECT concat_ws(' ', tablename, policyname, permissive, roles::text, cmd, 'using', qual, 'check', with_check) AS line
    FROM pg_policies WHERE schemaname = 'scopefloor'`,
};

export async function dumpCatalog(query: Query): Promise<Record<string, string[]>> {
  const dump: Record<string, string[]> = {};
  for (const [part, text] of Object.entries(PARTS)) {
    dump[part] = (await query(text)).map(({ line }) => String(line)).sort();
  }
  return dump;
}
