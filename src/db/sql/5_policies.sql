-- The second lock's table of contents: row security on every table, and who may do what to which rows.
--
-- A role that has a privilege (6_privileges.sql) and no policy for the command reaches no row. Except
-- for may_record, which is asked for each row that is inserted, what a policy asks
-- for is an uncorrelated sub-select: evaluated once per statement, and the one behind an OR only when a row fails what stands before it, which with the builder's own
-- predicate none does. That predicate, on the same column, is what the indexes serve.
DO $$
DECLARE
  p record;
  -- Rows at a scope: listed in the ticket, or all of them for a floor of {} that views everything.
  knowledge  constant text := 'scope_id = ANY ((SELECT scopefloor.readable())::int[]) OR (SELECT scopefloor.reads_all())';
  own        constant text := 'scope_id = ANY ((SELECT scopefloor.readable_own())::int[]) OR (SELECT scopefloor.reads_all())';
  listed     constant text := 'scope_id = ANY ((SELECT scopefloor.listable())::int[]) OR (SELECT scopefloor.lists_all())';
  modifiable constant text := 'scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all())';
  forgotten  constant text := format('(SELECT scopefloor.forgets()) AND (%s)', modifiable);
  deleted    constant text := format('(SELECT scopefloor.deletes()) AND (%s)', modifiable);
  written    constant text := 'scope_id = (SELECT scopefloor.insertable()) AND tenant_id = (SELECT scopefloor.insertable_tenant())';
  -- Of an agent those of its own key; an erasure takes whatever stands at the scope.
  own_session constant text := '(%s) AND ((SELECT scopefloor.handles_any_session()) OR api_key_id = (SELECT scopefloor.caller()))';
  by_caller  constant text := written || ' AND api_key_id = (SELECT scopefloor.caller())';
  app        constant text := 'scopefloor_app';
  worker     constant text := 'scopefloor_worker';
  report     constant text := 'scopefloor_report';
  service    constant text := 'scopefloor_app, scopefloor_worker'; -- inside a job the worker is bound like the application
