-- The deployment's Context and its embedding models: no tenant's data.

-- When the Context was made; NULL without a ticket.
CREATE OR REPLACE FUNCTION scopefloor.context_created_at(of_context text) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.created_at FROM scopefloor.context c WHERE c.id = of_context AND scopefloor.ticket() IS NOT NULL
$$;

-- Writes a row of its own, for a caller that undoes it: that the database takes writes is a part of being
-- ready. (One that stayed would be of no scope, and gone with the next day.)
CREATE OR REPLACE FUNCTION scopefloor.try_write() RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.erasure (hash, at) VALUES (0, clock_timestamp() - interval '1 day');
  RETURN true;
END $$;

-- Replaces the Context's configuration; false for anybody but the operator with every right.
CREATE OR REPLACE FUNCTION scopefloor.configure_context(of_context text, changed jsonb) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.full_ticket();
BEGIN
  -- The Context is everyone's: only the operator, whose floor is {}, changes it.
  IF t IS NULL OR t->'floor' <> '{}' THEN
    RETURN false;
  END IF;
  UPDATE scopefloor.context SET config = config || changed WHERE id = of_context;
  RETURN FOUND;
END $$;

-- Makes the Context's row where there is none. Where texts were analysed in an earlier way, each scope that holds
-- any is brought up by a job, as the first key. Gives how many.
CREATE OR REPLACE FUNCTION scopefloor.ensure_context(of_context text, of_analyser int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  earlier int;
  ordered int := 0;
BEGIN
  INSERT INTO scopefloor.context (id) VALUES (of_context) ON CONFLICT DO NOTHING;
  SELECT c.analyser INTO STRICT earlier FROM scopefloor.context c WHERE c.id = of_context FOR UPDATE;
  IF earlier < of_analyser THEN
    UPDATE scopefloor.context c SET analyser = of_analyser WHERE c.id = of_context;
  END IF;
  IF earlier BETWEEN 1 AND of_analyser - 1 THEN -- (a migration has ordered it where there was none)
    INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, api_key_id, principal, epoch, share_group)
    SELECT s.tenant_id, s.id, gen_random_uuid(), 'bring_up', k.id, k.principal, s.epoch, scopefloor.share_group_of(k.id)
    FROM scopefloor.scope s CROSS JOIN (SELECT a.id, a.principal FROM scopefloor.api_key a WHERE a.parent_id IS NULL AND a.principal = 'management' ORDER BY a.created_at LIMIT 1) k
    WHERE EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.job j WHERE j.scope_id = s.id AND j.kind = 'bring_up' AND j.state = 'queued');
    GET DIAGNOSTICS ordered = ROW_COUNT;
  END IF;
  RETURN ordered;
END $$;

-- The number of a model: 31 bits of its name's hash, so that it is the same in every deployment and the
-- vectors of a tenant that moves keep theirs.
CREATE OR REPLACE FUNCTION scopefloor.embedder_number(of_name text) RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ('x' || left(encode(sha256(convert_to(of_name, 'UTF8')), 'hex'), 8))::bit(32)::int & 2147483647
$$;

-- The number of a model, registered when it is new. Raises where the length of its vectors has changed.
CREATE OR REPLACE FUNCTION scopefloor.ensure_embedder(of_name text, of_dimensions int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.embedder;
BEGIN
  INSERT INTO scopefloor.embedder (id, name, dimensions) VALUES (scopefloor.embedder_number(of_name), of_name, of_dimensions) ON CONFLICT (name) DO NOTHING;
  SELECT * INTO STRICT found FROM scopefloor.embedder WHERE name = of_name;
  IF found.dimensions <> of_dimensions THEN
    RAISE EXCEPTION 'the embedding model % gave % dimensions before and gives % now', of_name, found.dimensions, of_dimensions;
  END IF;
  RETURN found.id;
END $$;

-- A model by its name: its number, once its vectors have a known length. What was measured of it may change.
CREATE OR REPLACE FUNCTION scopefloor.register_embedder(of_name text, of_dimensions int, measured_distance real) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found int := scopefloor.ensure_embedder(of_name, of_dimensions);
BEGIN
  UPDATE scopefloor.embedder SET near_distance = measured_distance WHERE id = found AND near_distance <> measured_distance;
  RETURN found;
END $$;

-- The models that any stored vector is of, for the service as a whole: what a query is embedded with.
CREATE OR REPLACE FUNCTION scopefloor.embedders_in_use() RETURNS TABLE (id int, name text, dimensions int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT e.id, e.name, e.dimensions FROM scopefloor.embedder e
  -- The first scope that has any is enough.
  WHERE EXISTS (SELECT 1 FROM scopefloor.scope_counter c WHERE c.embedder_id = e.id AND c.passages > 0
                AND (SELECT sum(o.passages) FROM scopefloor.scope_counter o WHERE o.scope_id = c.scope_id AND o.embedder_id = e.id) > 0)
$$;
