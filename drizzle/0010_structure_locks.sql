-- The second lock over documents, structured memory and the queue.
--
-- New functions are made as scopefloor_definer, who may create in the schema while this set runs.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
ALTER TABLE scopefloor.document ALTER title SET STATISTICS 0, ALTER source SET STATISTICS 0, ALTER content_hash SET STATISTICS 0,
  ALTER labels SET STATISTICS 0, ALTER error SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.document_content ALTER bytes SET STATISTICS 0;
--> statement-breakpoint
-- Files are compressed already, or read once: not worth the time of compressing them again.
ALTER TABLE scopefloor.document_content ALTER bytes SET STORAGE EXTERNAL;
--> statement-breakpoint
ALTER TABLE scopefloor.keyword ALTER normalised SET STATISTICS 0, ALTER normalised SET (n_distinct = -0.2), ALTER phrase SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.passage ALTER section SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.chunk_band ALTER band SET STATISTICS 0, ALTER band SET (n_distinct = -0.9);
--> statement-breakpoint
ALTER TABLE scopefloor.entity ALTER name SET STATISTICS 0, ALTER type SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.attribute ALTER key SET STATISTICS 0, ALTER value SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.relation ALTER key SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.memory_item ALTER key SET STATISTICS 0, ALTER value SET STATISTICS 0;
--> statement-breakpoint
-- One embedding round waits for a scope at a time.
CREATE UNIQUE INDEX job_embed ON scopefloor.job (scope_id) WHERE kind = 'embed' AND state = 'queued';
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- Rows leave by a forget, by the deletion of one thing by its id, or when a job puts others in their place.
CREATE FUNCTION scopefloor.deletes() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(scopefloor.ticket()->>'mode' IN ('forget', 'erase', 'delete', 'job'), false)
$$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.deletes() FROM PUBLIC;
--> statement-breakpoint
GRANT EXECUTE ON FUNCTION scopefloor.deletes() TO scopefloor_app, scopefloor_worker;
--> statement-breakpoint
-- What the policies ask, for the worker too: inside a job it is bound by them like the application.
GRANT EXECUTE ON FUNCTION scopefloor.readable(), scopefloor.readable_own(), scopefloor.listable(), scopefloor.modifiable(), scopefloor.insertable(),
  scopefloor.reads_all(), scopefloor.lists_all(), scopefloor.modifies_all(), scopefloor.forgets(), scopefloor.caller(),
  scopefloor.caller_principal(), scopefloor.may_record(int, jsonb, uuid, text) TO scopefloor_worker;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['document', 'document_content', 'keyword', 'document_link', 'chunk_band', 'entity', 'attribute',
                           'relation', 'memory_item', 'job', 'job_turn'] LOOP
    EXECUTE format('ALTER TABLE scopefloor.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE scopefloor.%I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY definer ON scopefloor.%I TO scopefloor_definer USING (true) WITH CHECK (true)', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON scopefloor.%I TO scopefloor_definer', t);
    CONTINUE WHEN t IN ('job', 'job_turn'); -- reached through definer functions alone
    -- Knowledge: general rows are visible to all.
    EXECUTE format(
      'CREATE POLICY read ON scopefloor.%I FOR SELECT TO scopefloor_app, scopefloor_worker
         USING (scope_id = ANY ((SELECT scopefloor.readable())::int[]) OR (SELECT scopefloor.reads_all()))', t);
    EXECUTE format(
      'CREATE POLICY remove ON scopefloor.%I FOR DELETE TO scopefloor_app, scopefloor_worker
         USING ((SELECT scopefloor.deletes()) AND (scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all())))', t);
    EXECUTE format('GRANT SELECT, DELETE ON scopefloor.%I TO scopefloor_app, scopefloor_worker', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['document_content', 'keyword', 'document_link', 'chunk_band'] LOOP
    EXECUTE format('CREATE POLICY write ON scopefloor.%I FOR INSERT TO scopefloor_app, scopefloor_worker
                      WITH CHECK (scope_id = (SELECT scopefloor.insertable()))', t);
    EXECUTE format('GRANT INSERT ON scopefloor.%I TO scopefloor_app, scopefloor_worker', t);
  END LOOP;
  -- What a forget expires, and what a job says of its document.
  FOREACH t IN ARRAY ARRAY['document', 'attribute', 'relation'] LOOP
    EXECUTE format(
      'CREATE POLICY change ON scopefloor.%I FOR UPDATE TO scopefloor_app, scopefloor_worker
         USING (scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all()))
         WITH CHECK (scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all()))', t);
  END LOOP;
  -- A job works on these with the policies that the application has.
  FOREACH t IN ARRAY ARRAY['passage', 'posting'] LOOP
    EXECUTE format('ALTER POLICY read ON scopefloor.%I TO scopefloor_app, scopefloor_worker', t);
    EXECUTE format('ALTER POLICY write ON scopefloor.%I TO scopefloor_app, scopefloor_worker', t);
    EXECUTE format('ALTER POLICY change ON scopefloor.%I TO scopefloor_app, scopefloor_worker', t);
    EXECUTE format(
      'ALTER POLICY remove ON scopefloor.%I TO scopefloor_app, scopefloor_worker
         USING ((SELECT scopefloor.deletes()) AND (scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all())))', t);
  END LOOP;
  ALTER POLICY write ON scopefloor.decision_trace TO scopefloor_app, scopefloor_worker;
  ALTER POLICY read ON scopefloor.embedder TO scopefloor_app, scopefloor_worker;
END $$;
--> statement-breakpoint
GRANT UPDATE (status, error, ready_version, content_hash, title, source, updated_at, processing_started_at, processing_completed_at)
  ON scopefloor.document TO scopefloor_app, scopefloor_worker;
--> statement-breakpoint
GRANT UPDATE (expired_at, closed_at) ON scopefloor.attribute, scopefloor.relation TO scopefloor_app;
--> statement-breakpoint
GRANT UPDATE (section) ON scopefloor.passage TO scopefloor_app; -- a heading may name what is forgotten
--> statement-breakpoint
GRANT SELECT, INSERT, DELETE ON scopefloor.passage, scopefloor.posting TO scopefloor_worker;
--> statement-breakpoint
GRANT UPDATE (embedding, embedder_id) ON scopefloor.passage TO scopefloor_worker;
--> statement-breakpoint
GRANT INSERT ON scopefloor.decision_trace TO scopefloor_worker;
--> statement-breakpoint
GRANT SELECT ON scopefloor.embedder TO scopefloor_worker;
--> statement-breakpoint
GRANT SELECT (token_source) ON scopefloor.decision_trace TO scopefloor_report;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- Counters stand by embedding model: how much of a scope still waits for its vectors is a sum.
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
    GROUP BY scope_id, embedder_id HAVING sum(n) <> 0;
  END IF;
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION scopefloor.fold_counters() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
BEGIN
  WITH taken AS (
    DELETE FROM scopefloor.scope_counter c
    WHERE c.scope_id IN (SELECT scope_id FROM scopefloor.scope_counter GROUP BY scope_id, embedder_id HAVING count(*) > 1)
    RETURNING *)
  INSERT INTO scopefloor.scope_counter (scope_id, embedder_id, passages, tokens, lexemes, bytes)
  SELECT scope_id, embedder_id, sum(passages), sum(tokens), sum(lexemes), sum(bytes) FROM taken GROUP BY scope_id, embedder_id
  HAVING sum(passages) <> 0 OR sum(tokens) <> 0 OR sum(lexemes) <> 0 OR sum(bytes) <> 0;
  GET DIAGNOSTICS folded = ROW_COUNT;
  RETURN folded;
END $$;
--> statement-breakpoint
-- The models that any stored vector is of, for the service as a whole: what a query is embedded with.
CREATE FUNCTION scopefloor.embedders_in_use() RETURNS TABLE (id int, name text, dimensions int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT e.id, e.name, e.dimensions FROM scopefloor.embedder e
  WHERE EXISTS (SELECT 1 FROM scopefloor.scope_counter c WHERE c.embedder_id = e.id GROUP BY c.scope_id HAVING sum(c.passages) > 0)
$$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.embedders_in_use() FROM PUBLIC;
--> statement-breakpoint
GRANT EXECUTE ON FUNCTION scopefloor.embedders_in_use() TO scopefloor_app;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
-- Rows of before this migration stand with their model from now on.
INSERT INTO scopefloor.scope_counter (scope_id, embedder_id, passages, tokens, lexemes, bytes)
SELECT scope_id, embedder_id, count(*), sum(tokens), sum(lexemes), sum(octet_length(text)) FROM scopefloor.passage
WHERE expired_at IS NULL AND embedder_id IS NOT NULL GROUP BY 1, 2
UNION ALL
SELECT scope_id, NULL, -count(*), -sum(tokens), -sum(lexemes), -sum(octet_length(text)) FROM scopefloor.passage
WHERE expired_at IS NULL AND embedder_id IS NOT NULL GROUP BY 1;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION scopefloor.ensure_trace_partition(in_month date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  month date := date_trunc('month', in_month);
  name text := 'decision_trace_' || to_char(month, 'YYYYMM');
  lower text := to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00';
  upper text := to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00';
  moved text := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = 'scopefloor.decision_trace'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '');
BEGIN
  IF to_regclass('scopefloor.' || name) IS NOT NULL THEN
    RETURN;
  END IF;
  -- Better to try again in a minute than to have every reader wait behind a long report.
  PERFORM set_config('lock_timeout', '2s', true);
  EXECUTE format('CREATE TABLE scopefloor.%I (LIKE scopefloor.decision_trace INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS)', name);
  LOCK TABLE scopefloor.decision_trace_rest IN ACCESS EXCLUSIVE MODE;
  IF EXISTS (SELECT 1 FROM scopefloor.decision_trace_rest WHERE created_at >= lower::timestamptz AND created_at < upper::timestamptz) THEN
    RAISE NOTICE 'moving traces of % out of decision_trace_rest', month;
    EXECUTE format('INSERT INTO scopefloor.%I (%s) SELECT %s FROM scopefloor.decision_trace_rest WHERE created_at >= %L AND created_at < %L',
                   name, moved, moved, lower, upper);
    DELETE FROM scopefloor.decision_trace_rest WHERE created_at >= lower::timestamptz AND created_at < upper::timestamptz;
  END IF;
  EXECUTE format('ALTER TABLE scopefloor.%I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE scopefloor.%I FORCE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE scopefloor.decision_trace ATTACH PARTITION scopefloor.%I FOR VALUES FROM (%L) TO (%L)', name, lower, upper);
  EXECUTE format('ALTER TABLE scopefloor.%I ALTER query SET STATISTICS 0, ALTER error SET STATISTICS 0, ALTER scope SET STATISTICS 0', name);
END $$;
