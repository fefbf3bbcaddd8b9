-- What a write needs beyond inserting rows through the builder: places in a session, and answers
-- that are given once.

-- Takes the next n places in the ticket's session or in one this key has just made in its scope.
-- A definer function because a key that may write but not read cannot use RETURNING. NULL: the
-- session is not among those, or it was closed meanwhile.
CREATE FUNCTION scopefloor.reserve_turns(in_session uuid, n int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  first int;
BEGIN
  IF t IS NULL OR t->>'write' IS NULL OR n NOT BETWEEN 1 AND 500 THEN
    RAISE EXCEPTION 'scopefloor: no write ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  UPDATE scopefloor.session s SET next_seq = s.next_seq + n
  WHERE s.scope_id = (t->>'write')::int AND s.id = in_session
    AND (t->>'principal' <> 'agent' OR s.api_key_id = (t->>'key')::uuid) AND s.closed_at IS NULL
  RETURNING s.next_seq - n INTO first;
  RETURN first;
END $$;
--> statement-breakpoint
-- Idempotency. A claim inserts the row first and so waits for a transaction that holds the same
-- key; the answer is filled in before the commit that makes the work itself durable. So a crash
-- leaves either both or neither.
--   {status: new} | {status: replay, answer} | {status: conflict}
CREATE FUNCTION scopefloor.claim_idempotency(at_endpoint text, with_key text, with_body bytea, for_recall bool) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  caller uuid := (t->>'key')::uuid;
  earlier scopefloor.idempotency;
BEGIN
  IF caller IS NULL THEN
    RAISE EXCEPTION 'scopefloor: no ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF for_recall THEN
    -- A forget drops stored answers wherever they stand: it must not pass one that is not yet committed.
    PERFORM pg_advisory_xact_lock_shared(7700, 2);
  END IF;
  -- Waits 10 s for the first one, whatever else a statement may take.
  PERFORM set_config('lock_timeout', '10s', true);
  DELETE FROM scopefloor.idempotency i
  WHERE i.api_key_id = caller AND i.endpoint = at_endpoint AND i.key = with_key AND i.created_at < now() - interval '24 hours';
  INSERT INTO scopefloor.idempotency (scope_id, api_key_id, endpoint, key, body_hash, recalled)
  VALUES ((t->'trace'->>'id')::int, caller, at_endpoint, with_key, with_body, for_recall)
  ON CONFLICT DO NOTHING;
  IF FOUND THEN
    RETURN '{"status": "new"}';
  END IF;
  SELECT * INTO earlier FROM scopefloor.idempotency i WHERE i.api_key_id = caller AND i.endpoint = at_endpoint AND i.key = with_key;
  IF earlier.body_hash = with_body AND earlier.answer IS NOT NULL THEN
    RETURN jsonb_build_object('status', 'replay', 'answer', earlier.answer);
  END IF;
  RETURN jsonb_build_object('status', 'conflict', 'sameBody', earlier.body_hash IS NOT DISTINCT FROM with_body);
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.store_answer(at_endpoint text, with_key text, stored jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Only the row that this transaction claimed: its answer is still empty.
  UPDATE scopefloor.idempotency i SET answer = stored
  WHERE i.api_key_id = scopefloor.caller() AND i.endpoint = at_endpoint AND i.key = with_key AND i.answer IS NULL
    AND i.created_at = transaction_timestamp();
END $$;
--> statement-breakpoint
-- The answer stored for exactly this request; NULL where there is none. A retry gets it even where
-- the same work would be refused by now (its session closed, its scope deleted).
CREATE FUNCTION scopefloor.stored_answer(at_endpoint text, with_key text, with_body bytea) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT i.answer FROM scopefloor.idempotency i
  WHERE i.api_key_id = scopefloor.caller() AND i.endpoint = at_endpoint AND i.key = with_key AND i.body_hash = with_body
    AND i.created_at > now() - interval '24 hours'
$$;
