-- Who may touch which table and call which function. Nothing is open to PUBLIC, and what is not
-- granted here is reached through definer functions, which check the ticket.

REVOKE ALL ON ALL TABLES IN SCHEMA scopefloor FROM PUBLIC, scopefloor_app, scopefloor_worker, scopefloor_report, scopefloor_definer;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA scopefloor FROM PUBLIC, scopefloor_app, scopefloor_worker, scopefloor_report, scopefloor_definer;

-- The definer functions.
DO $$
DECLARE
  t record;
BEGIN
  -- Grants go to a partitioned table, never to a partition.
  FOR t IN SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace
           AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT IN ('migration', 'audit_entry', 'audit_batch') LOOP
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO scopefloor_definer', t.name);
  END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON scopefloor.audit_entry, scopefloor.audit_batch TO scopefloor_definer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA scopefloor TO scopefloor_definer;

-- The application. tenant_id and scope_id are in none of these lists: a row cannot be moved.
GRANT SELECT ON scopefloor.scope, scopefloor.scope_counter, scopefloor.embedder, scopefloor.session, scopefloor.turn,
  scopefloor.passage, scopefloor.segment, scopefloor.posting_block, scopefloor.document, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band, scopefloor.entity, scopefloor.attribute, scopefloor.relation,
  scopefloor.memory_item, scopefloor.forget_receipt, scopefloor.access_denied, scopefloor.decision_trace TO scopefloor_app;
GRANT INSERT ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.document_content,
  scopefloor.keyword, scopefloor.document_link, scopefloor.chunk_band, scopefloor.decision_trace TO scopefloor_app;
GRANT DELETE ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.segment, scopefloor.posting_block, scopefloor.document,
  scopefloor.document_content, scopefloor.keyword, scopefloor.document_link, scopefloor.chunk_band, scopefloor.entity,
  scopefloor.attribute, scopefloor.relation, scopefloor.memory_item TO scopefloor_app;
GRANT UPDATE (display_name, description, tombstoned_at, tombstoned_by) ON scopefloor.scope TO scopefloor_app;
GRANT UPDATE (closed_at, metadata) ON scopefloor.session TO scopefloor_app;
GRANT UPDATE (expired_at) ON scopefloor.turn TO scopefloor_app;
GRANT UPDATE (expired_at, embedding, embedder_id, terms) ON scopefloor.passage TO scopefloor_app;
GRANT UPDATE (section) ON scopefloor.passage TO scopefloor_app; -- a heading may name what is forgotten
GRANT UPDATE (status, error, reading, ready_version, content_hash, title, source, updated_at, processing_started_at, processing_completed_at)
  ON scopefloor.document TO scopefloor_app, scopefloor_worker;

-- The worker, inside a job.
GRANT SELECT, INSERT, DELETE ON scopefloor.passage, scopefloor.segment, scopefloor.posting_block, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band TO scopefloor_worker;
GRANT SELECT, DELETE ON scopefloor.document, scopefloor.entity, scopefloor.attribute, scopefloor.relation, scopefloor.memory_item
  TO scopefloor_worker;
-- In a forget that is done in several transactions.
GRANT SELECT, DELETE ON scopefloor.session, scopefloor.turn TO scopefloor_worker;
GRANT SELECT ON scopefloor.scope TO scopefloor_worker;
GRANT UPDATE (expired_at) ON scopefloor.turn, scopefloor.passage TO scopefloor_worker;
GRANT UPDATE (section) ON scopefloor.passage TO scopefloor_worker;
GRANT SELECT ON scopefloor.scope_counter TO scopefloor_worker;
GRANT UPDATE (embedding, embedder_id, digest, suspicious, seq, terms, lexemes, languages, analyser, cues) ON scopefloor.passage TO scopefloor_worker;
GRANT SELECT ON scopefloor.embedder TO scopefloor_worker;
GRANT INSERT ON scopefloor.decision_trace TO scopefloor_worker;

-- Reports: every column of a trace but query, sources and error; keys without what opens them; and no other content.
GRANT SELECT (id, created_at, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, on_behalf_of, session_id, parent_id, tier,
              tier_reason, candidates, returned, provider, model, input_tokens, output_tokens, embedding_tokens, total_tokens,
              cost_usd, duration_ms, status, token_source, saved_tokens, plan, cached_input_tokens)
  ON scopefloor.decision_trace TO scopefloor_report;
GRANT SELECT (id, tenant_id, tags, created_at, tombstoned_at, erased_at) ON scopefloor.scope TO scopefloor_report;
GRANT SELECT (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, created_at, expires_at, revoked_at, last_used_at)
  ON scopefloor.api_key TO scopefloor_report;
GRANT SELECT (id, tenant_id, scope_id, created_at, api_key_id, on_behalf_of, route, reason) ON scopefloor.access_denied TO scopefloor_report;
GRANT SELECT (id, tenant_id, scope_id, created_at, subtree, action, policy, counts, api_key_id) ON scopefloor.forget_receipt TO scopefloor_report;
GRANT SELECT (tenant_id, scope_id, source, id, batch) ON scopefloor.audit_entry TO scopefloor_report;
GRANT SELECT (id, root, created_at, name, template, template_version, state, leaves_at, leaving_by) ON scopefloor.tenant TO scopefloor_report;
GRANT SELECT ON scopefloor.usage_hour, scopefloor.usage_day, scopefloor.storage_day, scopefloor.budget, scopefloor.budget_window TO scopefloor_report;
GRANT SELECT ON scopefloor.traces, scopefloor.usage_by_hour, scopefloor.usage_by_org, scopefloor.usage_by_scope, scopefloor.usage_by_day, scopefloor.key_names, scopefloor.denials,
  scopefloor.storage_by_day, scopefloor.budgets, scopefloor.receipts TO scopefloor_report;

-- Readiness asks whether the database is at the code's version.
GRANT SELECT ON scopefloor.migration TO scopefloor_app, scopefloor_worker;

-- Functions. The list is src/db/access/definers.ts, filled in here by the script that writes
-- migrations: {function: roles}, where `owner` is the migrations' own login. A definer function with an
-- empty list is for other definer functions alone.
GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer; -- a new owner needs it
DO $$
DECLARE
  callers constant jsonb := '{{definers}}';
  f record;
  grantee text;
BEGIN
  FOR f IN SELECT p.oid::regprocedure AS signature, p.prosecdef AS is_definer, p.proname AS name, p.proowner
           FROM pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, scopefloor_app, scopefloor_worker, scopefloor_report', f.signature);
    IF NOT f.is_definer THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO scopefloor_definer', f.signature);
      CONTINUE;
    END IF;
    IF f.proowner <> 'scopefloor_definer'::regrole THEN
      EXECUTE format('ALTER FUNCTION %s OWNER TO scopefloor_definer', f.signature);
    END IF;
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %I', f.signature, current_user); -- what it was granted before
    FOR grantee IN SELECT jsonb_array_elements_text(callers->f.name) LOOP
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.signature, CASE grantee WHEN 'owner' THEN current_user ELSE 'scopefloor_' || grantee END);
    END LOOP;
  END LOOP;
END $$;
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
