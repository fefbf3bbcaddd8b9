-- Limits: what a scope or a key may do a minute, and what a scope may keep. Of all above a call the tightest
-- holds. Rates are looked at where calls are held (3_holds.sql), what is kept when a transaction commits.

-- The limits of rates that a call of this key at these tags is under.
CREATE OR REPLACE FUNCTION scopefloor.rates_above(tags jsonb, of_key uuid) RETURNS SETOF scopefloor.scope_limit
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above jsonb[];
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.limit_rate) THEN
    RETURN;
  END IF;
  above := scopefloor.scopes_between('{}', tags);
  RETURN QUERY SELECT l.* FROM scopefloor.scope_limit l JOIN scopefloor.limit_rate r ON r.scope_id = l.scope_id AND r.limit_id = l.id
    WHERE l.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above))) AND l.key_id IN ('00000000-0000-0000-0000-000000000000', of_key);
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
      ('requests', l.requests_per_minute, l.requests_per_minute - scopefloor.slot_sum(r.requests), scopefloor.seconds_to_room(r.requests, r.second, 0, 0)),
      ('tokens', l.tokens_per_minute, l.tokens_per_minute - scopefloor.slot_sum(r.tokens), scopefloor.seconds_to_room(r.tokens, r.second, 0, 0)),
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

-- A limit as the API gives it, with the present use.
CREATE OR REPLACE FUNCTION scopefloor.limit_answer(l scopefloor.scope_limit) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own_tags jsonb := (SELECT s.tags FROM scopefloor.scope s WHERE s.id = l.scope_id);
  r scopefloor.limit_rate;
  k scopefloor.limit_store;
BEGIN
  SELECT * INTO r FROM scopefloor.limit_rate o WHERE o.scope_id = l.scope_id AND o.limit_id = l.id;
  IF FOUND THEN
    r := scopefloor.advanced_rate(r, extract(epoch FROM clock_timestamp())::bigint);
  END IF;
  SELECT * INTO k FROM scopefloor.limit_store o WHERE o.scope_id = l.scope_id AND o.limit_id = l.id;
  RETURN jsonb_build_object(
    'id', l.id, 'scope', own_tags, 'key', nullif(l.key_id, '00000000-0000-0000-0000-000000000000'),
    'requestsPerMinute', l.requests_per_minute, 'tokensPerMinute', l.tokens_per_minute, 'concurrentRequests', l.concurrent_requests,
    'storageBytes', l.storage_bytes, 'documents', l.documents, 'sessions', l.sessions, 'keys', l.keys, 'scopes', l.scopes,
    'used', jsonb_strip_nulls(jsonb_build_object(
      'requestsPerMinute', CASE WHEN l.requests_per_minute IS NOT NULL THEN scopefloor.slot_sum(r.requests) END,
      'tokensPerMinute', CASE WHEN l.tokens_per_minute IS NOT NULL THEN scopefloor.slot_sum(r.tokens) END,
      'concurrentRequests', CASE WHEN l.concurrent_requests IS NOT NULL THEN r.running END,
      'storageBytes', CASE WHEN l.storage_bytes IS NOT NULL THEN k.bytes END,
      'documents', CASE WHEN l.documents IS NOT NULL THEN k.documents END,
      'sessions', CASE WHEN l.sessions IS NOT NULL THEN k.sessions END,
      'keys', CASE WHEN l.keys IS NOT NULL THEN scopefloor.live_keys(own_tags) END,
      'scopes', CASE WHEN l.scopes IS NOT NULL THEN scopefloor.live_scopes(own_tags) END)),
    'createdAt', scopefloor.rfc3339(l.created_at), 'updatedAt', scopefloor.rfc3339(l.updated_at));
END $$;

-- How many keys there are at a scope and below it that open anything.
CREATE OR REPLACE FUNCTION scopefloor.live_keys(at_tags jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT count(*) FROM scopefloor.scope s JOIN scopefloor.api_key k ON k.scope_id = s.id
          WHERE s.tags @> at_tags AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp()));
END $$;

