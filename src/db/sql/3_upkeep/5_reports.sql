-- Reports and usage, and the housekeeping of what they read.

CREATE OR REPLACE VIEW scopefloor.usage_by_scope WITH (security_invoker = true) AS
SELECT scope_id, scope, count(*) AS calls,
       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(embedding_tokens) AS embedding_tokens,
       sum(total_tokens) AS total_tokens, coalesce(sum(cost_usd), 0) AS cost_usd, max(created_at) AS last_used_at
FROM scopefloor.decision_trace GROUP BY scope_id, scope;

CREATE OR REPLACE VIEW scopefloor.usage_by_day WITH (security_invoker = true) AS
SELECT (created_at AT TIME ZONE 'UTC')::date AS day, scope_id, scope, count(*) AS calls,
       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(embedding_tokens) AS embedding_tokens,
       sum(total_tokens) AS total_tokens, coalesce(sum(cost_usd), 0) AS cost_usd
FROM scopefloor.decision_trace GROUP BY 1, 2, 3;

-- Sums over E's subtree, numbers only: an agent may see what its whole floor has used, but only
-- the traces of its own key. E comes out of the ticket: an argument could widen what it names.
CREATE OR REPLACE FUNCTION scopefloor.usage(since timestamptz, until timestamptz, grouped_by text) RETURNS TABLE (
  grp jsonb, calls bigint, input_tokens bigint, output_tokens bigint, embedding_tokens bigint, total_tokens bigint,
  cost_usd numeric, stored_bytes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.ticket();
  root jsonb;
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('usage:read', 'self') THEN
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
    WHERE d.scope_id = ANY (ARRAY(SELECT id FROM reached)) AND (since IS NULL OR d.created_at >= since) AND (until IS NULL OR d.created_at < until)
    GROUP BY 1),
  stored AS (
    SELECT CASE grouped_by WHEN 'scope' THEN r.tags WHEN 'org' THEN coalesce(r.tags->'org', 'null') ELSE 'null' END AS grp,
           sum(c.bytes)::bigint AS bytes
    FROM scopefloor.scope_counter c JOIN reached r ON r.id = c.scope_id
    -- (As an array, so that whoever has few scopes reads by the index.)
    WHERE c.scope_id = ANY (ARRAY(SELECT id FROM reached)) AND (grouped_by IS NULL OR grouped_by IN ('scope', 'org'))
    GROUP BY 1)
  SELECT coalesce(used.grp, stored.grp), coalesce(used.calls, 0), coalesce(used.i, 0)::bigint, coalesce(used.o, 0)::bigint,
         coalesce(used.e, 0)::bigint, coalesce(used.total, 0)::bigint, coalesce(used.cost, 0),
         CASE WHEN grouped_by IS NULL OR grouped_by IN ('scope', 'org') THEN coalesce(stored.bytes, 0) END
  FROM used FULL JOIN stored ON stored.grp = used.grp
  ORDER BY 6 DESC, 1;
END $$;

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
