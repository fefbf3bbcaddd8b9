-- Recall at every size: counts and graphs for the planner, the cache of answers, turns at the
-- database's connections.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
GRANT USAGE ON SEQUENCE scopefloor.change_number TO scopefloor_definer;
--> statement-breakpoint
ALTER TABLE scopefloor.response_cache ALTER answer SET STATISTICS 0, ALTER digest SET STATISTICS 0, ALTER version SET STATISTICS 0;
--> statement-breakpoint
-- Like content, where a report has no use for it.
GRANT SELECT (saved_tokens, plan) ON scopefloor.decision_trace TO scopefloor_report;
--> statement-breakpoint
DO $$
DECLARE
  t text;
BEGIN
  -- Reached through definer functions alone.
  FOREACH t IN ARRAY ARRAY['vector_index', 'response_cache'] LOOP
    EXECUTE format('ALTER TABLE scopefloor.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE scopefloor.%I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY definer ON scopefloor.%I TO scopefloor_definer USING (true) WITH CHECK (true)', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON scopefloor.%I TO scopefloor_definer', t);
  END LOOP;
END $$;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- A turn's passage knows its place, so that recall finds what was said around it.
UPDATE scopefloor.passage p SET position = t.seq FROM scopefloor.turn t
WHERE t.scope_id = p.scope_id AND t.id = p.turn_id AND p.kind = 'turn' AND p.position IS NULL;
--> statement-breakpoint
-- Every change is a row with a number of its own, also one that leaves the counts as they were.
CREATE OR REPLACE FUNCTION scopefloor.count_passages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO scopefloor.scope_counter (scope_id, embedder_id, passages, tokens, lexemes, bytes)
    SELECT scope_id, embedder_id, count(*), sum(tokens), sum(lexemes), sum(octet_length(text))
    FROM added WHERE expired_at IS NULL GROUP BY scope_id, embedder_id;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO scopefloor.scope_counter (scope_id, embedder_id, passages, tokens, lexemes, bytes)
    SELECT scope_id, embedder_id, -count(*), -sum(tokens), -sum(lexemes), -sum(octet_length(text))
    FROM removed WHERE expired_at IS NULL GROUP BY scope_id, embedder_id;
  ELSE
    INSERT INTO scopefloor.scope_counter (scope_id, embedder_id, passages, tokens, lexemes, bytes)
    SELECT scope_id, embedder_id, sum(n), sum(n * tokens), sum(n * lexemes), sum(n * octet_length(text))
    FROM (SELECT 1 AS n, a.* FROM added a WHERE expired_at IS NULL
          UNION ALL
          SELECT -1, r.* FROM removed r WHERE expired_at IS NULL) change
    GROUP BY scope_id, embedder_id;
  END IF;
  RETURN NULL;
END $$;
--> statement-breakpoint
-- The sum of the numbers stays, also where the counts come to nothing.
CREATE OR REPLACE FUNCTION scopefloor.fold_counters() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
BEGIN
  WITH taken AS (
    DELETE FROM scopefloor.scope_counter c
    WHERE c.scope_id IN (SELECT scope_id FROM scopefloor.scope_counter GROUP BY scope_id, embedder_id HAVING count(*) > 1)
    RETURNING *)
  INSERT INTO scopefloor.scope_counter (scope_id, embedder_id, passages, tokens, lexemes, bytes, change)
  SELECT scope_id, embedder_id, sum(passages), sum(tokens), sum(lexemes), sum(bytes), sum(change) FROM taken GROUP BY scope_id, embedder_id;
  GET DIAGNOSTICS folded = ROW_COUNT;
  RETURN folded;
END $$;
--> statement-breakpoint
-- Whether the ticket is for a recall; and under which policy of which key, for the cache: what one key
-- was answered is not another's that may see or do something else.
CREATE FUNCTION scopefloor.cache_key(t jsonb, question bytea) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT sha256(question || convert_to(jsonb_build_array(t->'floor', t->'on_behalf_of', t->'principal', t->'verbs', t->'content', t->'general')::text, 'UTF8'))
  WHERE t->>'verb' = 'memory:read' AND t->>'mode' = 'select' AND octet_length(question) = 32
$$;
--> statement-breakpoint
-- What a recall has to know of the visible scopes before it begins, in the round trip of entering:
--   {counts: {embedder: passages}, indexed: [[scope, embedder], …], version, cached: {given, ageSeconds}}
-- version and cached are null where nothing is cached for such a view. A scope's sum of changes only
-- grows with every commit, so an answer of the same version has seen the same rows.
CREATE FUNCTION scopefloor.recall_state(question bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
  counts jsonb;
  seen text;
  is_listed bool;
  cached jsonb;
BEGIN
  IF t IS NULL OR t->>'verb' <> 'memory:read' THEN
    RETURN NULL;
  END IF;
  ids := ARRAY(SELECT jsonb_array_elements_text(t->'read'->'ids')::int) || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
  is_listed := jsonb_array_length(t->'read'->'trees') = 0;
  IF is_listed THEN
    WITH standing AS (
      SELECT c.scope_id, c.embedder_id, sum(c.passages) AS passages, sum(c.change) AS change
      FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids) GROUP BY 1, 2)
    SELECT (SELECT jsonb_object_agg(m.embedder_id, m.passages)
            FROM (SELECT s.embedder_id, sum(s.passages) AS passages FROM standing s WHERE s.embedder_id IS NOT NULL GROUP BY 1) m),
           (SELECT string_agg(v.scope_id || ':' || v.change, ' ' ORDER BY v.scope_id)
            FROM (SELECT s.scope_id, sum(s.change) AS change FROM standing s GROUP BY 1) v)
    INTO counts, seen;
    SELECT jsonb_build_object('given', r.answer, 'ageSeconds', extract(epoch FROM clock_timestamp() - r.created_at)) INTO cached
    FROM scopefloor.response_cache r
    WHERE r.scope_id = (t->'trace'->>'id')::int AND r.digest = scopefloor.cache_key(t, question) AND r.version = seen;
  END IF;
  RETURN jsonb_build_object(
    'counts', coalesce(counts, '{}'), 'version', seen, 'cached', cached,
    'indexed', coalesce((
      SELECT jsonb_agg(jsonb_build_array(v.scope_id, v.embedder_id) ORDER BY v.scope_id, v.embedder_id)
      FROM scopefloor.vector_index v JOIN scopefloor.scope s ON s.id = v.scope_id
      WHERE v.ready AND (v.scope_id = ANY (ids) OR EXISTS (SELECT 1 FROM jsonb_array_elements(t->'read'->'trees') tree WHERE s.tags @> tree))), '[]'));
END $$;
--> statement-breakpoint
-- Keeps an answer for the next one who asks the same. The version is the one that recall_state gave
-- before the search began: what was written meanwhile is in the next one.
CREATE FUNCTION scopefloor.cache_answer(question bytea, seen text, given jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  key bytea := scopefloor.cache_key(t, question);
BEGIN
  IF key IS NULL OR seen IS NULL OR octet_length(given::text) > 16384 THEN
    RAISE EXCEPTION 'scopefloor: not an answer of a recall' USING ERRCODE = 'insufficient_privilege';
  END IF;
  INSERT INTO scopefloor.response_cache AS r (scope_id, digest, version, answer)
  VALUES ((t->'trace'->>'id')::int, key, seen, given)
  ON CONFLICT (scope_id, digest) DO UPDATE SET version = excluded.version, answer = excluded.answer, created_at = excluded.created_at;
END $$;
--> statement-breakpoint
-- Drops the stored answers that may hold recalled text of the ticket's target: those of every
-- scope that does not contradict it, since views above and beside it can see its rows.
-- Gives how many of the target's own; the others are not the caller's to know. The cache holds ids
-- alone, and goes with them.
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
  DELETE FROM scopefloor.response_cache r USING scopefloor.scope s
  WHERE s.id = r.scope_id AND NOT scopefloor.contradicts(s.tags, t->'target');
  WITH gone AS (
    DELETE FROM scopefloor.idempotency i USING scopefloor.scope s
    WHERE i.recalled AND i.created_at <> transaction_timestamp() AND s.id = i.scope_id AND NOT scopefloor.contradicts(s.tags, t->'target')
    RETURNING s.tags)
  SELECT count(*) INTO dropped FROM gone WHERE tags @> (t->'target');
  RETURN dropped;
END $$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION scopefloor.purge_old() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  purged int;
BEGIN
  DELETE FROM scopefloor.erasure WHERE at < now() - interval '1 day';
  DELETE FROM scopefloor.job_turn WHERE taken_at < now() - interval '1 day';
  DELETE FROM scopefloor.job WHERE state = 'dead' AND run_after < now() - interval '30 days';
  DELETE FROM scopefloor.response_cache WHERE created_at < now() - interval '24 hours';
  DELETE FROM scopefloor.idempotency WHERE created_at < now() - interval '24 hours';
  GET DIAGNOSTICS purged = ROW_COUNT;
  RETURN purged;
END $$;
--> statement-breakpoint
-- Whose turn at the connections a request of the ticket's key uses up: the same for all keys below one floor.
CREATE FUNCTION scopefloor.my_turn() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.turn_of((scopefloor.ticket()->>'key')::uuid)::text
$$;
--> statement-breakpoint
-- Graphs to build and to drop, from the counts alone: a scope gets one from `least` passages of a model
-- on, the largest first and `most` in all, and keeps it until it has shrunk to half of that.
CREATE FUNCTION scopefloor.vector_index_work(least_passages bigint, most int)
RETURNS TABLE (work text, scope_id int, embedder_id int, dimensions int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH standing AS (
    SELECT c.scope_id, c.embedder_id, sum(c.passages) AS passages FROM scopefloor.scope_counter c
    WHERE c.embedder_id IS NOT NULL GROUP BY 1, 2),
  kept AS (
    SELECT v.scope_id, v.embedder_id, v.ready FROM scopefloor.vector_index v
    JOIN standing s ON s.scope_id = v.scope_id AND s.embedder_id = v.embedder_id AND s.passages * 2 >= least_passages)
  SELECT 'drop', v.scope_id, v.embedder_id, e.dimensions FROM scopefloor.vector_index v JOIN scopefloor.embedder e ON e.id = v.embedder_id
  WHERE NOT EXISTS (SELECT 1 FROM kept k WHERE k.scope_id = v.scope_id AND k.embedder_id = v.embedder_id)
  UNION ALL
  (SELECT 'build', s.scope_id, s.embedder_id, e.dimensions FROM standing s JOIN scopefloor.embedder e ON e.id = s.embedder_id
   WHERE s.passages >= least_passages AND e.dimensions BETWEEN 1 AND 4000 -- pgvector's limit for halfvec
     AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.scope_id = s.scope_id AND k.embedder_id = s.embedder_id AND k.ready)
   ORDER BY s.passages DESC, s.scope_id LIMIT greatest(0, most - (SELECT count(*) FROM kept k WHERE k.ready)))
$$;
--> statement-breakpoint
-- Notes how a graph stands: building, ready or gone.
CREATE FUNCTION scopefloor.note_vector_index(at_scope int, of_embedder int, state text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF state = 'gone' THEN
    DELETE FROM scopefloor.vector_index v WHERE v.scope_id = at_scope AND v.embedder_id = of_embedder;
  ELSE
    INSERT INTO scopefloor.vector_index AS v (scope_id, embedder_id, ready) VALUES (at_scope, of_embedder, state = 'ready')
    ON CONFLICT ON CONSTRAINT vector_index_scope_id_embedder_id_pk DO UPDATE SET ready = excluded.ready;
  END IF;
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.cache_key(jsonb, bytea), scopefloor.recall_state(bytea), scopefloor.cache_answer(bytea, text, jsonb),
  scopefloor.my_turn(), scopefloor.vector_index_work(bigint, int), scopefloor.note_vector_index(int, int, text) FROM PUBLIC;
--> statement-breakpoint
GRANT EXECUTE ON FUNCTION scopefloor.recall_state(bytea), scopefloor.cache_answer(bytea, text, jsonb), scopefloor.my_turn() TO scopefloor_app;
--> statement-breakpoint
GRANT EXECUTE ON FUNCTION scopefloor.vector_index_work(bigint, int), scopefloor.note_vector_index(int, int, text) TO scopefloor_worker;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
