-- Facts: what was observed of entities, and what follows from it.
--
-- An observation is what one call said of an entity under a key: a value, or the targets that stand together.
-- Each is kept. By the time that it was observed, then by its id, observations stand in one order, which does
-- not depend on the order in which they came:
--
-- - what says the same as the observation just before it confirms that one: a run, shown as one fact, under
--   the id of its first row
-- - a run ends where the next observation says something else, or where it ends by itself (ends_at), or where
--   something was known that was forgotten since (cut_at)
--
-- What is known at present stands in the rows (is_confirmation, valid_until, superseded_by, closed_at), kept
-- by settle_facts. What was known at an earlier moment is computed when it is asked for
-- (src/memory/fact-timeline.ts), from the rows that had been learnt by then.

-- The entity of that name at a scope, {type, name, identity, folded}, made when there is none.
CREATE OR REPLACE FUNCTION scopefloor.ensure_entity(at_tenant int, at_scope int, named jsonb, by_key uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found uuid;
BEGIN
  INSERT INTO scopefloor.entity (tenant_id, scope_id, id, type, name, identity, folded, api_key_id)
  VALUES (at_tenant, at_scope, gen_random_uuid(), named->>'type', named->>'name', named->>'identity', named->>'folded', by_key)
  ON CONFLICT (scope_id, name_hash, tenant_id) DO NOTHING;
  -- Locked: of two who change the same entity the second sees what the first left.
  SELECT e.id INTO STRICT found FROM scopefloor.entity e
  WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), named->>'identity') FOR NO KEY UPDATE;
  RETURN found;
END $$;

-- The observations of an entity under a key, without what was forgotten. `what` is the value, or the target's
-- id. (Without SET, so that it is inlined and of the two tables one is read.)
CREATE OR REPLACE FUNCTION scopefloor.observations(at_scope int, of_kind text, subject uuid, of_key uuid) RETURNS TABLE (
  id uuid, what jsonb, valid_from timestamptz, observation_id uuid, is_confirmation bool, stops_at timestamptz, valid_until timestamptz, superseded_by uuid)
LANGUAGE sql STABLE AS $$
  SELECT a.id, a.value, a.valid_from, a.observation_id, a.is_confirmation, least(a.ends_at, a.cut_at), a.valid_until, a.superseded_by
  FROM scopefloor.attribute a
  WHERE of_kind OPERATOR(pg_catalog.=) 'attribute' AND a.scope_id OPERATOR(pg_catalog.=) at_scope AND a.entity_id OPERATOR(pg_catalog.=) subject
    AND a.key_hash OPERATOR(pg_catalog.=) of_key AND a.expired_at IS NULL
  UNION ALL
  SELECT r.id, pg_catalog.to_jsonb(r.target_id), r.valid_from, r.observation_id, r.is_confirmation, least(r.ends_at, r.cut_at), r.valid_until, r.superseded_by
  FROM scopefloor.relation r
  WHERE of_kind OPERATOR(pg_catalog.=) 'relation' AND r.scope_id OPERATOR(pg_catalog.=) at_scope AND r.entity_id OPERATOR(pg_catalog.=) subject
    AND r.key_hash OPERATOR(pg_catalog.=) of_key AND r.expired_at IS NULL
$$;

