-- The index of words: passages keep their terms as keyed hashes (src/lexical/packed-terms.ts). Those of a scope up
-- to some number are packed into segments by the worker; the rest is its tail, read row by row. Beside this file
-- only src/lexical knows the bytes.
--
-- The key of a block is the lowest bits of its terms' hashes; of a term with blocks of its own its hash + 2^48; and -1
-- where the passages' numbers are listed. Packed terms are hashes of 6 bytes, then a byte for each: 7 a term.
--
-- Two locks of a scope, each for the transaction, besides its tags' (1_access/4_locks.sql) and after them:
--   7702  the tail: whoever adds to it shares it; a segment is made of it by its holder alone. Numbers are given
--         before they can be seen: without it one would come to lie below the segment's last and be lost.
--   7703  the segments: held alone by whoever takes a passage out of them, or puts several together.

-- The key under which the terms of a scope are hashed, from its tenant's secret. (Without SET, so that it is inlined.)
CREATE OR REPLACE FUNCTION scopefloor.term_key(tenants_secret bytea, of_scope int) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.substring(pg_catalog.sha256(pg_catalog.sha256(tenants_secret OPERATOR(pg_catalog.||) pg_catalog.int4send(of_scope))
                                                OPERATOR(pg_catalog.||) pg_catalog.convert_to('terms', 'UTF8')), 1, 16)
$$;

-- A number of six bytes.
CREATE OR REPLACE FUNCTION scopefloor.number_of(six bytea) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
  SELECT ('x' OPERATOR(pg_catalog.||) pg_catalog.encode(six, 'hex'))::bit(48)::bigint
$$;

-- What whoever asks, or writes, has to know of the words of its scopes:
--   {keys: {scope: base64}, languages: {codes: passages}, passages, words, segments, tail: passages that are in no segment, at most}
-- The keys of the scopes that hold anything, and of the one that is written to.
CREATE OR REPLACE FUNCTION scopefloor.lexical_state() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('memory:read', 'memory:write', 'memory:forget') OR NOT (t->>'content')::bool THEN
    RETURN NULL;
  END IF;
  ids := scopefloor.ids_in(t->'read') || (t->>'write')::int || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
  IF t->>'mode' = 'write' THEN
    RETURN jsonb_build_object('keys', (
      SELECT jsonb_build_object(s.id, encode(scopefloor.term_key(o.secret, s.id), 'base64'))
      FROM scopefloor.scope s JOIN scopefloor.tenant o ON o.id = s.tenant_id WHERE s.id = (t->>'write')::int),
      'languages', '{}'::jsonb, 'passages', 0, 'words', 0, 'segments', 0, 'tail', 0);
  END IF;
  IF t->'read' ? 'trees' AND jsonb_array_length(t->'read'->'trees') > 0 THEN
    ids := ids || ARRAY(SELECT s.id FROM jsonb_array_elements(t->'read'->'trees') tree JOIN scopefloor.scope s ON s.tags @> tree);
  END IF;
  RETURN (
    WITH standing AS MATERIALIZED (
      SELECT c.tenant_id, c.scope_id, c.languages, sum(c.passages) AS passages, sum(c.lexemes) AS words FROM scopefloor.scope_counter c
      WHERE c.scope_id = ANY (ids) GROUP BY 1, 2, 3 HAVING sum(c.passages) > 0),
    size AS MATERIALIZED (
      SELECT coalesce(sum(s.passages), 0) AS passages, coalesce(sum(s.words), 0) AS words FROM standing s),
    packed AS MATERIALIZED (
      SELECT count(*) AS segments, coalesce(sum(g.passages), 0) AS passages FROM scopefloor.segment g WHERE g.scope_id = ANY (ids))
    SELECT jsonb_build_object(
      'keys', coalesce((SELECT jsonb_object_agg(k.scope_id, encode(scopefloor.term_key(o.secret, k.scope_id), 'base64'))
                        FROM (SELECT s.tenant_id, s.scope_id FROM standing s UNION SELECT w.tenant_id, w.id FROM scopefloor.scope w WHERE w.id = (t->>'write')::int) k JOIN scopefloor.tenant o ON o.id = k.tenant_id), '{}'),
      'languages', coalesce((SELECT jsonb_object_agg(l.languages, l.passages) FROM (SELECT s.languages, sum(s.passages) AS passages FROM standing s GROUP BY 1) l), '{}'),
      'passages', size.passages, 'words', size.words, 'segments', packed.segments, 'tail', size.passages - packed.passages)
    FROM size, packed);
