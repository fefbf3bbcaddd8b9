CREATE TABLE "scopefloor"."forget_gate" (
	"id" integer PRIMARY KEY NOT NULL
);
--> statement-breakpoint
CREATE INDEX "scope_without_org" ON "scopefloor"."scope" USING btree ("id") WHERE NOT "scopefloor"."scope"."tags" ? 'org';--> statement-breakpoint
-- A forget drops the answers that are stored for others to get again, and none may be stored beside it
-- that still has what it takes. One org's forget keeps nobody waiting but that org, and those who have
-- no `org` in their floor and may see into every one.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
ALTER TABLE scopefloor.forget_gate ENABLE ROW LEVEL SECURITY;
--> statement-breakpoint
ALTER TABLE scopefloor.forget_gate FORCE ROW LEVEL SECURITY;
--> statement-breakpoint
CREATE POLICY definer ON scopefloor.forget_gate TO scopefloor_definer USING (true) WITH CHECK (true);
--> statement-breakpoint
-- To lock it in every mode.
GRANT UPDATE ON scopefloor.forget_gate TO scopefloor_definer;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- What a ticket for a deletion, a forget or an erasure takes away is at this scope or below it. (An
-- erasure's trace stands at the floor.)
CREATE FUNCTION scopefloor.forgotten_root(t jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE t->>'mode' WHEN 'erase' THEN t->'target' ELSE t->'trace'->'tags' END
$$;
--> statement-breakpoint
-- Until the transaction ends: of those who forget and those who store answers, no two that may concern
-- the same rows. Both sides take the table and then their org's lock. Whether it was had: who stores
-- waits 5 s for it, and without `patiently` not at all.
--
--                     locks        waits for
--   stores, org acme  ROW SHARE    forgets of no org; of acme by its lock
--   stores, no org    ROW EXCL.    every forget, but not in line: other orgs' forgets would wait behind it
--   forgets, org acme SHARE        who stores and has no org; acme's by its lock
--   forgets, no org   EXCLUSIVE    everyone
CREATE FUNCTION scopefloor.hold_answers(t jsonb, patiently bool) RETURNS bool
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  forgets bool := t->>'mode' IN ('delete', 'forget', 'erase');
  org text := CASE WHEN forgets THEN scopefloor.forgotten_root(t) ELSE t->'floor' END->>'org';
  own bigint := hashtextextended(org, 7701);
  until timestamptz := clock_timestamp() + CASE WHEN patiently THEN interval '5 s' ELSE interval '0' END;
BEGIN
  IF forgets THEN
    IF org IS NULL THEN
      LOCK TABLE scopefloor.forget_gate IN EXCLUSIVE MODE;
    ELSE
      LOCK TABLE scopefloor.forget_gate IN SHARE MODE;
      PERFORM pg_advisory_xact_lock(own);
    END IF;
    RETURN true;
  END IF;
  PERFORM set_config('lock_timeout', '5s', true) WHERE patiently;
  LOOP
    BEGIN
      IF org IS NULL THEN
        LOCK TABLE scopefloor.forget_gate IN ROW EXCLUSIVE MODE NOWAIT;
        RETURN true;
      ELSIF NOT patiently THEN
        LOCK TABLE scopefloor.forget_gate IN ROW SHARE MODE NOWAIT;
        RETURN pg_try_advisory_xact_lock_shared(own);
      END IF;
      LOCK TABLE scopefloor.forget_gate IN ROW SHARE MODE;
      PERFORM pg_advisory_xact_lock_shared(own);
      RETURN true;
    EXCEPTION WHEN lock_not_available THEN
      IF clock_timestamp() >= until THEN
        RETURN false;
      END IF;
      PERFORM pg_sleep(0.01);
    END;
  END LOOP;
END $$;
--> statement-breakpoint
-- As in 0004.
CREATE OR REPLACE FUNCTION scopefloor.claim_idempotency(at_endpoint text, with_key text, with_body bytea, for_recall bool) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  caller uuid := (t->>'key')::uuid;
  earlier scopefloor.idempotency;
BEGIN
  IF caller IS NULL THEN
    RAISE EXCEPTION 'scopefloor: no ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF for_recall THEN
    -- A forget drops stored answers wherever they stand: it must not pass one that is not yet committed.
    IF NOT scopefloor.hold_answers(t, true) THEN
      RETURN '{"status": "busy"}';
    END IF;
  END IF;
  -- Waits 10 s for the first one, whatever else a statement may take.
  PERFORM set_config('lock_timeout', '10s', true);
  DELETE FROM scopefloor.idempotency i
  WHERE i.api_key_id = caller AND i.endpoint = at_endpoint AND i.key = with_key AND i.created_at < now() - interval '24 hours';
  INSERT INTO scopefloor.idempotency (scope_id, api_key_id, endpoint, key, body_hash, recalled)
  VALUES ((t->'trace'->>'id')::int, caller, at_endpoint, with_key, with_body, for_recall)
  ON CONFLICT DO NOTHING;
  IF FOUND THEN
    RETURN '{"status": "new"}';
  END IF;
  SELECT * INTO earlier FROM scopefloor.idempotency i WHERE i.api_key_id = caller AND i.endpoint = at_endpoint AND i.key = with_key;
  IF earlier.body_hash = with_body AND earlier.answer IS NOT NULL THEN
    RETURN jsonb_build_object('status', 'replay', 'answer', earlier.answer);
  END IF;
  RETURN jsonb_build_object('status', 'conflict', 'sameBody', earlier.body_hash IS NOT DISTINCT FROM with_body);
END $$;
--> statement-breakpoint
-- As in 0023.
CREATE OR REPLACE FUNCTION scopefloor.cache_answer(question bytea, seen text, given jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  key bytea := scopefloor.cache_key(t, question);
  ids int[];
BEGIN
  IF key IS NULL OR seen IS NULL OR octet_length(given::text) > 16384 THEN
    RAISE EXCEPTION 'scopefloor: not an answer of a recall' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- A forget is under way: its rows are locked, and what it takes may be in this answer.
  IF NOT scopefloor.hold_answers(t, false) THEN
    RETURN;
  END IF;
  ids := ARRAY(SELECT jsonb_array_elements_text(t->'read'->'ids')::int) || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
  IF scopefloor.version_of(ids) IS DISTINCT FROM seen THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.response_cache AS r (scope_id, digest, version, scope_ids, answer)
  VALUES ((t->'trace'->>'id')::int, key, seen, ids, given)
  ON CONFLICT (scope_id, digest) DO UPDATE SET version = excluded.version, scope_ids = excluded.scope_ids, answer = excluded.answer, created_at = excluded.created_at;
END $$;
--> statement-breakpoint
-- As in 0023, and for a deletion in several scopes by what they have in common.
CREATE OR REPLACE FUNCTION scopefloor.drop_recalled_answers() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  root jsonb := scopefloor.forgotten_root(t);
  org text := root->>'org';
  changing int[];
  dropped int;
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM scopefloor.hold_answers(t, true);
  IF (t->'modify'->>'all')::bool THEN
    DELETE FROM scopefloor.response_cache;
  ELSE
    changing := scopefloor.ids_in(t->'modify');
    -- One that another forget is deleting just now is no reason to wait for it: should that be rolled
    -- back, what stays has ids and scores of before, which are never given again.
    DELETE FROM scopefloor.response_cache r USING (
      SELECT o.scope_id, o.digest FROM scopefloor.response_cache o WHERE o.scope_ids && changing FOR UPDATE SKIP LOCKED) gone
    WHERE r.scope_id = gone.scope_id AND r.digest = gone.digest;
  END IF;
  -- Scopes of another org have none of it, and are not looked at.
  WITH near AS (
    SELECT s.id, s.tags FROM scopefloor.scope s WHERE NOT s.tags ? 'org'
    UNION ALL SELECT s.id, s.tags FROM scopefloor.scope s WHERE s.tags @> jsonb_build_object('org', org)
    UNION ALL SELECT s.id, s.tags FROM scopefloor.scope s WHERE org IS NULL AND s.tags ? 'org'),
  gone AS (
    DELETE FROM scopefloor.idempotency i USING near s
    WHERE i.recalled AND i.xmin <> pg_current_xact_id()::xid AND s.id = i.scope_id AND NOT scopefloor.contradicts(s.tags, root)
    RETURNING s.tags)
  SELECT count(*) INTO dropped FROM gone WHERE tags @> root;
  RETURN dropped;
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.forgotten_root(jsonb), scopefloor.hold_answers(jsonb, bool) FROM PUBLIC;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