-- A vector as it is written. (By itself, so that no definer function looks for names in pgvector's schema.)
CREATE OR REPLACE FUNCTION scopefloor.vector_of(written text) RETURNS halfvec
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$ -- pgvector is in one of the first two
  SELECT written::halfvec
$$;

-- Makes passages for facts at a scope, for recall. `given`: what the service has made of new ones,
-- [{id, embedding, digest, suspicious}]; to the vectors of others the queue sees.
CREATE OR REPLACE FUNCTION scopefloor.recall_facts(at_scope int, fact_ids uuid[], given jsonb, of_embedder int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF cardinality(fact_ids) = 0 THEN
    RETURN;
  END IF;
  WITH facts AS (
    SELECT a.tenant_id, a.id, a.session_id, a.api_key_id, a.sentence, a.labels, a.category, a.tokens, a.terms, a.lexemes, a.languages, a.analyser, a.valid_from, a.valid_until
    FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = ANY (fact_ids)
    UNION ALL
    SELECT r.tenant_id, r.id, r.session_id, r.api_key_id, r.sentence, r.labels, r.category, r.tokens, r.terms, r.lexemes, r.languages, r.analyser, r.valid_from, r.valid_until
    FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = ANY (fact_ids))
  INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, session_id, api_key_id, author, text, labels, category, tokens, terms, lexemes, languages, analyser,
                                  embedding, embedder_id, observed_at, starts_at, ends_at, digest, suspicious)
  SELECT f.tenant_id, at_scope, f.id, 'attribute', f.session_id, f.api_key_id,
         coalesce((SELECT k.principal FROM scopefloor.api_key k WHERE k.id = f.api_key_id), 'agent'), f.sentence, f.labels, f.category, f.tokens,
         f.terms, f.lexemes, f.languages, f.analyser,
         scopefloor.vector_of(g.embedding), CASE WHEN g.id IS NOT NULL THEN of_embedder END, f.valid_from, CASE WHEN f.valid_from > clock_timestamp() THEN f.valid_from END, f.valid_until,
         decode(g.digest, 'hex'), ARRAY(SELECT jsonb_array_elements_text(g.suspicious))
  FROM facts f LEFT JOIN jsonb_to_recordset(given)
    AS g(id uuid, embedding text, digest text, suspicious jsonb) ON g.id = f.id;
  -- One that comes back has no vector yet.
  IF EXISTS (SELECT 1 FROM unnest(fact_ids) f WHERE NOT given @> jsonb_build_array(jsonb_build_object('id', f))) THEN
    PERFORM scopefloor.order_job(at_scope, gen_random_uuid(), 'embed');
  END IF;
END $$;

-- The observation next to a place in the order of a key: the last before it, or the first after it. (By kind, so
-- that the order comes out of the index.)
CREATE OR REPLACE FUNCTION scopefloor.observation_beside(at_scope int, of_kind text, subject uuid, of_key uuid, at_time timestamptz, at_observation uuid, is_after bool,
                                                         OUT valid_from timestamptz, OUT observation_id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF of_kind = 'attribute' AND is_after THEN
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.attribute f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) > (at_time, at_observation)
    ORDER BY f.valid_from, f.observation_id LIMIT 1;
  ELSIF of_kind = 'attribute' THEN
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.attribute f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) < (at_time, at_observation)
    ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  ELSIF is_after THEN
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.relation f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) > (at_time, at_observation)
    ORDER BY f.valid_from, f.observation_id LIMIT 1;
  ELSE
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.relation f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) < (at_time, at_observation)
    ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  END IF;
END $$;