END $$;

-- Trigger: whoever adds to the tail of the ticket's scope shares its lock, before the first number is given.
CREATE OR REPLACE FUNCTION scopefloor.join_tail() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  -- (Facts that come back where something is forgotten: settle_facts has taken the lock of their scope.)
  IF t->>'write' IS NOT NULL THEN
    PERFORM pg_advisory_xact_lock_shared(7702, (t->>'write')::int);
  END IF;
  RETURN NULL;
END $$;

-- Holds the tail of a job's scope alone, unless others are at it for longer. For the rest of the transaction no
-- lock is waited for longer either: who has deleted a passage of the tail may be waiting for this one.
CREATE OR REPLACE FUNCTION scopefloor.hold_tail() RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  PERFORM set_config('lock_timeout', '200ms', true);
  PERFORM pg_advisory_xact_lock(7702, (t->>'write')::int);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $$;

-- Holds the segments of a job's scope, for whoever puts several together.
CREATE OR REPLACE FUNCTION scopefloor.hold_segments() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  PERFORM pg_advisory_xact_lock(7703, (t->>'write')::int);
END $$;

-- Trigger: orders a segment where a tail has become long. Looked at once in some 32 passages.
CREATE OR REPLACE FUNCTION scopefloor.watch_tail() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  least constant int := 384; -- half as much again as the least that is packed (src/jobs/index-passages.ts)
  at_scope int;
  last bigint;
BEGIN
  FOR at_scope IN SELECT a.scope_id FROM added a GROUP BY a.scope_id HAVING count(*) > 32 * random() LOOP
    SELECT coalesce(max(g.last_seq), 0) INTO last FROM scopefloor.segment g WHERE g.scope_id = at_scope;
    IF (SELECT count(*) FROM (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.seq > last LIMIT least) few) = least
       AND scopefloor.ticket() IS NOT NULL THEN
      PERFORM scopefloor.order_job(at_scope, gen_random_uuid(), 'index');
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- An entry of a block is a term's hash (6 bytes), the number n of its passages (2), then their places in the
-- segment (2 each), how often each has it (1 each) and their lengths in words (2 each). The same entry without these places.
CREATE OR REPLACE FUNCTION scopefloor.without_postings(data bytea, hash bytea, gone int[]) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at int := 0; -- all bytes are counted from 0
  step int;
  n int;
  i int;
BEGIN
  -- The same bytes may stand elsewhere by chance: an entry has the first of the places where its places are.
  LOOP
    step := position(hash IN substring(data FROM at + 1));
    IF step = 0 THEN
      RETURN data;
    END IF;
    at := at + step - 1;
    n := CASE WHEN at + 8 <= octet_length(data) THEN get_byte(data, at + 6) * 256 + get_byte(data, at + 7) ELSE 0 END;
    EXIT WHEN n > 0 AND at + 8 + 5 * n <= octet_length(data) AND scopefloor.place_in(substring(data FROM at + 9 FOR 2 * n), gone[1]) IS NOT NULL;
    at := at + 1;
  END LOOP;
  FOR k IN 1..cardinality(gone) LOOP
    i := scopefloor.place_in(substring(data FROM at + 9 FOR 2 * n), gone[k]);
    CONTINUE WHEN i IS NULL;
    data := substring(data FROM 1 FOR at + 6) || set_byte(set_byte('\x0000'::bytea, 0, (n - 1) / 256), 1, (n - 1) % 256)
      || substring(data FROM at + 9 FOR 2 * i) || substring(data FROM at + 11 + 2 * i FOR 2 * (n - i - 1))
      || substring(data FROM at + 9 + 2 * n FOR i) || substring(data FROM at + 10 + 2 * n + i FOR n - i - 1)
      || substring(data FROM at + 9 + 3 * n FOR 2 * i) || substring(data FROM at + 11 + 3 * n + 2 * i);
    n := n - 1;
  END LOOP;
  IF n = 0 THEN
    data := substring(data FROM 1 FOR at) || substring(data FROM at + 9);
  END IF;
  RETURN data;
