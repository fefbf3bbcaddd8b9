-- Forget schedules. They belong to their scope: a key that made one may be rotated or revoked, and it goes on.

CREATE OR REPLACE FUNCTION scopefloor.run_answer(r scopefloor.forget_run) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', r.id, 'tick', scopefloor.rfc3339(r.tick), 'state', r.state, 'dryRun', r.dry_run, 'counts', r.counts, 'receiptId', r.receipt_id, 'error', r.error,
                            'startedAt', scopefloor.rfc3339(r.started_at), 'finishedAt', scopefloor.rfc3339(r.finished_at))
$$;

CREATE OR REPLACE FUNCTION scopefloor.schedule_answer(f scopefloor.forget_schedule) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', f.id, 'scope', s.tags, 'name', f.name, 'subtree', f.subtree, 'cron', f.cron, 'timezone', f.timezone,
    'query', f.selector->'query', 'labels', coalesce(f.selector->'labels', '[]'), 'olderThan', f.selector->'olderThan', 'since', f.selector->'since', 'kinds', f.selector->'kinds',
    'action', f.action, 'dryRun', f.dry_run, 'paused', f.paused, 'nextRun', CASE WHEN NOT f.paused THEN scopefloor.rfc3339(f.next_run) END,
    'lastRun', (SELECT scopefloor.run_answer(r) FROM scopefloor.forget_run r WHERE r.scope_id = f.scope_id AND r.rule_id = f.id ORDER BY r.tick DESC LIMIT 1),
    'receipts', (SELECT coalesce(jsonb_agg(x.receipt_id), '[]') FROM (
       SELECT r.receipt_id FROM scopefloor.forget_run r WHERE r.scope_id = f.scope_id AND r.rule_id = f.id AND r.receipt_id IS NOT NULL ORDER BY r.tick DESC LIMIT 20) x),
    'createdAt', scopefloor.rfc3339(f.created_at), 'updatedAt', scopefloor.rfc3339(f.updated_at))
  FROM scopefloor.scope s WHERE s.id = f.scope_id
$$;

-- Whether a selector at a scope goes by the last use, and further back than traces there keep their text.
CREATE OR REPLACE FUNCTION scopefloor.outlives_traces(at_scope scopefloor.scope, selector jsonb) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(selector->>'since' = 'lastUsed' AND scopefloor.conflicts_with_traces(at_scope, 'traces', (selector->>'olderThan')::interval), false)
$$;