-- The fact that a row belongs to: of those that say `said`, the first row of the run at a place in the order.
CREATE OR REPLACE FUNCTION scopefloor.fact_at(at_scope int, of_kind text, subject uuid, of_key uuid, said jsonb, at_time timestamptz, at_observation uuid,
                                              OUT id uuid, OUT valid_from timestamptz, OUT valid_until timestamptz, OUT superseded_by uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF of_kind = 'attribute' THEN
    SELECT f.id, f.valid_from, f.valid_until, f.superseded_by INTO id, valid_from, valid_until, superseded_by FROM scopefloor.attribute f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND NOT f.is_confirmation AND f.value = said
      AND (f.valid_from, f.observation_id) <= (at_time, at_observation) ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  ELSE
    SELECT f.id, f.valid_from, f.valid_until, f.superseded_by INTO id, valid_from, valid_until, superseded_by FROM scopefloor.relation f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND NOT f.is_confirmation AND f.target_id = (said #>> '{}')::uuid
      AND (f.valid_from, f.observation_id) <= (at_time, at_observation) ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  END IF;
END $$;

-- Works out what follows from the observations of a key between two of them (null: from the first, to the
-- last), where those outside are settled: a new one changes what its neighbours mean, and nothing beyond. The
-- arguments behind are recall_facts'.
CREATE OR REPLACE FUNCTION scopefloor.settle_facts(at_scope int, of_kind text, subject uuid, of_key uuid, from_time timestamptz, from_observation uuid,
                                                   to_time timestamptz, to_observation uuid, given jsonb, of_embedder int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_now timestamptz := clock_timestamp();
  settled jsonb; -- [{id, heads, until, by}]: heads is false for what confirms another
BEGIN
  -- Before anything is deleted: whoever packs the tail waits for deletions (5_word_index.sql).
  PERFORM pg_advisory_xact_lock_shared(7702, at_scope);
  WITH said AS MATERIALIZED (
    SELECT o.*, dense_rank() OVER (ORDER BY o.valid_from, o.observation_id) AS n
    FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o
    WHERE (o.valid_from, o.observation_id) >= (coalesce(from_time, '-infinity'), coalesce(from_observation, '00000000-0000-0000-0000-000000000000'))
      AND (o.valid_from, o.observation_id) <= (coalesce(to_time, 'infinity'), coalesce(to_observation, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))),
  groups AS MATERIALIZED (
    SELECT g.n, lead(g.valid_from) OVER w AS next_from, lead(g.observation_id) OVER w AS next_observation,
           to_time IS NOT NULL AND row_number() OVER (ORDER BY g.n DESC) = 1 AS is_edge -- what follows is settled
    FROM (SELECT DISTINCT n, valid_from, observation_id FROM said) g WINDOW w AS (ORDER BY g.n)),
  placed AS (
    SELECT s.*,
           CASE WHEN lag(s.n) OVER w IS NULL THEN s.n = 1 AND from_time IS NOT NULL AND s.is_confirmation
                ELSE lag(s.n) OVER w >= s.n - 1 AND NOT coalesce(lag(s.stops_at) OVER w <= s.valid_from, false) END AS continues
    FROM said s WINDOW w AS (PARTITION BY s.what ORDER BY s.n, s.id)),
  numbered AS (
    SELECT p.*, count(*) FILTER (WHERE NOT p.continues) OVER (PARTITION BY p.what ORDER BY p.n, p.id) AS run FROM placed p),
  runs AS (
    SELECT d.what, max(d.n) AS last, (array_agg(d.stops_at ORDER BY d.n DESC, d.id DESC))[1] AS stops_at,
           CASE WHEN bool_or(NOT d.continues) THEN (array_agg(d.id ORDER BY d.n, d.id))[1]
                ELSE (SELECT f.id FROM scopefloor.fact_at(at_scope, of_kind, subject, of_key, d.what, from_time, from_observation) f) END AS head -- it began before
    FROM numbered d GROUP BY d.what, d.run),
  ends AS (
    SELECT r.head, CASE WHEN g.is_edge THEN f.valid_until ELSE least(r.stops_at, g.next_from) END AS until,
           CASE WHEN g.is_edge THEN f.superseded_by WHEN (g.next_from <= r.stops_at) IS NOT FALSE THEN g.next_observation END AS by
    FROM runs r JOIN groups g ON g.n = r.last
    -- One that goes on beyond ends as it did.
    LEFT JOIN LATERAL scopefloor.fact_at(at_scope, of_kind, subject, of_key, r.what, to_time, to_observation) f ON g.is_edge)
  SELECT coalesce(jsonb_agg(jsonb_build_object('id', x.id, 'heads', x.heads, 'until', x.until, 'by', x.by)), '[]') INTO settled FROM (
    SELECT s.id, false AS heads, NULL::timestamptz AS until, NULL::uuid AS by FROM said s LEFT JOIN ends e ON e.head = s.id WHERE e.head IS NULL
    UNION ALL SELECT e.head, true, e.until, e.by FROM ends e) x;
  IF of_kind = 'attribute' THEN
    UPDATE scopefloor.attribute f
    SET is_confirmation = NOT s.heads, valid_until = s.until, superseded_by = s.by,
        closed_at = CASE WHEN s.until <= at_now THEN coalesce(f.closed_at, CASE WHEN s.by IS NOT NULL THEN at_now END) END
    FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz, by uuid)
    WHERE f.scope_id = at_scope AND f.id = s.id AND (f.is_confirmation, f.valid_until, f.superseded_by) IS DISTINCT FROM (NOT s.heads, s.until, s.by);
  ELSE
    UPDATE scopefloor.relation f
    SET is_confirmation = NOT s.heads, valid_until = s.until, superseded_by = s.by,
        closed_at = CASE WHEN s.until <= at_now THEN coalesce(f.closed_at, CASE WHEN s.by IS NOT NULL THEN at_now END) END
    FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz, by uuid)
    WHERE f.scope_id = at_scope AND f.id = s.id AND (f.is_confirmation, f.valid_until, f.superseded_by) IS DISTINCT FROM (NOT s.heads, s.until, s.by);
  END IF;
  -- What is over is not recalled for the present; what is not has one passage.
  DELETE FROM scopefloor.passage p USING jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz)
  WHERE p.scope_id = at_scope AND p.id = s.id AND p.kind = 'attribute' AND NOT (s.heads AND (s.until > at_now) IS NOT FALSE);
  UPDATE scopefloor.passage p SET ends_at = s.until FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz)
  WHERE p.scope_id = at_scope AND p.id = s.id AND p.kind = 'attribute' AND p.ends_at IS DISTINCT FROM s.until;
  PERFORM scopefloor.recall_facts(at_scope, ARRAY(
    SELECT s.id FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz)
    WHERE s.heads AND (s.until > at_now) IS NOT FALSE AND NOT EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = s.id)), given, of_embedder);
