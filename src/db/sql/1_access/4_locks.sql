-- Locks between those who write and those who erase.
--
-- Advisory locks of one number have the space of scope_hash (1_access/1_scopes.sql). Those of two:
--   7700, 0   migrations                    src/db/upkeep/migrate.ts
--   7700, 1   the first management key      1_access/8_first_key.sql
--   7700, 3   taking a job                  3_upkeep/1_queue.sql
--   7700, 5   the keeper of vector graphs   src/jobs/vector-graphs.ts
--   7700, 6   sealing the audit chain       3_upkeep/4_audit_chain.sql
--   7700, 7   a replay of the journal       src/forget/replay/replay.ts
--   7701, n   links of the scope n          2_memory/2_documents.sql
--   7702, n   the tail of the scope n       2_memory/5_word_index.sql
--   7703, n   the segments of the scope n   2_memory/5_word_index.sql
--   7704, n   holds of the tenant n         3_governance/1_holds.sql

-- Nothing lands after a receipt: whoever leaves a row at `tags` (a trace holds a query's text, so a
-- reader does too) shares a lock on each of its tags and on {}. A forget takes one tag's lock alone:
-- the first of the key's floor, and where that is {} of the target. Every scope that holds the target holds
-- that tag. It is the caller's own, whoever the target names; first means org. In the order of the hashes, so that nobody waits
-- in a circle; at most 9 locks, where every subset of 8 tags would have been 256.
CREATE OR REPLACE FUNCTION scopefloor.hold_scope(tags jsonb, target jsonb DEFAULT NULL, floor jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  lock bigint;
  alone bigint := CASE WHEN target IS NOT NULL THEN scopefloor.scope_hash(scopefloor.first_tag(CASE floor WHEN '{}' THEN target ELSE floor END)) END;
BEGIN
  FOR lock IN
    SELECT scopefloor.scope_hash('{}') UNION SELECT scopefloor.scope_hash(jsonb_build_object(key, value)) FROM jsonb_each(tags)
    UNION SELECT alone WHERE alone IS NOT NULL
    ORDER BY 1
  LOOP
    IF lock = alone THEN
      PERFORM pg_advisory_xact_lock(lock);
    ELSE
      PERFORM pg_advisory_xact_lock_shared(lock);
    END IF;
  END LOOP;
END $$;

-- Whether these tags or a scope above them were erased since that time: what a request brings that
-- began before is from before.
CREATE OR REPLACE FUNCTION scopefloor.was_erased(tags jsonb, since timestamptz) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Erasures are rare: most often there is none so late, whatever its scope.
  RETURN EXISTS (SELECT 1 FROM scopefloor.erasure e WHERE e.at >= since)
    AND EXISTS (SELECT 1 FROM scopefloor.erasure e
      WHERE e.hash = ANY (ARRAY(SELECT scopefloor.scope_hash(s) FROM unnest(scopefloor.scopes_between('{}', tags)) s))
        AND e.at >= since);
END $$;
