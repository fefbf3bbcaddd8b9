-- What a forget needs beyond deleting rows through the builder.

-- Takes the text out of the traces and denials of the ticket's subtree, drops its stored answers
-- and replaces the tags of its scopes by an erased marker. The numbers stay, for billing.
-- A scope that is the floor of a live key keeps its tags: that key still names it.
-- Gives the counts by table.
CREATE FUNCTION scopefloor.retire_scopes() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  erased jsonb := t->'target';
  ids int[];
  gone int[];
  traces int;
  answers int;
  denials int;
BEGIN
  IF t IS NULL OR t->>'mode' <> 'erase' THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for erasing' USING ERRCODE = 'insufficient_privilege';
  END IF;
  ids := scopefloor.ids_in(t->'modify');
  UPDATE scopefloor.decision_trace SET query = NULL, sources = NULL, error = NULL
  WHERE scope_id = ANY (ids) AND (query IS NOT NULL OR sources IS NOT NULL OR error IS NOT NULL);
  GET DIAGNOSTICS traces = ROW_COUNT;
  DELETE FROM scopefloor.idempotency WHERE scope_id = ANY (ids);
  GET DIAGNOSTICS answers = ROW_COUNT;
  -- Denials keep who and when; what was asked names the scope.
  UPDATE scopefloor.access_denied SET asked = NULL
  WHERE asked IS NOT NULL AND (scope_id = ANY (ids) OR (erased <> '{}' AND asked @> jsonb_build_array(jsonb_build_object('tags', erased))));
  GET DIAGNOSTICS denials = ROW_COUNT;

  gone := ARRAY(SELECT s.id FROM scopefloor.scope s
    WHERE s.id = ANY (ids) AND s.id <> 0
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = s.id AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
  -- '!' is outside the grammar of dimensions: no request can ever name the marker.
  UPDATE scopefloor.decision_trace SET scope = jsonb_build_object('!erased', scope_id::text) WHERE scope_id = ANY (gone);
  UPDATE scopefloor.access_denied SET floor = jsonb_build_object('!erased', scope_id::text) WHERE scope_id = ANY (gone);
  UPDATE scopefloor.api_key SET floor = jsonb_build_object('!erased', scope_id::text), name = id::text WHERE scope_id = ANY (gone);
  UPDATE scopefloor.forget_receipt SET target = jsonb_build_object('!erased', scope_id::text) WHERE scope_id = ANY (gone);
  UPDATE scopefloor.scope
  SET tags = jsonb_build_object('!erased', id::text), display_name = NULL, description = NULL, erased_at = clock_timestamp()
  WHERE id = ANY (gone);
  -- Receipts that stand elsewhere but name what is gone now.
  UPDATE scopefloor.forget_receipt r SET target = '{"!erased": "later"}'
  WHERE erased <> '{}' AND r.target @> erased AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.tags = r.target);
  INSERT INTO scopefloor.erasure (hash, at) VALUES (scopefloor.scope_hash(erased), clock_timestamp());
  UPDATE scopefloor.scope SET epoch = epoch + 1 WHERE id = ANY (ids);
  RETURN jsonb_build_object('traces', traces, 'idempotency', answers, 'denials', denials, 'scopes', cardinality(gone));
END $$;
--> statement-breakpoint
-- Drops the stored answers that may hold recalled text of the ticket's target: those of every
-- scope that does not contradict it, since views above and beside it can see its rows.
CREATE FUNCTION scopefloor.drop_recalled_answers() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  dropped int;
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  DELETE FROM scopefloor.idempotency i USING scopefloor.scope s
  WHERE i.recalled AND s.id = i.scope_id AND NOT scopefloor.contradicts(s.tags, t->'target');
  GET DIAGNOSTICS dropped = ROW_COUNT;
  RETURN dropped;
END $$;
