-- The queue: the application adds work, the worker alone takes it.
--
-- A job's row is the authority for what its work may reach: the scope, the key that ordered it and
-- the scope's epoch then, all from the ticket of the transaction that ordered it. So a worker that
-- was taken over reaches one ordered scope at a time, and cannot name another.

-- The group that a key's work is charged to: the first tag of the topmost floor above it, which somebody
-- without a floor has minted. So neither the scope that a request names nor a narrower key that a tenant
-- mints for itself gives it a larger share, or another's.
CREATE OR REPLACE FUNCTION scopefloor.share_group_of(key_id uuid) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE above AS (
    SELECT k.id, k.parent_id, k.floor, 0 AS height FROM scopefloor.api_key k WHERE k.id = key_id
    UNION ALL
    SELECT k.id, k.parent_id, k.floor, a.height + 1 FROM scopefloor.api_key k JOIN above a ON k.id = a.parent_id)
  SELECT scopefloor.scope_hash(scopefloor.first_tag(coalesce((SELECT floor FROM above WHERE floor <> '{}' ORDER BY height DESC LIMIT 1), '{}')))
$$;

-- The group of the ticket's key, for shares at the connections: the same for all keys below one floor.
CREATE OR REPLACE FUNCTION scopefloor.own_share_group() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.share_group_of((scopefloor.ticket()->>'key')::uuid)::text
$$;

