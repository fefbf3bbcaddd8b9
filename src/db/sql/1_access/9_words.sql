-- Words are looked up by keyed hashes. What an index holds can be asked for below the row policies, by
-- every login that may read the table (0_foundation.sql): so it holds no word of a tenant, and nothing that
-- can be computed from one without the tenant's secret.

-- The normal form of a text, in which texts are compared and indexed: compatibility forms made one, and what
-- has no look left out. The same as src/text/normal-form.ts, for what the database has to read by itself.
CREATE OR REPLACE FUNCTION scopefloor.normal_form(said text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN said ~ '^[\x01-\x7f]*$' THEN said ELSE normalize(regexp_replace(normalize(said, NFKC),
    '[\u00AD\u034F\u061C\u115F\u1160\u17B4\u17B5\u180B-\u180F\u200B-\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFF8\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]',
    '', 'g'), NFKC) END
$$;

-- The hash of a word under a secret: 128 bits of a nested SHA-256. (Without SET, so that it is inlined.)
CREATE OR REPLACE FUNCTION scopefloor.word_hash(secret bytea, word text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.encode(pg_catalog.substring(pg_catalog.sha256(secret OPERATOR(pg_catalog.||) pg_catalog.sha256(pg_catalog.convert_to(word, 'UTF8'))), 1, 16), 'hex')::pg_catalog.uuid
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

-- Trigger: the hashes follow their words, whoever writes them.
CREATE OR REPLACE FUNCTION scopefloor.set_lookup() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  secret bytea := scopefloor.word_secret(NEW.tenant_id, NEW.scope_id);
BEGIN
  IF TG_TABLE_NAME = 'entity' THEN
    -- The service gives the forms of a name (src/text/names.ts); where it has not, the name stands as it is.
    NEW.identity := coalesce(nullif(NEW.identity, ''), NEW.type || chr(31) || NEW.name);
    NEW.folded := coalesce(nullif(NEW.folded, ''), NEW.name);
    NEW.name_hash := scopefloor.word_hash(secret, NEW.identity);
    NEW.folded_hash := scopefloor.word_hash(secret, NEW.folded);
  ELSIF TG_TABLE_NAME IN ('attribute', 'relation') THEN
    NEW.normal_key := coalesce(nullif(NEW.normal_key, ''), NEW.key);
    NEW.key_hash := scopefloor.word_hash(secret, NEW.normal_key);
  ELSIF TG_TABLE_NAME = 'memory_item' THEN
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
