-- src/db/sql/0_foundation.sql
-- Roles, the extension and the schema.
--
-- No role here can log in: the operator makes logins in them (docs/operations.md).
--   scopefloor_app      what the service runs as: owns nothing, bypasses nothing
--   scopefloor_worker   background work: counters, the queue, what a job reaches
--   scopefloor_report   SQL reports on decision_trace
--   scopefloor_definer  owns the SECURITY DEFINER functions; nobody logs in as it
--
-- Roles belong to the cluster, not to the database: another database of the same cluster may be
-- creating them at this moment, hence the exceptions.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['scopefloor_app', 'scopefloor_worker', 'scopefloor_report', 'scopefloor_definer'] LOOP
    CONTINUE WHEN EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name);
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOREPLICATION', name);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END LOOP;
  -- An owner that is not a superuser needs to be able to become these roles: the definer to give
  -- it its functions, the other two where one login serves all, which uses SET LOCAL ROLE.
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    FOREACH name IN ARRAY ARRAY['scopefloor_app', 'scopefloor_worker', 'scopefloor_definer'] LOOP
      CONTINUE WHEN pg_has_role(current_user, name, 'SET'); -- while it migrates it inherits the definer's rights (src/db/upkeep/migrate.ts)
      EXECUTE format('GRANT %I TO %I WITH INHERIT FALSE, SET TRUE', name, current_user);
    END LOOP;
  END IF;
END $$;

CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS scopefloor;
REVOKE ALL ON SCHEMA scopefloor FROM PUBLIC;
GRANT USAGE ON SCHEMA scopefloor TO scopefloor_app, scopefloor_worker, scopefloor_report, scopefloor_definer;

DO $$
BEGIN
  -- The application must not make temporary tables, which could shadow names.
  EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
  -- What everyone could create there would be found by the service's own statements.
  REVOKE CREATE ON SCHEMA public FROM PUBLIC;
  -- Reports name decision_trace without its schema; the service itself sets its own search_path.
  EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, scopefloor', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not the database''s owner: TEMPORARY stays granted to PUBLIC, and reports must name scopefloor.decision_trace';
END $$;

-- What the server lets everyone ask would tell of rows behind the row policies, in three ways:
--
-- - large objects know no row security, and would carry text from one transaction into another
-- - statistics and locks say who is at work and what a scan has touched; advisory locks, sleep and the
--   end of other sessions would let one statement hold everybody up
-- - comparisons that PostgreSQL calls leakproof run before a row policy, also where they compare
--   content: whether the policy is asked at all then tells whether any row compares so
--
-- They are closed where this login may, which on most servers is a superuser alone; the catalog audit
-- warns of what is open (src/verify/catalog.ts). At every start, since neither a restored database nor a
-- new version of the server has it. Of bytes, equality stays: the words of `posting` are found by it.
CREATE OR REPLACE FUNCTION scopefloor.close_side_channels() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  f record;
BEGIN
  FOR f IN
    SELECT p.oid::regprocedure AS signature, p.proname AS name FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
      AND (p.proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lo_get', 'lo_open', 'lowrite', 'loread',
                         'pg_stat_force_next_flush', 'pg_lock_status', 'pg_blocking_pids', 'pg_safe_snapshot_blocking_pids',
                         'pg_terminate_backend', 'pg_cancel_backend')
           OR p.proname ~ '^pg_stat_get_|^pg_sleep|^pg_(try_)?advisory_(xact_)?lock')
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f.signature);
    IF f.name ~ '^pg_stat_|lock' AND f.name !~ 'advisory' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pg_monitor', f.signature); -- what watches the server goes on
    ELSIF f.name ~ 'backend$' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pg_signal_backend', f.signature);
    ELSIF f.name ~ 'advisory' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO scopefloor_definer, %s', f.signature,
                     (SELECT n.nspowner::regrole::text FROM pg_namespace n WHERE n.nspname = 'scopefloor'));
    END IF;
  END LOOP;
  FOR f IN
    SELECT p.oid::regprocedure AS signature FROM pg_proc p
    WHERE p.proleakproof AND p.pronamespace = 'pg_catalog'::regnamespace AND p.proname <> 'byteaeq'
      AND p.proargtypes::oid[] && ARRAY['text', 'varchar', 'bpchar', 'bytea', 'bit', 'varbit']::regtype[]::oid[]
  LOOP
    EXECUTE format('ALTER FUNCTION %s NOT LEAKPROOF', f.signature);
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not a superuser: what PostgreSQL grants to PUBLIC stays open (docs/security.md)';
END $$;
SELECT scopefloor.close_side_channels();

--> statement-breakpoint
ALTER TABLE "scopefloor"."posting" ALTER COLUMN "lexeme" SET DATA TYPE bytea USING convert_to("lexeme", 'UTF8');--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "secret" "bytea" DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."document" DROP CONSTRAINT "document_hash";--> statement-breakpoint
ALTER TABLE "scopefloor"."entity" DROP CONSTRAINT "entity_name";--> statement-breakpoint
DROP INDEX "scopefloor"."keyword_normalised";--> statement-breakpoint
DROP INDEX "scopefloor"."attribute_key";--> statement-breakpoint
DROP INDEX "scopefloor"."relation_key";--> statement-breakpoint
ALTER TABLE "scopefloor"."keyword" DROP CONSTRAINT "keyword_scope_id_document_id_normalised_tenant_id_pk";--> statement-breakpoint
ALTER TABLE "scopefloor"."memory_item" DROP CONSTRAINT "memory_item_scope_id_key_tenant_id_pk";--> statement-breakpoint
ALTER TABLE "scopefloor"."chunk_band" DROP CONSTRAINT "chunk_band_scope_id_band_passage_id_tenant_id_pk";--> statement-breakpoint
ALTER TABLE "scopefloor"."chunk_band" RENAME COLUMN "band" TO "bits";--> statement-breakpoint
ALTER TABLE "scopefloor"."chunk_band" ADD COLUMN "band" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."document" ADD COLUMN "content_key" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."keyword" ADD COLUMN "normalised_hash" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "key_hash" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."entity" ADD COLUMN "name_hash" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."memory_item" ADD COLUMN "key_hash" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "key_hash" uuid;
--> statement-breakpoint
DROP FUNCTION scopefloor.hold_scope;
--> statement-breakpoint
-- src/db/sql/1_access/1_scopes.sql
-- The algebra of scopes, and their dictionary. A preposition before a parameter's name (at_, of_, in_)
-- keeps it apart from the columns.

-- Every map between `smallest` and `smallest || extra`: smallest with each subset of extra's tags.
CREATE OR REPLACE FUNCTION scopefloor.scopes_between(smallest jsonb, extra jsonb) RETURNS jsonb[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found jsonb[] := ARRAY[smallest];
  tag record;
BEGIN
  FOR tag IN SELECT key, value FROM jsonb_each(extra) LOOP
    CONTINUE WHEN smallest ? tag.key;
    found := found || ARRAY(SELECT s || jsonb_build_object(tag.key, tag.value) FROM unnest(found) s);
  END LOOP;
  RETURN found;
END $$;

-- Whether two scopes give one dimension two values. (In plpgsql, like the other functions that
-- enter calls, because a plan is kept: a function in SQL is planned anew in each transaction.)
CREATE OR REPLACE FUNCTION scopefloor.contradicts(a jsonb, b jsonb) RETURNS bool
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Where both say the same of what they share, putting one over the other is the same either way.
  RETURN coalesce(a || b <> b || a, false);
END $$;

-- Whether two scopes have a tag in common, or one of them is {}.
CREATE OR REPLACE FUNCTION scopefloor.are_related(a jsonb, b jsonb) RETURNS bool
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN a = '{}' OR b = '{}' OR EXISTS (SELECT 1 FROM jsonb_each(a) x JOIN jsonb_each(b) y USING (key, value));
END $$;

-- How many tags a scope has.
CREATE OR REPLACE FUNCTION scopefloor.tag_count(tags jsonb) RETURNS int
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT count(*) FROM jsonb_object_keys(tags));
END $$;

