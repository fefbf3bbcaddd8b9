-- Runs: a forget that takes more than one transaction, done by the worker. Its row says what goes and how far it is,
-- and changes in the transaction of each batch: whoever takes it up after a crash goes on from there, to one receipt.
--
-- A run is one of
--   retention  what a rule decides for and is old enough, scope by scope
--   schedule   what a schedule's selector has (kinds, labels, age: scope by scope; a query: at once), or all of its scope
--   offboard   all of a tenant (8_offboarding.sql)

-- Orders a run at a scope, once for a source and tick; NULL: there is one already.
CREATE OR REPLACE FUNCTION scopefloor.order_run(at_scope int, of_source text, of_rule uuid, at_tick timestamptz, by_floor jsonb, by_key uuid, of_action text,
                                                with_subtree bool, is_dry bool, of_selector jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  new_id uuid := gen_random_uuid();
BEGIN
  INSERT INTO scopefloor.forget_run (tenant_id, scope_id, id, source, rule_id, tick, set_by, api_key_id, action, subtree, dry_run, selector)
  SELECT s.tenant_id, s.id, new_id, of_source, of_rule, at_tick, by_floor, by_key, of_action, with_subtree, is_dry, of_selector
  FROM scopefloor.scope s WHERE s.id = at_scope
  ON CONFLICT (scope_id, rule_id, tick, tenant_id) DO NOTHING;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, run_id, api_key_id, principal, epoch, share_group)
  SELECT s.tenant_id, s.id, gen_random_uuid(), 'forget', new_id, by_key, 'management', s.epoch,
         -- Charged to whom the scope is of: the first tag, whoever set the rule.
         scopefloor.scope_hash(scopefloor.first_tag(s.tags))
  FROM scopefloor.scope s WHERE s.id = at_scope;
  RETURN new_id;
END $$;

-- Whether a scope is being erased: an erasure of it, or of one above, is between two batches.
CREATE OR REPLACE FUNCTION scopefloor.is_being_erased(of_tags jsonb) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT 1 FROM scopefloor.erasing)
    AND EXISTS (SELECT 1 FROM scopefloor.erasing e WHERE e.hash = ANY (ARRAY(SELECT scopefloor.scope_hash(s) FROM unnest(scopefloor.scopes_between('{}', of_tags)) s)));
END $$;

