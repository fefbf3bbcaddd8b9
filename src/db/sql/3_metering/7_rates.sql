-- Rates of limits: calls and tokens of the last minute, and calls under way. They are looked at where calls are
-- held (3_holds.sql).

-- The limits of rates that a call of this key at these tags is under. What an agent mints is under the agent's too.
CREATE OR REPLACE FUNCTION scopefloor.rates_above(tags jsonb, of_key uuid) RETURNS SETOF scopefloor.scope_limit
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above jsonb[];
  own_line uuid[] := ARRAY[of_key];
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.limit_rate) THEN
    RETURN;
  END IF;
  above := scopefloor.scopes_between('{}', tags);
  IF EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.key_id <> '00000000-0000-0000-0000-000000000000') THEN
    own_line := ARRAY(
      WITH RECURSIVE line AS (
        SELECT k.id, k.parent_id FROM scopefloor.api_key k WHERE k.id = of_key
        UNION ALL SELECT k.id, k.parent_id FROM line c JOIN scopefloor.api_key k ON k.id = c.parent_id AND k.principal = 'agent')
      SELECT c.id FROM line c);
  END IF;
  RETURN QUERY SELECT l.* FROM scopefloor.scope_limit l JOIN scopefloor.limit_rate r ON r.scope_id = l.scope_id AND r.limit_id = l.id
    WHERE l.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above))) AND l.key_id = ANY ('00000000-0000-0000-0000-000000000000'::uuid || own_line);
END $$;

-- A rate as of this second: what is older than a minute is gone.
CREATE OR REPLACE FUNCTION scopefloor.advanced_rate(r scopefloor.limit_rate, now_second bigint) RETURNS scopefloor.limit_rate
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF now_second - r.second > 60 THEN
    r.requests := array_fill(0::bigint, ARRAY[61]);
    r.tokens := r.requests;
  ELSE
    FOR s IN r.second + 1 .. now_second LOOP
      r.requests[s % 61 + 1] := 0;
      r.tokens[s % 61 + 1] := 0;
    END LOOP;
  END IF;
  r.second := greatest(r.second, now_second);
  RETURN r;
END $$;

-- The sum of a list of slots. A minute touches at most 61 seconds, so that no minute has more than that.
CREATE OR REPLACE FUNCTION scopefloor.slot_sum(slots bigint[]) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT sum(s)::bigint FROM unnest(slots) s $$;

-- In how many seconds so much has gone out of the slots that there is room for `more` within `most`.
CREATE OR REPLACE FUNCTION scopefloor.seconds_to_room(slots bigint[], now_second bigint, more bigint, most bigint) RETURNS int
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  left_over bigint := scopefloor.slot_sum(slots);
BEGIN
  FOR d IN 1..61 LOOP
    left_over := left_over - slots[(now_second - 61 + d) % 61 + 1];
    IF left_over + more <= most THEN
      RETURN d;
    END IF;
  END LOOP;
  RETURN 61;
END $$;

-- Which limit a call does not fit in: {rate: requests | tokens | concurrency, at, retryAfter}; NULL: it fits in all.
CREATE OR REPLACE FUNCTION scopefloor.over_rate(ls scopefloor.scope_limit[], rs scopefloor.limit_rate[], own int[], calls bigint, call_tokens bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l scopefloor.scope_limit;
  r scopefloor.limit_rate;
BEGIN
  FOR n IN 1..cardinality(own) LOOP
    l := ls[own[n]];
    r := rs[own[n]];
    IF calls > 0 AND scopefloor.slot_sum(r.requests) + calls > l.requests_per_minute THEN
      RETURN jsonb_build_object('rate', 'requests', 'at', own[n], 'retryAfter', scopefloor.seconds_to_room(r.requests, r.second, calls, l.requests_per_minute));
    ELSIF call_tokens > 0 AND scopefloor.slot_sum(r.tokens) + call_tokens > l.tokens_per_minute THEN
      RETURN jsonb_build_object('rate', 'tokens', 'at', own[n], 'isTooLarge', call_tokens > l.tokens_per_minute,
                                'retryAfter', scopefloor.seconds_to_room(r.tokens, r.second, call_tokens, l.tokens_per_minute));
    ELSIF calls > 0 AND r.running + calls > l.concurrent_requests THEN
      RETURN jsonb_build_object('rate', 'concurrency', 'at', own[n], 'retryAfter', 1);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- What a caller is told of the rates that it is under: of those at its own floor or below, and of its key's own.
-- What is above would tell it how much others do.
CREATE OR REPLACE FUNCTION scopefloor.told_rates(ls scopefloor.scope_limit[], rs scopefloor.limit_rate[], own int[], floor jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  told jsonb := '{}';
  l scopefloor.scope_limit;
  r scopefloor.limit_rate;
  rate record;
BEGIN
  FOR n IN 1..cardinality(own) LOOP
    l := ls[own[n]];
    r := rs[own[n]];
    CONTINUE WHEN NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.id = l.scope_id AND s.tags @> floor);
    FOR rate IN SELECT * FROM (VALUES
      ('requests', l.requests_per_minute, l.requests_per_minute - scopefloor.slot_sum(r.requests), least(60, scopefloor.seconds_to_room(r.requests, r.second, 0, 0))),
      ('tokens', l.tokens_per_minute, l.tokens_per_minute - scopefloor.slot_sum(r.tokens), least(60, scopefloor.seconds_to_room(r.tokens, r.second, 0, 0))),
      ('concurrency', l.concurrent_requests, l.concurrent_requests - r.running, 1)) v(name, most, remaining, reset) WHERE v.most IS NOT NULL
    LOOP
      IF NOT told ? rate.name OR rate.remaining < (told->rate.name->>'remaining')::bigint THEN
        told := told || jsonb_build_object(rate.name, jsonb_build_object('limit', rate.most, 'remaining', greatest(0, rate.remaining), 'reset', rate.reset));
      END IF;
    END LOOP;
  END LOOP;
  RETURN told;
END $$;

-- The rows of these limits, locked in their order and advanced to now; NULL for one that is gone.
CREATE OR REPLACE FUNCTION scopefloor.lock_rates(ls scopefloor.scope_limit[], now_second bigint) RETURNS scopefloor.limit_rate[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rs scopefloor.limit_rate[] := '{}';
  r scopefloor.limit_rate;
BEGIN
  FOR i IN 1..cardinality(ls) LOOP
    SELECT * INTO r FROM scopefloor.limit_rate o WHERE o.scope_id = (ls[i]).scope_id AND o.limit_id = (ls[i]).id FOR UPDATE;
    rs[i] := CASE WHEN FOUND THEN scopefloor.advanced_rate(r, now_second) END;
  END LOOP;
  RETURN rs;
END $$;

CREATE OR REPLACE FUNCTION scopefloor.write_rates(rs scopefloor.limit_rate[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR i IN 1..cardinality(rs) LOOP
    UPDATE scopefloor.limit_rate r SET second = (rs[i]).second, requests = (rs[i]).requests, tokens = (rs[i]).tokens, running = (rs[i]).running
    WHERE r.scope_id = (rs[i]).scope_id AND r.limit_id = (rs[i]).limit_id;
  END LOOP;
END $$;
