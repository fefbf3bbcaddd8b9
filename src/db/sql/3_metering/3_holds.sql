-- Holds: what calls may cost at most, kept free in every budget above them before they are made. The trace
-- with the hold's id settles it; a fold then moves what was held to what was used.
--
-- Lock order: windows by the depth of their scopes, the deepest first and {} last, which everybody's calls
-- have and which is so held shortest; then by budget and period. Rates (7_rates.sql) are locked before windows.
-- Rows of a new period are made while none is locked, and no transaction that has some locked folds (4_settling.sql).

-- Holds for calls that wait in one process, in one statement and a transaction of its own. A call is
--   {id, keyHash (hex), verb, requested, onBehalfOf, operation, calls (1 for a request, 0 for what belongs to one),
--    requests (of these, those that count against budgets), isOwn (it has a trace of its own), isSent, mayDegrade, isLast (it
--    was asked for before, and is refused or degraded for good),
--    provider, model, input, output, embedding (tokens, the most that it can use)}
-- and is for what enter would let it do. Its answer, in the same order:
--   {status: none}                no budget and no limit stands above it
--   {status: held}                what it asked for is held
--   {status: degraded, …}         it may be made without the model: that much is held, and why not more
--   {status: refused, …}          what was reached: {limit: tokens | cost | requests | price, budget?, resetsAt?, inFlight}
--   {status: limited, …}          which rate was reached: {rate: requests | tokens | concurrency, retryAfter}
--   {status: not-admitted}       enter refuses it and says why
-- `budget` is there for a caller whose floor holds the budget's scope; `rates` of each says what is left of those
-- that the caller may know. `settleable` is there where what is held is in the way, with the rule's id: once
-- what was settled is moved on (fold_calls), in a transaction of its own, there may be room.
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
  h scopefloor.budget_hold;
BEGIN
  PERFORM scopefloor.check_calls(calls, ttl_seconds);
  FOR call IN SELECT jsonb_array_elements(calls) LOOP
    caller := scopefloor.authenticate(decode(call->>'keyHash', 'hex'), call->>'onBehalfOf');
    IF caller.refusal IS NOT NULL
       OR scopefloor.permit((caller.k).principal, (caller.other).principal, caller.verbs, caller.content, call->>'verb', call->'requested'->>'mode') IS NOT NULL THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'not-admitted'));
      CONTINUE;
    END IF;
    place := scopefloor.resolve_place(caller.k, caller.floor, CASE WHEN call->'requested'->>'mode' = 'write' THEN call->'requested' ELSE '{}' END);
    IF place.refusal IS NULL THEN
      named := scopefloor.resolve_clauses(caller.floor, call->'requested', call->'requested'->>'mode', 'strict', place.fixed);
    END IF;
    IF place.refusal IS NOT NULL OR named.refusal IS NOT NULL THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'not-admitted'));
      CONTINUE;
    END IF;
    at_tags := CASE WHEN call->'requested'->>'mode' = 'erase' THEN caller.floor ELSE coalesce(named.shared, caller.floor) END;
    SELECT * INTO traced FROM scopefloor.scope s WHERE s.tags = at_tags;
    IF traced.id IS NULL THEN
      SELECT s.* INTO traced FROM scopefloor.scope s WHERE s.id = (caller.k).scope_id;
    END IF;
    SELECT * INTO h FROM scopefloor.budget_hold o WHERE o.id = (call->>'id')::uuid FOR UPDATE;
    IF h.id IS NOT NULL AND (call->>'calls')::int = 1 AND h.api_key_id = (caller.k).id THEN
      placed := placed || '[{"status": "held"}]'; -- asked once more, since the first answer was lost
      CONTINUE;
    ELSIF h.id IS NOT NULL AND (h.api_key_id <> (caller.k).id OR h.state NOT IN ('held', 'sent')) THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'not-admitted'));
      CONTINUE;
    END IF;
    placed := placed || jsonb_build_array(call || jsonb_build_object(
      'key', (caller.k).id, 'floor', caller.floor, 'scope', coalesce(h.scope_id, traced.id), 'tenant', coalesce(h.tenant_id, traced.tenant_id),
      'budgets', scopefloor.windows_for(h, at_tags),
      'limits', (SELECT coalesce(jsonb_agg(l.id), '[]') FROM scopefloor.rates_above(at_tags, (caller.k).id) l)));
  END LOOP;
  RETURN scopefloor.hold_placed(placed, ttl_seconds);
END $$;

