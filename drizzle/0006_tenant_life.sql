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
-- new version of the server has it.
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
                         'pg_terminate_backend', 'pg_cancel_backend', 'pg_logical_emit_message')
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
    WHERE p.proleakproof AND p.pronamespace = 'pg_catalog'::regnamespace
      AND p.proargtypes::oid[] && ARRAY['text', 'varchar', 'bpchar', 'bytea', 'bit', 'varbit']::regtype[]::oid[]
  LOOP
    EXECUTE format('ALTER FUNCTION %s NOT LEAKPROOF', f.signature);
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not a superuser: what PostgreSQL grants to PUBLIC stays open (docs/security.md)';
END $$;
SELECT scopefloor.close_side_channels();

-- A time as the API gives it.
CREATE OR REPLACE FUNCTION scopefloor.rfc3339(at_time timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT to_char(at_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') $$;

--> statement-breakpoint
CREATE TABLE "scopefloor"."erasing" (
	"run_id" uuid PRIMARY KEY NOT NULL,
	"hash" bigint NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."forget_run" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"source" text NOT NULL,
	"rule_id" uuid NOT NULL,
	"tick" timestamp with time zone NOT NULL,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"action" text NOT NULL,
	"subtree" boolean NOT NULL,
	"dry_run" boolean NOT NULL,
	"selector" jsonb NOT NULL,
	"state" text DEFAULT 'queued' NOT NULL,
	"counts" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"after_scope" integer DEFAULT -1 NOT NULL,
	"is_careful" boolean DEFAULT false NOT NULL,
	"is_swept" boolean DEFAULT false NOT NULL,
	"receipt_id" uuid,
	"error" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp with time zone,
	"finished_at" timestamp with time zone,
	CONSTRAINT "forget_run_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "forget_run_once" UNIQUE("scope_id","rule_id","tick","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."forget_schedule" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"name" text DEFAULT '' NOT NULL,
	"subtree" boolean NOT NULL,
	"cron" text NOT NULL,
	"timezone" text NOT NULL,
	"selector" jsonb NOT NULL,
	"action" text NOT NULL,
	"dry_run" boolean NOT NULL,
	"paused" boolean NOT NULL,
	"next_run" timestamp with time zone,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "forget_schedule_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."legal_hold" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"subject" text,
	"words" text[],
	"document_id" uuid,
	"reason" text NOT NULL,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "legal_hold_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."receipt_key" (
	"id" text PRIMARY KEY NOT NULL,
	"jwk" jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."retention_rule" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"kind" text NOT NULL,
	"older_than" text NOT NULL,
	"since" text NOT NULL,
	"action" text NOT NULL,
	"is_maximum" boolean NOT NULL,
	"next_run" timestamp with time zone DEFAULT now() NOT NULL,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "retention_rule_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "retention_rule_of" UNIQUE("scope_id","kind","action","is_maximum","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."scope_credential" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"provider" text NOT NULL,
	"base_url" text,
	"sealed" text NOT NULL,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "scope_credential_scope_id_provider_tenant_id_pk" PRIMARY KEY("scope_id","provider","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."scope_setting" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"name" text NOT NULL,
	"value" jsonb NOT NULL,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "scope_setting_scope_id_name_tenant_id_pk" PRIMARY KEY("scope_id","name","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."template" (
	"name" text NOT NULL,
	"version" integer NOT NULL,
	"body" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "template_name_version_pk" PRIMARY KEY("name","version")
);
--> statement-breakpoint
ALTER TABLE "scopefloor"."document" ADD COLUMN "charset" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."document" ADD COLUMN "reading" jsonb DEFAULT '{}'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."api_key" ADD COLUMN "default_view" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."turn" ADD COLUMN "corrected_id" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."job" ADD COLUMN "run_id" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."forget_receipt" ADD COLUMN "selector" jsonb;--> statement-breakpoint
ALTER TABLE "scopefloor"."forget_receipt" ADD COLUMN "jws" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "name" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "template" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "template_version" integer;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "is_provisioned" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "state" text DEFAULT 'active' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "leaves_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "leaving_by" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."memory_item" ADD COLUMN "version" integer DEFAULT 1 NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."memory_item" ADD COLUMN "expires_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."memory_item" ADD COLUMN "ttl_seconds" integer;--> statement-breakpoint
ALTER TABLE "scopefloor"."memory_item" ADD COLUMN "refresh_on_read" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."memory_item" ADD COLUMN "indexed" text[];--> statement-breakpoint
CREATE INDEX "erasing_hash" ON "scopefloor"."erasing" USING btree ("hash");--> statement-breakpoint
CREATE INDEX "forget_run_id" ON "scopefloor"."forget_run" USING btree ("id");--> statement-breakpoint
CREATE INDEX "forget_run_over" ON "scopefloor"."forget_run" USING btree ("finished_at");--> statement-breakpoint
CREATE INDEX "forget_schedule_id" ON "scopefloor"."forget_schedule" USING btree ("id");--> statement-breakpoint
CREATE INDEX "forget_schedule_tenant" ON "scopefloor"."forget_schedule" USING btree ("tenant_id");--> statement-breakpoint
CREATE INDEX "forget_schedule_due" ON "scopefloor"."forget_schedule" USING btree ("next_run") WHERE NOT paused;--> statement-breakpoint
CREATE INDEX "legal_hold_id" ON "scopefloor"."legal_hold" USING btree ("id");--> statement-breakpoint
CREATE INDEX "legal_hold_tenant" ON "scopefloor"."legal_hold" USING btree ("tenant_id");--> statement-breakpoint
CREATE INDEX "retention_rule_tenant" ON "scopefloor"."retention_rule" USING btree ("tenant_id","kind");--> statement-breakpoint
CREATE INDEX "retention_rule_due" ON "scopefloor"."retention_rule" USING btree ("next_run");--> statement-breakpoint
CREATE INDEX "api_key_tenant" ON "scopefloor"."api_key" USING btree ("tenant_id");--> statement-breakpoint
CREATE INDEX "passage_expired" ON "scopefloor"."passage" USING btree ("scope_id","id") WHERE expired_at IS NOT NULL;--> statement-breakpoint
CREATE INDEX "turn_corrected" ON "scopefloor"."turn" USING btree ("scope_id","corrected_id") WHERE corrected_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX "tenant_leaving" ON "scopefloor"."tenant" USING btree ("leaves_at") WHERE state = 'leaving';--> statement-breakpoint
CREATE INDEX "tenant_kept_out" ON "scopefloor"."tenant" USING btree ("id") WHERE state <> 'active';--> statement-breakpoint
CREATE INDEX "memory_item_id" ON "scopefloor"."memory_item" USING btree ("id");--> statement-breakpoint
CREATE INDEX "memory_item_over" ON "scopefloor"."memory_item" USING btree ("expires_at") WHERE expires_at IS NOT NULL;--> statement-breakpoint
CREATE INDEX "usage_day_tenant" ON "scopefloor"."usage_day" USING btree ("tenant_id","day");
--> statement-breakpoint
DO $$
DECLARE
  p record;
BEGIN
  FOR p IN SELECT polname AS name, polrelid::regclass AS at FROM pg_policy
           WHERE polrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'scopefloor'::regnamespace) LOOP
    EXECUTE format('DROP POLICY %I ON %s', p.name, p.at);
  END LOOP;
END $$;
--> statement-breakpoint
DROP FUNCTION scopefloor.mint_key;
--> statement-breakpoint
DROP FUNCTION scopefloor.order_embedding;
--> statement-breakpoint
DROP FUNCTION scopefloor.record_lost_call;
--> statement-breakpoint
-- src/db/sql/1_access/2_tickets.sql
-- Tickets: what a transaction has entered for, in a setting of that transaction, signed with
-- HMAC-SHA-256 (RFC 2104). The pads are kept instead of the secret.

-- A new secret to sign with. Two are valid at a time: transactions that are open now keep theirs.
CREATE OR REPLACE FUNCTION scopefloor.rotate_ticket_secret() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  secret bytea := ''::bytea;
  inner_pad bytea;
  outer_pad bytea;
BEGIN
  FOR i IN 1..4 LOOP
    secret := secret || sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
  END LOOP;
  secret := substring(secret FROM 1 FOR 64); -- exactly one SHA-256 block: needs no padding
  inner_pad := secret;
  outer_pad := secret;
  FOR i IN 0..63 LOOP
    inner_pad := set_byte(inner_pad, i, get_byte(secret, i) # 54);
    outer_pad := set_byte(outer_pad, i, get_byte(secret, i) # 92);
  END LOOP;
  INSERT INTO scopefloor.ticket_secret (inner_pad, outer_pad) VALUES (inner_pad, outer_pad);
  DELETE FROM scopefloor.ticket_secret t
  WHERE t.id NOT IN (SELECT s.id FROM scopefloor.ticket_secret s ORDER BY s.id DESC LIMIT 2);
END $$;

-- For the functions that enter: who could call this could forge.
CREATE OR REPLACE FUNCTION scopefloor.sign_ticket(payload jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s scopefloor.ticket_secret;
BEGIN
  SELECT * INTO STRICT s FROM scopefloor.ticket_secret ORDER BY id DESC LIMIT 1;
  RETURN s.id || '.'
    || encode(sha256(s.outer_pad || sha256(s.inner_pad || convert_to(payload::text, 'UTF8'))), 'hex')
    || '.' || payload::text;
END $$;

-- The verified ticket of this transaction. NULL: there is none, so no rows. A ticket that is
-- malformed, forged, of another transaction or expired raises: a silent zero once let a DELETE
-- of nothing commit as a success.
CREATE OR REPLACE FUNCTION scopefloor.ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  raw text := current_setting('scopefloor.ticket', true);
  body text;
  payload jsonb;
  s scopefloor.ticket_secret;
BEGIN
  -- A custom setting is '' rather than NULL once a transaction that set it has ended.
  IF raw IS NULL OR raw = '' THEN
    RETURN NULL;
  END IF;
  IF raw !~ '^[0-9]{1,9}\.[0-9a-f]{64}\.\{' THEN
    RAISE EXCEPTION 'scopefloor: malformed ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  SELECT * INTO s FROM scopefloor.ticket_secret WHERE id = split_part(raw, '.', 1)::int;
  body := substring(raw FROM position('{' IN raw));
  IF s.id IS NULL OR split_part(raw, '.', 2)
     <> encode(sha256(s.outer_pad || sha256(s.inner_pad || convert_to(body, 'UTF8'))), 'hex') THEN
    RAISE EXCEPTION 'scopefloor: forged ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  payload := body::jsonb;
  IF (payload->>'pid')::int <> pg_backend_pid()
     OR (payload->>'began')::numeric <> extract(epoch FROM transaction_timestamp()) THEN
    RAISE EXCEPTION 'scopefloor: ticket of another transaction' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF (payload->>'until')::numeric < extract(epoch FROM clock_timestamp()) THEN
    RAISE EXCEPTION 'scopefloor: expired ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN payload;
END $$;

-- The ticket of a transaction that forgets.
CREATE OR REPLACE FUNCTION scopefloor.forget_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- The ticket of a call that manages keys: 'manage' for the management routes, 'self' for a key's own.
CREATE OR REPLACE FUNCTION scopefloor.key_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for keys' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- The management ticket of a key that may do all there is in its floor: what changes the Context, or makes
-- work for everybody in the floor, is no matter for one that has less. NULL otherwise.
CREATE OR REPLACE FUNCTION scopefloor.full_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
BEGIN
  IF t->>'verb' = 'manage' AND (t->>'content')::bool AND t->'verbs' @> '["memory:read", "memory:write", "memory:forget"]' THEN
    RETURN t;
  END IF;
  RETURN NULL;
END $$;

-- What a management key with less than that is answered.
CREATE OR REPLACE FUNCTION scopefloor.needs_every_right() RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT '{"status": "forbidden", "detail": "this needs a management key with content and the verbs memory:read, memory:write and memory:forget"}'::jsonb
$$;

-- The ticket of a job's transaction.
CREATE OR REPLACE FUNCTION scopefloor.job_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'job' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: not in a job' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- The ticket of a transaction that writes.
CREATE OR REPLACE FUNCTION scopefloor.write_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'write' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: no write ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
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

--> statement-breakpoint
-- src/db/sql/1_access/5_enter_steps.sql
-- The steps of scopefloor.enter (6_enter.sql): authenticate, permit, resolve_place, resolve_clauses,
-- reach_of, issue_ticket. They are for it and for enter_job alone: who could issue tickets could forge.

-- The live key with this hash. The table keeps the hash's own SHA-256. (In plpgsql because its plans
-- are kept: as a set-returning SQL function this took 0.23 ms instead of 0.03.)
CREATE OR REPLACE FUNCTION scopefloor.live_key(key_hash bytea) RETURNS scopefloor.api_key
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  presented bytea := sha256(key_hash);
  k scopefloor.api_key;
BEGIN
  SELECT * INTO k FROM scopefloor.api_key a
  WHERE a.secret_hash = presented
    AND a.revoked_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > clock_timestamp());
  IF k.id IS NULL THEN
    SELECT * INTO k FROM scopefloor.api_key a
    WHERE a.previous_hash = presented AND a.previous_until > clock_timestamp()
      AND a.revoked_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > clock_timestamp());
  END IF;
  RETURN k;
END $$;

-- Who calls: the key of this hash and, on behalf of another, that one too. The floor has the tags of
-- both; verbs and content are what both have. `refusal` is null, or what enter answers with.
CREATE OR REPLACE FUNCTION scopefloor.authenticate(key_hash bytea, on_behalf_of text, OUT k scopefloor.api_key, OUT other scopefloor.api_key,
                                                   OUT floor jsonb, OUT verbs text[], OUT content bool, OUT refusal jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- An empty or missing argument matches nothing.
  IF key_hash IS NULL OR octet_length(key_hash) <> 32 THEN
    refusal := '{"status": "unauthorized"}';
    RETURN;
  END IF;
  k := scopefloor.live_key(key_hash);
  IF k.id IS NULL THEN
    refusal := '{"status": "unauthorized"}';
    RETURN;
  END IF;
  floor := k.floor;
  verbs := k.verbs;
  content := k.content;
  IF on_behalf_of IS NULL THEN
    RETURN;
  END IF;
  IF on_behalf_of ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
    SELECT * INTO other FROM scopefloor.api_key a
    WHERE a.id = on_behalf_of::uuid AND a.revoked_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > clock_timestamp());
  END IF;
  -- One answer for an unknown id, for a contradiction, and for a floor without a tag in common (whose
  -- tags the answer would tell): the id tells nothing.
  IF other.id IS NULL OR NOT scopefloor.are_related(floor, other.floor) OR scopefloor.contradicts(floor, other.floor) OR scopefloor.tag_count(floor || other.floor) > 8 THEN
    refusal := jsonb_build_object('status', 'scope-floor', 'detail', 'the key cannot act on behalf of that principal');
    RETURN;
  END IF;
  floor := floor || other.floor;
  verbs := ARRAY(SELECT unnest(verbs) INTERSECT SELECT unnest(other.verbs) ORDER BY 1);
  content := content AND other.content;
END $$;

-- What a key sees where a request does not say: between its floor and there, or all below as well.
CREATE OR REPLACE FUNCTION scopefloor.default_view_of(k scopefloor.api_key) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(k.default_view, CASE WHEN k.principal = 'agent' THEN 'strict' ELSE 'subtree' END)
$$;

-- The matrix of principals and verbs: null, or why not.
CREATE OR REPLACE FUNCTION scopefloor.permit(principal text, other_principal text, verbs text[], content bool, verb text, mode text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- NULL is none of them: with it no condition below would hold.
  IF verb IS NULL OR verb NOT IN ('memory:read', 'memory:write', 'memory:forget', 'usage:read', 'manage', 'self') OR mode IS NULL
     OR mode NOT IN ('check', 'select', 'id', 'write', 'modify', 'delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor.enter: unknown verb % or mode %', verb, mode;
  END IF;
  IF verb = 'manage' AND (principal <> 'management' OR other_principal <> 'management') THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this needs a management key');
  END IF;
  IF verb = 'usage:read' AND (principal <> 'management' OR other_principal <> 'management' OR verbs = '{}') THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this needs a management key, which may have the verb usage:read alone');
  END IF;
  IF verb = 'manage' AND verbs <@ '{usage:read}' THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this key reads usage at most and manages nothing');
  END IF;
  IF verb LIKE 'memory:%' AND NOT content THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this key was minted with content: false and reaches no content');
  END IF;
  IF verb LIKE 'memory:%' AND NOT verb = ANY (verbs) THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', format('this key does not have the verb %s', verb));
  END IF;
  IF verb IN ('memory:write', 'memory:forget') AND 'supervisor' IN (principal, other_principal) THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor reads; it does not write or forget');
  END IF;
  IF mode = 'check' THEN
    RETURN NULL;
  END IF;
  IF (verb = 'memory:read' AND mode NOT IN ('select', 'id')) OR (verb = 'memory:write' AND mode NOT IN ('write', 'modify', 'delete'))
     OR (verb = 'memory:forget' AND mode NOT IN ('forget', 'erase')) OR (verb IN ('usage:read', 'manage', 'self') AND mode NOT IN ('select', 'id')) THEN
    RAISE EXCEPTION 'scopefloor.enter: mode % does not go with verb %', mode, verb;
  END IF;
  -- Changing or matching what exists shows it: that takes the verb for reading too. (An erase
  -- deletes by scope alone; its ticket reaches just what it deletes.)
  IF mode IN ('modify', 'delete', 'forget') AND NOT 'memory:read' = ANY (verbs) THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this needs the verb memory:read as well');
  END IF;
  RETURN NULL;
END $$;

-- The session, the document or the memory that decides the scope of what is written into it. `fixed` is its row
-- in the dictionary; null where the request names none.
CREATE OR REPLACE FUNCTION scopefloor.resolve_place(k scopefloor.api_key, floor jsonb, requested jsonb, OUT fixed scopefloor.scope, OUT refusal jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  place record;
BEGIN
  IF requested->>'session' IS NOT NULL THEN
    SELECT s.scope_id, s.api_key_id, s.closed_at INTO place FROM scopefloor.session s JOIN scopefloor.scope d ON d.id = s.scope_id
    WHERE s.id = (requested->>'session')::uuid AND d.tags @> floor AND (s.scope_id <> 0 OR floor = '{}');
    IF NOT FOUND THEN
      refusal := jsonb_build_object('status', 'not-found', 'detail', 'no such session');
    ELSIF k.principal = 'agent' AND place.api_key_id <> k.id THEN
      refusal := jsonb_build_object('status', 'forbidden', 'detail', 'an agent writes turns only into sessions that its own key created');
    ELSIF place.closed_at IS NOT NULL THEN
      refusal := jsonb_build_object('status', 'conflict', 'detail', 'the session is closed');
    END IF;
  ELSIF requested->>'document' IS NOT NULL THEN
    SELECT o.scope_id INTO place FROM scopefloor.document o JOIN scopefloor.scope d ON d.id = o.scope_id
    WHERE o.id = (requested->>'document')::uuid AND d.tags @> floor AND (o.scope_id <> 0 OR floor = '{}');
    IF NOT FOUND THEN
      refusal := jsonb_build_object('status', 'not-found', 'detail', 'no such document');
    END IF;
  ELSIF requested->>'memory' IS NOT NULL THEN
    SELECT p.scope_id, p.turn_id, s.api_key_id INTO place FROM scopefloor.passage p JOIN scopefloor.scope d ON d.id = p.scope_id
    LEFT JOIN scopefloor.session s ON s.scope_id = p.scope_id AND s.id = p.session_id
    WHERE p.id = (requested->>'memory')::uuid AND p.expired_at IS NULL AND d.tags @> floor AND (p.scope_id <> 0 OR floor = '{}');
    IF NOT FOUND THEN
      SELECT m.scope_id, NULL::uuid AS turn_id, NULL::uuid AS api_key_id INTO place FROM scopefloor.memory_item m JOIN scopefloor.scope d ON d.id = m.scope_id
      WHERE m.id = (requested->>'memory')::uuid AND d.tags @> floor AND (m.scope_id <> 0 OR floor = '{}');
    END IF;
    IF NOT FOUND THEN
      refusal := jsonb_build_object('status', 'not-found', 'detail', 'no such memory');
    ELSIF k.principal = 'agent' AND place.turn_id IS NOT NULL AND place.api_key_id IS DISTINCT FROM k.id THEN
      refusal := jsonb_build_object('status', 'forbidden', 'detail', 'an agent corrects turns only in sessions that its own key created');
    END IF;
  ELSE
    RETURN;
  END IF;
  IF refusal IS NULL THEN
    SELECT * INTO fixed FROM scopefloor.scope WHERE id = place.scope_id;
  END IF;
END $$;

-- The scopes that a request names: E = R ∪ F for each clause. No clause at all means E = F, an empty
-- list reaches nothing.
--   effective       E, of the last clause
--   shared          what the E of all clauses have in common; null where there is none
--   exact           candidates: the rows of the dictionary with these very tags
--   subtree_roots   scopes whose subtrees are meant
CREATE OR REPLACE FUNCTION scopefloor.resolve_clauses(floor jsonb, requested jsonb, mode text, view text, fixed scopefloor.scope,
  OUT effective jsonb, OUT shared jsonb, OUT exact jsonb[], OUT subtree_roots jsonb[], OUT refusal jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  clause jsonb;
  is_named bool := jsonb_typeof(requested->'clauses') = 'array';
BEGIN
  exact := '{}';
  subtree_roots := '{}';
  FOR clause IN SELECT jsonb_array_elements(CASE WHEN is_named THEN requested->'clauses' ELSE '[{"tags": {}}]' END) LOOP
    PERFORM scopefloor.check_tags(clause->'tags');
    IF scopefloor.contradicts(floor, clause->'tags') THEN
      refusal := jsonb_build_object('status', 'scope-floor', 'detail', 'the requested scope contradicts the key''s scope floor');
      RETURN;
    END IF;
    effective := floor || (clause->'tags');
    IF scopefloor.tag_count(effective) > 8 THEN
      refusal := jsonb_build_object('status', 'unprocessable', 'detail', 'the requested scope and the key''s floor have more than 8 tags together');
      RETURN;
    END IF;
    IF fixed.id IS NOT NULL THEN
      IF is_named AND effective <> fixed.tags THEN
        refusal := jsonb_build_object('status', 'unprocessable', 'detail',
          format('the %s has another scope than the one named',
                 CASE WHEN requested->>'session' IS NOT NULL THEN 'session' WHEN requested->>'document' IS NOT NULL THEN 'document' ELSE 'memory' END));
        RETURN;
      END IF;
      effective := fixed.tags;
    END IF;
    IF view = 'subtree' OR (mode <> 'delete' AND (clause->>'subtree')::bool) THEN
      subtree_roots := subtree_roots || effective;
    ELSIF mode IN ('delete', 'forget', 'erase', 'write') THEN
      exact := exact || effective;
    ELSE
      exact := exact || scopefloor.scopes_between(floor, effective);
    END IF;
    shared := CASE WHEN shared IS NULL THEN effective
      ELSE (SELECT coalesce(jsonb_object_agg(x.key, x.value), '{}') FROM jsonb_each(shared) x JOIN jsonb_each(effective) y ON x.key = y.key AND x.value = y.value) END;
  END LOOP;
  IF mode IN ('forget', 'erase') AND (effective IS NULL OR (is_named AND jsonb_array_length(requested->'clauses') > 1)) THEN
    refusal := jsonb_build_object('status', 'unprocessable', 'detail', 'a forget names exactly one scope');
  END IF;
END $$;

-- The ids behind candidates and subtrees. A small subtree becomes ids, a large one stays as its tags.
--   {ids, trees: [tags], all, tenant: the one that all of it belongs to, or null}
CREATE OR REPLACE FUNCTION scopefloor.reach_of(floor jsonb, exact jsonb[], subtree_roots jsonb[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids int[] := '{}';
  matching_ids int[];
  large_roots jsonb := '[]';
  is_everything bool := '{}'::jsonb = ANY (subtree_roots);
  tenants int[];
BEGIN
  -- Looked up as an array: 1.2 ms beside 101,000 scopes, where an OR or IN took 31 ms.
  IF cardinality(exact) > 0 THEN
    SELECT coalesce(array_agg(s.id), '{}') INTO ids FROM scopefloor.scope s WHERE s.tags = ANY (exact);
  END IF;
  IF is_everything THEN
    subtree_roots := ARRAY['{}'::jsonb];
  END IF;
  FOR i IN 1..cardinality(subtree_roots) LOOP
    IF is_everything THEN
      matching_ids := ARRAY(SELECT s.id FROM scopefloor.scope s LIMIT 257); -- {} is in all tags, which no index tells quickly
    ELSE
      matching_ids := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags @> subtree_roots[i] LIMIT 257);
    END IF;
    IF cardinality(matching_ids) > 256 THEN
      large_roots := large_roots || jsonb_build_array(subtree_roots[i]);
    ELSE
      ids := ids || matching_ids;
    END IF;
  END LOOP;
  -- {} itself is in the floor's own rows only where the floor is {}.
  IF floor <> '{}' THEN
    ids := array_remove(ids, 0);
  END IF;
  -- A floor without an org reaches into several tenants: not into those that are suspended.
  IF floor <> '{}' AND NOT floor ? 'org' AND EXISTS (SELECT 1 FROM scopefloor.tenant o WHERE o.state <> 'active') THEN
    ids := ids || ARRAY(SELECT s.id FROM jsonb_array_elements(large_roots) r JOIN scopefloor.scope s ON s.tags @> r);
    large_roots := '[]';
    ids := ARRAY(SELECT s.id FROM scopefloor.scope s JOIN scopefloor.tenant o ON o.id = s.tenant_id WHERE s.id = ANY (ids) AND o.state = 'active');
  END IF;
  ids := ARRAY(SELECT DISTINCT unnest(ids) ORDER BY 1);
  tenants := ARRAY(
    SELECT DISTINCT s.tenant_id FROM scopefloor.scope s WHERE s.id = ANY (ids)
    UNION SELECT t.id FROM jsonb_array_elements(large_roots) r LEFT JOIN scopefloor.tenant t ON t.root = jsonb_build_object('org', r->'org'));
  RETURN jsonb_build_object('ids', ids, 'trees', large_roots, 'all', is_everything,
                            'tenant', CASE WHEN cardinality(tenants) = 1 THEN tenants[1] END);
END $$;

-- Signs what a transaction has entered for, binds it to this backend and transaction, and leaves it there.
CREATE OR REPLACE FUNCTION scopefloor.issue_ticket(granted jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM set_config('scopefloor.ticket', scopefloor.sign_ticket(granted || jsonb_build_object(
    'pid', pg_backend_pid(),
    'began', extract(epoch FROM transaction_timestamp()),
    'until', extract(epoch FROM clock_timestamp()) + 60)), true);
END $$;

--> statement-breakpoint
-- src/db/sql/1_access/6_enter.sql
-- The only way to a ticket, and what is recorded of those who get none.

-- Opens a transaction for a key: finds the key, checks verb and request against the floor in the
-- key's own row, resolves the scope ids and leaves a signed ticket in scopefloor.ticket.
--
--   key_hash   SHA-256 of the presented secret
--   verb       memory:read | memory:write | memory:forget | manage | self
--   requested  {mode, clauses?, session?, document?, memory?, subtree?, reopen?, context, ageMs, metered?, hold?}; a clause is
--              {tags, subtree}, ageMs is how long ago the request arrived, metered: it counts against budgets,
--              which `hold` is for
--              mode: check   nothing: only whether the key may do this
--                    select  rows by selector       id      rows by id, and lists: the floor's subtree
--                    write   rows at E              modify  as id, and may change them
--                    delete  as modify, or where a scope is named the rows at E, and may delete them
--                    forget  rows at E, no writer   erase   the same, and E's tags go too
--   view       strict | subtree, or NULL for the principal's default
--
-- A refusal is returned, not raised, so that the denial can be recorded in a second transaction:
-- {status: unauthorized | forbidden | scope-floor | not-found | unprocessable | conflict, detail}. And
-- {status: needs-hold}: there are budgets above the request, and no hold for them.
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
  by_default text;
  began timestamptz := transaction_timestamp() - make_interval(secs => coalesce((requested->>'ageMs')::float8, 0) / 1000);
BEGIN
  caller := scopefloor.authenticate(key_hash, on_behalf_of);
  refusal := coalesce(caller.refusal,
    scopefloor.permit((caller.k).principal, (caller.other).principal, caller.verbs, caller.content, verb, mode));
  -- Who may come in at all, before the request itself is looked at.
  IF refusal IS NULL AND scopefloor.is_shut_out(caller.floor, '{}') THEN
    refusal := '{"status": "forbidden", "detail": "the tenant of this key is suspended or leaving"}';
  END IF;
  IF refusal IS NOT NULL OR mode = 'check' THEN
    RETURN coalesce(refusal, '{"status": "ok"}');
  END IF;

  -- On behalf of another, no more than either sees.
  by_default := CASE WHEN scopefloor.default_view_of(caller.k) = 'strict' OR ((caller.other).id IS NOT NULL AND scopefloor.default_view_of(caller.other) = 'strict')
                THEN 'strict' ELSE 'subtree' END;
  view := CASE mode
    WHEN 'select' THEN coalesce(view, by_default)
    WHEN 'write' THEN 'strict'
    WHEN 'delete' THEN CASE WHEN jsonb_typeof(requested->'clauses') = 'array' THEN 'strict' ELSE 'subtree' END
    WHEN 'forget' THEN CASE WHEN coalesce((requested->>'subtree')::bool, jsonb_typeof(requested->'clauses') IS DISTINCT FROM 'array' AND by_default = 'subtree')
                       THEN 'subtree' ELSE 'strict' END
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

  IF NOT caller.floor ? 'org' AND named.effective ? 'org' AND scopefloor.is_shut_out(caller.floor, named.effective) THEN
    RETURN '{"status": "forbidden", "detail": "the tenant of this scope is suspended or leaving"}';
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

  -- Between two batches of an erasure nothing new comes in (3_governance/4_runs.sql).
  IF mode IN ('write', 'modify', 'delete') AND scopefloor.is_being_erased(trace_tags) THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', 'the scope is being erased; nothing is stored there until that is done');
  END IF;

  -- What counts against a budget has to be held before (3_metering/3_holds.sql).
  IF (requested->>'metered')::bool AND scopefloor.lacks_hold(trace_tags, (requested->>'hold')::uuid, (caller.k).id) THEN
    RETURN '{"status": "needs-hold"}';
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
    -- What a key above has deleted only that one, or one above it, opens again.
    IF NOT coalesce(written.tombstoned_by @> caller.floor, true) THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', 'the scope was deleted by a key above this one');
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
    'write', written.id, 'tenant', written.tenant_id, 'memory', CASE WHEN mode = 'write' THEN requested->'memory' END,
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', trace_tags, 'elsewhere', traced.tags <> trace_tags)));

  RETURN jsonb_build_object(
    'status', 'ok',
    'key', jsonb_build_object('id', (caller.k).id, 'name', (caller.k).name, 'principal', (caller.k).principal, 'content', caller.content,
                              'defaultView', by_default, 'expiresAt', (caller.k).expires_at),
    'verbs', to_jsonb(caller.verbs), 'floor', caller.floor, 'onBehalfOf', (caller.other).id,
    'view', view, 'effective', named.effective, 'general', general,
    'read', jsonb_build_object(
      'scopes', coalesce((SELECT jsonb_object_agg(s.id, s.tags) FROM scopefloor.scope s WHERE s.id = ANY (ARRAY(SELECT jsonb_array_elements_text(reach->'ids')::int))), '{}'),
      'trees', reach->'trees', 'tenant', reach->'tenant'),
    'write', CASE WHEN written.id IS NOT NULL THEN jsonb_build_object('id', written.id, 'tenant', written.tenant_id) END,
    'settings', scopefloor.settings_at(trace_tags, requested->>'context'), 'credentials', scopefloor.credentials_at(trace_tags),
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', trace_tags, 'isElsewhere', traced.tags <> trace_tags, 'isBlank', trace_is_blank));
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
  INSERT INTO scopefloor.access_denied (tenant_id, scope_id, id, api_key_id, floor, asked, named, on_behalf_of, route, reason)
  SELECT a.tenant_id, a.scope_id, denial, a.id, a.floor, asked,
         (SELECT jsonb_agg(n.tags) FROM jsonb_array_elements(CASE jsonb_typeof(asked) WHEN 'array' THEN asked ELSE '[]' END) c,
            LATERAL (VALUES (c->'tags'), (a.floor || (c->'tags'))) n(tags)),
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
  IF t IS NULL OR t->>'verb' NOT IN ('memory:read', 'memory:forget') OR (t->'read'->>'all')::bool THEN
    RETURN false;
  END IF;
  seen := scopefloor.ids_in(t->'read') || 0;
  -- By the index on tags, also where nothing is hidden: asked as one EXISTS, the planner reads the
  -- whole dictionary in the hope of an early end (17 ms beside 110,000 scopes, and now 0.02).
  RETURN (WITH below AS MATERIALIZED (SELECT s.id FROM scopefloor.scope s WHERE s.tags @> (t->'floor'))
          SELECT EXISTS (SELECT 1 FROM below b WHERE b.id <> ALL (seen)));
END $$;

--> statement-breakpoint
-- src/db/sql/1_access/7_keys.sql
-- Keys. The application's role has no privilege on api_key; these functions check the ticket.

-- A key as the API shows it, without any secret.
CREATE OR REPLACE FUNCTION scopefloor.key_row(k scopefloor.api_key) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object(
    'id', k.id, 'name', k.name, 'principal', k.principal, 'scopeFloor', k.floor, 'verbs', to_jsonb(k.verbs), 'content', k.content,
    'defaultView', scopefloor.default_view_of(k),
    'status', CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= clock_timestamp() THEN 'expired' ELSE 'active' END,
    'createdAt', k.created_at, 'createdBy', k.parent_id, 'lastUsedAt', k.last_used_at, 'expiresAt', k.expires_at, 'revokedAt', k.revoked_at)
$$;

-- Whether the ticket's key may see a key, or with `to_change` rotate, revoke or narrow it. Both take its
-- floor, verbs and content, since who changes a key can come to hold its secret: of its own children as
-- they are now, of others as they were minted, because what was narrowed can be given back. To be seen:
-- itself, those that it minted, and for management those inside its floor. Whoever manages reads usage, so
-- that usage:read is no right that it lacks. To be changed, of other
-- management keys only those that come from it, or whose floor is narrower.
CREATE OR REPLACE FUNCTION scopefloor.may_manage(t jsonb, k scopefloor.api_key, to_change bool) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  caller uuid := (t->>'key')::uuid;
BEGIN
  IF k.id IS NULL OR NOT k.floor @> (t->'floor') THEN
    RETURN false;
  END IF;
  IF NOT to_change AND k.id = caller THEN
    RETURN true;
  END IF;
  -- A supervisor changes none, and one that reads usage at most none but itself.
  IF to_change AND (t->>'principal' = 'supervisor' OR (k.id <> caller AND t->'verbs' <@ '["usage:read"]')) THEN
    RETURN false;
  END IF;
  IF k.id = caller OR k.parent_id = caller OR (k.principal = 'management' AND scopefloor.descends_from(k.id, caller)) THEN
    RETURN to_jsonb(array_remove(k.verbs, 'usage:read')) <@ (t->'verbs') AND (NOT k.content OR (t->>'content')::bool);
  END IF;
  RETURN t->>'principal' = 'management'
    AND to_jsonb(array_remove(k.minted_verbs, 'usage:read')) <@ (t->'verbs') AND (NOT k.content OR (t->>'content')::bool)
    AND (NOT to_change OR k.principal <> 'management' OR t->'floor' <> k.floor);
END $$;

-- Mints a key that is never wider than the ticket and the key behind it: floor = asked ∪ the caller's,
-- verbs a subset. What it sees by default is as asked, as the minting agent sees, as a setting above its floor
-- says, or as `usual_view` does.
CREATE OR REPLACE FUNCTION scopefloor.mint_key(new_id uuid, key_hash bytea, new_name text, new_principal text, asked_floor jsonb,
                                    asked_verbs text[], with_content bool, expires timestamptz, asked_view text, usual_view text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  own scopefloor.api_key;
  made scopefloor.api_key;
  at_scope scopefloor.scope;
  parent_verbs text[];
  child_floor jsonb := coalesce(asked_floor, '{}');
  child_content bool := coalesce(with_content, (t->>'content')::bool);
BEGIN
  -- Locked: a child that is minted while its parent is being revoked would outlive it.
  SELECT * INTO own FROM scopefloor.api_key WHERE id = (t->>'key')::uuid AND revoked_at IS NULL FOR SHARE;
  IF own.id IS NULL THEN
    RETURN '{"status": "unauthorized", "detail": ""}';
  END IF;
  -- The ticket is from before the lock: verbs that were taken away meanwhile are gone.
  parent_verbs := ARRAY(SELECT jsonb_array_elements_text(t->'verbs') INTERSECT SELECT unnest(own.verbs) ORDER BY 1);
  IF t->>'verb' = 'self' THEN
    IF own.principal = 'supervisor' THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor does not mint keys');
    END IF;
    new_principal := own.principal;
  END IF;
  PERFORM scopefloor.check_tags(child_floor);
  IF scopefloor.contradicts(child_floor, t->'floor') THEN
    RETURN jsonb_build_object('status', 'scope-floor', 'detail', 'the new key''s floor contradicts the minting key''s');
  END IF;
  child_floor := child_floor || (t->'floor');
  IF scopefloor.tag_count(child_floor) > 8 THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'the new key''s floor and the minting key''s have more than 8 tags together');
  END IF;
  IF new_principal IN ('agent', 'supervisor') AND child_floor = '{}' THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', format('the scope floor of an %s key must not be empty', new_principal));
  END IF;
  IF t->'verbs' <@ '["usage:read"]' THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this key reads usage at most and mints none');
  END IF;
  -- Who manages reads usage: it is a verb for those who do nothing else, and nobody inherits it.
  IF 'usage:read' = ANY (asked_verbs) AND (new_principal <> 'management' OR t->>'verb' <> 'manage') THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'usage:read is a verb of management keys');
  END IF;
  parent_verbs := array_remove(parent_verbs, 'usage:read');
  IF NOT array_remove(coalesce(asked_verbs, parent_verbs), 'usage:read') <@ parent_verbs THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'the new key would have verbs that the minting key lacks');
  END IF;
  IF child_content AND NOT (t->>'content')::bool THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key with content: false cannot mint a key with content: true');
  END IF;
  IF NOT child_content AND new_principal <> 'management' THEN
    RETURN jsonb_build_object('status', CASE WHEN (t->>'content')::bool THEN 'unprocessable' ELSE 'forbidden' END, 'detail', 'content: false is for management keys');
  END IF;
  IF t->'floor' <> '{}' AND (SELECT count(*) FROM (SELECT 1 FROM scopefloor.api_key k WHERE k.parent_id = own.id AND k.revoked_at IS NULL LIMIT 10000) n) = 10000 THEN
    RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', 'this key has minted 10000 keys that are not revoked, and may have no more');
  END IF;
  -- What an agent delegates ends with it.
  IF own.principal = 'agent' THEN
    expires := least(expires, own.expires_at);
  END IF;
  IF asked_view IS NULL THEN
    asked_view := coalesce(CASE WHEN own.principal = 'agent' THEN own.default_view END,
      (SELECT v.value#>>'{}' FROM scopefloor.settings_above(child_floor) v WHERE v.name = 'defaultView'), usual_view);
  END IF;
  PERFORM scopefloor.hold_scope(child_floor);
  at_scope := scopefloor.ensure_scope(child_floor);
  PERFORM scopefloor.check_room('keys', child_floor);
  INSERT INTO scopefloor.api_key (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, minted_verbs, content, secret_hash, expires_at, default_view)
  VALUES (new_id, at_scope.tenant_id, at_scope.id, own.id, new_name, new_principal, child_floor,
          coalesce(asked_verbs, parent_verbs), coalesce(asked_verbs, parent_verbs), child_content, sha256(key_hash), expires, asked_view)
  ON CONFLICT DO NOTHING
  RETURNING * INTO made;
  IF made.id IS NULL THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', 'this key has already minted a key of that name');
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;

-- The keys whose floor holds E (the ticket's floor, or the narrower scope asked for), newest first:
-- {total, keys}.
CREATE OR REPLACE FUNCTION scopefloor.list_keys(named text, skip int, take int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
BEGIN
  IF t->>'verb' <> 'manage' THEN
    RAISE EXCEPTION 'scopefloor: not a management ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN (
    WITH reached AS MATERIALIZED (
      SELECT k FROM scopefloor.api_key k
      WHERE k.scope_id IN (SELECT s.id FROM scopefloor.scope s WHERE s.tags @> (t->'target')) AND (named IS NULL OR k.name = named)
        AND scopefloor.may_manage(t, k, false))
    SELECT jsonb_build_object(
      'total', (SELECT count(*) FROM reached),
      'keys', coalesce((SELECT jsonb_agg(scopefloor.key_row(page.k)) FROM
        (SELECT r.k FROM reached r ORDER BY (r.k).created_at DESC, (r.k).id DESC LIMIT take OFFSET skip) page), '[]')));
END $$;

-- The caller's own row and those that it minted.
CREATE OR REPLACE FUNCTION scopefloor.own_keys() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.key_row(k) ORDER BY k.id <> caller, k.created_at, k.id), '[]')
          FROM scopefloor.api_key k WHERE (k.id = caller OR k.parent_id = caller) AND k.revoked_at IS NULL AND scopefloor.may_manage(t, k, false));
END $$;

-- One key that the caller may see.
CREATE OR REPLACE FUNCTION scopefloor.known_key(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
BEGIN
  RETURN (SELECT scopefloor.key_row(k) FROM scopefloor.api_key k WHERE k.id = of_id AND k.revoked_at IS NULL AND scopefloor.may_manage(t, k, false));
END $$;

-- The keys that the caller may see; 500 at most.
CREATE OR REPLACE FUNCTION scopefloor.known_keys() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.key_row(k) ORDER BY k.id <> caller, k.created_at, k.id), '[]')
          FROM (SELECT * FROM scopefloor.api_key a
                WHERE a.revoked_at IS NULL
                  AND CASE t->>'principal' WHEN 'management' THEN a.scope_id IN (SELECT s.id FROM scopefloor.scope s WHERE s.tags @> (t->'floor'))
                                           ELSE a.id = caller OR a.parent_id = caller END
                  AND scopefloor.may_manage(t, a, false)
                ORDER BY a.id <> caller, a.created_at, a.id LIMIT 500) k);
END $$;

-- Whether a key was minted by that one, or by one that it minted, and so on.
CREATE OR REPLACE FUNCTION scopefloor.descends_from(child uuid, ancestor uuid) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE above AS (
    SELECT k.parent_id AS id FROM scopefloor.api_key k WHERE k.id = child
    UNION
    SELECT k.parent_id FROM scopefloor.api_key k JOIN above a ON k.id = a.id)
  SELECT EXISTS (SELECT 1 FROM above a WHERE a.id = ancestor)
$$;

-- At most once a minute, outside the request's transaction.
CREATE OR REPLACE FUNCTION scopefloor.touch_key(key_hash bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.api_key k SET last_used_at = clock_timestamp()
  WHERE k.id = (scopefloor.live_key(key_hash)).id
    AND (k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute')
$$;

-- Trigger: notes when a key's secret, rights or end changed, for the journal.
CREATE OR REPLACE FUNCTION scopefloor.note_key_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.changed_at := clock_timestamp();
  RETURN NEW;
END $$;

--> statement-breakpoint
-- src/db/sql/2_memory/1_context.sql
-- The deployment's Context and its embedding models: no tenant's data.

-- When the Context was made; NULL without a ticket.
CREATE OR REPLACE FUNCTION scopefloor.context_created_at(of_context text) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.created_at FROM scopefloor.context c WHERE c.id = of_context AND scopefloor.ticket() IS NOT NULL
$$;

-- Writes a row of its own, for a caller that undoes it: that the database takes writes is a part of being
-- ready. (One that stayed would be of no scope, and gone with the next day.)
CREATE OR REPLACE FUNCTION scopefloor.try_write() RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.erasure (hash, at) VALUES (0, clock_timestamp() - interval '1 day');
  RETURN true;
END $$;

-- Replaces the Context's configuration; false for anybody but the operator with every right.
CREATE OR REPLACE FUNCTION scopefloor.configure_context(of_context text, changed jsonb) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.full_ticket();
BEGIN
  -- The Context is everyone's: only the operator, whose floor is {}, changes it.
  IF t IS NULL OR t->'floor' <> '{}' THEN
    RETURN false;
  END IF;
  UPDATE scopefloor.context SET config = config || changed WHERE id = of_context;
  RETURN FOUND;
END $$;

-- Makes the Context's row where there is none. Where texts were analysed in an earlier way, each scope that holds
-- any is brought up by a job, as the first key. Gives how many.
CREATE OR REPLACE FUNCTION scopefloor.ensure_context(of_context text, of_analyser int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  earlier int;
  ordered int := 0;
BEGIN
  INSERT INTO scopefloor.context (id) VALUES (of_context) ON CONFLICT DO NOTHING;
  SELECT c.analyser INTO STRICT earlier FROM scopefloor.context c WHERE c.id = of_context FOR UPDATE;
  IF earlier < of_analyser THEN
    UPDATE scopefloor.context c SET analyser = of_analyser WHERE c.id = of_context;
  END IF;
  IF earlier BETWEEN 1 AND of_analyser - 1 THEN -- (a migration has ordered it where there was none)
    INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, api_key_id, principal, epoch, share_group)
    SELECT s.tenant_id, s.id, gen_random_uuid(), 'bring_up', k.id, k.principal, s.epoch, scopefloor.share_group_of(k.id)
    FROM scopefloor.scope s CROSS JOIN (SELECT a.id, a.principal FROM scopefloor.api_key a WHERE a.parent_id IS NULL AND a.principal = 'management' ORDER BY a.created_at LIMIT 1) k
    WHERE EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.job j WHERE j.scope_id = s.id AND j.kind = 'bring_up' AND j.state = 'queued');
    GET DIAGNOSTICS ordered = ROW_COUNT;
  END IF;
  RETURN ordered;
END $$;

-- The number of a model: 31 bits of its name's hash, so that it is the same in every deployment and the
-- vectors of a tenant that moves keep theirs.
CREATE OR REPLACE FUNCTION scopefloor.embedder_number(of_name text) RETURNS int
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ('x' || left(encode(sha256(convert_to(of_name, 'UTF8')), 'hex'), 8))::bit(32)::int & 2147483647
$$;

-- The number of a model, registered when it is new. Raises where the length of its vectors has changed.
CREATE OR REPLACE FUNCTION scopefloor.ensure_embedder(of_name text, of_dimensions int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.embedder;
BEGIN
  INSERT INTO scopefloor.embedder (id, name, dimensions) VALUES (scopefloor.embedder_number(of_name), of_name, of_dimensions) ON CONFLICT (name) DO NOTHING;
  SELECT * INTO STRICT found FROM scopefloor.embedder WHERE name = of_name;
  IF found.dimensions <> of_dimensions THEN
    RAISE EXCEPTION 'the embedding model % gave % dimensions before and gives % now', of_name, found.dimensions, of_dimensions;
  END IF;
  RETURN found.id;
END $$;

-- A model by its name: its number, once its vectors have a known length. What was measured of it may change.
CREATE OR REPLACE FUNCTION scopefloor.register_embedder(of_name text, of_dimensions int, measured_distance real) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found int := scopefloor.ensure_embedder(of_name, of_dimensions);
BEGIN
  UPDATE scopefloor.embedder SET near_distance = measured_distance WHERE id = found AND near_distance <> measured_distance;
  RETURN found;
END $$;

-- The models that any stored vector is of, for the service as a whole: what a query is embedded with.
CREATE OR REPLACE FUNCTION scopefloor.embedders_in_use() RETURNS TABLE (id int, name text, dimensions int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT e.id, e.name, e.dimensions FROM scopefloor.embedder e
  -- The first scope that has any is enough.
  WHERE EXISTS (SELECT 1 FROM scopefloor.scope_counter c WHERE c.embedder_id = e.id AND c.passages > 0
                AND (SELECT sum(o.passages) FROM scopefloor.scope_counter o WHERE o.scope_id = c.scope_id AND o.embedder_id = e.id) > 0)
$$;

--> statement-breakpoint
-- src/db/sql/2_memory/2_documents.sql
-- Documents and their links. What writes is a definer function, because a key that may write but not
-- read can neither look for what is there already nor use RETURNING.

-- Adds a document at the ticket's write scope, or finds the one there that has the same bytes: another
-- scope's copy is not looked at. {id, status, version, deduplicated, again}; `again`: the one that is
-- there had failed, or is said to be in another charset, and is to be processed once more.
CREATE OR REPLACE FUNCTION scopefloor.add_document(new_id uuid, facts jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  same_bytes uuid := scopefloor.word_hash(scopefloor.word_secret((t->>'tenant')::int, at_scope), facts->>'contentHash');
  d scopefloor.document;
BEGIN
  INSERT INTO scopefloor.document (tenant_id, scope_id, id, api_key_id, title, source, mime_type, charset, size_bytes, content_hash, labels, observed_at)
  VALUES ((t->>'tenant')::int, at_scope, new_id, (t->>'key')::uuid, facts->>'title', facts->>'source', facts->>'mimeType', facts->>'charset', (facts->>'sizeBytes')::int,
          facts->>'contentHash', ARRAY(SELECT jsonb_array_elements_text(facts->'labels')), (facts->>'observedAt')::timestamptz)
  ON CONFLICT (scope_id, content_key, tenant_id) DO NOTHING RETURNING * INTO d;
  IF d.id IS NOT NULL THEN
    RETURN jsonb_build_object('id', d.id, 'status', d.status, 'version', 1, 'deduplicated', false, 'again', false);
  END IF;
  SELECT * INTO STRICT d FROM scopefloor.document o WHERE o.scope_id = at_scope AND o.content_key = same_bytes FOR UPDATE;
  -- Who names another charset wants it read anew.
  IF d.status = 'failed' OR (facts->>'charset' <> coalesce(d.charset, '') AND NOT scopefloor.is_document_held(d)) THEN
    UPDATE scopefloor.document o SET status = 'queued', error = NULL, mime_type = facts->>'mimeType', charset = facts->>'charset', reading = '{}', updated_at = clock_timestamp(),
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
  -- What it says is replaced: held where a part of it is.
  PERFORM scopefloor.share_hold_lock(d.tenant_id);
  IF scopefloor.is_document_held(d) THEN
    PERFORM scopefloor.raise_held();
  END IF;
  IF NOT facts ? 'contentHash' THEN
    -- No new bytes: those that are there once more, unless they are on their way.
    IF d.content_hash IS NULL THEN
      RETURN '{"status": "forgotten"}';
    END IF;
    IF d.status IN ('ready', 'failed') THEN
      UPDATE scopefloor.document o
      SET status = 'queued', error = NULL, api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp(), processing_started_at = NULL, processing_completed_at = NULL
      WHERE o.scope_id = at_scope AND o.id = of_document;
    END IF;
    RETURN jsonb_build_object('id', d.id, 'status', CASE WHEN d.status IN ('ready', 'failed') THEN 'queued' ELSE d.status END, 'version', d.version,
                              'contentHash', d.content_hash, 'deduplicated', d.status NOT IN ('ready', 'failed'), 'again', d.status IN ('ready', 'failed'));
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
      mime_type = facts->>'mimeType', charset = facts->>'charset', title = coalesce(facts->>'title', o.title), source = coalesce(facts->>'source', o.source),
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
-- src/db/sql/2_memory/3_turns_and_items.sql
-- Writing turns and keyed items, as far as it takes more than inserting rows through the builder:
-- definer functions, because a key that may write but not read can neither look for what is there
-- already nor use RETURNING.

-- Takes the next n places in an open session at the ticket's write scope; an agent's key only in a
-- session that it created. NULL: there is no such session, or it is closed. The ticket says from then on that
-- turns may go there: asked once a statement, not for each row.
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
  IF FOUND THEN
    PERFORM set_config('scopefloor.ticket', scopefloor.sign_ticket(t || jsonb_build_object('session', in_session)), true);
  END IF;
  RETURN first;
END $$;

-- The session that the caller's key knows by a name of its own at the ticket's write scope, opened where
-- there is none: {id, closed}.
CREATE OR REPLACE FUNCTION scopefloor.open_session(new_id uuid, of_name text, with_metadata jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  s scopefloor.session;
BEGIN
  IF of_name IS NULL OR length(of_name) NOT BETWEEN 1 AND 128 THEN
    RAISE EXCEPTION 'scopefloor: not a name of a session' USING ERRCODE = 'check_violation';
  END IF;
  INSERT INTO scopefloor.session (tenant_id, scope_id, id, api_key_id, name, metadata)
  VALUES (at_tenant, at_scope, new_id, (t->>'key')::uuid, of_name, with_metadata)
  ON CONFLICT (scope_id, name_hash, tenant_id) DO NOTHING RETURNING * INTO s;
  IF s.id IS NULL THEN
    SELECT * INTO STRICT s FROM scopefloor.session o
    WHERE o.scope_id = at_scope AND o.name_hash = scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), (t->>'key') || chr(31) || of_name);
  END IF;
  RETURN jsonb_build_object('id', s.id, 'closed', s.closed_at IS NOT NULL);
END $$;

-- These items of a scope are recalled no more. (The tail's lock before what is taken out of it: settle_facts.)
CREATE OR REPLACE FUNCTION scopefloor.unrecall_items(at_scope int, of_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = ANY (of_ids) AND p.kind = 'item') THEN
    PERFORM pg_advisory_xact_lock_shared(7702, at_scope);
    DELETE FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = ANY (of_ids) AND p.kind = 'item';
  END IF;
END $$;

-- Trigger: items that are deleted, by whatever way, are recalled no more.
CREATE OR REPLACE FUNCTION scopefloor.unrecall_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gone record;
BEGIN
  FOR gone IN SELECT r.scope_id, array_agg(r.id) AS ids FROM removed r WHERE r.indexed IS NOT NULL GROUP BY 1 ORDER BY 1 LOOP
    PERFORM scopefloor.unrecall_items(gone.scope_id, gone.ids);
  END LOOP;
  RETURN NULL;
END $$;

-- Sets and deletes keyed items at the ticket's write scope, all or none:
--   [{id, key, op: put, value, ttlSeconds?, refreshOnRead?, ifVersion?, index?: [fields]} | {id, key, op: delete, ifVersion?}], no key twice.
-- `ifVersion` is what is there: 0 stands for nothing. Whoever may not read learns nothing of what was there.
-- {results: [{id, version, createdAt, updatedAt, expiresAt} | {id: null or the deleted one's}], in their order, receipt?},
-- or {conflict: {key, version}} and nothing done.
-- What recall finds an item by goes with its former value: whoever calls stores the passage of the new one.
CREATE OR REPLACE FUNCTION scopefloor.put_items(operations jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  secret bytea := scopefloor.word_secret(at_tenant, at_scope);
  may_read bool := t->'verbs' ? 'memory:read';
  asked record;
  there scopefloor.memory_item;
  m scopefloor.memory_item;
  is_there bool;
  at_version int; -- 0: there is none
  done jsonb := '{}'; -- by key
  deleted uuid[] := '{}';
  gone uuid[] := '{}'; -- what is deleted, with what was over
  unsaid uuid[] := '{}'; -- what is not recalled by its former value any more
  receipt uuid;
BEGIN
  IF jsonb_array_length(operations) NOT BETWEEN 1 AND 500 OR EXISTS (SELECT 1 FROM jsonb_array_elements(operations) o GROUP BY o->>'key' HAVING count(*) > 1) THEN
    RAISE EXCEPTION 'scopefloor: not a batch of items' USING ERRCODE = 'check_violation';
  END IF;
  IF NOT may_read AND EXISTS (SELECT 1 FROM jsonb_array_elements(operations) o WHERE o->>'op' <> 'put' OR o ? 'ifVersion') THEN
    RAISE EXCEPTION 'scopefloor: what is there is for those who read' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- In one order, so that nobody waits in a circle.
  FOR asked IN
    SELECT o AS given, scopefloor.word_hash(secret, o->>'key') AS hash FROM jsonb_array_elements(operations) o ORDER BY 2
  LOOP
    SELECT * INTO there FROM scopefloor.memory_item i WHERE i.scope_id = at_scope AND i.key_hash = asked.hash FOR UPDATE;
    is_there := there.id IS NOT NULL AND (there.expires_at > clock_timestamp()) IS NOT FALSE;
    at_version := CASE WHEN is_there THEN there.version ELSE 0 END;
    IF (asked.given->>'ifVersion')::int <> at_version THEN
      RETURN jsonb_build_object('conflict', jsonb_build_object('key', asked.given->'key', 'version', at_version));
    END IF;
    IF asked.given->>'op' = 'delete' THEN
      gone := gone || there.id;
      IF is_there THEN
        deleted := deleted || there.id;
      END IF;
      done := done || jsonb_build_object(asked.given->>'key', jsonb_build_object('id', CASE WHEN is_there THEN there.id END));
      CONTINUE;
    END IF;
    INSERT INTO scopefloor.memory_item AS i (tenant_id, scope_id, key, id, value, api_key_id, expires_at, ttl_seconds, refresh_on_read, indexed)
    VALUES (at_tenant, at_scope, asked.given->>'key', (asked.given->>'id')::uuid, asked.given->'value', (t->>'key')::uuid,
            clock_timestamp() + make_interval(secs => (asked.given->>'ttlSeconds')::float8), (asked.given->>'ttlSeconds')::int, coalesce((asked.given->>'refreshOnRead')::bool, false),
            CASE WHEN asked.given ? 'index' THEN ARRAY(SELECT jsonb_array_elements_text(asked.given->'index')) END)
    ON CONFLICT (scope_id, key_hash, tenant_id) DO UPDATE
    SET value = EXCLUDED.value, api_key_id = EXCLUDED.api_key_id, expires_at = EXCLUDED.expires_at, ttl_seconds = EXCLUDED.ttl_seconds,
        refresh_on_read = EXCLUDED.refresh_on_read, indexed = EXCLUDED.indexed, updated_at = clock_timestamp(),
        -- One that is over was not there.
        version = CASE WHEN (i.expires_at > clock_timestamp()) IS NOT FALSE THEN i.version + 1 ELSE 1 END,
        created_at = CASE WHEN (i.expires_at > clock_timestamp()) IS NOT FALSE THEN i.created_at ELSE clock_timestamp() END
    -- Of two who make it at once the second meets what the first made.
    WHERE NOT asked.given ? 'ifVersion' OR there.id IS NOT NULL
    RETURNING * INTO m;
    IF NOT FOUND THEN
      RETURN jsonb_build_object('conflict', jsonb_build_object('key', asked.given->'key', 'version', 1));
    END IF;
    unsaid := unsaid || m.id;
    done := done || jsonb_build_object(asked.given->>'key', jsonb_build_object(
      'id', m.id, 'expiresAt', scopefloor.rfc3339(m.expires_at), 'updatedAt', scopefloor.rfc3339(m.updated_at),
      'createdAt', scopefloor.rfc3339(CASE WHEN may_read THEN m.created_at ELSE m.updated_at END), 'version', CASE WHEN may_read THEN m.version END));
  END LOOP;
  -- Only now, when no other item is waited for: the words of a scope are taken by one at a time.
  PERFORM scopefloor.unrecall_items(at_scope, unsaid);
  DELETE FROM scopefloor.memory_item i WHERE i.scope_id = at_scope AND i.id = ANY (gone);
  IF deleted <> '{}' THEN
    receipt := gen_random_uuid();
    INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, items, api_key_id)
    VALUES (at_tenant, at_scope, receipt, t->'trace'->'tags', false, 'erase', 'item', jsonb_build_object('memory_item', cardinality(deleted)),
            jsonb_build_object('items', to_jsonb(deleted)), (t->>'key')::uuid);
  END IF;
  RETURN jsonb_build_object('receipt', receipt, 'results', (SELECT jsonb_agg(done->(o->>'key') ORDER BY n) FROM jsonb_array_elements(operations) WITH ORDINALITY x(o, n)));
END $$;

-- Items that were just read stay for as long again, where they say so: of the ticket's own scopes, and unless they are held.
CREATE OR REPLACE FUNCTION scopefloor.refresh_items(of_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' <> 'memory:read' THEN
    RAISE EXCEPTION 'scopefloor: no ticket for reading' USING ERRCODE = 'insufficient_privilege';
  END IF;
  -- Not for every read: once a tenth of the time is over. One that another is at is refreshed by that one.
  WITH kept AS (
  UPDATE scopefloor.memory_item m SET expires_at = clock_timestamp() + make_interval(secs => m.ttl_seconds)
  WHERE m.id = ANY (of_ids) AND m.scope_id = ANY (scopefloor.ids_in(t->'read')) AND m.refresh_on_read
    AND m.expires_at BETWEEN clock_timestamp() AND clock_timestamp() + make_interval(secs => m.ttl_seconds * 0.9)
    AND NOT scopefloor.is_row_held('memory_item', m.scope_id, to_jsonb(m))
  RETURNING m.scope_id, m.id, m.expires_at)
  UPDATE scopefloor.passage p SET ends_at = k.expires_at FROM kept k WHERE p.scope_id = k.scope_id AND p.id = k.id AND p.kind = 'item';
END $$;

--> statement-breakpoint
-- src/db/sql/2_memory/7_facts.sql
-- Facts: what was observed of entities, and what follows from it.
--
-- An observation is what one call said of an entity under a key: a value, or the targets that stand together.
-- Each is kept. By the time that it was observed, then by its id, observations stand in one order, which does
-- not depend on the order in which they came:
--
-- - what says the same as the observation just before it confirms that one: a run, shown as one fact, under
--   the id of its first row
-- - a run ends where the next observation says something else, or where it ends by itself (ends_at), or where
--   something was known that was forgotten since (cut_at)
--
-- What is known at present stands in the rows (is_confirmation, valid_until, superseded_by, closed_at), kept
-- by settle_facts. What was known at an earlier moment is computed when it is asked for
-- (src/memory/fact-timeline.ts), from the rows that had been learnt by then.

-- The entity of that name at a scope, {type, name, identity, folded}, made when there is none.
CREATE OR REPLACE FUNCTION scopefloor.ensure_entity(at_tenant int, at_scope int, named jsonb, by_key uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found uuid;
BEGIN
  INSERT INTO scopefloor.entity (tenant_id, scope_id, id, type, name, identity, folded, api_key_id)
  VALUES (at_tenant, at_scope, gen_random_uuid(), named->>'type', named->>'name', named->>'identity', named->>'folded', by_key)
  ON CONFLICT (scope_id, name_hash, tenant_id) DO NOTHING;
  -- Locked: of two who change the same entity the second sees what the first left.
  SELECT e.id INTO STRICT found FROM scopefloor.entity e
  WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), named->>'identity') FOR NO KEY UPDATE;
  RETURN found;
END $$;

-- The observations of an entity under a key, without what was forgotten. `what` is the value, or the target's
-- id. (Without SET, so that it is inlined and of the two tables one is read.)
CREATE OR REPLACE FUNCTION scopefloor.observations(at_scope int, of_kind text, subject uuid, of_key uuid) RETURNS TABLE (
  id uuid, what jsonb, valid_from timestamptz, observation_id uuid, is_confirmation bool, stops_at timestamptz, valid_until timestamptz, superseded_by uuid)
LANGUAGE sql STABLE AS $$
  SELECT a.id, a.value, a.valid_from, a.observation_id, a.is_confirmation, least(a.ends_at, a.cut_at), a.valid_until, a.superseded_by
  FROM scopefloor.attribute a
  WHERE of_kind OPERATOR(pg_catalog.=) 'attribute' AND a.scope_id OPERATOR(pg_catalog.=) at_scope AND a.entity_id OPERATOR(pg_catalog.=) subject
    AND a.key_hash OPERATOR(pg_catalog.=) of_key AND a.expired_at IS NULL
  UNION ALL
  SELECT r.id, pg_catalog.to_jsonb(r.target_id), r.valid_from, r.observation_id, r.is_confirmation, least(r.ends_at, r.cut_at), r.valid_until, r.superseded_by
  FROM scopefloor.relation r
  WHERE of_kind OPERATOR(pg_catalog.=) 'relation' AND r.scope_id OPERATOR(pg_catalog.=) at_scope AND r.entity_id OPERATOR(pg_catalog.=) subject
    AND r.key_hash OPERATOR(pg_catalog.=) of_key AND r.expired_at IS NULL
$$;

-- A vector as it is written. (By itself, so that no definer function looks for names in pgvector's schema.)
CREATE OR REPLACE FUNCTION scopefloor.vector_of(written text) RETURNS halfvec
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$ -- pgvector is in one of the first two
  SELECT written::halfvec
$$;

-- Makes passages for facts at a scope, for recall. `given`: what the service has made of new ones,
-- [{id, embedding, digest, suspicious}]; to the vectors of others the queue sees.
CREATE OR REPLACE FUNCTION scopefloor.recall_facts(at_scope int, fact_ids uuid[], given jsonb, of_embedder int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF cardinality(fact_ids) = 0 THEN
    RETURN;
  END IF;
  WITH facts AS (
    SELECT a.tenant_id, a.id, a.session_id, a.api_key_id, a.sentence, a.labels, a.category, a.tokens, a.terms, a.lexemes, a.languages, a.analyser, a.valid_from, a.valid_until
    FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = ANY (fact_ids)
    UNION ALL
    SELECT r.tenant_id, r.id, r.session_id, r.api_key_id, r.sentence, r.labels, r.category, r.tokens, r.terms, r.lexemes, r.languages, r.analyser, r.valid_from, r.valid_until
    FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = ANY (fact_ids))
  INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, session_id, api_key_id, author, text, labels, category, tokens, terms, lexemes, languages, analyser,
                                  embedding, embedder_id, observed_at, starts_at, ends_at, digest, suspicious)
  SELECT f.tenant_id, at_scope, f.id, 'attribute', f.session_id, f.api_key_id,
         coalesce((SELECT k.principal FROM scopefloor.api_key k WHERE k.id = f.api_key_id), 'agent'), f.sentence, f.labels, f.category, f.tokens,
         f.terms, f.lexemes, f.languages, f.analyser,
         scopefloor.vector_of(g.embedding), CASE WHEN g.id IS NOT NULL THEN of_embedder END, f.valid_from, CASE WHEN f.valid_from > clock_timestamp() THEN f.valid_from END, f.valid_until,
         decode(g.digest, 'hex'), ARRAY(SELECT jsonb_array_elements_text(g.suspicious))
  FROM facts f LEFT JOIN jsonb_to_recordset(given)
    AS g(id uuid, embedding text, digest text, suspicious jsonb) ON g.id = f.id;
  -- One that comes back has no vector yet.
  IF EXISTS (SELECT 1 FROM unnest(fact_ids) f WHERE NOT given @> jsonb_build_array(jsonb_build_object('id', f))) THEN
    PERFORM scopefloor.order_job(at_scope, gen_random_uuid(), 'embed');
  END IF;
END $$;

-- The observation next to a place in the order of a key: the last before it, or the first after it. (By kind, so
-- that the order comes out of the index.)
CREATE OR REPLACE FUNCTION scopefloor.observation_beside(at_scope int, of_kind text, subject uuid, of_key uuid, at_time timestamptz, at_observation uuid, is_after bool,
                                                         OUT valid_from timestamptz, OUT observation_id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF of_kind = 'attribute' AND is_after THEN
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.attribute f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) > (at_time, at_observation)
    ORDER BY f.valid_from, f.observation_id LIMIT 1;
  ELSIF of_kind = 'attribute' THEN
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.attribute f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) < (at_time, at_observation)
    ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  ELSIF is_after THEN
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.relation f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) > (at_time, at_observation)
    ORDER BY f.valid_from, f.observation_id LIMIT 1;
  ELSE
    SELECT f.valid_from, f.observation_id INTO valid_from, observation_id FROM scopefloor.relation f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND (f.valid_from, f.observation_id) < (at_time, at_observation)
    ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  END IF;
END $$;

-- The fact that a row belongs to: of those that say `said`, the first row of the run at a place in the order.
CREATE OR REPLACE FUNCTION scopefloor.fact_at(at_scope int, of_kind text, subject uuid, of_key uuid, said jsonb, at_time timestamptz, at_observation uuid,
                                              OUT id uuid, OUT valid_from timestamptz, OUT valid_until timestamptz, OUT superseded_by uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF of_kind = 'attribute' THEN
    SELECT f.id, f.valid_from, f.valid_until, f.superseded_by INTO id, valid_from, valid_until, superseded_by FROM scopefloor.attribute f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND NOT f.is_confirmation AND f.value = said
      AND (f.valid_from, f.observation_id) <= (at_time, at_observation) ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  ELSE
    SELECT f.id, f.valid_from, f.valid_until, f.superseded_by INTO id, valid_from, valid_until, superseded_by FROM scopefloor.relation f
    WHERE f.scope_id = at_scope AND f.entity_id = subject AND f.key_hash = of_key AND f.expired_at IS NULL AND NOT f.is_confirmation AND f.target_id = (said #>> '{}')::uuid
      AND (f.valid_from, f.observation_id) <= (at_time, at_observation) ORDER BY f.valid_from DESC, f.observation_id DESC LIMIT 1;
  END IF;
END $$;

-- Works out what follows from the observations of a key between two of them (null: from the first, to the
-- last), where those outside are settled: a new one changes what its neighbours mean, and nothing beyond. The
-- arguments behind are recall_facts'.
CREATE OR REPLACE FUNCTION scopefloor.settle_facts(at_scope int, of_kind text, subject uuid, of_key uuid, from_time timestamptz, from_observation uuid,
                                                   to_time timestamptz, to_observation uuid, given jsonb, of_embedder int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_now timestamptz := clock_timestamp();
  settled jsonb; -- [{id, heads, until, by}]: heads is false for what confirms another
BEGIN
  -- Before anything is deleted: whoever packs the tail waits for deletions (5_word_index.sql).
  PERFORM pg_advisory_xact_lock_shared(7702, at_scope);
  WITH said AS MATERIALIZED (
    SELECT o.*, dense_rank() OVER (ORDER BY o.valid_from, o.observation_id) AS n
    FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o
    WHERE (o.valid_from, o.observation_id) >= (coalesce(from_time, '-infinity'), coalesce(from_observation, '00000000-0000-0000-0000-000000000000'))
      AND (o.valid_from, o.observation_id) <= (coalesce(to_time, 'infinity'), coalesce(to_observation, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))),
  groups AS MATERIALIZED (
    SELECT g.n, lead(g.valid_from) OVER w AS next_from, lead(g.observation_id) OVER w AS next_observation,
           to_time IS NOT NULL AND row_number() OVER (ORDER BY g.n DESC) = 1 AS is_edge -- what follows is settled
    FROM (SELECT DISTINCT n, valid_from, observation_id FROM said) g WINDOW w AS (ORDER BY g.n)),
  placed AS (
    SELECT s.*,
           CASE WHEN lag(s.n) OVER w IS NULL THEN s.n = 1 AND from_time IS NOT NULL AND s.is_confirmation
                ELSE lag(s.n) OVER w >= s.n - 1 AND NOT coalesce(lag(s.stops_at) OVER w <= s.valid_from, false) END AS continues
    FROM said s WINDOW w AS (PARTITION BY s.what ORDER BY s.n, s.id)),
  numbered AS (
    SELECT p.*, count(*) FILTER (WHERE NOT p.continues) OVER (PARTITION BY p.what ORDER BY p.n, p.id) AS run FROM placed p),
  runs AS (
    SELECT d.what, max(d.n) AS last, (array_agg(d.stops_at ORDER BY d.n DESC, d.id DESC))[1] AS stops_at,
           CASE WHEN bool_or(NOT d.continues) THEN (array_agg(d.id ORDER BY d.n, d.id))[1]
                ELSE (SELECT f.id FROM scopefloor.fact_at(at_scope, of_kind, subject, of_key, d.what, from_time, from_observation) f) END AS head -- it began before
    FROM numbered d GROUP BY d.what, d.run),
  ends AS (
    SELECT r.head, CASE WHEN g.is_edge THEN f.valid_until ELSE least(r.stops_at, g.next_from) END AS until,
           CASE WHEN g.is_edge THEN f.superseded_by WHEN (g.next_from <= r.stops_at) IS NOT FALSE THEN g.next_observation END AS by
    FROM runs r JOIN groups g ON g.n = r.last
    -- One that goes on beyond ends as it did.
    LEFT JOIN LATERAL scopefloor.fact_at(at_scope, of_kind, subject, of_key, r.what, to_time, to_observation) f ON g.is_edge)
  SELECT coalesce(jsonb_agg(jsonb_build_object('id', x.id, 'heads', x.heads, 'until', x.until, 'by', x.by)), '[]') INTO settled FROM (
    SELECT s.id, false AS heads, NULL::timestamptz AS until, NULL::uuid AS by FROM said s LEFT JOIN ends e ON e.head = s.id WHERE e.head IS NULL
    UNION ALL SELECT e.head, true, e.until, e.by FROM ends e) x;
  IF of_kind = 'attribute' THEN
    UPDATE scopefloor.attribute f
    SET is_confirmation = NOT s.heads, valid_until = s.until, superseded_by = s.by,
        closed_at = CASE WHEN s.until <= at_now THEN coalesce(f.closed_at, CASE WHEN s.by IS NOT NULL THEN at_now END) END
    FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz, by uuid)
    WHERE f.scope_id = at_scope AND f.id = s.id AND (f.is_confirmation, f.valid_until, f.superseded_by) IS DISTINCT FROM (NOT s.heads, s.until, s.by);
  ELSE
    UPDATE scopefloor.relation f
    SET is_confirmation = NOT s.heads, valid_until = s.until, superseded_by = s.by,
        closed_at = CASE WHEN s.until <= at_now THEN coalesce(f.closed_at, CASE WHEN s.by IS NOT NULL THEN at_now END) END
    FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz, by uuid)
    WHERE f.scope_id = at_scope AND f.id = s.id AND (f.is_confirmation, f.valid_until, f.superseded_by) IS DISTINCT FROM (NOT s.heads, s.until, s.by);
  END IF;
  -- What is over is not recalled for the present; what is not has one passage.
  DELETE FROM scopefloor.passage p USING jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz)
  WHERE p.scope_id = at_scope AND p.id = s.id AND p.kind = 'attribute' AND NOT (s.heads AND (s.until > at_now) IS NOT FALSE);
  UPDATE scopefloor.passage p SET ends_at = s.until FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz)
  WHERE p.scope_id = at_scope AND p.id = s.id AND p.kind = 'attribute' AND p.ends_at IS DISTINCT FROM s.until;
  PERFORM scopefloor.recall_facts(at_scope, ARRAY(
    SELECT s.id FROM jsonb_to_recordset(settled) AS s(id uuid, heads bool, until timestamptz)
    WHERE s.heads AND (s.until > at_now) IS NOT FALSE AND NOT EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = s.id)), given, of_embedder);
END $$;

-- When what is so for a while ends: after the item's lifetime in seconds. (No later than a time has four digits for its year.)
CREATE OR REPLACE FUNCTION scopefloor.end_of(observed timestamptz, item jsonb) RETURNS timestamptz
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN item ? 'lifetime' THEN least(observed + make_interval(secs => (item->>'lifetime')::float8), '9999-12-31T23:59:59Z') END
$$;

-- Stores one observation: `items`, which are said together under one key of an entity. Gives for each
-- {id, entityId, stored, current, superseded: [ids]}, in their order; of what confirms a fact the id is that fact's.
-- `unrecalled`: nothing else is known of the key, and whoever calls makes the passages, for many at once.
CREATE OR REPLACE FUNCTION scopefloor.put_observation(t jsonb, of_kind text, subject uuid, items jsonb, learnt timestamptz, in_session uuid, in_turn uuid, of_embedder int)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  observed timestamptz := coalesce((items->0->>'at')::timestamptz, learnt);
  of_key uuid := scopefloor.word_hash(scopefloor.word_secret(at_tenant, at_scope), items->0->>'normalKey');
  observation uuid := (SELECT min(x->>'id') FROM jsonb_array_elements(items) x)::uuid;
  before record; -- the observations beside this one
  next record;
  cut record; -- where what was known before it ended, by what was forgotten since
  said jsonb := (SELECT jsonb_agg(DISTINCT x->'what') FROM jsonb_array_elements(items) x);
  is_stored bool := true;
  is_alone bool;
BEGIN
  before := scopefloor.observation_beside(at_scope, of_kind, subject, of_key, observed, observation, false);
  next := scopefloor.observation_beside(at_scope, of_kind, subject, of_key, observed, observation, true);
  is_alone := before.valid_from IS NULL AND next.valid_from IS NULL;
  IF before.valid_from IS NOT NULL THEN
    SELECT min(x.cut_at) AS at, min(x.cut_known_at) AS known_at INTO cut FROM (
      SELECT a.cut_at, a.cut_known_at FROM scopefloor.attribute a
      WHERE of_kind = 'attribute' AND a.scope_id = at_scope AND a.entity_id = subject AND a.key_hash = of_key AND a.valid_from = before.valid_from AND a.observation_id = before.observation_id
      UNION ALL
      SELECT r.cut_at, r.cut_known_at FROM scopefloor.relation r
      WHERE of_kind = 'relation' AND r.scope_id = at_scope AND r.entity_id = subject AND r.key_hash = of_key AND r.valid_from = before.valid_from AND r.observation_id = before.observation_id) x
    WHERE x.cut_at > observed;
  ELSE
    SELECT NULL::timestamptz AS at, NULL::timestamptz AS known_at INTO cut;
  END IF;
  -- The very same, of the very same time, is nothing new.
  IF before.valid_from = observed THEN
    is_stored := said IS DISTINCT FROM (SELECT jsonb_agg(DISTINCT o.what) FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o
                                        WHERE o.valid_from = before.valid_from AND o.observation_id = before.observation_id);
  END IF;
  -- (Until it is settled a row stands for no fact.)
  IF is_stored AND of_kind = 'attribute' THEN
    INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, value, key, normal_key, category, sentence, tokens, terms, lexemes, languages, analyser, labels,
                                      valid_from, observation_id, is_confirmation, ends_at, valid_until, cut_at, cut_known_at, session_id, turn_id, api_key_id, created_at)
    SELECT at_tenant, at_scope, (x->>'id')::uuid, subject, x->'what', x->>'key', x->>'normalKey', x->>'category', x->>'sentence', (x->>'tokens')::int, decode(x->>'terms', 'hex'), (x->>'words')::int, x->>'languages', (x->>'analyser')::smallint,
           ARRAY(SELECT jsonb_array_elements_text(x->'labels')), observed, observation, NOT is_alone, scopefloor.end_of(observed, x), scopefloor.end_of(observed, x), cut.at, cut.known_at, in_session, in_turn, (t->>'key')::uuid, learnt
    FROM jsonb_array_elements(items) x;
  ELSIF is_stored THEN
    INSERT INTO scopefloor.relation (tenant_id, scope_id, id, entity_id, target_id, key, normal_key, category, sentence, tokens, terms, lexemes, languages, analyser, labels,
                                     valid_from, observation_id, is_confirmation, ends_at, valid_until, cut_at, cut_known_at, session_id, turn_id, api_key_id, created_at)
    SELECT DISTINCT ON (x->'what') at_tenant, at_scope, (x->>'id')::uuid, subject, (x->>'what')::uuid, x->>'key', x->>'normalKey', x->>'category', x->>'sentence', (x->>'tokens')::int, decode(x->>'terms', 'hex'), (x->>'words')::int, x->>'languages', (x->>'analyser')::smallint,
           ARRAY(SELECT jsonb_array_elements_text(x->'labels')), observed, observation, NOT is_alone, scopefloor.end_of(observed, x), scopefloor.end_of(observed, x), cut.at, cut.known_at, in_session, in_turn, (t->>'key')::uuid, learnt
    FROM jsonb_array_elements(items) x ORDER BY x->'what', x->>'id';
  END IF;
  IF is_stored AND NOT is_alone THEN
    PERFORM scopefloor.settle_facts(at_scope, of_kind, subject, of_key, before.valid_from, before.observation_id, next.valid_from, next.observation_id, items, of_embedder);
  END IF;
  RETURN (
    SELECT jsonb_agg(jsonb_build_object(
             'id', head.id, 'entityId', subject, 'stored', head.id = (x->>'id')::uuid,
             'current', head.valid_from <= clock_timestamp() AND (head.valid_until > clock_timestamp()) IS NOT FALSE,
             'unrecalled', is_alone AND head.id = (x->>'id')::uuid AND (head.valid_until > clock_timestamp()) IS NOT FALSE,
             'superseded', CASE WHEN head.id = (x->>'id')::uuid AND NOT is_alone
               THEN (SELECT coalesce(jsonb_agg(DISTINCT f.id), '[]') FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o,
                     LATERAL scopefloor.fact_at(at_scope, of_kind, subject, of_key, o.what, before.valid_from, before.observation_id) f
                     WHERE o.valid_from = before.valid_from AND o.observation_id = before.observation_id AND f.superseded_by = observation) ELSE '[]' END) ORDER BY n)
    FROM jsonb_array_elements(items) WITH ORDINALITY i(x, n),
    LATERAL scopefloor.fact_at(at_scope, of_kind, subject, of_key, x->'what', observed, observation) head);
END $$;

-- Stores triples at the ticket's write scope, in their order:
--   [{id, entity: {type, name, identity, folded}, key, normalKey, value? | target?: an entity, category, sentence, tokens,
--     labels, at?, lifetime? (seconds), terms, words, languages, analyser, embedding, digest, suspicious}]
-- Several targets of one key are one observation; of several values the later one follows the earlier.
-- Gives for each what put_observation says of it, with targetId and newEntities: [ids].
CREATE OR REPLACE FUNCTION scopefloor.put_triples(triples jsonb, in_session uuid, in_turn uuid, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_tenant int := (t->>'tenant')::int;
  at_scope int := (t->>'write')::int;
  named jsonb; -- the entities' ids by their identity
  learnt timestamptz;
  said record;
  done jsonb := '{}';
BEGIN
  -- In the order of their names, so that nobody waits in a circle.
  SELECT coalesce(jsonb_object_agg(e.named->>'identity', scopefloor.ensure_entity(at_tenant, at_scope, e.named, (t->>'key')::uuid)), '{}') INTO named
  FROM (SELECT DISTINCT ON (x->>'identity') x AS named
        FROM jsonb_array_elements(triples) WITH ORDINALITY y(y, n), LATERAL (VALUES (y->'entity'), (y->'target')) v(x)
        WHERE jsonb_typeof(x) = 'object' ORDER BY x->>'identity', n) e;
  -- After the wait for whoever changes the same entities: of one entity what is learnt later has the later time.
  learnt := clock_timestamp();
  FOR said IN
    SELECT i.kind, (named->>i.identity)::uuid AS subject, jsonb_agg(i.x || jsonb_build_object('what', i.what) ORDER BY i.n) AS items, min(i.n) AS first
    FROM (SELECT x, n, x->'entity'->>'identity' AS identity, CASE WHEN jsonb_typeof(x->'target') = 'object' THEN 'relation' ELSE 'attribute' END AS kind,
                 CASE WHEN jsonb_typeof(x->'target') = 'object' THEN named->(x->'target'->>'identity') ELSE x->'value' END AS what
          FROM jsonb_array_elements(triples) WITH ORDINALITY y(x, n)) i
    GROUP BY i.kind, i.identity, i.x->>'normalKey', CASE WHEN i.kind = 'attribute' THEN i.n END ORDER BY 4
  LOOP
    done := done || (
      SELECT jsonb_object_agg(said.items->(o.n::int - 1)->>'id', o.outcome)
      FROM jsonb_array_elements(scopefloor.put_observation(t, said.kind, said.subject, said.items, learnt, in_session, in_turn, of_embedder)) WITH ORDINALITY o(outcome, n));
  END LOOP;
  PERFORM scopefloor.recall_facts(at_scope, ARRAY(SELECT o.key::uuid FROM jsonb_each(done) o WHERE (o.value->>'unrecalled')::bool
    -- (A later one of the same call may have come to the same key, and settled it.)
    AND NOT EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = o.key::uuid)
    AND EXISTS (SELECT 1 FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = o.key::uuid AND NOT a.is_confirmation AND (a.valid_until > clock_timestamp()) IS NOT FALSE
                UNION ALL SELECT 1 FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = o.key::uuid AND NOT r.is_confirmation AND (r.valid_until > clock_timestamp()) IS NOT FALSE)), triples, of_embedder);
  RETURN (
    SELECT coalesce(jsonb_agg((done->(x->>'id')) - 'unrecalled' || jsonb_strip_nulls(jsonb_build_object(
             'targetId', named->(x->'target'->>'identity'),
             -- Rows of this very transaction.
             'newEntities', ARRAY(SELECT e.id FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.xmin = pg_current_xact_id()::xid
                                  AND e.id IN ((named->>(x->'entity'->>'identity'))::uuid, (named->>(x->'target'->>'identity'))::uuid)))) ORDER BY n), '[]')
    FROM jsonb_array_elements(triples) WITH ORDINALITY y(x, n));
END $$;

--> statement-breakpoint
-- src/db/sql/2_memory/8_facts_over.sql
-- Facts that are forgotten, deleted, or over (7_facts.sql says how facts are kept).

-- Forgets these rows: out of every answer (kept for audit), or for good. What was observed before ends where
-- they began: that something else was known does not make the earlier true again. Gives how many by table.
CREATE OR REPLACE FUNCTION scopefloor.forget_facts(fact_ids uuid[], for_good bool) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.forget_ticket();
  reached int[];
  key record;
  attributes int := 0;
  relations int := 0;
  taken int;
BEGIN
  reached := scopefloor.ids_in(t->'modify');
  -- In the order in which whoever writes locks them.
  PERFORM 1 FROM scopefloor.entity e
  WHERE (e.scope_id = ANY (reached) OR (t->'modify'->>'all')::bool) AND e.id IN (
    SELECT a.entity_id FROM scopefloor.attribute a WHERE a.id = ANY (fact_ids) UNION SELECT r.entity_id FROM scopefloor.relation r WHERE r.id = ANY (fact_ids))
  ORDER BY e.scope_id, e.identity FOR NO KEY UPDATE;
  FOR key IN
    SELECT f.scope_id, f.kind, f.entity_id, f.key_hash, array_agg(f.id) AS ids FROM (
      SELECT a.scope_id, 'attribute' AS kind, a.entity_id, a.key_hash, a.id FROM scopefloor.attribute a WHERE a.id = ANY (fact_ids)
      UNION ALL SELECT r.scope_id, 'relation', r.entity_id, r.key_hash, r.id FROM scopefloor.relation r WHERE r.id = ANY (fact_ids)) f
    WHERE f.scope_id = ANY (reached) OR (t->'modify'->>'all')::bool
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 2, 4
  LOOP
    PERFORM scopefloor.cut_before(key.scope_id, key.kind, key.entity_id, key.key_hash, key.ids);
    IF key.kind = 'attribute' THEN
      IF for_good THEN
        DELETE FROM scopefloor.attribute a WHERE a.scope_id = key.scope_id AND a.id = ANY (key.ids);
      ELSE
        UPDATE scopefloor.attribute a SET expired_at = now(), terms = NULL WHERE a.scope_id = key.scope_id AND a.id = ANY (key.ids) AND a.expired_at IS NULL;
      END IF;
      GET DIAGNOSTICS taken = ROW_COUNT;
      attributes := attributes + taken;
    ELSE
      IF for_good THEN
        DELETE FROM scopefloor.relation r WHERE r.scope_id = key.scope_id AND r.id = ANY (key.ids);
      ELSE
        UPDATE scopefloor.relation r SET expired_at = now(), terms = NULL WHERE r.scope_id = key.scope_id AND r.id = ANY (key.ids) AND r.expired_at IS NULL;
      END IF;
      GET DIAGNOSTICS taken = ROW_COUNT;
      relations := relations + taken;
    END IF;
    PERFORM scopefloor.settle_facts(key.scope_id, key.kind, key.entity_id, key.key_hash, NULL, NULL, NULL, NULL, '[]', NULL);
  END LOOP;
  RETURN jsonb_build_object('attribute', attributes, 'relation', relations);
END $$;

-- Holds entities that are about to be deleted: nothing is said of them any more until then.
CREATE OR REPLACE FUNCTION scopefloor.hold_entities(ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.forget_ticket();
BEGIN
  PERFORM 1 FROM scopefloor.entity e
  WHERE e.id = ANY (ids) AND (e.scope_id = ANY (scopefloor.ids_in(t->'modify')) OR (t->'modify'->>'all')::bool)
  ORDER BY e.scope_id, e.identity FOR UPDATE;
END $$;

-- Notes at the observation before one that goes as a whole where it ended, unless they say the same.
CREATE OR REPLACE FUNCTION scopefloor.cut_before(at_scope int, of_kind text, subject uuid, of_key uuid, gone uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  cut record;
BEGIN
  FOR cut IN
    WITH said AS MATERIALIZED (
      SELECT o.*, o.id = ANY (gone) AS goes, dense_rank() OVER (ORDER BY o.valid_from, o.observation_id) AS n
      FROM scopefloor.observations(at_scope, of_kind, subject, of_key) o),
    whole AS (SELECT s.n, min(s.valid_from) AS at FROM said s GROUP BY s.n HAVING bool_and(s.goes)),
    -- Before each observation that goes the last one that stays.
    stays AS (
      SELECT g.n, max(g.n) FILTER (WHERE NOT g.goes) OVER (ORDER BY g.n) AS last
      FROM (SELECT s.n, bool_and(s.goes) AS goes FROM said s GROUP BY s.n) g)
    -- Of what goes together the first: what stays ends where that began.
    SELECT s.id, min(w.at) AS at FROM whole w JOIN stays y ON y.n = w.n JOIN said s ON s.n = y.last
    WHERE NOT s.goes AND NOT EXISTS (SELECT 1 FROM said g WHERE g.n = w.n AND g.what = s.what)
    GROUP BY s.id
  LOOP
    UPDATE scopefloor.attribute a
    SET cut_at = least(a.cut_at, cut.at), cut_known_at = least(a.cut_known_at, (SELECT min(g.created_at) FROM scopefloor.attribute g WHERE g.scope_id = at_scope AND g.id = ANY (gone) AND g.valid_from = cut.at))
    WHERE of_kind = 'attribute' AND a.scope_id = at_scope AND a.id = cut.id;
    UPDATE scopefloor.relation r
    SET cut_at = least(r.cut_at, cut.at), cut_known_at = least(r.cut_known_at, (SELECT min(g.created_at) FROM scopefloor.relation g WHERE g.scope_id = at_scope AND g.id = ANY (gone) AND g.valid_from = cut.at))
    WHERE of_kind = 'relation' AND r.scope_id = at_scope AND r.id = cut.id;
  END LOOP;
END $$;

-- Closes what is over, `most` rows of each kind at a time: facts, which stay findable for the past,
-- passages of what was said for a while, which are expired, and keyed items, which are deleted. At these scopes, or everywhere (null). Gives how many.
CREATE OR REPLACE FUNCTION scopefloor.end_over(ids int[], most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_now timestamptz := now();
  affected int := 0;
  at_scope int; -- one scope after the other, by its own index; null: all of them at once, by that of the times
  taken int;
BEGIN
  FOREACH at_scope IN ARRAY coalesce(ids, ARRAY[NULL::int]) LOOP
    UPDATE scopefloor.attribute f SET closed_at = at_now
    FROM (SELECT o.scope_id, o.id FROM scopefloor.attribute o WHERE at_scope IS NULL AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = over.scope_id AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    UPDATE scopefloor.attribute f SET closed_at = at_now
    FROM (SELECT o.id FROM scopefloor.attribute o WHERE o.scope_id = at_scope AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = at_scope AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    UPDATE scopefloor.relation f SET closed_at = at_now
    FROM (SELECT o.scope_id, o.id FROM scopefloor.relation o WHERE at_scope IS NULL AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = over.scope_id AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    UPDATE scopefloor.relation f SET closed_at = at_now
    FROM (SELECT o.id FROM scopefloor.relation o WHERE o.scope_id = at_scope AND o.closed_at IS NULL AND o.valid_until <= at_now ORDER BY o.valid_until LIMIT most FOR UPDATE SKIP LOCKED) over
    WHERE f.scope_id = at_scope AND f.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    -- (An item takes its passage with it, below.)
    WITH over AS MATERIALIZED (
      SELECT * FROM (SELECT p.scope_id, p.id, p.kind FROM scopefloor.passage p
                     WHERE at_scope IS NULL AND p.ends_at <= at_now AND p.expired_at IS NULL AND p.kind <> 'item' ORDER BY p.ends_at LIMIT most FOR UPDATE SKIP LOCKED) anywhere
      UNION ALL
      SELECT * FROM (SELECT p.scope_id, p.id, p.kind FROM scopefloor.passage p
                     WHERE p.scope_id = at_scope AND p.ends_at <= at_now AND p.expired_at IS NULL AND p.kind <> 'item' ORDER BY p.ends_at LIMIT most FOR UPDATE SKIP LOCKED) here),
    removed AS (
      DELETE FROM scopefloor.passage p USING over WHERE p.scope_id = over.scope_id AND p.id = over.id AND over.kind = 'attribute'),
    expired AS (
      UPDATE scopefloor.passage p SET expired_at = at_now, embedding = NULL, embedder_id = NULL, terms = '' FROM over
      WHERE p.scope_id = over.scope_id AND p.id = over.id AND over.kind <> 'attribute' RETURNING 1)
    SELECT count(*) INTO taken FROM expired;
    affected := affected + taken;
    DELETE FROM scopefloor.memory_item m USING (
      SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.memory_item o WHERE at_scope IS NULL AND o.expires_at <= at_now AND NOT scopefloor.is_row_held('memory_item', o.scope_id, to_jsonb(o)) ORDER BY o.expires_at LIMIT most FOR UPDATE SKIP LOCKED) anywhere
      UNION ALL
      SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.memory_item o WHERE o.scope_id = at_scope AND o.expires_at <= at_now AND NOT scopefloor.is_row_held('memory_item', o.scope_id, to_jsonb(o)) LIMIT most FOR UPDATE SKIP LOCKED) here) over
    WHERE m.scope_id = over.scope_id AND m.id = over.id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    affected := affected + taken;
    -- What has begun is like any other from now on.
    UPDATE scopefloor.passage p SET starts_at = NULL
    FROM (SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.passage o WHERE at_scope IS NULL AND o.starts_at <= at_now ORDER BY o.starts_at LIMIT most FOR UPDATE SKIP LOCKED) anywhere
          UNION ALL
          SELECT * FROM (SELECT o.scope_id, o.id FROM scopefloor.passage o WHERE o.scope_id = at_scope AND o.starts_at <= at_now ORDER BY o.starts_at LIMIT most FOR UPDATE SKIP LOCKED) here) begun
    WHERE p.scope_id = begun.scope_id AND p.id = begun.id;
  END LOOP;
  RETURN affected;
END $$;

-- The same below the ticket's floor, for a caller who may forget there.
CREATE OR REPLACE FUNCTION scopefloor.end_over_within(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' <> 'forget' OR most NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN scopefloor.end_over(CASE WHEN (t->'modify'->>'all')::bool THEN NULL ELSE scopefloor.ids_in(t->'modify') END, most);
END $$;

-- The same everywhere, in the worker's housekeeping.
CREATE OR REPLACE FUNCTION scopefloor.end_over_anywhere(most int) RETURNS int
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.end_over(NULL, most)
$$;

--> statement-breakpoint
-- src/db/sql/2_memory/9_memories.sql
-- One memory, by the id that recall gives it: a turn's passage, a fact, or a keyed item. The transaction was entered
-- to write where it is (scopefloor.resolve_place).

-- Changes what is given of it at the ticket's write scope, and keeps the rest:
--   {text?: {said, tokens, terms, words, languages, analyser, cues?, digest, suspicious, embedding?}, value?, labels?, endsAt? (null: never), keepHistory?}
-- text: of a turn what it says; of an attribute the sentence for its new `value`; of an item there is `value` alone.
-- Gives {id}, which is another one where a fact now says what another one says; of an item that is recalled and has a new
-- value also {indexed: [fields], endsAt}, for whoever stores its passage. NULL: it is not there any more.
CREATE OR REPLACE FUNCTION scopefloor.correct_memory(of_id uuid, change jsonb, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  at_scope int := (t->>'write')::int;
  of_kind text;
  item scopefloor.memory_item;
BEGIN
  -- The one that was entered for: whose it is was looked at then.
  IF (t->>'memory')::uuid IS DISTINCT FROM of_id THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for this memory' USING ERRCODE = 'insufficient_privilege';
  END IF;
  SELECT p.kind INTO of_kind FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = of_id AND p.expired_at IS NULL;
  IF of_kind = 'turn' THEN
    RETURN scopefloor.correct_turn(t, of_id, change, of_embedder);
  ELSIF of_kind = 'attribute' THEN
    RETURN scopefloor.correct_fact(at_scope, of_id, change, of_embedder);
  END IF;
  UPDATE scopefloor.memory_item m
  SET value = CASE WHEN change ? 'value' THEN change->'value' ELSE m.value END,
      expires_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE m.expires_at END,
      version = m.version + CASE WHEN change ? 'value' THEN 1 ELSE 0 END, ttl_seconds = CASE WHEN NOT change ? 'endsAt' THEN m.ttl_seconds END,
      api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp()
  WHERE m.scope_id = at_scope AND m.id = of_id AND (m.expires_at > now()) IS NOT FALSE
  RETURNING * INTO item;
  IF item.id IS NULL OR item.indexed IS NULL THEN
    RETURN CASE WHEN item.id IS NOT NULL THEN jsonb_build_object('id', of_id) END;
  ELSIF change ? 'value' THEN
    PERFORM scopefloor.unrecall_items(at_scope, ARRAY[of_id]);
    RETURN jsonb_build_object('id', of_id, 'indexed', item.indexed, 'endsAt', scopefloor.rfc3339(item.expires_at));
  END IF;
  UPDATE scopefloor.passage p SET ends_at = item.expires_at WHERE p.scope_id = at_scope AND p.id = of_id AND p.kind = 'item';
  RETURN jsonb_build_object('id', of_id);
END $$;

CREATE OR REPLACE FUNCTION scopefloor.correct_turn(t jsonb, of_id uuid, change jsonb, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int := (t->>'write')::int;
  most_former constant int := 20;
  new_text jsonb := change->'text';
  p scopefloor.passage;
  place int;
BEGIN
  SELECT * INTO p FROM scopefloor.passage o WHERE o.scope_id = at_scope AND o.id = of_id AND o.expired_at IS NULL FOR UPDATE;
  IF p.id IS NULL THEN
    RETURN NULL;
  END IF;
  IF new_text IS NOT NULL AND (change->>'keepHistory')::bool THEN
    IF (SELECT count(*) FROM scopefloor.turn o WHERE o.scope_id = at_scope AND o.corrected_id = p.turn_id) >= most_former THEN
      RETURN jsonb_build_object('full', most_former);
    END IF;
    -- The former text is a turn that was expired, at the end of its session.
    UPDATE scopefloor.session s SET next_seq = s.next_seq + 1 WHERE s.scope_id = at_scope AND s.id = p.session_id RETURNING s.next_seq - 1 INTO place;
    INSERT INTO scopefloor.turn (tenant_id, scope_id, id, session_id, api_key_id, role, content, seq, observed_at, created_at, expired_at, corrected_id)
    SELECT o.tenant_id, o.scope_id, gen_random_uuid(), o.session_id, o.api_key_id, o.role, o.content, place, o.observed_at, o.created_at, clock_timestamp(), o.id
    FROM scopefloor.turn o WHERE o.scope_id = at_scope AND o.id = p.turn_id;
  END IF;
  IF new_text IS NOT NULL THEN
    UPDATE scopefloor.turn o SET content = new_text->>'said' WHERE o.scope_id = at_scope AND o.id = p.turn_id;
    -- It stands at the end of the tail then, as if it had just come. (embedder_id: the model has looked at it.)
    UPDATE scopefloor.passage o
    SET text = new_text->>'said', tokens = (new_text->>'tokens')::int, terms = decode(new_text->>'terms', 'hex'), lexemes = (new_text->>'words')::int,
        languages = new_text->>'languages', analyser = (new_text->>'analyser')::smallint, cues = (new_text->>'cues')::smallint,
        digest = decode(new_text->>'digest', 'hex'), suspicious = ARRAY(SELECT jsonb_array_elements_text(new_text->'suspicious')),
        embedding = scopefloor.vector_of(new_text->>'embedding'), embedder_id = CASE WHEN new_text ? 'embedding' THEN of_embedder END, seq = DEFAULT
    WHERE o.scope_id = at_scope AND o.id = of_id;
  END IF;
  UPDATE scopefloor.passage o
  SET labels = CASE WHEN change ? 'labels' THEN ARRAY(SELECT jsonb_array_elements_text(change->'labels')) ELSE o.labels END,
      ends_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE o.ends_at END
  WHERE o.scope_id = at_scope AND o.id = of_id AND change ?| ARRAY['labels', 'endsAt'];
  RETURN jsonb_build_object('id', of_id);
END $$;

-- An attribute's value, and all that confirms it; the labels and the end of a fact.
CREATE OR REPLACE FUNCTION scopefloor.correct_fact(at_scope int, of_id uuid, change jsonb, of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  new_text jsonb := change->'text';
  f record;
  rows uuid[];
  given jsonb := '[]';
  head uuid;
BEGIN
  SELECT * INTO f FROM (
    SELECT 'attribute' AS kind, a.entity_id, a.key_hash, a.value AS what FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = of_id AND a.expired_at IS NULL
    UNION ALL
    SELECT 'relation', r.entity_id, r.key_hash, to_jsonb(r.target_id) FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = of_id AND r.expired_at IS NULL) o;
  IF f.kind IS NULL OR (f.kind = 'relation' AND change ? 'value') THEN
    RETURN NULL;
  END IF;
  -- Whoever says something of the entity waits, and sees what this leaves.
  PERFORM 1 FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.id = f.entity_id FOR NO KEY UPDATE;
  rows := ARRAY(
    SELECT o.id FROM scopefloor.observations(at_scope, f.kind, f.entity_id, f.key_hash) o,
      LATERAL scopefloor.fact_at(at_scope, f.kind, f.entity_id, f.key_hash, o.what, o.valid_from, o.observation_id) h
    WHERE o.what = f.what AND h.id = of_id);
  IF cardinality(rows) = 0 THEN
    RETURN NULL;
  END IF;
  IF new_text IS NOT NULL THEN
    UPDATE scopefloor.attribute a
    SET value = change->'value', sentence = new_text->>'said', tokens = (new_text->>'tokens')::int, terms = decode(new_text->>'terms', 'hex'),
        lexemes = (new_text->>'words')::int, languages = new_text->>'languages', analyser = (new_text->>'analyser')::smallint
    WHERE a.scope_id = at_scope AND a.id = ANY (rows);
    given := jsonb_build_array(jsonb_build_object('id', of_id, 'digest', new_text->'digest', 'suspicious', new_text->'suspicious')
      || CASE WHEN new_text ? 'embedding' THEN jsonb_build_object('embedding', new_text->'embedding') ELSE '{}' END);
    -- Before the tail's lock is asked for by a deletion: settle_facts.
    PERFORM pg_advisory_xact_lock_shared(7702, at_scope);
    DELETE FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.id = of_id AND p.kind = 'attribute';
  END IF;
  UPDATE scopefloor.attribute a
  SET labels = CASE WHEN change ? 'labels' THEN ARRAY(SELECT jsonb_array_elements_text(change->'labels')) ELSE a.labels END,
      ends_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE a.ends_at END
  WHERE f.kind = 'attribute' AND a.scope_id = at_scope AND a.id = ANY (rows) AND change ?| ARRAY['labels', 'endsAt'];
  UPDATE scopefloor.relation r
  SET labels = CASE WHEN change ? 'labels' THEN ARRAY(SELECT jsonb_array_elements_text(change->'labels')) ELSE r.labels END,
      ends_at = CASE WHEN change ? 'endsAt' THEN (change->>'endsAt')::timestamptz ELSE r.ends_at END
  WHERE f.kind = 'relation' AND r.scope_id = at_scope AND r.id = ANY (rows) AND change ?| ARRAY['labels', 'endsAt'];
  UPDATE scopefloor.passage p SET labels = ARRAY(SELECT jsonb_array_elements_text(change->'labels'))
  WHERE change ? 'labels' AND p.scope_id = at_scope AND p.id = of_id AND p.kind = 'attribute';
  PERFORM scopefloor.settle_facts(at_scope, f.kind, f.entity_id, f.key_hash, NULL, NULL, NULL, NULL, given, of_embedder);
  SELECT h.id INTO head FROM scopefloor.observations(at_scope, f.kind, f.entity_id, f.key_hash) o,
    LATERAL scopefloor.fact_at(at_scope, f.kind, f.entity_id, f.key_hash, o.what, o.valid_from, o.observation_id) h WHERE o.id = of_id;
  RETURN jsonb_build_object('id', coalesce(head, of_id));
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/1_holds.sql
-- Legal holds: what is held is neither forgotten nor changed, by rule or by hand, until the hold is taken away.

-- The holds that reach what stands at these tags: set there or above.
CREATE OR REPLACE FUNCTION scopefloor.holds_above(of_tags jsonb) RETURNS SETOF scopefloor.legal_hold
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above jsonb[];
BEGIN
  -- Where nobody of the tenant holds anything, nor for everybody, this is all that one pays for it.
  IF NOT EXISTS (SELECT 1 FROM scopefloor.legal_hold h WHERE h.tenant_id = 0)
     AND NOT EXISTS (SELECT 1 FROM scopefloor.legal_hold h JOIN scopefloor.tenant o ON o.id = h.tenant_id WHERE o.root = jsonb_build_object('org', of_tags->'org')) THEN
    RETURN;
  END IF;
  above := scopefloor.scopes_between('{}', of_tags);
  RETURN QUERY SELECT h.* FROM scopefloor.legal_hold h
    WHERE h.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above)));
END $$;

-- A text as names are looked for in it: in its normal form, without accents, in lower case.
CREATE OR REPLACE FUNCTION scopefloor.said_plainly(said text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT lower(regexp_replace(normalize(scopefloor.normal_form(said), NFKD), '[\u0300-\u036f]', '', 'g'))
$$;

-- What a row says, whichever table it is of.
CREATE OR REPLACE FUNCTION scopefloor.said_in(of_row jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.said_plainly(concat_ws(' ', of_row->>'text', of_row->>'content', of_row->>'sentence', of_row->>'name', of_row->>'title', of_row->>'source', of_row->>'key', of_row->>'value'))
$$;

-- Whether a hold reaches a row: all of its scope; one document, with its parts; or what mentions a subject, which is
-- what has each of its words somewhere.
CREATE OR REPLACE FUNCTION scopefloor.reaches(h scopefloor.legal_hold, of_table text, of_row jsonb) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  said text;
BEGIN
  IF h.document_id IS NOT NULL THEN
    RETURN h.document_id = CASE WHEN of_table = 'document' THEN (of_row->>'id')::uuid ELSE (of_row->>'document_id')::uuid END;
  ELSIF h.subject IS NULL THEN
    RETURN true;
  ELSIF of_table = 'document_content' THEN
    -- A file says what its parts say.
    RETURN EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = (of_row->>'scope_id')::int AND p.document_id = (of_row->>'document_id')::uuid
                   AND NOT EXISTS (SELECT 1 FROM unnest(h.words) w WHERE strpos(scopefloor.said_plainly(p.text), w) = 0));
  END IF;
  said := scopefloor.said_in(of_row);
  RETURN NOT EXISTS (SELECT 1 FROM unnest(h.words) w WHERE strpos(said, w) = 0);
END $$;

-- Refuses a transaction for what it took of what is held. No word of the reason: that is management's to see.
CREATE OR REPLACE FUNCTION scopefloor.raise_held() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'held' USING ERRCODE = 'SF409';
END $$;

-- Whether the transaction is somebody's who forgets or changes. What is over and is closed, without a ticket, loses
-- nothing; and a replay does again what was done when no hold was in the way.
CREATE OR REPLACE FUNCTION scopefloor.may_lose() RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  RETURN t IS NOT NULL AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.id = (t->>'key')::uuid AND k.name = 'replay ' || k.id AND k.floor = '{}');
END $$;

-- Whether a row is of a document that a job is making for the first time, or again after it failed: nobody has seen it.
CREATE OR REPLACE FUNCTION scopefloor.is_in_the_making(of_table text, of_row jsonb) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT of_table IN ('passage', 'document_content') AND coalesce(scopefloor.ticket()->>'mode' = 'job', false) AND NOT EXISTS (
    SELECT 1 FROM scopefloor.document d WHERE d.scope_id = (of_row->>'scope_id')::int AND d.id = (of_row->>'document_id')::uuid AND d.ready_version IS NOT NULL)
$$;

-- Whoever takes or changes something of a tenant holds this, and who sets a hold there waits for it: 4_locks.sql.
CREATE OR REPLACE FUNCTION scopefloor.share_hold_lock(of_tenant int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Of what is set for everybody, or for scopes without a tenant, first.
  PERFORM pg_advisory_xact_lock_shared(7704, 0);
  IF of_tenant <> 0 THEN
    PERFORM pg_advisory_xact_lock_shared(7704, of_tenant);
  END IF;
END $$;

-- Trigger: nothing that is held is deleted.
CREATE OR REPLACE FUNCTION scopefloor.keep_held() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  at_scope int;
  of_tenant int;
  h scopefloor.legal_hold;
BEGIN
  IF NOT scopefloor.may_lose() THEN
    RETURN NULL;
  END IF;
  FOR of_tenant IN SELECT DISTINCT r.tenant_id FROM removed r ORDER BY 1 LOOP
    PERFORM scopefloor.share_hold_lock(of_tenant);
  END LOOP;
  IF NOT EXISTS (SELECT 1 FROM scopefloor.legal_hold) THEN
    RETURN NULL;
  END IF;
  FOR at_scope IN SELECT DISTINCT r.scope_id FROM removed r LOOP
    FOR h IN SELECT * FROM scopefloor.holds_above((SELECT s.tags FROM scopefloor.scope s WHERE s.id = at_scope)) LOOP
      -- (The passage of a fact or an item follows that, which is in a table of its own.)
      IF EXISTS (SELECT 1 FROM (SELECT to_jsonb(r) AS row FROM removed r WHERE r.scope_id = at_scope) o
                 WHERE NOT (TG_TABLE_NAME = 'passage' AND o.row->>'kind' IN ('attribute', 'item')) AND scopefloor.reaches(h, TG_TABLE_NAME, o.row)
                   AND NOT scopefloor.is_in_the_making(TG_TABLE_NAME, o.row)) THEN
        PERFORM scopefloor.raise_held();
      END IF;
    END LOOP;
  END LOOP;
  RETURN NULL;
END $$;

-- Trigger, where a row really changes in what it says or how long it says it: nothing that is held is changed.
CREATE OR REPLACE FUNCTION scopefloor.keep_held_as_it_is() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  h scopefloor.legal_hold;
BEGIN
  IF NOT scopefloor.may_lose() THEN
    RETURN NEW;
  END IF;
  PERFORM scopefloor.share_hold_lock(OLD.tenant_id);
  IF EXISTS (SELECT 1 FROM scopefloor.legal_hold o WHERE o.tenant_id IN (OLD.tenant_id, 0)) THEN
    FOR h IN SELECT * FROM scopefloor.holds_above((SELECT s.tags FROM scopefloor.scope s WHERE s.id = OLD.scope_id)) LOOP
      IF scopefloor.reaches(h, TG_TABLE_NAME, to_jsonb(OLD)) THEN
        PERFORM scopefloor.raise_held();
      END IF;
    END LOOP;
  END IF;
  RETURN NEW;
END $$;

-- Whether a hold reaches a document or a part of it.
CREATE OR REPLACE FUNCTION scopefloor.is_document_held(d scopefloor.document) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.scope s, LATERAL scopefloor.holds_above(s.tags) h WHERE s.id = d.scope_id AND (
    scopefloor.reaches(h, 'document', to_jsonb(d)) OR EXISTS (
      SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = d.scope_id AND p.document_id = d.id AND scopefloor.reaches(h, 'passage', jsonb_build_object('text', p.text, 'document_id', p.document_id)))))
$$;

-- Whether a hold reaches a row.
CREATE OR REPLACE FUNCTION scopefloor.is_row_held(of_table text, at_scope int, of_row jsonb) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.scope s, LATERAL scopefloor.holds_above(s.tags) h WHERE s.id = at_scope AND scopefloor.reaches(h, of_table, of_row))
$$;

-- Whether a hold is in the way of erasing all of a scope: one of a whole scope there, above or below; or one that reaches a row there.
CREATE OR REPLACE FUNCTION scopefloor.holds_something(of_tags jsonb) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids int[];
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.legal_hold) THEN
    RETURN false;
  END IF;
  ids := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags @> of_tags);
  IF EXISTS (SELECT 1 FROM scopefloor.legal_hold h WHERE h.scope_id = ANY (ids) AND h.subject IS NULL AND h.document_id IS NULL)
     OR EXISTS (SELECT 1 FROM scopefloor.holds_above(of_tags) h WHERE h.subject IS NULL AND h.document_id IS NULL) THEN
    RETURN true;
  END IF;
  ids := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.id = ANY (ids) AND EXISTS (SELECT 1 FROM scopefloor.holds_above(s.tags)));
  RETURN EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = ANY (ids) AND scopefloor.is_row_held('passage', p.scope_id, to_jsonb(p)))
    OR EXISTS (SELECT 1 FROM scopefloor.turn o WHERE o.scope_id = ANY (ids) AND scopefloor.is_row_held('turn', o.scope_id, to_jsonb(o)))
    OR EXISTS (SELECT 1 FROM scopefloor.attribute a WHERE a.scope_id = ANY (ids) AND scopefloor.is_row_held('attribute', a.scope_id, to_jsonb(a)))
    OR EXISTS (SELECT 1 FROM scopefloor.relation r WHERE r.scope_id = ANY (ids) AND scopefloor.is_row_held('relation', r.scope_id, to_jsonb(r)))
    OR EXISTS (SELECT 1 FROM scopefloor.session x WHERE x.scope_id = ANY (ids) AND scopefloor.is_row_held('session', x.scope_id, to_jsonb(x)))
    OR EXISTS (SELECT 1 FROM scopefloor.entity e WHERE e.scope_id = ANY (ids) AND scopefloor.is_row_held('entity', e.scope_id, to_jsonb(e)))
    OR EXISTS (SELECT 1 FROM scopefloor.document d WHERE d.scope_id = ANY (ids) AND scopefloor.is_row_held('document', d.scope_id, to_jsonb(d)))
    OR EXISTS (SELECT 1 FROM scopefloor.memory_item m WHERE m.scope_id = ANY (ids) AND scopefloor.is_row_held('memory_item', m.scope_id, to_jsonb(m)));
END $$;

CREATE OR REPLACE FUNCTION scopefloor.hold_answer(h scopefloor.legal_hold) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', h.id, 'scope', s.tags, 'subject', h.subject, 'documentId', h.document_id, 'reason', h.reason, 'keyId', h.api_key_id,
                            'createdAt', scopefloor.rfc3339(h.created_at))
  FROM scopefloor.scope s WHERE s.id = h.scope_id
$$;

-- Holds the ticket's target: {subject?, words?, documentId?, reason}. {status: ok, hold}, or {status, detail}. One of
-- the same scope, subject and document gets the new reason. It waits for whoever forgets there, so that what it finds stays.
CREATE OR REPLACE FUNCTION scopefloor.set_hold(new_id uuid, given jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most constant int := 200;
  t jsonb := scopefloor.rule_ticket();
  of_document uuid := (given->>'documentId')::uuid;
  at_scope scopefloor.scope;
  h scopefloor.legal_hold;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  PERFORM scopefloor.hold_scope(t->'target', t->'target', t->'floor');
  at_scope := scopefloor.ensure_scope(t->'target');
  -- Alone: whoever has taken something there is done, or sees this hold.
  IF at_scope.tenant_id <> 0 THEN
    PERFORM pg_advisory_xact_lock_shared(7704, 0);
  END IF;
  PERFORM pg_advisory_xact_lock(7704, at_scope.tenant_id);
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
  -- Too late for what an erasure has begun to take (4_runs.sql).
  IF EXISTS (SELECT 1 FROM scopefloor.erasing e JOIN scopefloor.forget_run r ON r.id = e.run_id JOIN scopefloor.scope s ON s.id = r.scope_id
             WHERE s.tags @> at_scope.tags OR at_scope.tags @> s.tags) THEN
    RETURN '{"status": "conflict", "detail": "an erasure is under way there; what it has begun to take cannot be held"}';
  END IF;
  IF of_document IS NOT NULL AND NOT EXISTS (
      SELECT 1 FROM scopefloor.document o JOIN scopefloor.scope s ON s.id = o.scope_id WHERE o.id = of_document AND s.tags @> at_scope.tags) THEN
    RETURN '{"status": "not-found", "detail": ""}';
  END IF;
  SELECT * INTO h FROM scopefloor.legal_hold o WHERE o.scope_id = at_scope.id
    AND o.subject IS NOT DISTINCT FROM given->>'subject' AND o.document_id IS NOT DISTINCT FROM of_document;
  IF h.id IS NOT NULL AND NOT h.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has set this hold"}';
  END IF;
  IF h.id IS NULL AND (SELECT count(*) FROM scopefloor.legal_hold o WHERE o.tenant_id = at_scope.tenant_id AND o.set_by @> (t->'floor')) >= most THEN
    RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', format('there may be at most %s holds in a tenant; delete one first', most));
  END IF;
  INSERT INTO scopefloor.legal_hold AS o (tenant_id, scope_id, id, subject, words, document_id, reason, set_by, api_key_id)
  VALUES (at_scope.tenant_id, at_scope.id, coalesce(h.id, new_id), given->>'subject',
          CASE WHEN given ? 'words' THEN ARRAY(SELECT jsonb_array_elements_text(given->'words')) END, of_document, given->>'reason', t->'floor', (t->>'key')::uuid)
  ON CONFLICT (scope_id, id, tenant_id) DO UPDATE SET reason = EXCLUDED.reason, set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id
  RETURNING * INTO h;
  RETURN jsonb_build_object('status', 'ok', 'hold', scopefloor.hold_answer(h));
END $$;

-- The holds of the ticket's target and below, by page: {total, holds}.
CREATE OR REPLACE FUNCTION scopefloor.list_holds(most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids int[];
BEGIN
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (SELECT h FROM scopefloor.legal_hold h WHERE ids IS NULL OR h.scope_id = ANY (ids)),
          shown AS (SELECT f.h FROM found f ORDER BY (f.h).created_at DESC, (f.h).id LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'holds', coalesce((
            -- Subjects and reasons are content.
            SELECT jsonb_agg(scopefloor.hold_answer(s.h) || CASE WHEN (t->>'content')::bool THEN '{}' ELSE '{"subject": null, "reason": ""}'::jsonb END) FROM shown s), '[]')));
END $$;

-- Takes a hold of the ticket's target or below away: {status: ok}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.drop_hold(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  found scopefloor.legal_hold;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  SELECT h.* INTO found FROM scopefloor.legal_hold h JOIN scopefloor.scope s ON s.id = h.scope_id WHERE h.id = of_id AND s.tags @> (t->'target');
  IF found.id IS NULL THEN
    RETURN '{"status": "not-found", "detail": ""}';
  END IF;
  IF NOT found.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has set this hold"}';
  END IF;
  DELETE FROM scopefloor.legal_hold h WHERE h.scope_id = found.scope_id AND h.id = found.id;
  RETURN '{"status": "ok"}';
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/2_signed_receipts.sql
-- Receipts are signed by the service, so that whoever has one can check it without the service. The private keys are
-- not here.

-- Makes a public key known, a JWK (RFC 7517) under its thumbprint.
CREATE OR REPLACE FUNCTION scopefloor.register_receipt_key(of_id text, jwk jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO scopefloor.receipt_key (id, jwk) VALUES (of_id, jwk) ON CONFLICT (id) DO NOTHING
$$;

-- All that receipts were ever signed with: {keys: [...]}, for anyone.
CREATE OR REPLACE FUNCTION scopefloor.receipt_keys() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('keys', coalesce(jsonb_agg(k.jwk ORDER BY k.created_at, k.id), '[]')) FROM scopefloor.receipt_key k
$$;

-- The ticket of a call that has left a receipt: what forgets or deletes, and what writes, which may delete keyed items.
CREATE OR REPLACE FUNCTION scopefloor.receipt_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('write', 'delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for receipts' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- What is signed of a receipt of this transaction: numbers, ids and hashes of names, so that no later erasure touches it.
CREATE OR REPLACE FUNCTION scopefloor.receipt_statement(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.receipt_ticket();
BEGIN
  RETURN (SELECT jsonb_build_object('receipt', r.id, 'scope', coalesce(r.target->>'!digest', scopefloor.scope_digest(r.target)), 'subtree', r.subtree,
                                    'action', r.action, 'policy', r.policy, 'counts', r.counts, 'by', r.api_key_id, 'at', scopefloor.rfc3339(r.created_at))
          FROM scopefloor.forget_receipt r WHERE r.scope_id = (t->'trace'->>'id')::int AND r.id = of_id AND r.created_at = transaction_timestamp() AND r.jws IS NULL);
END $$;

-- Puts the signature (JWS, RFC 7515) to a receipt of this transaction.
CREATE OR REPLACE FUNCTION scopefloor.sign_receipt(of_id uuid, signed text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.receipt_ticket();
BEGIN
  IF length(signed) > 10000 THEN
    RAISE EXCEPTION 'scopefloor: not a signature' USING ERRCODE = 'check_violation';
  END IF;
  UPDATE scopefloor.forget_receipt r SET jws = signed
  WHERE r.scope_id = (t->'trace'->>'id')::int AND r.id = of_id AND r.created_at = transaction_timestamp() AND r.jws IS NULL;
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/3_retention.sql
-- Retention: how long what a scope holds stays. Of the rules for a kind and an action the narrowest above a scope
-- decides, of several as narrow each; one that is a maximum holds for all below it whatever a narrower one says.

CREATE OR REPLACE FUNCTION scopefloor.retention_answer(r scopefloor.retention_rule) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', r.id, 'scope', s.tags, 'kind', r.kind, 'olderThan', r.older_than, 'since', r.since, 'action', r.action, 'maximum', r.is_maximum,
                            'nextRun', scopefloor.rfc3339(r.next_run), 'createdAt', scopefloor.rfc3339(r.created_at), 'updatedAt', scopefloor.rfc3339(r.updated_at))
  FROM scopefloor.scope s WHERE s.id = r.scope_id
$$;

-- Whether traces would lose their text before a rule or a schedule by the last use needs it: a given one, at a scope,
-- beside what is set above and below. with_rules says what that is looked for: those for traces, or those by the last use.
CREATE OR REPLACE FUNCTION scopefloor.conflicts_with_traces(at_scope scopefloor.scope, with_rules text, duration interval) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.retention_rule r JOIN scopefloor.scope s ON s.id = r.scope_id
    WHERE r.tenant_id IN (at_scope.tenant_id, 0) AND (s.tags @> at_scope.tags OR at_scope.tags @> s.tags)
      AND CASE with_rules WHEN 'traces' THEN r.kind = 'traces' AND r.older_than::interval < duration ELSE r.since = 'lastUsed' AND r.older_than::interval > duration END)
    OR with_rules = 'lastUsed' AND EXISTS (SELECT 1 FROM scopefloor.forget_schedule f JOIN scopefloor.scope s ON s.id = f.scope_id
    WHERE f.tenant_id IN (at_scope.tenant_id, 0) AND (s.tags @> at_scope.tags OR at_scope.tags @> s.tags)
      AND f.selector->>'since' = 'lastUsed' AND (f.selector->>'olderThan')::interval > duration)
$$;

-- What is answered then.
CREATE OR REPLACE FUNCTION scopefloor.needs_traces() RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT '{"status": "conflict", "detail": "by its last use nothing can be kept for longer than traces keep their text: give traces as long, or use since: created"}'::jsonb
$$;

-- Sets rules of the ticket's target: [{id, kind, olderThan, since, action, maximum}], of which there is one for each
-- kind, action and maximum. {status: ok, rules}, or {status, detail} and then none.
CREATE OR REPLACE FUNCTION scopefloor.set_retention(given jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  one jsonb;
  r scopefloor.retention_rule;
  rules jsonb := '[]';
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
  FOR one IN SELECT jsonb_array_elements(given) LOOP
    IF (one->>'olderThan')::interval NOT BETWEEN interval '1 second' AND interval '101 years' THEN
      RAISE EXCEPTION 'scopefloor: not a duration' USING ERRCODE = 'check_violation';
    END IF;
    -- When something was last used its traces say, as long as they have their text.
    IF one->>'since' = 'lastUsed' AND scopefloor.conflicts_with_traces(at_scope, 'traces', (one->>'olderThan')::interval)
       OR one->>'kind' = 'traces' AND scopefloor.conflicts_with_traces(at_scope, 'lastUsed', (one->>'olderThan')::interval) THEN
      RETURN scopefloor.needs_traces();
    END IF;
    SELECT * INTO r FROM scopefloor.retention_rule o
    WHERE o.scope_id = at_scope.id AND o.kind = one->>'kind' AND o.action = one->>'action' AND o.is_maximum = (one->>'maximum')::bool;
    IF r.id IS NOT NULL AND NOT r.set_by @> (t->'floor') THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', format('a key above this one has set the rule for %s', one->>'kind'));
    END IF;
    INSERT INTO scopefloor.retention_rule AS o (tenant_id, scope_id, id, kind, older_than, since, action, is_maximum, set_by, api_key_id)
    VALUES (at_scope.tenant_id, at_scope.id, (one->>'id')::uuid, one->>'kind', one->>'olderThan', one->>'since', one->>'action', (one->>'maximum')::bool, t->'floor', (t->>'key')::uuid)
    ON CONFLICT (scope_id, kind, action, is_maximum, tenant_id) DO UPDATE
    SET older_than = EXCLUDED.older_than, since = EXCLUDED.since, set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id,
        next_run = clock_timestamp(), updated_at = clock_timestamp()
    RETURNING * INTO r;
    rules := rules || jsonb_build_array(scopefloor.retention_answer(r));
  END LOOP;
  RETURN jsonb_build_object('status', 'ok', 'rules', rules);
END $$;

-- The rules of the ticket's target and below, by page: {total, rules}.
CREATE OR REPLACE FUNCTION scopefloor.list_retention(most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids int[];
BEGIN
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (SELECT r FROM scopefloor.retention_rule r WHERE ids IS NULL OR r.scope_id = ANY (ids)),
          shown AS (SELECT f.r FROM found f ORDER BY (f.r).scope_id, (f.r).kind, (f.r).action, (f.r).is_maximum LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'rules', coalesce((SELECT jsonb_agg(scopefloor.retention_answer(s.r)) FROM shown s), '[]')));
END $$;

-- The rules in force at the ticket's target, whichever scope they are of: those that decide there, and maxima.
CREATE OR REPLACE FUNCTION scopefloor.effective_retention() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  above jsonb[] := scopefloor.scopes_between('{}', t->'target');
BEGIN
  RETURN (
    SELECT coalesce(jsonb_agg(scopefloor.retention_answer(r) ORDER BY r.kind, r.action, r.is_maximum, r.scope_id), '[]')
    FROM scopefloor.retention_rule r JOIN scopefloor.scope s ON s.id = r.scope_id
    WHERE s.tags = ANY (above) AND (r.is_maximum OR NOT EXISTS (
      SELECT 1 FROM scopefloor.retention_rule o JOIN scopefloor.scope x ON x.id = o.scope_id
      WHERE x.tags = ANY (above) AND o.kind = r.kind AND o.action = r.action AND NOT o.is_maximum AND scopefloor.tag_count(x.tags) > scopefloor.tag_count(s.tags))));
END $$;

-- Takes rules of the ticket's target away, by kind (null: every one) and action (null: both): {status: ok}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.drop_retention(kinds text[], of_action text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids uuid[];
  at_scope int;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  SELECT s.id INTO at_scope FROM scopefloor.scope s WHERE s.tags = t->'target';
  ids := ARRAY(SELECT r.id FROM scopefloor.retention_rule r
    WHERE r.scope_id = at_scope AND (kinds IS NULL OR r.kind = ANY (kinds)) AND (of_action IS NULL OR r.action = of_action) FOR UPDATE);
  IF EXISTS (SELECT 1 FROM scopefloor.retention_rule r WHERE r.scope_id = at_scope AND r.id = ANY (ids) AND NOT r.set_by @> (t->'floor')) THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has set one of these rules"}';
  END IF;
  DELETE FROM scopefloor.retention_rule r WHERE r.scope_id = at_scope AND r.id = ANY (ids);
  RETURN jsonb_build_object('status', CASE cardinality(ids) WHEN 0 THEN 'not-found' ELSE 'ok' END, 'detail', '');
END $$;

-- Of the scopes behind `after`, by their ids, the next ones that a rule decides for, without those that are held as a whole.
CREATE OR REPLACE FUNCTION scopefloor.governed_scopes(r scopefloor.retention_rule, after int, most int) RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own jsonb := (SELECT s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id);
BEGIN
  RETURN ARRAY(
    SELECT s.id FROM scopefloor.scope s
    WHERE s.id > after AND (own = '{}' OR s.tags @> own) AND s.erased_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = s.tenant_id AND x.state <> 'active')
      AND (r.is_maximum OR NOT EXISTS (
        SELECT 1 FROM scopefloor.retention_rule o JOIN scopefloor.scope x ON x.id = o.scope_id
        WHERE o.tenant_id IN (s.tenant_id, 0) AND o.kind = r.kind AND o.action = r.action AND NOT o.is_maximum
          AND s.tags @> x.tags AND scopefloor.tag_count(x.tags) > scopefloor.tag_count(own)))
      AND NOT EXISTS (SELECT 1 FROM scopefloor.holds_above(s.tags) h WHERE h.subject IS NULL AND h.document_id IS NULL)
    ORDER BY s.id LIMIT most);
END $$;

-- Orders a run for each rule whose time has come, `most` at a time; gives how many. How often a rule is looked at
-- follows from its duration: 24 times in it, at most once a minute and at least once a day.
CREATE OR REPLACE FUNCTION scopefloor.order_retention(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  r scopefloor.retention_rule;
  ordered int := 0;
BEGIN
  PERFORM scopefloor.sweep_runs();
  FOR r IN SELECT * FROM scopefloor.retention_rule o WHERE o.next_run <= clock_timestamp()
      -- Of one that is suspended nothing is lost.
      AND NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = o.tenant_id AND x.state <> 'active') ORDER BY o.next_run LIMIT most FOR UPDATE SKIP LOCKED LOOP
    UPDATE scopefloor.retention_rule o
    SET next_run = clock_timestamp() + least(greatest(r.older_than::interval / 24, interval '1 minute'), interval '1 day')
    WHERE o.scope_id = r.scope_id AND o.id = r.id;
    -- One that is still at it goes on.
    CONTINUE WHEN EXISTS (SELECT 1 FROM scopefloor.forget_run x WHERE x.scope_id = r.scope_id AND x.rule_id = r.id AND x.state IN ('queued', 'running'));
    PERFORM scopefloor.order_run(r.scope_id, 'retention', r.id, r.next_run, r.set_by, r.api_key_id, r.action, true, false,
      jsonb_build_object('kinds', jsonb_build_array(r.kind), 'since', r.since, 'before', scopefloor.rfc3339(clock_timestamp() - r.older_than::interval)));
    ordered := ordered + 1;
  END LOOP;
  RETURN ordered;
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/4_runs.sql
-- Runs: a forget that takes more than one transaction, done by the worker. Its row says what goes and how far it is,
-- and changes in the transaction of each batch: whoever takes it up after a crash goes on from there, to one receipt.
--
-- A run is one of
--   retention  what a rule decides for and is old enough, scope by scope
--   schedule   what a schedule's selector has (kinds, labels, age: scope by scope; a query: at once), or all of its scope
--   offboard   all of a tenant (8_offboarding.sql)

-- Orders a run at a scope, once for a source and tick; NULL: there is one already.
CREATE OR REPLACE FUNCTION scopefloor.order_run(at_scope int, of_source text, of_rule uuid, at_tick timestamptz, by_floor jsonb, by_key uuid, of_action text,
                                                with_subtree bool, is_dry bool, of_selector jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  new_id uuid := gen_random_uuid();
BEGIN
  INSERT INTO scopefloor.forget_run (tenant_id, scope_id, id, source, rule_id, tick, set_by, api_key_id, action, subtree, dry_run, selector)
  SELECT s.tenant_id, s.id, new_id, of_source, of_rule, at_tick, by_floor, by_key, of_action, with_subtree, is_dry, of_selector
  FROM scopefloor.scope s WHERE s.id = at_scope
  ON CONFLICT (scope_id, rule_id, tick, tenant_id) DO NOTHING;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, run_id, api_key_id, principal, epoch, share_group)
  SELECT s.tenant_id, s.id, gen_random_uuid(), 'forget', new_id, by_key, 'management', s.epoch,
         -- Charged to whom the scope is of: the first tag, whoever set the rule.
         scopefloor.scope_hash(scopefloor.first_tag(s.tags))
  FROM scopefloor.scope s WHERE s.id = at_scope;
  RETURN new_id;
END $$;

-- Whether a scope is being erased: an erasure of it, or of one above, is between two batches.
CREATE OR REPLACE FUNCTION scopefloor.is_being_erased(of_tags jsonb) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT 1 FROM scopefloor.erasing)
    AND EXISTS (SELECT 1 FROM scopefloor.erasing e WHERE e.hash = ANY (ARRAY(SELECT scopefloor.scope_hash(s) FROM unnest(scopefloor.scopes_between('{}', of_tags)) s)));
END $$;

-- The next step of a run that a job has, in a transaction of its own, with a ticket for that step alone:
--   mark    all of its scope is to go: a mark keeps new rows out from now on, and nothing older is under way
--   batch   rows of some scopes, or for a query of all of them
--   end     nothing is left to look for: the receipt, and for an erasure the scope itself
--   {status: ok, run: {…}, …} | {status: again}: there is a next step | {status: gone}
CREATE OR REPLACE FUNCTION scopefloor.enter_run(j scopefloor.job, in_context text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  scopes_at_once int := 200;
  r scopefloor.forget_run;
  s scopefloor.scope;
  traced scopefloor.scope;
  is_whole bool;
  step text;
  here int[];
  reach jsonb;
  mode text := 'forget';
BEGIN
  SELECT * INTO s FROM scopefloor.scope WHERE id = j.scope_id;
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = j.scope_id AND o.id = j.run_id;
  is_whole := r.selector = '{}' AND r.action = 'erase' AND NOT r.dry_run;
  step := CASE WHEN is_whole AND NOT EXISTS (SELECT 1 FROM scopefloor.erasing e WHERE e.run_id = r.id) THEN 'mark' WHEN r.is_swept THEN 'end' ELSE 'batch' END;
  -- The scope's locks before those of rows, as everybody takes them.
  IF is_whole AND step <> 'batch' THEN
    -- Alone, as a forget that is done at once: what began before is over, and lies in what is taken.
    PERFORM scopefloor.hold_scope(s.tags, s.tags, r.set_by);
  ELSE
    PERFORM scopefloor.hold_scope(s.tags);
  END IF;
  SELECT * INTO j FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.id = j.id AND o.lease = j.lease AND o.state = 'running' FOR UPDATE;
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = r.scope_id AND o.id = r.id AND o.state IN ('queued', 'running') FOR UPDATE;
  SELECT * INTO s FROM scopefloor.scope WHERE id = s.id;
  IF j.id IS NULL OR r.id IS NULL OR s.erased_at IS NOT NULL THEN
    DELETE FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.id = j.id;
    RETURN '{"status": "gone"}';
  END IF;
  IF r.state = 'queued' THEN
    UPDATE scopefloor.forget_run o SET state = 'running', started_at = clock_timestamp() WHERE o.scope_id = r.scope_id AND o.id = r.id RETURNING * INTO r;
  END IF;
  IF r.source <> 'offboard' AND EXISTS (SELECT 1 FROM scopefloor.tenant o WHERE o.id = s.tenant_id AND o.state <> 'active') THEN
    -- Of a tenant that is suspended nothing is lost: later.
    UPDATE scopefloor.job o SET state = 'queued', lease = NULL, leased_until = NULL, run_after = clock_timestamp() + interval '1 minute', attempts = 0
    WHERE o.scope_id = j.scope_id AND o.id = j.id;
    RETURN '{"status": "gone"}';
  END IF;
  IF is_whole THEN
    mode := 'erase';
  END IF;
  IF r.is_careful THEN
    scopes_at_once := 1;
  END IF;
  IF step = 'mark' THEN
    IF scopefloor.holds_something(s.tags) THEN
      PERFORM scopefloor.abandon_run(r.scope_id, r.id, 'held', 'a legal hold is in the way; nothing was erased');
      DELETE FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.id = j.id;
      RETURN '{"status": "gone"}';
    END IF;
    IF r.source = 'offboard' THEN
      PERFORM scopefloor.end_tenant(s.tenant_id, r.id, j.id);
    END IF;
    INSERT INTO scopefloor.erasing (hash, run_id) VALUES (scopefloor.scope_hash(s.tags), r.id) ON CONFLICT DO NOTHING;
    -- Jobs of what goes find that they are of an earlier time.
    UPDATE scopefloor.scope o SET epoch = o.epoch + 1 WHERE o.id = s.id OR o.tags @> s.tags;
    RETURN '{"status": "again"}';
  ELSIF step = 'end' OR r.selector ? 'query' THEN
    reach := scopefloor.reach_of(s.tags, CASE WHEN r.subtree THEN '{}' ELSE ARRAY[s.tags] END, CASE WHEN r.subtree THEN ARRAY[s.tags] ELSE '{}' END);
    -- What is forgotten goes by its scopes alone: the name of a tenant may be another's by now.
    IF reach->'trees' <> '[]' THEN
      reach := reach || '{"tenant": null}';
    END IF;
  END IF;
  IF reach IS NULL THEN
    here := CASE
      WHEN r.source = 'retention' THEN (SELECT scopefloor.governed_scopes(o, r.after_scope, scopes_at_once) FROM scopefloor.retention_rule o WHERE o.scope_id = r.scope_id AND o.id = r.rule_id)
      WHEN NOT r.subtree THEN CASE WHEN r.after_scope < s.id THEN ARRAY[s.id] ELSE '{}' END
      ELSE ARRAY(SELECT o.id FROM scopefloor.scope o WHERE o.id > r.after_scope AND (s.tags = '{}' OR o.tags @> s.tags)
                   AND (is_whole OR NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = o.tenant_id AND x.state <> 'active')) ORDER BY o.id LIMIT scopes_at_once) END;
    -- (A rule that was taken away meanwhile decides for nothing.)
    here := coalesce(here, '{}');
    IF here = '{}' THEN
      UPDATE scopefloor.forget_run o SET is_swept = true WHERE o.scope_id = r.scope_id AND o.id = r.id;
      RETURN '{"status": "again"}';
    END IF;
    reach := jsonb_build_object('ids', here, 'trees', '[]'::jsonb, 'all', false,
      'tenant', (SELECT CASE WHEN count(DISTINCT o.tenant_id) = 1 THEN min(o.tenant_id) END FROM scopefloor.scope o WHERE o.id = ANY (here)));
  END IF;
  traced := s;
  IF is_whole THEN
    -- The tags of what is erased go: its trace and its receipt stand where the order came from.
    SELECT * INTO traced FROM scopefloor.scope o WHERE o.tags = r.set_by;
    traced := CASE WHEN traced.id IS NULL THEN (SELECT o FROM scopefloor.scope o WHERE o.id = 0) ELSE traced END;
  END IF;
  PERFORM scopefloor.issue_ticket(jsonb_build_object(
    'key', r.api_key_id, 'principal', 'management', 'verb', 'memory:forget', 'mode', mode, 'verbs', '["memory:forget", "memory:read"]'::jsonb, 'content', true,
    'floor', r.set_by, 'on_behalf_of', NULL, 'target', s.tags, 'read', reach, 'general', false, 'modify', reach, 'write', NULL, 'tenant', NULL,
    'job', j.id, 'run', r.id, 'run_scope', s.id, 'share_group', j.share_group,
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', traced.tags)));
  RETURN jsonb_build_object(
    'status', 'ok', 'key', r.api_key_id, 'principal', 'management', 'onBehalfOf', NULL, 'scopeId', traced.id, 'tenant', traced.tenant_id, 'tags', traced.tags, 'target', s.tags,
    'settings', scopefloor.settings_at(s.tags, in_context), 'credentials', scopefloor.credentials_at(s.tags),
    'read', jsonb_build_object(
      'scopes', coalesce((SELECT jsonb_object_agg(o.id, o.tags) FROM scopefloor.scope o WHERE o.id = ANY (ARRAY(SELECT jsonb_array_elements_text(reach->'ids')::int))), '{}'),
      'trees', reach->'trees', 'tenant', reach->'tenant'),
    'run', jsonb_build_object('id', r.id, 'step', step, 'isWhole', is_whole, 'source', r.source, 'action', r.action, 'subtree', r.subtree, 'dryRun', r.dry_run,
                              'selector', r.selector, 'tick', scopefloor.rfc3339(r.tick), 'counts', r.counts));
END $$;

-- The ticket of a run's transaction.
CREATE OR REPLACE FUNCTION scopefloor.run_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  IF t->>'run' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: not in a run' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- Adds what a batch has taken to the run's counts. `through`: the scopes up to it are done; null: there is more in them. `receipt`: of the batch, where it has one.
CREATE OR REPLACE FUNCTION scopefloor.note_run(taken jsonb, through int, is_all bool, receipt uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
BEGIN
  UPDATE scopefloor.forget_run r
  SET counts = (SELECT coalesce(jsonb_object_agg(k, n), '{}') FROM (
        SELECT k, sum(n) AS n FROM (SELECT key AS k, value::bigint AS n FROM jsonb_each_text(r.counts) UNION ALL SELECT key, value::bigint FROM jsonb_each_text(taken)) u GROUP BY k) c),
      after_scope = greatest(r.after_scope, coalesce(through, 0)), is_swept = r.is_swept OR is_all, receipt_id = coalesce(receipt, r.receipt_id)
  WHERE r.scope_id = (t->>'run_scope')::int AND r.id = (t->>'run')::uuid;
END $$;

-- Ends a run, with its job: done, held (a legal hold was in the way), or failed. Its mark goes with it.
CREATE OR REPLACE FUNCTION scopefloor.end_run(of_state text, receipt uuid, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
  at_scope int := (t->>'run_scope')::int;
BEGIN
  UPDATE scopefloor.forget_run r SET state = of_state, receipt_id = coalesce(receipt, r.receipt_id), error = left(why, 300), finished_at = clock_timestamp(),
    selector = r.selector - 'query'
  WHERE r.scope_id = at_scope AND r.id = (t->>'run')::uuid;
  DELETE FROM scopefloor.erasing e WHERE e.run_id = (t->>'run')::uuid;
  DELETE FROM scopefloor.job j WHERE j.scope_id = at_scope AND j.id = (t->>'job')::uuid;
  -- Rules are looked at often, and most often there is nothing to take.
  DELETE FROM scopefloor.forget_run r WHERE r.scope_id = at_scope AND r.id = (t->>'run')::uuid AND r.source = 'retention' AND of_state = 'done' AND r.receipt_id IS NULL;
END $$;

-- The same for a run whose job is given up. What it has taken by then is on a receipt.
CREATE OR REPLACE FUNCTION scopefloor.abandon_run(at_scope int, of_run uuid, of_state text, why text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  r scopefloor.forget_run;
  new_id uuid;
BEGIN
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = at_scope AND o.id = of_run AND o.state IN ('queued', 'running') FOR UPDATE;
  IF r.selector <> '{}' AND NOT r.dry_run AND r.receipt_id IS NULL AND EXISTS (SELECT 1 FROM jsonb_each_text(r.counts) n WHERE n.value::bigint > 0) THEN
    new_id := gen_random_uuid();
    INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, api_key_id)
    SELECT s.tenant_id, s.id, new_id, s.tags, r.subtree, r.action, r.source, r.counts, r.api_key_id FROM scopefloor.scope s WHERE s.id = at_scope;
  END IF;
  UPDATE scopefloor.forget_run o SET state = of_state, error = left(why, 300), finished_at = clock_timestamp(), selector = o.selector - 'query', receipt_id = coalesce(new_id, o.receipt_id)
  WHERE o.scope_id = at_scope AND o.id = r.id;
  DELETE FROM scopefloor.erasing e WHERE e.run_id = of_run;
END $$;

-- Up to `most` rows of one kind (turns, facts, items, documents; sessions: those without turns) at the ticket's scopes
-- that are older than `before` and have all the labels. `since` says which time counts: observed (or stored, if that was
-- earlier), created, or lastUsed. Held rows are left out. with_expired: rows that were expired before, too.
CREATE OR REPLACE FUNCTION scopefloor.old_rows(of_kind text, since text, before timestamptz, with_labels text[], with_expired bool, most int) RETURNS TABLE (id uuid, turn_id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.forget_ticket();
  ids int[] := scopefloor.ids_in(t->'modify');
  used uuid[] := '{}';
  any_held bool;
BEGIN
  any_held := EXISTS (SELECT 1 FROM scopefloor.legal_hold) AND EXISTS (
    SELECT 1 FROM scopefloor.scope s, LATERAL scopefloor.holds_above(s.tags) h WHERE s.id = ANY (ids));
  IF since = 'lastUsed' THEN
    used := scopefloor.used_since(ids, before);
  END IF;
  IF of_kind = 'turns' THEN
    RETURN QUERY SELECT p.id, p.turn_id FROM scopefloor.passage p
      WHERE p.scope_id = ANY (ids) AND p.kind = 'turn' AND CASE since WHEN 'observed' THEN least(p.observed_at, p.created_at) ELSE p.created_at END < before
        AND (with_expired OR p.expired_at IS NULL) AND p.labels @> with_labels AND NOT p.id = ANY (used)
        AND NOT (any_held AND (scopefloor.is_row_held('passage', p.scope_id, to_jsonb(p)) OR EXISTS (
          -- What it said before goes with it.
          SELECT 1 FROM scopefloor.turn o WHERE o.scope_id = p.scope_id AND o.corrected_id = p.turn_id AND scopefloor.is_row_held('turn', o.scope_id, to_jsonb(o))))) LIMIT most;
  ELSIF of_kind = 'sessions' THEN
    -- Those that began before, and of which nothing is left. (Of one that has only begun the first is still to come.)
    RETURN QUERY SELECT o.id, NULL::uuid FROM scopefloor.session o
      WHERE o.scope_id = ANY (ids) AND o.created_at < least(before, now() - interval '1 hour') AND NOT EXISTS (SELECT 1 FROM scopefloor.turn x WHERE x.scope_id = o.scope_id AND x.session_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM scopefloor.attribute x WHERE x.scope_id = o.scope_id AND x.session_id = o.id)
        AND NOT EXISTS (SELECT 1 FROM scopefloor.relation x WHERE x.scope_id = o.scope_id AND x.session_id = o.id)
        AND NOT (any_held AND scopefloor.is_row_held('session', o.scope_id, to_jsonb(o))) LIMIT most;
  ELSIF of_kind = 'facts' THEN
    RETURN QUERY SELECT f.id, NULL::uuid FROM (
        SELECT a.id FROM scopefloor.attribute a
        WHERE a.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN least(a.valid_from, a.created_at) ELSE a.created_at END < before
          AND (with_expired OR a.expired_at IS NULL) AND a.labels @> with_labels AND NOT a.id = ANY (used)
          AND NOT (any_held AND scopefloor.is_row_held('attribute', a.scope_id, to_jsonb(a)))
        UNION ALL
        SELECT r.id FROM scopefloor.relation r
        WHERE r.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN least(r.valid_from, r.created_at) ELSE r.created_at END < before
          AND (with_expired OR r.expired_at IS NULL) AND r.labels @> with_labels AND NOT r.id = ANY (used)
          AND NOT (any_held AND scopefloor.is_row_held('relation', r.scope_id, to_jsonb(r)))) f LIMIT most;
  ELSIF of_kind = 'items' THEN
    RETURN QUERY SELECT m.id, NULL::uuid FROM scopefloor.memory_item m
      WHERE m.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN m.updated_at ELSE m.created_at END < before AND with_labels = '{}' AND NOT m.id = ANY (used)
        AND NOT (any_held AND scopefloor.is_row_held('memory_item', m.scope_id, to_jsonb(m))) LIMIT most;
  ELSIF of_kind = 'documents' THEN
    RETURN QUERY SELECT d.id, NULL::uuid FROM scopefloor.document d
      WHERE d.scope_id = ANY (ids) AND CASE since WHEN 'observed' THEN least(d.observed_at, d.created_at) ELSE d.created_at END < before AND d.labels @> with_labels
        -- Expired: a document none of whose parts is recalled any more.
        AND (with_expired OR EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = d.scope_id AND p.document_id = d.id AND p.expired_at IS NULL))
        AND NOT (used <> '{}' AND EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = d.scope_id AND p.document_id = d.id AND p.id = ANY (used)))
        AND NOT (any_held AND scopefloor.is_document_held(d)) LIMIT most;
  END IF;
END $$;

-- What answers of recall since a time were made of, where these scopes can be seen: by the traces of their tenants and
-- of those who have no tenant.
CREATE OR REPLACE FUNCTION scopefloor.used_since(ids int[], from_time timestamptz) RETURNS uuid[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT ARRAY(
    SELECT DISTINCT x.id::uuid
    FROM scopefloor.decision_trace d, LATERAL jsonb_array_elements_text(CASE jsonb_typeof(d.sources) WHEN 'array' THEN d.sources ELSE '[]' END) x(id)
    WHERE d.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id IN (SELECT o.tenant_id FROM scopefloor.scope o WHERE o.id = ANY (ids))) || 0)
      AND d.created_at >= from_time AND d.operation IN ('query', 'context', 'documents_query', 'item', 'entities', 'history'))
$$;

-- Takes the text out of records of a run's scopes that are older than a time, `most` of them: of traces the query, the
-- sources and the error; of receipts the ids of what was taken. Numbers stay: bills and the audit chain are made of them.
CREATE OR REPLACE FUNCTION scopefloor.redact_old(of_kind text, before timestamptz, most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
  ids int[] := scopefloor.ids_in(t->'modify');
  taken int;
BEGIN
  IF of_kind = 'traces' THEN
    UPDATE scopefloor.decision_trace d SET query = NULL, sources = NULL, error = NULL, scope = s.tags, elsewhere = false
    FROM (SELECT o.scope_id, o.id, o.created_at FROM scopefloor.decision_trace o
          WHERE o.scope_id = ANY (ids) AND o.created_at < before AND (o.query IS NOT NULL OR o.sources IS NOT NULL OR o.error IS NOT NULL) LIMIT most) old
    JOIN scopefloor.scope s ON s.id = old.scope_id
    WHERE d.scope_id = old.scope_id AND d.id = old.id AND d.created_at = old.created_at;
  ELSE
    UPDATE scopefloor.forget_receipt r SET items = NULL
    FROM (SELECT o.scope_id, o.id FROM scopefloor.forget_receipt o WHERE o.scope_id = ANY (ids) AND o.created_at < before AND o.items IS NOT NULL LIMIT most) old
    WHERE r.scope_id = old.scope_id AND r.id = old.id;
  END IF;
  GET DIAGNOSTICS taken = ROW_COUNT;
  RETURN taken;
END $$;

-- Whether a run takes a tenant away for good: then its rules go too.
CREATE OR REPLACE FUNCTION scopefloor.is_offboarded(of_run uuid) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.forget_run r WHERE r.id = of_run AND r.source = 'offboard')
$$;

-- Ends what a tenant that leaves could still do: its keys, its jobs and its other runs.
CREATE OR REPLACE FUNCTION scopefloor.end_tenant(of_tenant int, but_run uuid, but_job uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id = of_tenant);
BEGIN
  UPDATE scopefloor.api_key k SET revoked_at = coalesce(k.revoked_at, clock_timestamp()), previous_hash = NULL, previous_until = NULL
  WHERE k.tenant_id = of_tenant AND k.revoked_at IS NULL;
  DELETE FROM scopefloor.job j WHERE j.scope_id = ANY (ids) AND j.id <> but_job;
  DELETE FROM scopefloor.erasing e WHERE e.run_id IN (SELECT r.id FROM scopefloor.forget_run r WHERE r.scope_id = ANY (ids) AND r.id <> but_run);
  UPDATE scopefloor.forget_run r SET state = 'failed', error = 'the tenant leaves', finished_at = clock_timestamp(), selector = '{}'
  WHERE r.scope_id = ANY (ids) AND r.id <> but_run AND r.state IN ('queued', 'running');
END $$;

-- What is left of runs that are over: marks, should one have been left, and after a while the runs.
CREATE OR REPLACE FUNCTION scopefloor.sweep_runs() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM scopefloor.erasing e WHERE NOT EXISTS (SELECT 1 FROM scopefloor.forget_run r WHERE r.id = e.run_id AND r.state IN ('queued', 'running'));
  DELETE FROM scopefloor.forget_run r USING (
    SELECT o.scope_id, o.id FROM scopefloor.forget_run o WHERE o.finished_at < now() - interval '90 days' ORDER BY o.finished_at LIMIT 1000) old
  WHERE r.scope_id = old.scope_id AND r.id = old.id
$$;

-- A hold was set after this batch's rows were chosen. The first time, the run goes on with one scope at a time; if it then
-- meets the hold again, it skips that scope.
CREATE OR REPLACE FUNCTION scopefloor.pass_held() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.run_ticket();
BEGIN
  UPDATE scopefloor.forget_run r
  SET after_scope = CASE WHEN r.is_careful THEN greatest(r.after_scope, (SELECT max(i) FROM unnest(scopefloor.ids_in(t->'modify')) i)) ELSE r.after_scope END, is_careful = true
  WHERE r.scope_id = (t->>'run_scope')::int AND r.id = (t->>'run')::uuid;
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/5_schedules.sql
-- Forget schedules. They belong to their scope: a key that made one may be rotated or revoked, and it goes on.

CREATE OR REPLACE FUNCTION scopefloor.run_answer(r scopefloor.forget_run) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', r.id, 'tick', scopefloor.rfc3339(r.tick), 'state', r.state, 'dryRun', r.dry_run, 'counts', r.counts, 'receiptId', r.receipt_id, 'error', r.error,
                            'startedAt', scopefloor.rfc3339(r.started_at), 'finishedAt', scopefloor.rfc3339(r.finished_at))
$$;

CREATE OR REPLACE FUNCTION scopefloor.schedule_answer(f scopefloor.forget_schedule) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', f.id, 'scope', s.tags, 'name', f.name, 'subtree', f.subtree, 'cron', f.cron, 'timezone', f.timezone,
    'query', f.selector->'query', 'labels', coalesce(f.selector->'labels', '[]'), 'olderThan', f.selector->'olderThan', 'since', f.selector->'since', 'kinds', f.selector->'kinds',
    'action', f.action, 'dryRun', f.dry_run, 'paused', f.paused, 'nextRun', CASE WHEN NOT f.paused THEN scopefloor.rfc3339(f.next_run) END,
    'lastRun', (SELECT scopefloor.run_answer(r) FROM scopefloor.forget_run r WHERE r.scope_id = f.scope_id AND r.rule_id = f.id ORDER BY r.tick DESC LIMIT 1),
    'receipts', (SELECT coalesce(jsonb_agg(x.receipt_id), '[]') FROM (
       SELECT r.receipt_id FROM scopefloor.forget_run r WHERE r.scope_id = f.scope_id AND r.rule_id = f.id AND r.receipt_id IS NOT NULL ORDER BY r.tick DESC LIMIT 20) x),
    'createdAt', scopefloor.rfc3339(f.created_at), 'updatedAt', scopefloor.rfc3339(f.updated_at))
  FROM scopefloor.scope s WHERE s.id = f.scope_id
$$;

-- Whether a selector at a scope goes by the last use, and further back than traces there keep their text.
CREATE OR REPLACE FUNCTION scopefloor.outlives_traces(at_scope scopefloor.scope, selector jsonb) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(selector->>'since' = 'lastUsed' AND scopefloor.conflicts_with_traces(at_scope, 'traces', (selector->>'olderThan')::interval), false)
$$;

-- Makes a schedule at the ticket's target, or changes the one with this id there or below: what is left out stays.
-- {status: ok, schedule}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.set_schedule(of_id uuid, is_new bool, given jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most constant int := 100;
  most_of_tenant constant int := 1000;
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  f scopefloor.forget_schedule;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  IF (given->'selector'->>'olderThan')::interval NOT BETWEEN interval '1 second' AND interval '101 years' THEN
    RAISE EXCEPTION 'scopefloor: not a duration' USING ERRCODE = 'check_violation';
  END IF;
  IF is_new THEN
    PERFORM scopefloor.hold_scope(t->'target');
    at_scope := scopefloor.ensure_scope(t->'target');
    PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
    IF scopefloor.outlives_traces(at_scope, given->'selector') THEN
      RETURN scopefloor.needs_traces();
    END IF;
    IF (SELECT count(*) FROM scopefloor.forget_schedule o WHERE o.scope_id = at_scope.id AND o.set_by @> (t->'floor')) >= most
       OR (SELECT count(*) FROM (SELECT 1 FROM scopefloor.forget_schedule o WHERE o.tenant_id = at_scope.tenant_id AND o.set_by @> (t->'floor') LIMIT most_of_tenant) n) >= most_of_tenant THEN
      RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', format('there may be at most %s schedules at a scope and %s in a tenant; delete one first', most, most_of_tenant));
    END IF;
    INSERT INTO scopefloor.forget_schedule (tenant_id, scope_id, id, name, subtree, cron, timezone, selector, action, dry_run, paused, next_run, set_by, api_key_id)
    VALUES (at_scope.tenant_id, at_scope.id, of_id, coalesce(given->>'name', ''), coalesce((given->>'subtree')::bool, false), given->>'cron', given->>'timezone', given->'selector', given->>'action',
            coalesce((given->>'dryRun')::bool, false), coalesce((given->>'paused')::bool, false), (given->>'nextRun')::timestamptz, t->'floor', (t->>'key')::uuid)
    RETURNING * INTO f;
    RETURN jsonb_build_object('status', 'ok', 'schedule', scopefloor.schedule_answer(f));
  END IF;
  SELECT o.* INTO f FROM scopefloor.forget_schedule o JOIN scopefloor.scope s ON s.id = o.scope_id WHERE o.id = of_id AND s.tags @> (t->'target') FOR UPDATE OF o;
  IF f.id IS NULL THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF NOT f.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has made this schedule"}';
  END IF;
  SELECT * INTO at_scope FROM scopefloor.scope s WHERE s.id = f.scope_id;
  IF scopefloor.outlives_traces(at_scope, given->'selector') THEN
    RETURN scopefloor.needs_traces();
  END IF;
  UPDATE scopefloor.forget_schedule o
  SET name = coalesce(given->>'name', o.name), cron = coalesce(given->>'cron', o.cron), timezone = coalesce(given->>'timezone', o.timezone),
      selector = coalesce(given->'selector', o.selector), action = coalesce(given->>'action', o.action), subtree = coalesce((given->>'subtree')::bool, o.subtree),
      dry_run = coalesce((given->>'dryRun')::bool, o.dry_run), paused = coalesce((given->>'paused')::bool, o.paused),
      next_run = coalesce((given->>'nextRun')::timestamptz, o.next_run), set_by = t->'floor', api_key_id = (t->>'key')::uuid, updated_at = clock_timestamp()
  WHERE o.scope_id = f.scope_id AND o.id = f.id RETURNING * INTO f;
  RETURN jsonb_build_object('status', 'ok', 'schedule', scopefloor.schedule_answer(f));
END $$;

-- The schedules of the ticket's target and below, by page, or one by its id: {total, schedules}.
CREATE OR REPLACE FUNCTION scopefloor.list_schedules(of_id uuid, most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids int[];
BEGIN
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (
            SELECT f FROM scopefloor.forget_schedule f WHERE (ids IS NULL OR f.scope_id = ANY (ids)) AND (of_id IS NULL OR f.id = of_id)),
          shown AS (SELECT o.f FROM found o ORDER BY (o.f).scope_id, (o.f).created_at, (o.f).id LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'schedules', coalesce((
            -- What it asks for is content.
            SELECT jsonb_agg(scopefloor.schedule_answer(s.f) || CASE WHEN (t->>'content')::bool THEN '{}' ELSE '{"query": null, "labels": []}'::jsonb END) FROM shown s), '[]')));
END $$;

-- Takes a schedule of the ticket's target or below away: {status: ok}, or {status, detail}. A run that is under way goes on.
CREATE OR REPLACE FUNCTION scopefloor.drop_schedule(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  found scopefloor.forget_schedule;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  SELECT f.* INTO found FROM scopefloor.forget_schedule f JOIN scopefloor.scope s ON s.id = f.scope_id WHERE f.id = of_id AND s.tags @> (t->'target');
  IF found.id IS NULL THEN
    RETURN '{"status": "not-found", "detail": ""}';
  END IF;
  IF NOT found.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has made this schedule"}';
  END IF;
  DELETE FROM scopefloor.forget_schedule f WHERE f.scope_id = found.scope_id AND f.id = found.id;
  RETURN '{"status": "ok"}';
END $$;

-- Orders a run of a schedule for a tick.
CREATE OR REPLACE FUNCTION scopefloor.order_schedule(f scopefloor.forget_schedule, at_tick timestamptz) RETURNS uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.order_run(f.scope_id, 'schedule', f.id, at_tick, f.set_by, f.api_key_id, f.action, f.subtree, f.dry_run,
    -- What comes after the tick is the next one's.
    CASE WHEN f.selector = '{}' AND f.action = 'erase' AND NOT f.dry_run THEN '{}'::jsonb ELSE (f.selector - 'olderThan') || jsonb_build_object('since', coalesce(f.selector->>'since', 'created'),
      'before', scopefloor.rfc3339(at_tick - coalesce((f.selector->>'olderThan')::interval, interval '0'))) END)
$$;

-- A run now, for a key that may change the schedule: {status: ok, run}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.run_schedule_now(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  f scopefloor.forget_schedule;
  r scopefloor.forget_run;
  ordered uuid;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  SELECT o.* INTO f FROM scopefloor.forget_schedule o JOIN scopefloor.scope s ON s.id = o.scope_id WHERE o.id = of_id AND s.tags @> (t->'target') FOR UPDATE OF o;
  IF f.id IS NULL THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF NOT f.set_by @> (t->'floor') THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has made this schedule"}';
  ELSIF EXISTS (SELECT 1 FROM scopefloor.forget_run o WHERE o.scope_id = f.scope_id AND o.rule_id = f.id AND o.state IN ('queued', 'running')) THEN
    RETURN '{"status": "conflict", "detail": "a run of this schedule is under way; wait for it"}';
  END IF;
  ordered := scopefloor.order_schedule(f, clock_timestamp());
  SELECT * INTO r FROM scopefloor.forget_run o WHERE o.scope_id = f.scope_id AND o.id = ordered;
  RETURN jsonb_build_object('status', 'ok', 'run', scopefloor.run_answer(r));
END $$;

-- Schedules whose time has come, for the worker, which knows the calendar: [{id, cron, timezone, due}].
CREATE OR REPLACE FUNCTION scopefloor.due_schedules(most int) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_object('id', f.id, 'cron', f.cron, 'timezone', f.timezone, 'due', f.next_run)), '[]')
  FROM (SELECT * FROM scopefloor.forget_schedule o WHERE NOT o.paused AND o.next_run <= clock_timestamp()
        AND NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.id = o.tenant_id AND x.state <> 'active') ORDER BY o.next_run, o.id LIMIT most) f
$$;

-- Orders the run of a tick and sets the next one. Of several workers, one; after a downtime, once. False: another was faster.
-- One whose last run is under way waits for the next tick.
CREATE OR REPLACE FUNCTION scopefloor.tick_schedule(of_id uuid, due timestamptz, following timestamptz) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  f scopefloor.forget_schedule;
BEGIN
  UPDATE scopefloor.forget_schedule o SET next_run = following WHERE o.id = of_id AND o.next_run = due AND NOT o.paused AND due <= clock_timestamp() AND (following > clock_timestamp()) IS NOT FALSE
  RETURNING * INTO f;
  IF f.id IS NULL THEN
    RETURN false;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM scopefloor.forget_run o WHERE o.scope_id = f.scope_id AND o.rule_id = f.id AND o.state IN ('queued', 'running')) THEN
    PERFORM scopefloor.order_schedule(f, due);
  END IF;
  RETURN true;
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/6_credentials.sql
-- Keys for providers that a scope has of its own: of those above a place, the narrowest scope's is its calls'. The
-- database keeps them sealed and has no key that opens them (src/models/credentials.ts).

-- What anybody is told of one.
CREATE OR REPLACE FUNCTION scopefloor.credential_shown(base_url text, updated_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN jsonb_build_object('baseUrl', base_url, 'updatedAt', updated_at);
END $$;

-- Those in force at these tags, by provider. Of two as narrow the first by its path.
CREATE OR REPLACE FUNCTION scopefloor.credentials_above(of_tags jsonb) RETURNS TABLE (provider text, base_url text, sealed text, updated_at timestamptz, tags jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  above jsonb[] := scopefloor.scopes_between('{}', of_tags);
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above));
BEGIN
  RETURN QUERY SELECT DISTINCT ON (c.provider) c.provider, c.base_url, c.sealed, c.updated_at, s.tags
    FROM scopefloor.scope_credential c JOIN scopefloor.scope s ON s.id = c.scope_id WHERE c.scope_id = ANY (ids)
    ORDER BY c.provider, scopefloor.tag_count(s.tags) DESC,
      (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(s.tags) t) COLLATE "C";
END $$;

-- The same for the service, which opens them: {provider: {provider, baseUrl, sealed, scope}}.
CREATE OR REPLACE FUNCTION scopefloor.credentials_at(of_tags jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Where no scope has any, this is all that anybody pays for them.
  IF NOT EXISTS (SELECT 1 FROM scopefloor.scope_credential) THEN
    RETURN '{}';
  END IF;
  RETURN (SELECT coalesce(jsonb_object_agg(c.provider, jsonb_build_object('provider', c.provider, 'baseUrl', c.base_url, 'sealed', c.sealed, 'scope', c.tags)), '{}')
          FROM scopefloor.credentials_above(of_tags) c);
END $$;

-- What a scope has set, settings and credentials, each with the floor that set it. Of a credential no more than that it is there.
CREATE OR REPLACE FUNCTION scopefloor.set_at(at_scope int) RETURNS TABLE (name text, value jsonb, set_by jsonb, of_provider text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT v.name, v.value, v.set_by, NULL::text FROM scopefloor.scope_setting v WHERE v.scope_id = at_scope
    UNION ALL SELECT 'credentials.' || c.provider, scopefloor.credential_shown(c.base_url, c.updated_at), c.set_by, c.provider
              FROM scopefloor.scope_credential c WHERE c.scope_id = at_scope;
END $$;

-- For a worker that has the keys: what is not sealed with this one, in order, after a place in it.
CREATE OR REPLACE FUNCTION scopefloor.credentials_under_others(current_key text, after_scope int, after_provider text, most int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('scopeId', o.scope_id, 'provider', o.provider, 'baseUrl', o.base_url, 'sealed', o.sealed, 'scope', o.tags) ORDER BY o.scope_id, o.provider), '[]')
          FROM (SELECT c.scope_id, c.provider, c.base_url, c.sealed, s.tags FROM scopefloor.scope_credential c JOIN scopefloor.scope s ON s.id = c.scope_id
                WHERE split_part(c.sealed, '.', 1) <> current_key AND (c.scope_id, c.provider) > (after_scope, after_provider)
                ORDER BY c.scope_id, c.provider LIMIT most) o);
END $$;

-- The same credential under another key; one that has changed meanwhile stays as it is.
CREATE OR REPLACE FUNCTION scopefloor.reseal_credential(at_scope int, of_provider text, before text, after text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.scope_credential c SET sealed = after WHERE c.scope_id = at_scope AND c.provider = of_provider AND c.sealed = before;
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/6_settings.sql
-- Settings by scope: of a value that several scopes above a place set, the narrowest one's holds.

-- The settings in force at these tags: the Context's, with those of scopes over them. Of two as narrow the first by its path.
CREATE OR REPLACE FUNCTION scopefloor.settings_at(of_tags jsonb, in_context text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own jsonb := coalesce((SELECT c.config FROM scopefloor.context c WHERE c.id = in_context), '{}');
BEGIN
  -- Where no scope has any, this is all that anybody pays for them.
  IF NOT EXISTS (SELECT 1 FROM scopefloor.scope_setting) THEN
    RETURN own;
  END IF;
  RETURN own || (SELECT coalesce(jsonb_object_agg(v.name, v.value), '{}') FROM scopefloor.settings_above(of_tags) v);
END $$;

-- The same with where each comes from.
CREATE OR REPLACE FUNCTION scopefloor.settings_above(of_tags jsonb) RETURNS TABLE (name text, value jsonb, tags jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  above jsonb[] := scopefloor.scopes_between('{}', of_tags);
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above));
BEGIN
  RETURN QUERY SELECT DISTINCT ON (v.name) v.name, v.value, s.tags
    FROM scopefloor.scope_setting v JOIN scopefloor.scope s ON s.id = v.scope_id WHERE v.scope_id = ANY (ids)
    ORDER BY v.name, scopefloor.tag_count(s.tags) DESC,
      (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(s.tags) t) COLLATE "C";
END $$;

-- Sets values at the ticket's target, {name: value}, and credentials, {provider: {sealed, baseUrl}}. {status: ok, scope, settings}, or {status, detail} and then none.
CREATE OR REPLACE FUNCTION scopefloor.set_settings(given jsonb, credentials jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  above text;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
  SELECT v.name INTO above FROM scopefloor.set_at(at_scope.id) v
  WHERE (given ? v.name OR credentials ? v.of_provider) AND NOT v.set_by @> (t->'floor') LIMIT 1;
  IF above IS NOT NULL THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', format('a key above this one has set %s', above));
  END IF;
  INSERT INTO scopefloor.scope_setting AS o (tenant_id, scope_id, name, value, set_by, api_key_id)
  SELECT at_scope.tenant_id, at_scope.id, g.key, g.value, t->'floor', (t->>'key')::uuid FROM jsonb_each(given) g
  ON CONFLICT (scope_id, name, tenant_id) DO UPDATE SET value = EXCLUDED.value, set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp();
  INSERT INTO scopefloor.scope_credential AS o (tenant_id, scope_id, provider, base_url, sealed, set_by, api_key_id)
  SELECT at_scope.tenant_id, at_scope.id, g.key, g.value->>'baseUrl', g.value->>'sealed', t->'floor', (t->>'key')::uuid FROM jsonb_each(credentials) g
  ON CONFLICT (scope_id, provider, tenant_id) DO UPDATE SET base_url = EXCLUDED.base_url, sealed = EXCLUDED.sealed, set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp();
  RETURN jsonb_build_object('status', 'ok', 'scope', at_scope.tags,
    'settings', (SELECT jsonb_object_agg(v.name, v.value) FROM scopefloor.set_at(at_scope.id) v));
END $$;

-- What scopes of the ticket's target and below set, by page: {total, scopes: [{scope, settings}]}.
CREATE OR REPLACE FUNCTION scopefloor.list_settings(most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids int[];
BEGIN
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (
            SELECT s.scope_id FROM scopefloor.scope_setting s WHERE ids IS NULL OR s.scope_id = ANY (ids)
            UNION SELECT c.scope_id FROM scopefloor.scope_credential c WHERE ids IS NULL OR c.scope_id = ANY (ids)),
          shown AS (SELECT f.* FROM found f ORDER BY f.scope_id LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'scopes', coalesce((
            SELECT jsonb_agg(jsonb_build_object('scope', s.tags, 'settings', (SELECT jsonb_object_agg(v.name, v.value) FROM scopefloor.set_at(o.scope_id) v)) ORDER BY o.scope_id) FROM shown o JOIN scopefloor.scope s ON s.id = o.scope_id), '[]')));
END $$;

-- What is in force at the ticket's target: {name: {value, scope}}; null in place of a scope: the Context's.
CREATE OR REPLACE FUNCTION scopefloor.effective_settings(in_context text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
BEGIN
  RETURN coalesce((SELECT jsonb_object_agg(c.key, jsonb_build_object('value', c.value, 'scope', NULL)) FROM scopefloor.context o, jsonb_each(o.config) c WHERE o.id = in_context), '{}')
    || coalesce((SELECT jsonb_object_agg(v.name, jsonb_build_object('value', v.value, 'scope', v.tags)) FROM scopefloor.settings_above(t->'target') v), '{}')
    || coalesce((SELECT jsonb_object_agg('credentials.' || c.provider, jsonb_build_object('value', scopefloor.credential_shown(c.base_url, c.updated_at), 'scope', c.tags))
                 FROM scopefloor.credentials_above(t->'target') c), '{}');
END $$;

-- Takes values of the ticket's target away (null: all): {status: ok}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.drop_settings(names text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope int := (SELECT s.id FROM scopefloor.scope s WHERE s.tags = t->'target');
  dropped int;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  IF EXISTS (SELECT 1 FROM scopefloor.set_at(at_scope) v WHERE (names IS NULL OR v.name = ANY (names)) AND NOT v.set_by @> (t->'floor')) THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has set one of these"}';
  END IF;
  WITH settings AS (DELETE FROM scopefloor.scope_setting v WHERE v.scope_id = at_scope AND (names IS NULL OR v.name = ANY (names)) RETURNING 1),
    credentials AS (DELETE FROM scopefloor.scope_credential c WHERE c.scope_id = at_scope AND (names IS NULL OR 'credentials.' || c.provider = ANY (names)) RETURNING 1)
  SELECT (SELECT count(*) FROM settings) + (SELECT count(*) FROM credentials) INTO dropped;
  RETURN jsonb_build_object('status', CASE dropped WHEN 0 THEN 'not-found' ELSE 'ok' END, 'detail', '');
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/7_tenants.sql
-- Tenants as records: what an `org` is called, what it was made from, and whether its keys come in. Making and changing
-- them is the operator's.

-- Whether a key may come in: its tenant, and that of the scope it asks for, are neither suspended nor leaving. The
-- operator's keys always may.
CREATE OR REPLACE FUNCTION scopefloor.is_shut_out(floor jsonb, of_tags jsonb) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  org jsonb := coalesce(floor->'org', of_tags->'org');
BEGIN
  RETURN floor <> '{}' AND org IS NOT NULL AND EXISTS (SELECT 1 FROM scopefloor.tenant t WHERE t.root = jsonb_build_object('org', org) AND t.state <> 'active');
END $$;

-- A tenant as the API gives it, with what it uses.
CREATE OR REPLACE FUNCTION scopefloor.tenant_answer(o scopefloor.tenant) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id = o.id LIMIT 10000);
BEGIN
  RETURN jsonb_build_object(
    'scope', o.root, 'path', 'org/' || (o.root->>'org'), 'name', o.name, 'template', o.template, 'templateVersion', o.template_version, 'state', o.state,
    'leavesAt', scopefloor.rfc3339(o.leaves_at), 'createdAt', scopefloor.rfc3339(o.created_at))
    || (SELECT jsonb_build_object('keys', count(*) FILTER (WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())), 'lastUsedAt', scopefloor.rfc3339(max(k.last_used_at)))
        FROM scopefloor.api_key k WHERE k.tenant_id = o.id)
    || (SELECT jsonb_build_object('usage', jsonb_build_object('from', scopefloor.rfc3339(month::timestamp AT TIME ZONE 'UTC'), 'calls', coalesce(sum(u.calls), 0),
          'totalTokens', coalesce(sum(u.input_tokens + u.output_tokens + u.embedding_tokens), 0), 'costUsd', coalesce(sum(u.cost_usd), 0)))
        FROM scopefloor.usage_day u WHERE u.tenant_id = o.id AND u.day >= month)
    || (SELECT jsonb_build_object('storage', jsonb_build_object('scopes', cardinality(ids), 'passages', coalesce(sum(k.passages), 0), 'bytes', coalesce(sum(k.bytes), 0)))
        FROM scopefloor.stored_bytes(ids) k);
END $$;

-- Makes the tenant that the ticket's target is, or changes its name and what it was made from: {status: ok, created, tenant}.
CREATE OR REPLACE FUNCTION scopefloor.put_tenant(of_name text, of_template text, of_version int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  o scopefloor.tenant;
  is_new bool;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right makes tenants"}';
  END IF;
  is_new := NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.root = t->'target');
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.id = at_scope.tenant_id FOR UPDATE;
  IF o.state <> 'active' THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', format('the tenant is %s', o.state));
  END IF;
  -- One that keys alone have made is a tenant like any from now on.
  is_new := is_new OR NOT o.is_provisioned;
  UPDATE scopefloor.tenant x
  SET name = coalesce(of_name, x.name), template = coalesce(of_template, x.template), template_version = CASE WHEN of_template IS NULL THEN x.template_version ELSE of_version END, is_provisioned = true
  WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'created', is_new);
END $$;

-- The floors of those keys of the tenant at the ticket's target that have one of these names and are not revoked, by name.
CREATE OR REPLACE FUNCTION scopefloor.minted_names(names text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
BEGIN
  RETURN (SELECT coalesce(jsonb_object_agg(k.name, k.floor), '{}') FROM scopefloor.api_key k
          JOIN scopefloor.tenant o ON o.id = k.tenant_id WHERE o.root = t->'target' AND k.name = ANY (names) AND k.revoked_at IS NULL);
END $$;

-- Suspends the tenant that the ticket's target is, or lets its keys in again; gives it its name. {status: ok, tenant}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.change_tenant(of_state text, of_name text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  o scopefloor.tenant;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right changes tenants"}';
  END IF;
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.root = t->'target' FOR UPDATE;
  IF o.id IS NULL OR o.id = 0 THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF of_state IS NOT NULL AND o.state = 'leaving' THEN
    RETURN '{"status": "conflict", "detail": "the tenant is leaving; take the offboarding back first"}';
  END IF;
  UPDATE scopefloor.tenant x SET state = coalesce(of_state, x.state), name = coalesce(of_name, x.name) WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'tenant', scopefloor.tenant_answer(o));
END $$;

-- Tenants by page, in the order in which they were made: all for the operator, its own for an administrator; or the one
-- that the ticket's target is. {total, tenants}
CREATE OR REPLACE FUNCTION scopefloor.list_tenants(only_target bool, of_state text, most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  own jsonb := CASE WHEN only_target THEN t->'target' WHEN t->'floor' <> '{}' THEN t->'floor' END;
BEGIN
  IF own IS NOT NULL THEN
    -- By the index on roots; what has no org is no tenant, nor is what lies below one.
    RETURN (SELECT jsonb_build_object('total', count(*), 'tenants', coalesce(jsonb_agg(scopefloor.tenant_answer(o)), '[]'))
            FROM scopefloor.tenant o WHERE o.root = own AND o.id <> 0 AND own ? 'org' AND after = 0 AND (of_state IS NULL OR o.state = of_state));
  END IF;
  RETURN (WITH page AS (
            SELECT o FROM scopefloor.tenant o WHERE o.id <> 0 AND o.root ? 'org' AND (of_state IS NULL OR o.state = of_state) ORDER BY o.id LIMIT most OFFSET after)
          SELECT jsonb_build_object(
            'total', (SELECT count(*) FROM scopefloor.tenant o WHERE o.id <> 0 AND o.root ? 'org' AND (of_state IS NULL OR o.state = of_state)),
            'tenants', coalesce((SELECT jsonb_agg(scopefloor.tenant_answer(p.o) ORDER BY (p.o).id) FROM page p), '[]')));
END $$;

-- Templates: what tenants are made from. The operator's, and no tenant's data. Each change is a version of its own.

CREATE OR REPLACE FUNCTION scopefloor.template_answer(o scopefloor.template) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('name', o.name, 'version', o.version, 'template', o.body, 'createdAt', scopefloor.rfc3339(o.created_at))
$$;

-- Stores the next version: {status: ok, template}. One that says the same as the last is that one.
CREATE OR REPLACE FUNCTION scopefloor.put_template(of_name text, new_body jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most_templates constant int := 200;
  most_versions constant int := 1000;
  t jsonb := scopefloor.operator_ticket();
  last scopefloor.template;
BEGIN
  IF t IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "templates are the operator''s: only a management key with the floor {} and every right changes them"}';
  END IF;
  -- Of two at once, one after the other.
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = 0 FOR NO KEY UPDATE;
  SELECT * INTO last FROM scopefloor.template o WHERE o.name = of_name ORDER BY o.version DESC LIMIT 1;
  IF last.body = new_body THEN
    RETURN jsonb_build_object('status', 'ok', 'template', scopefloor.template_answer(last));
  ELSIF last.version >= most_versions OR (last.name IS NULL AND (SELECT count(DISTINCT o.name) FROM scopefloor.template o) >= most_templates) THEN
    RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', format('there may be at most %s templates with %s versions each', most_templates, most_versions));
  END IF;
  INSERT INTO scopefloor.template (name, version, body, api_key_id) VALUES (of_name, coalesce(last.version, 0) + 1, new_body, (t->>'key')::uuid) RETURNING * INTO last;
  RETURN jsonb_build_object('status', 'ok', 'template', scopefloor.template_answer(last));
END $$;

-- The last version of each template; or of one this version (null: the last), with the numbers of all. NULL: there is none.
CREATE OR REPLACE FUNCTION scopefloor.templates(of_name text, of_version int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN NULL;
  ELSIF of_name IS NULL THEN
    RETURN (SELECT coalesce(jsonb_agg(scopefloor.template_answer(o) ORDER BY o.name), '[]') FROM scopefloor.template o
            WHERE NOT EXISTS (SELECT 1 FROM scopefloor.template x WHERE x.name = o.name AND x.version > o.version));
  END IF;
  RETURN (SELECT scopefloor.template_answer(o) || jsonb_build_object('versions', (SELECT jsonb_agg(x.version ORDER BY x.version) FROM scopefloor.template x WHERE x.name = of_name))
          FROM scopefloor.template o WHERE o.name = of_name AND (of_version IS NULL OR o.version = of_version) ORDER BY o.version DESC LIMIT 1);
END $$;

-- Takes a template away with all of its versions: {status: ok}, or {status, detail}. What was made from it stays.
CREATE OR REPLACE FUNCTION scopefloor.drop_template(of_name text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  dropped int;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "templates are the operator''s: this needs a management key with the floor {} and every right"}';
  END IF;
  DELETE FROM scopefloor.template o WHERE o.name = of_name;
  GET DIAGNOSTICS dropped = ROW_COUNT;
  RETURN jsonb_build_object('status', CASE dropped WHEN 0 THEN 'not-found' ELSE 'ok' END, 'detail', '');
END $$;

--> statement-breakpoint
-- src/db/sql/3_governance/8_offboarding.sql
-- Offboarding: a tenant leaves for good. Until its time its keys are only kept out, and it can be taken back; then a run
-- revokes them, takes its jobs away and erases all that it has (4_runs.sql), its rules and its name with it.

-- Lets the tenant that the ticket's target is leave after a grace: {status: ok, tenant}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.begin_offboarding(grace_seconds float8) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  o scopefloor.tenant;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right offboards tenants"}';
  END IF;
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.root = t->'target' FOR UPDATE;
  IF o.id IS NULL OR o.id = 0 THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF o.state = 'leaving' THEN
    RETURN '{"status": "conflict", "detail": "the tenant is leaving already"}';
  ELSIF scopefloor.holds_something(o.root) THEN
    PERFORM scopefloor.raise_held();
  END IF;
  -- The run stands there, also where no row was ever stored at the org itself.
  PERFORM scopefloor.ensure_scope(o.root);
  UPDATE scopefloor.tenant x SET state = 'leaving', leaves_at = clock_timestamp() + make_interval(secs => grace_seconds), leaving_by = (t->>'key')::uuid WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'tenant', scopefloor.tenant_answer(o));
END $$;

-- Takes it back, as long as nothing was done: the tenant is active again.
CREATE OR REPLACE FUNCTION scopefloor.undo_offboarding() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  o scopefloor.tenant;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right offboards tenants"}';
  END IF;
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.root = t->'target' FOR UPDATE;
  IF o.id IS NULL OR o.state <> 'leaving' THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF EXISTS (SELECT 1 FROM scopefloor.forget_run r JOIN scopefloor.scope s ON s.id = r.scope_id WHERE s.tags = o.root AND r.source = 'offboard' AND r.state <> 'held') THEN
    RETURN '{"status": "conflict", "detail": "the grace is over, and the tenant is being erased"}';
  END IF;
  UPDATE scopefloor.tenant x SET state = 'active', leaves_at = NULL, leaving_by = NULL WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'tenant', scopefloor.tenant_answer(o));
END $$;

-- For the worker: of tenants whose grace is over the run is ordered; gives how many.
CREATE OR REPLACE FUNCTION scopefloor.order_offboardings(most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  o scopefloor.tenant;
  at_scope int;
  ordered int := 0;
BEGIN
  FOR o IN
    SELECT * FROM scopefloor.tenant x WHERE x.state = 'leaving' AND x.leaves_at <= clock_timestamp()
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s JOIN scopefloor.forget_run r ON r.scope_id = s.id WHERE s.tags = x.root AND r.source = 'offboard' AND r.state IN ('queued', 'running'))
    ORDER BY x.leaves_at LIMIT most FOR UPDATE SKIP LOCKED
  LOOP
    SELECT s.id INTO at_scope FROM scopefloor.scope s WHERE s.tags = o.root;
    CONTINUE WHEN at_scope IS NULL;
    PERFORM scopefloor.order_run(at_scope, 'offboard', gen_random_uuid(), o.leaves_at, '{}', o.leaving_by, 'erase', true, false, '{}');
    -- One that a hold stops is looked at again.
    UPDATE scopefloor.tenant x SET leaves_at = clock_timestamp() + interval '1 hour' WHERE x.id = o.id;
    ordered := ordered + 1;
  END LOOP;
  RETURN ordered;
END $$;

--> statement-breakpoint
-- src/db/sql/3_metering/1_prices.sql
-- Prices, and what a trace costs: it is priced when it is written, by what was in effect then.

-- The price of a model at a time: one for `provider:model` goes before one for the model's name alone.
CREATE OR REPLACE FUNCTION scopefloor.model_price(of_provider text, of_model text, at_time timestamptz) RETURNS scopefloor.price
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.price;
BEGIN
  FOR i IN 1..2 LOOP
    SELECT * INTO found FROM scopefloor.price p
    WHERE p.kind = 'model' AND p.name = CASE i WHEN 1 THEN concat_ws(':', of_provider, of_model) ELSE coalesce(of_model, of_provider) END AND p.effective_from <= at_time
    ORDER BY p.effective_from DESC LIMIT 1;
    EXIT WHEN found.id IS NOT NULL;
  END LOOP;
  RETURN found;
END $$;

-- The operation whose price a tool of MCP has: what it does by another door costs the same.
CREATE OR REPLACE FUNCTION scopefloor.priced_as(of_operation text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce('{"mcp_remember": "facts", "mcp_recall": "query"}'::jsonb->>of_operation, substring(of_operation FROM '^mcp_(.*)$'), of_operation)
$$;

-- What a call costs in USD: its model's tokens, and the price of the operation by itself. NULL: the model
-- has no price for tokens that were used. A model of the service's own process (`local`) costs nothing
-- where it has none.
CREATE OR REPLACE FUNCTION scopefloor.cost_of(of_operation text, of_provider text, of_model text, input bigint, cached bigint, output bigint, embedding bigint, at_time timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p scopefloor.price;
  from_cache bigint := least(cached, input);
  of_call numeric := coalesce((SELECT o.per_call FROM scopefloor.price o WHERE o.kind = 'operation' AND o.name = scopefloor.priced_as(of_operation) AND o.effective_from <= at_time
                               ORDER BY o.effective_from DESC LIMIT 1), 0);
BEGIN
  IF of_provider IS NULL THEN
    RETURN of_call;
  END IF;
  p := scopefloor.model_price(of_provider, of_model, at_time);
  IF p.id IS NULL THEN
    RETURN CASE WHEN of_provider = 'local' THEN of_call END;
  END IF;
  -- Tokens of a kind that there are none of need no price.
  RETURN of_call + (coalesce((input - from_cache) * p.input, CASE WHEN input = from_cache THEN 0 END)
                    + coalesce(from_cache * coalesce(p.cached_input, p.input), CASE WHEN from_cache = 0 THEN 0 END)
                    + coalesce(output * p.output, CASE WHEN output = 0 THEN 0 END)
                    + coalesce(embedding * p.embedding, CASE WHEN embedding = 0 THEN 0 END)) * 0.000001;
END $$;

-- Trigger: no trace says its own cost.
CREATE OR REPLACE FUNCTION scopefloor.price_trace() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.cost_usd := CASE WHEN NEW.kind = 'denied' THEN 0 ELSE scopefloor.cost_of(NEW.operation, NEW.provider, NEW.model, NEW.input_tokens, NEW.cached_input_tokens,
                                                                              NEW.output_tokens, NEW.embedding_tokens, NEW.created_at) END;
  RETURN NEW;
END $$;

-- The ticket of the operator, who alone sets prices: management with the floor {} and every right.
CREATE OR REPLACE FUNCTION scopefloor.operator_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.full_ticket();
BEGIN
  RETURN CASE WHEN t->'floor' = '{}' THEN t END;
END $$;

-- A row of `price` as the API gives it.
CREATE OR REPLACE FUNCTION scopefloor.price_answer(p scopefloor.price) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', p.id, 'effectiveFrom', scopefloor.rfc3339(p.effective_from), 'createdAt', scopefloor.rfc3339(p.created_at)) || CASE p.kind
    WHEN 'model' THEN jsonb_build_object('model', p.name) || jsonb_strip_nulls(jsonb_build_object(
      'inputPerMillion', p.input, 'cachedInputPerMillion', p.cached_input, 'outputPerMillion', p.output, 'embeddingPerMillion', p.embedding))
    WHEN 'operation' THEN jsonb_build_object('operation', p.name, 'perCall', p.per_call)
    ELSE jsonb_build_object('storagePerGbMonth', p.per_gb_month) END
$$;

-- Sets a price from a time on, or from now; what was written before keeps its cost. Of a model, what is left out stays
-- as it was in effect then. NULL for anybody but the operator.
CREATE OR REPLACE FUNCTION scopefloor.set_price(new_id uuid, of_kind text, of_name text, given jsonb, given_since timestamptz) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.operator_ticket();
  since timestamptz := coalesce(given_since, transaction_timestamp());
  p scopefloor.price;
BEGIN
  IF t IS NULL THEN
    RETURN NULL;
  END IF;
  IF of_kind NOT IN ('model', 'operation', 'storage') THEN
    RAISE EXCEPTION 'scopefloor: no price is of the kind %', of_kind USING ERRCODE = 'check_violation';
  END IF;
  SELECT * INTO p FROM scopefloor.price o WHERE o.kind = of_kind AND o.name = of_name AND o.effective_from <= since ORDER BY o.effective_from DESC LIMIT 1;
  INSERT INTO scopefloor.price (id, kind, name, input, cached_input, output, embedding, per_call, per_gb_month, effective_from, api_key_id)
  VALUES (new_id, of_kind, of_name,
          coalesce((given->>'inputPerMillion')::numeric, p.input), coalesce((given->>'cachedInputPerMillion')::numeric, p.cached_input),
          coalesce((given->>'outputPerMillion')::numeric, p.output), coalesce((given->>'embeddingPerMillion')::numeric, p.embedding),
          (given->>'perCall')::numeric, (given->>'storagePerGbMonth')::numeric, since, (t->>'key')::uuid)
  ON CONFLICT (kind, name, effective_from) DO UPDATE SET
    input = EXCLUDED.input, cached_input = EXCLUDED.cached_input, output = EXCLUDED.output, embedding = EXCLUDED.embedding,
    per_call = EXCLUDED.per_call, per_gb_month = EXCLUDED.per_gb_month, api_key_id = EXCLUDED.api_key_id
  RETURNING * INTO p;
  RETURN scopefloor.price_answer(p);
END $$;

-- Every price, for whoever may read usage: by name, the newest first.
CREATE OR REPLACE FUNCTION scopefloor.list_prices() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for prices' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.price_answer(p) ORDER BY p.kind, p.name, p.effective_from DESC), '[]') FROM scopefloor.price p);
END $$;

-- Takes a price out, by its id or all of a name. How many; NULL for anybody but the operator.
CREATE OR REPLACE FUNCTION scopefloor.drop_price(of_id uuid, of_kind text, of_name text) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  dropped int;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN NULL;
  END IF;
  DELETE FROM scopefloor.price p WHERE p.id = of_id OR (of_id IS NULL AND p.kind = of_kind AND p.name = of_name);
  GET DIAGNOSTICS dropped = ROW_COUNT;
  RETURN dropped;
END $$;

--> statement-breakpoint
-- src/db/sql/3_metering/3_holds.sql
-- Holds: what calls may cost at most, kept free in every budget above them before they are made. The trace
-- with the hold's id settles it; a fold then moves what was held to what was used.
--
-- Lock order: windows by the depth of their scopes, the deepest first and {} last, which everybody's calls
-- have and which is so held shortest; then by budget and period. Rates (7_rates.sql) are locked before windows.
-- Rows of a new period are made while none is locked, and no transaction that has some locked folds (4_settling.sql).

-- Holds for calls that wait in one process, in one statement and a transaction of its own. A call is
--   {id, keyHash (hex), verb, requested, onBehalfOf, operation, calls (1 for a request, 0 for what belongs to one),
--    requests (of these, those that count against budgets), isOwn (it has a trace of its own), isSent, mayDegrade, isLast (it
--    was asked for before, and is refused or degraded for good),
--    provider, model, input, output, embedding (tokens, the most that it can use)}
-- and is for what enter would let it do. Its answer, in the same order:
--   {status: none}                no budget and no limit stands above it
--   {status: held}                what it asked for is held
--   {status: degraded, …}         it may be made without the model: that much is held, and why not more
--   {status: refused, …}          what was reached: {limit: tokens | cost | requests | price, budget?, resetsAt?, inFlight}
--   {status: limited, …}          which rate was reached: {rate: requests | tokens | concurrency, retryAfter}
--   {status: not-admitted}       enter refuses it and says why
-- `budget` is there for a caller whose floor holds the budget's scope; `rates` of each says what is left of those
-- that the caller may know. `settleable` is there where what is held is in the way, with the rule's id: once
-- what was settled is moved on (fold_calls), in a transaction of its own, there may be room.
CREATE OR REPLACE FUNCTION scopefloor.hold_calls(calls jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  call jsonb;
  placed jsonb := '[]';
  caller record;
  place record;
  named record;
  traced scopefloor.scope;
  at_tags jsonb;
  h scopefloor.budget_hold;
BEGIN
  PERFORM scopefloor.check_calls(calls, ttl_seconds);
  FOR call IN SELECT jsonb_array_elements(calls) LOOP
    caller := scopefloor.authenticate(decode(call->>'keyHash', 'hex'), call->>'onBehalfOf');
    IF caller.refusal IS NOT NULL
       OR scopefloor.permit((caller.k).principal, (caller.other).principal, caller.verbs, caller.content, call->>'verb', call->'requested'->>'mode') IS NOT NULL THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'not-admitted'));
      CONTINUE;
    END IF;
    place := scopefloor.resolve_place(caller.k, caller.floor, CASE WHEN call->'requested'->>'mode' = 'write' THEN call->'requested' ELSE '{}' END);
    IF place.refusal IS NULL THEN
      named := scopefloor.resolve_clauses(caller.floor, call->'requested', call->'requested'->>'mode', 'strict', place.fixed);
    END IF;
    IF place.refusal IS NOT NULL OR named.refusal IS NOT NULL THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'not-admitted'));
      CONTINUE;
    END IF;
    at_tags := CASE WHEN call->'requested'->>'mode' = 'erase' THEN caller.floor ELSE coalesce(named.shared, caller.floor) END;
    SELECT * INTO traced FROM scopefloor.scope s WHERE s.tags = at_tags;
    IF traced.id IS NULL THEN
      SELECT s.* INTO traced FROM scopefloor.scope s WHERE s.id = (caller.k).scope_id;
    END IF;
    SELECT * INTO h FROM scopefloor.budget_hold o WHERE o.id = (call->>'id')::uuid FOR UPDATE;
    IF h.id IS NOT NULL AND (call->>'calls')::int = 1 AND h.api_key_id = (caller.k).id THEN
      placed := placed || '[{"status": "held"}]'; -- asked once more, since the first answer was lost
      CONTINUE;
    ELSIF h.id IS NOT NULL AND (h.api_key_id <> (caller.k).id OR h.state NOT IN ('held', 'sent')) THEN
      placed := placed || jsonb_build_array(jsonb_build_object('status', 'not-admitted'));
      CONTINUE;
    END IF;
    placed := placed || jsonb_build_array(call || jsonb_build_object(
      'key', (caller.k).id, 'floor', caller.floor, 'scope', coalesce(h.scope_id, traced.id), 'tenant', coalesce(h.tenant_id, traced.tenant_id),
      'budgets', scopefloor.windows_for(h, at_tags),
      'limits', (SELECT coalesce(jsonb_agg(l.id), '[]') FROM scopefloor.rates_above(at_tags, (caller.k).id) l)));
  END LOOP;
  RETURN scopefloor.hold_placed(placed, ttl_seconds);
END $$;

-- Refuses numbers that no call has: who calls the database by itself must not make room with them, or fill it.
CREATE OR REPLACE FUNCTION scopefloor.check_calls(calls jsonb, ttl_seconds int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF ttl_seconds NOT BETWEEN 1 AND 3600 OR jsonb_array_length(calls) > 1000 OR EXISTS (
    SELECT 1 FROM jsonb_array_elements(calls) c
    WHERE NOT coalesce((c->>'calls')::bigint IN (0, 1) AND (c->>'requests')::bigint IN (0, 1) AND (c->>'input')::bigint BETWEEN 0 AND 1000000000
                       AND (c->>'output')::bigint BETWEEN 0 AND 1000000000 AND (c->>'embedding')::bigint BETWEEN 0 AND 1000000000, false)) THEN
    RAISE EXCEPTION 'scopefloor: no call has such numbers' USING ERRCODE = 'check_violation';
  END IF;
END $$;

-- The periods that a call counts in: [{id, starts}]. Of a request that has a hold they are the hold's, so that what
-- is added to it goes where it is.
CREATE OR REPLACE FUNCTION scopefloor.windows_for(h scopefloor.budget_hold, tags jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF h.id IS NOT NULL THEN
    RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('id', b.id, 'starts', h.starts[b.n])), '[]') FROM unnest(h.budget_ids) WITH ORDINALITY b(id, n));
  END IF;
  RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('id', b.id, 'starts', scopefloor.period_start(b.period, b.timezone, clock_timestamp()))), '[]')
          FROM scopefloor.budgets_above(tags) b);
END $$;

-- The same for calls whose place is known: {…, key, floor, scope, tenant, budgets: [{id, starts}], limits: [id]}. One
-- that has a status has its answer.
CREATE OR REPLACE FUNCTION scopefloor.hold_placed(placed jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  wanted jsonb[] := ARRAY(SELECT DISTINCT b.w FROM jsonb_array_elements(placed) c, jsonb_array_elements(coalesce(c->'budgets', '[]')) b(w));
  limited uuid[] := ARRAY(SELECT DISTINCT (l.id #>> '{}')::uuid FROM jsonb_array_elements(placed) c, jsonb_array_elements(coalesce(c->'limits', '[]')) l(id));
  now_second bigint := extract(epoch FROM now_at)::bigint;
  ls scopefloor.scope_limit[];
  rs scopefloor.limit_rate[];
  own_rates int[];
  over jsonb;
  calls bigint;
  bs scopefloor.budget[];
  ws scopefloor.budget_window[];
  period_starts timestamptz[];
  answers jsonb := '[]';
  call jsonb;
  own int[];
  cost numeric;       -- of all of it
  call_cost numeric;  -- of the call without its model
  tokens bigint;
  requests bigint;
  short jsonb;
  bare jsonb;         -- the same without its model
  is_degraded bool;
  is_forced bool;
BEGIN
  IF cardinality(wanted) = 0 AND cardinality(limited) = 0 THEN
    RETURN (SELECT coalesce(jsonb_agg(CASE WHEN c ? 'status' THEN c ELSE '{"status": "none"}' END), '[]') FROM jsonb_array_elements(placed) c);
  END IF;
  wanted := ARRAY(SELECT w FROM unnest(wanted) w JOIN scopefloor.budget b ON b.id = (w->>'id')::uuid JOIN scopefloor.scope s ON s.id = b.scope_id
                  ORDER BY scopefloor.tag_count(s.tags) DESC, b.id, (w->>'starts')::timestamptz);
  bs := ARRAY(SELECT b FROM unnest(wanted) WITH ORDINALITY w(window_of, n) JOIN scopefloor.budget b ON b.id = (w.window_of->>'id')::uuid ORDER BY w.n);
  period_starts := ARRAY(SELECT (w->>'starts')::timestamptz FROM unnest(wanted) w);
  INSERT INTO scopefloor.budget_window (tenant_id, scope_id, budget_id, starts)
  SELECT (bs[i]).tenant_id, (bs[i]).scope_id, (bs[i]).id, period_starts[i] FROM generate_subscripts(bs, 1) i
  ORDER BY i ON CONFLICT DO NOTHING;
  ls := ARRAY(SELECT l FROM scopefloor.scope_limit l JOIN scopefloor.scope s ON s.id = l.scope_id WHERE l.id = ANY (limited)
              ORDER BY scopefloor.tag_count(s.tags) DESC, l.id);
  rs := scopefloor.lock_rates(ls, now_second);
  ws := scopefloor.lock_windows(bs, period_starts);

  FOR call IN SELECT jsonb_array_elements(placed) LOOP
    own_rates := ARRAY(SELECT i FROM generate_subscripts(ls, 1) i WHERE rs[i] IS NOT NULL AND call->'limits' @> to_jsonb((ls[i]).id));
    own := ARRAY(SELECT i FROM generate_subscripts(bs, 1) i WHERE ws[i] IS NOT NULL AND call->'budgets' @> jsonb_build_array(wanted[i]));
    IF call ? 'status' OR cardinality(own || own_rates) = 0 THEN
      answers := answers || CASE WHEN call ? 'status' THEN jsonb_build_array(call) ELSE '[{"status": "none"}]'::jsonb END;
      CONTINUE;
    END IF;
    tokens := (call->>'input')::bigint + (call->>'output')::bigint + (call->>'embedding')::bigint;
    requests := (call->>'requests')::bigint;
    calls := (call->>'calls')::bigint;
    -- An operation's own price is the trace's that begins with this; without its model a call of its own is not made.
    call_cost := CASE WHEN calls = 1 THEN scopefloor.cost_of(call->>'operation', NULL, NULL, 0, 0, 0, 0, now_at) ELSE 0 END;
    cost := CASE WHEN call->>'provider' IS NULL THEN call_cost
      ELSE scopefloor.cost_of(CASE WHEN calls = 1 OR (call->>'isOwn')::bool THEN call->>'operation' END, call->>'provider', call->>'model',
                              (call->>'input')::bigint, 0, (call->>'output')::bigint, (call->>'embedding')::bigint, now_at) END;
    is_degraded := false;
    -- To forget costs its price whatever is left; its model is called within the budgets as any other.
    is_forced := coalesce(call->>'verb' = 'memory:forget', false);
    over := scopefloor.over_rate(ls, rs, own_rates, calls, tokens);
    short := CASE WHEN NOT (is_forced AND call->>'provider' IS NULL) THEN scopefloor.short_of(bs, ws, own, tokens, cost, requests, now_at) END;
    -- A call that is more than a whole minute's may be made without its model.
    IF ((over->>'isTooLarge')::bool OR (is_forced AND over->>'rate' = 'tokens')) AND (call->>'mayDegrade')::bool
       AND scopefloor.over_rate(ls, rs, own_rates, calls, 0) IS NULL THEN
      over := NULL;
      short := coalesce(short, '{"limit": "tokensPerMinute", "inFlight": false}');
    END IF;
    IF over IS NOT NULL THEN
      answers := answers || jsonb_build_array(jsonb_build_object('status', 'limited', 'rate', over->'rate', 'isTooLarge', coalesce((over->>'isTooLarge')::bool, false), 'retryAfter', over->'retryAfter',
                                                                 'settleable', CASE WHEN over->>'rate' <> 'requests' THEN (ls[(over->>'at')::int]).id END, 'rates', scopefloor.told_rates(ls, rs, own_rates, call->'floor')));
      CONTINUE;
    END IF;
    -- Where only holds are in the way, what was settled is moved on first.
    IF short IS NOT NULL AND (call->>'mayDegrade')::bool AND (coalesce((call->>'isLast')::bool, false) OR NOT (short->>'inFlight')::bool) THEN
      bare := CASE WHEN NOT is_forced THEN scopefloor.short_of(bs, ws, own, 0, call_cost, requests, now_at) END;
      IF bare IS NULL THEN
        is_degraded := true;
        tokens := 0;
        cost := call_cost;
      ELSE
        short := bare;
      END IF;
    END IF;
    IF short IS NULL OR is_degraded THEN
      FOR n IN 1..cardinality(own) LOOP
        ws[own[n]].held_tokens := ws[own[n]].held_tokens + tokens;
        ws[own[n]].held_cost := ws[own[n]].held_cost + coalesce(cost, 0);
        ws[own[n]].held_requests := ws[own[n]].held_requests + requests;
      END LOOP;
      FOR n IN 1..cardinality(own_rates) LOOP
        rs[own_rates[n]].requests[now_second % 61 + 1] := (rs[own_rates[n]]).requests[now_second % 61 + 1] + calls;
        rs[own_rates[n]].tokens[now_second % 61 + 1] := (rs[own_rates[n]]).tokens[now_second % 61 + 1] + tokens;
        rs[own_rates[n]].running := (rs[own_rates[n]]).running + calls;
      END LOOP;
      PERFORM scopefloor.keep_hold(
        call || CASE WHEN is_degraded THEN '{"provider": null, "model": null, "isSent": false}' ELSE '{}' END::jsonb, tokens, cost,
        ARRAY(SELECT (bs[i]).id FROM unnest(own) i ORDER BY i), ARRAY(SELECT period_starts[i] FROM unnest(own) i ORDER BY i),
        ARRAY(SELECT (ls[i]).id FROM unnest(own_rates) i), now_second, now_at + make_interval(secs => ttl_seconds));
    END IF;
    IF short IS NOT NULL AND short->>'limit' <> 'price' AND NOT (short->>'inFlight')::bool AND NOT coalesce((short->>'isTooLarge')::bool, false) AND short ? 'at'
       AND (ws[(short->>'at')::int]).alerted < 1 THEN
      PERFORM scopefloor.tell_thresholds(bs[(short->>'at')::int], ws[(short->>'at')::int], true);
      ws[(short->>'at')::int].alerted := 1;
    END IF;
    answers := answers || jsonb_build_array(
      jsonb_build_object('status', CASE WHEN is_degraded THEN 'degraded' WHEN short IS NULL THEN 'held' ELSE 'refused' END)
      || coalesce(scopefloor.shortage_answer(bs[(short->>'at')::int], period_starts[(short->>'at')::int], short, call->'floor'), '{}')
      || jsonb_build_object('rates', scopefloor.told_rates(ls, rs, own_rates, call->'floor')));
  END LOOP;
  PERFORM scopefloor.write_rates(rs), scopefloor.write_windows(ws);
  RETURN answers;
END $$;

-- Writes the hold of a call, of `held_tokens` and `held_cost`; a request that has one adds to it.
CREATE OR REPLACE FUNCTION scopefloor.keep_hold(call jsonb, held_tokens bigint, held_cost numeric, of_budgets uuid[], period_starts timestamptz[], of_limits uuid[],
                                                in_second bigint, until timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.budget_hold AS o (tenant_id, scope_id, id, budget_ids, starts, tokens, cost, requests, limit_ids, calls, second, api_key_id, operation,
                                           provider, model, state, expires_at)
  VALUES ((call->>'tenant')::int, (call->>'scope')::int, (call->>'id')::uuid, of_budgets, period_starts, held_tokens, coalesce(held_cost, 0), (call->>'requests')::bigint,
          of_limits, (call->>'calls')::bigint, in_second, (call->>'key')::uuid, call->>'operation', call->>'provider', call->>'model',
          CASE WHEN (call->>'isSent')::bool THEN 'sent' ELSE 'held' END, until)
  ON CONFLICT (scope_id, id, tenant_id) DO UPDATE SET
    tokens = o.tokens + EXCLUDED.tokens, cost = o.cost + EXCLUDED.cost, requests = o.requests + EXCLUDED.requests, calls = o.calls + EXCLUDED.calls,
    second = EXCLUDED.second, provider = coalesce(EXCLUDED.provider, o.provider), model = coalesce(EXCLUDED.model, o.model),
    state = CASE WHEN EXCLUDED.state = 'sent' THEN 'sent' ELSE o.state END, expires_at = EXCLUDED.expires_at
  WHERE o.api_key_id = EXCLUDED.api_key_id;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'scopefloor: the hold is another key''s' USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- The rows of these periods, locked in their order; NULL for one whose budget is gone.
CREATE OR REPLACE FUNCTION scopefloor.lock_windows(bs scopefloor.budget[], period_starts timestamptz[]) RETURNS scopefloor.budget_window[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ws scopefloor.budget_window[] := '{}';
  w scopefloor.budget_window;
BEGIN
  FOR i IN 1..cardinality(bs) LOOP
    SELECT * INTO w FROM scopefloor.budget_window o
    WHERE o.scope_id = (bs[i]).scope_id AND o.budget_id = (bs[i]).id AND o.starts = period_starts[i] FOR UPDATE;
    ws[i] := CASE WHEN FOUND THEN w END;
  END LOOP;
  RETURN ws;
END $$;

-- Writes what is held, in the order of the locks.
CREATE OR REPLACE FUNCTION scopefloor.write_windows(ws scopefloor.budget_window[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR i IN 1..cardinality(ws) LOOP
    UPDATE scopefloor.budget_window w SET held_tokens = (ws[i]).held_tokens, held_cost = (ws[i]).held_cost, held_requests = (ws[i]).held_requests
    WHERE w.scope_id = (ws[i]).scope_id AND w.budget_id = (ws[i]).budget_id AND w.starts = (ws[i]).starts
      AND (w.held_tokens, w.held_cost, w.held_requests) IS DISTINCT FROM ((ws[i]).held_tokens, (ws[i]).held_cost, (ws[i]).held_requests);
  END LOOP;
END $$;

-- Which hard budget has no room for that much, and in what: {at, limit, inFlight}; NULL: there is room in all.
-- `inFlight`: only what is held is in the way, and may be given back.
CREATE OR REPLACE FUNCTION scopefloor.short_of(bs scopefloor.budget[], ws scopefloor.budget_window[], own int[], tokens bigint, cost numeric, requests bigint, now_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  b scopefloor.budget;
  w scopefloor.budget_window;
  found jsonb;
  most_tokens bigint; -- with a raise that is on
  most_cost numeric;
BEGIN
  FOR n IN 1..cardinality(own) LOOP
    b := bs[own[n]];
    w := ws[own[n]];
    CONTINUE WHEN b.mode <> 'hard';
    most_tokens := b.token_limit + CASE WHEN b.more_until > now_at THEN b.more_tokens ELSE 0 END;
    most_cost := b.cost_limit + CASE WHEN b.more_until > now_at THEN b.more_cost ELSE 0 END;
    found := CASE
      WHEN tokens > 0 AND w.used_tokens + w.held_tokens + tokens > most_tokens
        THEN jsonb_build_object('limit', 'tokens', 'isTooLarge', tokens > most_tokens, 'inFlight', w.used_tokens + tokens <= most_tokens)
      -- What has no price cannot be within one.
      WHEN cost IS NULL AND b.cost_limit IS NOT NULL THEN '{"limit": "price", "inFlight": false}'
      WHEN cost > 0 AND w.used_cost + w.held_cost + cost > most_cost
        THEN jsonb_build_object('limit', 'cost', 'isTooLarge', cost > most_cost, 'inFlight', w.used_cost + cost <= most_cost)
      WHEN requests > 0 AND w.used_requests + w.held_requests + requests > b.request_limit
        THEN jsonb_build_object('limit', 'requests', 'inFlight', w.used_requests + requests <= b.request_limit) END;
    IF found IS NOT NULL THEN
      RETURN found || jsonb_build_object('at', own[n]);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- What a caller is told of a shortage.
CREATE OR REPLACE FUNCTION scopefloor.shortage_answer(b scopefloor.budget, period_starts timestamptz, short jsonb, floor jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE WHEN short IS NOT NULL THEN jsonb_build_object(
    'limit', short->'limit', 'isTooLarge', coalesce((short->>'isTooLarge')::bool, false), 'inFlight', (short->>'inFlight')::bool, 'settleable', CASE WHEN (short->>'inFlight')::bool THEN b.id END,
    'resetsAt', scopefloor.rfc3339(scopefloor.period_end(b.period, b.timezone, period_starts)),
    'budget', (SELECT scopefloor.budget_answer(b) FROM scopefloor.scope s WHERE s.id = b.scope_id AND s.tags @> floor)) END;
END $$;

-- Holds what a job's next call may use, at the scope of its ticket: an answer of hold_calls. A call to a provider has
-- a row in any case, so that what it used is known where the job is gone when it comes back (record_lost_call).
CREATE OR REPLACE FUNCTION scopefloor.hold_for_job(call jsonb, ttl_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
  answer jsonb;
BEGIN
  call := call || jsonb_build_object('calls', 0, 'requests', 0);
  PERFORM scopefloor.check_calls(jsonb_build_array(call), ttl_seconds);
  call := call || jsonb_build_object(
    'key', t->'key', 'floor', t->'floor', 'scope', t->'write', 'tenant', t->'tenant',
    'limits', (SELECT coalesce(jsonb_agg(l.id), '[]') FROM scopefloor.rates_above(t->'target', (t->>'key')::uuid) l),
    'budgets', scopefloor.windows_for(NULL, t->'target'));
  answer := scopefloor.hold_placed(jsonb_build_array(call), ttl_seconds)->0;
  IF answer->>'status' = 'none' AND (call->>'isSent')::bool THEN
    PERFORM scopefloor.keep_hold(call, (call->>'input')::bigint + (call->>'output')::bigint + (call->>'embedding')::bigint, 0, '{}', '{}', '{}', 0, clock_timestamp() + make_interval(secs => ttl_seconds));
  END IF;
  RETURN answer;
END $$;

--> statement-breakpoint
-- src/db/sql/3_metering/4_settling.sql
-- The end of a hold (3_holds.sql): its trace settles it, or it expires, or it is given back.

-- Gives holds back whose requests are over without a trace, of calls that no provider can have had:
--   ended  [{id, keyHash (hex)}]
CREATE OR REPLACE FUNCTION scopefloor.end_holds(ended jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.budget_hold h SET expires_at = '-infinity'
  FROM jsonb_array_elements(ended) e, scopefloor.api_key k
  WHERE h.id = (e->>'id')::uuid AND k.id = h.api_key_id AND h.state = 'held' AND sha256(decode(e->>'keyHash', 'hex')) IN (k.secret_hash, k.previous_hash);
END $$;

-- The same for a hold of the ticket's job.
CREATE OR REPLACE FUNCTION scopefloor.end_job_hold(of_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  UPDATE scopefloor.budget_hold h SET expires_at = '-infinity'
  WHERE h.scope_id = (t->>'write')::int AND h.id = of_id AND h.api_key_id = (t->>'key')::uuid AND h.state = 'held';
END $$;

-- A job whose work takes long says that its hold is still needed.
CREATE OR REPLACE FUNCTION scopefloor.extend_job_hold(of_id uuid, ttl_seconds int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  IF ttl_seconds NOT BETWEEN 1 AND 3600 THEN
    RAISE EXCEPTION 'scopefloor: no hold lasts for % s', ttl_seconds USING ERRCODE = 'insufficient_privilege';
  END IF;
  UPDATE scopefloor.budget_hold h SET expires_at = clock_timestamp() + make_interval(secs => ttl_seconds)
  WHERE h.scope_id = (t->>'write')::int AND h.id = of_id AND h.api_key_id = (t->>'key')::uuid AND h.state IN ('held', 'sent');
END $$;

-- Settles holds: those whose trace is there by what it says, and expired ones by what may have been spent.
-- Gives how many it went through, at most so many; of these budgets and limits alone, or of all.
CREATE OR REPLACE FUNCTION scopefloor.fold_holds(most int, of_budgets uuid[] DEFAULT NULL, of_limits uuid[] DEFAULT '{}') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
  changes jsonb;
  over jsonb;
  change record;
  w scopefloor.budget_window;
  rs scopefloor.limit_rate[];
  now_at timestamptz := clock_timestamp();
  now_second bigint := extract(epoch FROM now_at)::bigint;
BEGIN
  WITH due AS MATERIALIZED (
    SELECT h.scope_id, h.id, h.budget_ids, h.starts, h.limit_ids, h.calls, h.second, h.tokens, h.cost, h.requests, h.state, h.expires_at, h.created_at, d.id IS NOT NULL AS is_settled, d.total_tokens, d.cost_usd
    FROM scopefloor.budget_hold h
    LEFT JOIN LATERAL (SELECT t.id, t.total_tokens, t.cost_usd FROM scopefloor.decision_trace t WHERE t.id = h.id AND t.created_at >= h.created_at - interval '1 hour' LIMIT 1) d ON true
    WHERE (of_budgets IS NULL OR h.budget_ids && of_budgets OR h.limit_ids && of_limits)
      -- A transaction that was entered with a hold in time may take a while to commit.
      AND (d.id IS NOT NULL OR (h.state IN ('held', 'sent') AND (h.expires_at = '-infinity' OR h.expires_at < now_at - interval '1 minute'))
           OR h.created_at < now_at - interval '1 day')
    LIMIT most FOR UPDATE OF h SKIP LOCKED),
  kept AS (
    -- What a provider may have had costs what was held, until its trace comes.
    UPDATE scopefloor.budget_hold h SET state = 'charged'
    FROM due WHERE h.scope_id = due.scope_id AND h.id = due.id AND NOT due.is_settled AND due.state = 'sent'),
  over AS (
    DELETE FROM scopefloor.budget_hold h USING due
    WHERE h.scope_id = due.scope_id AND h.id = due.id AND (due.is_settled OR due.state <> 'sent')),
  moved AS (
    SELECT b.id AS budget_id, s.starts, due.state, due.tokens, due.cost, due.requests, due.state IN ('held', 'sent') AS was_held,
      CASE WHEN due.is_settled THEN due.total_tokens WHEN due.state IN ('sent', 'charged') THEN due.tokens ELSE 0 END AS spent_tokens,
      CASE WHEN due.is_settled THEN coalesce(due.cost_usd, due.cost) WHEN due.state IN ('sent', 'charged') THEN due.cost ELSE 0 END AS spent_cost,
      CASE WHEN due.is_settled OR due.state IN ('sent', 'charged') THEN due.requests ELSE 0 END AS spent_requests
    FROM due, unnest(due.budget_ids) WITH ORDINALITY b(id, n) JOIN unnest(due.starts) WITH ORDINALITY s(starts, n) USING (n)),
  summed AS (
    SELECT m.budget_id, m.starts,
      sum(m.spent_tokens - CASE WHEN m.state = 'charged' THEN m.tokens ELSE 0 END) AS used_tokens,
      sum(m.spent_cost - CASE WHEN m.state = 'charged' THEN m.cost ELSE 0 END) AS used_cost,
      sum(m.spent_requests - CASE WHEN m.state = 'charged' THEN m.requests ELSE 0 END) AS used_requests,
      sum(CASE WHEN m.was_held THEN m.tokens ELSE 0 END) AS held_tokens,
      sum(CASE WHEN m.was_held THEN m.cost ELSE 0 END) AS held_cost,
      sum(CASE WHEN m.was_held THEN m.requests ELSE 0 END) AS held_requests
    FROM moved m GROUP BY 1, 2)
  SELECT (SELECT count(*) FROM due), (SELECT jsonb_agg(to_jsonb(s)) FROM summed s),
         -- A call is over once; what its model did not use was not used in that second.
         (SELECT jsonb_agg(to_jsonb(x)) FROM (
            SELECT l.id AS limit_id, d.second, sum(d.calls) AS calls,
                   sum(CASE WHEN d.is_settled THEN d.total_tokens WHEN d.state = 'sent' THEN d.tokens ELSE 0 END - d.tokens) AS tokens
            FROM due d, unnest(d.limit_ids) l(id) WHERE d.state IN ('held', 'sent') GROUP BY 1, 2) x)
  INTO folded, changes, over;

  FOR change IN
    SELECT l AS scope_limit, c.* FROM jsonb_to_recordset(coalesce(over, '[]')) AS c(limit_id uuid, second bigint, calls bigint, tokens bigint)
    JOIN scopefloor.scope_limit l ON l.id = c.limit_id JOIN scopefloor.scope s ON s.id = l.scope_id
    ORDER BY scopefloor.tag_count(s.tags) DESC, l.id, c.second
  LOOP
    rs := scopefloor.lock_rates(ARRAY[change.scope_limit], now_second);
    CONTINUE WHEN rs[1] IS NULL;
    rs[1].running := greatest(0, (rs[1]).running - change.calls);
    IF now_second - change.second <= 60 THEN
      rs[1].tokens[change.second % 61 + 1] := greatest(0, (rs[1]).tokens[change.second % 61 + 1] + change.tokens);
    END IF;
    PERFORM scopefloor.write_rates(rs);
  END LOOP;

  FOR change IN
    SELECT b AS budget, c.* FROM jsonb_to_recordset(coalesce(changes, '[]')) AS c(budget_id uuid, starts timestamptz, used_tokens bigint, used_cost numeric,
      used_requests bigint, held_tokens bigint, held_cost numeric, held_requests bigint)
    JOIN scopefloor.budget b ON b.id = c.budget_id JOIN scopefloor.scope s ON s.id = b.scope_id
    ORDER BY scopefloor.tag_count(s.tags) DESC, b.id, c.starts
  LOOP
    UPDATE scopefloor.budget_window o SET
      used_tokens = o.used_tokens + change.used_tokens, used_cost = o.used_cost + change.used_cost, used_requests = o.used_requests + change.used_requests,
      held_tokens = o.held_tokens - change.held_tokens, held_cost = o.held_cost - change.held_cost, held_requests = o.held_requests - change.held_requests
    WHERE o.scope_id = (change.budget).scope_id AND o.budget_id = change.budget_id AND o.starts = change.starts RETURNING * INTO w;
    CONTINUE WHEN NOT FOUND;
    PERFORM scopefloor.tell_thresholds(change.budget, w);
  END LOOP;
  RETURN folded;
END $$;

-- Notes the shares of a budget that were reached and not told of in this period. Where it has just refused a call,
-- that is all of it, whatever is left.
CREATE OR REPLACE FUNCTION scopefloor.tell_thresholds(b scopefloor.budget, w scopefloor.budget_window, has_refused bool DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most_tokens bigint := b.token_limit + CASE WHEN b.more_until > clock_timestamp() THEN b.more_tokens ELSE 0 END;
  most_cost numeric := b.cost_limit + CASE WHEN b.more_until > clock_timestamp() THEN b.more_cost ELSE 0 END;
  share numeric := greatest(w.used_tokens / nullif(most_tokens, 0)::numeric,
                            w.used_cost / nullif(most_cost, 0), w.used_requests / nullif(b.request_limit, 0)::numeric,
                            CASE WHEN has_refused THEN 1 END);
BEGIN
  IF share IS NULL OR NOT EXISTS (SELECT 1 FROM unnest(b.alert_at) a WHERE a > w.alerted AND a <= share) THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.budget_event (tenant_id, scope_id, id, budget_id, starts, threshold, used_tokens, used_cost, used_requests)
  SELECT b.tenant_id, b.scope_id, gen_random_uuid(), b.id, w.starts, a, w.used_tokens, w.used_cost, w.used_requests FROM unnest(b.alert_at) a WHERE a > w.alerted AND a <= share
  ON CONFLICT DO NOTHING;
  UPDATE scopefloor.budget_window o SET alerted = (SELECT max(a) FROM unnest(b.alert_at) a WHERE a <= share)
  WHERE o.scope_id = w.scope_id AND o.budget_id = w.budget_id AND o.starts = w.starts;
END $$;

-- Records what a request spent on models where its own trace does not say it: the request failed, or the call
-- did. At the scope that the request was for, under the id of its hold where it had one.
--   spent  {id, operation, requested, onBehalfOf, provider, model, inputTokens, embeddingTokens, tokenSource, durationMs, status}
CREATE OR REPLACE FUNCTION scopefloor.record_spent(key_hash bytea, spent jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  k scopefloor.api_key := scopefloor.live_key(key_hash);
  caller record;
  place record;
  named record;
  at_tags jsonb;
  traced scopefloor.scope;
BEGIN
  IF k.id IS NULL THEN
    -- Revoked since: its last call stands where it stood.
    SELECT * INTO k FROM scopefloor.api_key a WHERE a.secret_hash = sha256(key_hash);
    IF k.id IS NULL THEN
      RETURN;
    END IF;
  END IF;
  at_tags := k.floor;
  caller := scopefloor.authenticate(key_hash, spent->>'onBehalfOf');
  IF caller.refusal IS NULL THEN
    place := scopefloor.resolve_place(caller.k, caller.floor, CASE WHEN spent->'requested'->>'mode' = 'write' THEN spent->'requested' ELSE '{}' END);
    IF place.refusal IS NULL THEN
      named := scopefloor.resolve_clauses(caller.floor, spent->'requested', spent->'requested'->>'mode', 'strict', place.fixed);
      at_tags := CASE WHEN named.refusal IS NULL THEN coalesce(named.shared, caller.floor) ELSE caller.floor END;
    END IF;
  END IF;
  PERFORM scopefloor.hold_scope(at_tags);
  -- No request is under way for longer than a minute.
  IF scopefloor.was_erased(at_tags, clock_timestamp() - interval '1 minute') THEN
    at_tags := k.floor;
  END IF;
  SELECT * INTO traced FROM scopefloor.scope s WHERE s.tags = at_tags;
  IF traced.id IS NULL THEN
    SELECT * INTO traced FROM scopefloor.scope s WHERE s.id = k.scope_id;
  END IF;
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, elsewhere, api_key_id, principal, provider, model,
                                         input_tokens, embedding_tokens, token_source, duration_ms, status)
  VALUES ((spent->>'id')::uuid, 'model', left(spent->>'operation', 40), traced.tenant_id, traced.id, at_tags, traced.tags <> at_tags, k.id, k.principal,
          left(spent->>'provider', 200), left(spent->>'model', 200), (spent->>'inputTokens')::int, (spent->>'embeddingTokens')::int,
          CASE WHEN spent->>'tokenSource' IN ('provider', 'tokenizer') THEN spent->>'tokenSource' END, (spent->>'durationMs')::real,
          CASE WHEN spent->>'status' = 'ok' THEN 'ok' ELSE 'error' END);
END $$;

-- Runs fold_holds for the budgets and limits with these ids, as hold_calls has told them.
CREATE OR REPLACE FUNCTION scopefloor.fold_calls(of_rules uuid[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN scopefloor.fold_holds(1000, of_rules, of_rules);
END $$;

-- Records what a job's call used whose job was gone when it came back: its scope was erased, or another has done
-- the work. Everything but the numbers is the hold's.
CREATE OR REPLACE FUNCTION scopefloor.record_lost_call(of_id uuid, used jsonb, source text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  h scopefloor.budget_hold;
BEGIN
  SELECT * INTO h FROM scopefloor.budget_hold o WHERE o.id = of_id AND o.state IN ('sent', 'charged');
  IF h.id IS NULL THEN
    RETURN;
  END IF;
  -- An erasure that is under way ends first: its scope has a marker then.
  PERFORM scopefloor.hold_scope((SELECT s.tags - '!erased' FROM scopefloor.scope s WHERE s.id = h.scope_id));
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, provider, model, input_tokens, output_tokens, embedding_tokens, token_source, duration_ms, status)
  SELECT h.id, 'model', h.operation, h.tenant_id, h.scope_id, s.tags, k.id, k.principal, h.provider, h.model,
         (used->>'input')::int, (used->>'output')::int, (used->>'embedding')::int,
         CASE WHEN source IN ('provider', 'tokenizer') THEN source END, 0, 'error'
  FROM scopefloor.scope s, scopefloor.api_key k WHERE s.id = h.scope_id AND k.id = h.api_key_id;
END $$;

-- Runs fold_holds for the budgets and limits at the ticket's target and below, so that a list of them says how it
-- is now. In a transaction of its own.
CREATE OR REPLACE FUNCTION scopefloor.fold_own_holds() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  is_all bool := (t->'read'->>'all')::bool;
  ids int[] := scopefloor.ids_in(t->'read');
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for budgets' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF is_all THEN
    RETURN scopefloor.fold_holds(1000);
  END IF;
  RETURN scopefloor.fold_holds(1000, ARRAY(SELECT b.id FROM scopefloor.budget b WHERE b.scope_id = ANY (ids)),
                               ARRAY(SELECT l.id FROM scopefloor.scope_limit l WHERE l.scope_id = ANY (ids)));
END $$;

--> statement-breakpoint
-- src/db/sql/3_metering/8_kept.sql
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

--> statement-breakpoint
-- src/db/sql/3_upkeep/1_queue.sql
-- The queue: the application adds work, the worker alone takes it.
--
-- A job's row is the authority for what its work may reach: the scope, the key that ordered it and
-- the scope's epoch then, all from the ticket of the transaction that ordered it. So a worker that
-- was taken over reaches one ordered scope at a time, and cannot name another.

-- The group that a key's work is charged to: the first tag of the topmost floor above it, which somebody
-- without a floor has minted. So neither the scope that a request names nor a narrower key that a tenant
-- mints for itself gives it a larger share, or another's.
CREATE OR REPLACE FUNCTION scopefloor.share_group_of(key_id uuid) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE above AS (
    SELECT k.id, k.parent_id, k.floor, 0 AS height FROM scopefloor.api_key k WHERE k.id = key_id
    UNION ALL
    SELECT k.id, k.parent_id, k.floor, a.height + 1 FROM scopefloor.api_key k JOIN above a ON k.id = a.parent_id)
  SELECT scopefloor.scope_hash(scopefloor.first_tag(coalesce((SELECT floor FROM above WHERE floor <> '{}' ORDER BY height DESC LIMIT 1), '{}')))
$$;

-- The group of the ticket's key, for shares at the connections: the same for all keys below one floor.
CREATE OR REPLACE FUNCTION scopefloor.own_share_group() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.share_group_of((scopefloor.ticket()->>'key')::uuid)::text
$$;

-- Orders work at the ticket's write scope, in the transaction of what it is about.
--   kind: document (extract, split, embed and index a version), embed (vectors for what has none of the model),
--   index (pack the words of what has come)
CREATE OR REPLACE FUNCTION scopefloor.enqueue(new_id uuid, of_kind text, of_document uuid, of_version int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'write' IS NULL OR of_kind NOT IN ('document', 'embed', 'index') THEN
    RAISE EXCEPTION 'scopefloor: no ticket to order work' USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM scopefloor.order_job((t->>'write')::int, new_id, of_kind, of_document, of_version);
END $$;

-- The same at any scope, for what follows in the database itself from what the ticket's holder does.
CREATE OR REPLACE FUNCTION scopefloor.order_job(at_scope int, new_id uuid, of_kind text, of_document uuid DEFAULT NULL, of_version int DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, document_id, version, api_key_id, principal, on_behalf_of, epoch, share_group)
  SELECT s.tenant_id, s.id, new_id, of_kind, of_document, of_version, (t->>'key')::uuid, t->>'principal', (t->>'on_behalf_of')::uuid, s.epoch,
         coalesce((t->>'share_group')::bigint, scopefloor.share_group_of((t->>'key')::uuid))
  FROM scopefloor.scope s WHERE s.id = at_scope
  -- A round that waits stands for this one too. Locked: a worker takes it after this commits,
  -- and so sees what this is about.
  ON CONFLICT (scope_id, kind, tenant_id) WHERE kind IN ('embed', 'index') AND state = 'queued' DO UPDATE SET run_after = least(job.run_after, EXCLUDED.run_after);
END $$;

-- Orders vectors of one model for every scope of the ticket's subtree that has passages without.
-- Numbers only: {scopes, passages, pending}; NULL for a key that has less than every right.
CREATE OR REPLACE FUNCTION scopefloor.order_embedding(in_context text, standard text, offered jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.full_ticket();
  summary jsonb;
  any_choice bool := EXISTS (SELECT 1 FROM scopefloor.scope_setting v WHERE v.name = 'embeddings');
  in_general text := (SELECT c.config->>'embeddings' FROM scopefloor.context c WHERE c.id = in_context);
BEGIN
  IF t IS NULL THEN
    RETURN NULL;
  END IF;
  WITH reached AS MATERIALIZED (
    SELECT s.tenant_id, s.id, s.epoch, s.tags FROM scopefloor.scope s WHERE s.tags @> (t->'target')),
  counted AS MATERIALIZED (
    SELECT r.tenant_id, r.id, r.epoch, sum(c.passages) AS passages,
           coalesce(sum(c.passages) FILTER (WHERE c.embedder_id IS DISTINCT FROM chosen.embedder), 0) AS pending
    FROM reached r JOIN scopefloor.scope_counter c ON c.scope_id = r.id
    CROSS JOIN LATERAL (SELECT coalesce(offered->>coalesce(CASE WHEN any_choice THEN (SELECT v.value#>>'{}' FROM scopefloor.settings_above(r.tags) v WHERE v.name = 'embeddings') END, in_general), offered->>standard)::int AS embedder) chosen
    GROUP BY 1, 2, 3),
  ordered AS (
    INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, api_key_id, principal, on_behalf_of, epoch, share_group)
    SELECT c.tenant_id, c.id, gen_random_uuid(), 'embed', (t->>'key')::uuid, t->>'principal', (t->>'on_behalf_of')::uuid, c.epoch, scopefloor.share_group_of((t->>'key')::uuid)
    FROM counted c WHERE c.pending > 0
      AND NOT EXISTS (SELECT 1 FROM scopefloor.job j WHERE j.scope_id = c.id AND j.kind = 'embed' AND j.state = 'running' AND j.leased_until > clock_timestamp())
    ON CONFLICT DO NOTHING)
  SELECT jsonb_build_object('scopes', count(*) FILTER (WHERE pending > 0), 'passages', coalesce(sum(passages), 0), 'pending', coalesce(sum(pending), 0))
  INTO summary FROM counted;
  -- What was given up is tried again.
  DELETE FROM scopefloor.job j USING scopefloor.scope s
  WHERE j.kind = 'embed' AND j.state = 'dead' AND s.id = j.scope_id AND s.tags @> (t->'target');
  RETURN summary;
END $$;

-- Puts a job that was at work back into the queue, or among those that were given up. Of a scope's
-- rounds of a kind one waits: where another was ordered meanwhile, that one stands for both, and is no
-- sooner and no fresher.
CREATE OR REPLACE FUNCTION scopefloor.requeue_job(j scopefloor.job, reason text, due timestamptz, give_up bool) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.job
  SET state = CASE WHEN give_up THEN 'dead' ELSE 'queued' END, error = coalesce(left(reason, 300), error), lease = NULL, leased_until = NULL,
      run_after = greatest(run_after, due)
  WHERE scope_id = j.scope_id AND id = j.id;
EXCEPTION WHEN unique_violation THEN -- also one whose order was not committed when this began
  UPDATE scopefloor.job o SET attempts = greatest(o.attempts, j.attempts), error = coalesce(left(reason, 300), o.error), run_after = greatest(o.run_after, due)
  WHERE o.scope_id = j.scope_id AND o.kind = j.kind AND o.state = 'queued';
  DELETE FROM scopefloor.job WHERE scope_id = j.scope_id AND id = j.id;
END $$;

-- Takes the next job for `lease_seconds`: of the share groups with the fewest at work the one that was
-- served longest ago, at most `per_group` of one group at once, so that one tenant's thousand files do
-- not keep another's one waiting. NULL: nothing is due.
CREATE OR REPLACE FUNCTION scopefloor.take_job(per_group int, lease_seconds int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  late scopefloor.job;
  taken scopefloor.job;
BEGIN
  -- One at a time: two takers would each count the other out.
  PERFORM pg_advisory_xact_lock(7700, 3);
  -- A row that is locked is being worked on, however late it is.
  FOR late IN SELECT j.* FROM scopefloor.job j WHERE j.state = 'running' AND j.leased_until <= now_at FOR UPDATE SKIP LOCKED LOOP
    PERFORM scopefloor.requeue_job(late, NULL, now_at, false);
  END LOOP;
  WITH RECURSIVE groups AS (
    (SELECT j.share_group FROM scopefloor.job j WHERE j.state = 'queued' ORDER BY j.share_group LIMIT 1)
    UNION ALL
    SELECT (SELECT j.share_group FROM scopefloor.job j WHERE j.state = 'queued' AND j.share_group > g.share_group ORDER BY j.share_group LIMIT 1)
    FROM groups g WHERE g.share_group IS NOT NULL),
  busy AS (
    SELECT j.share_group, count(*) AS n FROM scopefloor.job j WHERE j.state = 'running' GROUP BY 1),
  next AS (
    SELECT first.*, coalesce(b.n, 0) AS at_work, w.taken_at
    FROM groups g
    CROSS JOIN LATERAL (
      SELECT j.* FROM scopefloor.job j
      WHERE j.state = 'queued' AND j.share_group = g.share_group AND j.run_after <= now_at
        -- Of a scope's rounds of one kind one at a time.
        AND NOT (j.kind IN ('embed', 'index') AND EXISTS (
          SELECT 1 FROM scopefloor.job o WHERE o.scope_id = j.scope_id AND o.kind = j.kind AND o.state = 'running'))
      ORDER BY j.run_after, j.id LIMIT 1 FOR UPDATE SKIP LOCKED) first
    LEFT JOIN busy b ON b.share_group = g.share_group
    LEFT JOIN scopefloor.job_share w ON w.share_group = g.share_group
    WHERE g.share_group IS NOT NULL AND coalesce(b.n, 0) < per_group
    ORDER BY at_work, w.taken_at NULLS FIRST, first.run_after, first.id LIMIT 1)
  UPDATE scopefloor.job j
  SET state = 'running', attempts = j.attempts + 1, lease = gen_random_uuid(), leased_until = now_at + make_interval(secs => lease_seconds)
  FROM next n WHERE j.scope_id = n.scope_id AND j.id = n.id
  RETURNING j.* INTO taken;
  IF taken.id IS NULL THEN
    RETURN NULL;
  END IF;
  INSERT INTO scopefloor.job_share (share_group, taken_at) VALUES (taken.share_group, now_at)
  ON CONFLICT (share_group) DO UPDATE SET taken_at = EXCLUDED.taken_at;
  RETURN jsonb_build_object('id', taken.id, 'kind', taken.kind, 'lease', taken.lease, 'attempts', taken.attempts,
                            'documentId', taken.document_id, 'version', taken.version);
END $$;

-- Opens a transaction for a taken job and leaves a ticket for its scope, to read and to write there,
-- as the key that ordered it. The row is locked until the end: of two who hold the same job, one at
-- a time, and of those the one whose lease is not the row's any more is turned away.
--   {status: ok, …} | {status: gone}: done by another, its scope erased, or its document deleted
CREATE OR REPLACE FUNCTION scopefloor.enter_job(job_id uuid, with_lease uuid, in_context text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  j scopefloor.job;
  s scopefloor.scope;
  reach jsonb;
BEGIN
  SELECT * INTO j FROM scopefloor.job WHERE id = job_id AND lease = with_lease AND state = 'running';
  IF j.id IS NULL THEN
    RETURN '{"status": "gone"}';
  END IF;
  IF j.kind = 'forget' THEN
    RETURN scopefloor.enter_run(j, in_context);
  END IF;
  SELECT * INTO s FROM scopefloor.scope WHERE id = j.scope_id;
  PERFORM scopefloor.hold_scope(s.tags);
  -- An erasure may have held that lock until now. A scope's own locks before the row's: an erasure takes them so.
  SELECT * INTO j FROM scopefloor.job WHERE id = job_id AND lease = with_lease AND state = 'running' FOR UPDATE;
  SELECT * INTO s FROM scopefloor.scope WHERE id = j.scope_id;
  IF j.id IS NULL OR s.id IS NULL OR s.epoch <> j.epoch THEN
    DELETE FROM scopefloor.job WHERE id = j.id AND scope_id = j.scope_id;
    RETURN '{"status": "gone"}';
  END IF;
  reach := jsonb_build_object('ids', ARRAY[s.id], 'trees', '[]'::jsonb, 'all', false, 'tenant', s.tenant_id);
  PERFORM scopefloor.issue_ticket(jsonb_build_object(
    'key', j.api_key_id, 'principal', j.principal, 'verb', 'memory:write', 'mode', 'job', 'verbs', '["memory:write"]'::jsonb, 'content', true,
    'floor', s.tags, 'on_behalf_of', j.on_behalf_of, 'target', s.tags,
    'read', reach, 'general', false, 'modify', reach, 'write', s.id, 'tenant', s.tenant_id, 'job', j.id, 'share_group', j.share_group,
    'trace', jsonb_build_object('id', s.id, 'tenant', s.tenant_id, 'tags', s.tags)));
  RETURN jsonb_build_object(
    'status', 'ok', 'key', j.api_key_id, 'principal', j.principal, 'onBehalfOf', j.on_behalf_of,
    'scopeId', s.id, 'tenant', s.tenant_id, 'tags', s.tags,
    'settings', scopefloor.settings_at(s.tags, in_context), 'credentials', scopefloor.credentials_at(s.tags));
END $$;

-- In the transaction of the job's effect: both are there or neither.
CREATE OR REPLACE FUNCTION scopefloor.finish_job() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  DELETE FROM scopefloor.job WHERE scope_id = (t->>'write')::int AND id = (t->>'job')::uuid;
END $$;

-- Longer work says that it is still there.
CREATE OR REPLACE FUNCTION scopefloor.extend_job(job_id uuid, with_lease uuid, lease_seconds int) RETURNS bool
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- While its own transaction holds the row, nobody takes it: there is nothing to extend.
  UPDATE scopefloor.job o SET leased_until = clock_timestamp() + make_interval(secs => lease_seconds)
  FROM (SELECT j.scope_id, j.id FROM scopefloor.job j WHERE j.id = job_id AND j.lease = with_lease AND j.state = 'running' FOR UPDATE SKIP LOCKED) mine
  WHERE o.scope_id = mine.scope_id AND o.id = mine.id;
  RETURN FOUND;
END $$;

-- Puts a job back until `delay_seconds` from now, or gives it up; a document whose job is given up has failed.
-- `was_tried`: whether this was an attempt; one that waits for a budget was none.
CREATE OR REPLACE FUNCTION scopefloor.postpone_job(job_id uuid, with_lease uuid, reason text, delay_seconds float8, give_up bool, was_tried bool) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  j scopefloor.job;
BEGIN
  SELECT * INTO j FROM scopefloor.job WHERE id = job_id AND lease = with_lease AND state = 'running' FOR UPDATE;
  IF j.id IS NULL THEN
    RETURN;
  END IF;
  IF NOT was_tried THEN
    UPDATE scopefloor.job SET attempts = j.attempts - 1 WHERE scope_id = j.scope_id AND id = j.id;
    j.attempts := j.attempts - 1;
  END IF;
  PERFORM scopefloor.requeue_job(j, reason, clock_timestamp() + make_interval(secs => delay_seconds), give_up);
  IF give_up AND j.kind = 'document' THEN
    UPDATE scopefloor.document SET status = 'failed', error = left(reason, 300), processing_completed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE scope_id = j.scope_id AND id = j.document_id AND version = j.version;
  ELSIF give_up AND j.kind = 'forget' THEN
    PERFORM scopefloor.abandon_run(j.scope_id, j.run_id, 'failed', reason);
  ELSIF give_up AND j.kind = 'embed' THEN
    UPDATE scopefloor.document SET status = 'failed', error = left(reason, 300), processing_completed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE scope_id = j.scope_id AND status = 'embedding' AND ready_version = version;
  END IF;
END $$;

-- For a service that is the database's only process: whoever held a job is gone.
CREATE OR REPLACE FUNCTION scopefloor.recover_jobs() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.job SET leased_until = clock_timestamp() - interval '1 second' WHERE state = 'running'
$$;

-- Whether the queue can be looked at, and holds work: for readiness, which anyone may ask often.
CREATE OR REPLACE FUNCTION scopefloor.has_work() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT 1 FROM scopefloor.job WHERE state = 'queued')
$$;

-- How many jobs wait, work and were given up, and how long the oldest has been due. Counts over all scopes.
CREATE OR REPLACE FUNCTION scopefloor.queue_depth() RETURNS TABLE (kind text, state text, jobs bigint, oldest_seconds float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT j.kind, j.state, count(*), greatest(0, extract(epoch FROM clock_timestamp() - min(j.run_after)))::float8
  FROM scopefloor.job j GROUP BY 1, 2 ORDER BY 1, 2
$$;

--> statement-breakpoint
-- src/db/sql/3_upkeep/2_forget.sql
-- What a forget needs beyond deleting rows through the builder.

-- Its statements go by indexes alone, so that no erasure reads what others have: rows of its own scopes, and
-- those that name one of them and stand elsewhere.

-- Takes what was asked out of refused attempts: they keep who and when, but what was asked names the
-- scope, wherever it was asked from. Gives how many of the target's own; the rest is not the caller's to know.
CREATE OR REPLACE FUNCTION scopefloor.redact_denials(erased jsonb, ids int[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  denials int;
BEGIN
  UPDATE scopefloor.access_denied SET asked = NULL, named = NULL WHERE scope_id = ANY (ids) AND asked IS NOT NULL;
  GET DIAGNOSTICS denials = ROW_COUNT;
  IF erased <> '{}' THEN
    UPDATE scopefloor.access_denied SET asked = NULL, named = NULL WHERE named @> jsonb_build_array(erased);
  END IF;
  RETURN denials;
END $$;

-- Puts the dictionary's markers where records name scopes that are gone.
CREATE OR REPLACE FUNCTION scopefloor.mark_records(erased jsonb, ids int[], gone int[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  UPDATE scopefloor.decision_trace d SET scope = s.tags, elsewhere = false FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- A question about a scope without a row of its own stands at the floor's; its tags go as well, also
  -- where the floor is erased and stays, since a live key has it.
  UPDATE scopefloor.decision_trace d SET scope = s.tags, elsewhere = false FROM scopefloor.scope s
  WHERE s.id = d.scope_id AND d.scope_id = ANY (ids) AND NOT d.scope_id = ANY (gone) AND d.scope <> s.tags;
  IF erased <> '{}' THEN
    UPDATE scopefloor.decision_trace d SET scope = s.tags, elsewhere = false FROM scopefloor.scope s
    WHERE s.id = d.scope_id AND d.elsewhere AND d.scope @> erased;
    -- Receipts that stand elsewhere but name what is gone now.
    UPDATE scopefloor.forget_receipt r SET target = '{"!erased": "later"}'
    WHERE r.target @> erased AND NOT r.scope_id = ANY (gone) AND NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.tags = r.target);
  END IF;
  UPDATE scopefloor.access_denied d SET floor = s.tags FROM scopefloor.scope s WHERE s.id = d.scope_id AND d.scope_id = ANY (gone);
  -- An expired key of an erased scope must not be rotated back to life there.
  UPDATE scopefloor.api_key k
  SET floor = s.tags, name = k.id::text, narrowed_by = NULL, revoked_at = coalesce(k.revoked_at, clock_timestamp()), previous_hash = NULL, previous_until = NULL
  FROM scopefloor.scope s WHERE s.id = k.scope_id AND k.scope_id = ANY (gone);
  UPDATE scopefloor.forget_receipt r SET target = s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id AND r.scope_id = ANY (gone);
  UPDATE scopefloor.forget_run r SET set_by = s.tags FROM scopefloor.scope s WHERE s.id = r.scope_id AND r.scope_id = ANY (gone) AND r.set_by <> '{}';
END $$;

-- Takes the text out of the traces and denials of the ticket's subtree, drops its stored answers
-- and replaces the tags of its scopes by an erased marker. The numbers stay, for billing.
-- A scope that is the floor of a live key keeps its tags: that key still names it. So does one that
-- a budget or a limit is left for.
-- Gives the counts by table.
CREATE OR REPLACE FUNCTION scopefloor.retire_scopes() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  erased jsonb := t->'target';
  above int[]; -- the scopes whose floors may hold the target
  ids int[];
  gone int[];
  unruled int[];
  traces int;
  named int;
  answers int;
  denials int;
  jobs int;
BEGIN
  IF t IS NULL OR t->>'mode' <> 'erase' THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for erasing' USING ERRCODE = 'insufficient_privilege';
  END IF;
  ids := scopefloor.ids_in(t->'modify');
  -- A hold on a whole scope holds its records too.
  IF EXISTS (SELECT 1 FROM scopefloor.legal_hold h WHERE h.scope_id = ANY (ids) AND h.subject IS NULL AND h.document_id IS NULL)
     OR EXISTS (SELECT 1 FROM scopefloor.holds_above(erased) h WHERE h.subject IS NULL AND h.document_id IS NULL) THEN
    PERFORM scopefloor.raise_held();
  END IF;
  UPDATE scopefloor.decision_trace SET query = NULL, sources = NULL, error = NULL
  WHERE scope_id = ANY (ids) AND (query IS NOT NULL OR sources IS NOT NULL OR error IS NOT NULL);
  GET DIAGNOSTICS traces = ROW_COUNT;
  IF erased <> '{}' THEN
    UPDATE scopefloor.decision_trace SET query = NULL, sources = NULL, error = NULL
    WHERE elsewhere AND scope @> erased AND (query IS NOT NULL OR sources IS NOT NULL OR error IS NOT NULL);
    GET DIAGNOSTICS named = ROW_COUNT;
    traces := traces + named;
  END IF;
  -- But for the claim of this very request.
  DELETE FROM scopefloor.idempotency WHERE scope_id = ANY (ids) AND xmin <> pg_current_xact_id()::xid;
  GET DIAGNOSTICS answers = ROW_COUNT;
  -- Work that was ordered; one that is under way finds its job gone and the epoch moved on.
  DELETE FROM scopefloor.job WHERE scope_id = ANY (ids);
  GET DIAGNOSTICS jobs = ROW_COUNT;
  denials := scopefloor.redact_denials(erased, ids);
  -- Runs of what is gone have nothing to do any more.
  UPDATE scopefloor.forget_run r SET state = 'failed', error = 'the scope was erased meanwhile', finished_at = clock_timestamp(), selector = '{}'
  WHERE r.scope_id = ANY (ids) AND r.state IN ('queued', 'running') AND r.id IS DISTINCT FROM (t->>'run')::uuid;
  DELETE FROM scopefloor.erasing e WHERE e.run_id IN (SELECT r.id FROM scopefloor.forget_run r WHERE r.scope_id = ANY (ids));
  UPDATE scopefloor.forget_run r SET selector = r.selector - 'query' - 'labels' WHERE r.scope_id = ANY (ids) AND r.selector ?| ARRAY['query', 'labels'];
  -- Holds of a tenant that leaves reach nothing any more: one that did would have stopped it.
  IF t->>'run' IS NOT NULL AND scopefloor.is_offboarded((t->>'run')::uuid) THEN
    DELETE FROM scopefloor.legal_hold h WHERE h.scope_id = ANY (ids);
  END IF;
  -- Rules that the eraser could take away go with the scope, once no live key is under them; one from above stays,
  -- and so nobody is rid of it. So does what a schedule erases on and on.
  IF t->>'principal' = 'management' AND (t->>'run' IS NULL OR scopefloor.is_offboarded((t->>'run')::uuid)) THEN
    unruled := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.id = ANY (ids)
      AND (EXISTS (SELECT 1 FROM scopefloor.budget b WHERE b.scope_id = s.id) OR EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.scope_id = s.id)
           OR EXISTS (SELECT 1 FROM scopefloor.retention_rule r WHERE r.scope_id = s.id) OR EXISTS (SELECT 1 FROM scopefloor.forget_schedule f WHERE f.scope_id = s.id)
           OR EXISTS (SELECT 1 FROM scopefloor.scope_setting v WHERE v.scope_id = s.id) OR EXISTS (SELECT 1 FROM scopefloor.scope_credential c WHERE c.scope_id = s.id))
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = ANY (ids) AND k.floor @> s.tags AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
    DELETE FROM scopefloor.budget b WHERE b.scope_id = ANY (unruled) AND b.set_by @> (t->'floor');
    DELETE FROM scopefloor.scope_limit l WHERE l.scope_id = ANY (unruled) AND l.set_by @> (t->'floor');
    DELETE FROM scopefloor.retention_rule r WHERE r.scope_id = ANY (unruled) AND r.set_by @> (t->'floor');
    DELETE FROM scopefloor.forget_schedule f WHERE f.scope_id = ANY (unruled) AND f.set_by @> (t->'floor');
    DELETE FROM scopefloor.scope_setting v WHERE v.scope_id = ANY (unruled) AND v.set_by @> (t->'floor');
    DELETE FROM scopefloor.scope_credential c WHERE c.scope_id = ANY (unruled) AND c.set_by @> (t->'floor');
  END IF;
  gone := ARRAY(SELECT s.id FROM scopefloor.scope s
    WHERE s.id = ANY (ids) AND s.id <> 0 AND NOT EXISTS (SELECT 1 FROM scopefloor.budget b WHERE b.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.legal_hold h WHERE h.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.retention_rule r WHERE r.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.forget_schedule f WHERE f.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope_setting v WHERE v.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope_credential c WHERE c.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = s.id AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
  above := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (scopefloor.scopes_between('{}', erased)) AND s.tags <> erased);
  -- '!' is outside the grammar of dimensions: no request can ever name the marker. Beside it stay
  -- the tags of the nearest floor above that is still in use, so that its bill keeps the numbers.
  UPDATE scopefloor.scope s
  SET tags = coalesce((SELECT k.floor FROM scopefloor.api_key k
                       WHERE k.scope_id = ANY (above) AND k.revoked_at IS NULL
                         AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
                       ORDER BY scopefloor.tag_count(k.floor) DESC LIMIT 1),
                      -- What a user of a tenant has used stays the tenant's.
                      CASE WHEN s.tags ? 'org' AND erased ? 'org' AND erased <> jsonb_build_object('org', s.tags->'org') THEN jsonb_build_object('org', s.tags->'org') END, '{}') || jsonb_build_object('!erased', s.id::text),
      display_name = NULL, description = NULL, tombstoned_by = NULL, erased_at = clock_timestamp()
  WHERE s.id = ANY (gone);
  PERFORM scopefloor.mark_records(erased, ids, gone);
  -- A tenant's name goes with its root, and its secret with it: one that comes under the same name is another. Who makes a scope
  -- of this tenant holds its row (ensure_tenant): after the wait that scope is seen.
  PERFORM 1 FROM scopefloor.tenant t
  WHERE t.id IN (SELECT s.tenant_id FROM scopefloor.scope s WHERE s.id = ANY (gone)) AND t.id <> 0 ORDER BY t.id FOR UPDATE;
  UPDATE scopefloor.tenant t
  SET left_digest = scopefloor.scope_digest(t.root), root = jsonb_build_object('!erased', t.id::text), name = NULL, template = NULL, state = 'left', leaves_at = NULL,
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
  t jsonb := scopefloor.forget_ticket();
BEGIN
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
  t jsonb := scopefloor.forget_ticket();
  new_id uuid := gen_random_uuid();
  ids jsonb;
BEGIN
  IF of_action NOT IN ('expire', 'erase') OR (t->>'mode' = 'erase') <> (of_policy = 'scope')
     OR of_policy NOT IN ('scope', 'query', 'session', 'query in a session', 'document', 'entity', 'item', 'memory', 'selection', 'retention', 'schedule')
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
  INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, items, selector, api_key_id)
  VALUES ((t->'trace'->>'tenant')::int, (t->'trace'->>'id')::int, new_id,
          CASE t->>'mode' WHEN 'erase' THEN jsonb_build_object('!digest', scopefloor.scope_digest(t->'target'))
                          WHEN 'forget' THEN t->'target' ELSE t->'trace'->'tags' END,
          with_subtree, of_action, of_policy, given, ids,
          -- What was taken by its age: too much to list, and said in a line. (Labels are words, which it keeps none of; when
          -- something was last used no backup knows.)
          (SELECT r.selector FROM scopefloor.forget_run r WHERE r.id = (t->>'run')::uuid AND of_policy = 'schedule' AND NOT r.selector ?| ARRAY['query', 'labels']
                                                               AND r.selector->>'since' IS DISTINCT FROM 'lastUsed'), (t->>'key')::uuid);
  RETURN new_id;
END $$;

--> statement-breakpoint
-- src/db/sql/3_upkeep/3_replay.sql
-- What the journal of receipts asks of the database, and what a replay does (src/forget/replay).

-- What is to be kept outside, since a time (null: all): receipts by which anything went, and keys whose
-- secret, rights or end were changed. Scopes by their hashes; what was taken by labels, which are words, or by its last use, which a
-- backup does not know, only by its numbers. (What names an erased scope by its
-- marker needs no line: the erasure has one.)
CREATE OR REPLACE FUNCTION scopefloor.journal_lines(since timestamptz) RETURNS TABLE (line jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' AS $$
  SELECT l.line FROM (
    SELECT jsonb_build_object('kind', 'receipt', 'id', r.id, 'at', r.created_at,
             'target', coalesce(r.target->>'!digest', scopefloor.scope_digest(r.target)), 'scope', scopefloor.scope_digest(s.tags),
             'subtree', r.subtree, 'action', r.action, 'policy', r.policy, 'counts', r.counts, 'items', r.items, 'selector', r.selector, 'by', r.api_key_id, 'jws', r.jws),
           r.created_at
    FROM scopefloor.forget_receipt r JOIN scopefloor.scope s ON s.id = r.scope_id
    WHERE NOT r.target ? '!erased' AND EXISTS (SELECT 1 FROM jsonb_each(r.counts) n WHERE n.value <> '0')
    UNION ALL
    SELECT jsonb_build_object('kind', 'key', 'id', k.id, 'at', coalesce(k.changed_at, k.revoked_at)), coalesce(k.changed_at, k.revoked_at)
    FROM scopefloor.api_key k WHERE coalesce(k.changed_at, k.revoked_at) IS NOT NULL) l(line, at)
  WHERE since IS NULL OR l.at >= since ORDER BY l.at
$$;

-- Of an array of such lines the places (from 0) of those that this database has not seen: a receipt that
-- is not there, a key that is as it was before the change.
CREATE OR REPLACE FUNCTION scopefloor.unknown_lines(lines jsonb) RETURNS TABLE (place int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (l.n - 1)::int FROM jsonb_array_elements(lines) WITH ORDINALITY l(line, n)
  WHERE CASE l.line->>'kind'
    WHEN 'key' THEN EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.id = (l.line->>'id')::uuid AND k.revoked_at IS NULL
                            AND coalesce(k.changed_at, k.created_at) < (l.line->>'at')::timestamptz)
    ELSE NOT EXISTS (SELECT 1 FROM scopefloor.forget_receipt r WHERE r.id = (l.line->>'id')::uuid) END
$$;

-- For a process that may not do them again itself, at its start: whether each of the lines is known. Null
-- inside a tenant's transaction, which has no business with others' receipts and keys.
CREATE OR REPLACE FUNCTION scopefloor.knows_lines(lines jsonb) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN scopefloor.ticket() IS NULL THEN NOT EXISTS (SELECT 1 FROM scopefloor.unknown_lines(lines)) END
$$;

-- Every set of tags that stands anywhere, to find by its hash what was erased: the dictionary's, and
-- those of questions, refused attempts and receipts about scopes that have no row of their own. Without
-- what cannot be a scope: a refused request may have asked for more tags than one has.
CREATE OR REPLACE FUNCTION scopefloor.named_scopes() RETURNS TABLE (tags jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT n.tags FROM (
    SELECT s.tags FROM scopefloor.scope s
    UNION SELECT d.scope FROM scopefloor.decision_trace d
    UNION SELECT r.target FROM scopefloor.forget_receipt r WHERE NOT r.target ? '!digest'
    UNION SELECT a.floor FROM scopefloor.access_denied a
    UNION SELECT c->'tags' FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c
    UNION SELECT a.floor || (c->'tags') FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c) AS n(tags)
  WHERE CASE jsonb_typeof(n.tags) WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys(n.tags) d WHERE d NOT LIKE '!%') <= 8 END
$$;

-- An operator's key for the time of a replay, below the first one.
CREATE OR REPLACE FUNCTION scopefloor.begin_replay(key_id uuid, key_hash bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO scopefloor.api_key (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, minted_verbs, secret_hash, expires_at)
  SELECT key_id, 0, 0, k.id, 'replay ' || key_id, 'management', '{}', '{memory:forget,memory:read,memory:write}', '{memory:forget,memory:read,memory:write}', sha256(key_hash), clock_timestamp() + interval '1 hour'
  FROM scopefloor.api_key k WHERE k.parent_id IS NULL ORDER BY k.created_at LIMIT 1
$$;

-- Revokes the key of begin_replay.
CREATE OR REPLACE FUNCTION scopefloor.end_replay(key_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE scopefloor.api_key SET revoked_at = clock_timestamp() WHERE id = key_id AND name = 'replay ' || key_id
$$;

-- A line of the journal that was done again: its receipt is there again, at the scope where it stood or
-- else at {}, or its key is revoked.
CREATE OR REPLACE FUNCTION scopefloor.note_replayed(line jsonb, stood_at jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF line->>'kind' = 'key' THEN
    UPDATE scopefloor.api_key SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL
    WHERE id = (line->>'id')::uuid AND revoked_at IS NULL;
  ELSE
    INSERT INTO scopefloor.forget_receipt (tenant_id, scope_id, id, target, subtree, action, policy, counts, items, selector, api_key_id, created_at, jws)
    SELECT s.tenant_id, s.id, (line->>'id')::uuid, jsonb_build_object('!digest', line->>'target'),
           (line->>'subtree')::bool, line->>'action', line->>'policy', line->'counts', nullif(line->'items', 'null'), nullif(line->'selector', 'null'), (line->>'by')::uuid,
           (line->>'at')::timestamptz, line->>'jws'
    FROM scopefloor.scope s WHERE s.tags = stood_at OR s.id = 0 ORDER BY s.tags = stood_at DESC NULLS LAST LIMIT 1;
  END IF;
END $$;

--> statement-breakpoint
-- src/db/sql/3_upkeep/4_audit_chain.sql
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

--> statement-breakpoint
-- src/db/sql/4_tables.sql
-- What tables need beyond their definitions in src/db/tables: indexes that drizzle cannot say, the
-- planner's statistics, the rest partition, first rows, triggers.

-- Holds all that a ranking by codes reads, a tenth of the vectors' size.
CREATE INDEX IF NOT EXISTS passage_code ON scopefloor.passage (scope_id, embedder_id) INCLUDE (id, code, tenant_id) WHERE expired_at IS NULL AND code IS NOT NULL;
-- Names are unique per parent, so that a name tells nothing about another tenant's keys.
CREATE UNIQUE INDEX IF NOT EXISTS api_key_name ON scopefloor.api_key (parent_id, name) NULLS NOT DISTINCT WHERE revoked_at IS NULL;
-- One round of each of these kinds waits for a scope at a time.
CREATE UNIQUE INDEX IF NOT EXISTS job_round ON scopefloor.job (scope_id, kind, tenant_id) WHERE kind IN ('embed', 'index') AND state = 'queued';
DROP INDEX IF EXISTS scopefloor.job_embed;

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
    ('scope', '{tags,display_name,description,tombstoned_by}'),
    ('api_key', '{name,floor,narrowed_by}'),
    ('session', '{metadata,name}'),
    ('turn', '{content}'),
    ('passage', '{text,labels,embedding,code,section,digest,suspicious,terms,languages}'),
    ('posting_block', '{data,key}'),
    ('scope_counter', '{languages}'),
    ('document', '{title,source,content_hash,labels,error,reading}'),
    ('document_content', '{bytes}'),
    ('keyword', '{normalised,phrase}'),
    ('entity', '{name,type,identity,folded}'),
    ('attribute', '{key,normal_key,value,sentence,labels,terms,languages}'),
    ('relation', '{key,normal_key,sentence,labels,terms,languages}'),
    ('memory_item', '{key,value,indexed}'),
    ('idempotency', '{endpoint,key,answer}'),
    ('response_cache', '{answer,digest,version,scope_ids}'),
    ('decision_trace', '{query,error,scope}'),
    ('access_denied', '{asked,named,floor}'),
    ('forget_receipt', '{target,items,selector}'),
    ('budget', '{name,set_by}'),
    ('scope_limit', '{set_by}'),
    ('budget_hold', '{operation}'),
    ('legal_hold', '{subject,words,reason,set_by}'),
    ('retention_rule', '{set_by}'),
    ('scope_setting', '{value,set_by}'),
    ('scope_credential', '{sealed,set_by}'),
    ('template', '{body}'),
    ('tenant', '{name}'),
    ('forget_schedule', '{name,selector,set_by}'),
    ('forget_run', '{selector,set_by}'),
    ('tenant', '{left_digest}'),
    ('audit_entry', '{leaf,text_hash,salt}')) listed(t, columns)
  LOOP
    EXECUTE format('ALTER TABLE scopefloor.%I ALTER %I SET STATISTICS 0', t, c);
  END LOOP;
END $$;
-- Without a sample the planner would take 200 distinct values for the whole table.
ALTER TABLE scopefloor.keyword ALTER normalised_hash SET (n_distinct = -0.2);
ALTER TABLE scopefloor.chunk_band ALTER band SET (n_distinct = -0.9);
-- Files are compressed already, or read once: not worth the time of compressing them again.
ALTER TABLE scopefloor.document_content ALTER bytes SET STORAGE EXTERNAL;
-- Hashes cannot be compressed; a block lies in its row.
ALTER TABLE scopefloor.passage ALTER terms SET STORAGE EXTERNAL;
ALTER TABLE scopefloor.attribute ALTER terms SET STORAGE EXTERNAL;
ALTER TABLE scopefloor.relation ALTER terms SET STORAGE EXTERNAL;
ALTER TABLE scopefloor.posting_block ALTER data SET STORAGE EXTERNAL;
ALTER TABLE scopefloor.posting_block SET (toast_tuple_target = 8160);

-- General knowledge, and the tenant of what has no `org`.
INSERT INTO scopefloor.tenant (id, root) VALUES (0, '{}') ON CONFLICT DO NOTHING;
INSERT INTO scopefloor.scope (id, tenant_id, tags) VALUES (0, 0, '{}') ON CONFLICT DO NOTHING;

-- What words are looked up by follows them (1_access/9_words.sql).
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF name, type, identity, folded, name_hash, folded_hash ON scopefloor.entity FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF name, name_hash ON scopefloor.session FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF key, normal_key, key_hash ON scopefloor.attribute FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
CREATE OR REPLACE TRIGGER set_lookup BEFORE INSERT OR UPDATE OF key, normal_key, key_hash ON scopefloor.relation FOR EACH ROW EXECUTE FUNCTION scopefloor.set_lookup();
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

-- The index of words follows its passages (2_memory/5_word_index.sql).
CREATE OR REPLACE TRIGGER hold_tail_inserting BEFORE INSERT ON scopefloor.passage FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.join_tail();
CREATE OR REPLACE TRIGGER hold_tail_moving BEFORE UPDATE OF seq ON scopefloor.passage FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.join_tail();
CREATE OR REPLACE TRIGGER passages_tailed AFTER INSERT ON scopefloor.passage
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.watch_tail();
CREATE OR REPLACE TRIGGER passages_unindexed AFTER DELETE ON scopefloor.passage
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.unindex_passages();
CREATE OR REPLACE TRIGGER passages_reindexed AFTER UPDATE ON scopefloor.passage
  REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.unindex_passages();

-- What the journal keeps of a key (3_upkeep/3_replay.sql).
CREATE OR REPLACE TRIGGER note_key_change BEFORE UPDATE ON scopefloor.api_key FOR EACH ROW
  WHEN ((OLD.secret_hash, OLD.verbs, OLD.floor, OLD.content, OLD.expires_at, OLD.revoked_at)
        IS DISTINCT FROM (NEW.secret_hash, NEW.verbs, NEW.floor, NEW.content, NEW.expires_at, NEW.revoked_at))
  EXECUTE FUNCTION scopefloor.note_key_change();

-- What a trace costs is the database's to say (3_metering/1_prices.sql).
CREATE OR REPLACE TRIGGER price_trace BEFORE INSERT ON scopefloor.decision_trace FOR EACH ROW EXECUTE FUNCTION scopefloor.price_trace();

-- What is held stays as it is (3_governance/1_holds.sql).
DO $$
DECLARE
  held record;
BEGIN
  FOR held IN SELECT * FROM (VALUES
    -- table, when it really changes
    ('turn', 'OLD.content <> NEW.content OR (OLD.expired_at IS NULL AND NEW.expired_at IS NOT NULL)'),
    ('passage', 'OLD.kind NOT IN (''attribute'', ''item'') AND (OLD.text <> NEW.text OR OLD.labels <> NEW.labels OR OLD.section IS DISTINCT FROM NEW.section OR OLD.ends_at IS DISTINCT FROM NEW.ends_at
                 OR (OLD.expired_at IS NULL AND NEW.expired_at IS NOT NULL AND (OLD.ends_at <= now()) IS NOT TRUE))'),
    ('document', '(OLD.title, OLD.source, OLD.content_hash, OLD.labels, OLD.observed_at) IS DISTINCT FROM (NEW.title, NEW.source, NEW.content_hash, NEW.labels, NEW.observed_at)'),
    ('document_content', NULL),
    ('attribute', 'OLD.value <> NEW.value OR OLD.labels <> NEW.labels OR OLD.ends_at IS DISTINCT FROM NEW.ends_at OR (OLD.expired_at IS NULL AND NEW.expired_at IS NOT NULL)'),
    ('relation', 'OLD.target_id <> NEW.target_id OR OLD.labels <> NEW.labels OR OLD.ends_at IS DISTINCT FROM NEW.ends_at OR (OLD.expired_at IS NULL AND NEW.expired_at IS NOT NULL)'),
    ('memory_item', 'OLD.value <> NEW.value OR OLD.expires_at IS DISTINCT FROM NEW.expires_at OR OLD.indexed IS DISTINCT FROM NEW.indexed'),
    ('session', NULL),
    ('entity', NULL)) o(at, changes)
  LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER keep_held AFTER DELETE ON scopefloor.%I REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.keep_held()', held.at);
    IF held.changes IS NOT NULL THEN
      EXECUTE format('CREATE OR REPLACE TRIGGER keep_held_as_it_is BEFORE UPDATE ON scopefloor.%I FOR EACH ROW WHEN (%s) EXECUTE FUNCTION scopefloor.keep_held_as_it_is()', held.at, held.changes);
    END IF;
  END LOOP;
END $$;

-- Rows that are written again and again keep room beside them.
ALTER TABLE scopefloor.budget_window SET (fillfactor = 30);
ALTER TABLE scopefloor.limit_rate SET (fillfactor = 30);
ALTER TABLE scopefloor.limit_store SET (fillfactor = 30);

-- What is kept, as limits count it (3_metering/8_kept.sql).
CREATE OR REPLACE TRIGGER documents_added AFTER INSERT ON scopefloor.document
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('document');
CREATE OR REPLACE TRIGGER documents_changed AFTER UPDATE ON scopefloor.document
  REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('document');
CREATE OR REPLACE TRIGGER documents_removed AFTER DELETE ON scopefloor.document
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('document');
CREATE OR REPLACE TRIGGER sessions_added AFTER INSERT ON scopefloor.session
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('session');
CREATE OR REPLACE TRIGGER sessions_removed AFTER DELETE ON scopefloor.session
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('session');
CREATE OR REPLACE TRIGGER items_added AFTER INSERT ON scopefloor.memory_item
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('item');
CREATE OR REPLACE TRIGGER items_changed AFTER UPDATE ON scopefloor.memory_item
  REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('item');
CREATE OR REPLACE TRIGGER items_removed AFTER DELETE ON scopefloor.memory_item
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('item');
CREATE OR REPLACE TRIGGER items_unrecalled AFTER DELETE ON scopefloor.memory_item
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.unrecall_removed();
CREATE OR REPLACE TRIGGER former_turns_added AFTER INSERT ON scopefloor.turn
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('former turn');
CREATE OR REPLACE TRIGGER former_turns_removed AFTER DELETE ON scopefloor.turn
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.note_kept('former turn');
DROP TRIGGER IF EXISTS apply_stored ON scopefloor.stored_change;
CREATE CONSTRAINT TRIGGER apply_stored AFTER INSERT ON scopefloor.stored_change
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION scopefloor.apply_stored();

-- Batches from before there were sums.
DO $$
DECLARE
  n bigint;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.usage_hour) THEN
    FOR n IN SELECT b.n FROM scopefloor.audit_batch b ORDER BY b.n LOOP
      PERFORM scopefloor.add_usage(n);
    END LOOP;
  END IF;
END $$;

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
CREATE OR REPLACE TRIGGER erase_audited_items AFTER UPDATE ON scopefloor.forget_receipt
  REFERENCING OLD TABLE AS was NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.erase_audited_items();

SELECT scopefloor.ensure_trace_partition(current_date), scopefloor.ensure_trace_partition((current_date + interval '1 month')::date);
SELECT scopefloor.rotate_ticket_secret() WHERE NOT EXISTS (SELECT 1 FROM scopefloor.ticket_secret);

--> statement-breakpoint
-- src/db/sql/5_policies.sql
-- The second lock's table of contents: row security on every table, and who may do what to which rows.
--
-- A role that has a privilege (6_privileges.sql) and no policy for the command reaches no row. Except
-- for may_record, which is asked for each row that is inserted, what a policy asks
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
  -- Of an agent those of its own key; an erasure takes whatever stands at the scope.
  own_session constant text := '(%s) AND ((SELECT scopefloor.handles_any_session()) OR api_key_id = (SELECT scopefloor.caller()))';
  by_caller  constant text := written || ' AND api_key_id = (SELECT scopefloor.caller())';
  app        constant text := 'scopefloor_app';
  worker     constant text := 'scopefloor_worker';
  report     constant text := 'scopefloor_report';
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
    ('scope', 'read', 'SELECT', service,
     'id = ANY ((SELECT scopefloor.listable())::int[]) OR (SELECT scopefloor.lists_all())'
     || ' OR id = (SELECT scopefloor.insertable())' -- a key that only writes knows the scope it writes to
     || ' OR (id = 0 AND (SELECT scopefloor.caller()) IS NOT NULL)', NULL), -- the row of {} says nothing
    ('scope', 'change', 'UPDATE', app, 'id = (SELECT scopefloor.insertable())', 'id = (SELECT scopefloor.insertable())'),
    ('scope_counter', 'read', 'SELECT', service, knowledge, NULL),
    ('embedder', 'read', 'SELECT', service, 'true', NULL), -- models, no tenant's data

    ('session', 'read', 'SELECT', service, own, NULL),
    ('session', 'write', 'INSERT', app, NULL, by_caller),
    ('session', 'change', 'UPDATE', app, format(own_session, modifiable), format(own_session, modifiable)),
    ('session', 'remove', 'DELETE', service, format(own_session, forgotten), NULL),
    ('turn', 'read', 'SELECT', service, own, NULL),
    ('turn', 'write', 'INSERT', app, NULL, by_caller || ' AND session_id = (SELECT scopefloor.reserved_session())'),
    ('turn', 'change', 'UPDATE', service, modifiable, modifiable),
    ('turn', 'remove', 'DELETE', service, forgotten, NULL),

    ('passage', 'read', 'SELECT', service, knowledge, NULL),
    ('passage', 'write', 'INSERT', service, NULL, by_caller || ' AND author = (SELECT scopefloor.caller_principal())'),
    ('passage', 'change', 'UPDATE', service, modifiable, modifiable),
    ('passage', 'remove', 'DELETE', service, deleted, NULL),
    ('segment', 'read', 'SELECT', service, knowledge, NULL),
    ('segment', 'write', 'INSERT', worker, NULL, written),
    ('segment', 'remove', 'DELETE', service, deleted, NULL),
    ('posting_block', 'read', 'SELECT', service, knowledge, NULL),
    ('posting_block', 'write', 'INSERT', worker, NULL, written),
    ('posting_block', 'remove', 'DELETE', service, deleted, NULL),

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
    ('attribute', 'remove', 'DELETE', service, deleted, NULL),
    ('relation', 'read', 'SELECT', service, knowledge, NULL),
    ('relation', 'remove', 'DELETE', service, deleted, NULL),
    ('memory_item', 'read', 'SELECT', service, knowledge, NULL), -- written by put_item
    ('memory_item', 'remove', 'DELETE', service, deleted, NULL),

    ('forget_receipt', 'read', 'SELECT', app, listed, NULL), -- written by write_receipt
    ('access_denied', 'read', 'SELECT', app, listed, NULL), -- written by record_denial
    ('decision_trace', 'read', 'SELECT', app,
     format('(%s) AND ((SELECT scopefloor.caller_principal()) <> ''agent'' OR api_key_id = (SELECT scopefloor.caller()))', own), NULL),
    -- A trace says whose it is and for which scope, and is of now; none of it can be made up.
    ('decision_trace', 'write', 'INSERT', service, NULL,
     'scopefloor.may_record(scope_id, tenant_id, scope, elsewhere, api_key_id, principal) AND created_at = transaction_timestamp()'),
    -- Reports are over all scopes: no column of these says anything of content.
    ('decision_trace', 'report', 'SELECT', report, 'true', NULL),
    ('scope', 'report', 'SELECT', report, 'true', NULL),
    ('audit_entry', 'report', 'SELECT', report, 'true', NULL), -- which traces are in no sum of usage yet
    ('usage_hour', 'report', 'SELECT', report, 'true', NULL),
    ('usage_day', 'report', 'SELECT', report, 'true', NULL),
    ('tenant', 'report', 'SELECT', report, 'true', NULL),
    ('storage_day', 'report', 'SELECT', report, 'true', NULL),
    ('api_key', 'report', 'SELECT', report, 'true', NULL),
    ('access_denied', 'report', 'SELECT', report, 'true', NULL),
    ('budget', 'report', 'SELECT', report, 'true', NULL),
    ('budget_window', 'report', 'SELECT', report, 'true', NULL),
    ('forget_receipt', 'report', 'SELECT', report, 'true', NULL)
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
  scopefloor.passage, scopefloor.segment, scopefloor.posting_block, scopefloor.document, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band, scopefloor.entity, scopefloor.attribute, scopefloor.relation,
  scopefloor.memory_item, scopefloor.forget_receipt, scopefloor.access_denied, scopefloor.decision_trace TO scopefloor_app;
GRANT INSERT ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.document_content,
  scopefloor.keyword, scopefloor.document_link, scopefloor.chunk_band, scopefloor.decision_trace TO scopefloor_app;
GRANT DELETE ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.segment, scopefloor.posting_block, scopefloor.document,
  scopefloor.document_content, scopefloor.keyword, scopefloor.document_link, scopefloor.chunk_band, scopefloor.entity,
  scopefloor.attribute, scopefloor.relation, scopefloor.memory_item TO scopefloor_app;
GRANT UPDATE (display_name, description, tombstoned_at, tombstoned_by) ON scopefloor.scope TO scopefloor_app;
GRANT UPDATE (closed_at, metadata) ON scopefloor.session TO scopefloor_app;
GRANT UPDATE (expired_at) ON scopefloor.turn TO scopefloor_app;
GRANT UPDATE (expired_at, embedding, embedder_id, terms) ON scopefloor.passage TO scopefloor_app;
GRANT UPDATE (section) ON scopefloor.passage TO scopefloor_app; -- a heading may name what is forgotten
GRANT UPDATE (status, error, reading, ready_version, content_hash, title, source, updated_at, processing_started_at, processing_completed_at)
  ON scopefloor.document TO scopefloor_app, scopefloor_worker;

-- The worker, inside a job.
GRANT SELECT, INSERT, DELETE ON scopefloor.passage, scopefloor.segment, scopefloor.posting_block, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band TO scopefloor_worker;
GRANT SELECT, DELETE ON scopefloor.document, scopefloor.entity, scopefloor.attribute, scopefloor.relation, scopefloor.memory_item
  TO scopefloor_worker;
-- In a forget that is done in several transactions.
GRANT SELECT, DELETE ON scopefloor.session, scopefloor.turn TO scopefloor_worker;
GRANT SELECT ON scopefloor.scope TO scopefloor_worker;
GRANT UPDATE (expired_at) ON scopefloor.turn, scopefloor.passage TO scopefloor_worker;
GRANT UPDATE (section) ON scopefloor.passage TO scopefloor_worker;
GRANT SELECT ON scopefloor.scope_counter TO scopefloor_worker;
GRANT UPDATE (embedding, embedder_id, digest, suspicious, seq, terms, lexemes, languages, analyser, cues) ON scopefloor.passage TO scopefloor_worker;
GRANT SELECT ON scopefloor.embedder TO scopefloor_worker;
GRANT INSERT ON scopefloor.decision_trace TO scopefloor_worker;

-- Reports: every column of a trace but query, sources and error; keys without what opens them; and no other content.
GRANT SELECT (id, created_at, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, on_behalf_of, session_id, parent_id, tier,
              tier_reason, candidates, returned, provider, model, input_tokens, output_tokens, embedding_tokens, total_tokens,
              cost_usd, duration_ms, status, token_source, saved_tokens, plan, cached_input_tokens)
  ON scopefloor.decision_trace TO scopefloor_report;
GRANT SELECT (id, tenant_id, tags, created_at, tombstoned_at, erased_at) ON scopefloor.scope TO scopefloor_report;
GRANT SELECT (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, created_at, expires_at, revoked_at, last_used_at)
  ON scopefloor.api_key TO scopefloor_report;
GRANT SELECT (id, tenant_id, scope_id, created_at, api_key_id, on_behalf_of, route, reason) ON scopefloor.access_denied TO scopefloor_report;
GRANT SELECT (id, tenant_id, scope_id, created_at, subtree, action, policy, counts, api_key_id) ON scopefloor.forget_receipt TO scopefloor_report;
GRANT SELECT (tenant_id, scope_id, source, id, batch) ON scopefloor.audit_entry TO scopefloor_report;
GRANT SELECT (id, root, created_at, name, template, template_version, state, leaves_at, leaving_by) ON scopefloor.tenant TO scopefloor_report;
GRANT SELECT ON scopefloor.usage_hour, scopefloor.usage_day, scopefloor.storage_day, scopefloor.budget, scopefloor.budget_window TO scopefloor_report;
GRANT SELECT ON scopefloor.traces, scopefloor.usage_by_hour, scopefloor.usage_by_org, scopefloor.usage_by_scope, scopefloor.usage_by_day, scopefloor.key_names, scopefloor.denials,
  scopefloor.storage_by_day, scopefloor.budgets, scopefloor.receipts TO scopefloor_report;

-- Readiness asks whether the database is at the code's version.
GRANT SELECT ON scopefloor.migration TO scopefloor_app, scopefloor_worker;

-- Functions. The list is src/db/access/definers.ts, filled in here by the script that writes
-- migrations: {function: roles}, where `owner` is the migrations' own login. A definer function with an
-- empty list is for other definer functions alone.
GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer; -- a new owner needs it
DO $$
DECLARE
  callers constant jsonb := '{"abandon_run":[],"add_document":["app"],"add_usage":[],"apply_stored":[],"audit_evidence":["app"],"authenticate":[],"begin_offboarding":["app"],"begin_replay":["owner"],"bill":["app"],"billed_scopes":[],"budget_answer":[],"budgets_above":[],"cache_answer":["app"],"caller":["app","worker"],"caller_principal":["app","worker"],"change_tenant":["app"],"change_verbs":["app"],"check_audit":["owner"],"check_room":[],"check_unchained":["owner"],"claim_idempotency":["app"],"configure_context":["app"],"conflicts_with_traces":[],"context_created_at":["app"],"correct_fact":[],"correct_memory":["app"],"correct_turn":[],"cost_of":[],"count_passages":[],"credentials_above":[],"credentials_at":[],"credentials_under_others":["worker"],"cut_before":[],"delegated_from":[],"deletes":["app","worker"],"descends_from":[],"drop_budget":["app"],"drop_cached_answers":["app","worker"],"drop_hold":["app"],"drop_limit":["app"],"drop_price":["app"],"drop_retention":["app"],"drop_schedule":["app"],"drop_settings":["app"],"drop_template":["app"],"due_schedules":["worker"],"effective_retention":["app"],"effective_settings":["app"],"embedders_in_use":["app"],"end_holds":["app"],"end_job_hold":["worker"],"end_over":[],"end_over_anywhere":["worker"],"end_over_within":["app"],"end_replay":["owner"],"end_run":["worker"],"end_tenant":[],"enqueue":["app","worker"],"ensure_context":["owner"],"ensure_embedder":[],"ensure_entity":[],"ensure_scope":[],"ensure_tenant":[],"enter":["app"],"enter_job":["worker"],"enter_run":[],"erase_audited":[],"erase_audited_items":[],"extend_job":["worker"],"extend_job_hold":["worker"],"fact_at":[],"finish_job":["worker"],"fold_calls":["app"],"fold_counters":["worker"],"fold_holds":["worker"],"fold_own_holds":["app"],"forget_facts":["app","worker"],"forget_ticket":[],"forgets":["app","worker"],"full_ticket":[],"governed_scopes":[],"handles_any_session":["app","worker"],"has_first_key":[],"has_work":["app"],"hides_scopes":["app","worker"],"hold_answer":[],"hold_calls":["app"],"hold_entities":["app","worker"],"hold_for_job":["worker"],"hold_placed":[],"hold_scope":[],"hold_segments":["worker"],"hold_tail":["worker"],"holds_above":[],"holds_something":[],"ids_in":[],"insertable":["app","worker"],"insertable_tenant":["app","worker"],"is_being_erased":[],"is_document_held":[],"is_in_the_making":[],"is_offboarded":[],"is_row_held":[],"is_shut_out":[],"issue_ticket":[],"job_ticket":[],"join_tail":[],"journal_lines":["owner"],"keep_held":[],"keep_held_as_it_is":[],"keep_hold":[],"kept_below":[],"key_row":[],"key_ticket":[],"known_key":["app"],"known_keys":["app"],"knows_lines":["app"],"lacks_hold":[],"lexical_state":["app","worker"],"limit_answer":[],"list_budgets":["app"],"list_holds":["app"],"list_keys":["app"],"list_limits":["app"],"list_prices":["app"],"list_retention":["app"],"list_schedules":["app"],"list_settings":["app"],"list_tenants":["app"],"listable":["app","worker"],"lists_all":["app","worker"],"live_key":[],"live_keys":[],"live_scopes":[],"lock_rates":[],"lock_windows":[],"lookup_hashes":["app","worker"],"mark_records":[],"may_lose":[],"may_manage":[],"may_record":["app","worker"],"mint_key":["app"],"minted_names":["app"],"model_price":[],"modifiable":["app","worker"],"modifies_all":["app","worker"],"named_key":[],"named_scopes":["owner"],"note_audit":[],"note_kept":[],"note_replayed":["owner"],"note_run":["worker"],"note_stored":[],"note_vector_index":["worker"],"observation_beside":[],"old_rows":["app","worker"],"open_session":["app"],"open_window":[],"operator_ticket":[],"order_embedding":["app"],"order_job":[],"order_offboardings":["worker"],"order_retention":["worker"],"order_run":[],"order_schedule":[],"outlives_traces":[],"over_rate":[],"own_keys":["app"],"own_share_group":["app"],"pass_held":["worker"],"pending_documents":["app","worker"],"permit":[],"postpone_job":["worker"],"price_trace":[],"principal_of":["app"],"purge_old":["worker"],"put_block":[],"put_items":["app"],"put_observation":[],"put_template":["app"],"put_tenant":["app"],"put_triples":["app"],"queue_depth":["app","worker"],"rates_above":[],"reach_of":[],"reaches":[],"readable":["app","worker"],"readable_own":["app","worker"],"reads_all":["app","worker"],"recall_facts":[],"recall_state":["app"],"receipt_keys":["app"],"receipt_statement":["app","worker"],"receipt_ticket":[],"record_denial":["app"],"record_lost_call":["worker"],"record_spent":["app"],"recover_first_key":["owner"],"recover_jobs":["worker"],"redact_denials":[],"redact_old":["worker"],"refresh_items":["app"],"register_embedder":["owner"],"register_receipt_key":["owner"],"relink_documents":["app"],"replace_document":["app"],"requeue_job":[],"reseal_credential":["worker"],"reserve_turns":["app"],"reserved_session":["app"],"resolve_clauses":[],"resolve_place":[],"respell_facts":["worker"],"retention_answer":[],"retire_scopes":["app","worker"],"revoke_delegates":[],"revoke_key":["app"],"rotate_key":["app"],"rotate_ticket_secret":["owner"],"rows_are_there":[],"rule_ticket":[],"run_answer":[],"run_schedule_now":["app"],"run_ticket":[],"sample_storage":["worker"],"schedule_answer":[],"scope_hash":[],"seal_audit":["worker"],"set_at":[],"set_budget":["app"],"set_first_key":["owner"],"set_hold":["app"],"set_limit":["app"],"set_lookup":[],"set_price":["app"],"set_retention":["app"],"set_schedule":["app"],"set_settings":["app"],"settings_above":[],"settings_at":[],"settle_facts":[],"share_group_of":[],"short_of":[],"shortage_answer":[],"sign_receipt":["app","worker"],"sign_ticket":[],"store_answer":["app"],"stored_answer":["app"],"stored_bytes":[],"sweep_runs":[],"take_job":["worker"],"take_out":[],"tell_thresholds":[],"template_answer":[],"templates":["app"],"tenant_answer":[],"tenant_lines":[],"tenant_use":["app"],"tick_schedule":["worker"],"ticket":[],"told_rates":[],"touch_key":["app"],"trace_lines":[],"try_write":["app"],"undo_offboarding":["app"],"unindex_passages":[],"unknown_lines":["owner"],"unrecall_items":[],"unrecall_removed":[],"unscoped_content":["app"],"unsummed_lines":[],"usage":["app"],"usage_lines":[],"used_since":[],"vector_index_work":["worker"],"was_erased":[],"watch_tail":[],"windows_for":[],"word_secret":[],"write_rates":[],"write_receipt":["app","worker"],"write_ticket":[],"write_windows":[]}';
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

--> statement-breakpoint
DROP FUNCTION scopefloor.put_item;