-- What the reporting role reads (docs/reporting.md), and the housekeeping of traces. Each view runs as whoever
-- asks. `scope` is of type jsonb; scope @> '{"org": "acme"}' finds the rows of one org by an index.

-- Traces, without text. A trace of a scope that was erased has its marker.
CREATE OR REPLACE VIEW scopefloor.traces WITH (security_invoker = true) AS
SELECT s.tags AS scope, d.id, d.created_at, d.kind, d.operation, d.tenant_id, d.scope_id, d.api_key_id, d.principal, d.on_behalf_of, d.session_id,
       d.parent_id, d.tier, d.tier_reason, d.candidates, d.returned, d.provider, d.model, d.input_tokens, d.cached_input_tokens, d.output_tokens,
       d.embedding_tokens, d.total_tokens, d.saved_tokens, d.cost_usd, d.token_source, d.duration_ms, d.status, d.plan
FROM scopefloor.scope s JOIN scopefloor.decision_trace d ON d.scope_id = s.id;

-- Traces by hour: their sums, and those one by one that are in no sum yet. `calls` counts traces, `unpriced`
-- those of models without a price.
CREATE OR REPLACE VIEW scopefloor.usage_by_hour WITH (security_invoker = true) AS
SELECT u.hour, s.tags AS scope, u.scope_id, u.tenant_id, u.api_key_id, u.operation, nullif(u.provider, '') AS provider, nullif(u.model, '') AS model,
       nullif(u.tier, '') AS tier, u.status, u.calls, u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens,
       u.input_tokens + u.output_tokens + u.embedding_tokens AS total_tokens, u.saved_tokens, u.cost_usd, u.unpriced, u.duration_ms, u.last_at
FROM scopefloor.usage_hour u JOIN scopefloor.scope s ON s.id = u.scope_id
UNION ALL
SELECT date_trunc('hour', d.created_at, 'UTC'), s.tags, d.scope_id, d.tenant_id, d.api_key_id, d.operation, d.provider, d.model,
       d.tier, d.status, 1, d.input_tokens, d.cached_input_tokens, d.output_tokens, d.embedding_tokens,
       d.total_tokens, d.saved_tokens, coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int, d.duration_ms::numeric, d.created_at
FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id JOIN scopefloor.scope s ON s.id = e.scope_id
WHERE e.batch IS NULL AND e.source = 'trace';

-- The same by org and day (UTC), for reports over all of them.
CREATE OR REPLACE VIEW scopefloor.usage_by_org WITH (security_invoker = true) AS
SELECT u.day, n.root->>'org' AS org, u.tenant_id, u.operation, nullif(u.provider, '') AS provider, nullif(u.model, '') AS model, nullif(u.tier, '') AS tier, u.status,
       u.calls, u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.input_tokens + u.output_tokens + u.embedding_tokens AS total_tokens,
       u.saved_tokens, u.cost_usd, u.unpriced, u.duration_ms
FROM scopefloor.usage_day u JOIN scopefloor.tenant n ON n.id = u.tenant_id
UNION ALL
SELECT (d.created_at AT TIME ZONE 'UTC')::date, n.root->>'org', d.tenant_id, d.operation, d.provider, d.model, d.tier, d.status,
       1, d.input_tokens, d.cached_input_tokens, d.output_tokens, d.embedding_tokens, d.total_tokens,
       d.saved_tokens, coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int, d.duration_ms::numeric
FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id JOIN scopefloor.tenant n ON n.id = d.tenant_id
WHERE e.batch IS NULL AND e.source = 'trace';

CREATE OR REPLACE VIEW scopefloor.usage_by_scope WITH (security_invoker = true) AS
SELECT u.scope_id, u.scope, sum(u.calls)::bigint AS calls,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens, sum(u.embedding_tokens)::bigint AS embedding_tokens,
       sum(u.total_tokens)::bigint AS total_tokens, sum(u.cost_usd) AS cost_usd, max(u.last_at) AS last_used_at
FROM scopefloor.usage_by_hour u GROUP BY u.scope_id, u.scope;

CREATE OR REPLACE VIEW scopefloor.usage_by_day WITH (security_invoker = true) AS
SELECT (u.hour AT TIME ZONE 'UTC')::date AS day, u.scope_id, u.scope, sum(u.calls)::bigint AS calls,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens, sum(u.embedding_tokens)::bigint AS embedding_tokens,
       sum(u.total_tokens)::bigint AS total_tokens, sum(u.cost_usd) AS cost_usd
FROM scopefloor.usage_by_hour u GROUP BY 1, 2, 3;

-- Keys by name, without anything that opens one.
CREATE OR REPLACE VIEW scopefloor.key_names WITH (security_invoker = true) AS
SELECT k.id AS api_key_id, k.name, k.principal, k.floor AS scope, k.scope_id, k.tenant_id, k.verbs, k.created_at, k.last_used_at, k.expires_at, k.revoked_at
FROM scopefloor.api_key k;

-- Refused attempts with their reasons; what was asked is not told.
CREATE OR REPLACE VIEW scopefloor.denials WITH (security_invoker = true) AS
SELECT a.id, a.created_at, s.tags AS scope, a.scope_id, a.tenant_id, a.api_key_id, a.on_behalf_of, a.route, a.reason
FROM scopefloor.access_denied a JOIN scopefloor.scope s ON s.id = a.scope_id;

CREATE OR REPLACE VIEW scopefloor.storage_by_day WITH (security_invoker = true) AS
SELECT k.day, s.tags AS scope, k.scope_id, k.tenant_id, k.bytes, k.passages, k.cost_usd
FROM scopefloor.storage_day k JOIN scopefloor.scope s ON s.id = k.scope_id;

