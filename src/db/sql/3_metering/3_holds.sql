-- Holds: what calls may cost at most, kept free in every budget above them before they are made. The trace
-- with the hold's id settles it; a fold then moves what was held to what was used.
--
-- Lock order: windows by the depth of their scopes, the deepest first and {} last, which everybody's calls
-- have and which is so held shortest; then by budget. Rates (5_limits.sql) are locked before windows. Rows of a new period are made while none is locked.

-- Holds for calls that wait in one process, in one statement and a transaction of its own. A call is
--   {id, keyHash (hex), verb, requested, onBehalfOf, operation, calls (1 for a request, 0 for what belongs to one),
--    requests (of these, those that count against budgets), isSent, mayDegrade,
--    provider, model, input, output, embedding (tokens, the most that it can use)}
-- and is for what enter would let it do. Its answer, in the same order:
--   {status: none}                no budget and no limit stands above it
--   {status: held}                what it asked for is held
--   {status: degraded, …}         it may be made without the model: that much is held, and why not more
--   {status: refused, …}          what was reached: {limit: tokens | cost | requests | price, budget?, resetsAt?, inFlight}
--   {status: limited, …}          which rate was reached: {rate: requests | tokens | concurrency, retryAfter}
--   {status: stranger}            enter refuses it and says why
-- `budget` is there for a caller whose floor holds the budget's scope; `rates` of each says what is left of those
-- that the caller may know.
CREATE OR REPLACE FUNCTION scopefloor.hold_calls(calls jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  call jsonb;
  placed jsonb := '[]';
  caller record;
  place record;
  named record;
  traced scopefloor.scope;
  at_tags jsonb;
BEGIN
  FOR call IN SELECT jsonb_array_elements(calls) LOOP
    caller := scopefloor.authenticate(decode(call->>'keyHash', 'hex'), call->>'onBehalfOf');
    IF caller.refusal IS NOT NULL
       OR scopefloor.permit((caller.k).principal, (caller.other).principal, caller.verbs, caller.content, call->>'verb', call->'requested'->>'mode') IS NOT NULL THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'stranger'));
      CONTINUE;
    END IF;
    place := scopefloor.resolve_place(caller.k, caller.floor, CASE WHEN call->'requested'->>'mode' = 'write' THEN call->'requested' ELSE '{}' END);
    IF place.refusal IS NULL THEN
      named := scopefloor.resolve_clauses(caller.floor, call->'requested', call->'requested'->>'mode', 'strict', place.fixed);
    END IF;
    IF place.refusal IS NOT NULL OR named.refusal IS NOT NULL THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'stranger'));
      CONTINUE;
    END IF;
    at_tags := CASE WHEN call->'requested'->>'mode' = 'erase' THEN caller.floor ELSE coalesce(named.shared, caller.floor) END;
    SELECT * INTO traced FROM scopefloor.scope s WHERE s.tags = at_tags;
    IF traced.id IS NULL THEN
      SELECT s.* INTO traced FROM scopefloor.scope s WHERE s.id = (caller.k).scope_id;
    END IF;
    placed := placed || jsonb_build_array(call || jsonb_build_object(
      'key', (caller.k).id, 'floor', caller.floor, 'scope', traced.id, 'tenant', traced.tenant_id,
      'budgets', (SELECT coalesce(jsonb_agg(b.id), '[]') FROM scopefloor.budgets_above(at_tags) b),
      'limits', (SELECT coalesce(jsonb_agg(l.id), '[]') FROM scopefloor.rates_above(at_tags, (caller.k).id) l)));
  END LOOP;
  RETURN scopefloor.hold_placed(placed, ttl_seconds);
END $$;

