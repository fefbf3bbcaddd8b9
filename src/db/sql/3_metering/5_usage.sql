-- Usage and bills: sums of traces by hour (usage_hour), what is not in them yet, and what was kept.

-- Adds a batch of the audit chain to the sums. Called in the transaction that gives the batch its number, so
-- each trace is added once, whenever it was committed.
CREATE OR REPLACE FUNCTION scopefloor.add_usage(of_batch bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.usage_hour AS u (tenant_id, scope_id, hour, api_key_id, operation, provider, model, tier, status,
    calls, input_tokens, cached_input_tokens, output_tokens, embedding_tokens, saved_tokens, cost_usd, unpriced, duration_ms, last_at)
  SELECT d.tenant_id, d.scope_id, date_trunc('hour', d.created_at, 'UTC'), d.api_key_id, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status,
    count(*), sum(d.input_tokens), sum(d.cached_input_tokens), sum(d.output_tokens), sum(d.embedding_tokens), sum(d.saved_tokens),
    coalesce(sum(d.cost_usd), 0), count(*) FILTER (WHERE d.cost_usd IS NULL), sum(d.duration_ms::numeric), max(d.created_at)
  FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id
  WHERE e.batch = of_batch AND e.source = 'trace'
  GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
  ON CONFLICT (scope_id, hour, api_key_id, operation, provider, model, tier, status, tenant_id) DO UPDATE SET
    calls = u.calls + EXCLUDED.calls, input_tokens = u.input_tokens + EXCLUDED.input_tokens,
    cached_input_tokens = u.cached_input_tokens + EXCLUDED.cached_input_tokens, output_tokens = u.output_tokens + EXCLUDED.output_tokens,
    embedding_tokens = u.embedding_tokens + EXCLUDED.embedding_tokens, saved_tokens = u.saved_tokens + EXCLUDED.saved_tokens,
    cost_usd = u.cost_usd + EXCLUDED.cost_usd, unpriced = u.unpriced + EXCLUDED.unpriced, duration_ms = u.duration_ms + EXCLUDED.duration_ms,
    last_at = greatest(u.last_at, EXCLUDED.last_at);
  INSERT INTO scopefloor.usage_day AS u (tenant_id, day, operation, provider, model, tier, status,
    calls, input_tokens, cached_input_tokens, output_tokens, embedding_tokens, saved_tokens, cost_usd, unpriced, duration_ms)
  SELECT d.tenant_id, (d.created_at AT TIME ZONE 'UTC')::date, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status,
    count(*), sum(d.input_tokens), sum(d.cached_input_tokens), sum(d.output_tokens), sum(d.embedding_tokens), sum(d.saved_tokens),
    coalesce(sum(d.cost_usd), 0), count(*) FILTER (WHERE d.cost_usd IS NULL), sum(d.duration_ms::numeric)
  FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id
  WHERE e.batch = of_batch AND e.source = 'trace'
  GROUP BY 1, 2, 3, 4, 5, 6, 7
  ON CONFLICT (day, tenant_id, operation, provider, model, tier, status) DO UPDATE SET
    calls = u.calls + EXCLUDED.calls, input_tokens = u.input_tokens + EXCLUDED.input_tokens,
    cached_input_tokens = u.cached_input_tokens + EXCLUDED.cached_input_tokens, output_tokens = u.output_tokens + EXCLUDED.output_tokens,
    embedding_tokens = u.embedding_tokens + EXCLUDED.embedding_tokens, saved_tokens = u.saved_tokens + EXCLUDED.saved_tokens,
    cost_usd = u.cost_usd + EXCLUDED.cost_usd, unpriced = u.unpriced + EXCLUDED.unpriced, duration_ms = u.duration_ms + EXCLUDED.duration_ms;
END $$;

-- The scopes whose usage is that of a scope: itself and those below, and for a tenant also what was erased in
-- it. NULL: all of them.
CREATE OR REPLACE FUNCTION scopefloor.billed_scopes(tags jsonb) RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF tags = '{}' THEN
    RETURN NULL;
  END IF;
  RETURN ARRAY(
    SELECT s.id FROM scopefloor.scope s WHERE s.tags @> billed_scopes.tags
    UNION SELECT s.id FROM scopefloor.tenant t JOIN scopefloor.scope s ON s.tenant_id = t.id WHERE t.root = billed_scopes.tags);
END $$;

-- What these scopes (NULL: all) used from a time up to another, each NULL for no bound. Whole hours come from
-- the sums, and the rest from traces: those of the hours at both ends, and those that are in no sum yet.
CREATE OR REPLACE FUNCTION scopefloor.usage_lines(ids int[], since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  first timestamptz := CASE WHEN since IS NULL THEN '-infinity' WHEN since = date_trunc('hour', since, 'UTC') THEN since ELSE date_trunc('hour', since, 'UTC') + interval '1 hour' END;
  last timestamptz := coalesce(date_trunc('hour', until, 'UTC'), 'infinity');
BEGIN
  IF first > last THEN -- within one hour
    RETURN QUERY SELECT * FROM scopefloor.trace_lines(ids, since, until);
    RETURN;
  END IF;
  IF ids IS NULL THEN
    RETURN QUERY SELECT u.tenant_id, u.scope_id, u.hour, u.api_key_id, u.operation, u.provider, u.model, u.tier, u.status, u.calls,
      u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.saved_tokens, u.cost_usd, u.unpriced
    FROM scopefloor.usage_hour u WHERE u.hour >= first AND u.hour < last;
  ELSE
    RETURN QUERY SELECT u.tenant_id, u.scope_id, u.hour, u.api_key_id, u.operation, u.provider, u.model, u.tier, u.status, u.calls,
      u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.saved_tokens, u.cost_usd, u.unpriced
    FROM scopefloor.usage_hour u WHERE u.scope_id = ANY (ids) AND u.hour >= first AND u.hour < last;
  END IF;
  RETURN QUERY SELECT * FROM scopefloor.unsummed_lines(ids, first, last);
  IF since < first THEN
    RETURN QUERY SELECT * FROM scopefloor.trace_lines(ids, since, first);
  END IF;
  IF until > last THEN
    RETURN QUERY SELECT * FROM scopefloor.trace_lines(ids, last, until);
  END IF;
END $$;

-- The traces that are in no sum yet.
CREATE OR REPLACE FUNCTION scopefloor.unsummed_lines(ids int[], since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT d.tenant_id, d.scope_id, d.created_at, d.api_key_id, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status, 1::bigint,
      d.input_tokens::bigint, d.cached_input_tokens::bigint, d.output_tokens::bigint, d.embedding_tokens::bigint, d.saved_tokens::bigint,
      coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int::bigint
    FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id
    WHERE e.batch IS NULL AND e.source = 'trace' AND (ids IS NULL OR e.scope_id = ANY (ids)) AND d.created_at >= since AND d.created_at < until;
END $$;

-- The traces themselves, of less than an hour.
CREATE OR REPLACE FUNCTION scopefloor.trace_lines(ids int[], since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT d.tenant_id, d.scope_id, d.created_at, d.api_key_id, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status, 1::bigint,
      d.input_tokens::bigint, d.cached_input_tokens::bigint, d.output_tokens::bigint, d.embedding_tokens::bigint, d.saved_tokens::bigint,
      coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int::bigint
    FROM scopefloor.decision_trace d
    WHERE (ids IS NULL OR d.scope_id = ANY (ids)) AND d.created_at >= since AND d.created_at < until;
END $$;

-- What all scopes used on whole days, by tenant: from the sums, and from what is in none yet.
CREATE OR REPLACE FUNCTION scopefloor.tenant_lines(since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT u.tenant_id, NULL::int, u.day::timestamp AT TIME ZONE 'UTC', NULL::uuid, u.operation, u.provider, u.model, u.tier, u.status, u.calls,
      u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.saved_tokens, u.cost_usd, u.unpriced
    FROM scopefloor.usage_day u WHERE u.day >= (since AT TIME ZONE 'UTC')::date AND u.day < (until AT TIME ZONE 'UTC')::date;
  RETURN QUERY SELECT * FROM scopefloor.unsummed_lines(NULL, since, until);
END $$;

-- Sums over E's subtree, numbers only: an agent may see what its whole floor has used, but only
-- the traces of its own key. E comes out of the ticket: an argument could widen what it names.
--   grouped_by  null, scope, org, key, model, operation, day, or dimension:<name>
CREATE OR REPLACE FUNCTION scopefloor.usage(since timestamptz, until timestamptz, grouped_by text) RETURNS TABLE (
  grp jsonb, calls bigint, input_tokens bigint, output_tokens bigint, embedding_tokens bigint, total_tokens bigint,
  cost_usd numeric, unpriced bigint, stored_bytes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
  dimension text := substring(grouped_by FROM '^dimension:(.*)$');
  -- Over all scopes whole days come from the sums by tenant, where those tell the groups apart.
  by_tenant bool := t->'target' = '{}' AND (grouped_by IS NULL OR grouped_by IN ('org', 'model', 'operation', 'day'));
  first_day timestamptz := CASE WHEN since IS NULL THEN '-infinity' WHEN since = date_trunc('day', since, 'UTC') THEN since ELSE date_trunc('day', since, 'UTC') + interval '1 day' END;
  last_day timestamptz := coalesce(date_trunc('day', until, 'UTC'), 'infinity');
  divides_storage bool := grouped_by IS NULL OR grouped_by IN ('scope', 'org') OR grouped_by LIKE 'dimension:%';
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for usage' USING ERRCODE = 'insufficient_privilege';
  END IF;
  ids := scopefloor.billed_scopes(t->'target');
  RETURN QUERY
  WITH lines AS MATERIALIZED (
    SELECT u.tenant_id, CASE WHEN NOT by_tenant THEN u.scope_id END AS scope_id,
           CASE grouped_by WHEN 'key' THEN u.api_key_id::text WHEN 'model' THEN u.model WHEN 'operation' THEN u.operation
                           WHEN 'day' THEN (u.at AT TIME ZONE 'UTC')::date::text END AS part,
           sum(u.calls) AS calls, sum(u.input_tokens) AS i, sum(u.output_tokens) AS o, sum(u.embedding_tokens) AS e, sum(u.cost_usd) AS cost, sum(u.unpriced) AS unpriced
    FROM (SELECT * FROM scopefloor.usage_lines(ids, since, until) WHERE NOT by_tenant OR first_day >= last_day
          UNION ALL SELECT * FROM scopefloor.usage_lines(ids, since, first_day) WHERE by_tenant AND first_day < last_day AND since < first_day
          UNION ALL SELECT * FROM scopefloor.usage_lines(ids, last_day, until) WHERE by_tenant AND first_day < last_day AND last_day < until
          UNION ALL SELECT * FROM scopefloor.tenant_lines(first_day, last_day) WHERE by_tenant AND first_day < last_day) u
    GROUP BY 1, 2, 3),
  used AS (
    SELECT CASE WHEN grouped_by = 'scope' THEN s.tags
                WHEN grouped_by = 'org' THEN coalesce(s.tags->'org', 'null')
                WHEN dimension IS NOT NULL THEN coalesce(s.tags->dimension, 'null')
                WHEN grouped_by IS NULL OR l.part = '' THEN 'null' ELSE to_jsonb(l.part) END AS grp,
           sum(l.calls) AS calls, sum(l.i) AS i, sum(l.o) AS o, sum(l.e) AS e, sum(l.cost) AS cost, sum(l.unpriced) AS unpriced
    FROM lines l LEFT JOIN LATERAL (
      SELECT o.tags FROM scopefloor.scope o WHERE o.id = l.scope_id
      UNION ALL SELECT n.root FROM scopefloor.tenant n WHERE by_tenant AND n.id = l.tenant_id) s ON true GROUP BY 1),
  stored AS (
    SELECT CASE WHEN grouped_by = 'scope' THEN s.tags WHEN grouped_by = 'org' THEN coalesce(s.tags->'org', 'null')
                WHEN dimension IS NOT NULL THEN coalesce(s.tags->dimension, 'null') ELSE 'null' END AS grp, sum(c.bytes)::bigint AS bytes
    FROM scopefloor.stored_bytes(CASE WHEN divides_storage THEN ids ELSE '{}' END) c
    JOIN LATERAL (SELECT o.tags FROM scopefloor.scope o WHERE o.id = c.scope_id LIMIT 1) s ON true GROUP BY 1)
  SELECT coalesce(used.grp, stored.grp), coalesce(used.calls, 0)::bigint, coalesce(used.i, 0)::bigint, coalesce(used.o, 0)::bigint,
         coalesce(used.e, 0)::bigint, coalesce(used.i + used.o + used.e, 0)::bigint, coalesce(used.cost, 0), coalesce(used.unpriced, 0)::bigint,
         CASE WHEN divides_storage THEN coalesce(stored.bytes, 0) END
  FROM used FULL JOIN stored ON stored.grp = used.grp
  ORDER BY 6 DESC, 1;
END $$;

-- What each scope keeps on a day, once a day, priced then: a share of the month's price. (A day on which no
-- worker runs is not charged.) Gives how many scopes keep anything.
CREATE OR REPLACE FUNCTION scopefloor.sample_storage() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
  days int := extract(day FROM date_trunc('month', today) + interval '1 month - 1 day');
  price_now numeric;
  sampled int;
BEGIN
  IF EXISTS (SELECT 1 FROM scopefloor.storage_day s WHERE s.day = today) THEN
    RETURN 0;
  END IF;
  SELECT p.per_gb_month INTO price_now FROM scopefloor.price p WHERE p.kind = 'storage' AND p.effective_from <= clock_timestamp() ORDER BY p.effective_from DESC LIMIT 1;
  INSERT INTO scopefloor.storage_day (tenant_id, scope_id, day, bytes, passages, cost_usd)
  SELECT k.tenant_id, k.scope_id, today, k.bytes, k.passages::int, round(k.bytes * price_now * 0.000000001 / days, 12)
  FROM scopefloor.stored_bytes(NULL) k WHERE k.bytes > 0
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS sampled = ROW_COUNT;
  RETURN sampled;
END $$;

-- The lines of a bill, from a time up to another, by scope: the costs that traces were given when they were
-- written, and those of what was kept. Calls that used no tokens and cost nothing are on none. Each line is rounded once. For a tenant that left, by its path's hash.
CREATE OR REPLACE FUNCTION scopefloor.bill(since timestamptz, until timestamptz, of_left text) RETURNS TABLE (
  scope jsonb, kind text, operation text, provider text, model text, calls bigint, input_tokens bigint, cached_input_tokens bigint, output_tokens bigint,
  embedding_tokens bigint, gb_months numeric, unpriced bigint, cost_usd numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
BEGIN
  IF t IS NULL OR t->>'verb' <> 'usage:read' THEN
    RAISE EXCEPTION 'scopefloor: no ticket for usage' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF of_left IS NULL THEN
    ids := scopefloor.billed_scopes(t->'target');
  ELSIF t->'floor' <> '{}' THEN
    ids := '{}'; -- who else could ask would ask for a name that is not its own
  ELSE
    ids := ARRAY(SELECT s.id FROM scopefloor.tenant n JOIN scopefloor.scope s ON s.tenant_id = n.id WHERE n.left_digest = of_left);
  END IF;
  RETURN QUERY
  SELECT s.tags, 'calls', u.operation, nullif(u.provider, ''), nullif(u.model, ''), sum(u.calls)::bigint, sum(u.input_tokens)::bigint, sum(u.cached_input_tokens)::bigint,
         sum(u.output_tokens)::bigint, sum(u.embedding_tokens)::bigint, NULL::numeric, sum(u.unpriced)::bigint, round(sum(u.cost_usd), 9)
  FROM scopefloor.usage_lines(ids, since, until) u JOIN LATERAL (SELECT o.tags FROM scopefloor.scope o WHERE o.id = u.scope_id LIMIT 1) s ON true
  GROUP BY s.tags, u.operation, u.provider, u.model
  HAVING sum(u.input_tokens) + sum(u.output_tokens) + sum(u.embedding_tokens) + sum(u.unpriced) > 0 OR sum(u.cost_usd) > 0
  UNION ALL
  SELECT s.tags, 'storage', NULL, NULL, NULL, 0, 0, 0, 0, 0,
         round(sum(k.bytes * 0.000000001 / extract(day FROM date_trunc('month', k.day) + interval '1 month - 1 day')), 12),
         count(*) FILTER (WHERE k.cost_usd IS NULL), round(coalesce(sum(k.cost_usd), 0), 9)
  FROM scopefloor.storage_day k JOIN LATERAL (SELECT o.tags FROM scopefloor.scope o WHERE o.id = k.scope_id LIMIT 1) s ON true
  WHERE k.day >= (since AT TIME ZONE 'UTC')::date AND k.day < (until AT TIME ZONE 'UTC')::date AND (ids IS NULL OR k.scope_id = ANY (ids))
  GROUP BY s.tags
  ORDER BY 1, 2, 3, 4, 5;
END $$;
