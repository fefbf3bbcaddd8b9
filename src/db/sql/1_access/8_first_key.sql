-- The first management key of a Context: for the owner's connection alone.

-- The first management key, once: a start never brings back a secret that was rotated or revoked.
-- For the owner's connection alone. Whether this call made it.
CREATE OR REPLACE FUNCTION scopefloor.set_first_key(new_id uuid, key_hash bytea) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(7700, 1);
  IF scopefloor.has_first_key() THEN
    RETURN false;
  END IF;
  INSERT INTO scopefloor.api_key (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, minted_verbs, secret_hash)
  VALUES (new_id, 0, 0, NULL, 'management', 'management', '{}', '{memory:forget,memory:read,memory:write}', '{memory:forget,memory:read,memory:write}', sha256(key_hash));
  RETURN true;
END $$;

-- For an operator who has lost every management key: gives the first key another secret, of which it is
-- told the SHA-256 alone. False: there is no first key yet.
CREATE OR REPLACE FUNCTION scopefloor.recover_first_key(key_hash bytea) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF key_hash IS NULL OR octet_length(key_hash) <> 32 THEN
    RAISE EXCEPTION 'the hash must be a SHA-256';
  END IF;
  UPDATE scopefloor.api_key
  SET secret_hash = sha256(key_hash), previous_hash = NULL, previous_until = NULL, revoked_at = NULL
  WHERE id = (SELECT k.id FROM scopefloor.api_key k WHERE k.parent_id IS NULL ORDER BY k.created_at LIMIT 1);
  RETURN FOUND;
END $$;

-- Whether the Context has its first management key.
CREATE OR REPLACE FUNCTION scopefloor.has_first_key() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.api_key WHERE parent_id IS NULL)
$$;