-- Makes a schedule at the ticket's target, or changes the one with this id there or below: what is left out stays.
-- {status: ok, schedule}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.set_schedule(of_id uuid, is_new bool, given jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most constant int := 100;
  most_of_tenant constant int := 1000;
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  f scopefloor.forget_schedule;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  IF (given->'selector'->>'olderThan')::interval NOT BETWEEN interval '1 second' AND interval '101 years' THEN
    RAISE EXCEPTION 'scopefloor: not a duration' USING ERRCODE = 'check_violation';
  END IF;
  IF is_new THEN
    PERFORM scopefloor.hold_scope(t->'target');
    at_scope := scopefloor.ensure_scope(t->'target');
    PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
    IF scopefloor.outlives_traces(at_scope, given->'selector') THEN
      RETURN scopefloor.needs_traces();
    END IF;
    IF (SELECT count(*) FROM scopefloor.forget_schedule o WHERE o.scope_id = at_scope.id AND o.set_by @> (t->'floor')) >= most
       OR (SELECT count(*) FROM (SELECT 1 FROM scopefloor.forget_schedule o WHERE o.tenant_id = at_scope.tenant_id AND o.set_by @> (t->'floor') LIMIT most_of_tenant) n) >= most_of_tenant THEN
      RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', format('there may be at most %s schedules at a scope and %s in a tenant; delete one first', most, most_of_tenant));
    END IF;
    INSERT INTO scopefloor.forget_schedule (tenant_id, scope_id, id, name, subtree, cron, timezone, selector, action, dry_run, paused, next_run, set_by, api_key_id)
    VALUES (at_scope.tenant_id, at_scope.id, of_id, coalesce(given->>'name', ''), coalesce((given->>'subtree')::bool, false), given->>'cron', given->>'timezone', given->'selector', given->>'action',
            coalesce((given->>'dryRun')::bool, false), coalesce((given->>'paused')::bool, false), (given->>'nextRun')::timestamptz, t->'floor', (t->>'key')::uuid)
    RETURNING * INTO f;
    RETURN jsonb_build_object('status', 'ok', 'schedule', scopefloor.schedule_answer(f));
  END IF;
  SELECT o.* INTO f FROM scopefloor.forget_schedule o JOIN scopefloor.scope s ON s.id = o.scope_id WHERE o.id = of_id AND s.tags @> (t->'target') FOR UPDATE OF o;
  IF f.id IS NULL THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF NOT f.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has made this schedule"}';
  END IF;
  SELECT * INTO at_scope FROM scopefloor.scope s WHERE s.id = f.scope_id;
  IF scopefloor.outlives_traces(at_scope, given->'selector') THEN
    RETURN scopefloor.needs_traces();
  END IF;
  UPDATE scopefloor.forget_schedule o
  SET name = coalesce(given->>'name', o.name), cron = coalesce(given->>'cron', o.cron), timezone = coalesce(given->>'timezone', o.timezone),
      selector = coalesce(given->'selector', o.selector), action = coalesce(given->>'action', o.action), subtree = coalesce((given->>'subtree')::bool, o.subtree),
      dry_run = coalesce((given->>'dryRun')::bool, o.dry_run), paused = coalesce((given->>'paused')::bool, o.paused),
      next_run = coalesce((given->>'nextRun')::timestamptz, o.next_run), set_by = t->'floor', api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp()
  WHERE o.scope_id = f.scope_id AND o.id = f.id RETURNING * INTO f;
  RETURN jsonb_build_object('status', 'ok', 'schedule', scopefloor.schedule_answer(f));
END $$;

-- The schedules of the ticket's target and below, by page, or one by its id: {total, schedules}.
CREATE OR REPLACE FUNCTION scopefloor.list_schedules(of_id uuid, most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids int[];
BEGIN
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (
            SELECT f FROM scopefloor.forget_schedule f WHERE (ids IS NULL OR f.scope_id = ANY (ids)) AND (of_id IS NULL OR f.id = of_id)),
          shown AS (SELECT o.f FROM found o ORDER BY (o.f).scope_id, (o.f).created_at, (o.f).id LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'schedules', coalesce((
            -- What it asks for is content.
            SELECT jsonb_agg(scopefloor.schedule_answer(s.f) || CASE WHEN (t->>'content')::bool THEN '{}' ELSE '{"query": null, "labels": []}'::jsonb END) FROM shown s), '[]')));
END $$;

-- Takes a schedule of the ticket's target or below away: {status: ok}, or {status, detail}. A run that is under way goes on.
CREATE OR REPLACE FUNCTION scopefloor.drop_schedule(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  found scopefloor.forget_schedule;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  SELECT f.* INTO found FROM scopefloor.forget_schedule f JOIN scopefloor.scope s ON s.id = f.scope_id WHERE f.id = of_id AND s.tags @> (t->'target');
  IF found.id IS NULL THEN
    RETURN '{"status": "not-found", "detail": ""}';
  END IF;
  IF NOT found.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has made this schedule"}';
  END IF;
  DELETE FROM scopefloor.forget_schedule f WHERE f.scope_id = found.scope_id AND f.id = found.id;
  RETURN '{"status": "ok"}';
END $$;

-- Orders a run of a schedule for a tick.
CREATE OR REPLACE FUNCTION scopefloor.order_schedule(f scopefloor.forget_schedule, at_tick timestamptz) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.order_run(f.scope_id, 'schedule', f.id, at_tick, f.set_by, f.api_key_id, f.action, f.subtree, f.dry_run,
    -- What comes after the tick is the next one's.
    CASE WHEN f.selector = '{}' AND f.action = 'erase' AND NOT f.dry_run THEN '{}'::jsonb ELSE (f.selector - 'olderThan') || jsonb_build_object('since', coalesce(f.selector->>'since', 'created'),
      'before', scopefloor.rfc3339(at_tick - coalesce((f.selector->>'olderThan')::interval, interval '0'))) END)
$$;

-- A run now, for a key that may change the schedule: {status: ok, run}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.run_schedule_now(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  f scopefloor.forget_schedule;
  r scopefloor.forget_run;
  ordered uuid;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  SELECT o.* INTO f FROM scopefloor.forget_schedule o JOIN scopefloor.scope s ON s.id = o.scope_id WHERE o.id = of_id AND s.tags @> (t->'target') FOR UPDATE OF o;
  IF f.id IS NULL THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF NOT f.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has made this schedule"}';
  ELSIF EXISTS (SELECT 1 FROM scopefloor.forget_run o WHERE o.scope_id = f.scope_id AND o.rule_id = f.id AND o.state IN ('queued', 'running')) THEN
    RETURN '{"status": "conflict", "detail": "a run of this schedule is under way; wait for it"}';
  END IF;
  ordered := scopefloor.order_schedule(f, clock_timestamp());
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = f.scope_id AND o.id = ordered;
  RETURN jsonb_build_object('status', 'ok', 'run', scopefloor.run_answer(r));
END $$;

-- Schedules whose time has come, for the worker, which knows the calendar: [{id, cron, timezone, due}].
CREATE OR REPLACE FUNCTION scopefloor.due_schedules(most int) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_object('id', f.id, 'cron', f.cron, 'timezone', f.timezone, 'due', f.next_run)), '[]')
  FROM (SELECT * FROM scopefloor.forget_schedule o WHERE NOT o.paused AND o.next_run <= clock_timestamp()
        AND NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = o.tenant_id AND x.state <> 'active') ORDER BY o.next_run, o.id LIMIT most) f
$$;

-- Orders the run of a tick and sets the next one. Of several workers, one; after a downtime, once. False: another was faster.
-- One whose last run is under way waits for the next tick.
CREATE OR REPLACE FUNCTION scopefloor.tick_schedule(of_id uuid, due timestamptz, following timestamptz) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  f scopefloor.forget_schedule;
BEGIN
  UPDATE scopefloor.forget_schedule o SET next_run = following WHERE o.id = of_id AND o.next_run = due AND NOT o.paused AND due <= clock_timestamp() AND (following > clock_timestamp()) IS NOT FALSE
  RETURNING * INTO f;
  IF f.id IS NULL THEN
    RETURN false;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM scopefloor.forget_run o WHERE o.scope_id = f.scope_id AND o.rule_id = f.id AND o.state IN ('queued', 'running')) THEN
    PERFORM scopefloor.order_schedule(f, due);
  END IF;
  RETURN true;
END $$;
