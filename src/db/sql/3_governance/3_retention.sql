-- Retention: how long what a scope holds stays. Of the rules for a kind and an action the narrowest above a scope
-- decides, of several as narrow each; one that is a maximum holds for all below it whatever a narrower one says.

CREATE OR REPLACE FUNCTION scopefloor.retention_answer(r scopefloor.retention_rule) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', r.id, 'scope', s.tags, 'kind', r.kind, 'olderThan', r.older_than, 'since', r.since, 'action', r.action, 'maximum', r.is_maximum,
                            'nextRun', scopefloor.rfc3339(r.next_run), 'createdAt', scopefloor.rfc3339(r.created_at), 'updatedAt', scopefloor.rfc3339(r.updated_at))
  FROM scopefloor.scope s WHERE s.id = r.scope_id
$$;

-- Whether traces would lose their text before a rule or a schedule by the last use needs it: a given one, at a scope,
-- beside what is set above and below. with_rules says what that is looked for: those for traces, or those by the last use.
CREATE OR REPLACE FUNCTION scopefloor.conflicts_with_traces(at_scope scopefloor.scope, with_rules text, duration interval) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.retention_rule r JOIN scopefloor.scope s ON s.id = r.scope_id
    WHERE r.tenant_id IN (at_scope.tenant_id, 0) AND (s.tags @> at_scope.tags OR at_scope.tags @> s.tags)
      AND CASE with_rules WHEN 'traces' THEN r.kind = 'traces' AND r.older_than::interval < duration ELSE r.since = 'lastUsed' AND r.older_than::interval > duration END)
    OR with_rules = 'lastUsed' AND EXISTS (SELECT 1 FROM scopefloor.forget_schedule f JOIN scopefloor.scope s ON s.id = f.scope_id
    WHERE f.tenant_id IN (at_scope.tenant_id, 0) AND (s.tags @> at_scope.tags OR at_scope.tags @> s.tags)
      AND f.selector->>'since' = 'lastUsed' AND (f.selector->>'olderThan')::interval > duration)
$$;

-- What is answered then.
CREATE OR REPLACE FUNCTION scopefloor.needs_traces() RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT '{"status": "conflict", "detail": "by its last use nothing can be kept for longer than traces keep their text: give traces as long, or use since: created"}'::jsonb
$$;

