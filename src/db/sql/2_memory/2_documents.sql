-- Documents and their links. What writes is a definer function, because a key that may write but not
-- read can neither look for what is there already nor use RETURNING.

-- Adds a document at the ticket's write scope, or finds the one there that has the same bytes: another
-- scope's copy is not looked at. {id, status, version, deduplicated, again}; `again`: the one that is
-- there had failed, or is said to be in another charset, and is to be processed once more.
CREATE OR REPLACE FUNCTION scopefloor.add_document(new_id uuid, facts jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  same_bytes uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), facts->>'contentHash');
  d scopefloor.document;
BEGIN
  INSERT INTO scopefloor.document (tenant_id, scope_id, id, api_key_id, title, source, mime_type, charset, size_bytes, content_hash, labels, observed_at)
  VALUES ((t->>'tenant')::int, at_scope, new_id, (t->>'key')::uuid, facts->>'title', facts->>'source', facts->>'mimeType', facts->>'charset', (facts->>'sizeBytes')::int,
          facts->>'contentHash', ARRAY(SELECT jsonb_array_elements_text(facts->'labels')), (facts->>'observedAt')::timestamptz)
  ON CONFLICT (scope_id, content_key, tenant_id) DO NOTHING RETURNING * INTO d;
  IF d.id IS NOT NULL THEN
    RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', 1, 'deduplicated', false, 'again', false);
  END IF;
  SELECT * INTO STRICT d FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.content_key = same_bytes FOR UPDATE;
  -- Who names another charset wants it read anew.
  IF d.status = 'failed' OR (facts->>'charset' <> coalesce(d.charset, '') AND NOT scopefloor.is_document_held(d)) THEN
    UPDATE scopefloor.document o SET status = 'queued', error = NULL, mime_type = facts->>'mimeType', charset = facts->>'charset', reading = '{}', updated_at = clock_timestamp(),
           processing_started_at = NULL, processing_completed_at = NULL
    WHERE o.scope_id = at_scope AND o.id = d.id;
    RETURN jsonb_build_object('id', d.id, 'status', 'queued', 'version', d.version, 'deduplicated', true, 'again', true);
  END IF;
  RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', true, 'again', false);
END $$;

-- The next version of the document that the transaction was entered for. What the caller leaves out
-- stays as it was. NULL: another document of the scope has these bytes.
CREATE OR REPLACE FUNCTION scopefloor.replace_document(of_document uuid, facts jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  same_bytes uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), facts->>'contentHash');
  d scopefloor.document;
BEGIN
  SELECT * INTO d FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.id = of_document FOR UPDATE;
  IF d.id IS NULL THEN
    RETURN jsonb_build_object('status', 'gone');
  END IF;
  -- What it says is replaced: held where a part of it is.
  PERFORM scopefloor.share_hold_lock(d.tenant_id);
  IF scopefloor.is_document_held(d) THEN
    PERFORM scopefloor.raise_held();
  END IF;
  IF NOT facts ? 'contentHash' THEN
    -- No new bytes: those that are there once more, unless they are on their way.
    IF d.content_hash IS NULL THEN
      RETURN '{"status": "forgotten"}';
    END IF;
    IF d.status IN ('ready', 'failed') THEN
      UPDATE scopefloor.document o
      SET status = 'queued', error = NULL, api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp(), processing_started_at = NULL, processing_completed_at = NULL
      WHERE o.scope_id = at_scope AND o.id = of_document;
    END IF;
    RETURN jsonb_build_object('id', d.id, 'status', CASE WHEN d.status IN ('ready', 'failed') THEN 'queued' ELSE d.status END, 'version', d.version,
                              'contentHash', d.content_hash, 'deduplicated', d.status NOT IN ('ready', 'failed'), 'again', d.status IN ('ready', 'failed'));
  END IF;
  IF d.content_hash = facts->>'contentHash' AND d.status <> 'failed' THEN
    -- The same bytes: only what is said about them may have changed.
    UPDATE scopefloor.document o
    SET title = coalesce(facts->>'title', o.title), source = coalesce(facts->>'source', o.source),
        labels = CASE WHEN jsonb_typeof(facts->'labels') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(facts->'labels')) ELSE o.labels END,
        observed_at = coalesce((facts->>'observedAt')::timestamptz, o.observed_at), updated_at = clock_timestamp()
    WHERE o.scope_id = at_scope AND o.id = of_document
    RETURNING * INTO d;
    UPDATE scopefloor.passage p SET labels = d.labels, observed_at = d.observed_at
    WHERE p.scope_id = at_scope AND p.document_id = of_document AND (p.labels <> d.labels OR p.observed_at <> d.observed_at);
    RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', true);
  END IF;
  IF EXISTS (SELECT 1 FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.content_key = same_bytes AND o.id <> of_document) THEN
    RETURN NULL;
  END IF;
  UPDATE scopefloor.document o
  SET version = o.version + 1, status = 'queued', error = NULL, content_hash = facts->>'contentHash', size_bytes = (facts->>'sizeBytes')::int,
      mime_type = facts->>'mimeType', charset = facts->>'charset', title = coalesce(facts->>'title', o.title), source = coalesce(facts->>'source', o.source),
      labels = CASE WHEN jsonb_typeof(facts->'labels') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(facts->'labels')) ELSE o.labels END,
      observed_at = coalesce((facts->>'observedAt')::timestamptz, o.observed_at), api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp(),
      processing_started_at = NULL, processing_completed_at = NULL
  WHERE o.scope_id = at_scope AND o.id = of_document
  RETURNING * INTO d;
  RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', false);