BEGIN
  FOR p IN SELECT polname AS name, polrelid::regclass AS at FROM pg_policy
           WHERE polrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace) LOOP
    EXECUTE format('DROP POLICY %I ON %s', p.name, p.at);
  END LOOP;

  -- FORCE binds the owner too: the definer functions run as a role with policies of its own.
  FOR p IN SELECT c.oid::regclass AS at, c.relispartition AS is_partition FROM pg_class c
           WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'migration' LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', p.at);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', p.at);
    IF NOT p.is_partition THEN -- a partition is reached through its parent alone
      EXECUTE format('CREATE POLICY definer ON %s TO scopefloor_definer USING (true) WITH CHECK (true)', p.at);
    END IF;
  END LOOP;

  FOR p IN SELECT * FROM (VALUES
    -- table, policy, command, roles, rows that are reached, rows that may be the result
    ('scope', 'read', 'SELECT', service,
     'id = ANY ((SELECT scopefloor.listable())::int[]) OR (SELECT scopefloor.lists_all())'
     || ' OR id = (SELECT scopefloor.insertable())' -- a key that only writes knows the scope it writes to
     || ' OR (id = 0 AND (SELECT scopefloor.caller()) IS NOT NULL)', NULL), -- the row of {} says nothing
    ('scope', 'change', 'UPDATE', app, 'id = (SELECT scopefloor.insertable())', 'id = (SELECT scopefloor.insertable())'),
    ('scope_counter', 'read', 'SELECT', service, knowledge, NULL),
    ('embedder', 'read', 'SELECT', service, 'true', NULL), -- models, no tenant's data

    ('session', 'read', 'SELECT', service, own, NULL),
    ('session', 'write', 'INSERT', app, NULL, by_caller),
    ('session', 'change', 'UPDATE', app, format(own_session, modifiable), format(own_session, modifiable)),
    ('session', 'remove', 'DELETE', service, format(own_session, forgotten), NULL),
    ('turn', 'read', 'SELECT', service, own, NULL),
    ('turn', 'write', 'INSERT', app, NULL, by_caller || ' AND session_id = (SELECT scopefloor.reserved_session())'),
    ('turn', 'change', 'UPDATE', service, modifiable, modifiable),
    ('turn', 'remove', 'DELETE', service, forgotten, NULL),

    ('passage', 'read', 'SELECT', service, knowledge, NULL),
    ('passage', 'write', 'INSERT', service, NULL, by_caller || ' AND author = (SELECT scopefloor.caller_principal())'),
    ('passage', 'change', 'UPDATE', service, modifiable, modifiable),
    ('passage', 'remove', 'DELETE', service, deleted, NULL),
    ('segment', 'read', 'SELECT', service, knowledge, NULL),
    ('segment', 'write', 'INSERT', worker, NULL, written),
    ('segment', 'remove', 'DELETE', service, deleted, NULL),
    ('posting_block', 'read', 'SELECT', service, knowledge, NULL),
    ('posting_block', 'write', 'INSERT', worker, NULL, written),
    ('posting_block', 'remove', 'DELETE', service, deleted, NULL),

    ('document', 'read', 'SELECT', service, knowledge, NULL), -- written by add_document and replace_document
    ('document', 'change', 'UPDATE', service, modifiable, modifiable),
    ('document', 'remove', 'DELETE', service, deleted, NULL),
    ('document_content', 'read', 'SELECT', service, knowledge, NULL),
    ('document_content', 'write', 'INSERT', service, NULL, written),
    ('document_content', 'remove', 'DELETE', service, deleted, NULL),
    ('keyword', 'read', 'SELECT', service, knowledge, NULL),
    ('keyword', 'write', 'INSERT', service, NULL, written),
    ('keyword', 'remove', 'DELETE', service, deleted, NULL),
    ('document_link', 'read', 'SELECT', service, knowledge, NULL),
    ('document_link', 'write', 'INSERT', service, NULL, written),
    ('document_link', 'remove', 'DELETE', service, deleted, NULL),
    ('chunk_band', 'read', 'SELECT', service, knowledge, NULL),
    ('chunk_band', 'write', 'INSERT', service, NULL, written),
    ('chunk_band', 'remove', 'DELETE', service, deleted, NULL),

    ('entity', 'read', 'SELECT', service, knowledge, NULL), -- written by put_triples
    ('entity', 'remove', 'DELETE', service, deleted, NULL),
    ('attribute', 'read', 'SELECT', service, knowledge, NULL),
    ('attribute', 'remove', 'DELETE', service, deleted, NULL),
    ('relation', 'read', 'SELECT', service, knowledge, NULL),
    ('relation', 'remove', 'DELETE', service, deleted, NULL),
    ('memory_item', 'read', 'SELECT', service, knowledge, NULL), -- written by put_item
    ('memory_item', 'remove', 'DELETE', service, deleted, NULL),

    ('forget_receipt', 'read', 'SELECT', app, listed, NULL), -- written by write_receipt
    ('access_denied', 'read', 'SELECT', app, listed, NULL), -- written by record_denial
    ('decision_trace', 'read', 'SELECT', app,
     format('(%s) AND ((SELECT scopefloor.caller_principal()) <> ''agent'' OR api_key_id = (SELECT scopefloor.caller()))', own), NULL),
    -- A trace says whose it is and for which scope, and is of now; none of it can be made up.
    ('decision_trace', 'write', 'INSERT', service, NULL,
     'scopefloor.may_record(scope_id, tenant_id, scope, elsewhere, api_key_id, principal) AND created_at = transaction_timestamp()'),
    -- Reports are over all scopes: no column of these says anything of content.
    ('decision_trace', 'report', 'SELECT', report, 'true', NULL),
    ('scope', 'report', 'SELECT', report, 'true', NULL),
    ('audit_entry', 'report', 'SELECT', report, 'true', NULL), -- which traces are in no sum of usage yet
    ('usage_hour', 'report', 'SELECT', report, 'true', NULL),
    ('usage_day', 'report', 'SELECT', report, 'true', NULL),
    ('tenant', 'report', 'SELECT', report, 'true', NULL),
    ('storage_day', 'report', 'SELECT', report, 'true', NULL),
    ('api_key', 'report', 'SELECT', report, 'true', NULL),
    ('access_denied', 'report', 'SELECT', report, 'true', NULL),
    ('budget', 'report', 'SELECT', report, 'true', NULL),
    ('budget_window', 'report', 'SELECT', report, 'true', NULL),
    ('forget_receipt', 'report', 'SELECT', report, 'true', NULL)
    ) rule(at, name, command, roles, reached, result)
  LOOP
    EXECUTE format('CREATE POLICY %I ON scopefloor.%I FOR %s TO %s', p.name, p.at, p.command, p.roles)
      || coalesce(' USING (' || p.reached || ')', '') || coalesce(' WITH CHECK (' || p.result || ')', '');
  END LOOP;
END $$;