-- The next step of a run that a job has, in a transaction of its own, with a ticket for that step alone:
--   mark    all of its scope is to go: a mark keeps new rows out from now on, and nothing older is under way
--   batch   rows of some scopes, or for a query of all of them
--   end     nothing is left to look for: the receipt, and for an erasure the scope itself
--   {status: ok, run: {…}, …} | {status: again}: there is a next step | {status: gone}
CREATE OR REPLACE FUNCTION scopefloor.enter_run(j scopefloor.job, in_context text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  scopes_at_once int := 200;
  r scopefloor.forget_run;
  s scopefloor.scope;
  traced scopefloor.scope;
  is_whole bool;
  step text;
  here int[];
  reach jsonb;
  mode text := 'forget';
BEGIN
  SELECT * INTO s FROM scopefloor.scope WHERE id = j.scope_id;
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = j.scope_id AND o.id = j.run_id;
  is_whole := r.selector = '{}' AND r.action = 'erase' AND NOT r.dry_run;
  step := CASE WHEN is_whole AND NOT EXISTS (SELECT 1 FROM scopefloor.erasing e WHERE e.run_id = r.id) THEN 'mark' WHEN r.is_swept THEN 'end' ELSE 'batch' END;
  -- The scope's locks before those of rows, as everybody takes them.
  IF is_whole AND step <> 'batch' THEN
    -- Alone, as a forget that is done at once: what began before is over, and lies in what is taken.
    PERFORM scopefloor.hold_scope(s.tags, s.tags, r.set_by);
  ELSE
    PERFORM scopefloor.hold_scope(s.tags);
  END IF;
  SELECT * INTO j FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.id = j.id AND o.lease = j.lease AND o.state = 'running' FOR UPDATE;
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = r.scope_id AND o.id = r.id AND o.state IN ('queued', 'running') FOR UPDATE;
  SELECT * INTO s FROM scopefloor.scope WHERE id = s.id;
  IF j.id IS NULL OR r.id IS NULL OR s.erased_at IS NOT NULL THEN
    DELETE FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.id = j.id;
    RETURN '{"status": "gone"}';
  END IF;
  IF r.state = 'queued' THEN
    UPDATE scopefloor.forget_run o SET state = 'running', started_at = clock_timestamp() WHERE o.scope_id = r.scope_id AND o.id = r.id RETURNING * INTO r;
  END IF;
  IF r.source <> 'offboard' AND EXISTS (SELECT 1 FROM scopefloor.tenant o WHERE o.id = s.tenant_id AND o.state <> 'active') THEN
    -- Of a tenant that is suspended nothing is lost: later.
    UPDATE scopefloor.job o SET state = 'queued', lease = NULL, leased_until = NULL, run_after = clock_timestamp() + interval '1 minute', attempts = 0
    WHERE o.scope_id = j.scope_id AND o.id = j.id;
    RETURN '{"status": "gone"}';
  END IF;
  IF is_whole THEN
    mode := 'erase';
  END IF;
  IF r.is_careful THEN
    scopes_at_once := 1;
  END IF;
  IF step = 'mark' THEN
    IF scopefloor.holds_something(s.tags) THEN
      PERFORM scopefloor.abandon_run(r.scope_id, r.id, 'held', 'a legal hold is in the way; nothing was erased');
      DELETE FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.id = j.id;
      RETURN '{"status": "gone"}';
    END IF;
    IF r.source = 'offboard' THEN
      PERFORM scopefloor.end_tenant(s.tenant_id, r.id, j.id);
    END IF;
    INSERT INTO scopefloor.erasing (hash, run_id) VALUES (scopefloor.scope_hash(s.tags), r.id) ON CONFLICT DO NOTHING;
    -- Jobs of what goes find that they are of an earlier time.
    UPDATE scopefloor.scope o SET epoch = o.epoch + 1 WHERE o.id = s.id OR o.tags @> s.tags;
    RETURN '{"status": "again"}';
  ELSIF step = 'end' OR r.selector ? 'query' THEN
    reach := scopefloor.reach_of(s.tags, CASE WHEN r.subtree THEN '{}' ELSE ARRAY[s.tags] END, CASE WHEN r.subtree THEN ARRAY[s.tags] ELSE '{}' END);
    -- What is forgotten goes by its scopes alone: the name of a tenant may be another's by now.
    IF reach->'trees' <> '[]' THEN
      reach := reach || '{"tenant": null}';
    END IF;
  END IF;
  IF reach IS NULL THEN
    here := CASE
      WHEN r.source = 'retention' THEN (SELECT scopefloor.governed_scopes(o, r.after_scope, scopes_at_once) FROM scopefloor.retention_rule o WHERE o.scope_id = r.scope_id AND o.id = r.rule_id)
      WHEN NOT r.subtree THEN CASE WHEN r.after_scope < s.id THEN ARRAY[s.id] ELSE '{}' END
      ELSE ARRAY(SELECT o.id FROM scopefloor.scope o WHERE o.id > r.after_scope AND (s.tags = '{}' OR o.tags @> s.tags)
                   AND (is_whole OR NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = o.tenant_id AND x.state <> 'active')) ORDER BY o.id LIMIT scopes_at_once) END;
    -- (A rule that was taken away meanwhile decides for nothing.)
    here := coalesce(here, '{}');
    IF here = '{}' THEN
      UPDATE scopefloor.forget_run o SET is_swept = true WHERE o.scope_id = r.scope_id AND o.id = r.id;
      RETURN '{"status": "again"}';
    END IF;
    reach := jsonb_build_object('ids', here, 'trees', '[]'::jsonb, 'all', false,
      'tenant', (SELECT CASE WHEN count(DISTINCT o.tenant_id) = 1 THEN min(o.tenant_id) END FROM scopefloor.scope o WHERE o.id = ANY (here)));
  END IF;
  traced := s;
  IF is_whole THEN
    -- The tags of what is erased go: its trace and its receipt stand where the order came from.
    SELECT * INTO traced FROM scopefloor.scope o WHERE o.tags = r.set_by;
    traced := CASE WHEN traced.id IS NULL THEN (SELECT o FROM scopefloor.scope o WHERE o.id = 0) ELSE traced END;
  END IF;
  PERFORM scopefloor.issue_ticket(jsonb_build_object(
    'key', r.api_key_id, 'principal', 'management', 'verb', 'memory:forget', 'mode', mode, 'verbs', '["memory:forget", "memory:read"]'::jsonb, 'content', true,
    'floor', r.set_by, 'on_behalf_of', NULL, 'target', s.tags, 'read', reach, 'general', false, 'modify', reach, 'write', NULL, 'tenant', NULL,
    'job', j.id, 'run', r.id, 'run_scope', s.id, 'share_group', j.share_group,
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', traced.tags)));
  RETURN jsonb_build_object(
    'status', 'ok', 'key', r.api_key_id, 'principal', 'management', 'onBehalfOf', NULL, 'scopeId', traced.id, 'tenant', traced.tenant_id, 'tags', traced.tags, 'target', s.tags,
    'settings', scopefloor.settings_at(s.tags, in_context), 'credentials', scopefloor.credentials_at(s.tags),
    'read', jsonb_build_object(
      'scopes', coalesce((SELECT jsonb_object_agg(o.id, o.tags) FROM scopefloor.scope o WHERE o.id = ANY (ARRAY(SELECT jsonb_array_elements_text(reach->'ids')::int))), '{}'),
      'trees', reach->'trees', 'tenant', reach->'tenant'),
    'run', jsonb_build_object('id', r.id, 'step', step, 'isWhole', is_whole, 'source', r.source, 'action', r.action, 'subtree', r.subtree, 'dryRun', r.dry_run,
                              'selector', r.selector, 'tick', scopefloor.rfc3339(r.tick), 'counts', r.counts));
END $$;

-- The ticket of a run's transaction.
CREATE OR REPLACE FUNCTION scopefloor.run_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  IF t->>'run' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: not in a run' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- Adds what a batch has taken to the run's counts. `through`: the scopes up to it are done; null: there is more in them. `receipt`: of the batch, where it has one.
CREATE OR REPLACE FUNCTION scopefloor.note_run(taken jsonb, through int, is_all bool, receipt uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
BEGIN
  UPDATE scopefloor.forget_run r
  SET counts = (SELECT coalesce(jsonb_object_agg(k, n), '{}') FROM (
        SELECT k, sum(n) AS n FROM (SELECT key AS k, value::bigint AS n FROM jsonb_each_text(r.counts) UNION ALL SELECT key, value::bigint FROM jsonb_each_text(taken)) u GROUP BY k) c),
      after_scope = greatest(r.after_scope, coalesce(through, 0)), is_swept = r.is_swept OR is_all, receipt_id = coalesce(receipt, r.receipt_id)
  WHERE r.scope_id = (t->>'run_scope')::int AND r.id = (t->>'run')::uuid;
END $$;

-- Ends a run, with its job: done, held (a legal hold was in the way), or failed. Its mark goes with it.
CREATE OR REPLACE FUNCTION scopefloor.end_run(of_state text, receipt uuid, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
  at_scope int := (t->>'run_scope')::int;
BEGIN
  UPDATE scopefloor.forget_run r SET state = of_state, receipt_id = coalesce(receipt, r.receipt_id), error = left(why, 300), finished_at = clock_timestamp(),
    selector = r.selector - 'query'
  WHERE r.scope_id = at_scope AND r.id = (t->>'run')::uuid;
  DELETE FROM scopefloor.erasing e WHERE e.run_id = (t->>'run')::uuid;
  DELETE FROM scopefloor.job j WHERE j.scope_id = at_scope AND j.id = (t->>'job')::uuid;
  -- Rules are looked at often, and most often there is nothing to take.
  DELETE FROM scopefloor.forget_run r WHERE r.scope_id = at_scope AND r.id = (t->>'run')::uuid AND r.source = 'retention' AND of_state = 'done' AND r.receipt_id IS NULL;
END $$;

-- The same for a run whose job is given up. What it has taken by then is on a receipt.
CREATE OR REPLACE FUNCTION scopefloor.abandon_run(at_scope int, of_run uuid, of_state text, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  r scopefloor.forget_run;
  new_id uuid;
BEGIN
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = at_scope AND o.id = of_run AND o.state IN ('queued', 'running') FOR UPDATE;
  IF r.selector <> '{}' AND NOT r.dry_run AND r.receipt_id IS NULL AND EXISTS (SELECT 1 FROM jsonb_each_text(r.counts) n WHERE n.value::bigint > 0) THEN
    new_id := gen_random_uuid();
    INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, api_key_id)
    SELECT s.tenant_id, s.id, new_id, s.tags, r.subtree, r.action, r.source, r.counts, r.api_key_id FROM scopefloor.scope s WHERE s.id = at_scope;
  END IF;
  UPDATE scopefloor.forget_run o SET state = of_state, error = left(why, 300), finished_at = clock_timestamp(), selector = o.selector - 'query', receipt_id = coalesce(new_id, o.receipt_id)
  WHERE o.scope_id = at_scope AND o.id = r.id;
  DELETE FROM scopefloor.erasing e WHERE e.run_id = of_run;
END $$;

-- Up to `most` rows of one kind (turns, facts, items, documents; sessions: those without turns) at the ticket's scopes
-- that are older than `before` and have all the labels. `since` says which time counts: observed (or stored, if that was
-- earlier), created, or lastUsed. Held rows are left out. with_expired: rows that were expired before, too.
CREATE OR REPLACE FUNCTION scopefloor.old_rows(of_kind text, since text, before timestamptz, with_labels text[], with_expired bool, most int) RETURNS TABLE (id uuid, turn_id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.forget_ticket();
  ids int[] := scopefloor.ids_in(t->'modify');
  used uuid[] := '{}';
  any_held bool;
BEGIN
  any_held := EXISTS (SELECT 1 FROM scopefloor.legal_hold) AND EXISTS (
    SELECT 1 FROM scopefloor.scope s, LATERAL scopefloor.holds_above(s.tags) h WHERE s.id = ANY (ids));
  IF since = 'lastUsed' THEN
    used := scopefloor.used_since(ids, before);
  END IF;
  IF of_kind = 'turns' THEN
    RETURN QUERY SELECT p.id, p.turn_id FROM scopefloor.passage p
      WHERE p.scope_id = ANY (ids) AND p.kind = 'turn' AND CASE since WHEN 'observed' THEN least(p.observed_at, p.created_at) ELSE p.created_at END < before
        AND (with_expired OR p.expired_at IS NULL) AND p.labels @> with_labels AND NOT p.id = ANY (used)
        AND NOT (any_held AND (scopefloor.is_row_held('passage', p.scope_id, to_jsonb(p)) OR EXISTS (
          -- What it said before goes with it.
          SELECT 1 FROM scopefloor.turn o WHERE o.scope_id = p.scope_id AND o.corrected_id = p.turn_id AND scopefloor.is_row_held('turn', o.scope_id, to_jsonb(o))))) LIMIT most;
  ELSIF of_kind = 'sessions' THEN
    -- Those that began before, and of which nothing is left. (Of one that has only begun the first is still to come.)
    RETURN QUERY SELECT o.id, NULL::uuid FROM scopefloor.session o
      WHERE o.scope_id = ANY (ids) AND o.created_at < least(before, now() - interval '1 hour') AND NOT EXISTS (SELECT 1 FROM scopefloor.turn x WHERE x.scope_id = o.scope_id AND x.session_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM scopefloor.attribute x WHERE x.scope_id = o.scope_id AND x.session_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM scopefloor.relation x WHERE x.scope_id = o.scope_id AND x.session_id = o.id)
        AND NOT (any_held AND scopefloor.is_row_held('session', o.scope_id, to_jsonb(o))) LIMIT most;
  ELSIF of_kind = 'facts' THEN
    RETURN QUERY SELECT f.id, NULL::uuid FROM (
        SELECT a.id FROM scopefloor.attribute a
        WHERE a.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN least(a.valid_from, a.created_at) ELSE a.created_at END < before
          AND (with_expired OR a.expired_at IS NULL) AND a.labels @> with_labels AND NOT a.id = ANY (used)
          AND NOT (any_held AND scopefloor.is_row_held('attribute', a.scope_id, to_jsonb(a)))
        UNION ALL
        SELECT r.id FROM scopefloor.relation r
        WHERE r.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN least(r.valid_from, r.created_at) ELSE r.created_at END < before
          AND (with_expired OR r.expired_at IS NULL) AND r.labels @> with_labels AND NOT r.id = ANY (used)
          AND NOT (any_held AND scopefloor.is_row_held('relation', r.scope_id, to_jsonb(r)))) f LIMIT most;
  ELSIF of_kind = 'items' THEN
    RETURN QUERY SELECT m.id, NULL::uuid FROM scopefloor.memory_item m
      WHERE m.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN m.updated_at ELSE m.created_at END < before AND with_labels = '{}' AND NOT m.id = ANY (used)
        AND NOT (any_held AND scopefloor.is_row_held('memory_item', m.scope_id, to_jsonb(m))) LIMIT most;
  ELSIF of_kind = 'documents' THEN
    RETURN QUERY SELECT d.id, NULL::uuid FROM scopefloor.document d
      WHERE d.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN least(d.observed_at, d.created_at) ELSE d.created_at END < before AND d.labels @> with_labels
        -- Expired: a document none of whose parts is recalled any more.
        AND (with_expired OR EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = d.scope_id AND p.document_id = d.id AND p.expired_at IS NULL))
        AND NOT (used <> '{}' AND EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = d.scope_id AND p.document_id = d.id AND p.id = ANY (used)))
        AND NOT (any_held AND scopefloor.is_document_held(d)) LIMIT most;
  END IF;
END $$;

-- What answers of recall since a time were made of, where these scopes can be seen: by the traces of their tenants and
-- of those who have no tenant.
CREATE OR REPLACE FUNCTION scopefloor.used_since(ids int[], from_time timestamptz) RETURNS uuid[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT ARRAY(
    SELECT DISTINCT x.id::uuid
    FROM scopefloor.decision_trace d, LATERAL jsonb_array_elements_text(CASE jsonb_typeof(d.sources) WHEN 'array' THEN d.sources ELSE '[]' END) x(id)
    WHERE d.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id IN (SELECT o.tenant_id FROM scopefloor.scope o WHERE o.id = ANY (ids))) || 0)
      AND d.created_at >= from_time AND d.operation IN ('query', 'context', 'documents_query', 'item', 'entities', 'history'))
$$;

-- Takes the text out of records of a run's scopes that are older than a time, `most` of them: of traces the query, the
-- sources and the error; of receipts the ids of what was taken. Numbers stay: bills and the audit chain are made of them.
CREATE OR REPLACE FUNCTION scopefloor.redact_old(of_kind text, before timestamptz, most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
  ids int[] := scopefloor.ids_in(t->'modify');
  taken int;
BEGIN
  IF of_kind = 'traces' THEN
    UPDATE scopefloor.decision_trace d SET query = NULL, sources = NULL, error = NULL, scope = s.tags, elsewhere = false
    FROM (SELECT o.scope_id, o.id, o.created_at FROM scopefloor.decision_trace o
          WHERE o.scope_id = ANY (ids) AND o.created_at < before AND (o.query IS NOT NULL OR o.sources IS NOT NULL OR o.error IS NOT NULL) LIMIT most) old
    JOIN scopefloor.scope s ON s.id = old.scope_id
    WHERE d.scope_id = old.scope_id AND d.id = old.id AND d.created_at = old.created_at;
  ELSE
    UPDATE scopefloor.forget_receipt r SET items = NULL
    FROM (SELECT o.scope_id, o.id FROM scopefloor.forget_receipt o WHERE o.scope_id = ANY (ids) AND o.created_at < before AND o.items IS NOT NULL LIMIT most) old
    WHERE r.scope_id = old.scope_id AND r.id = old.id;
  END IF;
  GET DIAGNOSTICS taken = ROW_COUNT;
  RETURN taken;
END $$;

-- Whether a run takes a tenant away for good: then its rules go too.
CREATE OR REPLACE FUNCTION scopefloor.is_offboarded(of_run uuid) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.forget_run r WHERE r.id = of_run AND r.source = 'offboard')
$$;

-- Ends what a tenant that leaves could still do: its keys, its jobs and its other runs.
CREATE OR REPLACE FUNCTION scopefloor.end_tenant(of_tenant int, but_run uuid, but_job uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id = of_tenant);
BEGIN
  UPDATE scopefloor.api_key k SET revoked_at = coalesce(k.revoked_at, clock_timestamp()), previous_hash = NULL, previous_until = NULL
  WHERE k.tenant_id = of_tenant AND k.revoked_at IS NULL;
  DELETE FROM scopefloor.job j WHERE j.scope_id = ANY (ids) AND j.id <> but_job;
  DELETE FROM scopefloor.erasing e WHERE e.run_id IN (SELECT r.id FROM scopefloor.forget_run r WHERE r.scope_id = ANY (ids) AND r.id <> but_run);
  UPDATE scopefloor.forget_run r SET state = 'failed', error = 'the tenant leaves', finished_at = clock_timestamp(), selector = '{}'
  WHERE r.scope_id = ANY (ids) AND r.id <> but_run AND r.state IN ('queued', 'running');
END $$;

-- What is left of runs that are over: marks, should one have been left, and after a while the runs.
CREATE OR REPLACE FUNCTION scopefloor.sweep_runs() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM scopefloor.erasing e WHERE NOT EXISTS (SELECT 1 FROM scopefloor.forget_run r WHERE r.id = e.run_id AND r.state IN ('queued', 'running'));
  DELETE FROM scopefloor.forget_run r USING (
    SELECT o.scope_id, o.id FROM scopefloor.forget_run o WHERE o.finished_at < now() - interval '90 days' ORDER BY o.finished_at LIMIT 1000) old
  WHERE r.scope_id = old.scope_id AND r.id = old.id
$$;

-- A hold was set after this batch's rows were chosen. The first time, the run goes on with one scope at a time; if it then
-- meets the hold again, it skips that scope.
CREATE OR REPLACE FUNCTION scopefloor.pass_held() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
BEGIN
  UPDATE scopefloor.forget_run r
  SET after_scope = CASE WHEN r.is_careful THEN greatest(r.after_scope, (SELECT max(i) FROM unnest(scopefloor.ids_in(t->'modify')) i)) ELSE r.after_scope END, is_careful = true
  WHERE r.scope_id = (t->>'run_scope')::int AND r.id = (t->>'run')::uuid;
END $$;
