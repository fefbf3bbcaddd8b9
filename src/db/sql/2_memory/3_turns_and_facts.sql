-- Writing turns, facts and keyed items, as far as it takes more than inserting rows through the builder:
-- definer functions, because a key that may write but not read can neither look for what is there
-- already nor use RETURNING.

-- Takes the next n places in an open session at the ticket's write scope; an agent's key only in a
-- session that it created. NULL: there is no such session, or it is closed.
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

-- The entity of that type and name at a scope, made when there is none.
CREATE OR REPLACE FUNCTION scopefloor.ensure_entity(at_tenant int, at_scope int, of_type text, of_name text, by_key uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found uuid;
BEGIN
  INSERT INTO scopefloor.entity (tenant_id, scope_id, id, type, name, api_key_id) VALUES (at_tenant, at_scope, gen_random_uuid(), of_type, of_name, by_key)
  ON CONFLICT (scope_id, name_hash, tenant_id) DO NOTHING;
  -- Locked: of two who change the same entity the second sees what the first left.
  SELECT e.id INTO STRICT found FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.entity_hash(at_tenant, at_scope, of_type, of_name) FOR NO KEY UPDATE;
  RETURN found;
END $$;

-- Takes a passage that stands for a fact out of recall; the fact itself stays, as history.
CREATE OR REPLACE FUNCTION scopefloor.retire_fact(at_scope int, fact uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM scopefloor.passage WHERE scope_id = at_scope AND id = fact AND kind = 'attribute'
$$;

-- Stores one value of an entity's key, {id, key, value, category, at}, with what it supersedes.
--   same     the fact that says it already and is current; without a later one nothing is stored
--   later    a fact that was observed after this one, which is history then
--   closed   the facts that it supersedes
CREATE OR REPLACE FUNCTION scopefloor.put_attribute(t jsonb, item jsonb, subject uuid, in_session uuid, in_turn uuid,
                                                    OUT same uuid, OUT later uuid, OUT closed uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int := (t->>'write')::int;
  observed timestamptz := (item->>'at')::timestamptz;
  of_key uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), item->>'key');
  later_from timestamptz;
BEGIN
  closed := '{}';
  SELECT a.id INTO same FROM scopefloor.attribute a
  WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.value = item->'value'
    AND a.closed_at IS NULL AND a.expired_at IS NULL AND a.valid_from <= observed LIMIT 1;
  SELECT a.id, a.valid_from INTO later, later_from FROM scopefloor.attribute a
  WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.expired_at IS NULL AND a.valid_from > observed
  ORDER BY a.valid_from LIMIT 1;
  IF same IS NOT NULL AND later IS NULL THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, value, key, category, valid_from, valid_until, superseded_by, closed_at, session_id, turn_id, api_key_id)
  VALUES ((t->>'tenant')::int, at_scope, (item->>'id')::uuid, subject, item->'value', item->>'key', item->>'category', observed, later_from, later,
          CASE WHEN later IS NOT NULL THEN now() END, in_session, in_turn, (t->>'key')::uuid);
  WITH gone AS (
    UPDATE scopefloor.attribute a
    SET valid_until = observed, superseded_by = (item->>'id')::uuid, closed_at = coalesce(a.closed_at, now())
    WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.expired_at IS NULL
      AND a.valid_from <= observed AND (a.valid_until IS NULL OR a.valid_until > observed) AND a.id <> (item->>'id')::uuid
    RETURNING a.id)
  SELECT coalesce(array_agg(id), '{}') INTO closed FROM gone;
END $$;

-- The same of a relation to another entity. `together`: the triples of the same call, whose targets of one
-- key stand side by side.
CREATE OR REPLACE FUNCTION scopefloor.put_relation(t jsonb, item jsonb, subject uuid, target uuid, together jsonb, in_session uuid, in_turn uuid,
                                                   OUT same uuid, OUT later uuid, OUT closed uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int := (t->>'write')::int;
  observed timestamptz := (item->>'at')::timestamptz;
  of_key uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), item->>'key');
  later_from timestamptz;
  call_ids uuid[] := ARRAY(SELECT (x->>'id')::uuid FROM jsonb_array_elements(together) x);