-- Refuses numbers that no call has: who calls the database by itself must not make room with them, or fill it.
CREATE OR REPLACE FUNCTION scopefloor.check_calls(calls jsonb, ttl_seconds int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF ttl_seconds NOT BETWEEN 1 AND 3600 OR jsonb_array_length(calls) > 1000 OR EXISTS (
    SELECT 1 FROM jsonb_array_elements(calls) c
    WHERE NOT coalesce((c->>'calls')::bigint IN (0, 1) AND (c->>'requests')::bigint IN (0, 1) AND (c->>'input')::bigint BETWEEN 0 AND 1000000000
                       AND (c->>'output')::bigint BETWEEN 0 AND 1000000000 AND (c->>'embedding')::bigint BETWEEN 0 AND 1000000000, false)) THEN
    RAISE EXCEPTION 'scopefloor: no call has such numbers' USING ERRCODE = 'check_violation';
  END IF;
END $$;

-- The periods that a call counts in: [{id, starts}]. Of a request that has a hold they are the hold's, so that what
-- is added to it goes where it is.
CREATE OR REPLACE FUNCTION scopefloor.windows_for(h scopefloor.budget_hold, tags jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF h.id IS NOT NULL THEN
    RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('id', b.id, 'starts', h.starts[b.n])), '[]') FROM unnest(h.budget_ids) WITH ORDINALITY b(id, n));
  END IF;
  RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('id', b.id, 'starts', scopefloor.period_start(b.period, b.timezone, clock_timestamp()))), '[]')
          FROM scopefloor.budgets_above(tags) b);
END $$;

