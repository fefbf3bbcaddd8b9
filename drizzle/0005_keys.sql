-- Keys. The application's role has no privilege on api_key; these functions check the ticket.

CREATE FUNCTION scopefloor.key_row(k scopefloor.api_key) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object(
    'id', k.id, 'name', k.name, 'principal', k.principal, 'scopeFloor', k.floor, 'verbs', to_jsonb(k.verbs), 'content', k.content,
    'status', CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= clock_timestamp() THEN 'expired' ELSE 'active' END,
    'createdAt', k.created_at, 'createdBy', k.parent_id, 'lastUsedAt', k.last_used_at, 'expiresAt', k.expires_at, 'revokedAt', k.revoked_at)
$$;
--> statement-breakpoint
-- The ticket of a call that manages keys: 'manage' for the management routes, 'self' for a key's own.
CREATE FUNCTION scopefloor.key_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for keys' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;
--> statement-breakpoint
-- Mints a key that is never wider than the ticket: floor = asked ∪ the caller's, verbs a subset.
CREATE FUNCTION scopefloor.mint_key(new_id uuid, key_hash bytea, new_name text, new_principal text, asked_floor jsonb,
                                    asked_verbs text[], with_content bool, expires timestamptz) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  own scopefloor.api_key;
  made scopefloor.api_key;
  parent_verbs text[] := ARRAY(SELECT jsonb_array_elements_text(t->'verbs'));
  child_floor jsonb := coalesce(asked_floor, '{}');
  child_content bool := coalesce(with_content, (t->>'content')::bool);
BEGIN
  -- Locked: a child that is minted while its parent is being revoked would outlive it.
  SELECT * INTO own FROM scopefloor.api_key WHERE id = (t->>'key')::uuid AND revoked_at IS NULL FOR SHARE;
  IF own.id IS NULL THEN
    RETURN '{"status": "unauthorized", "detail": ""}';
  END IF;
  IF t->>'verb' = 'self' THEN
    IF own.principal = 'supervisor' THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor does not mint keys');
    END IF;
    new_principal := own.principal;
  END IF;
  IF scopefloor.contradicts(child_floor, t->'floor') THEN
    RETURN jsonb_build_object('status', 'scope-floor', 'detail', 'the new key''s floor contradicts the minting key''s');
  END IF;
  child_floor := child_floor || (t->'floor');
  IF scopefloor.tag_count(child_floor) > 8 THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'the new key''s floor and the minting key''s have more than 8 tags together');
  END IF;
  IF new_principal IN ('agent', 'supervisor') AND child_floor = '{}' THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', format('the scope floor of an %s key must not be empty', new_principal));
  END IF;
  IF NOT coalesce(asked_verbs, parent_verbs) <@ parent_verbs THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'the new key would have verbs that the minting key lacks');
  END IF;
  IF child_content AND NOT (t->>'content')::bool THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key without content cannot mint one with content');
  END IF;
  IF NOT child_content AND new_principal <> 'management' THEN
    RETURN jsonb_build_object('status', CASE WHEN (t->>'content')::bool THEN 'unprocessable' ELSE 'forbidden' END,
                              'detail', 'content: false is for management keys');
  END IF;
  -- What an agent delegates ends with it.
  IF own.principal = 'agent' THEN
    expires := least(expires, own.expires_at);
  END IF;
  PERFORM scopefloor.hold_scope(child_floor);
  INSERT INTO scopefloor.api_key (id, scope_id, parent_id, name, principal, floor, verbs, content, secret_hash, expires_at)
  VALUES (new_id, scopefloor.ensure_scope(child_floor), own.id, new_name, new_principal, child_floor,
          coalesce(asked_verbs, parent_verbs), child_content, sha256(key_hash), expires)
  ON CONFLICT DO NOTHING
  RETURNING * INTO made;
  IF made.id IS NULL THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', 'this key has already minted a key of that name');
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;
--> statement-breakpoint
-- The keys whose floor holds E (the ticket's floor, or the narrower scope asked for), newest first:
-- {total, keys}.
CREATE FUNCTION scopefloor.list_keys(named text, skip int, take int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
BEGIN
  IF t->>'verb' <> 'manage' THEN
    RAISE EXCEPTION 'scopefloor: not a management ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN (
    WITH reached AS MATERIALIZED (
      SELECT k FROM scopefloor.api_key k
      WHERE k.floor @> (t->'target') AND (named IS NULL OR k.name = named))
    SELECT jsonb_build_object(
      'total', (SELECT count(*) FROM reached),
      'keys', coalesce((SELECT jsonb_agg(scopefloor.key_row(page.k)) FROM
        (SELECT r.k FROM reached r ORDER BY (r.k).created_at DESC, (r.k).id DESC LIMIT take OFFSET skip) page), '[]')));
END $$;
--> statement-breakpoint
-- The caller's own row and those that it minted.
CREATE FUNCTION scopefloor.own_keys() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.key_row(k) ORDER BY k.id <> caller, k.created_at, k.id), '[]')
          FROM scopefloor.api_key k WHERE (k.id = caller OR k.parent_id = caller) AND k.floor @> (t->'floor') AND k.revoked_at IS NULL);