-- Sets rules of the ticket's target: [{id, kind, olderThan, since, action, maximum}], of which there is one for each
-- kind, action and maximum. {status: ok, rules}, or {status, detail} and then none.
CREATE OR REPLACE FUNCTION scopefloor.set_retention(given jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  one jsonb;
  r scopefloor.retention_rule;
  rules jsonb := '[]';
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
  FOR one IN SELECT jsonb_array_elements(given) LOOP
    IF (one->>'olderThan')::interval NOT BETWEEN interval '1 second' AND interval '101 years' THEN
      RAISE EXCEPTION 'scopefloor: not a duration' USING ERRCODE = 'check_violation';
    END IF;
    -- When something was last used its traces say, as long as they have their text.
    IF one->>'since' = 'lastUsed' AND scopefloor.conflicts_with_traces(at_scope, 'traces', (one->>'olderThan')::interval)
       OR one->>'kind' = 'traces' AND scopefloor.conflicts_with_traces(at_scope, 'lastUsed', (one->>'olderThan')::interval) THEN
      RETURN scopefloor.needs_traces();
    END IF;
    SELECT * INTO r FROM scopefloor.retention_rule o
    WHERE o.scope_id = at_scope.id AND o.kind = one->>'kind' AND o.action = one->>'action' AND o.is_maximum = (one->>'maximum')::bool;
    IF r.id IS NOT NULL AND NOT r.set_by @> (t->'floor') THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', format('a key above this one has set the rule for %s', one->>'kind'));
    END IF;
    INSERT INTO scopefloor.retention_rule AS o (tenant_id, scope_id, id, kind, older_than, since, action, is_maximum, set_by, api_key_id)
    VALUES (at_scope.tenant_id, at_scope.id, (one->>'id')::uuid, one->>'kind', one->>'olderThan', one->>'since', one->>'action', (one->>'maximum')::bool, t->'floor', (t->>'key')::uuid)
    ON CONFLICT (scope_id, kind, action, is_maximum, tenant_id) DO UPDATE
    SET older_than = EXCLUDED.older_than, since = EXCLUDED.since, set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id,
        next_run = clock_timestamp(), updated_at = clock_timestamp()
    RETURNING * INTO r;
    rules := rules || jsonb_build_array(scopefloor.retention_answer(r));
  END LOOP;
  RETURN jsonb_build_object('status', 'ok', 'rules', rules);
END $$;

-- The rules of the ticket's target and below, by page: {total, rules}.
CREATE OR REPLACE FUNCTION scopefloor.list_retention(most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids int[];
BEGIN
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (SELECT r FROM scopefloor.retention_rule r WHERE ids IS NULL OR r.scope_id = ANY (ids)),
          shown AS (SELECT f.r FROM found f ORDER BY (f.r).scope_id, (f.r).kind, (f.r).action, (f.r).is_maximum LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'rules', coalesce((SELECT jsonb_agg(scopefloor.retention_answer(s.r)) FROM shown s), '[]')));
END $$;

-- The rules in force at the ticket's target, whichever scope they are of: those that decide there, and maxima.
CREATE OR REPLACE FUNCTION scopefloor.effective_retention() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  above jsonb[] := scopefloor.scopes_between('{}', t->'target');
BEGIN
  RETURN (
    SELECT coalesce(jsonb_agg(scopefloor.retention_answer(r) ORDER BY r.kind, r.action, r.is_maximum, r.scope_id), '[]')
    FROM scopefloor.retention_rule r JOIN scopefloor.scope s ON s.id = r.scope_id
    WHERE s.tags = ANY (above) AND (r.is_maximum OR NOT EXISTS (
      SELECT 1 FROM scopefloor.retention_rule o JOIN scopefloor.scope x ON x.id = o.scope_id
      WHERE x.tags = ANY (above) AND o.kind = r.kind AND o.action = r.action AND NOT o.is_maximum AND scopefloor.tag_count(x.tags) > scopefloor.tag_count(s.tags))));
END $$;

-- Takes rules of the ticket's target away, by kind (null: every one) and action (null: both): {status: ok}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.drop_retention(kinds text[], of_action text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids uuid[];
  at_scope int;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  SELECT s.id INTO at_scope FROM scopefloor.scope s WHERE s.tags = t->'target';
  ids := ARRAY(SELECT r.id FROM scopefloor.retention_rule r
    WHERE r.scope_id = at_scope AND (kinds IS NULL OR r.kind = ANY (kinds)) AND (of_action IS NULL OR r.action = of_action) FOR UPDATE);
  IF EXISTS (SELECT 1 FROM scopefloor.retention_rule r WHERE r.scope_id = at_scope AND r.id = ANY (ids) AND NOT r.set_by @> (t->'floor')) THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has set one of these rules"}';
  END IF;
  DELETE FROM scopefloor.retention_rule r WHERE r.scope_id = at_scope AND r.id = ANY (ids);
  RETURN jsonb_build_object('status', CASE cardinality(ids) WHEN 0 THEN 'not-found' ELSE 'ok' END, 'detail', '');
END $$;

-- Of the scopes behind `after`, by their ids, the next ones that a rule decides for, without those that are held as a whole.
CREATE OR REPLACE FUNCTION scopefloor.governed_scopes(r scopefloor.retention_rule, after int, most int) RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own jsonb := (SELECT s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id);
BEGIN
  RETURN ARRAY(
    SELECT s.id FROM scopefloor.scope s
    WHERE s.id > after AND (own = '{}' OR s.tags @> own) AND s.erased_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = s.tenant_id AND x.state <> 'active')
      AND (r.is_maximum OR NOT EXISTS (
        SELECT 1 FROM scopefloor.retention_rule o JOIN scopefloor.scope x ON x.id = o.scope_id
        WHERE o.tenant_id IN (s.tenant_id, 0) AND o.kind = r.kind AND o.action = r.action AND NOT o.is_maximum
          AND s.tags @> x.tags AND scopefloor.tag_count(x.tags) > scopefloor.tag_count(own)))
      AND NOT EXISTS (SELECT 1 FROM scopefloor.holds_above(s.tags) h WHERE h.subject IS NULL AND h.document_id IS NULL)
    ORDER BY s.id LIMIT most);
END $$;

-- Orders a run for each rule whose time has come, `most` at a time; gives how many. How often a rule is looked at
-- follows from its duration: 24 times in it, at most once a minute and at least once a day.
CREATE OR REPLACE FUNCTION scopefloor.order_retention(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  r scopefloor.retention_rule;
  ordered int := 0;
BEGIN
  PERFORM scopefloor.sweep_runs();
  FOR r IN SELECT * FROM scopefloor.retention_rule o WHERE o.next_run <= clock_timestamp()
      -- Of one that is suspended nothing is lost.
      AND NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = o.tenant_id AND x.state <> 'active') ORDER BY o.next_run LIMIT most FOR UPDATE SKIP LOCKED LOOP
    UPDATE scopefloor.retention_rule o
    SET next_run = clock_timestamp() + least(greatest(r.older_than::interval / 24, interval '1 minute'), interval '1 day')
    WHERE o.scope_id = r.scope_id AND o.id = r.id;
    -- One that is still at it goes on.
    CONTINUE WHEN EXISTS (SELECT 1 FROM scopefloor.forget_run x WHERE x.scope_id = r.scope_id AND x.rule_id = r.id AND x.state IN ('queued', 'running'));
    PERFORM scopefloor.order_run(r.scope_id, 'retention', r.id, r.next_run, r.set_by, r.api_key_id, r.action, true, false,
      jsonb_build_object('kinds', jsonb_build_array(r.kind), 'since', r.since, 'before', scopefloor.rfc3339(clock_timestamp() - r.older_than::interval)));
    ordered := ordered + 1;
  END LOOP;
  RETURN ordered;
END $$;
