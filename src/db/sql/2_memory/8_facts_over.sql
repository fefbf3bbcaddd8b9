-- Facts that are forgotten, deleted, or over (7_facts.sql says how facts are kept).

-- Forgets these rows: out of every answer (kept for audit), or for good. What was observed before ends where
-- they began: that something else was known does not make the earlier true again. Gives how many by table.
CREATE OR REPLACE FUNCTION scopefloor.forget_facts(fact_ids uuid[], for_good bool) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.forget_ticket();
  reached int[];
  key record;
  attributes int := 0;
  relations int := 0;
  taken int;
BEGIN
  reached := scopefloor.ids_in(t->'modify');
  -- In the order in which whoever writes locks them.
  PERFORM 1 FROM scopefloor.entity e
  WHERE (e.scope_id = ANY (reached) OR (t->'modify'->>'all')::bool) AND e.id IN (
    SELECT a.entity_id FROM scopefloor.attribute a WHERE a.id = ANY (fact_ids) UNION SELECT r.entity_id FROM scopefloor.relation r WHERE r.id = ANY (fact_ids))
  ORDER BY e.scope_id, e.identity FOR NO KEY UPDATE;
  FOR key IN
    SELECT f.scope_id, f.kind, f.entity_id, f.key_hash, array_agg(f.id) AS ids FROM (
      SELECT a.scope_id, 'attribute' AS kind, a.entity_id, a.key_hash, a.id FROM scopefloor.attribute a WHERE a.id = ANY (fact_ids)
      UNION ALL SELECT r.scope_id, 'relation', r.entity_id, r.key_hash, r.id FROM scopefloor.relation r WHERE r.id = ANY (fact_ids)) f
    WHERE f.scope_id = ANY (reached) OR (t->'modify'->>'all')::bool
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 2, 4
  LOOP
    PERFORM scopefloor.cut_before(key.scope_id, key.kind, key.entity_id, key.key_hash, key.ids);
    IF key.kind = 'attribute' THEN
      IF for_good THEN
        DELETE FROM scopefloor.attribute a WHERE a.scope_id = key.scope_id AND a.id = ANY (key.ids);
      ELSE
        UPDATE scopefloor.attribute a SET expired_at = now(), terms = NULL WHERE a.scope_id = key.scope_id AND a.id = ANY (key.ids) AND a.expired_at IS NULL;
      END IF;
      GET DIAGNOSTICS taken = ROW_COUNT;
      attributes := attributes + taken;
    ELSE
      IF for_good THEN
        DELETE FROM scopefloor.relation r WHERE r.scope_id = key.scope_id AND r.id = ANY (key.ids);
      ELSE
        UPDATE scopefloor.relation r SET expired_at = now(), terms = NULL WHERE r.scope_id = key.scope_id AND r.id = ANY (key.ids) AND r.expired_at IS NULL;
      END IF;
      GET DIAGNOSTICS taken = ROW_COUNT;
      relations := relations + taken;
    END IF;
    PERFORM scopefloor.settle_facts(key.scope_id, key.kind, key.entity_id, key.key_hash, NULL, NULL, NULL, NULL, '[]', NULL);
  END LOOP;
  RETURN jsonb_build_object('attribute', attributes, 'relation', relations);
END $$;