-- The same for calls whose place is known: {…, key, floor, scope, tenant, budgets: [{id, starts}], limits: [id]}. One
-- that has a status has its answer.
CREATE OR REPLACE FUNCTION scopefloor.hold_placed(placed jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  wanted jsonb[] := ARRAY(SELECT DISTINCT b.w FROM jsonb_array_elements(placed) c, jsonb_array_elements(coalesce(c->'budgets', '[]')) b(w));
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
  bare jsonb;         -- the same without its model
  is_degraded bool;
  is_forced bool;
BEGIN
  IF cardinality(wanted) = 0 AND cardinality(limited) = 0 THEN
    RETURN (SELECT coalesce(jsonb_agg(CASE WHEN c ? 'status' THEN c ELSE '{"status": "none"}' END), '[]') FROM jsonb_array_elements(placed) c);
  END IF;
  wanted := ARRAY(SELECT w FROM unnest(wanted) w JOIN scopefloor.budget b ON b.id = (w->>'id')::uuid JOIN scopefloor.scope s ON s.id = b.scope_id
                  ORDER BY scopefloor.tag_count(s.tags) DESC, b.id, (w->>'starts')::timestamptz);
  bs := ARRAY(SELECT b FROM unnest(wanted) WITH ORDINALITY w(window_of, n) JOIN scopefloor.budget b ON b.id = (w.window_of->>'id')::uuid ORDER BY w.n);
  period_starts := ARRAY(SELECT (w->>'starts')::timestamptz FROM unnest(wanted) w);
  INSERT INTO scopefloor.budget_window (tenant_id, scope_id, budget_id, starts)
  SELECT (bs[i]).tenant_id, (bs[i]).scope_id, (bs[i]).id, period_starts[i] FROM generate_subscripts(bs, 1) i
  ORDER BY i ON CONFLICT DO NOTHING;
  ls := ARRAY(SELECT l FROM scopefloor.scope_limit l JOIN scopefloor.scope s ON s.id = l.scope_id WHERE l.id = ANY (limited)
              ORDER BY scopefloor.tag_count(s.tags) DESC, l.id);
  rs := scopefloor.lock_rates(ls, now_second);
  ws := scopefloor.lock_windows(bs, period_starts);

  FOR call IN SELECT jsonb_array_elements(placed) LOOP
    own_rates := ARRAY(SELECT i FROM generate_subscripts(ls, 1) i WHERE rs[i] IS NOT NULL AND call->'limits' @> to_jsonb((ls[i]).id));
    own := ARRAY(SELECT i FROM generate_subscripts(bs, 1) i WHERE ws[i] IS NOT NULL AND call->'budgets' @> jsonb_build_array(wanted[i]));
    IF call ? 'status' OR cardinality(own || own_rates) = 0 THEN
      answers := answers || CASE WHEN call ? 'status' THEN jsonb_build_array(call) ELSE '[{"status": "none"}]'::jsonb END;
      CONTINUE;
    END IF;
    tokens := (call->>'input')::bigint + (call->>'output')::bigint + (call->>'embedding')::bigint;
    requests := (call->>'requests')::bigint;
    calls := (call->>'calls')::bigint;
    -- An operation's own price is the trace's that begins with this; without its model a call of its own is not made.
    call_cost := CASE WHEN calls = 1 THEN scopefloor.cost_of(call->>'operation', NULL, NULL, 0, 0, 0, 0, now_at) ELSE 0 END;
    cost := CASE WHEN call->>'provider' IS NULL THEN call_cost
      ELSE scopefloor.cost_of(CASE WHEN calls = 1 OR (call->>'isOwn')::bool THEN call->>'operation' END, call->>'provider', call->>'model',
                              (call->>'input')::bigint, 0, (call->>'output')::bigint, (call->>'embedding')::bigint, now_at) END;
    is_degraded := false;
    -- To forget costs its price whatever is left; its model is called within the budgets as any other.
    is_forced := coalesce(call->>'verb' = 'memory:forget', false);
    over := scopefloor.over_rate(ls, rs, own_rates, calls, tokens);
    short := CASE WHEN NOT (is_forced AND call->>'provider' IS NULL) THEN scopefloor.short_of(bs, ws, own, tokens, cost, requests, now_at) END;
    -- A call that is more than a whole minute's may be made without its model.
    IF ((over->>'isTooLarge')::bool OR (is_forced AND over->>'rate' = 'tokens')) AND (call->>'mayDegrade')::bool
       AND scopefloor.over_rate(ls, rs, own_rates, calls, 0) IS NULL THEN
      over := NULL;
      short := coalesce(short, '{"limit": "tokensPerMinute", "inFlight": false}');
    END IF;
    IF over IS NOT NULL THEN
      answers := answers || jsonb_build_array(jsonb_build_object('status', 'limited', 'rate', over->'rate', 'isTooLarge', coalesce((over->>'isTooLarge')::bool, false), 'retryAfter', over->'retryAfter',
                                                                 'settleable', CASE WHEN over->>'rate' <> 'requests' THEN (ls[(over->>'at')::int]).id END, 'rates', scopefloor.told_rates(ls, rs, own_rates, call->'floor')));
      CONTINUE;
    END IF;
    -- Where only holds are in the way, what was settled is moved on first.
    IF short IS NOT NULL AND (call->>'mayDegrade')::bool AND (coalesce((call->>'isLast')::bool, false) OR NOT (short->>'inFlight')::bool) THEN
      bare := CASE WHEN NOT is_forced THEN scopefloor.short_of(bs, ws, own, 0, call_cost, requests, now_at) END;
      IF bare IS NULL THEN
        is_degraded := true;
        tokens := 0;
        cost := call_cost;
      ELSE
        short := bare;
      END IF;
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
      PERFORM scopefloor.keep_hold(
        call || CASE WHEN is_degraded THEN '{"provider": null, "model": null, "isSent": false}' ELSE '{}' END::jsonb, tokens, cost,
        ARRAY(SELECT (bs[i]).id FROM unnest(own) i ORDER BY i), ARRAY(SELECT period_starts[i] FROM unnest(own) i ORDER BY i),
        ARRAY(SELECT (ls[i]).id FROM unnest(own_rates) i), now_second, now_at + make_interval(secs => ttl_seconds));
    END IF;
    IF short IS NOT NULL AND short->>'limit' <> 'price' AND NOT (short->>'inFlight')::bool AND NOT coalesce((short->>'isTooLarge')::bool, false) AND short ? 'at'
       AND (ws[(short->>'at')::int]).alerted < 1 THEN
      PERFORM scopefloor.tell_thresholds(bs[(short->>'at')::int], ws[(short->>'at')::int], true);
      ws[(short->>'at')::int].alerted := 1;
    END IF;
    answers := answers || jsonb_build_array(
      jsonb_build_object('status', CASE WHEN is_degraded THEN 'degraded' WHEN short IS NULL THEN 'held' ELSE 'refused' END)
      || coalesce(scopefloor.shortage_answer(bs[(short->>'at')::int], period_starts[(short->>'at')::int], short, call->'floor'), '{}')
      || jsonb_build_object('rates', scopefloor.told_rates(ls, rs, own_rates, call->'floor')));
  END LOOP;
  PERFORM scopefloor.write_rates(rs), scopefloor.write_windows(ws);
  RETURN answers;
END $$;

-- Writes the hold of a call, of `held_tokens` and `held_cost`; a request that has one adds to it.
CREATE OR REPLACE FUNCTION scopefloor.keep_hold(call jsonb, held_tokens bigint, held_cost numeric, of_budgets uuid[], period_starts timestamptz[], of_limits uuid[],
                                                in_second bigint, until timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.budget_hold AS o (tenant_id, scope_id, id, budget_ids, starts, tokens, cost, requests, limit_ids, calls, second, api_key_id, operation,
                                           provider, model, state, expires_at)
  VALUES ((call->>'tenant')::int, (call->>'scope')::int, (call->>'id')::uuid, of_budgets, period_starts, held_tokens, coalesce(held_cost, 0), (call->>'requests')::bigint,
          of_limits, (call->>'calls')::bigint, in_second, (call->>'key')::uuid, call->>'operation', call->>'provider', call->>'model',
          CASE WHEN (call->>'isSent')::bool THEN 'sent' ELSE 'held' END, until)
  ON CONFLICT (scope_id, id, tenant_id) DO UPDATE SET
    tokens = o.tokens + EXCLUDED.tokens, cost = o.cost + EXCLUDED.cost, requests = o.requests + EXCLUDED.requests, calls = o.calls + EXCLUDED.calls,
    second = EXCLUDED.second, provider = coalesce(EXCLUDED.provider, o.provider), model = coalesce(EXCLUDED.model, o.model),
    state = CASE WHEN EXCLUDED.state = 'sent' THEN 'sent' ELSE o.state END, expires_at = EXCLUDED.expires_at
  WHERE o.api_key_id = EXCLUDED.api_key_id;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'scopefloor: the hold is another key''s' USING ERRCODE = 'insufficient_privilege';
  END IF;
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
  most_tokens bigint; -- with a raise that is on
  most_cost numeric;
BEGIN
  FOR n IN 1..cardinality(own) LOOP
    b := bs[own[n]];
    w := ws[own[n]];
    CONTINUE WHEN b.mode <> 'hard';
    most_tokens := b.token_limit + CASE WHEN b.more_until > now_at THEN b.more_tokens ELSE 0 END;
    most_cost := b.cost_limit + CASE WHEN b.more_until > now_at THEN b.more_cost ELSE 0 END;
    found := CASE
      WHEN tokens > 0 AND w.used_tokens + w.held_tokens + tokens > most_tokens
        THEN jsonb_build_object('limit', 'tokens', 'isTooLarge', tokens > most_tokens, 'inFlight', w.used_tokens + tokens <= most_tokens)
      -- What has no price cannot be within one.
      WHEN cost IS NULL AND b.cost_limit IS NOT NULL THEN '{"limit": "price", "inFlight": false}'
      WHEN cost > 0 AND w.used_cost + w.held_cost + cost > most_cost
        THEN jsonb_build_object('limit', 'cost', 'isTooLarge', cost > most_cost, 'inFlight', w.used_cost + cost <= most_cost)
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
    'limit', short->'limit', 'isTooLarge', coalesce((short->>'isTooLarge')::bool, false), 'inFlight', (short->>'inFlight')::bool, 'settleable', CASE WHEN (short->>'inFlight')::bool THEN b.id END,
    'resetsAt', scopefloor.rfc3339(scopefloor.period_end(b.period, b.timezone, period_starts)),
    'budget', (SELECT scopefloor.budget_answer(b) FROM scopefloor.scope s WHERE s.id = b.scope_id AND s.tags @> floor)) END;
END $$;

-- Holds what a job's next call may use, at the scope of its ticket: an answer of hold_calls. A call to a provider has
-- a row in any case, so that what it used is known where the job is gone when it comes back (record_lost_call).
CREATE OR REPLACE FUNCTION scopefloor.hold_for_job(call jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
  answer jsonb;
BEGIN
  call := call || jsonb_build_object('calls', 0, 'requests', 0);
  PERFORM scopefloor.check_calls(jsonb_build_array(call), ttl_seconds);
  call := call || jsonb_build_object(
    'key', t->'key', 'floor', t->'floor', 'scope', t->'write', 'tenant', t->'tenant',
    'limits', (SELECT coalesce(jsonb_agg(l.id), '[]') FROM scopefloor.rates_above(t->'target', (t->>'key')::uuid) l),
    'budgets', scopefloor.windows_for(NULL, t->'target'));
  answer := scopefloor.hold_placed(jsonb_build_array(call), ttl_seconds)->0;
  IF answer->>'status' = 'none' AND (call->>'isSent')::bool THEN
    PERFORM scopefloor.keep_hold(call, (call->>'input')::bigint + (call->>'output')::bigint + (call->>'embedding')::bigint, 0, '{}', '{}', '{}', 0, clock_timestamp() + make_interval(secs => ttl_seconds));
  END IF;
  RETURN answer;
END $$;
