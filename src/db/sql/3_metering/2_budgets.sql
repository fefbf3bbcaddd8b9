-- Budgets: what may be spent at a scope in a period. A call counts against every budget at its own scope
-- and above it. It is held before it is made (3_holds.sql), and settled by its trace.

-- When the period of a budget began that a time lies in.
CREATE OR REPLACE FUNCTION scopefloor.period_start(period text, timezone text, at_time timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN period = 'total' THEN 'epoch'::timestamptz ELSE date_trunc(period, at_time, timezone) END
$$;

-- When it ends; NULL: never.
CREATE OR REPLACE FUNCTION scopefloor.period_end(period text, timezone text, starts timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE period WHEN 'total' THEN NULL WHEN 'hour' THEN starts + interval '1 hour'
    ELSE (starts AT TIME ZONE timezone + ('1 ' || period)::interval) AT TIME ZONE timezone END
$$;

-- The budgets that a call at these tags counts against.
CREATE OR REPLACE FUNCTION scopefloor.budgets_above(tags jsonb) RETURNS SETOF scopefloor.budget
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above jsonb[];
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.budget) THEN
    RETURN;
  END IF;
  above := scopefloor.scopes_between('{}', tags);
  RETURN QUERY SELECT b.* FROM scopefloor.budget b
    WHERE b.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above)));
END $$;

-- True where a call at these tags needs a hold and has none, or where its hold lacks a budget or limit that was made
-- more than ten seconds before the hold.
CREATE OR REPLACE FUNCTION scopefloor.lacks_hold(tags jsonb, hold uuid, of_key uuid) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  h scopefloor.budget_hold;
BEGIN
  -- Where nobody has a budget or a limit, this is all that anybody pays for them.
  IF NOT EXISTS (SELECT 1 FROM scopefloor.budget) AND NOT EXISTS (SELECT 1 FROM scopefloor.limit_rate) THEN
    RETURN false;
  END IF;
  SELECT * INTO h FROM scopefloor.budget_hold o
  WHERE o.id = hold AND o.api_key_id = of_key
    -- What was sent counts, however late its trace is.
    AND (o.state IN ('sent', 'charged') OR (o.state = 'held' AND o.expires_at > clock_timestamp()));
  RETURN EXISTS (SELECT 1 FROM scopefloor.budgets_above(tags) b
                 WHERE h.id IS NULL OR (NOT b.id = ANY (h.budget_ids) AND b.created_at < h.created_at - interval '10 seconds'))
      OR EXISTS (SELECT 1 FROM scopefloor.rates_above(tags, of_key) l
                 WHERE h.id IS NULL OR (NOT l.id = ANY (h.limit_ids) AND l.created_at < h.created_at - interval '10 seconds'));
END $$;

-- A budget as the API gives it, with what was spent of it in its present period.
CREATE OR REPLACE FUNCTION scopefloor.budget_answer(b scopefloor.budget) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  period_starts timestamptz := scopefloor.period_start(b.period, b.timezone, now_at);
  most_tokens bigint := b.token_limit + CASE WHEN b.more_until > now_at THEN b.more_tokens ELSE 0 END;
  most_cost numeric := b.cost_limit + CASE WHEN b.more_until > now_at THEN b.more_cost ELSE 0 END;
  w scopefloor.budget_window;
BEGIN
  SELECT * INTO w FROM scopefloor.budget_window o WHERE o.scope_id = b.scope_id AND o.budget_id = b.id AND o.starts = period_starts;
  RETURN jsonb_build_object(
    'id', b.id, 'scope', (SELECT s.tags FROM scopefloor.scope s WHERE s.id = b.scope_id), 'name', b.name, 'period', b.period, 'timezone', b.timezone,
    'tokenLimit', b.token_limit, 'costLimitUsd', b.cost_limit, 'requestLimit', b.request_limit, 'mode', b.mode, 'alertAt', to_jsonb(b.alert_at),
    'temporaryIncrease', CASE WHEN b.more_until IS NOT NULL THEN jsonb_build_object('tokens', b.more_tokens, 'costUsd', b.more_cost, 'until', scopefloor.rfc3339(b.more_until)) END,
    'used', jsonb_build_object('tokens', coalesce(w.used_tokens, 0), 'costUsd', coalesce(w.used_cost, 0), 'requests', coalesce(w.used_requests, 0)),
    'reserved', jsonb_build_object('tokens', coalesce(w.held_tokens, 0), 'costUsd', coalesce(w.held_cost, 0), 'requests', coalesce(w.held_requests, 0)),
    'remaining', jsonb_build_object(
      'tokens', CASE WHEN b.token_limit IS NOT NULL THEN greatest(0, most_tokens - coalesce(w.used_tokens + w.held_tokens, 0)) END,
      'costUsd', CASE WHEN b.cost_limit IS NOT NULL THEN greatest(0, most_cost - coalesce(w.used_cost + w.held_cost, 0)) END,
      'requests', CASE WHEN b.request_limit IS NOT NULL THEN greatest(0, b.request_limit - coalesce(w.used_requests + w.held_requests, 0)) END),
    'periodStart', scopefloor.rfc3339(period_starts), 'resetsAt', scopefloor.rfc3339(scopefloor.period_end(b.period, b.timezone, period_starts)),
    'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object('threshold', e.threshold, 'periodStart', scopefloor.rfc3339(e.starts), 'at', scopefloor.rfc3339(e.created_at)) ORDER BY e.created_at DESC, e.threshold DESC), '[]')
               FROM (SELECT * FROM scopefloor.budget_event o WHERE o.scope_id = b.scope_id AND o.budget_id = b.id ORDER BY o.created_at DESC LIMIT 20) e),
    'createdAt', scopefloor.rfc3339(b.created_at), 'updatedAt', scopefloor.rfc3339(b.updated_at));
