-- Keys. The application's role has no privilege on api_key; these functions check the ticket.

-- A key as the API shows it, without any secret.
CREATE OR REPLACE FUNCTION scopefloor.key_row(k scopefloor.api_key) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object(
    'id', k.id, 'name', k.name, 'principal', k.principal, 'scopeFloor', k.floor, 'verbs', to_jsonb(k.verbs), 'content', k.content,
    'defaultView', scopefloor.default_view_of(k),
    'status', CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= clock_timestamp() THEN 'expired' ELSE 'active' END,
    'createdAt', k.created_at, 'createdBy', k.parent_id, 'lastUsedAt', k.last_used_at, 'expiresAt', k.expires_at, 'revokedAt', k.revoked_at)
$$;

-- Whether the ticket's key may see a key, or with `to_change` rotate, revoke or narrow it. Both take its
-- floor, verbs and content, since who changes a key can come to hold its secret: of its own children as
-- they are now, of others as they were minted, because what was narrowed can be given back. To be seen:
-- itself, those that it minted, and for management those inside its floor. Whoever manages reads usage, so
-- that usage:read is no right that it lacks. To be changed, of other
-- management keys only those that come from it, or whose floor is narrower.
CREATE OR REPLACE FUNCTION scopefloor.may_manage(t jsonb, k scopefloor.api_key, to_change bool) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  caller uuid := (t->>'key')::uuid;
BEGIN
  IF k.id IS NULL OR NOT k.floor @> (t->'floor') THEN
    RETURN false;
  END IF;
  IF NOT to_change AND k.id = caller THEN
    RETURN true;
  END IF;
  -- A supervisor changes none, and one that reads usage at most none but itself.
  IF to_change AND (t->>'principal' = 'supervisor' OR (k.id <> caller AND t->'verbs' <@ '["usage:read"]')) THEN
    RETURN false;
  END IF;
  IF k.id = caller OR k.parent_id = caller OR (k.principal = 'management' AND scopefloor.descends_from(k.id, caller)) THEN
    RETURN to_jsonb(array_remove(k.verbs, 'usage:read')) <@ (t->'verbs') AND (NOT k.content OR (t->>'content')::bool);
  END IF;
  RETURN t->>'principal' = 'management'
    AND to_jsonb(array_remove(k.minted_verbs, 'usage:read')) <@ (t->'verbs') AND (NOT k.content OR (t->>'content')::bool)
    AND (NOT to_change OR k.principal <> 'management' OR t->'floor' <> k.floor);
END $$;

