ALTER TABLE "scopefloor"."api_key" ADD COLUMN "changed_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."response_cache" ADD COLUMN "scope_ids" integer[] DEFAULT '{}' NOT NULL;--> statement-breakpoint
CREATE INDEX "response_cache_scopes" ON "scopefloor"."response_cache" USING gin ("scope_ids");--> statement-breakpoint
-- Receipts say what their ticket says, and what was taken away is in every one of them; what outlives
-- the database in a file (src/forget/journal.ts) is done again inside the very scope that it came from.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
DROP POLICY write ON scopefloor.forget_receipt;
--> statement-breakpoint
-- A trace is of now, and takes nothing off the bill.
ALTER POLICY write ON scopefloor.decision_trace
  WITH CHECK (scopefloor.may_record(scope_id, scope, api_key_id, principal) AND created_at = transaction_timestamp());
--> statement-breakpoint
ALTER TABLE scopefloor.decision_trace ADD CONSTRAINT decision_trace_cost CHECK (cost_usd >= 0) NOT VALID;
--> statement-breakpoint
REVOKE INSERT ON scopefloor.forget_receipt FROM scopefloor_app;
--> statement-breakpoint
ALTER TABLE scopefloor.response_cache ALTER scope_ids SET STATISTICS 0;
--> statement-breakpoint
DELETE FROM scopefloor.response_cache;
--> statement-breakpoint
DROP FUNCTION scopefloor.journal_lines(timestamptz), scopefloor.unknown_lines(jsonb), scopefloor.every_scope(), scopefloor.note_replayed(jsonb);
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- The hash that stands for a scope: of its path in canonical order, `org` first (src/scope/scope.ts).
CREATE FUNCTION scopefloor.scope_digest(tags jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT encode(sha256(convert_to(CASE WHEN tags = '{}' THEN '{}'
    ELSE (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(tags) t) END, 'UTF8')), 'hex')
$$;
--> statement-breakpoint
-- Records in its own transaction what a forget or a deletion took: `taken` has the ids by kind, `given`
-- the numbers. Whose, where, when and about which scope is the ticket's to say.
CREATE FUNCTION scopefloor.write_receipt(of_policy text, of_action text, with_subtree bool, given jsonb, taken jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  new_id uuid := gen_random_uuid();
  ids jsonb;
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF of_action NOT IN ('expire', 'erase') OR (t->>'mode' = 'erase') <> (of_policy = 'scope')
     OR of_policy NOT IN ('scope', 'query', 'session', 'query in a session', 'document', 'entity', 'item')
     OR EXISTS (SELECT 1 FROM jsonb_each(given) n WHERE jsonb_typeof(n.value) <> 'number' OR n.value::text LIKE '-%')
     OR EXISTS (SELECT 1 FROM jsonb_object_keys(taken) kind WHERE kind NOT IN (
       'passages', 'turns', 'facts', 'items', 'contents', 'sessions', 'documents', 'entities', 'sections', 'titles', 'sources')) THEN
    RAISE EXCEPTION 'scopefloor: not a receipt' USING ERRCODE = 'check_violation';
  END IF;
  -- An erasure's target says all of it.
  IF t->>'mode' <> 'erase' THEN
    SELECT coalesce(jsonb_object_agg(k.key, (SELECT jsonb_agg((i.value #>> '{}')::uuid) FROM jsonb_array_elements(k.value) i)), '{}') INTO ids
    FROM jsonb_each(taken) k WHERE k.value <> '[]';
  END IF;
  INSERT INTO scopefloor.forget_receipt (scope_id, id, target, subtree, action, policy, counts, items, api_key_id)
  VALUES ((t->'trace'->>'id')::int, new_id,
          CASE t->>'mode' WHEN 'erase' THEN jsonb_build_object('!digest', scopefloor.scope_digest(t->'target'))
                          WHEN 'forget' THEN t->'target' ELSE t->'trace'->'tags' END,
          with_subtree, of_action, of_policy, given, ids, (t->>'key')::uuid);
  RETURN new_id;
END $$;
--> statement-breakpoint
-- What is to be kept outside, since a time (null: all): receipts by which anything went, and keys whose
-- secret, rights or end were changed. Scopes by their hashes. (What names an erased scope by its
-- marker needs no line: the erasure has one.)
CREATE FUNCTION scopefloor.journal_lines(since timestamptz) RETURNS TABLE (line jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' AS $$
  SELECT l.line FROM (
    SELECT jsonb_build_object('kind', 'receipt', 'id', r.id, 'at', r.created_at,
             'target', coalesce(r.target->>'!digest', scopefloor.scope_digest(r.target)), 'scope', scopefloor.scope_digest(s.tags),
             'subtree', r.subtree, 'action', r.action, 'policy', r.policy, 'counts', r.counts, 'items', r.items, 'by', r.api_key_id),
           r.created_at
    FROM scopefloor.forget_receipt r JOIN scopefloor.scope s ON s.id = r.scope_id
    WHERE NOT r.target ? '!erased' AND EXISTS (SELECT 1 FROM jsonb_each(r.counts) n WHERE n.value <> '0')
    UNION ALL
    SELECT jsonb_build_object('kind', 'key', 'id', k.id, 'at', coalesce(k.changed_at, k.revoked_at)), coalesce(k.changed_at, k.revoked_at)
    FROM scopefloor.api_key k WHERE coalesce(k.changed_at, k.revoked_at) IS NOT NULL) l(line, at)
  WHERE since IS NULL OR l.at >= since ORDER BY l.at
$$;
--> statement-breakpoint
-- Of an array of such lines the places (from 0) of those that this database has not seen: a receipt that
-- is not there, a key that is as it was before the change.
CREATE FUNCTION scopefloor.unknown_lines(lines jsonb) RETURNS TABLE (place int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (l.n - 1)::int FROM jsonb_array_elements(lines) WITH ORDINALITY l(line, n)
  WHERE CASE l.line->>'kind'
    WHEN 'key' THEN EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.id = (l.line->>'id')::uuid AND k.revoked_at IS NULL
                            AND coalesce(k.changed_at, k.created_at) < (l.line->>'at')::timestamptz)
    ELSE NOT EXISTS (SELECT 1 FROM scopefloor.forget_receipt r WHERE r.id = (l.line->>'id')::uuid) END
$$;
--> statement-breakpoint
-- For a process that may not do them again itself, at its start: whether each of the lines is known. Null
-- inside a tenant's transaction, which has no business with others' receipts and keys.
CREATE FUNCTION scopefloor.knows_lines(lines jsonb) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN scopefloor.ticket() IS NULL THEN NOT EXISTS (SELECT 1 FROM scopefloor.unknown_lines(lines)) END
$$;
--> statement-breakpoint
-- Every set of tags that stands anywhere, to find by its hash what was erased: the dictionary's, and
-- those of questions, refused attempts and receipts about scopes that have no row of their own.
CREATE FUNCTION scopefloor.named_scopes() RETURNS TABLE (tags jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.tags FROM scopefloor.scope s
  UNION SELECT d.scope FROM scopefloor.decision_trace d
  UNION SELECT r.target FROM scopefloor.forget_receipt r WHERE NOT r.target ? '!digest'
  UNION SELECT a.floor FROM scopefloor.access_denied a
  UNION SELECT c->'tags' FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c
  UNION SELECT a.floor || (c->'tags') FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c
$$;
--> statement-breakpoint
-- A line of the journal that was done again: its receipt is there again, at the scope where it stood or
-- else at {}, or its key is revoked.
CREATE FUNCTION scopefloor.note_replayed(line jsonb, stood_at jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF line->>'kind' = 'key' THEN
    UPDATE scopefloor.api_key SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL
    WHERE id = (line->>'id')::uuid AND revoked_at IS NULL;
  ELSE
    INSERT INTO scopefloor.forget_receipt (scope_id, id, target, subtree, action, policy, counts, items, api_key_id, created_at)
    SELECT coalesce((SELECT s.id FROM scopefloor.scope s WHERE s.tags = stood_at), 0), (line->>'id')::uuid, jsonb_build_object('!digest', line->>'target'),
           (line->>'subtree')::bool, line->>'action', line->>'policy', line->'counts', nullif(line->'items', 'null'), (line->>'by')::uuid,
           (line->>'at')::timestamptz;
  END IF;
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.note_key_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;
--> statement-breakpoint
-- As in 0018, and the answer's scopes are kept as an array.
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
  -- A forget is under way, whose ever: its rows are locked, and what it takes may be in this answer.
  IF NOT pg_try_advisory_xact_lock_shared(7700, 2) THEN
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
-- As in 0018, by the indexes: of the cache by the scopes that an answer has seen, of the stored answers
-- by the scopes that do not contradict the target. What others have stored costs nothing. This request's
-- own claim stays: the one row of this very transaction (that another began in the same microsecond says nothing).
CREATE OR REPLACE FUNCTION scopefloor.drop_recalled_answers() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  changing int[];
  dropped int;
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM pg_advisory_xact_lock(7700, 2);
  IF (t->'modify'->>'all')::bool THEN
    DELETE FROM scopefloor.response_cache;
  ELSE
    changing := scopefloor.ids_in(t->'modify');
    DELETE FROM scopefloor.response_cache r WHERE r.scope_ids && changing;
  END IF;
  WITH gone AS (
    DELETE FROM scopefloor.idempotency i USING scopefloor.scope s
    WHERE i.recalled AND i.xmin <> pg_current_xact_id()::xid AND s.id = i.scope_id AND NOT scopefloor.contradicts(s.tags, t->'target')
    RETURNING s.tags)
  SELECT count(*) INTO dropped FROM gone WHERE tags @> (t->'target');
  RETURN dropped;
END $$;
--> statement-breakpoint
-- As in 0021, with this request's own claim told by its transaction.
CREATE OR REPLACE FUNCTION scopefloor.retire_scopes() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  erased jsonb := t->'target';
  ids int[];
  gone int[];
  traces int;
  answers int;
  denials int;
  jobs int;
BEGIN
  IF t IS NULL OR t->>'mode' <> 'erase' THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for erasing' USING ERRCODE = 'insufficient_privilege';
  END IF;
  ids := scopefloor.ids_in(t->'modify');
  UPDATE scopefloor.decision_trace SET query = NULL, sources = NULL, error = NULL
  WHERE (scope_id = ANY (ids) OR (erased <> '{}' AND scope @> erased))
    AND (query IS NOT NULL OR sources IS NOT NULL OR error IS NOT NULL);
  GET DIAGNOSTICS traces = ROW_COUNT;
  -- But for the claim of this very request.
  DELETE FROM scopefloor.idempotency WHERE scope_id = ANY (ids) AND xmin <> pg_current_xact_id()::xid;
  GET DIAGNOSTICS answers = ROW_COUNT;
  -- Work that was ordered; one that is under way finds its job gone and the epoch moved on.
  DELETE FROM scopefloor.job WHERE scope_id = ANY (ids);
  GET DIAGNOSTICS jobs = ROW_COUNT;
  -- Denials keep who and when; what was asked names the scope, wherever it was asked from. Counted
  -- are the target's own: the rest is not the caller's to know.
  SELECT count(*) INTO denials FROM scopefloor.access_denied WHERE asked IS NOT NULL AND scope_id = ANY (ids);
  UPDATE scopefloor.access_denied SET asked = NULL
  WHERE asked IS NOT NULL AND (scope_id = ANY (ids) OR (erased <> '{}' AND EXISTS (
    SELECT 1 FROM jsonb_array_elements(CASE jsonb_typeof(asked) WHEN 'array' THEN asked ELSE '[]' END) clause
    WHERE access_denied.floor || (clause->'tags') @> erased OR clause->'tags' @> erased)));

  gone := ARRAY(SELECT s.id FROM scopefloor.scope s
    WHERE s.id = ANY (ids) AND s.id <> 0
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = s.id AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
  -- '!' is outside the grammar of dimensions: no request can ever name the marker. Beside it stay
  -- the tags of the nearest floor above that is still in use, so that its bill keeps the numbers.
  UPDATE scopefloor.scope s
  SET tags = coalesce((SELECT k.floor FROM scopefloor.api_key k
                       WHERE erased @> k.floor AND k.floor <> erased AND k.revoked_at IS NULL
                         AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
                       ORDER BY scopefloor.tag_count(k.floor) DESC LIMIT 1), '{}') || jsonb_build_object('!erased', s.id::text),
      display_name = NULL, description = NULL, erased_at = clock_timestamp()
  WHERE s.id = ANY (gone);
  UPDATE scopefloor.decision_trace d SET scope = s.tags FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- A question about a scope without a row of its own stands at the floor's; its tags go as well, also
  -- where the floor is erased and stays, since a live key has it.
  UPDATE scopefloor.decision_trace d SET scope = s.tags FROM scopefloor.scope s
  WHERE s.id = d.scope_id AND (d.scope_id = ANY (ids) OR (erased <> '{}' AND d.scope @> erased)) AND NOT d.scope_id = ANY (gone) AND d.scope <> s.tags;
  UPDATE scopefloor.access_denied d SET floor = s.tags FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- An expired key of an erased scope must not be rotated back to life there.
  UPDATE scopefloor.api_key k
  SET floor = s.tags, name = k.id::text, revoked_at = coalesce(k.revoked_at, clock_timestamp()), previous_hash = NULL, previous_until = NULL
  FROM scopefloor.scope s WHERE s.id = k.scope_id AND k.scope_id = ANY (gone);
  UPDATE scopefloor.forget_receipt r SET target = s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id AND r.scope_id = ANY (gone);
  -- Receipts that stand elsewhere but name what is gone now.
  UPDATE scopefloor.forget_receipt r SET target = '{"!erased": "later"}'
  WHERE erased <> '{}' AND r.target @> erased AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.tags = r.target);
  INSERT INTO scopefloor.erasure (hash, at) VALUES (scopefloor.scope_hash(erased), clock_timestamp());
  UPDATE scopefloor.scope SET epoch = epoch + 1, display_name = NULL, description = NULL WHERE id = ANY (ids);
  RETURN jsonb_build_object('traces', traces, 'idempotency', answers, 'denials', denials, 'scopes', cardinality(gone), 'jobs', jobs);
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.scope_digest(jsonb), scopefloor.write_receipt(text, text, bool, jsonb, jsonb), scopefloor.journal_lines(timestamptz),
  scopefloor.unknown_lines(jsonb), scopefloor.knows_lines(jsonb), scopefloor.named_scopes(), scopefloor.note_replayed(jsonb, jsonb),
  scopefloor.note_key_change() FROM PUBLIC;
--> statement-breakpoint
GRANT EXECUTE ON FUNCTION scopefloor.write_receipt(text, text, bool, jsonb, jsonb), scopefloor.knows_lines(jsonb) TO scopefloor_app;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
DO $$
DECLARE
  owner name := current_user;
BEGIN
  SET LOCAL ROLE scopefloor_definer;
  EXECUTE format('GRANT EXECUTE ON FUNCTION scopefloor.journal_lines(timestamptz), scopefloor.unknown_lines(jsonb), scopefloor.named_scopes(),
    scopefloor.note_replayed(jsonb, jsonb), scopefloor.note_key_change() TO %I', owner);
  RESET ROLE;
END $$;
--> statement-breakpoint
CREATE TRIGGER note_key_change BEFORE UPDATE ON scopefloor.api_key FOR EACH ROW
  WHEN ((OLD.secret_hash, OLD.verbs, OLD.floor, OLD.content, OLD.expires_at, OLD.revoked_at)
        IS DISTINCT FROM (NEW.secret_hash, NEW.verbs, NEW.floor, NEW.content, NEW.expires_at, NEW.revoked_at))
  EXECUTE FUNCTION scopefloor.note_key_change();
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
