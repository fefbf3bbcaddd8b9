-- One memory, by the id that recall gives it: a turn's passage, a fact, or a keyed item. The transaction was entered
-- to write where it is (scopefloor.resolve_place).

-- Changes what is given of it at the ticket's write scope, and keeps the rest:
--   {text?: {said, tokens, terms, words, languages, analyser, cues?, digest, suspicious, embedding?}, value?, labels?, endsAt? (null: never), keepHistory?}
-- text: of a turn what it says; of an attribute the sentence for its new `value`; of an item there is `value` alone.
-- Gives {id}, which is another one where a fact now says what another one says; of an item that is recalled and has a new
-- value also {indexed: [fields], endsAt}, for whoever stores its passage. NULL: it is not there any more.
CREATE OR REPLACE FUNCTION scopefloor.correct_memory(of_id uuid, change jsonb, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  of_kind text;
  item scopefloor.memory_item;
BEGIN
  -- The one that was entered for: whose it is was looked at then.
  IF (t->>'memory')::uuid IS DISTINCT FROM of_id THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for this memory' USING ERRCODE = 'insufficient_privilege';
  END IF;
  SELECT p.kind INTO of_kind FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = of_id AND p.expired_at IS NULL;
  IF of_kind = 'turn' THEN
    RETURN scopefloor.correct_turn(t, of_id, change, of_embedder);
  ELSIF of_kind = 'attribute' THEN
    RETURN scopefloor.correct_fact(at_scope, of_id, change, of_embedder);
  END IF;
  UPDATE scopefloor.memory_item m
  SET value = CASE WHEN change ? 'value' THEN change->'value' ELSE m.value END,
      expires_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE m.expires_at END,
      version = m.version + CASE WHEN change ? 'value' THEN 1 ELSE 0 END, ttl_seconds = CASE WHEN NOT change ? 'endsAt' THEN m.ttl_seconds END,
      api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp()
  WHERE m.scope_id = at_scope AND m.id = of_id AND (m.expires_at > now()) IS NOT FALSE
  RETURNING * INTO item;
  IF item.id IS NULL OR item.indexed IS NULL THEN
    RETURN CASE WHEN item.id IS NOT NULL THEN jsonb_build_object('id', of_id) END;
  ELSIF change ? 'value' THEN
    PERFORM scopefloor.unrecall_items(at_scope, ARRAY[of_id]);
    RETURN jsonb_build_object('id', of_id, 'indexed', item.indexed, 'endsAt', scopefloor.rfc3339(item.expires_at));
  END IF;
  UPDATE scopefloor.passage p SET ends_at = item.expires_at WHERE p.scope_id = at_scope AND p.id = of_id AND p.kind = 'item';
  RETURN jsonb_build_object('id', of_id);
END $$;

CREATE OR REPLACE FUNCTION scopefloor.correct_turn(t jsonb, of_id uuid, change jsonb, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int := (t->>'write')::int;
  most_former constant int := 20;
  new_text jsonb := change->'text';
  p scopefloor.passage;
  place int;
BEGIN
  SELECT * INTO p FROM scopefloor.passage o WHERE o.scope_id = at_scope AND o.id = of_id AND o.expired_at IS NULL FOR UPDATE;
  IF p.id IS NULL THEN
    RETURN NULL;
  END IF;
  IF new_text IS NOT NULL AND (change->>'keepHistory')::bool THEN
    IF (SELECT count(*) FROM scopefloor.turn o WHERE o.scope_id = at_scope AND o.corrected_id = p.turn_id) >= most_former THEN
      RETURN jsonb_build_object('full', most_former);
    END IF;
    -- The former text is a turn that was expired, at the end of its session.
    UPDATE scopefloor.session s SET next_seq = s.next_seq + 1 WHERE s.scope_id = at_scope AND s.id = p.session_id RETURNING s.next_seq - 1 INTO place;
    INSERT INTO scopefloor.turn (tenant_id, scope_id, id, session_id, api_key_id, role, content, seq, observed_at, created_at, expired_at, corrected_id)
    SELECT o.tenant_id, o.scope_id, gen_random_uuid(), o.session_id, o.api_key_id, o.role, o.content, place, o.observed_at, o.created_at, clock_timestamp(), o.id
    FROM scopefloor.turn o WHERE o.scope_id = at_scope AND o.id = p.turn_id;
  END IF;
  IF new_text IS NOT NULL THEN
    UPDATE scopefloor.turn o SET content = new_text->>'said' WHERE o.scope_id = at_scope AND o.id = p.turn_id;
    -- It stands at the end of the tail then, as if it had just come. (embedder_id: the model has looked at it.)
    UPDATE scopefloor.passage o
    SET text = new_text->>'said', tokens = (new_text->>'tokens')::int, terms = decode(new_text->>'terms', 'hex'), lexemes = (new_text->>'words')::int,
        languages = new_text->>'languages', analyser = (new_text->>'analyser')::smallint, cues = (new_text->>'cues')::smallint,
        digest = decode(new_text->>'digest', 'hex'), suspicious = ARRAY(SELECT jsonb_array_elements_text(new_text->'suspicious')),
        embedding = scopefloor.vector_of(new_text->>'embedding'), embedder_id = CASE WHEN new_text ? 'embedding' THEN of_embedder END, seq = DEFAULT
    WHERE o.scope_id = at_scope AND o.id = of_id;
  END IF;
  UPDATE scopefloor.passage o
  SET labels = CASE WHEN change ? 'labels' THEN ARRAY(SELECT jsonb_array_elements_text(change->'labels')) ELSE o.labels END,
      ends_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE o.ends_at END
  WHERE o.scope_id = at_scope AND o.id = of_id AND change ?| ARRAY['labels', 'endsAt'];
  RETURN jsonb_build_object('id', of_id);
END $$;

-- An attribute's value, and all that confirms it; the labels and the end of a fact.
CREATE OR REPLACE FUNCTION scopefloor.correct_fact(at_scope int, of_id uuid, change jsonb, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  new_text jsonb := change->'text';
  f record;
  rows uuid[];
  given jsonb := '[]';
  head uuid;
BEGIN
  SELECT * INTO f FROM (
    SELECT 'attribute' AS kind, a.entity_id, a.key_hash, a.value AS what FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = of_id AND a.expired_at IS NULL
    UNION ALL
    SELECT 'relation', r.entity_id, r.key_hash, to_jsonb(r.target_id) FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = of_id AND r.expired_at IS NULL) o;
  IF f.kind IS NULL OR (f.kind = 'relation' AND change ? 'value') THEN
    RETURN NULL;
  END IF;
  -- Whoever says something of the entity waits, and sees what this leaves.
  PERFORM 1 FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.id = f.entity_id FOR NO KEY UPDATE;
  rows := ARRAY(
    SELECT o.id FROM scopefloor.observations(at_scope, f.kind, f.entity_id, f.key_hash) o,
      LATERAL scopefloor.fact_at(at_scope, f.kind, f.entity_id, f.key_hash, o.what, o.valid_from, o.observation_id) h
    WHERE o.what = f.what AND h.id = of_id);
  IF cardinality(rows) = 0 THEN
    RETURN NULL;
  END IF;
  IF new_text IS NOT NULL THEN
    UPDATE scopefloor.attribute a
    SET value = change->'value', sentence = new_text->>'said', tokens = (new_text->>'tokens')::int, terms = decode(new_text->>'terms', 'hex'),
        lexemes = (new_text->>'words')::int, languages = new_text->>'languages', analyser = (new_text->>'analyser')::smallint
    WHERE a.scope_id = at_scope AND a.id = ANY (rows);
    given := jsonb_build_array(jsonb_build_object('id', of_id, 'digest', new_text->'digest', 'suspicious', new_text->'suspicious')
      || CASE WHEN new_text ? 'embedding' THEN jsonb_build_object('embedding', new_text->'embedding') ELSE '{}' END);
    -- Before the tail's lock is asked for by a deletion: settle_facts.
    PERFORM pg_advisory_xact_lock_shared(7702, at_scope);
    DELETE FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = of_id AND p.kind = 'attribute';
  END IF;
  UPDATE scopefloor.attribute a
  SET labels = CASE WHEN change ? 'labels' THEN ARRAY(SELECT jsonb_array_elements_text(change->'labels')) ELSE a.labels END,
      ends_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE a.ends_at END
  WHERE f.kind = 'attribute' AND a.scope_id = at_scope AND a.id = ANY (rows) AND change ?| ARRAY['labels', 'endsAt'];
  UPDATE scopefloor.relation r
  SET labels = CASE WHEN change ? 'labels' THEN ARRAY(SELECT jsonb_array_elements_text(change->'labels')) ELSE r.labels END,
      ends_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE r.ends_at END
  WHERE f.kind = 'relation' AND r.scope_id = at_scope AND r.id = ANY (rows) AND change ?| ARRAY['labels', 'endsAt'];
  UPDATE scopefloor.passage p SET labels = ARRAY(SELECT jsonb_array_elements_text(change->'labels'))
  WHERE change ? 'labels' AND p.scope_id = at_scope AND p.id = of_id AND p.kind = 'attribute';
  PERFORM scopefloor.settle_facts(at_scope, f.kind, f.entity_id, f.key_hash, NULL, NULL, NULL, NULL, given, of_embedder);
  SELECT h.id INTO head FROM scopefloor.observations(at_scope, f.kind, f.entity_id, f.key_hash) o,
    LATERAL scopefloor.fact_at(at_scope, f.kind, f.entity_id, f.key_hash, o.what, o.valid_from, o.observation_id) h WHERE o.id = of_id;
  RETURN jsonb_build_object('id', coalesce(head, of_id));
END $$;
