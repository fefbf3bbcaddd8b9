-- Changing keys: rotating, revoking, and taking verbs or giving them back. Who may is said by may_manage (7_keys.sql).

-- The key that a call names, where it may be changed: by id anywhere inside the floor (management), by
-- name among those that the caller minted, or the caller itself. NULL looks the same for "none" and "not yours".
CREATE OR REPLACE FUNCTION scopefloor.named_key(id_or_name text) RETURNS scopefloor.api_key
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
  found scopefloor.api_key;
BEGIN
  IF t->>'verb' = 'manage' AND id_or_name ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    SELECT * INTO found FROM scopefloor.api_key k WHERE k.id = id_or_name::uuid AND k.revoked_at IS NULL;
  END IF;
  IF found.id IS NULL THEN
    SELECT * INTO found FROM scopefloor.api_key k
    WHERE (k.parent_id = caller OR (k.id = caller AND t->>'verb' = 'self')) AND k.name = id_or_name AND k.revoked_at IS NULL
    ORDER BY k.id <> caller LIMIT 1;
  END IF;
  IF NOT scopefloor.may_manage(t, found, true) THEN
    RETURN NULL;
  END IF;
  RETURN found;
END $$;

-- The principal of the key that a call names (named_key); NULL where there is none.
CREATE OR REPLACE FUNCTION scopefloor.principal_of(id_or_name text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.named_key(id_or_name)).principal
$$;

-- A key and everything that was delegated from it: the keys that agents minted for themselves. Keys that
-- a management key minted are not among them, they are other people's. Without the branches of `kept`.
CREATE OR REPLACE FUNCTION scopefloor.delegated_from(of_id uuid, kept uuid[] DEFAULT '{}') RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE delegated AS (
    SELECT k.id, k.principal FROM scopefloor.api_key k WHERE k.id = of_id
    UNION
    SELECT k.id, k.principal FROM scopefloor.api_key k JOIN delegated d ON k.parent_id = d.id WHERE d.principal = 'agent' AND NOT k.id = ANY (kept))
  SELECT d.id FROM delegated d
$$;

-- Revokes a key's delegates. Waits for whoever is minting from one of them, and again for what those
-- minted: until nothing is left.
CREATE OR REPLACE FUNCTION scopefloor.revoke_delegates(of_id uuid, kept uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  LOOP
    UPDATE scopefloor.api_key k SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL
    WHERE k.id IN (SELECT scopefloor.delegated_from(of_id, kept)) AND k.id <> of_id AND k.revoked_at IS NULL;
    EXIT WHEN NOT FOUND;
  END LOOP;
END $$;

-- Gives a key another secret. Who held the old one may have minted from it: without a time of grace the
-- agents' keys below it end, but for those children that are named; with one, the old secret stays valid so
-- long. {status: ok, key, children: [{id, name}] that live on} | {status: not-found, detail}.
CREATE OR REPLACE FUNCTION scopefloor.rotate_key(id_or_name text, key_hash bytea, expires timestamptz, grace_seconds int, keep text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.api_key := scopefloor.named_key(id_or_name);
  parent scopefloor.api_key;
  made scopefloor.api_key;
  kept uuid[];
BEGIN
  IF found.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  SELECT * INTO parent FROM scopefloor.api_key WHERE id = found.parent_id;
  -- Rotating is no way to outlive what was granted: a key does not lengthen its own life.
  IF found.id = scopefloor.caller() OR parent.principal = 'agent' THEN
    expires := least(coalesce(expires, found.expires_at), found.expires_at);
  END IF;
  -- Each names one: an id by its form, which no name has.
  kept := ARRAY(SELECT (SELECT k.id FROM scopefloor.api_key k WHERE k.parent_id = found.id AND k.revoked_at IS NULL
                        AND CASE WHEN named ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN k.id = named::uuid ELSE k.name = named END) FROM unnest(keep) named);
  IF array_position(kept, NULL) IS NOT NULL THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'keepChildren names a key that is no child of this one');
  END IF;
  -- This one first: who mints from it waits, and finds another secret.
  -- One that had ended comes back, and is one more.
  IF found.expires_at <= clock_timestamp() AND coalesce(expires, found.expires_at) > clock_timestamp() THEN
    PERFORM scopefloor.check_room('keys', found.floor);
  END IF;
  UPDATE scopefloor.api_key k
  SET secret_hash = sha256(key_hash),
      previous_hash = CASE WHEN grace_seconds > 0 THEN k.secret_hash END,
      previous_until = CASE WHEN grace_seconds > 0 THEN clock_timestamp() + make_interval(secs => grace_seconds) END,
      expires_at = coalesce(expires, k.expires_at)
  WHERE k.id = found.id
  RETURNING * INTO made;
  IF grace_seconds = 0 THEN
    PERFORM scopefloor.revoke_delegates(found.id, kept);
  END IF;
  -- No delegate lives longer than what it came from.
  UPDATE scopefloor.api_key k SET expires_at = made.expires_at
  WHERE made.expires_at IS NOT NULL AND k.id <> made.id AND k.id IN (SELECT scopefloor.delegated_from(made.id)) AND (k.expires_at IS NULL OR k.expires_at > made.expires_at);
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made), 'children', coalesce((
    SELECT jsonb_agg(jsonb_build_object('id', c.id, 'name', c.name) ORDER BY c.created_at, c.id)
    FROM (SELECT * FROM scopefloor.api_key k WHERE k.parent_id = made.id AND k.revoked_at IS NULL
            AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp()) ORDER BY k.created_at, k.id LIMIT 500) c), '[]'));