END $$;
--> statement-breakpoint
-- Whether a key was minted by that one, or by one that it minted, and so on.
CREATE FUNCTION scopefloor.descends_from(child uuid, ancestor uuid) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE above AS (
    SELECT k.parent_id AS id FROM scopefloor.api_key k WHERE k.id = child
    UNION
    SELECT k.parent_id FROM scopefloor.api_key k JOIN above a ON k.id = a.id)
  SELECT EXISTS (SELECT 1 FROM above a WHERE a.id = ancestor)
$$;
--> statement-breakpoint
-- The key that a call names: by id anywhere inside the floor (management), by name among those
-- that the caller minted, or the caller itself. NULL looks the same for "none" and "not yours".
--
-- Who rotates a key holds its secret afterwards, so that it must not be more than the caller:
-- neither in verbs nor in content; and of other management keys only those that come from it.
CREATE FUNCTION scopefloor.named_key(id_or_name text) RETURNS scopefloor.api_key
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
  found scopefloor.api_key;
BEGIN
  IF t->>'verb' = 'manage' AND id_or_name ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    SELECT * INTO found FROM scopefloor.api_key k
    WHERE k.id = id_or_name::uuid AND k.floor @> (t->'floor') AND k.revoked_at IS NULL
      AND (k.principal <> 'management' OR k.id = caller OR scopefloor.descends_from(k.id, caller)
           OR (t->'floor' <> k.floor AND k.floor @> (t->'floor')));
  END IF;
  IF found.id IS NULL THEN
    SELECT * INTO found FROM scopefloor.api_key k
    WHERE (k.parent_id = caller OR (k.id = caller AND t->>'verb' = 'self')) AND k.name = id_or_name AND k.revoked_at IS NULL
      AND k.floor @> (t->'floor') -- on behalf of another, its floor counts too
    ORDER BY k.id <> caller LIMIT 1;
  END IF;
  IF (t->>'verb' = 'self' AND found.principal = 'supervisor')
     OR NOT to_jsonb(found.verbs) <@ (t->'verbs') OR (found.content AND found.principal = 'management' AND NOT (t->>'content')::bool)
     OR (found.principal <> 'management' AND NOT (t->>'content')::bool) THEN
    RETURN NULL;
  END IF;
  RETURN found;
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.principal_of(id_or_name text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.named_key(id_or_name)).principal
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.rotate_key(id_or_name text, key_hash bytea, expires timestamptz, grace_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.api_key := scopefloor.named_key(id_or_name);
  parent scopefloor.api_key;
  made scopefloor.api_key;
BEGIN
  IF found.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  SELECT * INTO parent FROM scopefloor.api_key WHERE id = found.parent_id;
  -- Rotating is no way to outlive what was granted: a key does not lengthen its own life.
  IF found.id = scopefloor.caller() OR parent.principal = 'agent' THEN
    expires := least(coalesce(expires, found.expires_at), found.expires_at);
  END IF;
  UPDATE scopefloor.api_key k
  SET secret_hash = sha256(key_hash),
      previous_hash = CASE WHEN grace_seconds > 0 THEN k.secret_hash END,
      previous_until = CASE WHEN grace_seconds > 0 THEN clock_timestamp() + make_interval(secs => grace_seconds) END,
      expires_at = coalesce(expires, k.expires_at)
  WHERE k.id = found.id
  RETURNING * INTO made;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;
--> statement-breakpoint
-- Revokes a key and everything that was delegated from it: the keys that agents minted for
-- themselves. Keys that a management key minted stay, they are other people's.
CREATE FUNCTION scopefloor.revoke_key(id_or_name text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target scopefloor.api_key := scopefloor.named_key(id_or_name);
BEGIN
  IF target.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  -- Waits for whoever is minting from it, and again for what those minted: until nothing is left.
  UPDATE scopefloor.api_key k SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL WHERE k.id = target.id;
  LOOP
    WITH RECURSIVE delegated AS (
    SELECT target.id AS id, target.principal AS principal
    UNION
    SELECT k.id, k.principal FROM scopefloor.api_key k JOIN delegated d ON k.parent_id = d.id WHERE d.principal = 'agent')
  UPDATE scopefloor.api_key k SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL
  FROM delegated d WHERE k.id = d.id AND k.revoked_at IS NULL;
  EXIT WHEN NOT FOUND;
  END LOOP;
  RETURN jsonb_build_object('status', 'ok');
END $$;
--> statement-breakpoint
-- At most once a minute, outside the request's transaction.
CREATE FUNCTION scopefloor.touch_key(key_hash bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.api_key k SET last_used_at = clock_timestamp()
  WHERE k.id = (scopefloor.live_key(key_hash)).id
    AND (k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute')
$$;
--> statement-breakpoint
-- The first management key, once: a start never brings back a secret that was rotated or revoked.
-- For the owner's connection alone. Whether this call made it.
CREATE FUNCTION scopefloor.set_first_key(new_id uuid, key_hash bytea) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7700, 1);
  IF scopefloor.has_first_key() THEN
    RETURN false;
  END IF;
  INSERT INTO scopefloor.api_key (id, scope_id, parent_id, name, principal, floor, verbs, secret_hash)
  VALUES (new_id, 0, NULL, 'management', 'management', '{}', '{memory:forget,memory:read,memory:write}', sha256(key_hash));
  RETURN true;
END $$;
--> statement-breakpoint
-- For an operator who has lost every management key: gives the first key another secret.
CREATE FUNCTION scopefloor.recover_first_key(secret text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF octet_length(secret) < 32 THEN
    RAISE EXCEPTION 'the secret must have at least 32 characters';
  END IF;
  UPDATE scopefloor.api_key
  SET secret_hash = sha256(sha256(convert_to(secret, 'UTF8'))), previous_hash = NULL, previous_until = NULL, revoked_at = NULL
  WHERE id = (SELECT k.id FROM scopefloor.api_key k WHERE k.parent_id IS NULL ORDER BY k.created_at LIMIT 1);
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.has_first_key() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.api_key WHERE parent_id IS NULL)
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.context_created_at(of_context text) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.created_at FROM scopefloor.context c WHERE c.id = of_context AND scopefloor.ticket() IS NOT NULL
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.configure_context(of_context text, changed jsonb) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
BEGIN
  -- The Context is everyone's: only the operator, whose floor is {}, changes it.
  IF t->>'verb' <> 'manage' OR t->'floor' <> '{}' THEN
    RETURN false;
  END IF;
  UPDATE scopefloor.context SET config = changed WHERE id = of_context;
  RETURN FOUND;
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.ensure_context(of_context text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO scopefloor.context (id) VALUES (of_context) ON CONFLICT DO NOTHING
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.ensure_embedder(of_name text, of_dimensions int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.embedder;
BEGIN
  INSERT INTO scopefloor.embedder (name, dimensions) VALUES (of_name, of_dimensions) ON CONFLICT DO NOTHING;
  SELECT * INTO STRICT found FROM scopefloor.embedder WHERE name = of_name;
  IF found.dimensions <> of_dimensions THEN
    RAISE EXCEPTION 'the embedding model % gave % dimensions before and gives % now', of_name, found.dimensions, of_dimensions;
  END IF;
  RETURN found.id;
END $$;
