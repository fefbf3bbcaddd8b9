-- What the journal of receipts asks of the database, and what a replay does (src/forget/replay).

-- What is to be kept outside, since a time (null: all): receipts by which anything went, and keys whose
-- secret, rights or end were changed. Scopes by their hashes; what was taken by labels, which are words, or by its last use, which a
-- backup does not know, only by its numbers. (What names an erased scope by its
-- marker needs no line: the erasure has one.)
CREATE OR REPLACE FUNCTION scopefloor.journal_lines(since timestamptz) RETURNS TABLE (line jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' AS $$
  SELECT l.line FROM (
    SELECT jsonb_build_object('kind', 'receipt', 'id', r.id, 'at', r.created_at,
             'target', coalesce(r.target->>'!digest', scopefloor.scope_digest(r.target)), 'scope', scopefloor.scope_digest(s.tags),
             'subtree', r.subtree, 'action', r.action, 'policy', r.policy, 'counts', r.counts, 'items', r.items, 'selector', r.selector, 'by', r.api_key_id, 'jws', r.jws),
           r.created_at
    FROM scopefloor.forget_receipt r JOIN scopefloor.scope s ON s.id = r.scope_id
    WHERE NOT r.target ? '!erased' AND EXISTS (SELECT 1 FROM jsonb_each(r.counts) n WHERE n.value <> '0')
    UNION ALL
    SELECT jsonb_build_object('kind', 'key', 'id', k.id, 'at', coalesce(k.changed_at, k.revoked_at)), coalesce(k.changed_at, k.revoked_at)
    FROM scopefloor.api_key k WHERE coalesce(k.changed_at, k.revoked_at) IS NOT NULL) l(line, at)
  WHERE since IS NULL OR l.at >= since ORDER BY l.at
$$;

-- Of an array of such lines the places (from 0) of those that this database has not seen: a receipt that
-- is not there, a key that is as it was before the change.
CREATE OR REPLACE FUNCTION scopefloor.unknown_lines(lines jsonb) RETURNS TABLE (place int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (l.n - 1)::int FROM jsonb_array_elements(lines) WITH ORDINALITY l(line, n)
  WHERE CASE l.line->>'kind'
    WHEN 'key' THEN EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.id = (l.line->>'id')::uuid AND k.revoked_at IS NULL
                            AND coalesce(k.changed_at, k.created_at) < (l.line->>'at')::timestamptz)
    ELSE NOT EXISTS (SELECT 1 FROM scopefloor.forget_receipt r WHERE r.id = (l.line->>'id')::uuid) END
$$;

-- For a process that may not do them again itself, at its start: whether each of the lines is known. Null
-- inside a tenant's transaction, which has no business with others' receipts and keys.
CREATE OR REPLACE FUNCTION scopefloor.knows_lines(lines jsonb) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN scopefloor.ticket() IS NULL THEN NOT EXISTS (SELECT 1 FROM scopefloor.unknown_lines(lines)) END
$$;

-- Every set of tags that stands anywhere, to find by its hash what was erased: the dictionary's, and
-- those of questions, refused attempts and receipts about scopes that have no row of their own. Without
-- what cannot be a scope: a refused request may have asked for more tags than one has.
CREATE OR REPLACE FUNCTION scopefloor.named_scopes() RETURNS TABLE (tags jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT n.tags FROM (
    SELECT s.tags FROM scopefloor.scope s
    UNION SELECT d.scope FROM scopefloor.decision_trace d
    UNION SELECT r.target FROM scopefloor.forget_receipt r WHERE NOT r.target ? '!digest'
    UNION SELECT a.floor FROM scopefloor.access_denied a
    UNION SELECT c->'tags' FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c
    UNION SELECT a.floor || (c->'tags') FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c) AS n(tags)
  WHERE CASE jsonb_typeof(n.tags) WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys(n.tags) d WHERE d NOT LIKE '!%') <= 8 END
$$;

-- An operator's key for the time of a replay, below the first one.
CREATE OR REPLACE FUNCTION scopefloor.begin_replay(key_id uuid, key_hash bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO scopefloor.api_key (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, minted_verbs, secret_hash, expires_at)
  SELECT key_id, 0, 0, k.id, 'replay ' || key_id, 'management', '{}', '{memory:forget,memory:read,memory:write}', '{memory:forget,memory:read,memory:write}', sha256(key_hash), clock_timestamp() + interval '1 hour'
  FROM scopefloor.api_key k WHERE k.parent_id IS NULL ORDER BY k.created_at LIMIT 1
$$;

-- Revokes the key of begin_replay.
CREATE OR REPLACE FUNCTION scopefloor.end_replay(key_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.api_key SET revoked_at = clock_timestamp() WHERE id = key_id AND name = 'replay ' || key_id
$$;

-- A line of the journal that was done again: its receipt is there again, at the scope where it stood or
-- else at {}, or its key is revoked.
CREATE OR REPLACE FUNCTION scopefloor.note_replayed(line jsonb, stood_at jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF line->>'kind' = 'key' THEN
    UPDATE scopefloor.api_key SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL
    WHERE id = (line->>'id')::uuid AND revoked_at IS NULL;
  ELSE
    INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, items, selector, api_key_id, created_at, jws)
    SELECT s.tenant_id, s.id, (line->>'id')::uuid, jsonb_build_object('!digest', line->>'target'),
           (line->>'subtree')::bool, line->>'action', line->>'policy', line->'counts', nullif(line->'items', 'null'), nullif(line->'selector', 'null'), (line->>'by')::uuid,
           (line->>'at')::timestamptz, line->>'jws'
    FROM scopefloor.scope s WHERE s.tags = stood_at OR s.id = 0 ORDER BY s.tags = stood_at DESC NULLS LAST LIMIT 1;
  END IF;
END $$;
