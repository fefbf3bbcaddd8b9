-- Cached answers: a forget drops those that saw what it takes, and no neighbour's; none is stored
-- beside a forget, or once something visible has changed.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- Of the scopes in a list, what recall_state says of them as `version`.
CREATE FUNCTION scopefloor.version_of(ids int[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT string_agg(v.scope_id || ':' || v.change, ' ' ORDER BY v.scope_id)
  FROM (SELECT c.scope_id, sum(c.change) AS change FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids) GROUP BY 1) v
$$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION scopefloor.cache_answer(question bytea, seen text, given jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  key bytea := scopefloor.cache_key(t, question);
  ids int[];
BEGIN
  IF key IS NULL OR seen IS NULL OR octet_length(given::text) > 16384 THEN
    RAISE EXCEPTION 'scopefloor: not an answer of a recall' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- A forget is under way, whose ever: its rows are locked, and what it takes may be in this answer.
  IF NOT pg_try_advisory_xact_lock_shared(7700, 2) THEN
    RETURN;
  END IF;
  ids := ARRAY(SELECT jsonb_array_elements_text(t->'read'->'ids')::int) || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
  IF scopefloor.version_of(ids) IS DISTINCT FROM seen THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.response_cache AS r (scope_id, digest, version, answer)
  VALUES ((t->'trace'->>'id')::int, key, seen, given)
  ON CONFLICT (scope_id, digest) DO UPDATE SET version = excluded.version, answer = excluded.answer, created_at = excluded.created_at;
END $$;
--> statement-breakpoint
-- Drops stored answers that may hold what is being forgotten, in the transaction that forgets it: of
-- those stored for repeated requests each whose scope does not contradict the target, since views
-- above and beside it can see its rows; of the cache, which keeps ids alone, each whose version names
-- a scope that is being changed. Gives how many of the target's own repeated requests; the others are
-- not the caller's to know.
CREATE OR REPLACE FUNCTION scopefloor.drop_recalled_answers() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  dropped int;
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM pg_advisory_xact_lock(7700, 2);
  IF (t->'modify'->>'all')::bool THEN
    DELETE FROM scopefloor.response_cache;
  ELSE
    DELETE FROM scopefloor.response_cache r USING (SELECT scopefloor.ids_in(t->'modify') AS ids) m
    WHERE EXISTS (SELECT 1 FROM unnest(string_to_array(r.version, ' ')) seen WHERE split_part(seen, ':', 1)::int = ANY (m.ids));
  END IF;
  WITH gone AS (
    DELETE FROM scopefloor.idempotency i USING scopefloor.scope s
    WHERE i.recalled AND i.created_at <> transaction_timestamp() AND s.id = i.scope_id AND NOT scopefloor.contradicts(s.tags, t->'target')
    RETURNING s.tags)
  SELECT count(*) INTO dropped FROM gone WHERE tags @> (t->'target');
  RETURN dropped;
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.version_of(int[]) FROM PUBLIC;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
