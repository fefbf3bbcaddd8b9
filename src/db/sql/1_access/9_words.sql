-- Words are looked up by keyed hashes. What an index holds can be asked for below the row policies, by
-- every login that may read the table (0_foundation.sql): so it holds no word of a tenant, and nothing that
-- can be computed from one without the tenant's secret.

-- The hash of a word under a secret: 128 bits of a nested SHA-256. (Without SET, so that it is inlined.)
CREATE OR REPLACE FUNCTION scopefloor.word_hash(secret bytea, word text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.encode(pg_catalog.substring(pg_catalog.sha256(secret OPERATOR(pg_catalog.||) pg_catalog.sha256(pg_catalog.convert_to(word, 'UTF8'))), 1, 16), 'hex')::pg_catalog.uuid
$$;

-- What an entity is looked up by: its type and name as one word.
CREATE OR REPLACE FUNCTION scopefloor.entity_word(of_type text, of_name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT of_type OPERATOR(pg_catalog.||) pg_catalog.chr(31) OPERATOR(pg_catalog.||) of_name
$$;

-- The secret under which the words of a scope are hashed: one of its own, made from its tenant's, so that
-- who reads one scope of a tenant can ask for no word of another.
CREATE OR REPLACE FUNCTION scopefloor.word_secret(of_tenant int, of_scope int) RETURNS bytea
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found bytea;
BEGIN
  SELECT t.secret INTO STRICT found FROM scopefloor.tenant t WHERE t.id = of_tenant;
  RETURN sha256(found || int4send(of_scope));
END $$;

-- What an entity of a scope is looked up by.
CREATE OR REPLACE FUNCTION scopefloor.entity_hash(at_tenant int, at_scope int, of_type text, of_name text) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), scopefloor.entity_word(of_type, of_name));
END $$;

-- Trigger: the hashes follow their words, whoever writes them.
CREATE OR REPLACE FUNCTION scopefloor.set_lookup() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  secret bytea := scopefloor.word_secret(NEW.tenant_id, NEW.scope_id);
BEGIN
  IF TG_TABLE_NAME = 'entity' THEN
    NEW.name_hash := scopefloor.word_hash(secret, scopefloor.entity_word(NEW.type, NEW.name));
  ELSIF TG_TABLE_NAME IN ('attribute', 'relation', 'memory_item') THEN
    NEW.key_hash := scopefloor.word_hash(secret, NEW.key);
  ELSIF TG_TABLE_NAME = 'session' THEN
    NEW.name_hash := scopefloor.word_hash(secret, NEW.api_key_id::text || chr(31) || NEW.name);
  ELSIF TG_TABLE_NAME = 'keyword' THEN
    NEW.normalised_hash := scopefloor.word_hash(secret, NEW.normalised);
  ELSIF TG_TABLE_NAME = 'document' THEN
    NEW.content_key := scopefloor.word_hash(secret, NEW.content_hash);
  ELSE
    RAISE EXCEPTION 'scopefloor: % has no words to look up', TG_TABLE_NAME;
  END IF;
  RETURN NEW;
END $$;

-- The hashes of these words at each scope where the ticket reads, changes or writes content.
CREATE OR REPLACE FUNCTION scopefloor.lookup_hashes(words text[]) RETURNS TABLE (word text, hash uuid, scope_id int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 4 AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('memory:read', 'memory:write', 'memory:forget') OR NOT (t->>'content')::bool THEN
    RAISE EXCEPTION 'scopefloor: no ticket for content' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN QUERY
    SELECT w, scopefloor.word_hash(sha256(k.secret || int4send(s.id)), w), s.id
    FROM scopefloor.scope s JOIN scopefloor.tenant k ON k.id = s.tenant_id, unnest(words) w
    WHERE s.id = ANY (scopefloor.ids_in(t->'read') || scopefloor.ids_in(t->'modify') || (t->>'write')::int
                      || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END);
END $$;
