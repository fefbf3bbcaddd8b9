-- Erasing a scope that is the floor of a live key takes the names below it from its traces too.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- Takes the text out of the traces and denials of the ticket's subtree, drops its stored answers
-- and replaces the tags of its scopes by an erased marker. The numbers stay, for billing.
-- A scope that is the floor of a live key keeps its tags: that key still names it.
-- Gives the counts by table.
CREATE OR REPLACE FUNCTION scopefloor.retire_scopes() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  erased jsonb := t->'target';
  ids int[];
  gone int[];
  traces int;
  answers int;
  denials int;
  jobs int;
BEGIN
  IF t IS NULL OR t->>'mode' <> 'erase' THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for erasing' USING ERRCODE = 'insufficient_privilege';
  END IF;
  ids := scopefloor.ids_in(t->'modify');
  UPDATE scopefloor.decision_trace SET query = NULL, sources = NULL, error = NULL
  WHERE (scope_id = ANY (ids) OR (erased <> '{}' AND scope @> erased))
    AND (query IS NOT NULL OR sources IS NOT NULL OR error IS NOT NULL);
  GET DIAGNOSTICS traces = ROW_COUNT;
  -- But for the claim of this very request.
  DELETE FROM scopefloor.idempotency WHERE scope_id = ANY (ids) AND created_at <> transaction_timestamp();
  GET DIAGNOSTICS answers = ROW_COUNT;
  -- Work that was ordered; one that is under way finds its job gone and the epoch moved on.
  DELETE FROM scopefloor.job WHERE scope_id = ANY (ids);
  GET DIAGNOSTICS jobs = ROW_COUNT;
  -- Denials keep who and when; what was asked names the scope, wherever it was asked from. Counted
  -- are the target's own: the rest is not the caller's to know.
  SELECT count(*) INTO denials FROM scopefloor.access_denied WHERE asked IS NOT NULL AND scope_id = ANY (ids);
  UPDATE scopefloor.access_denied SET asked = NULL
  WHERE asked IS NOT NULL AND (scope_id = ANY (ids) OR (erased <> '{}' AND EXISTS (
    SELECT 1 FROM jsonb_array_elements(CASE jsonb_typeof(asked) WHEN 'array' THEN asked ELSE '[]' END) clause
    WHERE access_denied.floor || (clause->'tags') @> erased OR clause->'tags' @> erased)));

  gone := ARRAY(SELECT s.id FROM scopefloor.scope s
    WHERE s.id = ANY (ids) AND s.id <> 0
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = s.id AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
  -- '!' is outside the grammar of dimensions: no request can ever name the marker. Beside it stay
  -- the tags of the nearest floor above that is still in use, so that its bill keeps the numbers.
  UPDATE scopefloor.scope s
  SET tags = coalesce((SELECT k.floor FROM scopefloor.api_key k
                       WHERE erased @> k.floor AND k.floor <> erased AND k.revoked_at IS NULL
                         AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
                       ORDER BY scopefloor.tag_count(k.floor) DESC LIMIT 1), '{}') || jsonb_build_object('!erased', s.id::text),
      display_name = NULL, description = NULL, erased_at = clock_timestamp()
  WHERE s.id = ANY (gone);
  UPDATE scopefloor.decision_trace d SET scope = s.tags FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- A question about a scope without a row of its own stands at the floor's; its tags go as well, also
  -- where the floor is erased and stays, since a live key has it.
  UPDATE scopefloor.decision_trace d SET scope = s.tags FROM scopefloor.scope s
  WHERE s.id = d.scope_id AND (d.scope_id = ANY (ids) OR (erased <> '{}' AND d.scope @> erased)) AND NOT d.scope_id = ANY (gone) AND d.scope <> s.tags;
  UPDATE scopefloor.access_denied d SET floor = s.tags FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- An expired key of an erased scope must not be rotated back to life there.
  UPDATE scopefloor.api_key k
  SET floor = s.tags, name = k.id::text, revoked_at = coalesce(k.revoked_at, clock_timestamp()), previous_hash = NULL, previous_until = NULL
  FROM scopefloor.scope s WHERE s.id = k.scope_id AND k.scope_id = ANY (gone);
  UPDATE scopefloor.forget_receipt r SET target = s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id AND r.scope_id = ANY (gone);
  -- Receipts that stand elsewhere but name what is gone now.
  UPDATE scopefloor.forget_receipt r SET target = '{"!erased": "later"}'
  WHERE erased <> '{}' AND r.target @> erased AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.tags = r.target);
  INSERT INTO scopefloor.erasure (hash, at) VALUES (scopefloor.scope_hash(erased), clock_timestamp());
  UPDATE scopefloor.scope SET epoch = epoch + 1, display_name = NULL, description = NULL WHERE id = ANY (ids);
  RETURN jsonb_build_object('traces', traces, 'idempotency', answers, 'denials', denials, 'scopes', cardinality(gone), 'jobs', jobs);
END $$;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
