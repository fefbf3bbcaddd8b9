-- Answers that are given once. A claim inserts the row first and so waits for a transaction that holds
-- the same idempotency key; the answer is filled in before the commit that makes the work itself
-- durable. So a crash leaves either both or neither.
--
-- A row stands at the scope of its request's trace. It holds no text of turns, facts and items: what an
-- answer says of them is told again from the request, and `row_ids` names them. Once one is gone, the
-- request is neither answered nor done again: what was forgotten does not come back by a retry. An answer
-- that names no rows is emptied by any forget at its scope (drop_cached_answers).

-- Whether each of these turns, facts and keyed items is still at this scope: neither deleted nor expired.
CREATE OR REPLACE FUNCTION scopefloor.rows_are_there(at_scope int, row_ids uuid[]) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN NOT EXISTS (
    SELECT 1 FROM unnest(row_ids) wanted WHERE NOT EXISTS (
      SELECT 1 FROM scopefloor.turn t WHERE t.scope_id = at_scope AND t.id = wanted AND t.expired_at IS NULL
      UNION ALL SELECT 1 FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = wanted AND a.expired_at IS NULL
      UNION ALL SELECT 1 FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = wanted AND r.expired_at IS NULL
      UNION ALL SELECT 1 FROM scopefloor.memory_item m WHERE m.scope_id = at_scope AND m.id = wanted));
END $$;

-- Claims an idempotency key for the ticket's key; waits at most 10 s for another transaction that holds it.
--   {status: new} | {status: replay, answer} | {status: conflict, sameBody}, or
--   {status: gone}: what the same request stored was forgotten since. It is not done again, since it was
--   sent before the forget; with another key it would be a new one.
CREATE OR REPLACE FUNCTION scopefloor.claim_idempotency(at_endpoint text, with_key text, with_body bytea) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  caller uuid := (t->>'key')::uuid;
  earlier scopefloor.idempotency;
BEGIN
  IF caller IS NULL THEN
    RAISE EXCEPTION 'scopefloor: no ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- Waits 10 s for the first one, whatever else a statement may take.
  PERFORM set_config('lock_timeout', '10s', true);
  DELETE FROM scopefloor.idempotency i
  WHERE i.api_key_id = caller AND i.endpoint = at_endpoint AND i.key = with_key
    AND i.created_at < now() - interval '24 hours';
  INSERT INTO scopefloor.idempotency (tenant_id, scope_id, api_key_id, endpoint, key, body_hash)
  VALUES ((t->'trace'->>'tenant')::int, (t->'trace'->>'id')::int, caller, at_endpoint, with_key, with_body)
  ON CONFLICT DO NOTHING;
  IF FOUND THEN
    RETURN '{"status": "new"}';
  END IF;
  SELECT * INTO earlier FROM scopefloor.idempotency i WHERE i.api_key_id = caller AND i.endpoint = at_endpoint AND i.key = with_key;
  -- An answer that is not stored, since it carries a secret, has no list of rows.
  IF earlier.body_hash = with_body AND earlier.row_ids IS NOT NULL
     AND (earlier.answer IS NULL OR NOT scopefloor.rows_are_there(earlier.scope_id, earlier.row_ids)) THEN
    RETURN '{"status": "gone"}';
  END IF;
  IF earlier.body_hash = with_body AND earlier.answer IS NOT NULL THEN
    RETURN jsonb_build_object('status', 'replay', 'answer', earlier.answer);
  END IF;
  RETURN jsonb_build_object('status', 'conflict', 'sameBody', earlier.body_hash IS NOT DISTINCT FROM with_body);
END $$;

-- Only into the row that this transaction claimed: its answer is still empty.
CREATE OR REPLACE FUNCTION scopefloor.store_answer(at_endpoint text, with_key text, stored jsonb, of_rows uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.idempotency i SET answer = stored, row_ids = of_rows
  WHERE i.api_key_id = scopefloor.caller() AND i.endpoint = at_endpoint AND i.key = with_key AND i.answer IS NULL
    AND i.created_at = transaction_timestamp();
END $$;

-- The answer stored for exactly this request; NULL where there is none. A retry gets it even where
-- the same work would be refused by now (its session closed, its scope deleted).
CREATE OR REPLACE FUNCTION scopefloor.stored_answer(at_endpoint text, with_key text, with_body bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT i.answer FROM scopefloor.idempotency i
    WHERE i.api_key_id = scopefloor.caller() AND i.endpoint = at_endpoint AND i.key = with_key AND i.body_hash = with_body
      AND i.created_at > now() - interval '24 hours' AND scopefloor.rows_are_there(i.scope_id, i.row_ids));
END $$;