-- The same for calls whose place is known: {…, key, floor, scope, tenant, budgets: [id], limits: [id]}. One that has a status
-- has its answer.
CREATE OR REPLACE FUNCTION scopefloor.hold_placed(placed jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  wanted uuid[] := ARRAY(SELECT DISTINCT (b.id #>> '{}')::uuid FROM jsonb_array_elements(placed) c, jsonb_array_elements(coalesce(c->'budgets', '[]')) b(id));
  limited uuid[] := ARRAY(SELECT DISTINCT (l.id #>> '{}')::uuid FROM jsonb_array_elements(placed) c, jsonb_array_elements(coalesce(c->'limits', '[]')) l(id));
  now_second bigint := extract(epoch FROM now_at)::bigint;
  ls scopefloor.scope_limit[];
  rs scopefloor.limit_rate[];
  own_rates int[];
  over jsonb;
  calls bigint;
  bs scopefloor.budget[];
  ws scopefloor.budget_window[];
  period_starts timestamptz[];
  answers jsonb := '[]';
  call jsonb;
  own int[];
  cost numeric;       -- of all of it
  call_cost numeric;  -- of the call without its model
  tokens bigint;
  requests bigint;
  short jsonb;
  is_folded bool := false;
  is_degraded bool;
  h scopefloor.budget_hold;
BEGIN
  IF cardinality(wanted) = 0 AND cardinality(limited) = 0 THEN
    RETURN (SELECT coalesce(jsonb_agg(CASE WHEN c ? 'status' THEN c ELSE '{"status": "none"}' END), '[]') FROM jsonb_array_elements(placed) c);
  END IF;
  bs := ARRAY(SELECT b FROM scopefloor.budget b JOIN scopefloor.scope s ON s.id = b.scope_id WHERE b.id = ANY (wanted)
              ORDER BY scopefloor.tag_count(s.tags) DESC, b.id);
  period_starts := ARRAY(SELECT scopefloor.period_start((bs[i]).period, (bs[i]).timezone, now_at) FROM generate_subscripts(bs, 1) i ORDER BY i);
  INSERT INTO scopefloor.budget_window (tenant_id, scope_id, budget_id, starts)
  SELECT (bs[i]).tenant_id, (bs[i]).scope_id, (bs[i]).id, period_starts[i] FROM generate_subscripts(bs, 1) i
  ORDER BY i ON CONFLICT DO NOTHING;
  ls := ARRAY(SELECT l FROM scopefloor.scope_limit l JOIN scopefloor.scope s ON s.id = l.scope_id WHERE l.id = ANY (limited)
              ORDER BY scopefloor.tag_count(s.tags) DESC, l.id);
  rs := scopefloor.lock_rates(ls, now_second);
  ws := scopefloor.lock_windows(bs, period_starts);

  FOR call IN SELECT jsonb_array_elements(placed) LOOP
    own_rates := ARRAY(SELECT i FROM generate_subscripts(ls, 1) i WHERE rs[i] IS NOT NULL AND call->'limits' @> to_jsonb((ls[i]).id));
    own := ARRAY(SELECT i FROM generate_subscripts(bs, 1) i WHERE ws[i] IS NOT NULL AND call->'budgets' @> to_jsonb((bs[i]).id));
    IF call ? 'status' OR cardinality(own || own_rates) = 0 THEN
      answers := answers || CASE WHEN call ? 'status' THEN jsonb_build_array(call) ELSE '[{"status": "none"}]'::jsonb END;
      CONTINUE;
    END IF;
    tokens := (call->>'input')::bigint + (call->>'output')::bigint + (call->>'embedding')::bigint;
    requests := (call->>'requests')::bigint;
    calls := (call->>'calls')::bigint;
    call_cost := CASE WHEN requests > 0 THEN scopefloor.cost_of(call->>'operation', NULL, NULL, 0, 0, 0, 0, now_at) ELSE 0 END;
    cost := CASE WHEN call->>'provider' IS NULL THEN call_cost
      ELSE scopefloor.cost_of(call->>'operation', call->>'provider', call->>'model', (call->>'input')::bigint, 0, (call->>'output')::bigint, (call->>'embedding')::bigint, now_at) END;
    is_degraded := false;
    over := scopefloor.over_rate(ls, rs, own_rates, calls, tokens);
    short := scopefloor.short_of(bs, ws, own, tokens, cost, requests, now_at);
    IF (short IS NOT NULL OR over IS NOT NULL) AND NOT is_folded THEN
      -- What was settled meanwhile may make room.
      PERFORM scopefloor.write_rates(rs), scopefloor.write_windows(ws);
      PERFORM scopefloor.fold_holds(1000, wanted, limited);
      rs := scopefloor.lock_rates(ls, now_second);
      ws := scopefloor.lock_windows(bs, period_starts);
      is_folded := true;
      over := scopefloor.over_rate(ls, rs, own_rates, calls, tokens);
      short := scopefloor.short_of(bs, ws, own, tokens, cost, requests, now_at);
    END IF;
    -- A call that is more than a whole minute's may be made without its model.
    IF (over->>'isTooLarge')::bool AND (call->>'mayDegrade')::bool AND scopefloor.over_rate(ls, rs, own_rates, calls, 0) IS NULL THEN
      over := NULL;
      short := coalesce(short, '{"limit": "tokensPerMinute", "inFlight": false}');
    END IF;
    IF over IS NOT NULL THEN
      answers := answers || jsonb_build_array(jsonb_build_object('status', 'limited', 'rate', over->'rate', 'retryAfter', over->'retryAfter',
                                                                 'rates', scopefloor.told_rates(ls, rs, own_rates, call->'floor')));
      CONTINUE;
    END IF;
    IF short IS NOT NULL AND (call->>'mayDegrade')::bool AND scopefloor.short_of(bs, ws, own, 0, call_cost, requests, now_at) IS NULL THEN
      is_degraded := true;
      tokens := 0;
      cost := call_cost;
    END IF;
    IF short IS NULL OR is_degraded THEN
      FOR n IN 1..cardinality(own) LOOP
        ws[own[n]].held_tokens := ws[own[n]].held_tokens + tokens;
        ws[own[n]].held_cost := ws[own[n]].held_cost + coalesce(cost, 0);
        ws[own[n]].held_requests := ws[own[n]].held_requests + requests;
      END LOOP;
      FOR n IN 1..cardinality(own_rates) LOOP
        rs[own_rates[n]].requests[now_second % 61 + 1] := (rs[own_rates[n]]).requests[now_second % 61 + 1] + calls;
        rs[own_rates[n]].tokens[now_second % 61 + 1] := (rs[own_rates[n]]).tokens[now_second % 61 + 1] + tokens;
        rs[own_rates[n]].running := (rs[own_rates[n]]).running + calls;
      END LOOP;
      -- A request that has a hold adds to it.
      INSERT INTO scopefloor.budget_hold AS o (tenant_id, scope_id, id, budget_ids, starts, tokens, cost, requests, limit_ids, calls, second, api_key_id, operation, provider, model, state, expires_at)
      VALUES ((call->>'tenant')::int, (call->>'scope')::int, (call->>'id')::uuid,
              ARRAY(SELECT (bs[i]).id FROM unnest(own) i ORDER BY i), ARRAY(SELECT period_starts[i] FROM unnest(own) i ORDER BY i),
              tokens, coalesce(cost, 0), requests, ARRAY(SELECT (ls[i]).id FROM unnest(own_rates) i), calls, now_second, (call->>'key')::uuid, call->>'operation',
              CASE WHEN NOT is_degraded THEN call->>'provider' END, CASE WHEN NOT is_degraded THEN call->>'model' END,
              CASE WHEN (call->>'isSent')::bool AND NOT is_degraded THEN 'sent' ELSE 'held' END, now_at + make_interval(secs => ttl_seconds))
      ON CONFLICT (scope_id, id, tenant_id) DO UPDATE SET
        tokens = o.tokens + EXCLUDED.tokens, cost = o.cost + EXCLUDED.cost, requests = o.requests + EXCLUDED.requests,
        calls = o.calls + EXCLUDED.calls, second = EXCLUDED.second,
        provider = coalesce(EXCLUDED.provider, o.provider), model = coalesce(EXCLUDED.model, o.model),
        state = CASE WHEN EXCLUDED.state = 'sent' THEN 'sent' ELSE o.state END, expires_at = EXCLUDED.expires_at;
    END IF;
    answers := answers || jsonb_build_array(
      jsonb_build_object('status', CASE WHEN is_degraded THEN 'degraded' WHEN short IS NULL THEN 'held' ELSE 'refused' END)
      || coalesce(scopefloor.shortage_answer(bs[(short->>'at')::int], period_starts[(short->>'at')::int], short, call->'floor'), '{}')
      || jsonb_build_object('rates', scopefloor.told_rates(ls, rs, own_rates, call->'floor')));
  END LOOP;
  PERFORM scopefloor.write_rates(rs), scopefloor.write_windows(ws);
  RETURN answers;
END $$;

-- The rows of these periods, locked in their order; NULL for one whose budget is gone.
CREATE OR REPLACE FUNCTION scopefloor.lock_windows(bs scopefloor.budget[], period_starts timestamptz[]) RETURNS scopefloor.budget_window[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ws scopefloor.budget_window[] := '{}';
  w scopefloor.budget_window;
BEGIN
  FOR i IN 1..cardinality(bs) LOOP
    SELECT * INTO w FROM scopefloor.budget_window o
    WHERE o.scope_id = (bs[i]).scope_id AND o.budget_id = (bs[i]).id AND o.starts = period_starts[i] FOR UPDATE;
    ws[i] := CASE WHEN FOUND THEN w END;
  END LOOP;
  RETURN ws;
END $$;

-- Writes what is held, in the order of the locks.
CREATE OR REPLACE FUNCTION scopefloor.write_windows(ws scopefloor.budget_window[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR i IN 1..cardinality(ws) LOOP
    UPDATE scopefloor.budget_window w SET held_tokens = (ws[i]).held_tokens, held_cost = (ws[i]).held_cost, held_requests = (ws[i]).held_requests
    WHERE w.scope_id = (ws[i]).scope_id AND w.budget_id = (ws[i]).budget_id AND w.starts = (ws[i]).starts
      AND (w.held_tokens, w.held_cost, w.held_requests) IS DISTINCT FROM ((ws[i]).held_tokens, (ws[i]).held_cost, (ws[i]).held_requests);
  END LOOP;
END $$;

-- Which hard budget has no room for that much, and in what: {at, limit, inFlight}; NULL: there is room in all.
-- `inFlight`: only what is held is in the way, and may be given back.
CREATE OR REPLACE FUNCTION scopefloor.short_of(bs scopefloor.budget[], ws scopefloor.budget_window[], own int[], tokens bigint, cost numeric, requests bigint, now_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  b scopefloor.budget;
  w scopefloor.budget_window;
  found jsonb;
  is_raised bool;
BEGIN
  FOR n IN 1..cardinality(own) LOOP
    b := bs[own[n]];
    w := ws[own[n]];
    CONTINUE WHEN b.mode <> 'hard';
    is_raised := coalesce(b.more_until > now_at, false);
    found := CASE
      WHEN tokens > 0 AND w.used_tokens + w.held_tokens + tokens > b.token_limit + CASE WHEN is_raised THEN b.more_tokens ELSE 0 END
        THEN jsonb_build_object('limit', 'tokens', 'inFlight', w.used_tokens + tokens <= b.token_limit + CASE WHEN is_raised THEN b.more_tokens ELSE 0 END)
      -- What has no price cannot be within one.
      WHEN cost IS NULL AND b.cost_limit IS NOT NULL THEN '{"limit": "price", "inFlight": false}'
      WHEN cost > 0 AND w.used_cost + w.held_cost + cost > b.cost_limit + CASE WHEN is_raised THEN b.more_cost ELSE 0 END
        THEN jsonb_build_object('limit', 'cost', 'inFlight', w.used_cost + cost <= b.cost_limit + CASE WHEN is_raised THEN b.more_cost ELSE 0 END)
      WHEN requests > 0 AND w.used_requests + w.held_requests + requests > b.request_limit
        THEN jsonb_build_object('limit', 'requests', 'inFlight', w.used_requests + requests <= b.request_limit) END;
    IF found IS NOT NULL THEN
      RETURN found || jsonb_build_object('at', own[n]);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- What a caller is told of a shortage.
CREATE OR REPLACE FUNCTION scopefloor.shortage_answer(b scopefloor.budget, period_starts timestamptz, short jsonb, floor jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE WHEN short IS NOT NULL THEN jsonb_build_object(
    'limit', short->'limit', 'inFlight', short->'inFlight',
    'resetsAt', scopefloor.rfc3339(scopefloor.period_end(b.period, b.timezone, period_starts)),
    'budget', (SELECT scopefloor.budget_answer(b) FROM scopefloor.scope s WHERE s.id = b.scope_id AND s.tags @> floor)) END;
END $$;

-- Holds what a job's next call may use, at the scope of its ticket: an answer of hold_calls.
CREATE OR REPLACE FUNCTION scopefloor.hold_for_job(call jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'job' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: not in a job' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN scopefloor.hold_placed(jsonb_build_array(call || jsonb_build_object(
    'key', t->'key', 'floor', t->'floor', 'scope', t->'write', 'tenant', t->'tenant',
    'calls', 0, 'limits', (SELECT coalesce(jsonb_agg(l.id), '[]') FROM scopefloor.rates_above(t->'target', (t->>'key')::uuid) l),
    'budgets', (SELECT coalesce(jsonb_agg(b.id), '[]') FROM scopefloor.budgets_above(t->'target') b))), ttl_seconds)->0;
END $$;

-- Gives holds back whose calls were not made, or settles them as what they were held for: of those that
-- no trace was written for.
--   ended  [{id, keyHash (hex), isMade}]
CREATE OR REPLACE FUNCTION scopefloor.end_holds(ended jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.budget_hold h SET expires_at = '-infinity', state = CASE WHEN (e->>'isMade')::bool THEN 'sent' ELSE 'held' END
  FROM jsonb_array_elements(ended) e, scopefloor.api_key k
  WHERE h.id = (e->>'id')::uuid AND k.id = h.api_key_id AND h.state IN ('held', 'sent')
    AND sha256(decode(e->>'keyHash', 'hex')) IN (k.secret_hash, k.previous_hash);
END $$;

-- Settles holds: those whose trace is there by what it says, and expired ones by what may have been spent.
-- Gives how many it went through, at most so many; of these budgets and limits alone, or of all.
CREATE OR REPLACE FUNCTION scopefloor.fold_holds(most int, of_budgets uuid[] DEFAULT NULL, of_limits uuid[] DEFAULT '{}') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
  changes jsonb;
  over jsonb;
  change record;
  w scopefloor.budget_window;
  rs scopefloor.limit_rate[];
  now_at timestamptz := clock_timestamp();
  now_second bigint := extract(epoch FROM now_at)::bigint;
BEGIN
  WITH due AS MATERIALIZED (
    SELECT h.scope_id, h.id, h.budget_ids, h.starts, h.limit_ids, h.calls, h.second, h.tokens, h.cost, h.requests, h.state, h.expires_at, h.created_at, d.id IS NOT NULL AS is_settled, d.total_tokens, d.cost_usd
    FROM scopefloor.budget_hold h
    LEFT JOIN LATERAL (SELECT t.id, t.total_tokens, t.cost_usd FROM scopefloor.decision_trace t WHERE t.id = h.id AND t.created_at >= h.created_at - interval '1 hour' LIMIT 1) d ON true
    WHERE (of_budgets IS NULL OR h.budget_ids && of_budgets OR h.limit_ids && of_limits)
      AND (d.id IS NOT NULL OR (h.state IN ('held', 'sent') AND h.expires_at < now_at) OR h.created_at < now_at - interval '1 day')
    LIMIT most FOR UPDATE OF h SKIP LOCKED),
  kept AS (
    -- Its trace may still come: one that was sent costs what was held until then, the other nothing.
    UPDATE scopefloor.budget_hold h SET state = CASE h.state WHEN 'sent' THEN 'charged' ELSE 'released' END,
      tokens = CASE h.state WHEN 'sent' THEN h.tokens ELSE 0 END, cost = CASE h.state WHEN 'sent' THEN h.cost ELSE 0 END, requests = CASE h.state WHEN 'sent' THEN h.requests ELSE 0 END
    FROM due WHERE h.scope_id = due.scope_id AND h.id = due.id AND NOT due.is_settled AND due.state IN ('held', 'sent')),
  over AS (
    DELETE FROM scopefloor.budget_hold h USING due
    WHERE h.scope_id = due.scope_id AND h.id = due.id AND (due.is_settled OR due.state IN ('charged', 'released'))),
  moved AS (
    SELECT b.id AS budget_id, s.starts, due.state, due.tokens, due.cost, due.requests, due.state IN ('held', 'sent') AS was_held,
      CASE WHEN due.is_settled THEN due.total_tokens WHEN due.state IN ('sent', 'charged') THEN due.tokens ELSE 0 END AS spent_tokens,
      CASE WHEN due.is_settled THEN coalesce(due.cost_usd, due.cost) WHEN due.state IN ('sent', 'charged') THEN due.cost ELSE 0 END AS spent_cost,
      CASE WHEN due.is_settled OR due.state IN ('sent', 'charged') THEN due.requests ELSE 0 END AS spent_requests
    FROM due, unnest(due.budget_ids) WITH ORDINALITY b(id, n) JOIN unnest(due.starts) WITH ORDINALITY s(starts, n) USING (n)),
  summed AS (
    SELECT m.budget_id, m.starts,
      sum(m.spent_tokens - CASE WHEN m.state = 'charged' THEN m.tokens ELSE 0 END) AS used_tokens,
      sum(m.spent_cost - CASE WHEN m.state = 'charged' THEN m.cost ELSE 0 END) AS used_cost,
      sum(m.spent_requests - CASE WHEN m.state = 'charged' THEN m.requests ELSE 0 END) AS used_requests,
      sum(CASE WHEN m.was_held THEN m.tokens ELSE 0 END) AS held_tokens,
      sum(CASE WHEN m.was_held THEN m.cost ELSE 0 END) AS held_cost,
      sum(CASE WHEN m.was_held THEN m.requests ELSE 0 END) AS held_requests
    FROM moved m GROUP BY 1, 2)
  SELECT (SELECT count(*) FROM due), (SELECT jsonb_agg(to_jsonb(s)) FROM summed s),
         -- A call is over once; what its model did not use was not used in that second.
         (SELECT jsonb_agg(to_jsonb(x)) FROM (
            SELECT l.id AS limit_id, d.second, sum(d.calls) AS calls,
                   sum(CASE WHEN d.is_settled THEN d.total_tokens WHEN d.state = 'sent' THEN d.tokens ELSE 0 END - d.tokens) AS tokens
            FROM due d, unnest(d.limit_ids) l(id) WHERE d.state IN ('held', 'sent') GROUP BY 1, 2) x)
  INTO folded, changes, over;

  FOR change IN
    SELECT l AS scope_limit, c.* FROM jsonb_to_recordset(coalesce(over, '[]')) AS c(limit_id uuid, second bigint, calls bigint, tokens bigint)
    JOIN scopefloor.scope_limit l ON l.id = c.limit_id JOIN scopefloor.scope s ON s.id = l.scope_id
    ORDER BY scopefloor.tag_count(s.tags) DESC, l.id, c.second
  LOOP
    rs := scopefloor.lock_rates(ARRAY[change.scope_limit], now_second);
    CONTINUE WHEN rs[1] IS NULL;
    rs[1].running := greatest(0, (rs[1]).running - change.calls);
    IF now_second - change.second <= 60 THEN
      rs[1].tokens[change.second % 61 + 1] := greatest(0, (rs[1]).tokens[change.second % 61 + 1] + change.tokens);
    END IF;
    PERFORM scopefloor.write_rates(rs);
  END LOOP;

  FOR change IN
    SELECT b AS budget, c.* FROM jsonb_to_recordset(coalesce(changes, '[]')) AS c(budget_id uuid, starts timestamptz, used_tokens bigint, used_cost numeric,
      used_requests bigint, held_tokens bigint, held_cost numeric, held_requests bigint)
    JOIN scopefloor.budget b ON b.id = c.budget_id JOIN scopefloor.scope s ON s.id = b.scope_id
    ORDER BY scopefloor.tag_count(s.tags) DESC, b.id, c.starts
  LOOP
    UPDATE scopefloor.budget_window o SET
      used_tokens = o.used_tokens + change.used_tokens, used_cost = o.used_cost + change.used_cost, used_requests = o.used_requests + change.used_requests,
      held_tokens = o.held_tokens - change.held_tokens, held_cost = o.held_cost - change.held_cost, held_requests = o.held_requests - change.held_requests
    WHERE o.scope_id = (change.budget).scope_id AND o.budget_id = change.budget_id AND o.starts = change.starts RETURNING * INTO w;
    CONTINUE WHEN NOT FOUND;
    PERFORM scopefloor.tell_thresholds(change.budget, w);
  END LOOP;
  RETURN folded;
END $$;

-- Notes the shares of a budget that were reached and not told of in this period.
CREATE OR REPLACE FUNCTION scopefloor.tell_thresholds(b scopefloor.budget, w scopefloor.budget_window) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  share numeric := greatest(w.used_tokens / nullif(b.token_limit, 0)::numeric, w.used_cost / nullif(b.cost_limit, 0), w.used_requests / nullif(b.request_limit, 0)::numeric);
BEGIN
  IF share IS NULL OR NOT EXISTS (SELECT 1 FROM unnest(b.alert_at) a WHERE a > w.alerted AND a <= share) THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.budget_event (tenant_id, scope_id, id, budget_id, starts, threshold, used_tokens, used_cost, used_requests)
  SELECT b.tenant_id, b.scope_id, gen_random_uuid(), b.id, w.starts, a, w.used_tokens, w.used_cost, w.used_requests FROM unnest(b.alert_at) a WHERE a > w.alerted AND a <= share
  ON CONFLICT DO NOTHING;
  UPDATE scopefloor.budget_window o SET alerted = (SELECT max(a) FROM unnest(b.alert_at) a WHERE a <= share)
  WHERE o.scope_id = w.scope_id AND o.budget_id = w.budget_id AND o.starts = w.starts;
END $$;

-- Records what a request spent on models where its own trace does not say it: the request failed, or the call
-- did. At the scope that the request was for, under the id of its hold where it had one.
--   spent  {id, operation, requested, onBehalfOf, provider, model, inputTokens, embeddingTokens, tokenSource, durationMs, status}
CREATE OR REPLACE FUNCTION scopefloor.record_spent(key_hash bytea, spent jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  k scopefloor.api_key := scopefloor.live_key(key_hash);
  caller record;
  place record;
  named record;
  at_tags jsonb;
  traced scopefloor.scope;
BEGIN
  IF k.id IS NULL THEN
    -- Revoked since: its last call stands where it stood.
    SELECT * INTO k FROM scopefloor.api_key a WHERE a.secret_hash = sha256(key_hash);
    IF k.id IS NULL THEN
      RETURN;
    END IF;
  END IF;
  at_tags := k.floor;
  caller := scopefloor.authenticate(key_hash, spent->>'onBehalfOf');
  IF caller.refusal IS NULL THEN
    place := scopefloor.resolve_place(caller.k, caller.floor, CASE WHEN spent->'requested'->>'mode' = 'write' THEN spent->'requested' ELSE '{}' END);
    IF place.refusal IS NULL THEN
      named := scopefloor.resolve_clauses(caller.floor, spent->'requested', spent->'requested'->>'mode', 'strict', place.fixed);
      at_tags := CASE WHEN named.refusal IS NULL THEN coalesce(named.shared, caller.floor) ELSE caller.floor END;
    END IF;
  END IF;
  PERFORM scopefloor.hold_scope(at_tags);
  -- No request is under way for longer than a minute.
  IF scopefloor.was_erased(at_tags, clock_timestamp() - interval '1 minute') THEN
    at_tags := k.floor;
  END IF;
  SELECT * INTO traced FROM scopefloor.scope s WHERE s.tags = at_tags;
  IF traced.id IS NULL THEN
    SELECT * INTO traced FROM scopefloor.scope s WHERE s.id = k.scope_id;
  END IF;
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, elsewhere, api_key_id, principal, provider, model,
                                         input_tokens, embedding_tokens, token_source, duration_ms, status)
  VALUES ((spent->>'id')::uuid, 'model', left(spent->>'operation', 40), traced.tenant_id, traced.id, at_tags, traced.tags <> at_tags, k.id, k.principal,
          left(spent->>'provider', 200), left(spent->>'model', 200), (spent->>'inputTokens')::int, (spent->>'embeddingTokens')::int,
          CASE WHEN spent->>'tokenSource' IN ('provider', 'tokenizer') THEN spent->>'tokenSource' END, (spent->>'durationMs')::real,
          CASE WHEN spent->>'status' = 'ok' THEN 'ok' ELSE 'error' END);
END $$;

-- Settles what is due of the budgets at the ticket's target and below, so that their numbers are of now.
CREATE OR REPLACE FUNCTION scopefloor.fold_own_holds() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for budgets' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN scopefloor.fold_holds(1000, ARRAY(
    SELECT b.id FROM scopefloor.budget b WHERE (t->'read'->>'all')::bool OR b.scope_id = ANY (scopefloor.ids_in(t->'read')) LIMIT 1000));
END $$;
