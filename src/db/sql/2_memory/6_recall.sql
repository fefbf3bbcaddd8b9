-- The cache of answers, and what a recall has to know before it searches.

-- The key of the response cache: the question with the floor, principal and rights of whoever asks. NULL
-- where the ticket is not for a recall.
CREATE OR REPLACE FUNCTION scopefloor.cache_key(t jsonb, question bytea) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT sha256(question || convert_to(jsonb_build_array(t->'floor', t->'on_behalf_of', t->'principal', t->'verbs', t->'content', t->'general')::text, 'UTF8'))
  WHERE t->>'verb' = 'memory:read' AND t->>'mode' = 'select' AND octet_length(question) = 32
$$;

-- The version of these scopes: each id with the sum of its changes, as recall_state gives it.
CREATE OR REPLACE FUNCTION scopefloor.version_of(ids int[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT string_agg(v.scope_id || ':' || v.change, ' ' ORDER BY v.scope_id)
  FROM (SELECT c.scope_id, sum(c.change) AS change FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids) GROUP BY 1) v
$$;

-- What a recall has to know of the visible scopes before it begins, in the round trip of entering:
--   {counts: {embedder: passages}, indexed: [[scope, embedder], …], version, cached: {given, ageSeconds}, timed, lexical}
-- lexical: as lexical_state gives it, unless there is a cached answer.
-- timed: whether there may be passages that are no answer now, since they begin later or are over.
-- version and cached are null where nothing is cached for such a view. A scope's sum of changes only
-- grows with every commit, so an answer of the same version has seen the same rows.
CREATE OR REPLACE FUNCTION scopefloor.recall_state(question bytea) RETURNS jsonb
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
    WHERE r.scope_id = (t->'trace'->>'id')::int AND r.digest = scopefloor.cache_key(t, question) AND r.version = seen
      AND (r.good_until > now()) IS NOT FALSE;
  END IF;
  RETURN jsonb_build_object(
    'counts', coalesce(counts, '{}'), 'version', seen, 'cached', cached,
    'lexical', CASE WHEN cached IS NULL THEN scopefloor.lexical_state() END,
    'timed', NOT is_listed OR EXISTS (
      SELECT 1 FROM unnest(ids) at_scope WHERE
        EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.starts_at > now())
        OR EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.ends_at <= now() AND p.expired_at IS NULL)),
    'indexed', coalesce((
      SELECT jsonb_agg(jsonb_build_array(v.scope_id, v.embedder_id) ORDER BY v.scope_id, v.embedder_id)
      FROM scopefloor.vector_index v JOIN scopefloor.scope s ON s.id = v.scope_id
      WHERE v.ready AND (v.scope_id = ANY (ids) OR EXISTS (SELECT 1 FROM jsonb_array_elements(t->'read'->'trees') tree WHERE s.tags @> tree))), '[]'));
END $$;

-- When a passage of these scopes begins or ends next; null: none does.
CREATE OR REPLACE FUNCTION scopefloor.next_change(ids int[]) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT min(least(
    (SELECT min(p.starts_at) FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.starts_at > now()),
    (SELECT min(p.ends_at) FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.ends_at > now() AND p.expired_at IS NULL)))
  FROM unnest(ids) at_scope
$$;

-- Keeps an answer for the next one who asks the same, until time alone may change it. The version is the one that recall_state gave
-- before the search began: what was written meanwhile is in the next one. A forget that is not
-- committed yet changes it too, so that this answer, which has ids and no text, is never given.
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
  ids := ARRAY(SELECT jsonb_array_elements_text(t->'read'->'ids')::int) || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
  IF scopefloor.version_of(ids) IS DISTINCT FROM seen THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.response_cache AS r (tenant_id, scope_id, digest, version, scope_ids, answer, good_until)
  VALUES ((t->'trace'->>'tenant')::int, (t->'trace'->>'id')::int, key, seen, ids, given, scopefloor.next_change(ids))
  ON CONFLICT (scope_id, digest, tenant_id) DO UPDATE
  SET version = excluded.version, scope_ids = excluded.scope_ids, answer = excluded.answer, good_until = excluded.good_until, created_at = excluded.created_at;
END $$;

-- Graphs to build and to drop, from the counts alone: a scope gets one from `least_passages`
-- passages of a model on, the largest first and `most` in all, and keeps it until it has shrunk to half of that.
CREATE OR REPLACE FUNCTION scopefloor.vector_index_work(least_passages bigint, most int)
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

-- Notes how a graph stands: building, ready or gone.
CREATE OR REPLACE FUNCTION scopefloor.note_vector_index(at_scope int, of_embedder int, state text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF state = 'gone' THEN
    DELETE FROM scopefloor.vector_index v WHERE v.scope_id = at_scope AND v.embedder_id = of_embedder;
  ELSE
    INSERT INTO scopefloor.vector_index AS v (tenant_id, scope_id, embedder_id, ready)
    SELECT s.tenant_id, s.id, of_embedder, state = 'ready' FROM scopefloor.scope s
    -- A scope that has passages of that model: no other gets a graph.
    WHERE s.id = at_scope AND EXISTS (SELECT 1 FROM scopefloor.scope_counter c WHERE c.scope_id = s.id AND c.embedder_id = of_embedder)
    ON CONFLICT (scope_id, embedder_id, tenant_id) DO UPDATE SET ready = excluded.ready;
  END IF;
END $$;
