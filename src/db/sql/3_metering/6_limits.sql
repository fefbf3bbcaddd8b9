-- Limits: what a scope or a key may do a minute (7_rates.sql), and what a scope may keep (8_kept.sql). Of all
-- above a call the tightest holds.

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
  ELSE
    kept := scopefloor.kept_below(at_tags);
    INSERT INTO scopefloor.limit_store AS o (tenant_id, scope_id, limit_id, bytes, documents, sessions)
    VALUES (l.tenant_id, l.scope_id, l.id, kept.bytes, kept.documents, kept.sessions)
    ON CONFLICT (scope_id, limit_id, tenant_id) DO UPDATE SET bytes = EXCLUDED.bytes, documents = EXCLUDED.documents, sessions = EXCLUDED.sessions;
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