BEGIN
  SELECT r.id INTO same FROM scopefloor.relation r
  WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.target_id = target
    AND r.closed_at IS NULL AND r.expired_at IS NULL AND r.valid_from <= observed LIMIT 1;
  SELECT r.id, r.valid_from INTO later, later_from FROM scopefloor.relation r
  WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.expired_at IS NULL AND r.valid_from > observed
    AND NOT r.id = ANY (call_ids) ORDER BY r.valid_from LIMIT 1;
  IF same IS NULL OR later IS NOT NULL THEN
    INSERT INTO scopefloor.relation (tenant_id, scope_id, id, entity_id, target_id, key, category, valid_from, valid_until, superseded_by, closed_at, session_id, turn_id, api_key_id)
    VALUES ((t->>'tenant')::int, at_scope, (item->>'id')::uuid, subject, target, item->>'key', item->>'category', observed, later_from, later,
            CASE WHEN later IS NOT NULL THEN now() END, in_session, in_turn, (t->>'key')::uuid);
  END IF;
  WITH gone AS (
    UPDATE scopefloor.relation r
    SET valid_until = least(coalesce(r.valid_until, observed), observed), superseded_by = coalesce(same, (item->>'id')::uuid), closed_at = coalesce(r.closed_at, now())
    WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.expired_at IS NULL
      AND r.valid_from <= observed AND (r.valid_until IS NULL OR r.valid_until > observed)
      AND r.id IS DISTINCT FROM same AND NOT r.id = ANY (call_ids)
      -- Another target of this call that was there already stays too.
      AND NOT EXISTS (SELECT 1 FROM jsonb_array_elements(together) x JOIN scopefloor.entity e ON e.scope_id = at_scope AND e.id = r.target_id
                      WHERE x->'entity' = item->'entity' AND x->>'key' = item->>'key' AND x->'target'->>'type' = e.type AND x->'target'->>'name' = e.name)
    RETURNING r.id)
  SELECT coalesce(array_agg(id), '{}') INTO closed FROM gone;
END $$;

-- Stores triples [{id, entity: {type, name}, key, value? | target?: {type, name}, category, at}] at the
-- ticket's write scope. A new value for the same entity and key closes the one that was current; one
-- observed earlier than the current becomes history at once; one that says the same changes nothing.
-- Several targets for one key in the same call stand side by side, and together replace earlier ones.
-- Gives for each {id, entityId, stored, current, superseded: [ids]}.
CREATE OR REPLACE FUNCTION scopefloor.put_triples(triples jsonb, in_session uuid, in_turn uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  item jsonb;
  subject uuid;
  target uuid;
  put record;
  is_stored bool;
  done jsonb := '[]';
BEGIN
  -- In the order of their names, so that nobody waits in a circle.
  PERFORM scopefloor.ensure_entity(at_tenant, at_scope, e.type, e.name, (t->>'key')::uuid)
  FROM (SELECT DISTINCT x->>'type' AS type, x->>'name' AS name
        FROM jsonb_array_elements(triples) y, LATERAL (VALUES (y->'entity'), (y->'target')) v(x)
        WHERE jsonb_typeof(x) = 'object' ORDER BY 1, 2) e;
  FOR item IN SELECT jsonb_array_elements(triples) LOOP
    SELECT e.id INTO STRICT subject FROM scopefloor.entity e
    WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.entity_hash(at_tenant, at_scope, item->'entity'->>'type', item->'entity'->>'name');
    IF jsonb_typeof(item->'target') = 'object' THEN
      SELECT e.id INTO STRICT target FROM scopefloor.entity e
      WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.entity_hash(at_tenant, at_scope, item->'target'->>'type', item->'target'->>'name');
      put := scopefloor.put_relation(t, item, subject, target, triples, in_session, in_turn);
    ELSE
      put := scopefloor.put_attribute(t, item, subject, in_session, in_turn);
    END IF;
    is_stored := put.same IS NULL OR put.later IS NOT NULL;
    PERFORM scopefloor.retire_fact(at_scope, c) FROM unnest(put.closed) c;
    done := done || jsonb_build_object(
      'id', CASE WHEN is_stored THEN item->>'id' ELSE put.same::text END, 'entityId', subject,
      'stored', is_stored, 'current', put.later IS NULL, 'superseded', to_jsonb(put.closed));
  END LOOP;
  RETURN done;
END $$;

-- Sets a keyed item at the ticket's write scope: {id, createdAt, updatedAt}.
CREATE OR REPLACE FUNCTION scopefloor.put_item(new_id uuid, of_key text, new_value jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  m scopefloor.memory_item;
BEGIN
  INSERT INTO scopefloor.memory_item (tenant_id, scope_id, key, id, value, api_key_id)
  VALUES ((t->>'tenant')::int, (t->>'write')::int, of_key, new_id, new_value, (t->>'key')::uuid)
  ON CONFLICT (scope_id, key_hash, tenant_id) DO UPDATE SET value = EXCLUDED.value, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp()
  RETURNING * INTO m;
  RETURN jsonb_build_object('id', m.id, 'createdAt', m.created_at, 'updatedAt', m.updated_at);
END $$;
