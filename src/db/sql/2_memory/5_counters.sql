-- Counters of passages by scope and model, which triggers (4_tables.sql) append to, and the codes of vectors.

-- Every change is a row with a number of its own, also one that leaves the counts as they were.
CREATE OR REPLACE FUNCTION scopefloor.count_passages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, embedder_id, languages, count(*), sum(tokens), sum(lexemes), sum(octet_length(text))
    FROM added WHERE expired_at IS NULL GROUP BY tenant_id, scope_id, embedder_id, languages;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, embedder_id, languages, -count(*), -sum(tokens), -sum(lexemes), -sum(octet_length(text))
    FROM removed WHERE expired_at IS NULL GROUP BY tenant_id, scope_id, embedder_id, languages;
  ELSE
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, embedder_id, languages, sum(n), sum(n * tokens), sum(n * lexemes), sum(n * octet_length(text))
    FROM (SELECT 1 AS n, a.* FROM added a WHERE expired_at IS NULL
          UNION ALL
          SELECT -1, r.* FROM removed r WHERE expired_at IS NULL) change
    GROUP BY tenant_id, scope_id, embedder_id, languages;
  END IF;
  IF EXISTS (SELECT 1 FROM scopefloor.limit_store) THEN
    IF TG_OP <> 'DELETE' THEN
      PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(octet_length(a.text)), 0, 0) FROM added a WHERE a.expired_at IS NULL GROUP BY a.tenant_id, a.scope_id;
    END IF;
    IF TG_OP <> 'INSERT' THEN
      PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, -sum(octet_length(r.text)), 0, 0) FROM removed r WHERE r.expired_at IS NULL GROUP BY r.tenant_id, r.scope_id;
    END IF;
  END IF;
  RETURN NULL;
END $$;

-- The sum of the numbers stays, also where the counts come to nothing; the languages of what is gone do not.
CREATE OR REPLACE FUNCTION scopefloor.fold_counters() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
BEGIN
  WITH taken AS (
    DELETE FROM scopefloor.scope_counter c
    WHERE c.scope_id IN (SELECT scope_id FROM scopefloor.scope_counter GROUP BY scope_id, embedder_id, languages HAVING count(*) > 1)
    RETURNING *)
  INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes, change)
  SELECT tenant_id, scope_id, embedder_id, CASE WHEN sum(passages) <> 0 THEN languages ELSE '' END, sum(passages), sum(tokens), sum(lexemes), sum(bytes), sum(change) FROM taken GROUP BY tenant_id, scope_id, embedder_id, languages;
  GET DIAGNOSTICS folded = ROW_COUNT;
  RETURN folded;
END $$;

-- Trigger: a passage's code follows its vector, whoever writes it.
CREATE OR REPLACE FUNCTION scopefloor.set_code() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$ -- pgvector is in one of the first two
BEGIN
  NEW.code := CASE WHEN NEW.embedding IS NOT NULL AND (SELECT e.is_dense FROM scopefloor.embedder e WHERE e.id = NEW.embedder_id)
    THEN binary_quantize(NEW.embedding) END;
  RETURN NEW;
END $$;

-- What the ticket's tenant has stored: {storedBytes, passages, sessions, scopes}. Sessions are counted as
-- far as the limit.
CREATE OR REPLACE FUNCTION scopefloor.tenant_use(most_sessions int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id = (t->>'tenant')::int);
BEGIN
  RETURN (
    SELECT jsonb_build_object('passages', coalesce(sum(c.passages), 0), 'scopes', cardinality(ids),
      'storedBytes', coalesce(sum(c.bytes), 0) + (SELECT coalesce(sum(d.size_bytes), 0) FROM scopefloor.document d WHERE d.scope_id = ANY (ids) AND d.content_hash IS NOT NULL),
      'sessions', (SELECT count(*) FROM (SELECT 1 FROM scopefloor.session s WHERE s.scope_id = ANY (ids) LIMIT most_sessions) n))
    FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids));
END $$;
