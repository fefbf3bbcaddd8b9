ALTER TABLE "scopefloor"."forget_receipt" ADD COLUMN "items" jsonb;--> statement-breakpoint
-- Receipts and revocations outlive the database in a file (src/forget/journal.ts): after an older
-- backup was restored they are done again, before the service answers anyone. For the owner's
-- connection alone.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
ALTER TABLE scopefloor.forget_receipt ALTER items SET STATISTICS 0;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- What is to be kept outside: each receipt, and each revoked key by its id. Since a time; null: all.
CREATE FUNCTION scopefloor.journal_lines(since timestamptz) RETURNS SETOF jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' AS $$
  SELECT line FROM (
    SELECT to_jsonb(r) AS line, r.created_at AS at FROM scopefloor.forget_receipt r
    UNION ALL SELECT jsonb_build_object('id', k.id, 'revoked_at', k.revoked_at), k.revoked_at FROM scopefloor.api_key k WHERE k.revoked_at IS NOT NULL) l
  WHERE since IS NULL OR l.at >= since ORDER BY l.at
$$;
--> statement-breakpoint
-- Of the lines of a journal those that this database knows nothing of: their ids.
CREATE FUNCTION scopefloor.unknown_lines(lines jsonb) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (l->>'id')::uuid FROM jsonb_array_elements(lines) l
  WHERE CASE WHEN l ? 'revoked_at' THEN EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.id = (l->>'id')::uuid AND k.revoked_at IS NULL)
             ELSE NOT EXISTS (SELECT 1 FROM scopefloor.forget_receipt r WHERE r.id = (l->>'id')::uuid) END
$$;
--> statement-breakpoint
-- The dictionary, to find by its digest what was erased.
CREATE FUNCTION scopefloor.every_scope() RETURNS TABLE (tags jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT s.tags FROM scopefloor.scope s WHERE s.id <> 0 $$;
--> statement-breakpoint
-- An operator's key for the time of a replay, below the first one.
CREATE FUNCTION scopefloor.begin_replay(key_id uuid, key_hash bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO scopefloor.api_key (id, scope_id, parent_id, name, principal, floor, verbs, secret_hash, expires_at)
  SELECT key_id, 0, k.id, 'replay ' || key_id, 'management', '{}', '{memory:forget,memory:read,memory:write}', sha256(key_hash), clock_timestamp() + interval '1 hour'
  FROM scopefloor.api_key k WHERE k.parent_id IS NULL ORDER BY k.created_at LIMIT 1
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.end_replay(key_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.api_key SET revoked_at = clock_timestamp() WHERE id = key_id AND name = 'replay ' || key_id
$$;
--> statement-breakpoint
-- A line of the journal that was done again: a receipt is there again, or a key revoked.
CREATE FUNCTION scopefloor.note_replayed(line jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF line ? 'revoked_at' THEN
    UPDATE scopefloor.api_key SET revoked_at = (line->>'revoked_at')::timestamptz, previous_hash = NULL, previous_until = NULL
    WHERE id = (line->>'id')::uuid AND revoked_at IS NULL;
  ELSE
    INSERT INTO scopefloor.forget_receipt (scope_id, id, target, subtree, action, policy, counts, items, api_key_id, created_at)
    SELECT coalesce((SELECT s.id FROM scopefloor.scope s WHERE s.id = (line->>'scope_id')::int), 0), (line->>'id')::uuid, line->'target',
           (line->>'subtree')::bool, line->>'action', line->>'policy', line->'counts', nullif(line->'items', 'null'), (line->>'api_key_id')::uuid,
           (line->>'created_at')::timestamptz;
  END IF;
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.journal_lines(timestamptz), scopefloor.unknown_lines(jsonb), scopefloor.every_scope(),
  scopefloor.begin_replay(uuid, bytea), scopefloor.end_replay(uuid), scopefloor.note_replayed(jsonb) FROM PUBLIC;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
DO $$
DECLARE
  owner name := current_user;
BEGIN
  SET LOCAL ROLE scopefloor_definer;
  EXECUTE format('GRANT EXECUTE ON FUNCTION scopefloor.journal_lines(timestamptz), scopefloor.unknown_lines(jsonb), scopefloor.every_scope(),
    scopefloor.begin_replay(uuid, bytea), scopefloor.end_replay(uuid), scopefloor.note_replayed(jsonb) TO %I', owner);
  RESET ROLE;
END $$;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