END $$;

-- When what is so for a while ends: after the item's lifetime in seconds. (No later than a time has four digits for its year.)
CREATE OR REPLACE FUNCTION scopefloor.end_of(observed timestamptz, item jsonb) RETURNS timestamptz
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN item ? 'lifetime' THEN least(observed + make_interval(secs => (item->>'lifetime')::float8), '9999-12-31T23:59:59Z') END
$$;

-- Stores one observation: `items`, which are said together under one key of an entity. Gives for each
-- {id, entityId, stored, current, superseded: [ids]}, in their order; of what confirms a fact the id is that fact's.
-- `unrecalled`: nothing else is known of the key, and whoever calls makes the passages, for many at once.
CREATE OR REPLACE FUNCTION scopefloor.put_observation(t jsonb, of_kind text, subject uuid, items jsonb, learnt timestamptz, in_session uuid, in_turn uuid, of_embedder int)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  observed timestamptz := coalesce((items->0->>'at')::timestamptz, learnt);
  of_key uuid := scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), items->0->>'normalKey');
  observation uuid := (SELECT min(x->>'id') FROM jsonb_array_elements(items) x)::uuid;
  before record; -- the observations beside this one
  next record;
  cut record; -- where what was known before it ended, by what was forgotten since
  said jsonb := (SELECT jsonb_agg(DISTINCT x->'what') FROM jsonb_array_elements(items) x);
  is_stored bool := true;
  is_alone bool;