END $$;

-- The ticket of a transaction that sets rules for what it has entered for.
CREATE OR REPLACE FUNCTION scopefloor.rule_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' <> 'manage' THEN
    RAISE EXCEPTION 'scopefloor: no ticket for rules' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- Makes or changes the budget of the ticket's target with this period and name: {status: ok, budget}, or
-- {status: forbidden | quota-exceeded | not-found | validation-error, detail}; with `only_id` it changes that one and
-- makes none. Of one that there is, what is left out stays; where a limit is given, it has the given ones and no
-- other. One that a key above has set stays as it is. What was traced in the present period before there was the budget counts.
CREATE OR REPLACE FUNCTION scopefloor.set_budget(new_id uuid, given jsonb, only_id uuid DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most_at_scope constant int := 20;
  most_of_tenant constant int := 100000;
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  b scopefloor.budget;
  counted_before text; -- the time zone whose periods were counted so far
BEGIN
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  -- Of two who set budgets of one scope, one after the other.
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
  SELECT * INTO b FROM scopefloor.budget o WHERE o.scope_id = at_scope.id AND o.period = given->>'period' AND o.name = coalesce(given->>'name', '');
  IF only_id IS NOT NULL AND b.id IS DISTINCT FROM only_id THEN
    RETURN '{"status": "not-found", "detail": ""}'; -- deleted meanwhile
  END IF;
  IF b.id IS NOT NULL AND NOT b.set_by @> (t->'floor') THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key above this one has set this budget');
  END IF;
  IF b.id IS NULL AND ((SELECT count(*) FROM scopefloor.budget o WHERE o.scope_id = at_scope.id AND o.set_by = t->'floor') >= most_at_scope
      OR (SELECT count(*) FROM (SELECT 1 FROM scopefloor.budget o WHERE o.tenant_id = at_scope.tenant_id AND o.set_by = t->'floor' LIMIT most_of_tenant) n) >= most_of_tenant) THEN
    RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', format('a key may set at most %s budgets at a scope and %s in a tenant; delete one first', most_at_scope, most_of_tenant));
  END IF;
  counted_before := b.timezone;
  given := CASE WHEN b.id IS NULL THEN '{"timezone": "UTC", "mode": "hard", "alertAt": [0.8, 1]}'::jsonb ELSE
    jsonb_build_object('timezone', b.timezone, 'mode', b.mode, 'alertAt', to_jsonb(b.alert_at), 'temporaryIncrease',
      CASE WHEN b.more_until IS NOT NULL THEN jsonb_build_object('tokens', b.more_tokens, 'costUsd', b.more_cost, 'until', b.more_until) END)
    || CASE WHEN given ?| ARRAY['tokenLimit', 'costLimitUsd', 'requestLimit'] THEN '{}'::jsonb
       ELSE jsonb_build_object('tokenLimit', b.token_limit, 'costLimitUsd', b.cost_limit, 'requestLimit', b.request_limit) END END || given;
  IF coalesce(given->>'tokenLimit', given->>'costLimitUsd', given->>'requestLimit') IS NULL THEN
    RETURN '{"status": "validation-error", "detail": "a budget has a tokenLimit, a costLimitUsd or a requestLimit"}';
  END IF;
  INSERT INTO scopefloor.budget AS o (tenant_id, scope_id, id, name, period, timezone, token_limit, cost_limit, request_limit, mode, alert_at,
                                      more_tokens, more_cost, more_until, set_by, api_key_id)
  VALUES (at_scope.tenant_id, at_scope.id, new_id, coalesce(given->>'name', ''), given->>'period', given->>'timezone',
          (given->>'tokenLimit')::bigint, (given->>'costLimitUsd')::numeric, (given->>'requestLimit')::bigint, given->>'mode',
          ARRAY(SELECT jsonb_array_elements_text(given->'alertAt')::numeric),
          coalesce((given->'temporaryIncrease'->>'tokens')::bigint, 0), coalesce((given->'temporaryIncrease'->>'costUsd')::numeric, 0),
          (given->'temporaryIncrease'->>'until')::timestamptz, t->'floor', (t->>'key')::uuid)
  ON CONFLICT (scope_id, period, name, tenant_id) DO UPDATE SET
    timezone = EXCLUDED.timezone, token_limit = EXCLUDED.token_limit, cost_limit = EXCLUDED.cost_limit, request_limit = EXCLUDED.request_limit,
    mode = EXCLUDED.mode, alert_at = EXCLUDED.alert_at, more_tokens = EXCLUDED.more_tokens, more_cost = EXCLUDED.more_cost, more_until = EXCLUDED.more_until,
    set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp()
  RETURNING * INTO b;
  IF counted_before IS DISTINCT FROM b.timezone THEN
    PERFORM scopefloor.open_window(b, scopefloor.period_start(b.period, b.timezone, clock_timestamp()));
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'budget', scopefloor.budget_answer(b));
END $$;

