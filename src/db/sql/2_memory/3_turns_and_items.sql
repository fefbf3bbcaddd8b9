-- Writing turns and keyed items, as far as it takes more than inserting rows through the builder:
-- definer functions, because a key that may write but not read can neither look for what is there
-- already nor use RETURNING.

-- Takes the next n places in an open session at the ticket's write scope; an agent's key only in a
-- session that it created. NULL: there is no such session, or it is closed. The ticket says from then on that
-- turns may go there: asked once a statement, not for each row.
CREATE OR REPLACE FUNCTION scopefloor.reserve_turns(in_session uuid, n int) RETURNS int
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
  IF FOUND THEN
    PERFORM set_config('scopefloor.ticket', scopefloor.sign_ticket(t || jsonb_build_object('session', in_session)), true);
  END IF;
  RETURN first;
END $$;

-- The session that the caller's key knows by a name of its own at the ticket's write scope, opened where
-- there is none: {id, closed}.
CREATE OR REPLACE FUNCTION scopefloor.open_session(new_id uuid, of_name text, with_metadata jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  s scopefloor.session;
BEGIN
  IF of_name IS NULL OR length(of_name) NOT BETWEEN 1 AND 128 THEN
    RAISE EXCEPTION 'scopefloor: not a name of a session' USING ERRCODE = 'check_violation';
  END IF;
  INSERT INTO scopefloor.session (tenant_id, scope_id, id, api_key_id, name, metadata)
  VALUES (at_tenant, at_scope, new_id, (t->>'key')::uuid, of_name, with_metadata)
  ON CONFLICT (scope_id, name_hash, tenant_id) DO NOTHING RETURNING * INTO s;
  IF s.id IS NULL THEN
    SELECT * INTO STRICT s FROM scopefloor.session o
    WHERE o.scope_id = at_scope AND o.name_hash = scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), (t->>'key') || chr(31) || of_name);
  END IF;
  RETURN jsonb_build_object('id', s.id, 'closed', s.closed_at IS NOT NULL);
END $$;

