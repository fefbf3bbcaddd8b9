-- Reports, usage and the worker's housekeeping.

CREATE VIEW scopefloor.usage_by_scope WITH (security_invoker = true) AS
SELECT scope_id, scope, count(*) AS calls,
       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(embedding_tokens) AS embedding_tokens,
       sum(total_tokens) AS total_tokens, coalesce(sum(cost_usd), 0) AS cost_usd, max(created_at) AS last_used_at
FROM scopefloor.decision_trace GROUP BY scope_id, scope;
--> statement-breakpoint
CREATE VIEW scopefloor.usage_by_day WITH (security_invoker = true) AS
SELECT (created_at AT TIME ZONE 'UTC')::date AS day, scope_id, scope, count(*) AS calls,
       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(embedding_tokens) AS embedding_tokens,
       sum(total_tokens) AS total_tokens, coalesce(sum(cost_usd), 0) AS cost_usd
FROM scopefloor.decision_trace GROUP BY 1, 2, 3;
--> statement-breakpoint
CREATE POLICY report ON scopefloor.decision_trace FOR SELECT TO scopefloor_report USING (true);
--> statement-breakpoint
-- Every column but query, sources and error.
GRANT SELECT (id, created_at, kind, operation, scope_id, scope, api_key_id, principal, on_behalf_of, session_id, parent_id, tier,
              tier_reason, candidates, returned, provider, model, input_tokens, output_tokens, embedding_tokens, total_tokens,
              cost_usd, duration_ms, status)
  ON scopefloor.decision_trace TO scopefloor_report;