END $$;

-- Where a number of two bytes stands in a list of such, from 0 on; null: nowhere.
CREATE OR REPLACE FUNCTION scopefloor.place_in(numbers bytea, wanted int) RETURNS int
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  needle bytea := set_byte(set_byte('\x0000'::bytea, 0, wanted / 256), 1, wanted % 256);
  at int := 0;
  step int;
BEGIN
  LOOP
    step := position(needle IN substring(numbers FROM at + 1));
    IF step = 0 THEN
      RETURN NULL;
    END IF;
    at := at + step;
    IF at % 2 = 1 THEN
      RETURN (at - 1) / 2;
    END IF;
  END LOOP;
END $$;

-- Takes passages out of a segment: their numbers with the terms that each was found by.
CREATE OR REPLACE FUNCTION scopefloor.take_out(g scopefloor.segment, gone bigint[], terms bytea[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  seqs bytea := (SELECT string_agg(b.data, ''::bytea ORDER BY b.first) FROM scopefloor.posting_block b WHERE b.scope_id = g.scope_id AND b.segment_id = g.id AND b.key = -1);
  places int[] := '{}';
  low int;
  high int;
  middle int;
  taken int := 0;
  posted record;
  block_key bigint;
  block_first int;
  old_data bytea;
  new_data bytea;
BEGIN
  FOR i IN 1..cardinality(gone) LOOP
    low := 0;
    high := octet_length(seqs) / 6 - 1;
    WHILE low < high LOOP
      middle := (low + high) / 2;
      IF scopefloor.number_of(substring(seqs FROM 6 * middle + 1 FOR 6)) < gone[i] THEN
        low := middle + 1;
      ELSE
        high := middle;
      END IF;
    END LOOP;
    IF scopefloor.number_of(substring(seqs FROM 6 * low + 1 FOR 6)) = gone[i] THEN
      places := places || low;
      taken := taken + 1;
    ELSE
      places := places || NULL::int;
    END IF;
  END LOOP;
  IF taken >= g.passages THEN
    DELETE FROM scopefloor.posting_block b WHERE b.scope_id = g.scope_id AND b.segment_id = g.id;
    DELETE FROM scopefloor.segment s WHERE s.scope_id = g.scope_id AND s.id = g.id;
    RETURN;
  END IF;
  FOR posted IN
    WITH rows AS MATERIALIZED (
      SELECT u.place, u.terms FROM unnest(places, terms) u(place, terms) WHERE u.place IS NOT NULL AND u.terms IS NOT NULL),
    posting AS MATERIALIZED (
      SELECT r.place, substring(r.terms FROM 6 * i + 1 FOR 6) AS hash FROM rows r, generate_series(0, octet_length(r.terms) / 7 - 1) i),
    term AS MATERIALIZED (
      SELECT p.hash, p.place, scopefloor.number_of(p.hash) AS number FROM posting p),
    -- A frequent term has blocks of its own.
    own AS MATERIALIZED (
      SELECT DISTINCT b.key FROM (SELECT DISTINCT number + 281474976710656 AS key FROM term) k
      JOIN scopefloor.posting_block b ON b.scope_id = g.scope_id AND b.segment_id = g.id AND b.key = k.key)
    SELECT b.key, b.first, e.hash, array_agg(e.place ORDER BY e.place) AS places
    FROM (SELECT t.hash, t.place, CASE WHEN o.key IS NULL THEN t.number & ((1::bigint << g.bits) - 1) ELSE o.key END AS key
          FROM term t LEFT JOIN own o ON o.key = t.number + 281474976710656) e,
      LATERAL (SELECT b.key, b.first FROM scopefloor.posting_block b
               WHERE b.scope_id = g.scope_id AND b.segment_id = g.id AND b.key = e.key AND b.first <= e.place ORDER BY b.first DESC LIMIT 1) b
    GROUP BY b.key, b.first, e.hash ORDER BY 1, 2
  LOOP
    IF block_key IS DISTINCT FROM posted.key OR block_first IS DISTINCT FROM posted.first THEN
      PERFORM scopefloor.put_block(g, block_key, block_first, new_data);
      block_key := posted.key;
      block_first := posted.first;
      SELECT b.data || ''::bytea INTO new_data -- its own copy: not read from the row each time
      FROM scopefloor.posting_block b
      WHERE b.scope_id = g.scope_id AND b.segment_id = g.id AND b.key = block_key AND b.first = block_first;
    END IF;
    new_data := scopefloor.without_postings(new_data, posted.hash, posted.places);
  END LOOP;
  PERFORM scopefloor.put_block(g, block_key, block_first, new_data);
  UPDATE scopefloor.segment s SET passages = s.passages - taken, edits = s.edits + 1 WHERE s.scope_id = g.scope_id AND s.id = g.id;
END $$;

-- A block as it is now, which is none where nothing is left in it.
CREATE OR REPLACE FUNCTION scopefloor.put_block(g scopefloor.segment, of_key bigint, of_first int, new_data bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF of_key IS NULL THEN
    RETURN;
  ELSIF octet_length(new_data) = 0 THEN
    DELETE FROM scopefloor.posting_block b WHERE b.scope_id = g.scope_id AND b.segment_id = g.id AND b.key = of_key AND b.first = of_first;
  ELSE
    UPDATE scopefloor.posting_block b SET data = new_data WHERE b.scope_id = g.scope_id AND b.segment_id = g.id AND b.key = of_key AND b.first = of_first;
  END IF;
END $$;

-- Trigger: what is deleted, expired or analysed anew leaves the segments in the same transaction, whoever does it.
CREATE OR REPLACE FUNCTION scopefloor.unindex_passages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int;
  g scopefloor.segment;
  gone_scopes int[];
  gone_seqs bigint[];
  gone_terms bytea[];
BEGIN
  IF TG_OP = 'DELETE' THEN
    SELECT array_agg(r.scope_id), array_agg(r.seq), array_agg(r.terms) INTO gone_scopes, gone_seqs, gone_terms
    FROM removed r WHERE r.expired_at IS NULL AND EXISTS (SELECT 1 FROM scopefloor.segment s WHERE s.scope_id = r.scope_id);
  ELSE
    SELECT array_agg(r.scope_id), array_agg(r.seq), array_agg(r.terms) INTO gone_scopes, gone_seqs, gone_terms
    FROM removed r JOIN added a ON a.scope_id = r.scope_id AND a.id = r.id
    WHERE r.expired_at IS NULL AND (a.expired_at IS NOT NULL OR a.seq <> r.seq) AND EXISTS (SELECT 1 FROM scopefloor.segment s WHERE s.scope_id = r.scope_id);
  END IF;
  FOR at_scope IN SELECT DISTINCT s FROM unnest(gone_scopes) s ORDER BY s LOOP
    PERFORM pg_advisory_xact_lock(7703, at_scope);
    -- After the wait: what another has put together meanwhile is seen.
    FOR g IN SELECT s.* FROM scopefloor.segment s WHERE s.scope_id = at_scope ORDER BY s.id LOOP
      PERFORM scopefloor.take_out(g, array_agg(r.seq), array_agg(r.terms))
      FROM unnest(gone_scopes, gone_seqs, gone_terms) r(scope_id, seq, terms)
      WHERE r.scope_id = at_scope AND r.seq BETWEEN g.first_seq AND g.last_seq HAVING count(*) > 0;
    END LOOP;
  END LOOP;
  RETURN NULL;
END $$;