-- How many scopes there are at a scope and below it.
CREATE OR REPLACE FUNCTION scopefloor.live_scopes(at_tags jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT count(*) FROM scopefloor.scope s WHERE s.tags @> at_tags AND NOT s.tags ? '!erased');
END $$;

-- What the scopes below these tags keep.
CREATE OR REPLACE FUNCTION scopefloor.kept_below(at_tags jsonb, OUT bytes bigint, OUT documents bigint, OUT sessions bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags @> at_tags);
BEGIN
  SELECT coalesce(sum(scopefloor.kept_of(d.content_hash, d.status, d.size_bytes)), 0)::bigint, count(*) INTO bytes, documents FROM scopefloor.document d WHERE d.scope_id = ANY (ids);
  bytes := bytes + coalesce((SELECT sum(c.bytes) FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids)), 0)::bigint;
  SELECT count(*) INTO sessions FROM scopefloor.session s WHERE s.scope_id = ANY (ids);
END $$;

-- What a document's file counts for: as much again as long as its text is not stored yet.
CREATE OR REPLACE FUNCTION scopefloor.kept_of(hash text, of_status text, bytes int) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN hash IS NULL THEN 0 WHEN of_status IN ('ready', 'failed', 'embedding') THEN bytes::bigint ELSE 2 * bytes::bigint END
$$;

-- Sets the limits of the ticket's target, or of a key whose floor is in it: {status: ok, limit}, or {status, detail}.
-- What is kept already counts; where that is more, nothing is lost and nothing comes in.
CREATE OR REPLACE FUNCTION scopefloor.set_limit(new_id uuid, of_key uuid, given jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_tags jsonb := t->'target';
  limited_key constant uuid := coalesce(of_key, '00000000-0000-0000-0000-000000000000');
  at_scope scopefloor.scope;
  l scopefloor.scope_limit;
  kept record;
BEGIN
  IF of_key IS NOT NULL THEN
    SELECT k.floor INTO at_tags FROM scopefloor.api_key k WHERE k.id = of_key AND k.revoked_at IS NULL AND k.floor @> (t->'target');
    IF at_tags IS NULL THEN
      RETURN '{"status": "not-found", "detail": ""}';
    END IF;
  END IF;
  -- Alone: no writer is under way whose rows would be counted neither now nor when it commits.
  PERFORM scopefloor.hold_scope(at_tags, at_tags, t->'floor');
  at_scope := scopefloor.ensure_scope(at_tags);
  SELECT * INTO l FROM scopefloor.scope_limit o WHERE o.scope_id = at_scope.id AND o.key_id = limited_key;
  IF l.id IS NOT NULL AND NOT l.set_by @> (t->'floor') THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key above this one has set these limits');
  END IF;
  INSERT INTO scopefloor.scope_limit AS o (tenant_id, scope_id, id, key_id, requests_per_minute, tokens_per_minute, concurrent_requests,
                                           storage_bytes, documents, sessions, keys, scopes, set_by, api_key_id)
  VALUES (at_scope.tenant_id, at_scope.id, new_id, limited_key, (given->>'requestsPerMinute')::bigint, (given->>'tokensPerMinute')::bigint, (given->>'concurrentRequests')::bigint,
          (given->>'storageBytes')::bigint, (given->>'documents')::bigint, (given->>'sessions')::bigint, (given->>'keys')::bigint, (given->>'scopes')::bigint, t->'floor', (t->>'key')::uuid)
  ON CONFLICT ON CONSTRAINT scope_limit_of DO UPDATE SET
    requests_per_minute = EXCLUDED.requests_per_minute, tokens_per_minute = EXCLUDED.tokens_per_minute, concurrent_requests = EXCLUDED.concurrent_requests,
    storage_bytes = EXCLUDED.storage_bytes, documents = EXCLUDED.documents, sessions = EXCLUDED.sessions, keys = EXCLUDED.keys, scopes = EXCLUDED.scopes,
    set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp()
  RETURNING * INTO l;
  IF coalesce(l.requests_per_minute, l.tokens_per_minute, l.concurrent_requests) IS NULL THEN
    DELETE FROM scopefloor.limit_rate r WHERE r.scope_id = l.scope_id AND r.limit_id = l.id;
  ELSE
    INSERT INTO scopefloor.limit_rate (tenant_id, scope_id, limit_id, second, requests, tokens)
    VALUES (l.tenant_id, l.scope_id, l.id, extract(epoch FROM clock_timestamp())::bigint, array_fill(0::bigint, ARRAY[61]), array_fill(0::bigint, ARRAY[61]))
    ON CONFLICT DO NOTHING;
  END IF;
  IF coalesce(l.storage_bytes, l.documents, l.sessions) IS NULL THEN
    DELETE FROM scopefloor.limit_store k WHERE k.scope_id = l.scope_id AND k.limit_id = l.id;
  ELSIF NOT EXISTS (SELECT 1 FROM scopefloor.limit_store k WHERE k.scope_id = l.scope_id AND k.limit_id = l.id) THEN
    kept := scopefloor.kept_below(at_tags);
    INSERT INTO scopefloor.limit_store (tenant_id, scope_id, limit_id, bytes, documents, sessions)
    VALUES (l.tenant_id, l.scope_id, l.id, kept.bytes, kept.documents, kept.sessions);
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'limit', scopefloor.limit_answer(l));
END $$;