END $$;

-- Revokes a key and everything that was delegated from it.
CREATE OR REPLACE FUNCTION scopefloor.revoke_key(id_or_name text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target scopefloor.api_key := scopefloor.named_key(id_or_name);
BEGIN
  IF target.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  UPDATE scopefloor.api_key k SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL WHERE k.id = target.id;
  PERFORM scopefloor.revoke_delegates(target.id, '{}');
  RETURN jsonb_build_object('status', 'ok');
END $$;

-- Leaves a key these of its verbs. Management may give back what was taken, up to what it has itself and
-- what the key was minted with; what a key above took only that one, or one above it, gives back.
CREATE OR REPLACE FUNCTION scopefloor.change_verbs(of_id uuid, wanted text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  target scopefloor.api_key;
  made scopefloor.api_key;
BEGIN
  IF t->>'principal' = 'supervisor' THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor does not change keys');
  END IF;
  SELECT * INTO target FROM scopefloor.api_key k WHERE k.id = of_id AND k.revoked_at IS NULL FOR NO KEY UPDATE;
  IF NOT scopefloor.may_manage(t, target, true) THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  IF NOT wanted <@ target.verbs THEN
    IF t->>'principal' <> 'management' OR target.id = (t->>'key')::uuid OR NOT wanted <@ target.minted_verbs OR NOT to_jsonb(array_remove(wanted, 'usage:read')) <@ (t->'verbs') THEN
      RETURN jsonb_build_object('status', 'unprocessable', 'detail', format('a key''s grants can only narrow, or go back to what it was minted with by a management key that has as much: it does not have %s',
        array_to_string(ARRAY(SELECT w FROM unnest(wanted) w WHERE NOT w = ANY (target.verbs)), ', ')));
    END IF;
    IF NOT coalesce(target.narrowed_by @> (t->'floor'), true) THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', 'the verbs were taken by a key above this one');
    END IF;
    IF EXISTS (SELECT 1 FROM scopefloor.api_key p WHERE p.id = target.parent_id AND p.principal = 'agent' AND NOT wanted <@ p.verbs) THEN
      RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'the key was minted by an agent that does not have as much itself');
    END IF;
  END IF;
  UPDATE scopefloor.api_key k
  SET verbs = ARRAY(SELECT unnest(wanted) ORDER BY 1),
      -- Of two who took verbs the one above counts, and where neither is, what is above both.
      narrowed_by = CASE WHEN k.minted_verbs <@ wanted THEN NULL
                         WHEN wanted @> k.verbs THEN k.narrowed_by
                         ELSE scopefloor.common_tags(k.narrowed_by, t->'floor') END
  WHERE k.id = of_id RETURNING * INTO made;
  -- What it delegated cannot do more than it: agents' children narrow with it. Waits for whoever is
  -- minting from one of them, and again for what those minted: until nothing is left.
  LOOP
    UPDATE scopefloor.api_key k SET verbs = ARRAY(SELECT unnest(k.verbs) INTERSECT SELECT unnest(made.verbs) ORDER BY 1),
      narrowed_by = scopefloor.common_tags(k.narrowed_by, t->'floor')
    WHERE k.id IN (SELECT scopefloor.delegated_from(made.id)) AND k.id <> made.id AND NOT k.verbs <@ made.verbs;
    EXIT WHEN NOT FOUND;
  END LOOP;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;