-- These items of a scope are recalled no more. (The tail's lock before what is taken out of it: settle_facts.)
CREATE OR REPLACE FUNCTION scopefloor.unrecall_items(at_scope int, of_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = ANY (of_ids) AND p.kind = 'item') THEN
    PERFORM pg_advisory_xact_lock_shared(7702, at_scope);
    DELETE FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = ANY (of_ids) AND p.kind = 'item';
  END IF;
END $$;

-- Trigger: items that are deleted, by whatever way, are recalled no more.
CREATE OR REPLACE FUNCTION scopefloor.unrecall_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gone record;
BEGIN
  FOR gone IN SELECT r.scope_id, array_agg(r.id) AS ids FROM removed r WHERE r.indexed IS NOT NULL GROUP BY 1 ORDER BY 1 LOOP
    PERFORM scopefloor.unrecall_items(gone.scope_id, gone.ids);
  END LOOP;
  RETURN NULL;
END $$;

-- Sets and deletes keyed items at the ticket's write scope, all or none:
--   [{id, key, op: put, value, ttlSeconds?, refreshOnRead?, ifVersion?, index?: [fields]} | {id, key, op: delete, ifVersion?}], no key twice.
-- `ifVersion` is what is there: 0 stands for nothing. Whoever may not read learns nothing of what was there.
-- {results: [{id, version, createdAt, updatedAt, expiresAt} | {id: null or the deleted one's}], in their order, receipt?},
-- or {conflict: {key, version}} and nothing done.
-- What recall finds an item by goes with its former value: whoever calls stores the passage of the new one.
CREATE OR REPLACE FUNCTION scopefloor.put_items(operations jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  secret bytea := scopefloor.word_secret(at_tenant, at_scope);
  may_read bool := t->'verbs' ? 'memory:read';
  asked record;
  there scopefloor.memory_item;
  m scopefloor.memory_item;
  is_there bool;
  at_version int; -- 0: there is none
  done jsonb := '{}'; -- by key
  deleted uuid[] := '{}';
  gone uuid[] := '{}'; -- what is deleted, with what was over
  unsaid uuid[] := '{}'; -- what is not recalled by its former value any more
  receipt uuid;
BEGIN
  IF jsonb_array_length(operations) NOT BETWEEN 1 AND 500 OR EXISTS (SELECT 1 FROM jsonb_array_elements(operations) o GROUP BY o->>'key' HAVING count(*) > 1) THEN
    RAISE EXCEPTION 'scopefloor: not a batch of items' USING ERRCODE = 'check_violation';
  END IF;
  IF NOT may_read AND EXISTS (SELECT 1 FROM jsonb_array_elements(operations) o WHERE o->>'op' <> 'put' OR o ? 'ifVersion') THEN
    RAISE EXCEPTION 'scopefloor: what is there is for those who read' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- In one order, so that nobody waits in a circle.
  FOR asked IN
    SELECT o AS given, scopefloor.word_hash(secret, o->>'key') AS hash FROM jsonb_array_elements(operations) o ORDER BY 2
  LOOP
    SELECT * INTO there FROM scopefloor.memory_item i WHERE i.scope_id = at_scope AND i.key_hash = asked.hash FOR UPDATE;
    is_there := there.id IS NOT NULL AND (there.expires_at > clock_timestamp()) IS NOT FALSE;
    at_version := CASE WHEN is_there THEN there.version ELSE 0 END;
    IF (asked.given->>'ifVersion')::int <> at_version THEN
      RETURN jsonb_build_object('conflict', jsonb_build_object('key', asked.given->'key', 'version', at_version));
    END IF;
    IF asked.given->>'op' = 'delete' THEN
      gone := gone || there.id;
      IF is_there THEN
        deleted := deleted || there.id;
      END IF;
      done := done || jsonb_build_object(asked.given->>'key', jsonb_build_object('id', CASE WHEN is_there THEN there.id END));
      CONTINUE;
    END IF;
    INSERT INTO scopefloor.memory_item AS i (tenant_id, scope_id, key, id, value, api_key_id, expires_at, ttl_seconds, refresh_on_read, indexed)
    VALUES (at_tenant, at_scope, asked.given->>'key', (asked.given->>'id')::uuid, asked.given->'value', (t->>'key')::uuid,
            clock_timestamp() + make_interval(secs => (asked.given->>'ttlSeconds')::float8), (asked.given->>'ttlSeconds')::int, coalesce((asked.given->>'refreshOnRead')::bool, false),
            CASE WHEN asked.given ? 'index' THEN ARRAY(SELECT jsonb_array_elements_text(asked.given->'index')) END)
    ON CONFLICT (scope_id, key_hash, tenant_id) DO UPDATE
    SET value = EXCLUDED.value, api_key_id = EXCLUDED.api_key_id, expires_at = EXCLUDED.expires_at, ttl_seconds = EXCLUDED.ttl_seconds,
        refresh_on_read = EXCLUDED.refresh_on_read, indexed = EXCLUDED.indexed, updated_at = clock_timestamp(),
        -- One that is over was not there.
        version = CASE WHEN (i.expires_at > clock_timestamp()) IS NOT FALSE THEN i.version + 1 ELSE 1 END,
        created_at = CASE WHEN (i.expires_at > clock_timestamp()) IS NOT FALSE THEN i.created_at ELSE clock_timestamp() END
    -- Of two who make it at once the second meets what the first made.
    WHERE NOT asked.given ? 'ifVersion' OR there.id IS NOT NULL
    RETURNING * INTO m;
    IF NOT FOUND THEN
      RETURN jsonb_build_object('conflict', jsonb_build_object('key', asked.given->'key', 'version', 1));
    END IF;
    unsaid := unsaid || m.id;
    done := done || jsonb_build_object(asked.given->>'key', jsonb_build_object(
      'id', m.id, 'expiresAt', scopefloor.rfc3339(m.expires_at), 'updatedAt', scopefloor.rfc3339(m.updated_at),
      'createdAt', scopefloor.rfc3339(CASE WHEN may_read THEN m.created_at ELSE m.updated_at END), 'version', CASE WHEN may_read THEN m.version END));
  END LOOP;
  -- Only now, when no other item is waited for: the words of a scope are taken by one at a time.
  PERFORM scopefloor.unrecall_items(at_scope, unsaid);
  DELETE FROM scopefloor.memory_item i WHERE i.scope_id = at_scope AND i.id = ANY (gone);
  IF deleted <> '{}' THEN
    receipt := gen_random_uuid();
    INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, items, api_key_id)
    VALUES (at_tenant, at_scope, receipt, t->'trace'->'tags', false, 'erase', 'item', jsonb_build_object('memory_item', cardinality(deleted)),
            jsonb_build_object('items', to_jsonb(deleted)), (t->>'key')::uuid);
  END IF;
  RETURN jsonb_build_object('receipt', receipt, 'results', (SELECT jsonb_agg(done->(o->>'key') ORDER BY n) FROM jsonb_array_elements(operations) WITH ORDINALITY x(o, n)));
END $$;

-- Items that were just read stay for as long again, where they say so: of the ticket's own scopes, and unless they are held.
CREATE OR REPLACE FUNCTION scopefloor.refresh_items(of_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' <> 'memory:read' THEN
    RAISE EXCEPTION 'scopefloor: no ticket for reading' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- Not for every read: once a tenth of the time is over. One that another is at is refreshed by that one.
  WITH kept AS (
  UPDATE scopefloor.memory_item m SET expires_at = clock_timestamp() + make_interval(secs => m.ttl_seconds)
  WHERE m.id = ANY (of_ids) AND m.scope_id = ANY (scopefloor.ids_in(t->'read')) AND m.refresh_on_read
    AND m.expires_at BETWEEN clock_timestamp() AND clock_timestamp() + make_interval(secs => m.ttl_seconds * 0.9)
    AND NOT scopefloor.is_row_held('memory_item', m.scope_id, to_jsonb(m))
  RETURNING m.scope_id, m.id, m.expires_at)
  UPDATE scopefloor.passage p SET ends_at = k.expires_at FROM kept k WHERE p.scope_id = k.scope_id AND p.id = k.id AND p.kind = 'item';
END $$;