-- Orders work at the ticket's write scope, in the transaction of what it is about.
--   kind: document (extract, split, embed and index a version), embed (vectors for what has none of the model),
--   index (pack the words of what has come)
CREATE OR REPLACE FUNCTION scopefloor.enqueue(new_id uuid, of_kind text, of_document uuid, of_version int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'write' IS NULL OR of_kind NOT IN ('document', 'embed', 'index') THEN
    RAISE EXCEPTION 'scopefloor: no ticket to order work' USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM scopefloor.order_job((t->>'write')::int, new_id, of_kind, of_document, of_version);
END $$;

-- The same at any scope, for what follows in the database itself from what the ticket's holder does.
CREATE OR REPLACE FUNCTION scopefloor.order_job(at_scope int, new_id uuid, of_kind text, of_document uuid DEFAULT NULL, of_version int DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, document_id, version, api_key_id, principal, on_behalf_of, epoch, share_group)
  SELECT s.tenant_id, s.id, new_id, of_kind, of_document, of_version, (t->>'key')::uuid, t->>'principal', (t->>'on_behalf_of')::uuid, s.epoch,
         coalesce((t->>'share_group')::bigint, scopefloor.share_group_of((t->>'key')::uuid))
  FROM scopefloor.scope s WHERE s.id = at_scope
  -- A round that waits stands for this one too. Locked: a worker takes it after this commits,
  -- and so sees what this is about.
  ON CONFLICT (scope_id, kind, tenant_id) WHERE kind IN ('embed', 'index') AND state = 'queued' DO UPDATE SET run_after = least(job.run_after, EXCLUDED.run_after);
END $$;

-- Orders vectors of one model for every scope of the ticket's subtree that has passages without.
-- Numbers only: {scopes, passages, pending}; NULL for a key that has less than every right.
CREATE OR REPLACE FUNCTION scopefloor.order_embedding(in_context text, standard text, offered jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.full_ticket();
  summary jsonb;
  any_choice bool := EXISTS (SELECT 1 FROM scopefloor.scope_setting v WHERE v.name = 'embeddings');
  in_general text := (SELECT c.config->>'embeddings' FROM scopefloor.context c WHERE c.id = in_context);
BEGIN
  IF t IS NULL THEN
    RETURN NULL;
  END IF;
  WITH reached AS MATERIALIZED (
    SELECT s.tenant_id, s.id, s.epoch, s.tags FROM scopefloor.scope s WHERE s.tags @> (t->'target')),
  counted AS MATERIALIZED (
    SELECT r.tenant_id, r.id, r.epoch, sum(c.passages) AS passages,
           coalesce(sum(c.passages) FILTER (WHERE c.embedder_id IS DISTINCT FROM chosen.embedder), 0) AS pending
    FROM reached r JOIN scopefloor.scope_counter c ON c.scope_id = r.id
    CROSS JOIN LATERAL (SELECT coalesce(offered->>coalesce(CASE WHEN any_choice THEN (SELECT v.value#>>'{}' FROM scopefloor.settings_above(r.tags) v WHERE v.name = 'embeddings') END, in_general), offered->>standard)::int AS embedder) chosen
    GROUP BY 1, 2, 3),
  ordered AS (
    INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, api_key_id, principal, on_behalf_of, epoch, share_group)
    SELECT c.tenant_id, c.id, gen_random_uuid(), 'embed', (t->>'key')::uuid, t->>'principal', (t->>'on_behalf_of')::uuid, c.epoch, scopefloor.share_group_of((t->>'key')::uuid)
    FROM counted c WHERE c.pending > 0
      AND NOT EXISTS (SELECT 1 FROM scopefloor.job j WHERE j.scope_id = c.id AND j.kind = 'embed' AND j.state = 'running' AND j.leased_until > clock_timestamp())
    ON CONFLICT DO NOTHING)
  SELECT jsonb_build_object('scopes', count(*) FILTER (WHERE pending > 0), 'passages', coalesce(sum(passages), 0), 'pending', coalesce(sum(pending), 0))
  INTO summary FROM counted;
  -- What was given up is tried again.
  DELETE FROM scopefloor.job j USING scopefloor.scope s
  WHERE j.kind = 'embed' AND j.state = 'dead' AND s.id = j.scope_id AND s.tags @> (t->'target');
  RETURN summary;
END $$;

-- Puts a job that was at work back into the queue, or among those that were given up. Of a scope's
-- rounds of a kind one waits: where another was ordered meanwhile, that one stands for both, and is no
-- sooner and no fresher.
CREATE OR REPLACE FUNCTION scopefloor.requeue_job(j scopefloor.job, reason text, due timestamptz, give_up bool) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.job
  SET state = CASE WHEN give_up THEN 'dead' ELSE 'queued' END, error = coalesce(left(reason, 300), error), lease = NULL, leased_until = NULL,
      run_after = greatest(run_after, due)
  WHERE scope_id = j.scope_id AND id = j.id;
EXCEPTION WHEN unique_violation THEN -- also one whose order was not committed when this began
  UPDATE scopefloor.job o SET attempts = greatest(o.attempts, j.attempts), error = coalesce(left(reason, 300), o.error), run_after = greatest(o.run_after, due)
  WHERE o.scope_id = j.scope_id AND o.kind = j.kind AND o.state = 'queued';
  DELETE FROM scopefloor.job WHERE scope_id = j.scope_id AND id = j.id;
END $$;

-- Takes the next job for `lease_seconds`: of the share groups with the fewest at work the one that was
-- served longest ago, at most `per_group` of one group at once, so that one tenant's thousand files do
-- not keep another's one waiting. NULL: nothing is due.
CREATE OR REPLACE FUNCTION scopefloor.take_job(per_group int, lease_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  late scopefloor.job;
  taken scopefloor.job;
BEGIN
  -- One at a time: two takers would each count the other out.
  PERFORM pg_advisory_xact_lock(7700, 3);
  -- A row that is locked is being worked on, however late it is.
  FOR late IN SELECT j.* FROM scopefloor.job j WHERE j.state = 'running' AND j.leased_until <= now_at FOR UPDATE SKIP LOCKED LOOP
    PERFORM scopefloor.requeue_job(late, NULL, now_at, false);
  END LOOP;
  WITH RECURSIVE groups AS (
    (SELECT j.share_group FROM scopefloor.job j WHERE j.state = 'queued' ORDER BY j.share_group LIMIT 1)
    UNION ALL
    SELECT (SELECT j.share_group FROM scopefloor.job j WHERE j.state = 'queued' AND j.share_group > g.share_group ORDER BY j.share_group LIMIT 1)
    FROM groups g WHERE g.share_group IS NOT NULL),
  busy AS (
    SELECT j.share_group, count(*) AS n FROM scopefloor.job j WHERE j.state = 'running' GROUP BY 1),
  next AS (
    SELECT first.*, coalesce(b.n, 0) AS at_work, w.taken_at
    FROM groups g
    CROSS JOIN LATERAL (
      SELECT j.* FROM scopefloor.job j
      WHERE j.state = 'queued' AND j.share_group = g.share_group AND j.run_after <= now_at
        -- Of a scope's rounds of one kind one at a time.
        AND NOT (j.kind IN ('embed', 'index') AND EXISTS (
          SELECT 1 FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.kind = j.kind AND o.state = 'running'))
      ORDER BY j.run_after, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) first
    LEFT JOIN busy b ON b.share_group = g.share_group
    LEFT JOIN scopefloor.job_share w ON w.share_group = g.share_group
    WHERE g.share_group IS NOT NULL AND coalesce(b.n, 0) < per_group
    ORDER BY at_work, w.taken_at NULLS FIRST, first.run_after, first.id LIMIT 1)
  UPDATE scopefloor.job j
  SET state = 'running', attempts = j.attempts + 1, lease = gen_random_uuid(), leased_until = now_at + make_interval(secs => lease_seconds)
  FROM next n WHERE j.scope_id = n.scope_id AND j.id = n.id
  RETURNING j.* INTO taken;
  IF taken.id IS NULL THEN
    RETURN NULL;
  END IF;
  INSERT INTO scopefloor.job_share (share_group, taken_at) VALUES (taken.share_group, now_at)
  ON CONFLICT (share_group) DO UPDATE SET taken_at = EXCLUDED.taken_at;
  RETURN jsonb_build_object('id', taken.id, 'kind', taken.kind, 'lease', taken.lease, 'attempts', taken.attempts,
                            'documentId', taken.document_id, 'version', taken.version);
END $$;

-- Opens a transaction for a taken job and leaves a ticket for its scope, to read and to write there,
-- as the key that ordered it. The row is locked until the end: of two who hold the same job, one at
-- a time, and of those the one whose lease is not the row's any more is turned away.
--   {status: ok, …} | {status: gone}: done by another, its scope erased, or its document deleted
CREATE OR REPLACE FUNCTION scopefloor.enter_job(job_id uuid, with_lease uuid, in_context text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  j scopefloor.job;
  s scopefloor.scope;
  reach jsonb;
BEGIN
  SELECT * INTO j FROM scopefloor.job WHERE id = job_id AND lease = with_lease AND state = 'running';
  IF j.id IS NULL THEN
    RETURN '{"status": "gone"}';
  END IF;
  IF j.kind = 'forget' THEN
    RETURN scopefloor.enter_run(j, in_context);
  END IF;
  SELECT * INTO s FROM scopefloor.scope WHERE id = j.scope_id;
  PERFORM scopefloor.hold_scope(s.tags);
  -- An erasure may have held that lock until now. A scope's own locks before the row's: an erasure takes them so.
  SELECT * INTO j FROM scopefloor.job WHERE id = job_id AND lease = with_lease AND state = 'running' FOR UPDATE;
  SELECT * INTO s FROM scopefloor.scope WHERE id = j.scope_id;
  IF j.id IS NULL OR s.id IS NULL OR s.epoch <> j.epoch THEN
    DELETE FROM scopefloor.job WHERE id = j.id AND scope_id = j.scope_id;
    RETURN '{"status": "gone"}';
  END IF;
  reach := jsonb_build_object('ids', ARRAY[s.id], 'trees', '[]'::jsonb, 'all', false, 'tenant', s.tenant_id);
  PERFORM scopefloor.issue_ticket(jsonb_build_object(
    'key', j.api_key_id, 'principal', j.principal, 'verb', 'memory:write', 'mode', 'job', 'verbs', '["memory:write"]'::jsonb, 'content', true,
    'floor', s.tags, 'on_behalf_of', j.on_behalf_of, 'target', s.tags,
    'read', reach, 'general', false, 'modify', reach, 'write', s.id, 'tenant', s.tenant_id, 'job', j.id, 'share_group', j.share_group,
    'trace', jsonb_build_object('id', s.id, 'tenant', s.tenant_id, 'tags', s.tags)));
  RETURN jsonb_build_object(
    'status', 'ok', 'key', j.api_key_id, 'principal', j.principal, 'onBehalfOf', j.on_behalf_of,
    'scopeId', s.id, 'tenant', s.tenant_id, 'tags', s.tags,
    'settings', scopefloor.settings_at(s.tags, in_context), 'credentials', scopefloor.credentials_at(s.tags));
END $$;

-- In the transaction of the job's effect: both are there or neither.
CREATE OR REPLACE FUNCTION scopefloor.finish_job() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  DELETE FROM scopefloor.job WHERE scope_id = (t->>'write')::int AND id = (t->>'job')::uuid;
END $$;

-- Longer work says that it is still there.
CREATE OR REPLACE FUNCTION scopefloor.extend_job(job_id uuid, with_lease uuid, lease_seconds int) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- While its own transaction holds the row, nobody takes it: there is nothing to extend.
  UPDATE scopefloor.job o SET leased_until = clock_timestamp() + make_interval(secs => lease_seconds)
  FROM (SELECT j.scope_id, j.id FROM scopefloor.job j WHERE j.id = job_id AND j.lease = with_lease AND j.state = 'running' FOR UPDATE SKIP LOCKED) mine
  WHERE o.scope_id = mine.scope_id AND o.id = mine.id;
  RETURN FOUND;
END $$;

-- Puts a job back until `delay_seconds` from now, or gives it up; a document whose job is given up has failed.
-- `was_tried`: whether this was an attempt; one that waits for a budget was none.
CREATE OR REPLACE FUNCTION scopefloor.postpone_job(job_id uuid, with_lease uuid, reason text, delay_seconds float8, give_up bool, was_tried bool) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  j scopefloor.job;
BEGIN
  SELECT * INTO j FROM scopefloor.job WHERE id = job_id AND lease = with_lease AND state = 'running' FOR UPDATE;
  IF j.id IS NULL THEN
    RETURN;
  END IF;
  IF NOT was_tried THEN
    UPDATE scopefloor.job SET attempts = j.attempts - 1 WHERE scope_id = j.scope_id AND id = j.id;
    j.attempts := j.attempts - 1;
  END IF;
  PERFORM scopefloor.requeue_job(j, reason, clock_timestamp() + make_interval(secs => delay_seconds), give_up);
  IF give_up AND j.kind = 'document' THEN
    UPDATE scopefloor.document SET status = 'failed', error = left(reason, 300), processing_completed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE scope_id = j.scope_id AND id = j.document_id AND version = j.version;
  ELSIF give_up AND j.kind = 'forget' THEN
    PERFORM scopefloor.abandon_run(j.scope_id, j.run_id, 'failed', reason);
  ELSIF give_up AND j.kind = 'embed' THEN
    UPDATE scopefloor.document SET status = 'failed', error = left(reason, 300), processing_completed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE scope_id = j.scope_id AND status = 'embedding' AND ready_version = version;
  END IF;
END $$;

-- For a service that is the database's only process: whoever held a job is gone.
CREATE OR REPLACE FUNCTION scopefloor.recover_jobs() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.job SET leased_until = clock_timestamp() - interval '1 second' WHERE state = 'running'
$$;

-- Whether the queue can be looked at, and holds work: for readiness, which anyone may ask often.
CREATE OR REPLACE FUNCTION scopefloor.has_work() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.job WHERE state = 'queued')
$$;

-- How many jobs wait, work and were given up, and how long the oldest has been due. Counts over all scopes.
CREATE OR REPLACE FUNCTION scopefloor.queue_depth() RETURNS TABLE (kind text, state text, jobs bigint, oldest_seconds float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT j.kind, j.state, count(*), greatest(0, extract(epoch FROM clock_timestamp() - min(j.run_after)))::float8
  FROM scopefloor.job j GROUP BY 1, 2 ORDER BY 1, 2
$$;