-- Mints a key that is never wider than the ticket and the key behind it: floor = asked ∪ the caller's,
-- verbs a subset. What it sees by default is as asked, as the minting agent sees, as a setting above its floor
-- says, or as `usual_view` does.
CREATE OR REPLACE FUNCTION scopefloor.mint_key(new_id uuid, key_hash bytea, new_name text, new_principal text, asked_floor jsonb,
                                    asked_verbs text[], with_content bool, expires timestamptz, asked_view text, usual_view text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  own scopefloor.api_key;
  made scopefloor.api_key;
  at_scope scopefloor.scope;
  parent_verbs text[];
  child_floor jsonb := coalesce(asked_floor, '{}');
  child_content bool := coalesce(with_content, (t->>'content')::bool);
BEGIN
  -- Locked: a child that is minted while its parent is being revoked would outlive it.
  SELECT * INTO own FROM scopefloor.api_key WHERE id = (t->>'key')::uuid AND revoked_at IS NULL FOR SHARE;
  IF own.id IS NULL THEN
    RETURN '{"status": "unauthorized", "detail": ""}';
  END IF;
  -- The ticket is from before the lock: verbs that were taken away meanwhile are gone.
  parent_verbs := ARRAY(SELECT jsonb_array_elements_text(t->'verbs') INTERSECT SELECT unnest(own.verbs) ORDER BY 1);
  IF t->>'verb' = 'self' THEN
    IF own.principal = 'supervisor' THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor does not mint keys');
    END IF;
    new_principal := own.principal;
  END IF;
  PERFORM scopefloor.check_tags(child_floor);
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
  IF t->'verbs' <@ '["usage:read"]' THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this key reads usage at most and mints none');
  END IF;
  -- Who manages reads usage: it is a verb for those who do nothing else, and nobody inherits it.
  IF 'usage:read' = ANY (asked_verbs) AND (new_principal <> 'management' OR t->>'verb' <> 'manage') THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'usage:read is a verb of management keys');
  END IF;
  parent_verbs := array_remove(parent_verbs, 'usage:read');
  IF NOT array_remove(coalesce(asked_verbs, parent_verbs), 'usage:read') <@ parent_verbs THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'the new key would have verbs that the minting key lacks');
  END IF;
  IF child_content AND NOT (t->>'content')::bool THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key with content: false cannot mint a key with content: true');
  END IF;
  IF NOT child_content AND new_principal <> 'management' THEN
    RETURN jsonb_build_object('status', CASE WHEN (t->>'content')::bool THEN 'unprocessable' ELSE 'forbidden' END, 'detail', 'content: false is for management keys');
  END IF;
  IF t->'floor' <> '{}' AND (SELECT count(*) FROM (SELECT 1 FROM scopefloor.api_key k WHERE k.parent_id = own.id AND k.revoked_at IS NULL LIMIT 10000) n) = 10000 THEN
    RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', 'this key has minted 10000 keys that are not revoked, and may have no more');
  END IF;
  -- What an agent delegates ends with it.
  IF own.principal = 'agent' THEN
    expires := least(expires, own.expires_at);
  END IF;
  IF asked_view IS NULL THEN
    asked_view := coalesce(CASE WHEN own.principal = 'agent' THEN own.default_view END,
      (SELECT v.value#>>'{}' FROM scopefloor.settings_above(child_floor) v WHERE v.name = 'defaultView'), usual_view);
  END IF;
  PERFORM scopefloor.hold_scope(child_floor);
  at_scope := scopefloor.ensure_scope(child_floor);
  PERFORM scopefloor.check_room('keys', child_floor);
  INSERT INTO scopefloor.api_key (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, minted_verbs, content, secret_hash, expires_at, default_view)
  VALUES (new_id, at_scope.tenant_id, at_scope.id, own.id, new_name, new_principal, child_floor,
          coalesce(asked_verbs, parent_verbs), coalesce(asked_verbs, parent_verbs), child_content, sha256(key_hash), expires, asked_view)
  ON CONFLICT DO NOTHING
  RETURNING * INTO made;
  IF made.id IS NULL THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', 'this key has already minted a key of that name');
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;

-- The keys whose floor holds E (the ticket's floor, or the narrower scope asked for), newest first:
-- {total, keys}.
CREATE OR REPLACE FUNCTION scopefloor.list_keys(named text, skip int, take int) RETURNS jsonb
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
      WHERE k.scope_id IN (SELECT s.id FROM scopefloor.scope s WHERE s.tags @> (t->'target')) AND (named IS NULL OR k.name = named)
        AND scopefloor.may_manage(t, k, false))
    SELECT jsonb_build_object(
      'total', (SELECT count(*) FROM reached),
      'keys', coalesce((SELECT jsonb_agg(scopefloor.key_row(page.k)) FROM
        (SELECT r.k FROM reached r ORDER BY (r.k).created_at DESC, (r.k).id DESC LIMIT take OFFSET skip) page), '[]')));
END $$;

-- The caller's own row and those that it minted.
CREATE OR REPLACE FUNCTION scopefloor.own_keys() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.key_row(k) ORDER BY k.id <> caller, k.created_at, k.id), '[]')
          FROM scopefloor.api_key k WHERE (k.id = caller OR k.parent_id = caller) AND k.revoked_at IS NULL AND scopefloor.may_manage(t, k, false));
END $$;

-- One key that the caller may see.
CREATE OR REPLACE FUNCTION scopefloor.known_key(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
BEGIN
  RETURN (SELECT scopefloor.key_row(k) FROM scopefloor.api_key k WHERE k.id = of_id AND k.revoked_at IS NULL AND scopefloor.may_manage(t, k, false));
END $$;

-- The keys that the caller may see; 500 at most.
CREATE OR REPLACE FUNCTION scopefloor.known_keys() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.key_row(k) ORDER BY k.id <> caller, k.created_at, k.id), '[]')
          FROM (SELECT * FROM scopefloor.api_key a
                WHERE a.revoked_at IS NULL
                  AND CASE t->>'principal' WHEN 'management' THEN a.scope_id IN (SELECT s.id FROM scopefloor.scope s WHERE s.tags @> (t->'floor'))
                                           ELSE a.id = caller OR a.parent_id = caller END
                  AND scopefloor.may_manage(t, a, false)
                ORDER BY a.id <> caller, a.created_at, a.id LIMIT 500) k);
END $$;

-- Whether a key was minted by that one, or by one that it minted, and so on.
CREATE OR REPLACE FUNCTION scopefloor.descends_from(child uuid, ancestor uuid) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE above AS (
    SELECT k.parent_id AS id FROM scopefloor.api_key k WHERE k.id = child
    UNION
    SELECT k.parent_id FROM scopefloor.api_key k JOIN above a ON k.id = a.id)
  SELECT EXISTS (SELECT 1 FROM above a WHERE a.id = ancestor)
$$;

-- At most once a minute, outside the request's transaction.
CREATE OR REPLACE FUNCTION scopefloor.touch_key(key_hash bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.api_key k SET last_used_at = clock_timestamp()
  WHERE k.id = (scopefloor.live_key(key_hash)).id
    AND (k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute')
$$;

-- Trigger: notes when a key's secret, rights or end changed, for the journal.
CREATE OR REPLACE FUNCTION scopefloor.note_key_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;