-- Holds entities that are about to be deleted: nothing is said of them any more until then.
CREATE OR REPLACE FUNCTION scopefloor.hold_entities(ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.forget_ticket();
BEGIN
  PERFORM 1 FROM scopefloor.entity e
  WHERE e.id = ANY (ids) AND (e.scope_id = ANY (scopefloor.ids_in(t->'modify')) OR (t->'modify'->>'all')::bool)
  ORDER BY e.scope_id, e.identity FOR UPDATE;
END $$;

-- Notes at the observation before one that goes as a whole where it ended, unless they say the same.
CREATE OR REPLACE FUNCTION scopefloor.cut_before(at_scope int, of_kind text, subject uuid, of_key uuid, gone uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  cut record;
BEGIN
  FOR cut IN
    WITH said AS MATERIALIZED (
      SELECT o.*, o.id = ANY (gone) AS goes, dense_rank() OVER (ORDER BY o.valid_from, o.observation_id) AS n
      FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o),
    whole AS (SELECT s.n, min(s.valid_from) AS at FROM said s GROUP BY s.n HAVING bool_and(s.goes)),
    -- Before each observation that goes the last one that stays.
    stays AS (
      SELECT g.n, max(g.n) FILTER (WHERE NOT g.goes) OVER (ORDER BY g.n) AS last
      FROM (SELECT s.n, bool_and(s.goes) AS goes FROM said s GROUP BY s.n) g)
    -- Of what goes together the first: what stays ends where that began.
    SELECT s.id, min(w.at) AS at FROM whole w JOIN stays y ON y.n = w.n JOIN said s ON s.n = y.last
    WHERE NOT s.goes AND NOT EXISTS (SELECT 1 FROM said g WHERE g.n = w.n AND g.what = s.what)
    GROUP BY s.id
  LOOP
    UPDATE scopefloor.attribute a
    SET cut_at = least(a.cut_at, cut.at), cut_known_at = least(a.cut_known_at, (SELECT min(g.created_at) FROM scopefloor.attribute g WHERE g.scope_id = at_scope AND g.id = ANY (gone) AND g.valid_from = cut.at))
    WHERE of_kind = 'attribute' AND a.scope_id = at_scope AND a.id = cut.id;
    UPDATE scopefloor.relation r
    SET cut_at = least(r.cut_at, cut.at), cut_known_at = least(r.cut_known_at, (SELECT min(g.created_at) FROM scopefloor.relation g WHERE g.scope_id = at_scope AND g.id = ANY (gone) AND g.valid_from = cut.at))
    WHERE of_kind = 'relation' AND r.scope_id = at_scope AND r.id = cut.id;
  END LOOP;
END $$;

-- Closes what is over, `most` rows of each kind at a time: facts, which stay findable for the past,
-- passages of what was said for a while, which are expired, and keyed items, which are deleted. At these scopes, or everywhere (null). Gives how many.
CREATE OR REPLACE FUNCTION scopefloor.end_over(ids int[], most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_now timestamptz := now();
  affected int := 0;
  at_scope int; -- one scope after the other, by its own index; null: all of them at once, by that of the times
  taken int;
BEGIN
  FOREACH at_scope IN ARRAY coalesce(ids, ARRAY[NULL::int]) LOOP
    UPDATE scopefloor.attribute f SET closed_at = at_now
    FROM (SELECT o.scope_id, o.id FROM scopefloor.attribute o WHERE at_scope IS NULL AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = over.scope_id AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    UPDATE scopefloor.attribute f SET closed_at = at_now
    FROM (SELECT o.id FROM scopefloor.attribute o WHERE o.scope_id = at_scope AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = at_scope AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    UPDATE scopefloor.relation f SET closed_at = at_now
    FROM (SELECT o.scope_id, o.id FROM scopefloor.relation o WHERE at_scope IS NULL AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = over.scope_id AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    UPDATE scopefloor.relation f SET closed_at = at_now
    FROM (SELECT o.id FROM scopefloor.relation o WHERE o.scope_id = at_scope AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = at_scope AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    -- (An item takes its passage with it, below.)
    WITH over AS MATERIALIZED (
      SELECT * FROM (SELECT p.scope_id, p.id, p.kind FROM scopefloor.passage p
                     WHERE at_scope IS NULL AND p.ends_at <= at_now AND p.expired_at IS NULL AND p.kind <> 'item' ORDER BY p.ends_at LIMIT most FOR UPDATE SKIP LOCKED) anywhere
      UNION ALL
      SELECT * FROM (SELECT p.scope_id, p.id, p.kind FROM scopefloor.passage p
                     WHERE p.scope_id = at_scope AND p.ends_at <= at_now AND p.expired_at IS NULL AND p.kind <> 'item' ORDER BY p.ends_at LIMIT most FOR UPDATE SKIP LOCKED) here),
    removed AS (
      DELETE FROM scopefloor.passage p USING over WHERE p.scope_id = over.scope_id AND p.id = over.id AND over.kind = 'attribute'),
    expired AS (
      UPDATE scopefloor.passage p SET expired_at = at_now, embedding = NULL, embedder_id = NULL, terms = '' FROM over
      WHERE p.scope_id = over.scope_id AND p.id = over.id AND over.kind <> 'attribute' RETURNING 1)
    SELECT count(*) INTO taken FROM expired;
    affected := affected + taken;
    DELETE FROM scopefloor.memory_item m USING (
      SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.memory_item o WHERE at_scope IS NULL AND o.expires_at <= at_now AND NOT scopefloor.is_row_held('memory_item', o.scope_id, to_jsonb(o)) ORDER BY o.expires_at LIMIT most FOR UPDATE SKIP LOCKED) anywhere
      UNION ALL
      SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.memory_item o WHERE o.scope_id = at_scope AND o.expires_at <= at_now AND NOT scopefloor.is_row_held('memory_item', o.scope_id, to_jsonb(o)) LIMIT most FOR UPDATE SKIP LOCKED) here) over
    WHERE m.scope_id = over.scope_id AND m.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    -- What has begun is like any other from now on.
    UPDATE scopefloor.passage p SET starts_at = NULL
    FROM (SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.passage o WHERE at_scope IS NULL AND o.starts_at <= at_now ORDER BY o.starts_at LIMIT most FOR UPDATE SKIP LOCKED) anywhere
          UNION ALL
          SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.passage o WHERE o.scope_id = at_scope AND o.starts_at <= at_now ORDER BY o.starts_at LIMIT most FOR UPDATE SKIP LOCKED) here) begun
    WHERE p.scope_id = begun.scope_id AND p.id = begun.id;
  END LOOP;
  RETURN affected;
END $$;

-- The same below the ticket's floor, for a caller who may forget there.
CREATE OR REPLACE FUNCTION scopefloor.end_over_within(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' <> 'forget' OR most NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN scopefloor.end_over(CASE WHEN (t->'modify'->>'all')::bool THEN NULL ELSE scopefloor.ids_in(t->'modify') END, most);
END $$;

-- The same everywhere, in the worker's housekeeping.
CREATE OR REPLACE FUNCTION scopefloor.end_over_anywhere(most int) RETURNS int
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.end_over(NULL, most)
$$;