--> statement-breakpoint
GRANT SELECT ON scopefloor.usage_by_scope, scopefloor.usage_by_day TO scopefloor_report;
--> statement-breakpoint
-- Sums over E's subtree, numbers only: an agent may see what its whole floor has used, but only
-- the traces of its own key. E comes out of the ticket: an argument could widen what it names.
CREATE FUNCTION scopefloor.usage(since timestamptz, until timestamptz, grouped_by text) RETURNS TABLE (
  grp jsonb, calls bigint, input_tokens bigint, output_tokens bigint, embedding_tokens bigint, total_tokens bigint,
  cost_usd numeric, stored_bytes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.ticket();
  root jsonb;
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for usage' USING ERRCODE = 'insufficient_privilege';
  END IF;
  root := t->'target';
  RETURN QUERY
  WITH reached AS MATERIALIZED (
    SELECT s.id, s.tags FROM scopefloor.scope s WHERE s.tags @> root),
  used AS (
    SELECT CASE grouped_by
             WHEN 'scope' THEN r.tags
             WHEN 'org' THEN coalesce(r.tags->'org', 'null')
             WHEN 'key' THEN to_jsonb(d.api_key_id)
             WHEN 'model' THEN coalesce(to_jsonb(d.model), 'null')
             WHEN 'operation' THEN to_jsonb(d.operation)
             WHEN 'day' THEN to_jsonb((d.created_at AT TIME ZONE 'UTC')::date)
             ELSE 'null' END AS grp,
           count(*) AS calls, sum(d.input_tokens) AS i, sum(d.output_tokens) AS o, sum(d.embedding_tokens) AS e,
           sum(d.total_tokens) AS total, coalesce(sum(d.cost_usd), 0) AS cost
    FROM scopefloor.decision_trace d JOIN reached r ON r.id = d.scope_id
    WHERE (since IS NULL OR d.created_at >= since) AND (until IS NULL OR d.created_at < until)
    GROUP BY 1),
  stored AS (
    SELECT CASE grouped_by WHEN 'scope' THEN r.tags WHEN 'org' THEN coalesce(r.tags->'org', 'null') ELSE 'null' END AS grp,
           sum(c.bytes)::bigint AS bytes
    FROM scopefloor.scope_counter c JOIN reached r ON r.id = c.scope_id
    WHERE grouped_by IS NULL OR grouped_by IN ('scope', 'org')
    GROUP BY 1)
  SELECT coalesce(used.grp, stored.grp), coalesce(used.calls, 0), coalesce(used.i, 0)::bigint, coalesce(used.o, 0)::bigint,
         coalesce(used.e, 0)::bigint, coalesce(used.total, 0)::bigint, coalesce(used.cost, 0),
         CASE WHEN grouped_by IS NULL OR grouped_by IN ('scope', 'org') THEN coalesce(stored.bytes, 0) END
  FROM used FULL JOIN stored ON stored.grp = used.grp
  ORDER BY 6 DESC, 1;
END $$;
--> statement-breakpoint
-- Housekeeping.
CREATE FUNCTION scopefloor.fold_counters() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
BEGIN
  WITH taken AS (
    DELETE FROM scopefloor.scope_counter c
    WHERE c.scope_id IN (SELECT scope_id FROM scopefloor.scope_counter GROUP BY scope_id HAVING count(*) > 1)
    RETURNING *)
  INSERT INTO scopefloor.scope_counter (scope_id, passages, tokens, lexemes, bytes)
  SELECT scope_id, sum(passages), sum(tokens), sum(lexemes), sum(bytes) FROM taken GROUP BY scope_id
  HAVING sum(passages) <> 0 OR sum(tokens) <> 0 OR sum(lexemes) <> 0 OR sum(bytes) <> 0;
  GET DIAGNOSTICS folded = ROW_COUNT;
  RETURN folded;
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.purge_old() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  purged int;
BEGIN
  DELETE FROM scopefloor.erasure WHERE at < now() - interval '1 day';
  DELETE FROM scopefloor.idempotency WHERE created_at < now() - interval '24 hours';
  GET DIAGNOSTICS purged = ROW_COUNT;
  RETURN purged;
END $$;
--> statement-breakpoint
-- DDL, so it runs as the one who calls it: the owner. Makes the partition of a month, moving there
-- what fell into the rest meanwhile.
CREATE FUNCTION scopefloor.ensure_trace_partition(in_month date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  month date := date_trunc('month', in_month);
  name text := 'decision_trace_' || to_char(month, 'YYYYMM');
  lower text := to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00';
  upper text := to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00';
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
    EXECUTE format(
      'INSERT INTO scopefloor.%I (id, created_at, kind, operation, scope_id, scope, api_key_id, principal, on_behalf_of, session_id,
         parent_id, query, tier, tier_reason, sources, candidates, returned, provider, model, input_tokens, output_tokens,
         embedding_tokens, cost_usd, duration_ms, status, error)
       SELECT id, created_at, kind, operation, scope_id, scope, api_key_id, principal, on_behalf_of, session_id,
         parent_id, query, tier, tier_reason, sources, candidates, returned, provider, model, input_tokens, output_tokens,
         embedding_tokens, cost_usd, duration_ms, status, error
       FROM scopefloor.decision_trace_rest WHERE created_at >= %L AND created_at < %L', name, lower, upper);
    DELETE FROM scopefloor.decision_trace_rest WHERE created_at >= lower::timestamptz AND created_at < upper::timestamptz;
  END IF;
  EXECUTE format('ALTER TABLE scopefloor.%I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE scopefloor.%I FORCE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE scopefloor.decision_trace ATTACH PARTITION scopefloor.%I FOR VALUES FROM (%L) TO (%L)', name, lower, upper);
  EXECUTE format('ALTER TABLE scopefloor.%I ALTER query SET STATISTICS 0, ALTER error SET STATISTICS 0, ALTER scope SET STATISTICS 0', name);
END $$;
--> statement-breakpoint
SELECT scopefloor.ensure_trace_partition(current_date), scopefloor.ensure_trace_partition((current_date + interval '1 month')::date);
--> statement-breakpoint
SELECT scopefloor.rotate_ticket_secret();