-- The limits at the ticket's target and below, by page: {total, limits}.
CREATE OR REPLACE FUNCTION scopefloor.list_limits(most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for limits' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (SELECT l FROM scopefloor.scope_limit l WHERE ids IS NULL OR l.scope_id = ANY (ids)),
          shown AS (SELECT f.l FROM found f ORDER BY (f.l).scope_id, (f.l).key_id LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'limits', coalesce((SELECT jsonb_agg(scopefloor.limit_answer(s.l)) FROM shown s), '[]')));
END $$;

-- Takes the limits of the ticket's target, or of a key in it, away: how many; -1: a key above has set them.
CREATE OR REPLACE FUNCTION scopefloor.drop_limit(of_key uuid) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  found scopefloor.scope_limit;
BEGIN
  SELECT l.* INTO found FROM scopefloor.scope_limit l JOIN scopefloor.scope s ON s.id = l.scope_id
  WHERE CASE WHEN of_key IS NULL THEN s.tags = t->'target' AND l.key_id = '00000000-0000-0000-0000-000000000000'
             ELSE s.tags @> (t->'target') AND l.key_id = of_key END;
  IF found.id IS NULL THEN
    RETURN 0;
  END IF;
  IF NOT found.set_by @> (t->'floor') THEN
    RETURN -1;
  END IF;
  DELETE FROM scopefloor.scope_limit l WHERE l.scope_id = found.scope_id AND l.id = found.id;
  RETURN 1;
END $$;

-- Notes a change of what a scope keeps, where anybody's is limited at all; it is looked at when the
-- transaction commits.
CREATE OR REPLACE FUNCTION scopefloor.note_stored(of_tenant int, at_scope int, more_bytes bigint, more_documents bigint, more_sessions bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (more_bytes, more_documents, more_sessions) <> (0, 0, 0) AND EXISTS (SELECT 1 FROM scopefloor.limit_store) THEN
    INSERT INTO scopefloor.stored_change (tenant_id, scope_id, bytes, documents, sessions) VALUES (of_tenant, at_scope, more_bytes, more_documents, more_sessions);
  END IF;
END $$;

-- Trigger of statements on documents and sessions.
CREATE OR REPLACE FUNCTION scopefloor.note_kept() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.limit_store) THEN
    RETURN NULL;
  END IF;
  IF TG_ARGV[0] = 'session' AND TG_OP = 'INSERT' THEN
    PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, 0, 0, count(*)) FROM added a GROUP BY a.tenant_id, a.scope_id;
  ELSIF TG_ARGV[0] = 'session' THEN
    PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, 0, 0, -count(*)) FROM removed r GROUP BY r.tenant_id, r.scope_id;
  ELSIF TG_OP = 'INSERT' THEN
    PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(scopefloor.kept_of(a.content_hash, a.status, a.size_bytes))::bigint, count(*), 0) FROM added a GROUP BY a.tenant_id, a.scope_id;
  ELSIF TG_OP = 'DELETE' THEN
    PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, -sum(scopefloor.kept_of(r.content_hash, r.status, r.size_bytes))::bigint, -count(*), 0) FROM removed r GROUP BY r.tenant_id, r.scope_id;
  ELSE
    PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(scopefloor.kept_of(a.content_hash, a.status, a.size_bytes) - scopefloor.kept_of(r.content_hash, r.status, r.size_bytes))::bigint, 0, 0)
    FROM added a JOIN removed r ON r.scope_id = a.scope_id AND r.id = a.id GROUP BY a.tenant_id, a.scope_id;
  END IF;
  RETURN NULL;