BEGIN
  before := scopefloor.observation_beside(at_scope, of_kind, subject, of_key, observed, observation, false);
  next := scopefloor.observation_beside(at_scope, of_kind, subject, of_key, observed, observation, true);
  is_alone := before.valid_from IS NULL AND next.valid_from IS NULL;
  IF before.valid_from IS NOT NULL THEN
    SELECT min(x.cut_at) AS at, min(x.cut_known_at) AS known_at INTO cut FROM (
      SELECT a.cut_at, a.cut_known_at FROM scopefloor.attribute a
      WHERE of_kind = 'attribute' AND a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.valid_from = before.valid_from AND a.observation_id = before.observation_id
      UNION ALL
      SELECT r.cut_at, r.cut_known_at FROM scopefloor.relation r
      WHERE of_kind = 'relation' AND r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.valid_from = before.valid_from AND r.observation_id = before.observation_id) x
    WHERE x.cut_at > observed;
  ELSE
    SELECT NULL::timestamptz AS at, NULL::timestamptz AS known_at INTO cut;
  END IF;
  -- The very same, of the very same time, is nothing new.
  IF before.valid_from = observed THEN
    is_stored := said IS DISTINCT FROM (SELECT jsonb_agg(DISTINCT o.what) FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o
                                        WHERE o.valid_from = before.valid_from AND o.observation_id = before.observation_id);
  END IF;
  -- (Until it is settled a row stands for no fact.)
  IF is_stored AND of_kind = 'attribute' THEN
    INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, value, key, normal_key, category, sentence, tokens, terms, lexemes, languages, analyser, labels,
                                      valid_from, observation_id, is_confirmation, ends_at, valid_until, cut_at, cut_known_at, session_id, turn_id, api_key_id, created_at)
    SELECT at_tenant, at_scope, (x->>'id')::uuid, subject, x->'what', x->>'key', x->>'normalKey', x->>'category', x->>'sentence', (x->>'tokens')::int, decode(x->>'terms', 'hex'), (x->>'words')::int, x->>'languages', (x->>'analyser')::smallint,
           ARRAY(SELECT jsonb_array_elements_text(x->'labels')), observed, observation, NOT is_alone, scopefloor.end_of(observed, x), scopefloor.end_of(observed, x), cut.at, cut.known_at, in_session, in_turn, (t->>'key')::uuid, learnt
    FROM jsonb_array_elements(items) x;
  ELSIF is_stored THEN
    INSERT INTO scopefloor.relation (tenant_id, scope_id, id, entity_id, target_id, key, normal_key, category, sentence, tokens, terms, lexemes, languages, analyser, labels,
                                     valid_from, observation_id, is_confirmation, ends_at, valid_until, cut_at, cut_known_at, session_id, turn_id, api_key_id, created_at)
    SELECT DISTINCT ON (x->'what') at_tenant, at_scope, (x->>'id')::uuid, subject, (x->>'what')::uuid, x->>'key', x->>'normalKey', x->>'category', x->>'sentence', (x->>'tokens')::int, decode(x->>'terms', 'hex'), (x->>'words')::int, x->>'languages', (x->>'analyser')::smallint,
           ARRAY(SELECT jsonb_array_elements_text(x->'labels')), observed, observation, NOT is_alone, scopefloor.end_of(observed, x), scopefloor.end_of(observed, x), cut.at, cut.known_at, in_session, in_turn, (t->>'key')::uuid, learnt
    FROM jsonb_array_elements(items) x ORDER BY x->'what', x->>'id';
  END IF;
  IF is_stored AND NOT is_alone THEN
    PERFORM scopefloor.settle_facts(at_scope, of_kind, subject, of_key, before.valid_from, before.observation_id, next.valid_from, next.observation_id, items, of_embedder);
  END IF;
  RETURN (
    SELECT jsonb_agg(jsonb_build_object(
             'id', head.id, 'entityId', subject, 'stored', head.id = (x->>'id')::uuid,
             'current', head.valid_from <= clock_timestamp() AND (head.valid_until > clock_timestamp()) IS NOT FALSE,
             'unrecalled', is_alone AND head.id = (x->>'id')::uuid AND (head.valid_until > clock_timestamp()) IS NOT FALSE,
             'superseded', CASE WHEN head.id = (x->>'id')::uuid AND NOT is_alone
               THEN (SELECT coalesce(jsonb_agg(DISTINCT f.id), '[]') FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o,
                     LATERAL scopefloor.fact_at(at_scope, of_kind, subject, of_key, o.what, before.valid_from, before.observation_id) f
                     WHERE o.valid_from = before.valid_from AND o.observation_id = before.observation_id AND f.superseded_by = observation) ELSE '[]' END) ORDER BY n)
    FROM jsonb_array_elements(items) WITH ORDINALITY i(x, n),
    LATERAL scopefloor.fact_at(at_scope, of_kind, subject, of_key, x->'what', observed, observation) head);
