-- Writing documents, facts with triples and keyed items. These are definer functions because a key
-- that may write but not read can neither look for what is there already nor use RETURNING.

SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
CREATE FUNCTION scopefloor.write_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'write' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: no write ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;
--> statement-breakpoint
-- Adds a document at the ticket's write scope, or finds the one there that has the same bytes: another
-- scope's copy is not looked at. {id, status, version, deduplicated, again}; `again`: the one that is
-- there had failed and is to be processed once more.
CREATE FUNCTION scopefloor.add_document(new_id uuid, facts jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  d scopefloor.document;
BEGIN
  INSERT INTO scopefloor.document (scope_id, id, api_key_id, title, source, mime_type, size_bytes, content_hash, labels, observed_at)
  VALUES (at_scope, new_id, (t->>'key')::uuid, facts->>'title', facts->>'source', facts->>'mimeType', (facts->>'sizeBytes')::int,
          facts->>'contentHash', ARRAY(SELECT jsonb_array_elements_text(facts->'labels')), (facts->>'observedAt')::timestamptz)
  ON CONFLICT (scope_id, content_hash) DO NOTHING RETURNING * INTO d;
  IF d.id IS NOT NULL THEN
    RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', 1, 'deduplicated', false, 'again', false);
  END IF;
  SELECT * INTO STRICT d FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.content_hash = facts->>'contentHash' FOR UPDATE;
  IF d.status = 'failed' THEN
    UPDATE scopefloor.document o SET status = 'queued', error = NULL, mime_type = facts->>'mimeType', updated_at = clock_timestamp(),
           processing_started_at = NULL, processing_completed_at = NULL
    WHERE o.scope_id = at_scope AND o.id = d.id;
    RETURN jsonb_build_object('id', d.id, 'status', 'queued', 'version', d.version, 'deduplicated', true, 'again', true);
  END IF;
  RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', true, 'again', false);
END $$;
--> statement-breakpoint
-- The next version of the document that the transaction was entered for. What the caller leaves out
-- stays as it was. NULL: another document of the scope has these bytes.
CREATE FUNCTION scopefloor.replace_document(of_document uuid, facts jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  d scopefloor.document;
BEGIN
  SELECT * INTO d FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.id = of_document FOR UPDATE;
  IF d.id IS NULL THEN
    RETURN jsonb_build_object('status', 'gone');
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
  IF EXISTS (SELECT 1 FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.content_hash = facts->>'contentHash' AND o.id <> of_document) THEN
    RETURN NULL;
  END IF;
  UPDATE scopefloor.document o
  SET version = o.version + 1, status = 'queued', error = NULL, content_hash = facts->>'contentHash', size_bytes = (facts->>'sizeBytes')::int,
      mime_type = facts->>'mimeType', title = coalesce(facts->>'title', o.title), source = coalesce(facts->>'source', o.source),
      labels = CASE WHEN jsonb_typeof(facts->'labels') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(facts->'labels')) ELSE o.labels END,
      observed_at = coalesce((facts->>'observedAt')::timestamptz, o.observed_at), api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp(),
      processing_started_at = NULL, processing_completed_at = NULL
  WHERE o.scope_id = at_scope AND o.id = of_document
  RETURNING * INTO d;
  RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', false);
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.ensure_entity(at_scope int, of_type text, of_name text, by_key uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found uuid;
BEGIN
  INSERT INTO scopefloor.entity (scope_id, id, type, name, api_key_id) VALUES (at_scope, gen_random_uuid(), of_type, of_name, by_key)
  ON CONFLICT (scope_id, type, name) DO NOTHING;
  -- Locked: of two who change the same entity the second sees what the first left.
  SELECT e.id INTO STRICT found FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.type = of_type AND e.name = of_name FOR NO KEY UPDATE;
  RETURN found;
END $$;
--> statement-breakpoint
-- Takes a passage that stands for a fact out of recall; the fact itself stays, as history.
CREATE FUNCTION scopefloor.retire_fact(at_scope int, fact uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM scopefloor.passage WHERE scope_id = at_scope AND id = fact AND kind = 'attribute'
$$;
--> statement-breakpoint
-- Stores triples [{id, entity: {type, name}, key, value? | target?: {type, name}, category, at}] at the
-- ticket's write scope. A new value for the same entity and key closes the one that was current; one
-- observed earlier than the current becomes history at once; one that says the same changes nothing.
-- Several targets for one key in the same call stand side by side, and together replace earlier ones.
-- Gives for each {id, entityId, stored, current, superseded: [ids]}.
CREATE FUNCTION scopefloor.put_triples(triples jsonb, in_session uuid, in_turn uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  caller uuid := (t->>'key')::uuid;
  item jsonb;
  subject uuid;
  target uuid;
  observed timestamptz;
  later record;
  closed uuid[];
  same uuid;
  call_ids uuid[] := ARRAY(SELECT (x->>'id')::uuid FROM jsonb_array_elements(triples) x);
  done jsonb := '[]';
BEGIN
  -- In the order of their names, so that nobody waits in a circle.
  PERFORM scopefloor.ensure_entity(at_scope, e.type, e.name, caller)
  FROM (SELECT DISTINCT x->>'type' AS type, x->>'name' AS name
        FROM jsonb_array_elements(triples) y, LATERAL (VALUES (y->'entity'), (y->'target')) v(x)
        WHERE jsonb_typeof(x) = 'object' ORDER BY 1, 2) e;
  FOR item IN SELECT jsonb_array_elements(triples) LOOP
    SELECT e.id INTO STRICT subject FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.type = item->'entity'->>'type' AND e.name = item->'entity'->>'name';
    observed := (item->>'at')::timestamptz;
    closed := '{}';
    same := NULL;
    IF jsonb_typeof(item->'target') = 'object' THEN
      SELECT e.id INTO STRICT target FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.type = item->'target'->>'type' AND e.name = item->'target'->>'name';
      SELECT r.id INTO same FROM scopefloor.relation r
      WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key = item->>'key' AND r.target_id = target
        AND r.closed_at IS NULL AND r.expired_at IS NULL AND r.valid_from <= observed LIMIT 1;
      SELECT r.id, r.valid_from INTO later FROM scopefloor.relation r
      WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key = item->>'key' AND r.expired_at IS NULL AND r.valid_from > observed
        AND NOT r.id = ANY (call_ids) ORDER BY r.valid_from LIMIT 1;
      IF same IS NULL OR later.id IS NOT NULL THEN
        INSERT INTO scopefloor.relation (scope_id, id, entity_id, target_id, key, category, valid_from, valid_until, superseded_by, closed_at, session_id, turn_id, api_key_id)
        VALUES (at_scope, (item->>'id')::uuid, subject, target, item->>'key', item->>'category', observed, later.valid_from, later.id,
                CASE WHEN later.id IS NOT NULL THEN now() END, in_session, in_turn, caller);
      END IF;
      WITH gone AS (
        UPDATE scopefloor.relation r
        SET valid_until = least(coalesce(r.valid_until, observed), observed), superseded_by = coalesce(same, (item->>'id')::uuid), closed_at = coalesce(r.closed_at, now())
        WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key = item->>'key' AND r.expired_at IS NULL
          AND r.valid_from <= observed AND (r.valid_until IS NULL OR r.valid_until > observed)
          AND r.id IS DISTINCT FROM same AND NOT r.id = ANY (call_ids)
          -- Another target of this call that was there already stays too.
          AND NOT EXISTS (SELECT 1 FROM jsonb_array_elements(triples) x JOIN scopefloor.entity e ON e.scope_id = at_scope AND e.id = r.target_id
                          WHERE x->'entity' = item->'entity' AND x->>'key' = item->>'key' AND x->'target'->>'type' = e.type AND x->'target'->>'name' = e.name)
        RETURNING r.id)
      SELECT coalesce(array_agg(id), '{}') INTO closed FROM gone;
    ELSE
      SELECT a.id INTO same FROM scopefloor.attribute a
      WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key = item->>'key' AND a.value = item->'value'
        AND a.closed_at IS NULL AND a.expired_at IS NULL AND a.valid_from <= observed LIMIT 1;
      SELECT a.id, a.valid_from INTO later FROM scopefloor.attribute a
      WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key = item->>'key' AND a.expired_at IS NULL AND a.valid_from > observed
      ORDER BY a.valid_from LIMIT 1;
      IF same IS NULL OR later.id IS NOT NULL THEN
        INSERT INTO scopefloor.attribute (scope_id, id, entity_id, value, key, category, valid_from, valid_until, superseded_by, closed_at, session_id, turn_id, api_key_id)
        VALUES (at_scope, (item->>'id')::uuid, subject, item->'value', item->>'key', item->>'category', observed, later.valid_from, later.id,
                CASE WHEN later.id IS NOT NULL THEN now() END, in_session, in_turn, caller);
        WITH gone AS (
          UPDATE scopefloor.attribute a
          SET valid_until = observed, superseded_by = (item->>'id')::uuid, closed_at = coalesce(a.closed_at, now())
          WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key = item->>'key' AND a.expired_at IS NULL
            AND a.valid_from <= observed AND (a.valid_until IS NULL OR a.valid_until > observed) AND a.id <> (item->>'id')::uuid
          RETURNING a.id)
        SELECT coalesce(array_agg(id), '{}') INTO closed FROM gone;
      END IF;
    END IF;
    PERFORM scopefloor.retire_fact(at_scope, c) FROM unnest(closed) c;
    done := done || jsonb_build_object(
      'id', CASE WHEN same IS NULL OR later.id IS NOT NULL THEN item->>'id' ELSE same::text END, 'entityId', subject,
      'stored', same IS NULL OR later.id IS NOT NULL, 'current', later.id IS NULL, 'superseded', to_jsonb(closed));
  END LOOP;
  RETURN done;
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.put_item(new_id uuid, of_key text, new_value jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  m scopefloor.memory_item;
BEGIN
  INSERT INTO scopefloor.memory_item (scope_id, key, id, value, api_key_id)
  VALUES ((t->>'write')::int, of_key, new_id, new_value, (t->>'key')::uuid)
  ON CONFLICT (scope_id, key) DO UPDATE SET value = EXCLUDED.value, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp()
  RETURNING * INTO m;
  RETURN jsonb_build_object('createdAt', m.created_at, 'updatedAt', m.updated_at);
END $$;
--> statement-breakpoint
-- Links the documents of the ticket's write scope that share at least two keywords: their weight is the
-- Jaccard similarity of the two sets, and each document keeps its ten nearest. A keyword that is in more
-- than a hundred documents tells them not apart. Gives the number of links.
CREATE FUNCTION scopefloor.relink_documents() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int := (scopefloor.write_ticket()->>'write')::int;
  emitted int;
BEGIN
  PERFORM pg_advisory_xact_lock(7701, at_scope); -- of two at once the second makes them anew
  DELETE FROM scopefloor.document_link WHERE scope_id = at_scope;
  WITH telling AS MATERIALIZED (
    SELECT k.document_id, k.normalised FROM scopefloor.keyword k
    WHERE k.scope_id = at_scope AND k.normalised IN (
      SELECT o.normalised FROM scopefloor.keyword o WHERE o.scope_id = at_scope GROUP BY 1 HAVING count(*) BETWEEN 2 AND 100)),
  sizes AS MATERIALIZED (
    SELECT k.document_id, count(*) AS n FROM scopefloor.keyword k WHERE k.scope_id = at_scope GROUP BY 1),
  pairs AS (
    SELECT a.document_id AS from_id, b.document_id AS to_id, count(*) AS shared
    FROM telling a JOIN telling b ON b.normalised = a.normalised AND b.document_id <> a.document_id GROUP BY 1, 2 HAVING count(*) >= 2),
  weighed AS (
    SELECT p.from_id, p.to_id, p.shared::real / (x.n + y.n - p.shared) AS weight
    FROM pairs p JOIN sizes x ON x.document_id = p.from_id JOIN sizes y ON y.document_id = p.to_id),
  ranked AS (
    SELECT w.*, row_number() OVER (PARTITION BY w.from_id ORDER BY w.weight DESC, w.to_id) AS place FROM weighed w)
  INSERT INTO scopefloor.document_link (scope_id, from_id, to_id, weight)
  SELECT at_scope, r.from_id, r.to_id, r.weight FROM ranked r WHERE r.place <= 10;
  GET DIAGNOSTICS emitted = ROW_COUNT;
  RETURN emitted;
END $$;
--> statement-breakpoint
-- Takes verbs from a key; there is no way to give any. Of the caller itself, of those that it minted,
-- and for management of those inside its floor that are not its equals. NULL: none of these.
CREATE FUNCTION scopefloor.narrow_key(of_id uuid, keep text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
  made scopefloor.api_key;
BEGIN
  IF t->>'principal' = 'supervisor' THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor does not change keys');
  END IF;
  UPDATE scopefloor.api_key k SET verbs = ARRAY(SELECT unnest(k.verbs) INTERSECT SELECT unnest(keep) ORDER BY 1)
  WHERE k.id = of_id AND k.revoked_at IS NULL AND k.floor @> (t->'floor')
    AND (k.id = caller OR k.parent_id = caller
         OR (t->>'principal' = 'management'
             AND (k.principal <> 'management' OR scopefloor.descends_from(k.id, caller) OR t->'floor' <> k.floor)))
  RETURNING * INTO made;
  IF made.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  -- What it delegated cannot do more than it: agents' children narrow with it.
  WITH RECURSIVE delegated AS (
    SELECT made.id AS id, made.principal AS principal
    UNION
    SELECT k.id, k.principal FROM scopefloor.api_key k JOIN delegated d ON k.parent_id = d.id WHERE d.principal = 'agent')
  UPDATE scopefloor.api_key k SET verbs = ARRAY(SELECT unnest(k.verbs) INTERSECT SELECT unnest(made.verbs) ORDER BY 1)
  FROM delegated d WHERE k.id = d.id AND k.id <> made.id AND NOT k.verbs <@ made.verbs;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;
--> statement-breakpoint
-- One key that the caller may know of: itself, those that it minted, and for management those inside its floor.
CREATE FUNCTION scopefloor.known_key(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
BEGIN
  RETURN (SELECT scopefloor.key_row(k) FROM scopefloor.api_key k
          WHERE k.id = of_id AND k.revoked_at IS NULL AND k.floor @> (t->'floor')
            AND (k.id = caller OR k.parent_id = caller OR t->>'principal' = 'management'));
END $$;
--> statement-breakpoint
-- Those keys. (An agent's own_keys, and for management everything inside its floor.)
CREATE FUNCTION scopefloor.known_keys() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.key_row(k) ORDER BY k.id <> caller, k.created_at, k.id), '[]')
          FROM (SELECT * FROM scopefloor.api_key a
                WHERE a.revoked_at IS NULL AND a.floor @> (t->'floor')
                  AND (a.id = caller OR a.parent_id = caller OR t->>'principal' = 'management')
                ORDER BY a.id <> caller, a.created_at, a.id LIMIT 500) k);
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.write_ticket(), scopefloor.add_document(uuid, jsonb), scopefloor.replace_document(uuid, jsonb),
  scopefloor.ensure_entity(int, text, text, uuid), scopefloor.retire_fact(int, uuid), scopefloor.put_triples(jsonb, uuid, uuid),
  scopefloor.put_item(uuid, text, jsonb), scopefloor.relink_documents(), scopefloor.narrow_key(uuid, text[]), scopefloor.known_key(uuid), scopefloor.known_keys() FROM PUBLIC;
--> statement-breakpoint
GRANT EXECUTE ON FUNCTION scopefloor.add_document(uuid, jsonb), scopefloor.replace_document(uuid, jsonb),
  scopefloor.put_triples(jsonb, uuid, uuid), scopefloor.put_item(uuid, text, jsonb), scopefloor.relink_documents(), scopefloor.narrow_key(uuid, text[]),
  scopefloor.known_key(uuid), scopefloor.known_keys() TO scopefloor_app;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- A model by its name: its number, once its vectors have a known length. What was measured of it may change.
CREATE FUNCTION scopefloor.register_embedder(of_name text, of_dimensions int, measured_distance real) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found int := scopefloor.ensure_embedder(of_name, of_dimensions);
BEGIN
  UPDATE scopefloor.embedder SET near_distance = measured_distance WHERE id = found AND near_distance <> measured_distance;
  RETURN found;
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.register_embedder(text, int, real) FROM PUBLIC;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
-- For the owner's connection, which registers models at the start.
DO $$
DECLARE
  owner name := current_user;
BEGIN
  SET LOCAL ROLE scopefloor_definer;
  EXECUTE format('GRANT EXECUTE ON FUNCTION scopefloor.register_embedder(text, int, real) TO %I', owner);
  RESET ROLE;
END $$;