-- Makes the row of a period with the tokens and the cost of what was traced in it so far, but for traces that a hold
-- of this budget is still to be settled by; and with what was charged without a trace. (Requests are counted from
-- then on. A call that is under way without a hold of this budget counts in no period of it.)
CREATE OR REPLACE FUNCTION scopefloor.open_window(b scopefloor.budget, period_starts timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.budget_window (tenant_id, scope_id, budget_id, starts) VALUES (b.tenant_id, b.scope_id, b.id, period_starts) ON CONFLICT DO NOTHING;
  -- Locked before anything is summed: what is settled meanwhile is added afterwards.
  PERFORM 1 FROM scopefloor.budget_window w WHERE w.scope_id = b.scope_id AND w.budget_id = b.id AND w.starts = period_starts FOR UPDATE;
  WITH traced AS (
    SELECT coalesce(sum(u.input_tokens + u.output_tokens + u.embedding_tokens), 0)::bigint AS tokens, coalesce(sum(u.cost_usd), 0) AS cost
    FROM scopefloor.usage_lines(scopefloor.billed_scopes((SELECT s.tags FROM scopefloor.scope s WHERE s.id = b.scope_id)), period_starts, NULL) u),
  unsettled AS (
    SELECT coalesce(sum(CASE WHEN d.id IS NOT NULL THEN -d.total_tokens WHEN h.state = 'charged' THEN h.tokens ELSE 0 END), 0)::bigint AS tokens,
           coalesce(sum(CASE WHEN d.id IS NOT NULL THEN -coalesce(d.cost_usd, 0) WHEN h.state = 'charged' THEN h.cost ELSE 0 END), 0) AS cost
    FROM scopefloor.budget_hold h LEFT JOIN scopefloor.decision_trace d ON d.id = h.id AND d.created_at >= period_starts
    WHERE h.budget_ids @> ARRAY[b.id] AND h.starts[array_position(h.budget_ids, b.id)] = period_starts)
  UPDATE scopefloor.budget_window w SET used_tokens = t.tokens + u.tokens, used_cost = t.cost + u.cost
  FROM traced t, unsettled u WHERE w.scope_id = b.scope_id AND w.budget_id = b.id AND w.starts = period_starts;
END $$;

-- The budgets of the ticket's target and below, by page, or one by its id: {total, budgets}.
CREATE OR REPLACE FUNCTION scopefloor.list_budgets(of_id uuid, most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for budgets' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (
            SELECT b FROM scopefloor.budget b WHERE (ids IS NULL OR b.scope_id = ANY (ids)) AND (of_id IS NULL OR b.id = of_id)),
          shown AS (SELECT f.b FROM found f ORDER BY (f.b).scope_id, (f.b).period, (f.b).name LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'budgets', coalesce((SELECT jsonb_agg(scopefloor.budget_answer(s.b)) FROM shown s), '[]')));
END $$;

-- Takes a budget of the ticket's target or below away, by its id, or by period and name at the target itself:
-- how many; -1: a key above has set it.
CREATE OR REPLACE FUNCTION scopefloor.drop_budget(of_id uuid, of_period text, of_name text) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  found scopefloor.budget;
BEGIN
  SELECT b.* INTO found FROM scopefloor.budget b JOIN scopefloor.scope s ON s.id = b.scope_id
  WHERE s.tags @> (t->'target')
    AND (b.id = of_id OR (of_id IS NULL AND s.tags = t->'target' AND b.period = of_period AND b.name = coalesce(of_name, '')));
  IF found.id IS NULL THEN
    RETURN 0;
  END IF;
  IF NOT found.set_by @> (t->'floor') THEN
    RETURN -1;
  END IF;
  DELETE FROM scopefloor.budget b WHERE b.scope_id = found.scope_id AND b.id = found.id;
  RETURN 1;
END $$;
