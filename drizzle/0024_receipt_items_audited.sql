-- The ids in a receipt are part of the audit chain too: an entry of their own beside the receipt's, since
-- what a source hashes never changes (0020).

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- As in 0020, and what a receipt took away.
CREATE OR REPLACE FUNCTION scopefloor.audit_parts(of_source text, r jsonb, OUT fixed text, OUT open text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE of_source
    WHEN 'trace' THEN jsonb_build_array('trace', r->'id', r->'created_at', r->'kind', r->'operation', r->'scope_id', r->'api_key_id',
      r->'principal', r->'on_behalf_of', r->'session_id', r->'parent_id', r->'tier', r->'tier_reason', r->'candidates', r->'returned',
      r->'provider', r->'model', r->'input_tokens', r->'output_tokens', r->'embedding_tokens', r->'cost_usd', r->'duration_ms',
      r->'status', r->'token_source', r->'saved_tokens', r->'plan')
    WHEN 'denial' THEN jsonb_build_array('denial', r->'id', r->'created_at', r->'scope_id', r->'api_key_id', r->'on_behalf_of', r->'route', r->'reason')
    WHEN 'receipt' THEN jsonb_build_array('receipt', r->'id', r->'created_at', r->'scope_id', r->'subtree', r->'action', r->'policy', r->'counts', r->'api_key_id')
    WHEN 'receipt items' THEN jsonb_build_array('receipt items', r->'id', r->'scope_id', r->'items')
  END::text,
  CASE of_source
    WHEN 'trace' THEN jsonb_build_array(r->'query', r->'sources', r->'error', r->'scope')
    WHEN 'denial' THEN jsonb_build_array(r->'asked', r->'floor')
    WHEN 'receipt' THEN jsonb_build_array(r->'target')
    WHEN 'receipt items' THEN '[]'
  END::text
$$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION scopefloor.audited_row(of_source text, of_scope int, of_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' SET extra_float_digits = 1 AS $$
BEGIN
  RETURN CASE
    WHEN of_source = 'trace' THEN (SELECT to_jsonb(d) FROM scopefloor.decision_trace d WHERE d.scope_id = of_scope AND d.id = of_id)
    WHEN of_source = 'denial' THEN (SELECT to_jsonb(a) FROM scopefloor.access_denied a WHERE a.scope_id = of_scope AND a.id = of_id)
    WHEN of_source IN ('receipt', 'receipt items') THEN (SELECT to_jsonb(r) FROM scopefloor.forget_receipt r WHERE r.scope_id = of_scope AND r.id = of_id)
  END;
END $$;
--> statement-breakpoint
-- As in 0020, each receipt for two entries.
CREATE OR REPLACE FUNCTION scopefloor.check_audit(first bigint, upto bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  last scopefloor.audit_batch;
  until bigint;
  looked bigint;
  problems text[];
BEGIN
  SELECT * INTO last FROM scopefloor.audit_batch b ORDER BY b.n DESC LIMIT 1;
  until := least(coalesce(upto, last.n), last.n);
  problems := ARRAY(
    SELECT CASE WHEN b.n IS NULL THEN format('batch %s is missing', x.n)
                WHEN b.hash <> scopefloor.audit_batch_hash(before.hash, b.n, b.entries, b.digest, b.sealed_at) THEN format('batch %s does not follow from the one before', b.n)
                ELSE format('the entries of batch %s were altered', b.n) END
    FROM generate_series(first, until) AS x(n)
    LEFT JOIN scopefloor.audit_batch b ON b.n = x.n LEFT JOIN scopefloor.audit_batch before ON before.n = x.n - 1
    LEFT JOIN (SELECT e.batch, count(*) AS entries, sha256(string_agg(e.leaf, '' ORDER BY e.source, e.id)) AS digest
               FROM scopefloor.audit_entry e WHERE e.batch BETWEEN first AND until GROUP BY e.batch) own ON own.batch = x.n
    WHERE b.n IS NULL OR b.hash <> scopefloor.audit_batch_hash(before.hash, b.n, b.entries, b.digest, b.sealed_at)
       OR own.entries IS DISTINCT FROM b.entries OR own.digest IS DISTINCT FROM b.digest
    ORDER BY x.n LIMIT 20);
  problems := problems || ARRAY(
    SELECT format('the %s %s %s', found.source, found.id, found.what) FROM (
      SELECT e.source, e.id, CASE
        WHEN r.row IS NULL THEN 'was removed'
        WHEN e.leaf <> scopefloor.audit_leaf(p.fixed, e.text_hash) THEN 'was altered'
        WHEN e.salt IS NOT NULL AND e.text_hash <> scopefloor.audit_text_hash(e.salt, p.open) THEN 'had its text altered'
        WHEN e.salt IS NULL AND NOT EXISTS (
          SELECT 1 FROM scopefloor.audit_entry g WHERE g.scope_id = e.scope_id AND g.source = e.source || ' erased' AND g.id = e.id
            AND g.leaf = sha256(convert_to(e.source || ' erased', 'UTF8') || e.leaf)) THEN 'lost its salt without an erasure'
        WHEN e.salt IS NULL AND scopefloor.is_blank(e.source, r.row) IS NOT TRUE THEN 'was given text after its erasure' END AS what
      FROM scopefloor.audit_entry e, LATERAL (SELECT scopefloor.audited_row(e.source, e.scope_id, e.id) AS row OFFSET 0) r,
           LATERAL scopefloor.audit_parts(e.source, r.row) p
      WHERE e.batch BETWEEN first AND until AND e.source IN ('trace', 'denial', 'receipt', 'receipt items')) found
    WHERE found.what IS NOT NULL LIMIT 20);
  SELECT coalesce(sum(b.entries), 0) INTO looked FROM scopefloor.audit_batch b WHERE b.n BETWEEN first AND until;
  RETURN jsonb_build_object(
    'last', coalesce(last.n, 0), 'entries', looked,
    'hash', (SELECT encode(b.hash, 'hex') FROM scopefloor.audit_batch b WHERE b.n = until),
    'problems', to_jsonb(problems));
END $$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION scopefloor.check_unchained(since timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH audited AS (
    SELECT 'trace' AS source, d.scope_id, d.id FROM scopefloor.decision_trace d WHERE since IS NULL OR d.created_at >= since
    UNION ALL SELECT 'denial', a.scope_id, a.id FROM scopefloor.access_denied a WHERE since IS NULL OR a.created_at >= since
    UNION ALL SELECT 'receipt', f.scope_id, f.id FROM scopefloor.forget_receipt f WHERE since IS NULL OR f.created_at >= since
    UNION ALL SELECT 'receipt items', f.scope_id, f.id FROM scopefloor.forget_receipt f WHERE since IS NULL OR f.created_at >= since)
  SELECT jsonb_build_object('rows', (SELECT count(*) FROM audited),
    'unsealed', (SELECT count(*) FROM scopefloor.audit_entry e WHERE e.batch IS NULL),
    'problems', coalesce((
    SELECT jsonb_agg(format('the %s %s is not in the chain', u.source, u.id)) FROM (
      SELECT a.source, a.id FROM audited a
      LEFT JOIN scopefloor.audit_entry e ON e.scope_id = a.scope_id AND e.source = a.source AND e.id = a.id
      WHERE e.id IS NULL LIMIT 20) u), '[]'))
$$;
--> statement-breakpoint
-- Receipts from before enter it as they stand.
INSERT INTO scopefloor.audit_entry (scope_id, source, id, salt, text_hash, leaf)
SELECT h.scope_id, 'receipt items', h.id, h.salt, h.text_hash, scopefloor.audit_leaf(h.fixed, h.text_hash)
FROM (SELECT s.scope_id, s.id, s.salt, p.fixed, scopefloor.audit_text_hash(s.salt, p.open) AS text_hash
      FROM (SELECT f.scope_id, f.id, uuid_send(gen_random_uuid()) AS salt, scopefloor.audited_row('receipt items', f.scope_id, f.id) AS r
            FROM scopefloor.forget_receipt f OFFSET 0) s,
           scopefloor.audit_parts('receipt items', s.r) p OFFSET 0) h;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
CREATE TRIGGER note_audited_items AFTER INSERT ON scopefloor.forget_receipt REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_audit('receipt items');
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
