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

-- Sets a keyed item at the ticket's write scope: {id, createdAt, updatedAt}.
CREATE OR REPLACE FUNCTION scopefloor.put_item(new_id uuid, of_key text, new_value jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  m scopefloor.memory_item;
BEGIN
  INSERT INTO scopefloor.memory_item (tenant_id, scope_id, key, id, value, api_key_id)
  VALUES ((t->>'tenant')::int, (t->>'write')::int, of_key, new_id, new_value, (t->>'key')::uuid)
  ON CONFLICT (scope_id, key_hash, tenant_id) DO UPDATE SET value = EXCLUDED.value, api_key_id = EXCLUDED.api_key_id, expires_at = NULL, updated_at = clock_timestamp()
  RETURNING * INTO m;
  RETURN jsonb_build_object('id', m.id, 'createdAt', m.created_at, 'updatedAt', m.updated_at);
END $$;