-- Budgets with what was spent in each of their periods.
CREATE OR REPLACE VIEW scopefloor.budgets WITH (security_invoker = true) AS
SELECT b.id, s.tags AS scope, b.scope_id, b.tenant_id, b.name, b.period, b.timezone, b.mode, b.token_limit, b.cost_limit AS cost_limit_usd, b.request_limit,
       b.more_tokens, b.more_cost AS more_cost_usd, b.more_until, w.starts, w.used_tokens, w.used_cost AS used_cost_usd, w.used_requests,
       w.held_tokens, w.held_cost AS held_cost_usd, w.held_requests
FROM scopefloor.budget b JOIN scopefloor.scope s ON s.id = b.scope_id
LEFT JOIN scopefloor.budget_window w ON w.scope_id = b.scope_id AND w.budget_id = b.id;

-- What was forgotten, by whom and how much of it. No ids of what it was.
CREATE OR REPLACE VIEW scopefloor.receipts WITH (security_invoker = true) AS
SELECT r.id, r.created_at, s.tags AS scope, r.scope_id, r.tenant_id, r.subtree, r.action, r.policy, r.counts, r.api_key_id
FROM scopefloor.forget_receipt r JOIN scopefloor.scope s ON s.id = r.scope_id;

-- DDL, so it runs as the one who calls it: the owner. Makes the partition of a month, moving there
-- what fell into the rest meanwhile.
CREATE OR REPLACE FUNCTION scopefloor.ensure_trace_partition(in_month date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  month date := date_trunc('month', in_month);
  name text := 'decision_trace_' || to_char(month, 'YYYYMM');
  lower text := to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00';
  upper text := to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00';
  moved text := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = 'scopefloor.decision_trace'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '');
BEGIN
  IF to_regclass('scopefloor.' || name) IS NOT NULL THEN
    RETURN;
  END IF;
  -- Better to try again in a minute than to have every reader wait behind a long report.
  PERFORM set_config('lock_timeout', '2s', true);
  EXECUTE format('CREATE TABLE scopefloor.%I (LIKE scopefloor.decision_trace INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS)', name);
  LOCK TABLE scopefloor.decision_trace_rest IN ACCESS EXCLUSIVE MODE;
  IF EXISTS (SELECT 1 FROM scopefloor.decision_trace_rest WHERE created_at >= lower::timestamptz AND created_at < upper::timestamptz) THEN
    RAISE NOTICE 'moving traces of % out of decision_trace_rest', month;
    EXECUTE format('INSERT INTO scopefloor.%I (%s) SELECT %s FROM scopefloor.decision_trace_rest WHERE created_at >= %L AND created_at < %L',
                   name, moved, moved, lower, upper);
    DELETE FROM scopefloor.decision_trace_rest WHERE created_at >= lower::timestamptz AND created_at < upper::timestamptz;
  END IF;
  EXECUTE format('ALTER TABLE scopefloor.%I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE scopefloor.%I FORCE ROW LEVEL SECURITY', name);
  -- Before it is attached: a partition does not take the parent's.
  EXECUTE format('ALTER TABLE scopefloor.%I ALTER query SET STATISTICS 0, ALTER error SET STATISTICS 0, ALTER scope SET STATISTICS 0', name);
  EXECUTE format('ALTER TABLE scopefloor.decision_trace ATTACH PARTITION scopefloor.%I FOR VALUES FROM (%L) TO (%L)', name, lower, upper);
END $$;

-- Deletes what is over: erasures and share groups' times after a day, given-up jobs after 30 days, cached
-- and stored answers after 24 hours. Gives the number of stored answers.
CREATE OR REPLACE FUNCTION scopefloor.purge_old() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  purged int;
BEGIN
  DELETE FROM scopefloor.erasure WHERE at < now() - interval '1 day';
  DELETE FROM scopefloor.job_share WHERE taken_at < now() - interval '1 day';
  DELETE FROM scopefloor.job WHERE state = 'dead' AND run_after < now() - interval '30 days';
  DELETE FROM scopefloor.response_cache WHERE created_at < now() - interval '24 hours';
  DELETE FROM scopefloor.idempotency WHERE created_at < now() - interval '24 hours';
  GET DIAGNOSTICS purged = ROW_COUNT;
  RETURN purged;
END $$;

-- Rows that no scope explains, since their scope is not in the dictionary or was erased: by table how many,
-- and some of their ids. For a ticket that reads everything; of any other scope the policies show none.
CREATE OR REPLACE FUNCTION scopefloor.unscoped_content() RETURNS TABLE (name text, n bigint, samples jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  looked text;
BEGIN
  IF t IS NULL OR t->>'verb' <> 'memory:read' OR NOT (t->>'content')::bool THEN
    RAISE EXCEPTION 'scopefloor: no ticket for content' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF t->'floor' <> '{}' OR NOT coalesce((t->'read'->>'all')::bool, false) THEN
    RETURN;
  END IF;
  FOREACH looked IN ARRAY ARRAY['session', 'turn', 'passage', 'document', 'entity', 'attribute', 'relation', 'memory_item'] LOOP
    RETURN QUERY EXECUTE format(
      'SELECT %L, count(*), to_jsonb((array_agg(r.id ORDER BY r.id))[1:10]) FROM scopefloor.%I r
       WHERE r.scope_id NOT IN (SELECT s.id FROM scopefloor.scope s WHERE s.erased_at IS NULL) HAVING count(*) > 0', looked, looked);
  END LOOP;
END $$;
