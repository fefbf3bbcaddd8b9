-- The audit chain. Triggers note each trace, refused attempt and receipt with a hash of it; the worker
-- seals what is new into the next batch, so that no request waits for the chain; and check_audit
-- finds what was altered, removed or put in by hand. Text and tags go in under a salt that an
-- erasure deletes: the chain stays whole, and nothing can be guessed from it. A receipt has two
-- entries, one for itself and one for what it took away.

-- A row's two parts as they are hashed: what never changes, and the text and tags that an erasure takes
-- away. Columns that come later are not in it: these lists are never changed, a new one would get a
-- new source.
CREATE OR REPLACE FUNCTION scopefloor.audit_parts(of_source text, r jsonb, OUT fixed text, OUT open text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE of_source
    WHEN 'trace' THEN jsonb_build_array('trace', r->'id', r->'created_at', r->'kind', r->'operation', r->'tenant_id', r->'scope_id', r->'api_key_id',
      r->'principal', r->'on_behalf_of', r->'session_id', r->'parent_id', r->'tier', r->'tier_reason', r->'candidates', r->'returned',
      r->'provider', r->'model', r->'input_tokens', r->'output_tokens', r->'embedding_tokens', r->'cost_usd', r->'duration_ms',
      r->'status', r->'token_source', r->'saved_tokens', r->'plan')
      -- Came later: where it says nothing, the hash is as it was.
      || CASE WHEN (r->>'cached_input_tokens')::int <> 0 THEN jsonb_build_array(r->'cached_input_tokens') ELSE '[]' END
    WHEN 'denial' THEN jsonb_build_array('denial', r->'id', r->'created_at', r->'tenant_id', r->'scope_id', r->'api_key_id', r->'on_behalf_of', r->'route', r->'reason')
    WHEN 'receipt' THEN jsonb_build_array('receipt', r->'id', r->'created_at', r->'tenant_id', r->'scope_id', r->'subtree', r->'action', r->'policy', r->'counts', r->'api_key_id')
    WHEN 'receipt items' THEN jsonb_build_array('receipt items', r->'id', r->'scope_id', r->'items')
      -- The same.
      || CASE WHEN jsonb_typeof(r->'selector') <> 'null' THEN jsonb_build_array(r->'selector') ELSE '[]' END
  END::text,
  CASE of_source
    WHEN 'trace' THEN jsonb_build_array(r->'query', r->'sources', r->'error', r->'scope')
    WHEN 'denial' THEN jsonb_build_array(r->'asked', r->'floor')
    WHEN 'receipt' THEN jsonb_build_array(r->'target')
    WHEN 'receipt items' THEN '[]'
  END::text
$$;

-- The salted hash of a row's text.
CREATE OR REPLACE FUNCTION scopefloor.audit_text_hash(salt bytea, open text) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT sha256(salt || convert_to(open, 'UTF8')) $$;

-- The hash of a row: its fixed part and the hash of its text.
CREATE OR REPLACE FUNCTION scopefloor.audit_leaf(fixed text, text_hash bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT sha256(convert_to(fixed, 'UTF8') || text_hash) $$;

-- The hash of a batch, which holds that of the batch before.
CREATE OR REPLACE FUNCTION scopefloor.audit_batch_hash(before bytea, n bigint, entries int, digest bytea, sealed_at timestamptz) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT sha256(coalesce(before, '') || convert_to(jsonb_build_array(n, entries, extract(epoch FROM sealed_at))::text, 'UTF8') || digest)
$$;

-- As rows are hashed, whatever the session's settings: times are in UTC, and numbers whole.
CREATE OR REPLACE FUNCTION scopefloor.note_audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' SET extra_float_digits = 1 AS $$
BEGIN
  INSERT INTO scopefloor.audit_entry (tenant_id, scope_id, source, id, salt, text_hash, leaf)
  SELECT h.tenant_id, h.scope_id, TG_ARGV[0], h.id, h.salt, h.text_hash, scopefloor.audit_leaf(h.fixed, h.text_hash)
  FROM (SELECT s.tenant_id, s.scope_id, s.id, s.salt, p.fixed, scopefloor.audit_text_hash(s.salt, p.open) AS text_hash
        FROM (SELECT a.tenant_id, a.scope_id, a.id, uuid_send(gen_random_uuid()) AS salt, to_jsonb(a) AS r FROM added a OFFSET 0) s,
             scopefloor.audit_parts(TG_ARGV[0], s.r) p OFFSET 0) h;
  RETURN NULL;
END $$;

-- An erasure through the service takes the salts with the text. Text that goes without a ticket for
-- it was altered by hand, and check_audit says so.
CREATE OR REPLACE FUNCTION scopefloor.erase_audited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t->>'mode' = 'erase' OR t ? 'run' THEN
    WITH erased AS (
      UPDATE scopefloor.audit_entry e SET salt = NULL FROM changed c
      -- (A receipt that is signed is not erased.)
      WHERE (TG_ARGV[0] <> 'receipt' OR to_jsonb(c)->'target' ? '!erased') AND e.scope_id = c.scope_id AND e.source = TG_ARGV[0] AND e.id = c.id AND e.salt IS NOT NULL
      RETURNING e.tenant_id, e.scope_id, e.source, e.id, e.leaf)
    INSERT INTO scopefloor.audit_entry (tenant_id, scope_id, source, id, leaf, text_hash)
    SELECT d.tenant_id, d.scope_id, d.source || ' erased', d.id, sha256(convert_to(d.source || ' erased', 'UTF8') || d.leaf), '' FROM erased d;
  END IF;
  RETURN NULL;
END $$;

-- What a receipt took is erased by retention: its entry stays, and says so by another one.
CREATE OR REPLACE FUNCTION scopefloor.erase_audited_items() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF scopefloor.ticket() ? 'run' THEN
    INSERT INTO scopefloor.audit_entry (tenant_id, scope_id, source, id, leaf, text_hash)
    SELECT e.tenant_id, e.scope_id, 'receipt items erased', e.id, sha256(convert_to('receipt items erased', 'UTF8') || e.leaf), ''
    FROM changed c JOIN was w ON w.scope_id = c.scope_id AND w.id = c.id JOIN scopefloor.audit_entry e ON e.scope_id = c.scope_id AND e.source = 'receipt items' AND e.id = c.id
    WHERE w.items IS NOT NULL AND c.items IS NULL;
  END IF;
  RETURN NULL;
END $$;

-- Seals up to `most` entries into the next batch, and adds their traces to the sums of usage; gives how many.
CREATE OR REPLACE FUNCTION scopefloor.seal_audit(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  last scopefloor.audit_batch;
  sealed int;
  sum_of_leaves bytea;
  now_at timestamptz := clock_timestamp();
BEGIN
  PERFORM pg_advisory_xact_lock(7700, 6);
  SELECT * INTO last FROM scopefloor.audit_batch b ORDER BY b.n DESC LIMIT 1;
  WITH chosen AS (
    UPDATE scopefloor.audit_entry e SET batch = coalesce(last.n, 0) + 1
    FROM (SELECT o.scope_id, o.source, o.id FROM scopefloor.audit_entry o WHERE o.batch IS NULL LIMIT most) o
    WHERE e.scope_id = o.scope_id AND e.source = o.source AND e.id = o.id
    RETURNING e.source, e.id, e.leaf)
  SELECT count(*), sha256(string_agg(c.leaf, '' ORDER BY c.source, c.id)) INTO sealed, sum_of_leaves FROM chosen c;
  IF sealed > 0 THEN
    INSERT INTO scopefloor.audit_batch (n, entries, digest, hash, sealed_at)
    VALUES (coalesce(last.n, 0) + 1, sealed, sum_of_leaves,
            scopefloor.audit_batch_hash(last.hash, coalesce(last.n, 0) + 1, sealed, sum_of_leaves, now_at), now_at);
    PERFORM scopefloor.add_usage(coalesce(last.n, 0) + 1);
  END IF;
  RETURN sealed;
END $$;

-- Rows that the chain is about, as they stand now.
CREATE OR REPLACE FUNCTION scopefloor.audited_row(of_source text, of_scope int, of_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' SET extra_float_digits = 1 AS $$
BEGIN
  RETURN CASE
    WHEN of_source = 'trace' THEN (SELECT to_jsonb(d) FROM scopefloor.decision_trace d WHERE d.scope_id = of_scope AND d.id = of_id)
    WHEN of_source = 'denial' THEN (SELECT to_jsonb(a) FROM scopefloor.access_denied a WHERE a.scope_id = of_scope AND a.id = of_id)
    WHEN of_source IN ('receipt', 'receipt items') THEN (SELECT to_jsonb(r) FROM scopefloor.forget_receipt r WHERE r.scope_id = of_scope AND r.id = of_id)
  END;
END $$;

-- Whether nothing stands where text was erased: of tags, what the dictionary has now.
CREATE OR REPLACE FUNCTION scopefloor.is_blank(of_source text, r jsonb) RETURNS bool
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE of_source
    WHEN 'trace' THEN (r->>'query') IS NULL AND (r->>'sources') IS NULL AND (r->>'error') IS NULL AND r->'scope' = s.tags
    WHEN 'denial' THEN (r->>'asked') IS NULL AND r->'floor' = s.tags
    ELSE r->'target' ? '!erased' END
  FROM scopefloor.scope s WHERE s.id = (r->>'scope_id')::int
$$;

-- Checks batches `first` to `upto` (null: the last): the chain of their hashes, and each row.
--   {last, entries, hash (of `upto`, in hex), problems: [text]}
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
        WHEN e.source = 'receipt items' AND jsonb_typeof(r.row->'items') = 'null' AND EXISTS (
          SELECT 1 FROM scopefloor.audit_entry g WHERE g.scope_id = e.scope_id AND g.source = 'receipt items erased' AND g.id = e.id
            AND g.leaf = sha256(convert_to('receipt items erased', 'UTF8') || e.leaf)) THEN NULL
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

-- Rows since a time that the chain knows nothing of, which were put in by hand; and how many entries are
-- not sealed yet.
--   {rows, unsealed, problems: [text]}
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

-- The same for an operator over HTTP, under a management ticket whose floor is {}: the one, or where
-- `first` is null the other.
CREATE OR REPLACE FUNCTION scopefloor.audit_evidence(first bigint, upto bigint, since timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' <> 'manage' OR t->'floor' <> '{}' OR t->>'on_behalf_of' IS NOT NULL THEN
    RAISE EXCEPTION 'scopefloor: not an operator''s ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN CASE WHEN first IS NULL THEN scopefloor.check_unchained(since) ELSE scopefloor.check_audit(first, upto) END;
END $$;
