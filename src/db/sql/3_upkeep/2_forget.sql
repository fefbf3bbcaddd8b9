-- What a forget needs beyond deleting rows through the builder.

-- Its statements go by indexes alone, so that no erasure reads what others have: rows of its own scopes, and
-- those that name one of them and stand elsewhere.

-- Takes what was asked out of refused attempts: they keep who and when, but what was asked names the
-- scope, wherever it was asked from. Gives how many of the target's own; the rest is not the caller's to know.
CREATE OR REPLACE FUNCTION scopefloor.redact_denials(erased jsonb, ids int[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  denials int;
BEGIN
  UPDATE scopefloor.access_denied SET asked = NULL, named = NULL WHERE scope_id = ANY (ids) AND asked IS NOT NULL;
  GET DIAGNOSTICS denials = ROW_COUNT;
  IF erased <> '{}' THEN
    UPDATE scopefloor.access_denied SET asked = NULL, named = NULL WHERE named @> jsonb_build_array(erased);
  END IF;
  RETURN denials;
END $$;

-- Puts the dictionary's markers where records name scopes that are gone.
CREATE OR REPLACE FUNCTION scopefloor.mark_records(erased jsonb, ids int[], gone int[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  UPDATE scopefloor.decision_trace d SET scope = s.tags, elsewhere = false FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- A question about a scope without a row of its own stands at the floor's; its tags go as well, also
  -- where the floor is erased and stays, since a live key has it.
  UPDATE scopefloor.decision_trace d SET scope = s.tags, elsewhere = false FROM scopefloor.scope s
  WHERE s.id = d.scope_id AND d.scope_id = ANY (ids) AND NOT d.scope_id = ANY (gone) AND d.scope <> s.tags;
  IF erased <> '{}' THEN
    UPDATE scopefloor.decision_trace d SET scope = s.tags, elsewhere = false FROM scopefloor.scope s
    WHERE s.id = d.scope_id AND d.elsewhere AND d.scope @> erased;
    -- Receipts that stand elsewhere but name what is gone now.
    UPDATE scopefloor.forget_receipt r SET target = '{"!erased": "later"}'
    WHERE r.target @> erased AND NOT r.scope_id = ANY (gone) AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.tags = r.target);
  END IF;
  UPDATE scopefloor.access_denied d SET floor = s.tags FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- An expired key of an erased scope must not be rotated back to life there.
  UPDATE scopefloor.api_key k
  SET floor = s.tags, name = k.id::text, narrowed_by = NULL, revoked_at = coalesce(k.revoked_at, clock_timestamp()), previous_hash = NULL, previous_until = NULL
  FROM scopefloor.scope s WHERE s.id = k.scope_id AND k.scope_id = ANY (gone);
  UPDATE scopefloor.forget_receipt r SET target = s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id AND r.scope_id = ANY (gone);
  UPDATE scopefloor.forget_run r SET set_by = s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id AND r.scope_id = ANY (gone) AND r.set_by <> '{}';
END $$;

-- Takes the text out of the traces and denials of the ticket's subtree, drops its stored answers
-- and replaces the tags of its scopes by an erased marker. The numbers stay, for billing.
-- A scope that is the floor of a live key keeps its tags: that key still names it. So does one that
-- a budget or a limit is left for.
-- Gives the counts by table.
CREATE OR REPLACE FUNCTION scopefloor.retire_scopes() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  erased jsonb := t->'target';
  above int[]; -- the scopes whose floors may hold the target
  ids int[];
  gone int[];
  unruled int[];
  traces int;
  named int;
  answers int;
  denials int;
  jobs int;
BEGIN
  IF t IS NULL OR t->>'mode' <> 'erase' THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for erasing' USING ERRCODE = 'insufficient_privilege';
  END IF;
  ids := scopefloor.ids_in(t->'modify');
  -- A hold on a whole scope holds its records too.
  IF EXISTS (SELECT 1 FROM scopefloor.legal_hold h WHERE h.scope_id = ANY (ids) AND h.subject IS NULL AND h.document_id IS NULL)
     OR EXISTS (SELECT 1 FROM scopefloor.holds_above(erased) h WHERE h.subject IS NULL AND h.document_id IS NULL) THEN
    PERFORM scopefloor.raise_held();
  END IF;
  UPDATE scopefloor.decision_trace SET query = NULL, sources = NULL, error = NULL
  WHERE scope_id = ANY (ids) AND (query IS NOT NULL OR sources IS NOT NULL OR error IS NOT NULL);
  GET DIAGNOSTICS traces = ROW_COUNT;
  IF erased <> '{}' THEN
    UPDATE scopefloor.decision_trace SET query = NULL, sources = NULL, error = NULL
    WHERE elsewhere AND scope @> erased AND (query IS NOT NULL OR sources IS NOT NULL OR error IS NOT NULL);
    GET DIAGNOSTICS named = ROW_COUNT;
    traces := traces + named;
  END IF;
  -- But for the claim of this very request.
  DELETE FROM scopefloor.idempotency WHERE scope_id = ANY (ids) AND xmin <> pg_current_xact_id()::xid;
  GET DIAGNOSTICS answers = ROW_COUNT;
  -- Work that was ordered; one that is under way finds its job gone and the epoch moved on.
  DELETE FROM scopefloor.job WHERE scope_id = ANY (ids);
  GET DIAGNOSTICS jobs = ROW_COUNT;
  denials := scopefloor.redact_denials(erased, ids);
  -- Runs of what is gone have nothing to do any more.
  UPDATE scopefloor.forget_run r SET state = 'failed', error = 'the scope was erased meanwhile', finished_at = clock_timestamp(), selector = '{}'
  WHERE r.scope_id = ANY (ids) AND r.state IN ('queued', 'running') AND r.id IS DISTINCT FROM (t->>'run')::uuid;
  DELETE FROM scopefloor.erasing e WHERE e.run_id IN (SELECT r.id FROM scopefloor.forget_run r WHERE r.scope_id = ANY (ids));
  UPDATE scopefloor.forget_run r SET selector = r.selector - 'query' - 'labels' WHERE r.scope_id = ANY (ids) AND r.selector ?| ARRAY['query', 'labels'];
  -- Holds of a tenant that leaves reach nothing any more: one that did would have stopped it.
  IF t->>'run' IS NOT NULL AND scopefloor.is_offboarded((t->>'run')::uuid) THEN
    DELETE FROM scopefloor.legal_hold h WHERE h.scope_id = ANY (ids);
  END IF;
  -- Rules that the eraser could take away go with the scope, once no live key is under them; one from above stays,
  -- and so nobody is rid of it. So does what a schedule erases on and on.
  IF t->>'principal' = 'management' AND (t->>'run' IS NULL OR scopefloor.is_offboarded((t->>'run')::uuid)) THEN
    unruled := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.id = ANY (ids)
      AND (EXISTS (SELECT 1 FROM scopefloor.budget b WHERE b.scope_id = s.id) OR EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.scope_id = s.id)
           OR EXISTS (SELECT 1 FROM scopefloor.retention_rule r WHERE r.scope_id = s.id) OR EXISTS (SELECT 1 FROM scopefloor.forget_schedule f WHERE f.scope_id = s.id)
           OR EXISTS (SELECT 1 FROM scopefloor.scope_setting v WHERE v.scope_id = s.id) OR EXISTS (SELECT 1 FROM scopefloor.scope_credential c WHERE c.scope_id = s.id))
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = ANY (ids) AND k.floor @> s.tags AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
    DELETE FROM scopefloor.budget b WHERE b.scope_id = ANY (unruled) AND b.set_by @> (t->'floor');
    DELETE FROM scopefloor.scope_limit l WHERE l.scope_id = ANY (unruled) AND l.set_by @> (t->'floor');
    DELETE FROM scopefloor.retention_rule r WHERE r.scope_id = ANY (unruled) AND r.set_by @> (t->'floor');
    DELETE FROM scopefloor.forget_schedule f WHERE f.scope_id = ANY (unruled) AND f.set_by @> (t->'floor');
    DELETE FROM scopefloor.scope_setting v WHERE v.scope_id = ANY (unruled) AND v.set_by @> (t->'floor');
    DELETE FROM scopefloor.scope_credential c WHERE c.scope_id = ANY (unruled) AND c.set_by @> (t->'floor');
  END IF;
  gone := ARRAY(SELECT s.id FROM scopefloor.scope s
    WHERE s.id = ANY (ids) AND s.id <> 0 AND NOT EXISTS (SELECT 1 FROM scopefloor.budget b WHERE b.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.legal_hold h WHERE h.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.retention_rule r WHERE r.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.forget_schedule f WHERE f.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope_setting v WHERE v.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope_credential c WHERE c.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = s.id AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
  above := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (scopefloor.scopes_between('{}', erased)) AND s.tags <> erased);
  -- '!' is outside the grammar of dimensions: no request can ever name the marker. Beside it stay
  -- the tags of the nearest floor above that is still in use, so that its bill keeps the numbers.
  UPDATE scopefloor.scope s
  SET tags = coalesce((SELECT k.floor FROM scopefloor.api_key k
                       WHERE k.scope_id = ANY (above) AND k.revoked_at IS NULL
                         AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
                       ORDER BY scopefloor.tag_count(k.floor) DESC LIMIT 1),
                      -- What a user of a tenant has used stays the tenant's.
                      CASE WHEN s.tags ? 'org' AND erased ? 'org' AND erased <> jsonb_build_object('org', s.tags->'org') THEN jsonb_build_object('org', s.tags->'org') END, '{}') || jsonb_build_object('!erased', s.id::text),
      display_name = NULL, description = NULL, tombstoned_by = NULL, erased_at = clock_timestamp()
  WHERE s.id = ANY (gone);
  PERFORM scopefloor.mark_records(erased, ids, gone);
  -- A tenant's name goes with its root, and its secret with it: one that comes under the same name is another. Who makes a scope
  -- of this tenant holds its row (ensure_tenant): after the wait that scope is seen.
  PERFORM 1 FROM scopefloor.tenant t
  WHERE t.id IN (SELECT s.tenant_id FROM scopefloor.scope s WHERE s.id = ANY (gone)) AND t.id <> 0 ORDER BY t.id FOR UPDATE;
  UPDATE scopefloor.tenant t
  SET left_digest = scopefloor.scope_digest(t.root), root = jsonb_build_object('!erased', t.id::text), name = NULL, template = NULL, state = 'left', leaves_at = NULL,
      secret = sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
  WHERE t.id <> 0 AND EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.id = ANY (gone) AND s.tenant_id = t.id)
    AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.tenant_id = t.id AND s.tags ? 'org');
  INSERT INTO scopefloor.erasure (hash, at) VALUES (scopefloor.scope_hash(erased), clock_timestamp());
  UPDATE scopefloor.scope SET epoch = epoch + 1, display_name = NULL, description = NULL WHERE id = ANY (ids);
  RETURN jsonb_build_object('traces', traces, 'idempotency', answers, 'denials', denials, 'scopes', cardinality(gone), 'jobs', jobs);
END $$;

-- Drops the cached answers that have seen a scope which is being changed, in the transaction that changes
-- it. They hold ids and no text, and none would be given again; but the digest of a question stays no
-- longer than what it found. Stored answers of these scopes that name no row of theirs are emptied: they
-- may be about what goes (a file's hash, a scope's name). The key stays claimed, and its request is not
-- done again (claim_idempotency).
CREATE OR REPLACE FUNCTION scopefloor.drop_cached_answers() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.forget_ticket();
BEGIN
  -- (An erasure deletes them all: retire_scopes.)
  IF t->>'mode' <> 'erase' THEN
    UPDATE scopefloor.idempotency i SET answer = NULL
    WHERE i.scope_id = ANY (scopefloor.ids_in(t->'modify')) AND i.answer IS NOT NULL AND i.row_ids = '{}';
  END IF;
  IF (t->'modify'->>'all')::bool THEN
    DELETE FROM scopefloor.response_cache;
    RETURN;
  END IF;
  -- One that another forget is deleting just now is no reason to wait for it.
  DELETE FROM scopefloor.response_cache r USING (
    SELECT o.scope_id, o.digest FROM scopefloor.response_cache o WHERE o.scope_ids && scopefloor.ids_in(t->'modify') FOR UPDATE SKIP LOCKED) gone
  WHERE r.scope_id = gone.scope_id AND r.digest = gone.digest;
END $$;

-- Records in its own transaction what a forget or a deletion took: `taken` has the ids by kind, `given`
-- the numbers, which are ones that a reader of JSON has too. Whose, where, when and about which scope is the ticket's to say.
CREATE OR REPLACE FUNCTION scopefloor.write_receipt(of_policy text, of_action text, with_subtree bool, given jsonb, taken jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.forget_ticket();
  new_id uuid := gen_random_uuid();
  ids jsonb;
BEGIN
  IF of_action NOT IN ('expire', 'erase') OR (t->>'mode' = 'erase') <> (of_policy = 'scope')
     OR of_policy NOT IN ('scope', 'query', 'session', 'query in a session', 'document', 'entity', 'item', 'memory', 'selection', 'retention', 'schedule')
     OR EXISTS (SELECT 1 FROM jsonb_each(given) n WHERE n.key !~ '^[a-zA-Z_]{1,40}$'
                OR CASE jsonb_typeof(n.value) WHEN 'number' THEN n.value::numeric <> trunc(n.value::numeric) OR n.value::numeric NOT BETWEEN 0 AND 9007199254740991 ELSE true END)
     OR EXISTS (SELECT 1 FROM jsonb_object_keys(taken) kind WHERE kind NOT IN (
       'passages', 'turns', 'facts', 'items', 'contents', 'sessions', 'documents', 'entities', 'sections', 'titles', 'sources')) THEN
    RAISE EXCEPTION 'scopefloor: not a receipt' USING ERRCODE = 'check_violation';
  END IF;
  -- An erasure's target says all of it.
  IF t->>'mode' <> 'erase' THEN
    SELECT coalesce(jsonb_object_agg(k.key, (SELECT jsonb_agg((i.value #>> '{}')::uuid) FROM jsonb_array_elements(k.value) i)), '{}') INTO ids
    FROM jsonb_each(taken) k WHERE k.value <> '[]';
  END IF;
  INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, items, selector, api_key_id)
  VALUES ((t->'trace'->>'tenant')::int, (t->'trace'->>'id')::int, new_id,
          CASE t->>'mode' WHEN 'erase' THEN jsonb_build_object('!digest', scopefloor.scope_digest(t->'target'))
                          WHEN 'forget' THEN t->'target' ELSE t->'trace'->'tags' END,
          with_subtree, of_action, of_policy, given, ids,
          -- What was taken by its age: too much to list, and said in a line. (Labels are words, which it keeps none of; when
          -- something was last used no backup knows.)
          (SELECT r.selector FROM scopefloor.forget_run r WHERE r.id = (t->>'run')::uuid AND of_policy = 'schedule' AND NOT r.selector ?| ARRAY['query', 'labels']
                                                               AND r.selector->>'since' IS DISTINCT FROM 'lastUsed'), (t->>'key')::uuid);
  RETURN new_id;
END $$;
