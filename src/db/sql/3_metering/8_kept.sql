-- What is kept under limits, which is looked at when a transaction commits; keys and scopes when one is made.

-- How many keys there are at a scope and below it that open anything.
CREATE OR REPLACE FUNCTION scopefloor.live_keys(at_tags jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT count(*) FROM scopefloor.scope s JOIN scopefloor.api_key k ON k.scope_id = s.id
          WHERE s.tags @> at_tags AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp()));
END $$;

-- How many scopes there are at a scope and below it.
CREATE OR REPLACE FUNCTION scopefloor.live_scopes(at_tags jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT count(*) FROM scopefloor.scope s WHERE s.tags @> at_tags AND NOT s.tags ? '!erased');
END $$;

-- Bytes that each of these scopes (NULL: all) keeps: texts, values and files, as UTF-8.
CREATE OR REPLACE FUNCTION scopefloor.stored_bytes(ids int[]) RETURNS TABLE (tenant_id int, scope_id int, bytes bigint, passages bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT k.tenant_id, k.scope_id, sum(k.bytes)::bigint, sum(k.passages)::bigint FROM (
    SELECT c.tenant_id, c.scope_id, c.bytes, c.passages FROM scopefloor.scope_counter c WHERE ids IS NULL OR c.scope_id = ANY (ids)
    UNION ALL SELECT d.tenant_id, d.scope_id, d.size_bytes::bigint, 0 FROM scopefloor.document d WHERE d.content_hash IS NOT NULL AND (ids IS NULL OR d.scope_id = ANY (ids))
    UNION ALL SELECT i.tenant_id, i.scope_id, octet_length(i.value::text)::bigint, 0 FROM scopefloor.memory_item i WHERE ids IS NULL OR i.scope_id = ANY (ids)
    -- What turns said before they were corrected.
    UNION ALL SELECT t.tenant_id, t.scope_id, octet_length(t.content)::bigint, 0 FROM scopefloor.turn t WHERE t.corrected_id IS NOT NULL AND (ids IS NULL OR t.scope_id = ANY (ids))) k
  GROUP BY 1, 2;
END $$;

-- What the scopes below these tags keep, as limits count it.
CREATE OR REPLACE FUNCTION scopefloor.kept_below(at_tags jsonb, OUT bytes bigint, OUT documents bigint, OUT sessions bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags @> at_tags);
BEGIN
  SELECT coalesce(sum(scopefloor.kept_of(d.content_hash, d.status, d.size_bytes) - CASE WHEN d.content_hash IS NOT NULL THEN d.size_bytes ELSE 0 END), 0)::bigint, count(*)
  INTO bytes, documents FROM scopefloor.document d WHERE d.scope_id = ANY (ids);
  bytes := bytes + coalesce((SELECT sum(k.bytes) FROM scopefloor.stored_bytes(ids) k), 0)::bigint;
  SELECT count(*) INTO sessions FROM scopefloor.session s WHERE s.scope_id = ANY (ids);
END $$;

-- What a document's file counts for: as much again as long as its text is not stored yet.
CREATE OR REPLACE FUNCTION scopefloor.kept_of(hash text, of_status text, bytes int) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN hash IS NULL THEN 0 WHEN of_status IN ('ready', 'failed', 'embedding') THEN bytes::bigint ELSE 2 * bytes::bigint END
$$;

-- Notes a change of what a scope keeps, where that is limited at all; it is looked at when the transaction commits.
CREATE OR REPLACE FUNCTION scopefloor.note_stored(of_tenant int, at_scope int, more_bytes bigint, more_documents bigint, more_sessions bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  limits uuid[];
BEGIN
  IF (more_bytes, more_documents, more_sessions) = (0, 0, 0) THEN
    RETURN;
  END IF;
  limits := ARRAY(
    SELECT k.limit_id FROM scopefloor.limit_store k
    WHERE k.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s
                                  WHERE s.tags = ANY (scopefloor.scopes_between('{}', (SELECT o.tags FROM scopefloor.scope o WHERE o.id = at_scope))))));
  IF limits <> '{}' THEN
    INSERT INTO scopefloor.stored_change (tenant_id, scope_id, limit_ids, bytes, documents, sessions)
    VALUES (of_tenant, at_scope, limits, more_bytes, more_documents, more_sessions);
  END IF;
END $$;

