-- Offboarding: a tenant leaves for good. Until its time its keys are only kept out, and it can be taken back; then a run
-- revokes them, takes its jobs away and erases all that it has (4_runs.sql), its rules and its name with it.

-- Lets the tenant that the ticket's target is leave after a grace: {status: ok, tenant}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.begin_offboarding(grace_seconds float8) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  o scopefloor.tenant;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right offboards tenants"}';
  END IF;
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.root = t->'target' FOR UPDATE;
  IF o.id IS NULL OR o.id = 0 THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF o.state = 'leaving' THEN
    RETURN '{"status": "conflict", "detail": "the tenant is leaving already"}';
  ELSIF scopefloor.holds_something(o.root) THEN
    PERFORM scopefloor.raise_held();
  END IF;
  -- The run stands there, also where no row was ever stored at the org itself.
  PERFORM scopefloor.ensure_scope(o.root);
  UPDATE scopefloor.tenant x SET state = 'leaving', leaves_at = clock_timestamp() + make_interval(secs => grace_seconds), leaving_by = (t->>'key')::uuid WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'tenant', scopefloor.tenant_answer(o));
END $$;

-- Takes it back, as long as nothing was done: the tenant is active again.
CREATE OR REPLACE FUNCTION scopefloor.undo_offboarding() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  o scopefloor.tenant;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right offboards tenants"}';
  END IF;
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.root = t->'target' FOR UPDATE;
  IF o.id IS NULL OR o.state <> 'leaving' THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF EXISTS (SELECT 1 FROM scopefloor.forget_run r JOIN scopefloor.scope s ON s.id = r.scope_id WHERE s.tags = o.root AND r.source = 'offboard' AND r.state <> 'held') THEN
    RETURN '{"status": "conflict", "detail": "the grace is over, and the tenant is being erased"}';
  END IF;
  UPDATE scopefloor.tenant x SET state = 'active', leaves_at = NULL, leaving_by = NULL WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'tenant', scopefloor.tenant_answer(o));
END $$;

-- For the worker: of tenants whose grace is over the run is ordered; gives how many.
CREATE OR REPLACE FUNCTION scopefloor.order_offboardings(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  o scopefloor.tenant;
  at_scope int;
  ordered int := 0;
BEGIN
  FOR o IN
    SELECT * FROM scopefloor.tenant x WHERE x.state = 'leaving' AND x.leaves_at <= clock_timestamp()
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s JOIN scopefloor.forget_run r ON r.scope_id = s.id WHERE s.tags = x.root AND r.source = 'offboard' AND r.state IN ('queued', 'running'))
    ORDER BY x.leaves_at LIMIT most FOR UPDATE SKIP LOCKED
  LOOP
    SELECT s.id INTO at_scope FROM scopefloor.scope s WHERE s.tags = o.root;
    CONTINUE WHEN at_scope IS NULL;
    PERFORM scopefloor.order_run(at_scope, 'offboard', gen_random_uuid(), o.leaves_at, '{}', o.leaving_by, 'erase', true, false, '{}');
    -- One that a hold stops is looked at again.
    UPDATE scopefloor.tenant x SET leaves_at = clock_timestamp() + interval '1 hour' WHERE x.id = o.id;
    ordered := ordered + 1;
  END LOOP;
  RETURN ordered;
END $$;