END $$;

-- Stores triples at the ticket's write scope, in their order:
--   [{id, entity: {type, name, identity, folded}, key, normalKey, value? | target?: an entity, category, sentence, tokens,
--     labels, at?, lifetime? (seconds), terms, words, languages, analyser, embedding, digest, suspicious}]
-- Several targets of one key are one observation; of several values the later one follows the earlier.
-- Gives for each what put_observation says of it, with targetId and newEntities: [ids].
CREATE OR REPLACE FUNCTION scopefloor.put_triples(triples jsonb, in_session uuid, in_turn uuid, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  named jsonb; -- the entities' ids by their identity
  learnt timestamptz;
  said record;
  done jsonb := '{}';
BEGIN
  -- In the order of their names, so that nobody waits in a circle.
  SELECT coalesce(jsonb_object_agg(e.named->>'identity', scopefloor.ensure_entity(at_tenant, at_scope, e.named, (t->>'key')::uuid)), '{}') INTO named
  FROM (SELECT DISTINCT ON (x->>'identity') x AS named
        FROM jsonb_array_elements(triples) WITH ORDINALITY y(y, n), LATERAL (VALUES (y->'entity'), (y->'target')) v(x)
        WHERE jsonb_typeof(x) = 'object' ORDER BY x->>'identity', n) e;
  -- After the wait for whoever changes the same entities: of one entity what is learnt later has the later time.
  learnt := clock_timestamp();
  FOR said IN
    SELECT i.kind, (named->>i.identity)::uuid AS subject, jsonb_agg(i.x || jsonb_build_object('what', i.what) ORDER BY i.n) AS items, min(i.n) AS first
    FROM (SELECT x, n, x->'entity'->>'identity' AS identity, CASE WHEN jsonb_typeof(x->'target') = 'object' THEN 'relation' ELSE 'attribute' END AS kind,
                 CASE WHEN jsonb_typeof(x->'target') = 'object' THEN named->(x->'target'->>'identity') ELSE x->'value' END AS what
          FROM jsonb_array_elements(triples) WITH ORDINALITY y(x, n)) i
    GROUP BY i.kind, i.identity, i.x->>'normalKey', CASE WHEN i.kind = 'attribute' THEN i.n END ORDER BY 4
  LOOP
    done := done || (
      SELECT jsonb_object_agg(said.items->(o.n::int - 1)->>'id', o.outcome)
      FROM jsonb_array_elements(scopefloor.put_observation(t, said.kind, said.subject, said.items, learnt, in_session, in_turn, of_embedder)) WITH ORDINALITY o(outcome, n));
  END LOOP;
  PERFORM scopefloor.recall_facts(at_scope, ARRAY(SELECT o.key::uuid FROM jsonb_each(done) o WHERE (o.value->>'unrecalled')::bool
    -- (A later one of the same call may have come to the same key, and settled it.)
    AND NOT EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = o.key::uuid)
    AND EXISTS (SELECT 1 FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = o.key::uuid AND NOT a.is_confirmation AND (a.valid_until > clock_timestamp()) IS NOT FALSE
                UNION ALL SELECT 1 FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = o.key::uuid AND NOT r.is_confirmation AND (r.valid_until > clock_timestamp()) IS NOT FALSE)), triples, of_embedder);
  RETURN (
    SELECT coalesce(jsonb_agg((done->(x->>'id')) - 'unrecalled' || jsonb_strip_nulls(jsonb_build_object(
             'targetId', named->(x->'target'->>'identity'),
             -- Rows of this very transaction.
             'newEntities', ARRAY(SELECT e.id FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.xmin = pg_current_xact_id()::xid
                                  AND e.id IN ((named->>(x->'entity'->>'identity'))::uuid, (named->>(x->'target'->>'identity'))::uuid)))) ORDER BY n), '[]')
    FROM jsonb_array_elements(triples) WITH ORDINALITY y(x, n));
END $$;