-- Trigger of statements on documents, sessions, keyed items and former texts of turns.
CREATE OR REPLACE FUNCTION scopefloor.note_kept() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.limit_store) THEN
    RETURN NULL;
  END IF;
  IF TG_ARGV[0] = 'session' AND TG_OP = 'INSERT' THEN
    PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, 0, 0, count(*)) FROM added a GROUP BY a.tenant_id, a.scope_id;
  ELSIF TG_ARGV[0] = 'session' THEN
    PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, 0, 0, -count(*)) FROM removed r GROUP BY r.tenant_id, r.scope_id;
  ELSIF TG_ARGV[0] = 'former turn' AND TG_OP = 'INSERT' THEN
    PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(octet_length(a.content)), 0, 0) FROM added a WHERE a.corrected_id IS NOT NULL GROUP BY a.tenant_id, a.scope_id;
  ELSIF TG_ARGV[0] = 'former turn' THEN
    PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, -sum(octet_length(r.content)), 0, 0) FROM removed r WHERE r.corrected_id IS NOT NULL GROUP BY r.tenant_id, r.scope_id;
  ELSIF TG_ARGV[0] = 'item' THEN
    IF TG_OP <> 'DELETE' THEN
      PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(octet_length(a.value::text)), 0, 0) FROM added a GROUP BY a.tenant_id, a.scope_id;
    END IF;
    IF TG_OP <> 'INSERT' THEN
      PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, -sum(octet_length(r.value::text)), 0, 0) FROM removed r GROUP BY r.tenant_id, r.scope_id;
    END IF;
  ELSIF TG_OP = 'INSERT' THEN
    PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(scopefloor.kept_of(a.content_hash, a.status, a.size_bytes))::bigint, count(*), 0) FROM added a GROUP BY a.tenant_id, a.scope_id;
  ELSIF TG_OP = 'DELETE' THEN
    PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, -sum(scopefloor.kept_of(r.content_hash, r.status, r.size_bytes))::bigint, -count(*), 0) FROM removed r GROUP BY r.tenant_id, r.scope_id;
  ELSE
    PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(scopefloor.kept_of(a.content_hash, a.status, a.size_bytes) - scopefloor.kept_of(r.content_hash, r.status, r.size_bytes))::bigint, 0, 0)
    FROM added a JOIN removed r ON r.scope_id = a.scope_id AND r.id = a.id GROUP BY a.tenant_id, a.scope_id;
  END IF;
  RETURN NULL;
END $$;

-- Trigger at the end of a transaction: adds what it stored to every limit above, one transaction after the other, and
-- undoes all of it where one is exceeded. The first call takes all rows of the transaction, so that limits are
-- locked in one order.
CREATE OR REPLACE FUNCTION scopefloor.apply_stored() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  changes jsonb;
  change record;
  exceeded text;
BEGIN
  WITH own AS (DELETE FROM scopefloor.stored_change c RETURNING c.limit_ids, c.bytes, c.documents, c.sessions)
  SELECT jsonb_agg(to_jsonb(x)) INTO changes
  FROM (SELECT l.id, sum(o.bytes) AS bytes, sum(o.documents) AS documents, sum(o.sessions) AS sessions FROM own o, unnest(o.limit_ids) l(id) GROUP BY 1) x;
  FOR change IN
    SELECT l.scope_id, l.id, l.storage_bytes, l.documents AS most_documents, l.sessions AS most_sessions, c.bytes, c.documents, c.sessions
    FROM jsonb_to_recordset(coalesce(changes, '[]')) AS c(id uuid, bytes bigint, documents bigint, sessions bigint)
    JOIN scopefloor.scope_limit l ON l.id = c.id JOIN scopefloor.scope s ON s.id = l.scope_id
    ORDER BY scopefloor.tag_count(s.tags) DESC, l.id
  LOOP
    UPDATE scopefloor.limit_store k SET bytes = k.bytes + change.bytes, documents = k.documents + change.documents, sessions = k.sessions + change.sessions
    WHERE k.scope_id = change.scope_id AND k.limit_id = change.id
    RETURNING CASE WHEN change.bytes > 0 AND k.bytes > change.storage_bytes THEN 'storageBytes' WHEN change.documents > 0 AND k.documents > change.most_documents THEN 'documents'
                   WHEN change.sessions > 0 AND k.sessions > change.most_sessions THEN 'sessions' END INTO exceeded;
    IF exceeded IS NOT NULL THEN
      RAISE EXCEPTION '%', exceeded USING ERRCODE = 'SF507';
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- Refuses one more key or scope at these tags where a limit above is reached. Of two at once, one after the other.
CREATE OR REPLACE FUNCTION scopefloor.check_room(for_what text, at_tags jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l record;
  managing jsonb := NULL; -- the floor of a key that manages: what one below has set does not bind it
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.scope_limit) THEN
    RETURN;
  END IF;
  IF scopefloor.ticket()->>'verb' = 'manage' THEN
    managing := scopefloor.ticket()->'floor';
  END IF;
  FOR l IN
    SELECT o.scope_id, o.id, s.tags, CASE for_what WHEN 'keys' THEN o.keys ELSE o.scopes END AS most
    FROM scopefloor.scope_limit o JOIN scopefloor.scope s ON s.id = o.scope_id
    WHERE s.tags = ANY (scopefloor.scopes_between('{}', at_tags)) AND CASE for_what WHEN 'keys' THEN o.keys ELSE o.scopes END IS NOT NULL
      AND NOT coalesce(o.set_by @> managing AND o.set_by <> managing, false)
    ORDER BY scopefloor.tag_count(s.tags) DESC, o.id
  LOOP
    PERFORM 1 FROM scopefloor.scope_limit o WHERE o.scope_id = l.scope_id AND o.id = l.id FOR UPDATE;
    IF (CASE for_what WHEN 'keys' THEN scopefloor.live_keys(l.tags) ELSE scopefloor.live_scopes(l.tags) END) >= l.most THEN
      RAISE EXCEPTION '%', for_what USING ERRCODE = 'SF507';
    END IF;
  END LOOP;
END $$;