END $$;

-- Links the documents of the ticket's write scope that share at least two keywords: their weight is the
-- Jaccard similarity of the two sets, and each document keeps its ten nearest. A keyword that is in more
-- than a hundred documents tells them not apart. Gives the number of links.
CREATE OR REPLACE FUNCTION scopefloor.relink_documents() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  emitted int;
BEGIN
  PERFORM pg_advisory_xact_lock(7701, at_scope); -- of two at once the second makes them anew
  DELETE FROM scopefloor.document_link WHERE scope_id = at_scope;
  WITH telling AS MATERIALIZED (
    SELECT k.document_id, k.normalised_hash FROM scopefloor.keyword k
    WHERE k.scope_id = at_scope AND k.normalised_hash IN (
      SELECT o.normalised_hash FROM scopefloor.keyword o WHERE o.scope_id = at_scope GROUP BY 1 HAVING count(*) BETWEEN 2 AND 100)),
  sizes AS MATERIALIZED (
    SELECT k.document_id, count(*) AS n FROM scopefloor.keyword k WHERE k.scope_id = at_scope GROUP BY 1),
  pairs AS (
    SELECT a.document_id AS from_id, b.document_id AS to_id, count(*) AS shared
    FROM telling a JOIN telling b ON b.normalised_hash = a.normalised_hash AND b.document_id <> a.document_id GROUP BY 1, 2 HAVING count(*) >= 2),
  weighed AS (
    SELECT p.from_id, p.to_id, p.shared::real / (x.n + y.n - p.shared) AS weight
    FROM pairs p JOIN sizes x ON x.document_id = p.from_id JOIN sizes y ON y.document_id = p.to_id),
  ranked AS (
    SELECT w.*, row_number() OVER (PARTITION BY w.from_id ORDER BY w.weight DESC, w.to_id) AS place FROM weighed w)
  INSERT INTO scopefloor.document_link (tenant_id, scope_id, from_id, to_id, weight)
  SELECT (t->>'tenant')::int, at_scope, r.from_id, r.to_id, r.weight FROM ranked r WHERE r.place <= 10;
  GET DIAGNOSTICS emitted = ROW_COUNT;
  RETURN emitted;
END $$;

-- How many documents of the ticket's target are not in recall, on their way into it or because they could
-- not be read: a forget by meaning does not see what they say, and its receipt says so.
CREATE OR REPLACE FUNCTION scopefloor.pending_documents() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*)::int FROM scopefloor.document d
  WHERE d.scope_id = ANY (scopefloor.ids_in(scopefloor.ticket()->'modify')) AND d.status NOT IN ('ready', 'embedding')
$$;