-- The first tag of a scope, org before others; {} has none.
CREATE OR REPLACE FUNCTION scopefloor.first_tag(tags jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE WHEN tags ? 'org' THEN jsonb_build_object('org', tags->'org')
    ELSE coalesce((SELECT jsonb_build_object(key, value) FROM jsonb_each(tags) ORDER BY key LIMIT 1), '{}') END;
END $$;

-- The hash under which a scope is locked and its erasure noted: keyed, so that who can see locks, or
-- would take one, does not know whose they are.
CREATE OR REPLACE FUNCTION scopefloor.scope_hash(tags jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT ('x' || left(encode(sha256(sha256(t.secret || '\x6c6f636b73') || convert_to(tags::text, 'UTF8')), 'hex'), 16))::bit(64)::bigint
          FROM scopefloor.tenant t WHERE t.id = 0);
END $$;

-- The hash that stands for a scope: of its path in canonical order, `org` first (src/scope/scope.ts).
CREATE OR REPLACE FUNCTION scopefloor.scope_digest(tags jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT encode(sha256(convert_to(CASE WHEN tags = '{}' THEN '{}'
    ELSE (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(tags) t) END, 'UTF8')), 'hex')
$$;

-- The tenant that a scope belongs to, made when there is none: that of its `org` tag, 0 without one.
CREATE OR REPLACE FUNCTION scopefloor.ensure_tenant(of_scope jsonb) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted jsonb := jsonb_build_object('org', of_scope->'org');
  found int;
BEGIN
  IF NOT of_scope ? 'org' THEN
    RETURN 0;
  END IF;
  -- Held until the scope is there: an erasure that takes the name from the tenant comes before or after.
  SELECT t.id INTO found FROM scopefloor.tenant t WHERE t.root = wanted FOR KEY SHARE;
  IF found IS NULL THEN
    INSERT INTO scopefloor.tenant (root) VALUES (wanted) ON CONFLICT (root) DO NOTHING RETURNING id INTO found;
    IF found IS NULL THEN
      SELECT t.id INTO STRICT found FROM scopefloor.tenant t WHERE t.root = wanted;
    END IF;
  END IF;
  RETURN found;
END $$;

-- The dictionary's row for these tags, made when there is none. Only what writes calls this.
CREATE OR REPLACE FUNCTION scopefloor.ensure_scope(wanted jsonb) RETURNS scopefloor.scope
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.scope;
BEGIN
  SELECT * INTO found FROM scopefloor.scope s WHERE s.tags = wanted;
  IF found.id IS NULL THEN
    INSERT INTO scopefloor.scope (tags, tenant_id) VALUES (wanted, scopefloor.ensure_tenant(wanted)) ON CONFLICT (tags) DO NOTHING RETURNING * INTO found;
    IF found.id IS NULL THEN
      SELECT * INTO STRICT found FROM scopefloor.scope s WHERE s.tags = wanted;
    END IF;
  END IF;
  RETURN found;
END $$;

-- Ids of scopes and tenants that no other deployment gives: of 128 numbered deployments each has 2^24
-- of its own (SCOPEFLOOR_DEPLOYMENT). NULL: a deployment that stands alone has all of them. For the
-- owner's connection, at the start; what was given before stays.
CREATE OR REPLACE FUNCTION scopefloor.number_deployment(deployment int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t text;
  least bigint := coalesce(deployment, 0)::bigint * 16777216 + 1;
  most bigint := CASE WHEN deployment IS NULL THEN 2147483647 ELSE least + 16777214 END;
  ids record;
  used bigint;
BEGIN
  IF deployment NOT BETWEEN 0 AND 127 THEN
    RAISE EXCEPTION 'a deployment''s number is between 0 and 127, not %', deployment;
  END IF;
  FOREACH t IN ARRAY ARRAY['scope', 'tenant'] LOOP
    SELECT s.seqmin, s.seqmax INTO ids FROM pg_sequence s WHERE s.seqrelid = pg_get_serial_sequence('scopefloor.' || t, 'id')::regclass;
    CONTINUE WHEN ids.seqmin = least AND ids.seqmax = most;
    EXECUTE format('LOCK TABLE scopefloor.%I IN SHARE ROW EXCLUSIVE MODE', t);
    -- A deployment may come back to a number that it has had.
    EXECUTE format('SELECT max(id) FROM scopefloor.%I WHERE id BETWEEN $1 AND $2', t) INTO used USING least, most;
    EXECUTE format('ALTER TABLE scopefloor.%I ALTER id SET START %2$s SET MINVALUE %2$s SET MAXVALUE %3$s RESTART WITH %4$s', t, least, most,
                   coalesce(used + 1, least));
  END LOOP;
END $$;

--> statement-breakpoint
-- src/db/sql/1_access/4_locks.sql
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

--> statement-breakpoint
-- src/db/sql/1_access/6_enter.sql
-- The only way to a ticket, and what is recorded of those who get none.

-- Opens a transaction for a key: finds the key, checks verb and request against the floor in the
-- key's own row, resolves the scope ids and leaves a signed ticket in scopefloor.ticket.
--
--   key_hash   SHA-256 of the presented secret
--   verb       memory:read | memory:write | memory:forget | manage | self
--   requested  {mode, clauses?, session?, document?, subtree?, reopen?, context, ageMs}; a clause is
--              {tags, subtree}, ageMs is how long ago the request arrived
--              mode: check   nothing: only whether the key may do this
--                    select  rows by selector       id      rows by id, and lists: the floor's subtree
--                    write   rows at E              modify  as id, and may change them
--                    delete  as modify, or where a scope is named the rows at E, and may delete them
--                    forget  rows at E, no writer   erase   the same, and E's tags go too
--   view       strict | subtree, or NULL for the principal's default
--
-- A refusal is returned, not raised, so that the denial can be recorded in a second transaction:
-- {status: unauthorized | forbidden | scope-floor | not-found | unprocessable | conflict, detail}.
CREATE OR REPLACE FUNCTION scopefloor.enter(key_hash bytea, verb text, requested jsonb, view text, on_behalf_of text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  mode text := requested->>'mode';
  caller record;      -- authenticate
  refusal jsonb;
  place record;       -- resolve_place
  named record;       -- resolve_clauses
  written scopefloor.scope;
  traced scopefloor.scope;
  trace_tags jsonb;
  trace_is_blank bool := false; -- the trace says nothing of what was asked
  reach jsonb;
  general bool;
  began timestamptz := transaction_timestamp() - make_interval(secs => coalesce((requested->>'ageMs')::float8, 0) / 1000);
BEGIN
  caller := scopefloor.authenticate(key_hash, on_behalf_of);
  refusal := coalesce(caller.refusal,
    scopefloor.permit((caller.k).principal, (caller.other).principal, caller.verbs, caller.content, verb, mode));
  -- Who may come in at all, before the request itself is looked at.
  IF refusal IS NOT NULL OR mode = 'check' THEN
    RETURN coalesce(refusal, '{"status": "ok"}');
  END IF;

  view := CASE mode
    WHEN 'select' THEN coalesce(view, CASE WHEN (caller.k).principal = 'agent' THEN 'strict' ELSE 'subtree' END)
    WHEN 'write' THEN 'strict'
    WHEN 'delete' THEN CASE WHEN jsonb_typeof(requested->'clauses') = 'array' THEN 'strict' ELSE 'subtree' END
    WHEN 'forget' THEN CASE WHEN (requested->>'subtree')::bool THEN 'subtree' ELSE 'strict' END
    WHEN 'erase' THEN CASE WHEN (requested->>'subtree')::bool THEN 'subtree' ELSE 'strict' END
    ELSE 'subtree' END; -- id, modify
  place := scopefloor.resolve_place(caller.k, caller.floor, CASE WHEN mode = 'write' THEN requested ELSE '{}' END);
  IF place.refusal IS NOT NULL THEN
    RETURN place.refusal;
  END IF;
  named := scopefloor.resolve_clauses(caller.floor, requested, mode, view, place.fixed);
  IF named.refusal IS NOT NULL THEN
    RETURN named.refusal;
  END IF;

  -- An erase takes its target's tags out of the dictionary: its own trace stands at the floor.
  trace_tags := CASE WHEN mode = 'erase' THEN caller.floor ELSE coalesce(named.shared, caller.floor) END;
  PERFORM scopefloor.hold_scope(trace_tags, CASE WHEN mode IN ('forget', 'erase') THEN named.effective END, caller.floor);
  IF mode NOT IN ('forget', 'erase') AND scopefloor.was_erased(trace_tags, began) THEN
    IF mode = 'write' THEN
      RETURN jsonb_build_object('status', 'conflict', 'detail', 'the scope was erased while this write was under way; nothing was stored');
    ELSIF scopefloor.was_erased(trace_tags, transaction_timestamp()) THEN
      -- It waited for the erasure: as a transaction that begins now it may go on.
      RAISE EXCEPTION 'scopefloor: the scope was erased meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    -- It arrived before the erasure, and what it says is from before: its trace names neither.
    trace_tags := caller.floor;
    trace_is_blank := true;
  END IF;

  IF mode = 'write' THEN
    IF (place.fixed).id IS NULL THEN
      written := scopefloor.ensure_scope(named.effective);
    ELSE
      -- What was true before the locks may be gone. (reserve_turns looks again whether it is open.)
      place := scopefloor.resolve_place(caller.k, caller.floor, requested);
      IF place.refusal->>'status' = 'not-found' THEN
        RETURN place.refusal;
      END IF;
      SELECT * INTO written FROM scopefloor.scope s WHERE s.tags = named.effective;
    END IF;
    IF written.tombstoned_at IS NOT NULL AND NOT coalesce((requested->>'reopen')::bool, false) THEN
      RETURN jsonb_build_object('status', 'conflict', 'detail', 'the scope was deleted; POST /scopes opens it again');
    END IF;
    -- What the key may read beside what it writes: the floor's subtree, and only with that verb.
    general := 'memory:read' = ANY (caller.verbs);
    reach := scopefloor.reach_of(caller.floor, '{}', CASE WHEN general THEN ARRAY[caller.floor] ELSE '{}' END);
  ELSE
    general := named.shared IS NOT NULL AND mode IN ('select', 'id', 'modify', 'delete');
    reach := scopefloor.reach_of(caller.floor, named.exact, named.subtree_roots);
    -- What is forgotten goes by its scopes alone: the name of a tenant may be another's by now.
    IF mode IN ('forget', 'erase') AND reach->'trees' <> '[]' THEN
      reach := reach || '{"tenant": null}';
    END IF;
  END IF;

  SELECT * INTO traced FROM scopefloor.scope s WHERE s.tags = trace_tags;
  IF traced.id IS NULL THEN
    SELECT s.* INTO traced FROM scopefloor.scope s JOIN scopefloor.api_key a ON a.scope_id = s.id WHERE a.id = (caller.k).id;
  END IF;
  IF verb = 'memory:read' THEN
    -- All that a recall writes is its trace: not worth waiting for the disk. (docs/security.md)
    PERFORM set_config('synchronous_commit', 'off', true);
  END IF;
  PERFORM scopefloor.issue_ticket(jsonb_build_object(
    'key', (caller.k).id, 'principal', (caller.k).principal, 'on_behalf_of', (caller.other).id,
    'verb', verb, 'mode', mode, 'verbs', to_jsonb(caller.verbs), 'content', caller.content,
    'floor', caller.floor, 'target', named.effective, 'general', general,
    'read', reach, 'modify', CASE WHEN mode IN ('modify', 'delete', 'forget', 'erase') THEN reach ELSE '{"ids": []}' END,
    'write', written.id, 'tenant', written.tenant_id,
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', trace_tags)));

  RETURN jsonb_build_object(
    'status', 'ok',
    'key', jsonb_build_object('id', (caller.k).id, 'name', (caller.k).name, 'principal', (caller.k).principal, 'content', caller.content,
                              'expiresAt', (caller.k).expires_at),
    'verbs', to_jsonb(caller.verbs), 'floor', caller.floor, 'onBehalfOf', (caller.other).id,
    'view', view, 'effective', named.effective, 'general', general,
    'read', jsonb_build_object(
      'scopes', coalesce((SELECT jsonb_object_agg(s.id, s.tags) FROM scopefloor.scope s WHERE s.id = ANY (ARRAY(SELECT jsonb_array_elements_text(reach->'ids')::int))), '{}'),
      'trees', reach->'trees', 'tenant', reach->'tenant'),
    'write', CASE WHEN written.id IS NOT NULL THEN jsonb_build_object('id', written.id, 'tenant', written.tenant_id) END,
    'settings', coalesce((SELECT c.config FROM scopefloor.context c WHERE c.id = requested->>'context'), '{}'),
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', trace_tags, 'isBlank', trace_is_blank));
END $$;

-- Records a refused attempt, at the scope of the key's own floor. Called in a transaction of its own,
-- after the refused one was rolled back. What was asked is left out where it names what was just erased.
CREATE OR REPLACE FUNCTION scopefloor.record_denial(key_hash bytea, denial uuid, trace uuid, route text, operation text, asked jsonb, on_behalf_of text, reason text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  k scopefloor.api_key;
  clause jsonb;
BEGIN
  k := scopefloor.live_key(key_hash);
  IF k.id IS NULL THEN
    RETURN;
  END IF;
  PERFORM scopefloor.hold_scope(k.floor);
  -- What the floor holds is held too, so that an erasure of it is over or has not begun. A foreign scope
  -- is not: nobody's refused request waits for another tenant.
  FOR clause IN SELECT jsonb_array_elements(CASE jsonb_typeof(asked) WHEN 'array' THEN asked ELSE '[]' END)->'tags' LOOP
    IF scopefloor.tag_count(k.floor || clause) > 8 THEN
      CONTINUE;
    END IF;
    IF NOT scopefloor.contradicts(k.floor, clause) THEN
      PERFORM scopefloor.hold_scope(k.floor || clause);
    END IF;
    -- No request is under way for longer than a minute before it is refused.
    IF scopefloor.was_erased(k.floor || clause, clock_timestamp() - interval '1 minute')
       OR scopefloor.was_erased(clause, clock_timestamp() - interval '1 minute') THEN
      asked := NULL;
      EXIT;
    END IF;
  END LOOP;
  INSERT INTO scopefloor.access_denied (tenant_id, scope_id, id, api_key_id, floor, asked, on_behalf_of, route, reason)
  SELECT a.tenant_id, a.scope_id, denial, a.id, a.floor, asked,
         -- An id and nothing else: a header of any text would outlive a forget.
         CASE WHEN on_behalf_of ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN on_behalf_of END,
         left(record_denial.route, 200), left(record_denial.reason, 300)
  FROM scopefloor.api_key a WHERE a.id = k.id;
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, duration_ms, status)
  SELECT trace, 'denied', record_denial.operation, a.tenant_id, a.scope_id, a.floor, a.id, a.principal, 0, 'denied'
  FROM scopefloor.api_key a WHERE a.id = k.id;
END $$;

-- Whether the floor holds scopes that this view does not show.
CREATE OR REPLACE FUNCTION scopefloor.hides_scopes() RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  seen int[];
BEGIN
  IF t IS NULL OR t->>'verb' <> 'memory:read' OR (t->'read'->>'all')::bool THEN
    RETURN false;
  END IF;
  seen := scopefloor.ids_in(t->'read') || 0;
  -- By the index on tags, also where nothing is hidden: asked as one EXISTS, the planner reads the
  -- whole dictionary in the hope of an early end (17 ms beside 110,000 scopes, and now 0.02).
  RETURN (WITH below AS MATERIALIZED (SELECT s.id FROM scopefloor.scope s WHERE s.tags @> (t->'floor'))
          SELECT EXISTS (SELECT 1 FROM below b WHERE b.id <> ALL (seen)));
END $$;

--> statement-breakpoint
-- src/db/sql/1_access/9_words.sql
-- Words are looked up by keyed hashes. What an index holds can be asked for below the row policies, by
-- every login that may read the table (0_foundation.sql): so it holds no word of a tenant, and nothing that
-- can be computed from one without the tenant's secret.

-- The hash of a word under a secret: 128 bits of a nested SHA-256. (Without SET, so that it is inlined.)
CREATE OR REPLACE FUNCTION scopefloor.word_hash(secret bytea, word text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.encode(pg_catalog.substring(pg_catalog.sha256(secret OPERATOR(pg_catalog.||) pg_catalog.sha256(pg_catalog.convert_to(word, 'UTF8'))), 1, 16), 'hex')::pg_catalog.uuid
$$;

-- What an entity is looked up by: its type and name as one word.
CREATE OR REPLACE FUNCTION scopefloor.entity_word(of_type text, of_name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT of_type OPERATOR(pg_catalog.||) pg_catalog.chr(31) OPERATOR(pg_catalog.||) of_name
$$;

-- The secret under which the words of a scope are hashed: its tenant's, and for general knowledge one
-- that tells nothing about the tenant's.
CREATE OR REPLACE FUNCTION scopefloor.word_secret(of_tenant int, of_scope int) RETURNS bytea
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found bytea;
BEGIN
  SELECT t.secret INTO STRICT found FROM scopefloor.tenant t WHERE t.id = of_tenant;
  RETURN CASE WHEN of_scope = 0 THEN sha256(found || '\x67656e6572616c') ELSE found END;
END $$;

-- What an entity of a scope is looked up by.
CREATE OR REPLACE FUNCTION scopefloor.entity_hash(at_tenant int, at_scope int, of_type text, of_name text) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), scopefloor.entity_word(of_type, of_name));
END $$;

-- Trigger: the hashes follow their words, whoever writes them.
CREATE OR REPLACE FUNCTION scopefloor.set_lookup() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  secret bytea := scopefloor.word_secret(NEW.tenant_id, NEW.scope_id);
BEGIN
  IF TG_TABLE_NAME = 'entity' THEN
    NEW.name_hash := scopefloor.word_hash(secret, scopefloor.entity_word(NEW.type, NEW.name));
  ELSIF TG_TABLE_NAME IN ('attribute', 'relation', 'memory_item') THEN
    NEW.key_hash := scopefloor.word_hash(secret, NEW.key);
  ELSIF TG_TABLE_NAME = 'keyword' THEN
    NEW.normalised_hash := scopefloor.word_hash(secret, NEW.normalised);
  ELSIF TG_TABLE_NAME = 'document' THEN
    NEW.content_key := scopefloor.word_hash(secret, NEW.content_hash);
  ELSE
    RAISE EXCEPTION 'scopefloor: % has no words to look up', TG_TABLE_NAME;
  END IF;
  RETURN NEW;
END $$;

-- The hashes of these words wherever the ticket reads or writes: under the secret of each tenant of its
-- reach, and under that of general knowledge.
CREATE OR REPLACE FUNCTION scopefloor.lookup_hashes(words text[]) RETURNS TABLE (word text, hash uuid, tenant_id int, is_general bool)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL THEN
    RAISE EXCEPTION 'scopefloor: no ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN QUERY
    SELECT w, scopefloor.word_hash(p.secret, w), p.tenant_id, p.is_general
    FROM (SELECT k.tenant_id, k.scope_id = 0 AS is_general, scopefloor.word_secret(k.tenant_id, k.scope_id) AS secret
          FROM (SELECT s.tenant_id, min(s.id) AS scope_id FROM scopefloor.scope s
                WHERE s.id = ANY (scopefloor.ids_in(t->'read') || scopefloor.ids_in(t->'modify') || (t->>'write')::int) AND s.id <> 0 GROUP BY 1
                UNION ALL SELECT 0, 0) k) p, unnest(words) w;
END $$;

--> statement-breakpoint
-- src/db/sql/2_memory/2_documents.sql
-- Documents and their links. What writes is a definer function, because a key that may write but not
-- read can neither look for what is there already nor use RETURNING.

-- Adds a document at the ticket's write scope, or finds the one there that has the same bytes: another
-- scope's copy is not looked at. {id, status, version, deduplicated, again}; `again`: the one that is
-- there had failed and is to be processed once more.
CREATE OR REPLACE FUNCTION scopefloor.add_document(new_id uuid, facts jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  same_bytes uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), facts->>'contentHash');
  d scopefloor.document;
BEGIN
  INSERT INTO scopefloor.document (tenant_id, scope_id, id, api_key_id, title, source, mime_type, size_bytes, content_hash, labels, observed_at)
  VALUES ((t->>'tenant')::int, at_scope, new_id, (t->>'key')::uuid, facts->>'title', facts->>'source', facts->>'mimeType', (facts->>'sizeBytes')::int,
          facts->>'contentHash', ARRAY(SELECT jsonb_array_elements_text(facts->'labels')), (facts->>'observedAt')::timestamptz)
  ON CONFLICT (scope_id, content_key, tenant_id) DO NOTHING RETURNING * INTO d;
  IF d.id IS NOT NULL THEN
    RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', 1, 'deduplicated', false, 'again', false);
  END IF;
  SELECT * INTO STRICT d FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.content_key = same_bytes FOR UPDATE;
  IF d.status = 'failed' THEN
    UPDATE scopefloor.document o SET status = 'queued', error = NULL, mime_type = facts->>'mimeType', updated_at = clock_timestamp(),
           processing_started_at = NULL, processing_completed_at = NULL
    WHERE o.scope_id = at_scope AND o.id = d.id;
    RETURN jsonb_build_object('id', d.id, 'status', 'queued', 'version', d.version, 'deduplicated', true, 'again', true);
  END IF;
  RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', true, 'again', false);
END $$;

-- The next version of the document that the transaction was entered for. What the caller leaves out
-- stays as it was. NULL: another document of the scope has these bytes.
CREATE OR REPLACE FUNCTION scopefloor.replace_document(of_document uuid, facts jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  same_bytes uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), facts->>'contentHash');
  d scopefloor.document;
BEGIN
  SELECT * INTO d FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.id = of_document FOR UPDATE;
  IF d.id IS NULL THEN
    RETURN jsonb_build_object('status', 'gone');
  END IF;
  IF d.content_hash = facts->>'contentHash' AND d.status <> 'failed' THEN
    -- The same bytes: only what is said about them may have changed.
    UPDATE scopefloor.document o
    SET title = coalesce(facts->>'title', o.title), source = coalesce(facts->>'source', o.source),
        labels = CASE WHEN jsonb_typeof(facts->'labels') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(facts->'labels')) ELSE o.labels END,
        observed_at = coalesce((facts->>'observedAt')::timestamptz, o.observed_at), updated_at = clock_timestamp()
    WHERE o.scope_id = at_scope AND o.id = of_document
    RETURNING * INTO d;
    UPDATE scopefloor.passage p SET labels = d.labels, observed_at = d.observed_at
    WHERE p.scope_id = at_scope AND p.document_id = of_document AND (p.labels <> d.labels OR p.observed_at <> d.observed_at);
    RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', true);
  END IF;
  IF EXISTS (SELECT 1 FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.content_key = same_bytes AND o.id <> of_document) THEN
    RETURN NULL;
  END IF;
  UPDATE scopefloor.document o
  SET version = o.version + 1, status = 'queued', error = NULL, content_hash = facts->>'contentHash', size_bytes = (facts->>'sizeBytes')::int,
      mime_type = facts->>'mimeType', title = coalesce(facts->>'title', o.title), source = coalesce(facts->>'source', o.source),
      labels = CASE WHEN jsonb_typeof(facts->'labels') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(facts->'labels')) ELSE o.labels END,
      observed_at = coalesce((facts->>'observedAt')::timestamptz, o.observed_at), api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp(),
      processing_started_at = NULL, processing_completed_at = NULL
  WHERE o.scope_id = at_scope AND o.id = of_document
  RETURNING * INTO d;
  RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', d.version, 'deduplicated', false);
END $$;

-- Links the documents of the ticket's write scope that share at least two keywords: their weight is the
-- Jaccard similarity of the two sets, and each document keeps its ten nearest. A keyword that is in more
-- than a hundred documents tells them not apart. Gives the number of links.
CREATE OR REPLACE FUNCTION scopefloor.relink_documents() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  emitted int;
BEGIN
  PERFORM pg_advisory_xact_lock(7701, at_scope); -- of two at once the second makes them anew
  DELETE FROM scopefloor.document_link WHERE scope_id = at_scope;
  WITH telling AS MATERIALIZED (
    SELECT k.document_id, k.normalised_hash FROM scopefloor.keyword k
    WHERE k.scope_id = at_scope AND k.normalised_hash IN (
      SELECT o.normalised_hash FROM scopefloor.keyword o WHERE o.scope_id = at_scope GROUP BY 1 HAVING count(*) BETWEEN 2 AND 100)),
  sizes AS MATERIALIZED (
    SELECT k.document_id, count(*) AS n FROM scopefloor.keyword k WHERE k.scope_id = at_scope GROUP BY 1),
  pairs AS (
    SELECT a.document_id AS from_id, b.document_id AS to_id, count(*) AS shared
    FROM telling a JOIN telling b ON b.normalised_hash = a.normalised_hash AND b.document_id <> a.document_id GROUP BY 1, 2 HAVING count(*) >= 2),
  weighed AS (
    SELECT p.from_id, p.to_id, p.shared::real / (x.n + y.n - p.shared) AS weight
    FROM pairs p JOIN sizes x ON x.document_id = p.from_id JOIN sizes y ON y.document_id = p.to_id),
  ranked AS (
    SELECT w.*, row_number() OVER (PARTITION BY w.from_id ORDER BY w.weight DESC, w.to_id) AS place FROM weighed w)
  INSERT INTO scopefloor.document_link (tenant_id, scope_id, from_id, to_id, weight)
  SELECT (t->>'tenant')::int, at_scope, r.from_id, r.to_id, r.weight FROM ranked r WHERE r.place <= 10;
  GET DIAGNOSTICS emitted = ROW_COUNT;
  RETURN emitted;
END $$;

-- How many documents of the ticket's target are not in recall, on their way into it or because they could
-- not be read: a forget by meaning does not see what they say, and its receipt says so.
CREATE OR REPLACE FUNCTION scopefloor.pending_documents() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*)::int FROM scopefloor.document d
  WHERE d.scope_id = ANY (scopefloor.ids_in(scopefloor.ticket()->'modify')) AND d.status NOT IN ('ready', 'embedding')
$$;

--> statement-breakpoint
-- src/db/sql/2_memory/3_turns_and_facts.sql
-- Writing turns, facts and keyed items, as far as it takes more than inserting rows through the builder:
-- definer functions, because a key that may write but not read can neither look for what is there
-- already nor use RETURNING.

-- Takes the next n places in an open session at the ticket's write scope; an agent's key only in a
-- session that it created. NULL: there is no such session, or it is closed.
CREATE OR REPLACE FUNCTION scopefloor.reserve_turns(in_session uuid, n int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  first int;
BEGIN
  IF t IS NULL OR t->>'write' IS NULL OR n NOT BETWEEN 1 AND 500 THEN
    RAISE EXCEPTION 'scopefloor: no write ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  UPDATE scopefloor.session s SET next_seq = s.next_seq + n
  WHERE s.scope_id = (t->>'write')::int AND s.id = in_session
    AND (t->>'principal' <> 'agent' OR s.api_key_id = (t->>'key')::uuid) AND s.closed_at IS NULL
  RETURNING s.next_seq - n INTO first;
  RETURN first;
END $$;

-- The entity of that type and name at a scope, made when there is none.
CREATE OR REPLACE FUNCTION scopefloor.ensure_entity(at_tenant int, at_scope int, of_type text, of_name text, by_key uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found uuid;
BEGIN
  INSERT INTO scopefloor.entity (tenant_id, scope_id, id, type, name, api_key_id) VALUES (at_tenant, at_scope, gen_random_uuid(), of_type, of_name, by_key)
  ON CONFLICT (scope_id, name_hash, tenant_id) DO NOTHING;
  -- Locked: of two who change the same entity the second sees what the first left.
  SELECT e.id INTO STRICT found FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.entity_hash(at_tenant, at_scope, of_type, of_name) FOR NO KEY UPDATE;
  RETURN found;
END $$;

-- Takes a passage that stands for a fact out of recall; the fact itself stays, as history.
CREATE OR REPLACE FUNCTION scopefloor.retire_fact(at_scope int, fact uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM scopefloor.passage WHERE scope_id = at_scope AND id = fact AND kind = 'attribute'
$$;

-- Stores one value of an entity's key, {id, key, value, category, at}, with what it supersedes.
--   same     the fact that says it already and is current; without a later one nothing is stored
--   later    a fact that was observed after this one, which is history then
--   closed   the facts that it supersedes
CREATE OR REPLACE FUNCTION scopefloor.put_attribute(t jsonb, item jsonb, subject uuid, in_session uuid, in_turn uuid,
                                                    OUT same uuid, OUT later uuid, OUT closed uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int := (t->>'write')::int;
  observed timestamptz := (item->>'at')::timestamptz;
  of_key uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), item->>'key');
  later_from timestamptz;
BEGIN
  closed := '{}';
  SELECT a.id INTO same FROM scopefloor.attribute a
  WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.value = item->'value'
    AND a.closed_at IS NULL AND a.expired_at IS NULL AND a.valid_from <= observed LIMIT 1;
  SELECT a.id, a.valid_from INTO later, later_from FROM scopefloor.attribute a
  WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.expired_at IS NULL AND a.valid_from > observed
  ORDER BY a.valid_from LIMIT 1;
  IF same IS NOT NULL AND later IS NULL THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, value, key, category, valid_from, valid_until, superseded_by, closed_at, session_id, turn_id, api_key_id)
  VALUES ((t->>'tenant')::int, at_scope, (item->>'id')::uuid, subject, item->'value', item->>'key', item->>'category', observed, later_from, later,
          CASE WHEN later IS NOT NULL THEN now() END, in_session, in_turn, (t->>'key')::uuid);
  WITH gone AS (
    UPDATE scopefloor.attribute a
    SET valid_until = observed, superseded_by = (item->>'id')::uuid, closed_at = coalesce(a.closed_at, now())
    WHERE a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.expired_at IS NULL
      AND a.valid_from <= observed AND (a.valid_until IS NULL OR a.valid_until > observed) AND a.id <> (item->>'id')::uuid
    RETURNING a.id)
  SELECT coalesce(array_agg(id), '{}') INTO closed FROM gone;
END $$;

-- The same of a relation to another entity. `together`: the triples of the same call, whose targets of one
-- key stand side by side.
CREATE OR REPLACE FUNCTION scopefloor.put_relation(t jsonb, item jsonb, subject uuid, target uuid, together jsonb, in_session uuid, in_turn uuid,
                                                   OUT same uuid, OUT later uuid, OUT closed uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int := (t->>'write')::int;
  observed timestamptz := (item->>'at')::timestamptz;
  of_key uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), item->>'key');
  later_from timestamptz;
  call_ids uuid[] := ARRAY(SELECT (x->>'id')::uuid FROM jsonb_array_elements(together) x);
BEGIN
  SELECT r.id INTO same FROM scopefloor.relation r
  WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.target_id = target
    AND r.closed_at IS NULL AND r.expired_at IS NULL AND r.valid_from <= observed LIMIT 1;
  SELECT r.id, r.valid_from INTO later, later_from FROM scopefloor.relation r
  WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.expired_at IS NULL AND r.valid_from > observed
    AND NOT r.id = ANY (call_ids) ORDER BY r.valid_from LIMIT 1;
  IF same IS NULL OR later IS NOT NULL THEN
    INSERT INTO scopefloor.relation (tenant_id, scope_id, id, entity_id, target_id, key, category, valid_from, valid_until, superseded_by, closed_at, session_id, turn_id, api_key_id)
    VALUES ((t->>'tenant')::int, at_scope, (item->>'id')::uuid, subject, target, item->>'key', item->>'category', observed, later_from, later,
            CASE WHEN later IS NOT NULL THEN now() END, in_session, in_turn, (t->>'key')::uuid);
  END IF;
  WITH gone AS (
    UPDATE scopefloor.relation r
    SET valid_until = least(coalesce(r.valid_until, observed), observed), superseded_by = coalesce(same, (item->>'id')::uuid), closed_at = coalesce(r.closed_at, now())
    WHERE r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.expired_at IS NULL
      AND r.valid_from <= observed AND (r.valid_until IS NULL OR r.valid_until > observed)
      AND r.id IS DISTINCT FROM same AND NOT r.id = ANY (call_ids)
      -- Another target of this call that was there already stays too.
      AND NOT EXISTS (SELECT 1 FROM jsonb_array_elements(together) x JOIN scopefloor.entity e ON e.scope_id = at_scope AND e.id = r.target_id
                      WHERE x->'entity' = item->'entity' AND x->>'key' = item->>'key' AND x->'target'->>'type' = e.type AND x->'target'->>'name' = e.name)
    RETURNING r.id)
  SELECT coalesce(array_agg(id), '{}') INTO closed FROM gone;
END $$;

-- Stores triples [{id, entity: {type, name}, key, value? | target?: {type, name}, category, at}] at the
-- ticket's write scope. A new value for the same entity and key closes the one that was current; one
-- observed earlier than the current becomes history at once; one that says the same changes nothing.
-- Several targets for one key in the same call stand side by side, and together replace earlier ones.
-- Gives for each {id, entityId, stored, current, superseded: [ids]}.
CREATE OR REPLACE FUNCTION scopefloor.put_triples(triples jsonb, in_session uuid, in_turn uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  item jsonb;
  subject uuid;
  target uuid;
  put record;
  is_stored bool;
  done jsonb := '[]';
BEGIN
  -- In the order of their names, so that nobody waits in a circle.
  PERFORM scopefloor.ensure_entity(at_tenant, at_scope, e.type, e.name, (t->>'key')::uuid)
  FROM (SELECT DISTINCT x->>'type' AS type, x->>'name' AS name
        FROM jsonb_array_elements(triples) y, LATERAL (VALUES (y->'entity'), (y->'target')) v(x)
        WHERE jsonb_typeof(x) = 'object' ORDER BY 1, 2) e;
  FOR item IN SELECT jsonb_array_elements(triples) LOOP
    SELECT e.id INTO STRICT subject FROM scopefloor.entity e
    WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.entity_hash(at_tenant, at_scope, item->'entity'->>'type', item->'entity'->>'name');
    IF jsonb_typeof(item->'target') = 'object' THEN
      SELECT e.id INTO STRICT target FROM scopefloor.entity e
      WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.entity_hash(at_tenant, at_scope, item->'target'->>'type', item->'target'->>'name');
      put := scopefloor.put_relation(t, item, subject, target, triples, in_session, in_turn);
    ELSE
      put := scopefloor.put_attribute(t, item, subject, in_session, in_turn);
    END IF;
    is_stored := put.same IS NULL OR put.later IS NOT NULL;
    PERFORM scopefloor.retire_fact(at_scope, c) FROM unnest(put.closed) c;
    done := done || jsonb_build_object(
      'id', CASE WHEN is_stored THEN item->>'id' ELSE put.same::text END, 'entityId', subject,
      'stored', is_stored, 'current', put.later IS NULL, 'superseded', to_jsonb(put.closed));
  END LOOP;
  RETURN done;
END $$;

-- Sets a keyed item at the ticket's write scope: {id, createdAt, updatedAt}.
CREATE OR REPLACE FUNCTION scopefloor.put_item(new_id uuid, of_key text, new_value jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  m scopefloor.memory_item;
BEGIN
  INSERT INTO scopefloor.memory_item (tenant_id, scope_id, key, id, value, api_key_id)
  VALUES ((t->>'tenant')::int, (t->>'write')::int, of_key, new_id, new_value, (t->>'key')::uuid)
  ON CONFLICT (scope_id, key_hash, tenant_id) DO UPDATE SET value = EXCLUDED.value, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp()
  RETURNING * INTO m;
  RETURN jsonb_build_object('id', m.id, 'createdAt', m.created_at, 'updatedAt', m.updated_at);
END $$;

--> statement-breakpoint
-- src/db/sql/3_upkeep/2_forget.sql
-- What a forget needs beyond deleting rows through the builder.

-- Takes what was asked out of refused attempts: they keep who and when, but what was asked names the
-- scope, wherever it was asked from. Gives how many of the target's own; the rest is not the caller's to know.
CREATE OR REPLACE FUNCTION scopefloor.redact_denials(erased jsonb, ids int[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  denials int;
BEGIN
  SELECT count(*) INTO denials FROM scopefloor.access_denied WHERE asked IS NOT NULL AND scope_id = ANY (ids);
  UPDATE scopefloor.access_denied SET asked = NULL
  WHERE asked IS NOT NULL AND (scope_id = ANY (ids) OR (erased <> '{}' AND EXISTS (
    SELECT 1 FROM jsonb_array_elements(CASE jsonb_typeof(asked) WHEN 'array' THEN asked ELSE '[]' END) clause
    WHERE access_denied.floor || (clause->'tags') @> erased OR clause->'tags' @> erased)));
  RETURN denials;
END $$;

-- Puts the dictionary's markers where records name scopes that are gone.
CREATE OR REPLACE FUNCTION scopefloor.mark_records(erased jsonb, ids int[], gone int[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
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
END $$;

-- Takes the text out of the traces and denials of the ticket's subtree, drops its stored answers
-- and replaces the tags of its scopes by an erased marker. The numbers stay, for billing.
-- A scope that is the floor of a live key keeps its tags: that key still names it.
-- Gives the counts by table.
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
  denials := scopefloor.redact_denials(erased, ids);
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
  PERFORM scopefloor.mark_records(erased, ids, gone);
  -- A tenant's name goes with its root, and its secret with it: one that comes under the same name is another. Who makes a scope
  -- of this tenant holds its row (ensure_tenant): after the wait that scope is seen.
  PERFORM 1 FROM scopefloor.tenant t
  WHERE t.id IN (SELECT s.tenant_id FROM scopefloor.scope s WHERE s.id = ANY (gone)) AND t.id <> 0 ORDER BY t.id FOR UPDATE;
  UPDATE scopefloor.tenant t
  SET root = jsonb_build_object('!erased', t.id::text),
      secret = sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
  WHERE t.id <> 0 AND EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.id = ANY (gone) AND s.tenant_id = t.id)
    AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.tenant_id = t.id AND s.tags ? 'org');
  INSERT INTO scopefloor.erasure (hash, at) VALUES (scopefloor.scope_hash(erased), clock_timestamp());
  UPDATE scopefloor.scope SET epoch = epoch + 1, display_name = NULL, description = NULL WHERE id = ANY (ids);
  RETURN jsonb_build_object('traces', traces, 'idempotency', answers, 'denials', denials, 'scopes', cardinality(gone), 'jobs', jobs);
END $$;

-- Drops the cached answers that have seen a scope which is being changed, in the transaction that changes
-- it. They hold ids and no text, and none would be given again; but the digest of a question stays no
-- longer than what it found. Stored answers of these scopes that name no row of theirs are emptied: they
-- may be about what goes (a file's hash, a scope's name). The key stays claimed, and its request is not
-- done again (claim_idempotency).
CREATE OR REPLACE FUNCTION scopefloor.drop_cached_answers() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- (An erasure deletes them all: retire_scopes.)
  IF t->>'mode' <> 'erase' THEN
    UPDATE scopefloor.idempotency i SET answer = NULL
    WHERE i.scope_id = ANY (scopefloor.ids_in(t->'modify')) AND i.answer IS NOT NULL AND i.row_ids = '{}';
  END IF;
  IF (t->'modify'->>'all')::bool THEN
    DELETE FROM scopefloor.response_cache;
    RETURN;
  END IF;
  -- One that another forget is deleting just now is no reason to wait for it.
  DELETE FROM scopefloor.response_cache r USING (
    SELECT o.scope_id, o.digest FROM scopefloor.response_cache o WHERE o.scope_ids && scopefloor.ids_in(t->'modify') FOR UPDATE SKIP LOCKED) gone
  WHERE r.scope_id = gone.scope_id AND r.digest = gone.digest;
END $$;

-- Records in its own transaction what a forget or a deletion took: `taken` has the ids by kind, `given`
-- the numbers, which are ones that a reader of JSON has too. Whose, where, when and about which scope is the ticket's to say.
CREATE OR REPLACE FUNCTION scopefloor.write_receipt(of_policy text, of_action text, with_subtree bool, given jsonb, taken jsonb) RETURNS uuid
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
     OR EXISTS (SELECT 1 FROM jsonb_each(given) n WHERE n.key !~ '^[a-zA-Z_]{1,40}$'
                OR CASE jsonb_typeof(n.value) WHEN 'number' THEN n.value::numeric <> trunc(n.value::numeric) OR n.value::numeric NOT BETWEEN 0 AND 9007199254740991 ELSE true END)
     OR EXISTS (SELECT 1 FROM jsonb_object_keys(taken) kind WHERE kind NOT IN (
       'passages', 'turns', 'facts', 'items', 'contents', 'sessions', 'documents', 'entities', 'sections', 'titles', 'sources')) THEN
    RAISE EXCEPTION 'scopefloor: not a receipt' USING ERRCODE = 'check_violation';
  END IF;
  -- An erasure's target says all of it.
  IF t->>'mode' <> 'erase' THEN
    SELECT coalesce(jsonb_object_agg(k.key, (SELECT jsonb_agg((i.value #>> '{}')::uuid) FROM jsonb_array_elements(k.value) i)), '{}') INTO ids
    FROM jsonb_each(taken) k WHERE k.value <> '[]';
  END IF;
  INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, items, api_key_id)
  VALUES ((t->'trace'->>'tenant')::int, (t->'trace'->>'id')::int, new_id,
          CASE t->>'mode' WHEN 'erase' THEN jsonb_build_object('!digest', scopefloor.scope_digest(t->'target'))
                          WHEN 'forget' THEN t->'target' ELSE t->'trace'->'tags' END,
          with_subtree, of_action, of_policy, given, ids, (t->>'key')::uuid);
  RETURN new_id;
END $$;

--> statement-breakpoint
-- The rows that are there: the hashes of their words, as the role that row security lets through.
SET LOCAL ROLE scopefloor_definer;
DO $$
DECLARE
  t record;
BEGIN
  FOR t IN SELECT * FROM (VALUES
    ('entity', 'name_hash', 'scopefloor.entity_word(r.type, r.name)'), ('attribute', 'key_hash', 'r.key'), ('relation', 'key_hash', 'r.key'),
    ('memory_item', 'key_hash', 'r.key'), ('keyword', 'normalised_hash', 'r.normalised'), ('document', 'content_key', 'r.content_hash'),
    ('chunk_band', 'band', 'r.bits::text')) w(name, hash, word)
  LOOP
    EXECUTE format($update$
      UPDATE scopefloor.%I r SET %I = scopefloor.word_hash(CASE WHEN r.scope_id = 0 THEN sha256(k.secret || '\x67656e6572616c') ELSE k.secret END, %s)
      FROM scopefloor.tenant k WHERE k.id = r.tenant_id$update$, t.name, t.hash, t.word);
  END LOOP;
END $$;
SET LOCAL ROLE NONE;
--> statement-breakpoint
ALTER TABLE "scopefloor"."keyword" ALTER "normalised_hash" SET NOT NULL, ADD CONSTRAINT "keyword_scope_id_document_id_normalised_hash_tenant_id_pk" PRIMARY KEY("scope_id","document_id","normalised_hash","tenant_id");
ALTER TABLE "scopefloor"."memory_item" ALTER "key_hash" SET NOT NULL, ADD CONSTRAINT "memory_item_scope_id_key_hash_tenant_id_pk" PRIMARY KEY("scope_id","key_hash","tenant_id");
ALTER TABLE "scopefloor"."chunk_band" DROP COLUMN "bits", ALTER "band" SET NOT NULL, ADD CONSTRAINT "chunk_band_scope_id_band_passage_id_tenant_id_pk" PRIMARY KEY("scope_id","band","passage_id","tenant_id");
ALTER TABLE "scopefloor"."keyword" ALTER "normalised" RESET (n_distinct);
ALTER TABLE "scopefloor"."attribute" ALTER "key_hash" SET NOT NULL;
ALTER TABLE "scopefloor"."relation" ALTER "key_hash" SET NOT NULL;
ALTER TABLE "scopefloor"."entity" ALTER "name_hash" SET NOT NULL, ADD CONSTRAINT "entity_name" UNIQUE("scope_id","name_hash","tenant_id");
ALTER TABLE "scopefloor"."document" ADD CONSTRAINT "document_hash" UNIQUE("scope_id","content_key","tenant_id");
CREATE INDEX "keyword_normalised" ON "scopefloor"."keyword" USING btree ("scope_id","normalised_hash");
CREATE INDEX "attribute_key" ON "scopefloor"."attribute" USING btree ("scope_id","entity_id","key_hash");
CREATE INDEX "relation_key" ON "scopefloor"."relation" USING btree ("scope_id","entity_id","key_hash");
--> statement-breakpoint
-- src/db/sql/4_tables.sql
-- What tables need beyond their definitions in src/db/tables: indexes that drizzle cannot say, the
-- planner's statistics, the rest partition, first rows, triggers.

-- Covering, so that ranking is an index-only scan.
CREATE UNIQUE INDEX IF NOT EXISTS posting_key ON scopefloor.posting (scope_id, lexeme, passage_id) INCLUDE (tf, lexemes, tenant_id);
-- Holds all that a ranking by codes reads, a tenth of the vectors' size.
CREATE INDEX IF NOT EXISTS passage_code ON scopefloor.passage (scope_id, embedder_id) INCLUDE (id, code, tenant_id) WHERE expired_at IS NULL AND code IS NOT NULL;
-- Names are unique per parent, so that a name tells nothing about another tenant's keys.
CREATE UNIQUE INDEX IF NOT EXISTS api_key_name ON scopefloor.api_key (parent_id, name) NULLS NOT DISTINCT WHERE revoked_at IS NULL;
-- One embedding round waits for a scope at a time.
CREATE UNIQUE INDEX IF NOT EXISTS job_embed ON scopefloor.job (scope_id, tenant_id) WHERE kind = 'embed' AND state = 'queued';

-- Nothing is lost while no partition exists for a month: it goes here, and the worker moves it.
CREATE TABLE IF NOT EXISTS scopefloor.decision_trace_rest PARTITION OF scopefloor.decision_trace DEFAULT;

-- The planner's statistics would keep samples of forgotten text and of tenants' names. The catalog
-- audit (src/verify) names every column of text that is not here.
DO $$
DECLARE
  t text;
  c text;
BEGIN
  FOR t, c IN SELECT listed.t, unnest(listed.columns) FROM (VALUES
    ('tenant', '{root}'::text[]),
    ('scope', '{tags,display_name,description}'),
    ('api_key', '{name,floor}'),
    ('session', '{metadata}'),
    ('turn', '{content}'),
    ('passage', '{text,labels,embedding,code,section}'),
    ('posting', '{lexeme}'),
    ('document', '{title,source,content_hash,labels,error}'),
    ('document_content', '{bytes}'),
    ('keyword', '{normalised,phrase}'),
    ('entity', '{name,type}'),
    ('attribute', '{key,value}'),
    ('relation', '{key}'),
    ('memory_item', '{key,value}'),
    ('idempotency', '{endpoint,key,answer}'),
    ('response_cache', '{answer,digest,version,scope_ids}'),
    ('decision_trace', '{query,error,scope}'),
    ('access_denied', '{asked,floor}'),
    ('forget_receipt', '{target,items}'),
    ('audit_entry', '{leaf,text_hash,salt}')) listed(t, columns)
  LOOP
    EXECUTE format('ALTER TABLE scopefloor.%I ALTER %I SET STATISTICS 0', t, c);
  END LOOP;
END $$;
-- Without a sample the planner would take 200 distinct values for the whole table.
ALTER TABLE scopefloor.posting ALTER lexeme SET (n_distinct = -0.02);
ALTER TABLE scopefloor.keyword ALTER normalised_hash SET (n_distinct = -0.2);
ALTER TABLE scopefloor.chunk_band ALTER band SET (n_distinct = -0.9);
-- Files are compressed already, or read once: not worth the time of compressing them again.
ALTER TABLE scopefloor.document_content ALTER bytes SET STORAGE EXTERNAL;

-- General knowledge, and the tenant of what has no `org`.
INSERT INTO scopefloor.tenant (id, root) VALUES (0, '{}') ON CONFLICT DO NOTHING;
INSERT INTO scopefloor.scope (id, tenant_id, tags) VALUES (0, 0, '{}') ON CONFLICT DO NOTHING;

-- What words are looked up by follows them (1_access/9_words.sql).
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF name, type, name_hash ON scopefloor.entity FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF key, key_hash ON scopefloor.attribute FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF key, key_hash ON scopefloor.relation FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF key, key_hash ON scopefloor.memory_item FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF normalised, normalised_hash ON scopefloor.keyword FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF content_hash, content_key ON scopefloor.document FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();

-- A code follows its vector, whoever writes it.
CREATE OR REPLACE TRIGGER set_code BEFORE INSERT OR UPDATE OF embedding, embedder_id, code ON scopefloor.passage
  FOR EACH ROW EXECUTE FUNCTION scopefloor.set_code();

-- Counters are appended by statement triggers, so that no path that adds or removes passages can
-- forget them. (Updating one dictionary row per write cut throughput to a third and deadlocked.)
CREATE OR REPLACE TRIGGER passages_added AFTER INSERT ON scopefloor.passage
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.count_passages();
CREATE OR REPLACE TRIGGER passages_removed AFTER DELETE ON scopefloor.passage
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.count_passages();
CREATE OR REPLACE TRIGGER passages_changed AFTER UPDATE ON scopefloor.passage
  REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.count_passages();

-- What the journal keeps of a key (3_upkeep/3_replay.sql).
CREATE OR REPLACE TRIGGER note_key_change BEFORE UPDATE ON scopefloor.api_key FOR EACH ROW
  WHEN ((OLD.secret_hash, OLD.verbs, OLD.floor, OLD.content, OLD.expires_at, OLD.revoked_at)
        IS DISTINCT FROM (NEW.secret_hash, NEW.verbs, NEW.floor, NEW.content, NEW.expires_at, NEW.revoked_at))
  EXECUTE FUNCTION scopefloor.note_key_change();

-- The audit chain (3_upkeep/4_audit_chain.sql).
CREATE OR REPLACE TRIGGER note_audit AFTER INSERT ON scopefloor.decision_trace
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_audit('trace');
CREATE OR REPLACE TRIGGER note_audit AFTER INSERT ON scopefloor.access_denied
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_audit('denial');
CREATE OR REPLACE TRIGGER note_audit AFTER INSERT ON scopefloor.forget_receipt
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_audit('receipt');
CREATE OR REPLACE TRIGGER note_audited_items AFTER INSERT ON scopefloor.forget_receipt
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_audit('receipt items');
CREATE OR REPLACE TRIGGER erase_audited AFTER UPDATE ON scopefloor.decision_trace
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.erase_audited('trace');
CREATE OR REPLACE TRIGGER erase_audited AFTER UPDATE ON scopefloor.access_denied
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.erase_audited('denial');
CREATE OR REPLACE TRIGGER erase_audited AFTER UPDATE ON scopefloor.forget_receipt
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.erase_audited('receipt');

SELECT scopefloor.ensure_trace_partition(current_date), scopefloor.ensure_trace_partition((current_date + interval '1 month')::date);
SELECT scopefloor.rotate_ticket_secret() WHERE NOT EXISTS (SELECT 1 FROM scopefloor.ticket_secret);

--> statement-breakpoint
-- src/db/sql/5_policies.sql
-- The second lock's table of contents: row security on every table, and who may do what to which rows.
--
-- A role that has a privilege (6_privileges.sql) and no policy for the command reaches no row. Except
-- for may_add_turn and may_record, which are asked for each row that is inserted, what a policy asks
-- for is an uncorrelated sub-select: evaluated once per statement, and the one behind an OR only when a row fails what stands before it, which with the builder's own
-- predicate none does. That predicate, on the same column, is what the indexes serve.
DO $$
DECLARE
  p record;
  -- Rows at a scope: listed in the ticket, or all of them for a floor of {} that views everything.
  knowledge  constant text := 'scope_id = ANY ((SELECT scopefloor.readable())::int[]) OR (SELECT scopefloor.reads_all())';
  own        constant text := 'scope_id = ANY ((SELECT scopefloor.readable_own())::int[]) OR (SELECT scopefloor.reads_all())';
  listed     constant text := 'scope_id = ANY ((SELECT scopefloor.listable())::int[]) OR (SELECT scopefloor.lists_all())';
  modifiable constant text := 'scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all())';
  forgotten  constant text := format('(SELECT scopefloor.forgets()) AND (%s)', modifiable);
  deleted    constant text := format('(SELECT scopefloor.deletes()) AND (%s)', modifiable);
  written    constant text := 'scope_id = (SELECT scopefloor.insertable()) AND tenant_id = (SELECT scopefloor.insertable_tenant())';
  by_caller  constant text := written || ' AND api_key_id = (SELECT scopefloor.caller())';
  app        constant text := 'scopefloor_app';
  service    constant text := 'scopefloor_app, scopefloor_worker'; -- inside a job the worker is bound like the application
BEGIN
  FOR p IN SELECT polname AS name, polrelid::regclass AS at FROM pg_policy
           WHERE polrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace) LOOP
    EXECUTE format('DROP POLICY %I ON %s', p.name, p.at);
  END LOOP;

  -- FORCE binds the owner too: the definer functions run as a role with policies of its own.
  FOR p IN SELECT c.oid::regclass AS at, c.relispartition AS is_partition FROM pg_class c
           WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'migration' LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', p.at);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', p.at);
    IF NOT p.is_partition THEN -- a partition is reached through its parent alone
      EXECUTE format('CREATE POLICY definer ON %s TO scopefloor_definer USING (true) WITH CHECK (true)', p.at);
    END IF;
  END LOOP;

  FOR p IN SELECT * FROM (VALUES
    -- table, policy, command, roles, rows that are reached, rows that may be the result
    ('scope', 'read', 'SELECT', app,
     'id = ANY ((SELECT scopefloor.listable())::int[]) OR (SELECT scopefloor.lists_all())'
     || ' OR id = (SELECT scopefloor.insertable())' -- a key that only writes knows the scope it writes to
     || ' OR (id = 0 AND (SELECT scopefloor.caller()) IS NOT NULL)', NULL), -- the row of {} says nothing
    ('scope', 'change', 'UPDATE', app, 'id = (SELECT scopefloor.insertable())', 'id = (SELECT scopefloor.insertable())'),
    ('scope_counter', 'read', 'SELECT', app, knowledge, NULL),
    ('embedder', 'read', 'SELECT', service, 'true', NULL), -- models, no tenant's data

    ('session', 'read', 'SELECT', app, own, NULL),
    ('session', 'write', 'INSERT', app, NULL, by_caller),
    ('session', 'change', 'UPDATE', app, modifiable, modifiable),
    ('session', 'remove', 'DELETE', app, forgotten, NULL),
    ('turn', 'read', 'SELECT', app, own, NULL),
    ('turn', 'write', 'INSERT', app, NULL, by_caller || ' AND scopefloor.may_add_turn(scope_id, session_id)'),
    ('turn', 'change', 'UPDATE', app, modifiable, modifiable),
    ('turn', 'remove', 'DELETE', app, forgotten, NULL),

    ('passage', 'read', 'SELECT', service, knowledge, NULL),
    ('passage', 'write', 'INSERT', service, NULL, by_caller),
    ('passage', 'change', 'UPDATE', service, modifiable, modifiable),
    ('passage', 'remove', 'DELETE', service, deleted, NULL),
    ('posting', 'read', 'SELECT', service, knowledge, NULL),
    ('posting', 'write', 'INSERT', service, NULL, written),
    ('posting', 'change', 'UPDATE', service, modifiable, modifiable),
    ('posting', 'remove', 'DELETE', service, deleted, NULL),

    ('document', 'read', 'SELECT', service, knowledge, NULL), -- written by add_document and replace_document
    ('document', 'change', 'UPDATE', service, modifiable, modifiable),
    ('document', 'remove', 'DELETE', service, deleted, NULL),
    ('document_content', 'read', 'SELECT', service, knowledge, NULL),
    ('document_content', 'write', 'INSERT', service, NULL, written),
    ('document_content', 'remove', 'DELETE', service, deleted, NULL),
    ('keyword', 'read', 'SELECT', service, knowledge, NULL),
    ('keyword', 'write', 'INSERT', service, NULL, written),
    ('keyword', 'remove', 'DELETE', service, deleted, NULL),
    ('document_link', 'read', 'SELECT', service, knowledge, NULL),
    ('document_link', 'write', 'INSERT', service, NULL, written),
    ('document_link', 'remove', 'DELETE', service, deleted, NULL),
    ('chunk_band', 'read', 'SELECT', service, knowledge, NULL),
    ('chunk_band', 'write', 'INSERT', service, NULL, written),
    ('chunk_band', 'remove', 'DELETE', service, deleted, NULL),

    ('entity', 'read', 'SELECT', service, knowledge, NULL), -- written by put_triples
    ('entity', 'remove', 'DELETE', service, deleted, NULL),
    ('attribute', 'read', 'SELECT', service, knowledge, NULL),
    ('attribute', 'change', 'UPDATE', service, modifiable, modifiable),
    ('attribute', 'remove', 'DELETE', service, deleted, NULL),
    ('relation', 'read', 'SELECT', service, knowledge, NULL),
    ('relation', 'change', 'UPDATE', service, modifiable, modifiable),
    ('relation', 'remove', 'DELETE', service, deleted, NULL),
    ('memory_item', 'read', 'SELECT', service, knowledge, NULL), -- written by put_item
    ('memory_item', 'remove', 'DELETE', service, deleted, NULL),

    ('forget_receipt', 'read', 'SELECT', app, listed, NULL), -- written by write_receipt
    ('access_denied', 'read', 'SELECT', app, listed, NULL), -- written by record_denial
    ('decision_trace', 'read', 'SELECT', app,
     format('(%s) AND ((SELECT scopefloor.caller_principal()) <> ''agent'' OR api_key_id = (SELECT scopefloor.caller()))', own), NULL),
    -- A trace says whose it is and for which scope, and is of now; none of it can be made up.
    ('decision_trace', 'write', 'INSERT', service, NULL,
     'scopefloor.may_record(scope_id, tenant_id, scope, api_key_id, principal) AND created_at = transaction_timestamp()'),
    ('decision_trace', 'report', 'SELECT', 'scopefloor_report', 'true', NULL)
    ) rule(at, name, command, roles, reached, result)
  LOOP
    EXECUTE format('CREATE POLICY %I ON scopefloor.%I FOR %s TO %s', p.name, p.at, p.command, p.roles)
      || coalesce(' USING (' || p.reached || ')', '') || coalesce(' WITH CHECK (' || p.result || ')', '');
  END LOOP;
END $$;

--> statement-breakpoint
-- src/db/sql/6_privileges.sql
-- Who may touch which table and call which function. Nothing is open to PUBLIC, and what is not
-- granted here is reached through definer functions, which check the ticket.

REVOKE ALL ON ALL TABLES IN SCHEMA scopefloor FROM PUBLIC, scopefloor_app, scopefloor_worker, scopefloor_report, scopefloor_definer;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA scopefloor FROM PUBLIC, scopefloor_app, scopefloor_worker, scopefloor_report, scopefloor_definer;

-- The definer functions.
DO $$
DECLARE
  t record;
BEGIN
  -- Grants go to a partitioned table, never to a partition.
  FOR t IN SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace
           AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT IN ('migration', 'audit_entry', 'audit_batch') LOOP
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO scopefloor_definer', t.name);
  END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON scopefloor.audit_entry, scopefloor.audit_batch TO scopefloor_definer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA scopefloor TO scopefloor_definer;

-- The application. tenant_id and scope_id are in none of these lists: a row cannot be moved.
GRANT SELECT ON scopefloor.scope, scopefloor.scope_counter, scopefloor.embedder, scopefloor.session, scopefloor.turn,
  scopefloor.passage, scopefloor.posting, scopefloor.document, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band, scopefloor.entity, scopefloor.attribute, scopefloor.relation,
  scopefloor.memory_item, scopefloor.forget_receipt, scopefloor.access_denied, scopefloor.decision_trace TO scopefloor_app;
GRANT INSERT ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.posting, scopefloor.document_content,
  scopefloor.keyword, scopefloor.document_link, scopefloor.chunk_band, scopefloor.decision_trace TO scopefloor_app;
GRANT DELETE ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.posting, scopefloor.document,
  scopefloor.document_content, scopefloor.keyword, scopefloor.document_link, scopefloor.chunk_band, scopefloor.entity,
  scopefloor.attribute, scopefloor.relation, scopefloor.memory_item TO scopefloor_app;
GRANT UPDATE (display_name, description, tombstoned_at) ON scopefloor.scope TO scopefloor_app;
GRANT UPDATE (closed_at, metadata) ON scopefloor.session TO scopefloor_app;
GRANT UPDATE (expired_at) ON scopefloor.turn TO scopefloor_app;
GRANT UPDATE (expired_at, embedding, embedder_id) ON scopefloor.passage TO scopefloor_app;
GRANT UPDATE (section) ON scopefloor.passage TO scopefloor_app; -- a heading may name what is forgotten
GRANT UPDATE (expired_at, closed_at) ON scopefloor.attribute, scopefloor.relation TO scopefloor_app;
GRANT UPDATE (status, error, ready_version, content_hash, title, source, updated_at, processing_started_at, processing_completed_at)
  ON scopefloor.document TO scopefloor_app, scopefloor_worker;

-- The worker, inside a job.
GRANT SELECT, INSERT, DELETE ON scopefloor.passage, scopefloor.posting, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band TO scopefloor_worker;
GRANT SELECT, DELETE ON scopefloor.document, scopefloor.entity, scopefloor.attribute, scopefloor.relation, scopefloor.memory_item
  TO scopefloor_worker;
GRANT UPDATE (embedding, embedder_id) ON scopefloor.passage TO scopefloor_worker;
GRANT SELECT ON scopefloor.embedder TO scopefloor_worker;
GRANT INSERT ON scopefloor.decision_trace TO scopefloor_worker;

-- Reports: every column of a trace but query, sources and error.
GRANT SELECT (id, created_at, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, on_behalf_of, session_id, parent_id, tier,
              tier_reason, candidates, returned, provider, model, input_tokens, output_tokens, embedding_tokens, total_tokens,
              cost_usd, duration_ms, status, token_source, saved_tokens, plan)
  ON scopefloor.decision_trace TO scopefloor_report;
GRANT SELECT ON scopefloor.usage_by_scope, scopefloor.usage_by_day TO scopefloor_report;

-- Readiness asks whether the database is at the code's version.
GRANT SELECT ON scopefloor.migration TO scopefloor_app, scopefloor_worker;

-- Functions. The list is src/db/access/definers.ts, filled in here by the script that writes
-- migrations: {function: roles}, where `owner` is the migrations' own login. A definer function with an
-- empty list is for other definer functions alone.
GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer; -- a new owner needs it
DO $$
DECLARE
  callers constant jsonb := '{"add_document":["app"],"audit_evidence":["app"],"authenticate":[],"begin_replay":["owner"],"cache_answer":["app"],"caller":["app","worker"],"caller_principal":["app"],"check_audit":["owner"],"check_unchained":["owner"],"claim_idempotency":["app"],"configure_context":["app"],"context_created_at":["app"],"count_passages":[],"deletes":["app","worker"],"descends_from":[],"drop_cached_answers":["app"],"embedders_in_use":["app"],"end_replay":["owner"],"enqueue":["app","worker"],"ensure_context":["owner"],"ensure_embedder":[],"ensure_entity":[],"ensure_scope":[],"ensure_tenant":[],"entity_hash":[],"enter":["app"],"enter_job":["worker"],"erase_audited":[],"extend_job":["worker"],"finish_job":["worker"],"fold_counters":["worker"],"forgets":["app"],"has_first_key":[],"has_work":["app"],"hides_scopes":["app"],"hold_scope":[],"ids_in":[],"insertable":["app","worker"],"insertable_tenant":["app","worker"],"issue_ticket":[],"journal_lines":["owner"],"key_row":[],"key_ticket":[],"known_key":["app"],"known_keys":["app"],"knows_lines":["app"],"list_keys":["app"],"listable":["app"],"lookup_hashes":["app","worker"],"lists_all":["app"],"live_key":[],"may_add_turn":["app"],"may_record":["app","worker"],"mark_records":[],"mint_key":["app"],"modifiable":["app","worker"],"modifies_all":["app","worker"],"own_share_group":["app"],"named_key":[],"named_scopes":["owner"],"narrow_key":["app"],"note_audit":[],"note_replayed":["owner"],"note_vector_index":["worker"],"order_embedding":["app"],"own_keys":["app"],"pending_documents":["app"],"permit":[],"postpone_job":["worker"],"principal_of":["app"],"purge_old":["worker"],"put_attribute":[],"put_item":["app"],"put_relation":[],"put_triples":["app"],"queue_depth":["app","worker"],"reach_of":[],"readable":["app","worker"],"readable_own":["app"],"reads_all":["app","worker"],"recall_state":["app"],"record_denial":["app"],"recover_first_key":["owner"],"recover_jobs":["worker"],"redact_denials":[],"register_embedder":["owner"],"relink_documents":["app"],"replace_document":["app"],"requeue_job":[],"reserve_turns":["app"],"resolve_clauses":[],"resolve_place":[],"retire_fact":[],"retire_scopes":["app"],"revoke_key":["app"],"rotate_key":["app"],"rotate_ticket_secret":["owner"],"rows_are_there":[],"scope_hash":[],"seal_audit":["worker"],"set_first_key":["owner"],"set_lookup":[],"sign_ticket":[],"store_answer":["app"],"stored_answer":["app"],"take_job":["worker"],"ticket":[],"touch_key":["app"],"share_group_of":[],"unknown_lines":["owner"],"usage":["app"],"vector_index_work":["worker"],"was_erased":[],"write_receipt":["app"],"word_secret":[],"write_ticket":[]}';
  f record;
  grantee text;
BEGIN
  FOR f IN SELECT p.oid::regprocedure AS signature, p.prosecdef AS is_definer, p.proname AS name, p.proowner
           FROM pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, scopefloor_app, scopefloor_worker, scopefloor_report', f.signature);
    IF NOT f.is_definer THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO scopefloor_definer', f.signature);
      CONTINUE;
    END IF;
    IF f.proowner <> 'scopefloor_definer'::regrole THEN
      EXECUTE format('ALTER FUNCTION %s OWNER TO scopefloor_definer', f.signature);
    END IF;
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %I', f.signature, current_user); -- what it was granted before
    FOR grantee IN SELECT jsonb_array_elements_text(callers->f.name) LOOP
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.signature, CASE grantee WHEN 'owner' THEN current_user ELSE 'scopefloor_' || grantee END);
    END LOOP;
  END LOOP;
END $$;
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