END $$;

-- Trigger at the end of a transaction: adds what it stored to every limit above, one transaction after the other, and
-- undoes all of it where one is exceeded.
CREATE OR REPLACE FUNCTION scopefloor.apply_stored() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above int[];
  change record;
  l scopefloor.scope_limit;
  exceeded text;
BEGIN
  SELECT sum(c.bytes)::bigint AS bytes, sum(c.documents)::bigint AS documents, sum(c.sessions)::bigint AS sessions, count(*) AS n INTO change
  FROM scopefloor.stored_change c WHERE c.scope_id = NEW.scope_id;
  IF change.n = 0 THEN -- the first of this scope's has taken the others along
    RETURN NULL;
  END IF;
  DELETE FROM scopefloor.stored_change c WHERE c.scope_id = NEW.scope_id;
  above := ARRAY(SELECT s.id FROM scopefloor.scope s
                 WHERE s.tags = ANY (scopefloor.scopes_between('{}', (SELECT o.tags - '!erased' FROM scopefloor.scope o WHERE o.id = NEW.scope_id))));
  FOR l IN
    SELECT o.* FROM scopefloor.scope_limit o JOIN scopefloor.scope s ON s.id = o.scope_id
    WHERE o.scope_id = ANY (above) ORDER BY scopefloor.tag_count(s.tags) DESC, o.id
  LOOP
    UPDATE scopefloor.limit_store k SET bytes = k.bytes + change.bytes, documents = k.documents + change.documents, sessions = k.sessions + change.sessions
    WHERE k.scope_id = l.scope_id AND k.limit_id = l.id
    RETURNING CASE WHEN change.bytes > 0 AND k.bytes > l.storage_bytes THEN 'storageBytes' WHEN change.documents > 0 AND k.documents > l.documents THEN 'documents'
                   WHEN change.sessions > 0 AND k.sessions > l.sessions THEN 'sessions' END INTO exceeded;
    IF FOUND AND exceeded IS NOT NULL THEN
      RAISE EXCEPTION '%', exceeded USING ERRCODE = 'SF507';
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- Refuses one more key or scope at these tags where a limit above is reached. Of two at once, one after the other.
CREATE OR REPLACE FUNCTION scopefloor.check_room(for_what text, at_tags jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l record;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.scope_limit) THEN
    RETURN;
  END IF;
  FOR l IN
    SELECT o.scope_id, o.id, s.tags, CASE for_what WHEN 'keys' THEN o.keys ELSE o.scopes END AS most
    FROM scopefloor.scope_limit o JOIN scopefloor.scope s ON s.id = o.scope_id
    WHERE s.tags = ANY (scopefloor.scopes_between('{}', at_tags)) AND CASE for_what WHEN 'keys' THEN o.keys ELSE o.scopes END IS NOT NULL
    ORDER BY scopefloor.tag_count(s.tags) DESC, o.id
  LOOP
    PERFORM 1 FROM scopefloor.scope_limit o WHERE o.scope_id = l.scope_id AND o.id = l.id FOR UPDATE;
    IF (CASE for_what WHEN 'keys' THEN scopefloor.live_keys(l.tags) ELSE scopefloor.live_scopes(l.tags) END) >= l.most THEN
      RAISE EXCEPTION '%', for_what USING ERRCODE = 'SF507';
    END IF;
  END LOOP;
END $$;
