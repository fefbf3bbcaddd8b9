CREATE TABLE "scopefloor"."budget" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"name" text DEFAULT '' NOT NULL,
	"period" text NOT NULL,
	"timezone" text NOT NULL,
	"token_limit" bigint,
	"cost_limit" numeric,
	"request_limit" bigint,
	"mode" text NOT NULL,
	"alert_at" numeric[] DEFAULT '{}' NOT NULL,
	"more_tokens" bigint DEFAULT 0 NOT NULL,
	"more_cost" numeric DEFAULT '0' NOT NULL,
	"more_until" timestamp with time zone,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "budget_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "budget_name" UNIQUE("scope_id","period","name","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."budget_event" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"budget_id" uuid NOT NULL,
	"starts" timestamp with time zone NOT NULL,
	"threshold" numeric NOT NULL,
	"used_tokens" bigint DEFAULT 0 NOT NULL,
	"used_cost" numeric DEFAULT '0' NOT NULL,
	"used_requests" bigint DEFAULT 0 NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "budget_event_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "budget_event_once" UNIQUE("scope_id","budget_id","starts","threshold","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."budget_hold" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"budget_ids" uuid[] NOT NULL,
	"starts" timestamp with time zone[] NOT NULL,
	"tokens" bigint DEFAULT 0 NOT NULL,
	"cost" numeric DEFAULT '0' NOT NULL,
	"requests" bigint DEFAULT 0 NOT NULL,
	"limit_ids" uuid[] DEFAULT '{}' NOT NULL,
	"calls" bigint DEFAULT 0 NOT NULL,
	"second" bigint DEFAULT 0 NOT NULL,
	"api_key_id" uuid NOT NULL,
	"operation" text NOT NULL,
	"provider" text,
	"model" text,
	"state" text NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "budget_hold_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."budget_window" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"budget_id" uuid NOT NULL,
	"starts" timestamp with time zone NOT NULL,
	"used_tokens" bigint DEFAULT 0 NOT NULL,
	"used_cost" numeric DEFAULT '0' NOT NULL,
	"used_requests" bigint DEFAULT 0 NOT NULL,
	"held_tokens" bigint DEFAULT 0 NOT NULL,
	"held_cost" numeric DEFAULT '0' NOT NULL,
	"held_requests" bigint DEFAULT 0 NOT NULL,
	"alerted" numeric DEFAULT '0' NOT NULL,
	CONSTRAINT "budget_window_scope_id_budget_id_starts_tenant_id_pk" PRIMARY KEY("scope_id","budget_id","starts","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."limit_rate" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"limit_id" uuid NOT NULL,
	"second" bigint NOT NULL,
	"requests" bigint[] NOT NULL,
	"tokens" bigint[] NOT NULL,
	"running" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "limit_rate_scope_id_limit_id_tenant_id_pk" PRIMARY KEY("scope_id","limit_id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."limit_store" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"limit_id" uuid NOT NULL,
	"bytes" bigint DEFAULT 0 NOT NULL,
	"documents" bigint DEFAULT 0 NOT NULL,
	"sessions" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "limit_store_scope_id_limit_id_tenant_id_pk" PRIMARY KEY("scope_id","limit_id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."price" (
	"id" uuid PRIMARY KEY NOT NULL,
	"kind" text NOT NULL,
	"name" text NOT NULL,
	"input" numeric,
	"cached_input" numeric,
	"output" numeric,
	"embedding" numeric,
	"per_call" numeric,
	"per_gb_month" numeric,
	"effective_from" timestamp with time zone NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "price_from" UNIQUE("kind","name","effective_from"),
	CONSTRAINT "price_not_negative" CHECK (least(input, cached_input, output, embedding, per_call, per_gb_month) >= 0)
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."scope_limit" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"key_id" uuid NOT NULL,
	"requests_per_minute" bigint,
	"tokens_per_minute" bigint,
	"concurrent_requests" bigint,
	"storage_bytes" bigint,
	"documents" bigint,
	"sessions" bigint,
	"keys" bigint,
	"scopes" bigint,
	"set_by" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "scope_limit_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "scope_limit_of" UNIQUE("scope_id","key_id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."stored_change" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid DEFAULT gen_random_uuid() NOT NULL,
	"limit_ids" uuid[] NOT NULL,
	"bytes" bigint DEFAULT 0 NOT NULL,
	"documents" bigint DEFAULT 0 NOT NULL,
	"sessions" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "stored_change_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."storage_day" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"day" date NOT NULL,
	"bytes" bigint NOT NULL,
	"cost_usd" numeric,
	"passages" integer NOT NULL,
	CONSTRAINT "storage_day_scope_id_day_tenant_id_pk" PRIMARY KEY("scope_id","day","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."usage_day" (
	"tenant_id" integer NOT NULL,
	"day" date NOT NULL,
	"operation" text NOT NULL,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"tier" text NOT NULL,
	"status" text NOT NULL,
	"calls" bigint DEFAULT 0 NOT NULL,
	"input_tokens" bigint DEFAULT 0 NOT NULL,
	"cached_input_tokens" bigint DEFAULT 0 NOT NULL,
	"output_tokens" bigint DEFAULT 0 NOT NULL,
	"embedding_tokens" bigint DEFAULT 0 NOT NULL,
	"saved_tokens" bigint DEFAULT 0 NOT NULL,
	"cost_usd" numeric DEFAULT '0' NOT NULL,
	"unpriced" bigint DEFAULT 0 NOT NULL,
	"duration_ms" numeric DEFAULT '0' NOT NULL,
	CONSTRAINT "usage_day_day_tenant_id_operation_provider_model_tier_status_pk" PRIMARY KEY("day","tenant_id","operation","provider","model","tier","status")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."usage_hour" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"hour" timestamp with time zone NOT NULL,
	"api_key_id" uuid NOT NULL,
	"operation" text NOT NULL,
	"provider" text NOT NULL,
	"model" text NOT NULL,
	"tier" text NOT NULL,
	"status" text NOT NULL,
	"calls" bigint DEFAULT 0 NOT NULL,
	"input_tokens" bigint DEFAULT 0 NOT NULL,
	"cached_input_tokens" bigint DEFAULT 0 NOT NULL,
	"output_tokens" bigint DEFAULT 0 NOT NULL,
	"embedding_tokens" bigint DEFAULT 0 NOT NULL,
	"saved_tokens" bigint DEFAULT 0 NOT NULL,
	"cost_usd" numeric DEFAULT '0' NOT NULL,
	"unpriced" bigint DEFAULT 0 NOT NULL,
	"duration_ms" numeric DEFAULT '0' NOT NULL,
	"last_at" timestamp with time zone NOT NULL,
	CONSTRAINT "usage_hour_scope_id_hour_api_key_id_operation_provider_model_tier_status_tenant_id_pk" PRIMARY KEY("scope_id","hour","api_key_id","operation","provider","model","tier","status","tenant_id")
);
--> statement-breakpoint
ALTER TABLE "scopefloor"."decision_trace" ADD COLUMN "cached_input_tokens" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."tenant" ADD COLUMN "left_digest" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."budget_event" ADD CONSTRAINT "budget_event_budget_fk" FOREIGN KEY ("scope_id","budget_id","tenant_id") REFERENCES "scopefloor"."budget"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."budget_window" ADD CONSTRAINT "budget_window_budget_fk" FOREIGN KEY ("scope_id","budget_id","tenant_id") REFERENCES "scopefloor"."budget"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."limit_rate" ADD CONSTRAINT "limit_rate_limit_fk" FOREIGN KEY ("scope_id","limit_id","tenant_id") REFERENCES "scopefloor"."scope_limit"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."limit_store" ADD CONSTRAINT "limit_store_limit_fk" FOREIGN KEY ("scope_id","limit_id","tenant_id") REFERENCES "scopefloor"."scope_limit"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "budget_id" ON "scopefloor"."budget" USING btree ("id");--> statement-breakpoint
CREATE INDEX "budget_tenant" ON "scopefloor"."budget" USING btree ("tenant_id");--> statement-breakpoint
CREATE INDEX "budget_hold_id" ON "scopefloor"."budget_hold" USING btree ("id");--> statement-breakpoint
CREATE INDEX "budget_hold_budgets" ON "scopefloor"."budget_hold" USING gin ("budget_ids");--> statement-breakpoint
CREATE INDEX "budget_hold_limits" ON "scopefloor"."budget_hold" USING gin ("limit_ids");--> statement-breakpoint
CREATE INDEX "budget_hold_open" ON "scopefloor"."budget_hold" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "scope_limit_key" ON "scopefloor"."scope_limit" USING btree ("key_id");--> statement-breakpoint
CREATE INDEX "scope_limit_tenant" ON "scopefloor"."scope_limit" USING btree ("tenant_id");--> statement-breakpoint
CREATE INDEX "storage_day_day" ON "scopefloor"."storage_day" USING btree ("day");--> statement-breakpoint
CREATE INDEX "usage_hour_time" ON "scopefloor"."usage_hour" USING btree ("hour");--> statement-breakpoint
CREATE INDEX "audit_entry_unsealed" ON "scopefloor"."audit_entry" USING btree ("scope_id") WHERE batch IS NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."decision_trace" ADD CONSTRAINT "decision_trace_cached" CHECK (cached_input_tokens >= 0);
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
DROP FUNCTION scopefloor.postpone_job;
--> statement-breakpoint
DROP FUNCTION scopefloor.usage;
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

-- The tags that two scopes have in common; those of one where the other is NULL.
CREATE OR REPLACE FUNCTION scopefloor.common_tags(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF a IS NULL OR b IS NULL THEN
    RETURN coalesce(a, b);
  END IF;
  RETURN (SELECT coalesce(jsonb_object_agg(x.key, x.value), '{}') FROM jsonb_each(a) x JOIN jsonb_each(b) y USING (key, value));
END $$;

-- Refuses what is no scope: the service has looked at the grammar, and whoever calls the database by
-- itself must not make a scope that the markers of erased ones would meet.
CREATE OR REPLACE FUNCTION scopefloor.check_tags(tags jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM jsonb_each(tags) t WHERE t.key !~ '^[a-z][a-z0-9_]{0,31}$' OR jsonb_typeof(t.value) <> 'string' OR length(t.value #>> '{}') NOT BETWEEN 1 AND 256) THEN
    RAISE EXCEPTION 'scopefloor: not a scope' USING ERRCODE = 'check_violation';
  END IF;
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
    PERFORM scopefloor.check_room('scopes', wanted);
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
-- src/db/sql/1_access/6_enter.sql
-- The only way to a ticket, and what is recorded of those who get none.

-- Opens a transaction for a key: finds the key, checks verb and request against the floor in the
-- key's own row, resolves the scope ids and leaves a signed ticket in scopefloor.ticket.
--
--   key_hash   SHA-256 of the presented secret
--   verb       memory:read | memory:write | memory:forget | manage | self
--   requested  {mode, clauses?, session?, document?, subtree?, reopen?, context, ageMs, metered?, hold?}; a clause is
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
    WHEN 'forget' THEN CASE WHEN coalesce((requested->>'subtree')::bool, jsonb_typeof(requested->'clauses') IS DISTINCT FROM 'array' AND (caller.k).principal <> 'agent')
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
    'write', written.id, 'tenant', written.tenant_id,
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', trace_tags, 'elsewhere', traced.tags <> trace_tags)));

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
-- verbs a subset.
CREATE OR REPLACE FUNCTION scopefloor.mint_key(new_id uuid, key_hash bytea, new_name text, new_principal text, asked_floor jsonb,
                                    asked_verbs text[], with_content bool, expires timestamptz) RETURNS jsonb
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
  PERFORM scopefloor.hold_scope(child_floor);
  at_scope := scopefloor.ensure_scope(child_floor);
  PERFORM scopefloor.check_room('keys', child_floor);
  INSERT INTO scopefloor.api_key (id, tenant_id, scope_id, parent_id, name, principal, floor, verbs, minted_verbs, content, secret_hash, expires_at)
  VALUES (new_id, at_scope.tenant_id, at_scope.id, own.id, new_name, new_principal, child_floor,
          coalesce(asked_verbs, parent_verbs), coalesce(asked_verbs, parent_verbs), child_content, sha256(key_hash), expires)
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
-- src/db/sql/1_access/7_keys_changed.sql
-- Changing keys: rotating, revoking, and taking verbs or giving them back. Who may is said by may_manage (7_keys.sql).

-- The key that a call names, where it may be changed: by id anywhere inside the floor (management), by
-- name among those that the caller minted, or the caller itself. NULL looks the same for "none" and "not yours".
CREATE OR REPLACE FUNCTION scopefloor.named_key(id_or_name text) RETURNS scopefloor.api_key
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
  found scopefloor.api_key;
BEGIN
  IF t->>'verb' = 'manage' AND id_or_name ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    SELECT * INTO found FROM scopefloor.api_key k WHERE k.id = id_or_name::uuid AND k.revoked_at IS NULL;
  END IF;
  IF found.id IS NULL THEN
    SELECT * INTO found FROM scopefloor.api_key k
    WHERE (k.parent_id = caller OR (k.id = caller AND t->>'verb' = 'self')) AND k.name = id_or_name AND k.revoked_at IS NULL
    ORDER BY k.id <> caller LIMIT 1;
  END IF;
  IF NOT scopefloor.may_manage(t, found, true) THEN
    RETURN NULL;
  END IF;
  RETURN found;
END $$;

-- The principal of the key that a call names (named_key); NULL where there is none.
CREATE OR REPLACE FUNCTION scopefloor.principal_of(id_or_name text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.named_key(id_or_name)).principal
$$;

-- A key and everything that was delegated from it: the keys that agents minted for themselves. Keys that
-- a management key minted are not among them, they are other people's. Without the branches of `kept`.
CREATE OR REPLACE FUNCTION scopefloor.delegated_from(of_id uuid, kept uuid[] DEFAULT '{}') RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE delegated AS (
    SELECT k.id, k.principal FROM scopefloor.api_key k WHERE k.id = of_id
    UNION
    SELECT k.id, k.principal FROM scopefloor.api_key k JOIN delegated d ON k.parent_id = d.id WHERE d.principal = 'agent' AND NOT k.id = ANY (kept))
  SELECT d.id FROM delegated d
$$;

-- Revokes a key's delegates. Waits for whoever is minting from one of them, and again for what those
-- minted: until nothing is left.
CREATE OR REPLACE FUNCTION scopefloor.revoke_delegates(of_id uuid, kept uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  LOOP
    UPDATE scopefloor.api_key k SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL
    WHERE k.id IN (SELECT scopefloor.delegated_from(of_id, kept)) AND k.id <> of_id AND k.revoked_at IS NULL;
    EXIT WHEN NOT FOUND;
  END LOOP;
END $$;

-- Gives a key another secret. Who held the old one may have minted from it: without a time of grace the
-- agents' keys below it end, but for those children that are named; with one, the old secret stays valid so
-- long. {status: ok, key, children: [{id, name}] that live on} | {status: not-found, detail}.
CREATE OR REPLACE FUNCTION scopefloor.rotate_key(id_or_name text, key_hash bytea, expires timestamptz, grace_seconds int, keep text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.api_key := scopefloor.named_key(id_or_name);
  parent scopefloor.api_key;
  made scopefloor.api_key;
  kept uuid[];
BEGIN
  IF found.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  SELECT * INTO parent FROM scopefloor.api_key WHERE id = found.parent_id;
  -- Rotating is no way to outlive what was granted: a key does not lengthen its own life.
  IF found.id = scopefloor.caller() OR parent.principal = 'agent' THEN
    expires := least(coalesce(expires, found.expires_at), found.expires_at);
  END IF;
  -- Each names one: an id by its form, which no name has.
  kept := ARRAY(SELECT (SELECT k.id FROM scopefloor.api_key k WHERE k.parent_id = found.id AND k.revoked_at IS NULL
                        AND CASE WHEN named ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN k.id = named::uuid ELSE k.name = named END) FROM unnest(keep) named);
  IF array_position(kept, NULL) IS NOT NULL THEN
    RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'keepChildren names a key that is no child of this one');
  END IF;
  -- This one first: who mints from it waits, and finds another secret.
  -- One that had ended comes back, and is one more.
  IF found.expires_at <= clock_timestamp() AND coalesce(expires, found.expires_at) > clock_timestamp() THEN
    PERFORM scopefloor.check_room('keys', found.floor);
  END IF;
  UPDATE scopefloor.api_key k
  SET secret_hash = sha256(key_hash),
      previous_hash = CASE WHEN grace_seconds > 0 THEN k.secret_hash END,
      previous_until = CASE WHEN grace_seconds > 0 THEN clock_timestamp() + make_interval(secs => grace_seconds) END,
      expires_at = coalesce(expires, k.expires_at)
  WHERE k.id = found.id
  RETURNING * INTO made;
  IF grace_seconds = 0 THEN
    PERFORM scopefloor.revoke_delegates(found.id, kept);
  END IF;
  -- No delegate lives longer than what it came from.
  UPDATE scopefloor.api_key k SET expires_at = made.expires_at
  WHERE made.expires_at IS NOT NULL AND k.id <> made.id AND k.id IN (SELECT scopefloor.delegated_from(made.id)) AND (k.expires_at IS NULL OR k.expires_at > made.expires_at);
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made), 'children', coalesce((
    SELECT jsonb_agg(jsonb_build_object('id', c.id, 'name', c.name) ORDER BY c.created_at, c.id)
    FROM (SELECT * FROM scopefloor.api_key k WHERE k.parent_id = made.id AND k.revoked_at IS NULL
            AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp()) ORDER BY k.created_at, k.id LIMIT 500) c), '[]'));
END $$;

-- Revokes a key and everything that was delegated from it.
CREATE OR REPLACE FUNCTION scopefloor.revoke_key(id_or_name text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target scopefloor.api_key := scopefloor.named_key(id_or_name);
BEGIN
  IF target.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  UPDATE scopefloor.api_key k SET revoked_at = clock_timestamp(), previous_hash = NULL, previous_until = NULL WHERE k.id = target.id;
  PERFORM scopefloor.revoke_delegates(target.id, '{}');
  RETURN jsonb_build_object('status', 'ok');
END $$;

-- Leaves a key these of its verbs. Management may give back what was taken, up to what it has itself and
-- what the key was minted with; what a key above took only that one, or one above it, gives back.
CREATE OR REPLACE FUNCTION scopefloor.change_verbs(of_id uuid, wanted text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  target scopefloor.api_key;
  made scopefloor.api_key;
BEGIN
  IF t->>'principal' = 'supervisor' THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor does not change keys');
  END IF;
  SELECT * INTO target FROM scopefloor.api_key k WHERE k.id = of_id AND k.revoked_at IS NULL FOR NO KEY UPDATE;
  IF NOT scopefloor.may_manage(t, target, true) THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  IF NOT wanted <@ target.verbs THEN
    IF t->>'principal' <> 'management' OR target.id = (t->>'key')::uuid OR NOT wanted <@ target.minted_verbs OR NOT to_jsonb(array_remove(wanted, 'usage:read')) <@ (t->'verbs') THEN
      RETURN jsonb_build_object('status', 'unprocessable', 'detail', format('a key''s grants can only narrow, or go back to what it was minted with by a management key that has as much: it does not have %s',
        array_to_string(ARRAY(SELECT w FROM unnest(wanted) w WHERE NOT w = ANY (target.verbs)), ', ')));
    END IF;
    IF NOT coalesce(target.narrowed_by @> (t->'floor'), true) THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', 'the verbs were taken by a key above this one');
    END IF;
    IF EXISTS (SELECT 1 FROM scopefloor.api_key p WHERE p.id = target.parent_id AND p.principal = 'agent' AND NOT wanted <@ p.verbs) THEN
      RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'the key was minted by an agent that does not have as much itself');
    END IF;
  END IF;
  UPDATE scopefloor.api_key k
  SET verbs = ARRAY(SELECT unnest(wanted) ORDER BY 1),
      -- Of two who took verbs the one above counts, and where neither is, what is above both.
      narrowed_by = CASE WHEN k.minted_verbs <@ wanted THEN NULL
                         WHEN wanted @> k.verbs THEN k.narrowed_by
                         ELSE scopefloor.common_tags(k.narrowed_by, t->'floor') END
  WHERE k.id = of_id RETURNING * INTO made;
  -- What it delegated cannot do more than it: agents' children narrow with it. Waits for whoever is
  -- minting from one of them, and again for what those minted: until nothing is left.
  LOOP
    UPDATE scopefloor.api_key k SET verbs = ARRAY(SELECT unnest(k.verbs) INTERSECT SELECT unnest(made.verbs) ORDER BY 1),
      narrowed_by = scopefloor.common_tags(k.narrowed_by, t->'floor')
    WHERE k.id IN (SELECT scopefloor.delegated_from(made.id)) AND k.id <> made.id AND NOT k.verbs <@ made.verbs;
    EXIT WHEN NOT FOUND;
  END LOOP;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;

--> statement-breakpoint
-- src/db/sql/2_memory/5_counters.sql
-- Counters of passages by scope and model, which triggers (4_tables.sql) append to, and the codes of vectors.

-- Every change is a row with a number of its own, also one that leaves the counts as they were.
CREATE OR REPLACE FUNCTION scopefloor.count_passages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, embedder_id, languages, count(*), sum(tokens), sum(lexemes), sum(octet_length(text))
    FROM added WHERE expired_at IS NULL GROUP BY tenant_id, scope_id, embedder_id, languages;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, embedder_id, languages, -count(*), -sum(tokens), -sum(lexemes), -sum(octet_length(text))
    FROM removed WHERE expired_at IS NULL GROUP BY tenant_id, scope_id, embedder_id, languages;
  ELSE
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, embedder_id, languages, sum(n), sum(n * tokens), sum(n * lexemes), sum(n * octet_length(text))
    FROM (SELECT 1 AS n, a.* FROM added a WHERE expired_at IS NULL
          UNION ALL
          SELECT -1, r.* FROM removed r WHERE expired_at IS NULL) change
    GROUP BY tenant_id, scope_id, embedder_id, languages;
  END IF;
  IF EXISTS (SELECT 1 FROM scopefloor.limit_store) THEN
    IF TG_OP <> 'DELETE' THEN
      PERFORM scopefloor.note_stored(a.tenant_id, a.scope_id, sum(octet_length(a.text)), 0, 0) FROM added a WHERE a.expired_at IS NULL GROUP BY a.tenant_id, a.scope_id;
    END IF;
    IF TG_OP <> 'INSERT' THEN
      PERFORM scopefloor.note_stored(r.tenant_id, r.scope_id, -sum(octet_length(r.text)), 0, 0) FROM removed r WHERE r.expired_at IS NULL GROUP BY r.tenant_id, r.scope_id;
    END IF;
  END IF;
  RETURN NULL;
END $$;

-- The sum of the numbers stays, also where the counts come to nothing; the languages of what is gone do not.
CREATE OR REPLACE FUNCTION scopefloor.fold_counters() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
BEGIN
  WITH taken AS (
    DELETE FROM scopefloor.scope_counter c
    WHERE c.scope_id IN (SELECT scope_id FROM scopefloor.scope_counter GROUP BY scope_id, embedder_id, languages HAVING count(*) > 1)
    RETURNING *)
  INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes, change)
  SELECT tenant_id, scope_id, embedder_id, CASE WHEN sum(passages) <> 0 THEN languages ELSE '' END, sum(passages), sum(tokens), sum(lexemes), sum(bytes), sum(change) FROM taken GROUP BY tenant_id, scope_id, embedder_id, languages;
  GET DIAGNOSTICS folded = ROW_COUNT;
  RETURN folded;
END $$;

-- Trigger: a passage's code follows its vector, whoever writes it.
CREATE OR REPLACE FUNCTION scopefloor.set_code() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$ -- pgvector is in one of the first two
BEGIN
  NEW.code := CASE WHEN NEW.embedding IS NOT NULL AND (SELECT e.is_dense FROM scopefloor.embedder e WHERE e.id = NEW.embedder_id)
    THEN binary_quantize(NEW.embedding) END;
  RETURN NEW;
END $$;

-- What the ticket's tenant has stored: {storedBytes, passages, sessions, scopes}. Sessions are counted as
-- far as the limit.
CREATE OR REPLACE FUNCTION scopefloor.tenant_use(most_sessions int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.write_ticket();
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id = (t->>'tenant')::int);
BEGIN
  RETURN (
    SELECT jsonb_build_object('passages', coalesce(sum(c.passages), 0), 'scopes', cardinality(ids),
      'storedBytes', coalesce(sum(c.bytes), 0) + (SELECT coalesce(sum(d.size_bytes), 0) FROM scopefloor.document d WHERE d.scope_id = ANY (ids) AND d.content_hash IS NOT NULL),
      'sessions', (SELECT count(*) FROM (SELECT 1 FROM scopefloor.session s WHERE s.scope_id = ANY (ids) LIMIT most_sessions) n))
    FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids));
END $$;

--> statement-breakpoint
-- src/db/sql/2_memory/5_word_index.sql
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

--> statement-breakpoint
-- src/db/sql/2_memory/9_facts_respelled.sql
-- Names and keys of facts that are there already, brought to the spelling of the service's present version
-- (7_facts.sql says how facts are kept).

-- Gives entities and keys at a job's scope the forms of their names that the service has now:
-- [{id, identity, folded}] and [{key, normalKey}]. What becomes one is put together with its history.
CREATE OR REPLACE FUNCTION scopefloor.respell_facts(entities jsonb, keys jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
  at_scope int := (t->>'write')::int;
  secret bytea;
  named record;
  survivor uuid;
  touched uuid[] := '{}';
  key record;
BEGIN
  secret := scopefloor.word_secret((t->>'tenant')::int, at_scope);
  PERFORM 1 FROM scopefloor.entity e WHERE e.scope_id = at_scope ORDER BY e.identity FOR NO KEY UPDATE;
  FOR named IN SELECT e.id, e.identity, e.folded FROM jsonb_to_recordset(entities) AS e(id uuid, identity text, folded text) ORDER BY e.id LOOP
    SELECT e.id INTO survivor FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.word_hash(secret, named.identity) AND e.id <> named.id;
    IF survivor IS NOT NULL THEN
      UPDATE scopefloor.attribute a SET entity_id = survivor WHERE a.scope_id = at_scope AND a.entity_id = named.id;
      UPDATE scopefloor.relation r SET entity_id = survivor WHERE r.scope_id = at_scope AND r.entity_id = named.id;
      UPDATE scopefloor.relation r SET target_id = survivor WHERE r.scope_id = at_scope AND r.target_id = named.id;
      DELETE FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.id = named.id;
    END IF;
    UPDATE scopefloor.entity e SET identity = named.identity, folded = named.folded WHERE e.scope_id = at_scope AND e.id = coalesce(survivor, named.id);
    touched := touched || survivor || ARRAY(SELECT r.entity_id FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.target_id = survivor);
  END LOOP;
  WITH respelled AS (
    UPDATE scopefloor.attribute a SET normal_key = k."normalKey" FROM jsonb_to_recordset(keys) AS k(key text, "normalKey" text)
    WHERE a.scope_id = at_scope AND a.key = k.key AND a.normal_key <> k."normalKey" RETURNING a.entity_id),
  renamed AS (
    UPDATE scopefloor.relation r SET normal_key = k."normalKey" FROM jsonb_to_recordset(keys) AS k(key text, "normalKey" text)
    WHERE r.scope_id = at_scope AND r.key = k.key AND r.normal_key <> k."normalKey" RETURNING r.entity_id)
  SELECT touched || coalesce(array_agg(x.entity_id), '{}') INTO touched FROM (SELECT * FROM respelled UNION SELECT * FROM renamed) x;
  FOR key IN
    SELECT DISTINCT 'attribute' AS kind, a.entity_id, a.key_hash FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.entity_id = ANY (touched)
    UNION SELECT DISTINCT 'relation', r.entity_id, r.key_hash FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.entity_id = ANY (touched)
  LOOP
    PERFORM scopefloor.settle_facts(at_scope, key.kind, key.entity_id, key.key_hash, NULL, NULL, NULL, NULL, '[]', NULL);
  END LOOP;
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

-- What a call costs in USD: its model's tokens, and the price of the operation by itself. NULL: the model
-- has no price for tokens that were used. A model of the service's own process (`local`) costs nothing
-- where it has none.
CREATE OR REPLACE FUNCTION scopefloor.cost_of(of_operation text, of_provider text, of_model text, input bigint, cached bigint, output bigint, embedding bigint, at_time timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p scopefloor.price;
  from_cache bigint := least(cached, input);
  of_call numeric := coalesce((SELECT o.per_call FROM scopefloor.price o WHERE o.kind = 'operation' AND o.name = of_operation AND o.effective_from <= at_time
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

-- A time as the API gives it.
CREATE OR REPLACE FUNCTION scopefloor.rfc3339(at_time timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT to_char(at_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') $$;

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
-- src/db/sql/3_metering/2_budgets.sql
-- Budgets: what may be spent at a scope in a period. A call counts against every budget at its own scope
-- and above it. It is held before it is made (3_holds.sql), and settled by its trace.

-- When the period of a budget began that a time lies in.
CREATE OR REPLACE FUNCTION scopefloor.period_start(period text, timezone text, at_time timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN period = 'total' THEN 'epoch'::timestamptz ELSE date_trunc(period, at_time, timezone) END
$$;

-- When it ends; NULL: never.
CREATE OR REPLACE FUNCTION scopefloor.period_end(period text, timezone text, starts timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE period WHEN 'total' THEN NULL WHEN 'hour' THEN starts + interval '1 hour'
    ELSE (starts AT TIME ZONE timezone + ('1 ' || period)::interval) AT TIME ZONE timezone END
$$;

-- The budgets that a call at these tags counts against.
CREATE OR REPLACE FUNCTION scopefloor.budgets_above(tags jsonb) RETURNS SETOF scopefloor.budget
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above jsonb[];
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.budget) THEN
    RETURN;
  END IF;
  above := scopefloor.scopes_between('{}', tags);
  RETURN QUERY SELECT b.* FROM scopefloor.budget b
    WHERE b.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above)));
END $$;

-- True where a call at these tags needs a hold and has none, or where its hold lacks a budget or limit that was made
-- more than ten seconds before the hold.
CREATE OR REPLACE FUNCTION scopefloor.lacks_hold(tags jsonb, hold uuid, of_key uuid) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  h scopefloor.budget_hold;
BEGIN
  -- Where nobody has a budget or a limit, this is all that anybody pays for them.
  IF NOT EXISTS (SELECT 1 FROM scopefloor.budget) AND NOT EXISTS (SELECT 1 FROM scopefloor.limit_rate) THEN
    RETURN false;
  END IF;
  SELECT * INTO h FROM scopefloor.budget_hold o
  WHERE o.id = hold AND o.api_key_id = of_key
    -- What was sent counts, however late its trace is.
    AND (o.state IN ('sent', 'charged') OR (o.state = 'held' AND o.expires_at > clock_timestamp()));
  RETURN EXISTS (SELECT 1 FROM scopefloor.budgets_above(tags) b
                 WHERE h.id IS NULL OR (NOT b.id = ANY (h.budget_ids) AND b.created_at < h.created_at - interval '10 seconds'))
      OR EXISTS (SELECT 1 FROM scopefloor.rates_above(tags, of_key) l
                 WHERE h.id IS NULL OR (NOT l.id = ANY (h.limit_ids) AND l.created_at < h.created_at - interval '10 seconds'));
END $$;

-- A budget as the API gives it, with what was spent of it in its present period.
CREATE OR REPLACE FUNCTION scopefloor.budget_answer(b scopefloor.budget) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_at timestamptz := clock_timestamp();
  period_starts timestamptz := scopefloor.period_start(b.period, b.timezone, now_at);
  most_tokens bigint := b.token_limit + CASE WHEN b.more_until > now_at THEN b.more_tokens ELSE 0 END;
  most_cost numeric := b.cost_limit + CASE WHEN b.more_until > now_at THEN b.more_cost ELSE 0 END;
  w scopefloor.budget_window;
BEGIN
  SELECT * INTO w FROM scopefloor.budget_window o WHERE o.scope_id = b.scope_id AND o.budget_id = b.id AND o.starts = period_starts;
  RETURN jsonb_build_object(
    'id', b.id, 'scope', (SELECT s.tags FROM scopefloor.scope s WHERE s.id = b.scope_id), 'name', b.name, 'period', b.period, 'timezone', b.timezone,
    'tokenLimit', b.token_limit, 'costLimitUsd', b.cost_limit, 'requestLimit', b.request_limit, 'mode', b.mode, 'alertAt', to_jsonb(b.alert_at),
    'temporaryIncrease', CASE WHEN b.more_until IS NOT NULL THEN jsonb_build_object('tokens', b.more_tokens, 'costUsd', b.more_cost, 'until', scopefloor.rfc3339(b.more_until)) END,
    'used', jsonb_build_object('tokens', coalesce(w.used_tokens, 0), 'costUsd', coalesce(w.used_cost, 0), 'requests', coalesce(w.used_requests, 0)),
    'reserved', jsonb_build_object('tokens', coalesce(w.held_tokens, 0), 'costUsd', coalesce(w.held_cost, 0), 'requests', coalesce(w.held_requests, 0)),
    'remaining', jsonb_build_object(
      'tokens', CASE WHEN b.token_limit IS NOT NULL THEN greatest(0, most_tokens - coalesce(w.used_tokens + w.held_tokens, 0)) END,
      'costUsd', CASE WHEN b.cost_limit IS NOT NULL THEN greatest(0, most_cost - coalesce(w.used_cost + w.held_cost, 0)) END,
      'requests', CASE WHEN b.request_limit IS NOT NULL THEN greatest(0, b.request_limit - coalesce(w.used_requests + w.held_requests, 0)) END),
    'periodStart', scopefloor.rfc3339(period_starts), 'resetsAt', scopefloor.rfc3339(scopefloor.period_end(b.period, b.timezone, period_starts)),
    'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object('threshold', e.threshold, 'periodStart', scopefloor.rfc3339(e.starts), 'at', scopefloor.rfc3339(e.created_at)) ORDER BY e.created_at DESC, e.threshold DESC), '[]')
               FROM (SELECT * FROM scopefloor.budget_event o WHERE o.scope_id = b.scope_id AND o.budget_id = b.id ORDER BY o.created_at DESC LIMIT 20) e),
    'createdAt', scopefloor.rfc3339(b.created_at), 'updatedAt', scopefloor.rfc3339(b.updated_at));
END $$;

-- The ticket of a transaction that sets rules for what it has entered for.
CREATE OR REPLACE FUNCTION scopefloor.rule_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' <> 'manage' THEN
    RAISE EXCEPTION 'scopefloor: no ticket for rules' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- Makes or changes the budget of the ticket's target with this period and name: {status: ok, budget}, or
-- {status: forbidden | quota-exceeded | not-found | validation-error, detail}; with `only_id` it changes that one and
-- makes none. Of one that there is, what is left out stays; where a limit is given, it has the given ones and no
-- other. One that a key above has set stays as it is. What was traced in the present period before there was the budget counts.
CREATE OR REPLACE FUNCTION scopefloor.set_budget(new_id uuid, given jsonb, only_id uuid DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most_at_scope constant int := 20;
  most_of_tenant constant int := 100000;
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  b scopefloor.budget;
  counted_before text; -- the time zone whose periods were counted so far
BEGIN
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  -- Of two who set budgets of one scope, one after the other.
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
  SELECT * INTO b FROM scopefloor.budget o WHERE o.scope_id = at_scope.id AND o.period = given->>'period' AND o.name = coalesce(given->>'name', '');
  IF only_id IS NOT NULL AND b.id IS DISTINCT FROM only_id THEN
    RETURN '{"status": "not-found", "detail": ""}'; -- deleted meanwhile
  END IF;
  IF b.id IS NOT NULL AND NOT b.set_by @> (t->'floor') THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key above this one has set this budget');
  END IF;
  IF b.id IS NULL AND ((SELECT count(*) FROM scopefloor.budget o WHERE o.scope_id = at_scope.id AND o.set_by = t->'floor') >= most_at_scope
      OR (SELECT count(*) FROM (SELECT 1 FROM scopefloor.budget o WHERE o.tenant_id = at_scope.tenant_id AND o.set_by = t->'floor' LIMIT most_of_tenant) n) >= most_of_tenant) THEN
    RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', format('a key may set at most %s budgets at a scope and %s in a tenant; delete one first', most_at_scope, most_of_tenant));
  END IF;
  counted_before := b.timezone;
  given := CASE WHEN b.id IS NULL THEN '{"timezone": "UTC", "mode": "hard", "alertAt": [0.8, 1]}'::jsonb ELSE
    jsonb_build_object('timezone', b.timezone, 'mode', b.mode, 'alertAt', to_jsonb(b.alert_at), 'temporaryIncrease',
      CASE WHEN b.more_until IS NOT NULL THEN jsonb_build_object('tokens', b.more_tokens, 'costUsd', b.more_cost, 'until', b.more_until) END)
    || CASE WHEN given ?| ARRAY['tokenLimit', 'costLimitUsd', 'requestLimit'] THEN '{}'::jsonb
       ELSE jsonb_build_object('tokenLimit', b.token_limit, 'costLimitUsd', b.cost_limit, 'requestLimit', b.request_limit) END END || given;
  IF coalesce(given->>'tokenLimit', given->>'costLimitUsd', given->>'requestLimit') IS NULL THEN
    RETURN '{"status": "validation-error", "detail": "a budget has a tokenLimit, a costLimitUsd or a requestLimit"}';
  END IF;
  INSERT INTO scopefloor.budget AS o (tenant_id, scope_id, id, name, period, timezone, token_limit, cost_limit, request_limit, mode, alert_at,
                                      more_tokens, more_cost, more_until, set_by, api_key_id)
  VALUES (at_scope.tenant_id, at_scope.id, new_id, coalesce(given->>'name', ''), given->>'period', given->>'timezone',
          (given->>'tokenLimit')::bigint, (given->>'costLimitUsd')::numeric, (given->>'requestLimit')::bigint, given->>'mode',
          ARRAY(SELECT jsonb_array_elements_text(given->'alertAt')::numeric),
          coalesce((given->'temporaryIncrease'->>'tokens')::bigint, 0), coalesce((given->'temporaryIncrease'->>'costUsd')::numeric, 0),
          (given->'temporaryIncrease'->>'until')::timestamptz, t->'floor', (t->>'key')::uuid)
  ON CONFLICT (scope_id, period, name, tenant_id) DO UPDATE SET
    timezone = EXCLUDED.timezone, token_limit = EXCLUDED.token_limit, cost_limit = EXCLUDED.cost_limit, request_limit = EXCLUDED.request_limit,
    mode = EXCLUDED.mode, alert_at = EXCLUDED.alert_at, more_tokens = EXCLUDED.more_tokens, more_cost = EXCLUDED.more_cost, more_until = EXCLUDED.more_until,
    set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp()
  RETURNING * INTO b;
  IF counted_before IS DISTINCT FROM b.timezone THEN
    PERFORM scopefloor.open_window(b, scopefloor.period_start(b.period, b.timezone, clock_timestamp()));
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'budget', scopefloor.budget_answer(b));
END $$;

-- Makes the row of a period with the tokens and the cost of what was traced in it so far, but for traces that a hold
-- of this budget is still to be settled by; and with what was charged without a trace. (Requests are counted from
-- then on. A call that is under way without a hold of this budget counts in no period of it.)
CREATE OR REPLACE FUNCTION scopefloor.open_window(b scopefloor.budget, period_starts timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.budget_window (tenant_id, scope_id, budget_id, starts) VALUES (b.tenant_id, b.scope_id, b.id, period_starts) ON CONFLICT DO NOTHING;
  -- Locked before anything is summed: what is settled meanwhile is added afterwards.
  PERFORM 1 FROM scopefloor.budget_window w WHERE w.scope_id = b.scope_id AND w.budget_id = b.id AND w.starts = period_starts FOR UPDATE;
  WITH traced AS (
    SELECT coalesce(sum(u.input_tokens + u.output_tokens + u.embedding_tokens), 0)::bigint AS tokens, coalesce(sum(u.cost_usd), 0) AS cost
    FROM scopefloor.usage_lines(scopefloor.billed_scopes((SELECT s.tags FROM scopefloor.scope s WHERE s.id = b.scope_id)), period_starts, NULL) u),
  unsettled AS (
    SELECT coalesce(sum(CASE WHEN d.id IS NOT NULL THEN -d.total_tokens WHEN h.state = 'charged' THEN h.tokens ELSE 0 END), 0)::bigint AS tokens,
           coalesce(sum(CASE WHEN d.id IS NOT NULL THEN -coalesce(d.cost_usd, 0) WHEN h.state = 'charged' THEN h.cost ELSE 0 END), 0) AS cost
    FROM scopefloor.budget_hold h LEFT JOIN scopefloor.decision_trace d ON d.id = h.id AND d.created_at >= period_starts
    WHERE h.budget_ids @> ARRAY[b.id] AND h.starts[array_position(h.budget_ids, b.id)] = period_starts)
  UPDATE scopefloor.budget_window w SET used_tokens = t.tokens + u.tokens, used_cost = t.cost + u.cost
  FROM traced t, unsettled u WHERE w.scope_id = b.scope_id AND w.budget_id = b.id AND w.starts = period_starts;
END $$;

-- The budgets of the ticket's target and below, by page, or one by its id: {total, budgets}.
CREATE OR REPLACE FUNCTION scopefloor.list_budgets(of_id uuid, most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for budgets' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (
            SELECT b FROM scopefloor.budget b WHERE (ids IS NULL OR b.scope_id = ANY (ids)) AND (of_id IS NULL OR b.id = of_id)),
          shown AS (SELECT f.b FROM found f ORDER BY (f.b).scope_id, (f.b).period, (f.b).name LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'budgets', coalesce((SELECT jsonb_agg(scopefloor.budget_answer(s.b)) FROM shown s), '[]')));
END $$;

-- Takes a budget of the ticket's target or below away, by its id, or by period and name at the target itself:
-- how many; -1: a key above has set it.
CREATE OR REPLACE FUNCTION scopefloor.drop_budget(of_id uuid, of_period text, of_name text) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  found scopefloor.budget;
BEGIN
  SELECT b.* INTO found FROM scopefloor.budget b JOIN scopefloor.scope s ON s.id = b.scope_id
  WHERE s.tags @> (t->'target')
    AND (b.id = of_id OR (of_id IS NULL AND s.tags = t->'target' AND b.period = of_period AND b.name = coalesce(of_name, '')));
  IF found.id IS NULL THEN
    RETURN 0;
  END IF;
  IF NOT found.set_by @> (t->'floor') THEN
    RETURN -1;
  END IF;
  DELETE FROM scopefloor.budget b WHERE b.scope_id = found.scope_id AND b.id = found.id;
  RETURN 1;
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
    PERFORM scopefloor.keep_hold(call, (call->>'input')::bigint + (call->>'embedding')::bigint, 0, '{}', '{}', '{}', 0, clock_timestamp() + make_interval(secs => ttl_seconds));
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
CREATE OR REPLACE FUNCTION scopefloor.record_lost_call(of_id uuid, used_tokens int, source text) RETURNS void
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
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, provider, model, embedding_tokens, token_source, duration_ms, status)
  SELECT h.id, 'model', h.operation, h.tenant_id, h.scope_id, s.tags, k.id, k.principal, h.provider, h.model, used_tokens,
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
-- src/db/sql/3_metering/5_usage.sql
-- Usage and bills: sums of traces by hour (usage_hour), what is not in them yet, and what was kept.

-- Adds a batch of the audit chain to the sums. Called in the transaction that gives the batch its number, so
-- each trace is added once, whenever it was committed.
CREATE OR REPLACE FUNCTION scopefloor.add_usage(of_batch bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO scopefloor.usage_hour AS u (tenant_id, scope_id, hour, api_key_id, operation, provider, model, tier, status,
    calls, input_tokens, cached_input_tokens, output_tokens, embedding_tokens, saved_tokens, cost_usd, unpriced, duration_ms, last_at)
  SELECT d.tenant_id, d.scope_id, date_trunc('hour', d.created_at, 'UTC'), d.api_key_id, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status,
    count(*), sum(d.input_tokens), sum(d.cached_input_tokens), sum(d.output_tokens), sum(d.embedding_tokens), sum(d.saved_tokens),
    coalesce(sum(d.cost_usd), 0), count(*) FILTER (WHERE d.cost_usd IS NULL), sum(d.duration_ms::numeric), max(d.created_at)
  FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id
  WHERE e.batch = of_batch AND e.source = 'trace'
  GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
  ON CONFLICT (scope_id, hour, api_key_id, operation, provider, model, tier, status, tenant_id) DO UPDATE SET
    calls = u.calls + EXCLUDED.calls, input_tokens = u.input_tokens + EXCLUDED.input_tokens,
    cached_input_tokens = u.cached_input_tokens + EXCLUDED.cached_input_tokens, output_tokens = u.output_tokens + EXCLUDED.output_tokens,
    embedding_tokens = u.embedding_tokens + EXCLUDED.embedding_tokens, saved_tokens = u.saved_tokens + EXCLUDED.saved_tokens,
    cost_usd = u.cost_usd + EXCLUDED.cost_usd, unpriced = u.unpriced + EXCLUDED.unpriced, duration_ms = u.duration_ms + EXCLUDED.duration_ms,
    last_at = greatest(u.last_at, EXCLUDED.last_at);
  INSERT INTO scopefloor.usage_day AS u (tenant_id, day, operation, provider, model, tier, status,
    calls, input_tokens, cached_input_tokens, output_tokens, embedding_tokens, saved_tokens, cost_usd, unpriced, duration_ms)
  SELECT d.tenant_id, (d.created_at AT TIME ZONE 'UTC')::date, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status,
    count(*), sum(d.input_tokens), sum(d.cached_input_tokens), sum(d.output_tokens), sum(d.embedding_tokens), sum(d.saved_tokens),
    coalesce(sum(d.cost_usd), 0), count(*) FILTER (WHERE d.cost_usd IS NULL), sum(d.duration_ms::numeric)
  FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id
  WHERE e.batch = of_batch AND e.source = 'trace'
  GROUP BY 1, 2, 3, 4, 5, 6, 7
  ON CONFLICT (day, tenant_id, operation, provider, model, tier, status) DO UPDATE SET
    calls = u.calls + EXCLUDED.calls, input_tokens = u.input_tokens + EXCLUDED.input_tokens,
    cached_input_tokens = u.cached_input_tokens + EXCLUDED.cached_input_tokens, output_tokens = u.output_tokens + EXCLUDED.output_tokens,
    embedding_tokens = u.embedding_tokens + EXCLUDED.embedding_tokens, saved_tokens = u.saved_tokens + EXCLUDED.saved_tokens,
    cost_usd = u.cost_usd + EXCLUDED.cost_usd, unpriced = u.unpriced + EXCLUDED.unpriced, duration_ms = u.duration_ms + EXCLUDED.duration_ms;
END $$;

-- The scopes whose usage is that of a scope: itself and those below, and for a tenant also what was erased in
-- it. NULL: all of them.
CREATE OR REPLACE FUNCTION scopefloor.billed_scopes(tags jsonb) RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF tags = '{}' THEN
    RETURN NULL;
  END IF;
  RETURN ARRAY(
    SELECT s.id FROM scopefloor.scope s WHERE s.tags @> billed_scopes.tags
    UNION SELECT s.id FROM scopefloor.tenant t JOIN scopefloor.scope s ON s.tenant_id = t.id WHERE t.root = billed_scopes.tags);
END $$;

-- What these scopes (NULL: all) used from a time up to another, each NULL for no bound. Whole hours come from
-- the sums, and the rest from traces: those of the hours at both ends, and those that are in no sum yet.
CREATE OR REPLACE FUNCTION scopefloor.usage_lines(ids int[], since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  first timestamptz := CASE WHEN since IS NULL THEN '-infinity' WHEN since = date_trunc('hour', since, 'UTC') THEN since ELSE date_trunc('hour', since, 'UTC') + interval '1 hour' END;
  last timestamptz := coalesce(date_trunc('hour', until, 'UTC'), 'infinity');
BEGIN
  IF first > last THEN -- within one hour
    RETURN QUERY SELECT * FROM scopefloor.trace_lines(ids, since, until);
    RETURN;
  END IF;
  IF ids IS NULL THEN
    RETURN QUERY SELECT u.tenant_id, u.scope_id, u.hour, u.api_key_id, u.operation, u.provider, u.model, u.tier, u.status, u.calls,
      u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.saved_tokens, u.cost_usd, u.unpriced
    FROM scopefloor.usage_hour u WHERE u.hour >= first AND u.hour < last;
  ELSE
    RETURN QUERY SELECT u.tenant_id, u.scope_id, u.hour, u.api_key_id, u.operation, u.provider, u.model, u.tier, u.status, u.calls,
      u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.saved_tokens, u.cost_usd, u.unpriced
    FROM scopefloor.usage_hour u WHERE u.scope_id = ANY (ids) AND u.hour >= first AND u.hour < last;
  END IF;
  RETURN QUERY SELECT * FROM scopefloor.unsummed_lines(ids, first, last);
  IF since < first THEN
    RETURN QUERY SELECT * FROM scopefloor.trace_lines(ids, since, first);
  END IF;
  IF until > last THEN
    RETURN QUERY SELECT * FROM scopefloor.trace_lines(ids, last, until);
  END IF;
END $$;

-- The traces that are in no sum yet.
CREATE OR REPLACE FUNCTION scopefloor.unsummed_lines(ids int[], since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT d.tenant_id, d.scope_id, d.created_at, d.api_key_id, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status, 1::bigint,
      d.input_tokens::bigint, d.cached_input_tokens::bigint, d.output_tokens::bigint, d.embedding_tokens::bigint, d.saved_tokens::bigint,
      coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int::bigint
    FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id
    WHERE e.batch IS NULL AND e.source = 'trace' AND (ids IS NULL OR e.scope_id = ANY (ids)) AND d.created_at >= since AND d.created_at < until;
END $$;

-- The traces themselves, of less than an hour.
CREATE OR REPLACE FUNCTION scopefloor.trace_lines(ids int[], since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT d.tenant_id, d.scope_id, d.created_at, d.api_key_id, d.operation, coalesce(d.provider, ''), coalesce(d.model, ''), coalesce(d.tier, ''), d.status, 1::bigint,
      d.input_tokens::bigint, d.cached_input_tokens::bigint, d.output_tokens::bigint, d.embedding_tokens::bigint, d.saved_tokens::bigint,
      coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int::bigint
    FROM scopefloor.decision_trace d
    WHERE (ids IS NULL OR d.scope_id = ANY (ids)) AND d.created_at >= since AND d.created_at < until;
END $$;

-- What all scopes used on whole days, by tenant: from the sums, and from what is in none yet.
CREATE OR REPLACE FUNCTION scopefloor.tenant_lines(since timestamptz, until timestamptz) RETURNS TABLE (
  tenant_id int, scope_id int, at timestamptz, api_key_id uuid, operation text, provider text, model text, tier text, status text, calls bigint,
  input_tokens bigint, cached_input_tokens bigint, output_tokens bigint, embedding_tokens bigint, saved_tokens bigint, cost_usd numeric, unpriced bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT u.tenant_id, NULL::int, u.day::timestamp AT TIME ZONE 'UTC', NULL::uuid, u.operation, u.provider, u.model, u.tier, u.status, u.calls,
      u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.saved_tokens, u.cost_usd, u.unpriced
    FROM scopefloor.usage_day u WHERE u.day >= (since AT TIME ZONE 'UTC')::date AND u.day < (until AT TIME ZONE 'UTC')::date;
  RETURN QUERY SELECT * FROM scopefloor.unsummed_lines(NULL, since, until);
END $$;

-- Sums over E's subtree, numbers only: an agent may see what its whole floor has used, but only
-- the traces of its own key. E comes out of the ticket: an argument could widen what it names.
--   grouped_by  null, scope, org, key, model, operation, day, or dimension:<name>
CREATE OR REPLACE FUNCTION scopefloor.usage(since timestamptz, until timestamptz, grouped_by text) RETURNS TABLE (
  grp jsonb, calls bigint, input_tokens bigint, output_tokens bigint, embedding_tokens bigint, total_tokens bigint,
  cost_usd numeric, unpriced bigint, stored_bytes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
  dimension text := substring(grouped_by FROM '^dimension:(.*)$');
  -- Over all scopes whole days come from the sums by tenant, where those tell the groups apart.
  by_tenant bool := t->'target' = '{}' AND (grouped_by IS NULL OR grouped_by IN ('org', 'model', 'operation', 'day'));
  first_day timestamptz := CASE WHEN since IS NULL THEN '-infinity' WHEN since = date_trunc('day', since, 'UTC') THEN since ELSE date_trunc('day', since, 'UTC') + interval '1 day' END;
  last_day timestamptz := coalesce(date_trunc('day', until, 'UTC'), 'infinity');
  divides_storage bool := grouped_by IS NULL OR grouped_by IN ('scope', 'org') OR grouped_by LIKE 'dimension:%';
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for usage' USING ERRCODE = 'insufficient_privilege';
  END IF;
  ids := scopefloor.billed_scopes(t->'target');
  RETURN QUERY
  WITH lines AS MATERIALIZED (
    SELECT u.tenant_id, CASE WHEN NOT by_tenant THEN u.scope_id END AS scope_id,
           CASE grouped_by WHEN 'key' THEN u.api_key_id::text WHEN 'model' THEN u.model WHEN 'operation' THEN u.operation
                           WHEN 'day' THEN (u.at AT TIME ZONE 'UTC')::date::text END AS part,
           sum(u.calls) AS calls, sum(u.input_tokens) AS i, sum(u.output_tokens) AS o, sum(u.embedding_tokens) AS e, sum(u.cost_usd) AS cost, sum(u.unpriced) AS unpriced
    FROM (SELECT * FROM scopefloor.usage_lines(ids, since, until) WHERE NOT by_tenant OR first_day >= last_day
          UNION ALL SELECT * FROM scopefloor.usage_lines(ids, since, first_day) WHERE by_tenant AND first_day < last_day AND since < first_day
          UNION ALL SELECT * FROM scopefloor.usage_lines(ids, last_day, until) WHERE by_tenant AND first_day < last_day AND last_day < until
          UNION ALL SELECT * FROM scopefloor.tenant_lines(first_day, last_day) WHERE by_tenant AND first_day < last_day) u
    GROUP BY 1, 2, 3),
  used AS (
    SELECT CASE WHEN grouped_by = 'scope' THEN s.tags
                WHEN grouped_by = 'org' THEN coalesce(s.tags->'org', 'null')
                WHEN dimension IS NOT NULL THEN coalesce(s.tags->dimension, 'null')
                WHEN grouped_by IS NULL OR l.part = '' THEN 'null' ELSE to_jsonb(l.part) END AS grp,
           sum(l.calls) AS calls, sum(l.i) AS i, sum(l.o) AS o, sum(l.e) AS e, sum(l.cost) AS cost, sum(l.unpriced) AS unpriced
    FROM lines l LEFT JOIN LATERAL (
      SELECT o.tags FROM scopefloor.scope o WHERE o.id = l.scope_id
      UNION ALL SELECT n.root FROM scopefloor.tenant n WHERE by_tenant AND n.id = l.tenant_id) s ON true GROUP BY 1),
  stored AS (
    SELECT CASE WHEN grouped_by = 'scope' THEN s.tags WHEN grouped_by = 'org' THEN coalesce(s.tags->'org', 'null')
                WHEN dimension IS NOT NULL THEN coalesce(s.tags->dimension, 'null') ELSE 'null' END AS grp, sum(c.bytes)::bigint AS bytes
    FROM scopefloor.stored_bytes(CASE WHEN divides_storage THEN ids ELSE '{}' END) c
    JOIN LATERAL (SELECT o.tags FROM scopefloor.scope o WHERE o.id = c.scope_id LIMIT 1) s ON true GROUP BY 1)
  SELECT coalesce(used.grp, stored.grp), coalesce(used.calls, 0)::bigint, coalesce(used.i, 0)::bigint, coalesce(used.o, 0)::bigint,
         coalesce(used.e, 0)::bigint, coalesce(used.i + used.o + used.e, 0)::bigint, coalesce(used.cost, 0), coalesce(used.unpriced, 0)::bigint,
         CASE WHEN divides_storage THEN coalesce(stored.bytes, 0) END
  FROM used FULL JOIN stored ON stored.grp = used.grp
  ORDER BY 6 DESC, 1;
END $$;

-- What each scope keeps on a day, once a day, priced then: a share of the month's price. (A day on which no
-- worker runs is not charged.) Gives how many scopes keep anything.
CREATE OR REPLACE FUNCTION scopefloor.sample_storage() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
  days int := extract(day FROM date_trunc('month', today) + interval '1 month - 1 day');
  price_now numeric;
  sampled int;
BEGIN
  IF EXISTS (SELECT 1 FROM scopefloor.storage_day s WHERE s.day = today) THEN
    RETURN 0;
  END IF;
  SELECT p.per_gb_month INTO price_now FROM scopefloor.price p WHERE p.kind = 'storage' AND p.effective_from <= clock_timestamp() ORDER BY p.effective_from DESC LIMIT 1;
  INSERT INTO scopefloor.storage_day (tenant_id, scope_id, day, bytes, passages, cost_usd)
  SELECT k.tenant_id, k.scope_id, today, k.bytes, k.passages::int, round(k.bytes * price_now * 0.000000001 / days, 12)
  FROM scopefloor.stored_bytes(NULL) k WHERE k.bytes > 0
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS sampled = ROW_COUNT;
  RETURN sampled;
END $$;

-- The lines of a bill, from a time up to another, by scope: the costs that traces were given when they were
-- written, and those of what was kept. Calls that used no tokens and cost nothing are on none. Each line is rounded once. For a tenant that left, by its path's hash.
CREATE OR REPLACE FUNCTION scopefloor.bill(since timestamptz, until timestamptz, of_left text) RETURNS TABLE (
  scope jsonb, kind text, operation text, provider text, model text, calls bigint, input_tokens bigint, cached_input_tokens bigint, output_tokens bigint,
  embedding_tokens bigint, gb_months numeric, unpriced bigint, cost_usd numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
BEGIN
  IF t IS NULL OR t->>'verb' <> 'usage:read' THEN
    RAISE EXCEPTION 'scopefloor: no ticket for usage' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF of_left IS NULL THEN
    ids := scopefloor.billed_scopes(t->'target');
  ELSIF t->'floor' <> '{}' THEN
    ids := '{}'; -- who else could ask would ask for a name that is not its own
  ELSE
    ids := ARRAY(SELECT s.id FROM scopefloor.tenant n JOIN scopefloor.scope s ON s.tenant_id = n.id WHERE n.left_digest = of_left);
  END IF;
  RETURN QUERY
  SELECT s.tags, 'calls', u.operation, nullif(u.provider, ''), nullif(u.model, ''), sum(u.calls)::bigint, sum(u.input_tokens)::bigint, sum(u.cached_input_tokens)::bigint,
         sum(u.output_tokens)::bigint, sum(u.embedding_tokens)::bigint, NULL::numeric, sum(u.unpriced)::bigint, round(sum(u.cost_usd), 9)
  FROM scopefloor.usage_lines(ids, since, until) u JOIN LATERAL (SELECT o.tags FROM scopefloor.scope o WHERE o.id = u.scope_id LIMIT 1) s ON true
  GROUP BY s.tags, u.operation, u.provider, u.model
  HAVING sum(u.input_tokens) + sum(u.output_tokens) + sum(u.embedding_tokens) + sum(u.unpriced) > 0 OR sum(u.cost_usd) > 0
  UNION ALL
  SELECT s.tags, 'storage', NULL, NULL, NULL, 0, 0, 0, 0, 0,
         round(sum(k.bytes * 0.000000001 / extract(day FROM date_trunc('month', k.day) + interval '1 month - 1 day')), 12),
         count(*) FILTER (WHERE k.cost_usd IS NULL), round(coalesce(sum(k.cost_usd), 0), 9)
  FROM scopefloor.storage_day k JOIN LATERAL (SELECT o.tags FROM scopefloor.scope o WHERE o.id = k.scope_id LIMIT 1) s ON true
  WHERE k.day >= (since AT TIME ZONE 'UTC')::date AND k.day < (until AT TIME ZONE 'UTC')::date AND (ids IS NULL OR k.scope_id = ANY (ids))
  GROUP BY s.tags
  ORDER BY 1, 2, 3, 4, 5;
END $$;

--> statement-breakpoint
-- src/db/sql/3_metering/6_limits.sql
-- Limits: what a scope or a key may do a minute (7_rates.sql), and what a scope may keep (8_kept.sql). Of all
-- above a call the tightest holds.

-- A limit as the API gives it, with the present use.
CREATE OR REPLACE FUNCTION scopefloor.limit_answer(l scopefloor.scope_limit) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own_tags jsonb := (SELECT s.tags FROM scopefloor.scope s WHERE s.id = l.scope_id);
  r scopefloor.limit_rate;
  k scopefloor.limit_store;
BEGIN
  SELECT * INTO r FROM scopefloor.limit_rate o WHERE o.scope_id = l.scope_id AND o.limit_id = l.id;
  IF FOUND THEN
    r := scopefloor.advanced_rate(r, extract(epoch FROM clock_timestamp())::bigint);
  END IF;
  SELECT * INTO k FROM scopefloor.limit_store o WHERE o.scope_id = l.scope_id AND o.limit_id = l.id;
  RETURN jsonb_build_object(
    'id', l.id, 'scope', own_tags, 'key', nullif(l.key_id, '00000000-0000-0000-0000-000000000000'),
    'requestsPerMinute', l.requests_per_minute, 'tokensPerMinute', l.tokens_per_minute, 'concurrentRequests', l.concurrent_requests,
    'storageBytes', l.storage_bytes, 'documents', l.documents, 'sessions', l.sessions, 'keys', l.keys, 'scopes', l.scopes,
    'used', jsonb_strip_nulls(jsonb_build_object(
      'requestsPerMinute', CASE WHEN l.requests_per_minute IS NOT NULL THEN scopefloor.slot_sum(r.requests) END,
      'tokensPerMinute', CASE WHEN l.tokens_per_minute IS NOT NULL THEN scopefloor.slot_sum(r.tokens) END,
      'concurrentRequests', CASE WHEN l.concurrent_requests IS NOT NULL THEN r.running END,
      'storageBytes', CASE WHEN l.storage_bytes IS NOT NULL THEN k.bytes END,
      'documents', CASE WHEN l.documents IS NOT NULL THEN k.documents END,
      'sessions', CASE WHEN l.sessions IS NOT NULL THEN k.sessions END,
      'keys', CASE WHEN l.keys IS NOT NULL THEN scopefloor.live_keys(own_tags) END,
      'scopes', CASE WHEN l.scopes IS NOT NULL THEN scopefloor.live_scopes(own_tags) END)),
    'createdAt', scopefloor.rfc3339(l.created_at), 'updatedAt', scopefloor.rfc3339(l.updated_at));
END $$;

-- Sets the limits of the ticket's target, or of a key whose floor is in it: {status: ok, limit}, or {status, detail}.
-- What is kept already counts; where that is more, nothing is lost and nothing comes in.
CREATE OR REPLACE FUNCTION scopefloor.set_limit(new_id uuid, of_key uuid, given jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_tags jsonb := t->'target';
  limited_key constant uuid := coalesce(of_key, '00000000-0000-0000-0000-000000000000');
  at_scope scopefloor.scope;
  l scopefloor.scope_limit;
  kept record;
BEGIN
  IF of_key IS NOT NULL THEN
    SELECT k.floor INTO at_tags FROM scopefloor.api_key k WHERE k.id = of_key AND k.revoked_at IS NULL AND k.floor @> (t->'target');
    IF at_tags IS NULL THEN
      RETURN '{"status": "not-found", "detail": ""}';
    END IF;
  END IF;
  -- Alone: no writer is under way whose rows would be counted neither now nor when it commits.
  PERFORM scopefloor.hold_scope(at_tags, at_tags, t->'floor');
  at_scope := scopefloor.ensure_scope(at_tags);
  SELECT * INTO l FROM scopefloor.scope_limit o WHERE o.scope_id = at_scope.id AND o.key_id = limited_key;
  IF l.id IS NOT NULL AND NOT l.set_by @> (t->'floor') THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key above this one has set these limits');
  END IF;
  INSERT INTO scopefloor.scope_limit AS o (tenant_id, scope_id, id, key_id, requests_per_minute, tokens_per_minute, concurrent_requests,
                                           storage_bytes, documents, sessions, keys, scopes, set_by, api_key_id)
  VALUES (at_scope.tenant_id, at_scope.id, new_id, limited_key, (given->>'requestsPerMinute')::bigint, (given->>'tokensPerMinute')::bigint, (given->>'concurrentRequests')::bigint,
          (given->>'storageBytes')::bigint, (given->>'documents')::bigint, (given->>'sessions')::bigint, (given->>'keys')::bigint, (given->>'scopes')::bigint, t->'floor', (t->>'key')::uuid)
  ON CONFLICT ON CONSTRAINT scope_limit_of DO UPDATE SET
    requests_per_minute = EXCLUDED.requests_per_minute, tokens_per_minute = EXCLUDED.tokens_per_minute, concurrent_requests = EXCLUDED.concurrent_requests,
    storage_bytes = EXCLUDED.storage_bytes, documents = EXCLUDED.documents, sessions = EXCLUDED.sessions, keys = EXCLUDED.keys, scopes = EXCLUDED.scopes,
    set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp()
  RETURNING * INTO l;
  IF coalesce(l.requests_per_minute, l.tokens_per_minute, l.concurrent_requests) IS NULL THEN
    DELETE FROM scopefloor.limit_rate r WHERE r.scope_id = l.scope_id AND r.limit_id = l.id;
  ELSE
    INSERT INTO scopefloor.limit_rate (tenant_id, scope_id, limit_id, second, requests, tokens)
    VALUES (l.tenant_id, l.scope_id, l.id, extract(epoch FROM clock_timestamp())::bigint, array_fill(0::bigint, ARRAY[61]), array_fill(0::bigint, ARRAY[61]))
    ON CONFLICT DO NOTHING;
  END IF;
  IF coalesce(l.storage_bytes, l.documents, l.sessions) IS NULL THEN
    DELETE FROM scopefloor.limit_store k WHERE k.scope_id = l.scope_id AND k.limit_id = l.id;
  ELSE
    kept := scopefloor.kept_below(at_tags);
    INSERT INTO scopefloor.limit_store AS o (tenant_id, scope_id, limit_id, bytes, documents, sessions)
    VALUES (l.tenant_id, l.scope_id, l.id, kept.bytes, kept.documents, kept.sessions)
    ON CONFLICT (scope_id, limit_id, tenant_id) DO UPDATE SET bytes = EXCLUDED.bytes, documents = EXCLUDED.documents, sessions = EXCLUDED.sessions;
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'limit', scopefloor.limit_answer(l));
END $$;

-- The limits at the ticket's target and below, by page: {total, limits}.
CREATE OR REPLACE FUNCTION scopefloor.list_limits(most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for limits' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (SELECT l FROM scopefloor.scope_limit l WHERE ids IS NULL OR l.scope_id = ANY (ids)),
          shown AS (SELECT f.l FROM found f ORDER BY (f.l).scope_id, (f.l).key_id LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'limits', coalesce((SELECT jsonb_agg(scopefloor.limit_answer(s.l)) FROM shown s), '[]')));
END $$;

-- Takes the limits of the ticket's target, or of a key in it, away: how many; -1: a key above has set them.
CREATE OR REPLACE FUNCTION scopefloor.drop_limit(of_key uuid) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  found scopefloor.scope_limit;
BEGIN
  SELECT l.* INTO found FROM scopefloor.scope_limit l JOIN scopefloor.scope s ON s.id = l.scope_id
  WHERE CASE WHEN of_key IS NULL THEN s.tags = t->'target' AND l.key_id = '00000000-0000-0000-0000-000000000000'
             ELSE s.tags @> (t->'target') AND l.key_id = of_key END;
  IF found.id IS NULL THEN
    RETURN 0;
  END IF;
  IF NOT found.set_by @> (t->'floor') THEN
    RETURN -1;
  END IF;
  DELETE FROM scopefloor.scope_limit l WHERE l.scope_id = found.scope_id AND l.id = found.id;
  RETURN 1;
END $$;

--> statement-breakpoint
-- src/db/sql/3_metering/7_rates.sql
-- Rates of limits: calls and tokens of the last minute, and calls under way. They are looked at where calls are
-- held (3_holds.sql).

-- The limits of rates that a call of this key at these tags is under. What an agent mints is under the agent's too.
CREATE OR REPLACE FUNCTION scopefloor.rates_above(tags jsonb, of_key uuid) RETURNS SETOF scopefloor.scope_limit
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  above jsonb[];
  own_line uuid[] := ARRAY[of_key];
BEGIN
  IF NOT EXISTS (SELECT 1 FROM scopefloor.limit_rate) THEN
    RETURN;
  END IF;
  above := scopefloor.scopes_between('{}', tags);
  IF EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.key_id <> '00000000-0000-0000-0000-000000000000') THEN
    own_line := ARRAY(
      WITH RECURSIVE line AS (
        SELECT k.id, k.parent_id FROM scopefloor.api_key k WHERE k.id = of_key
        UNION ALL SELECT k.id, k.parent_id FROM line c JOIN scopefloor.api_key k ON k.id = c.parent_id AND k.principal = 'agent')
      SELECT c.id FROM line c);
  END IF;
  RETURN QUERY SELECT l.* FROM scopefloor.scope_limit l JOIN scopefloor.limit_rate r ON r.scope_id = l.scope_id AND r.limit_id = l.id
    WHERE l.scope_id = ANY (ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above))) AND l.key_id = ANY ('00000000-0000-0000-0000-000000000000'::uuid || own_line);
END $$;

-- A rate as of this second: what is older than a minute is gone.
CREATE OR REPLACE FUNCTION scopefloor.advanced_rate(r scopefloor.limit_rate, now_second bigint) RETURNS scopefloor.limit_rate
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF now_second - r.second > 60 THEN
    r.requests := array_fill(0::bigint, ARRAY[61]);
    r.tokens := r.requests;
  ELSE
    FOR s IN r.second + 1 .. now_second LOOP
      r.requests[s % 61 + 1] := 0;
      r.tokens[s % 61 + 1] := 0;
    END LOOP;
  END IF;
  r.second := greatest(r.second, now_second);
  RETURN r;
END $$;

-- The sum of a list of slots. A minute touches at most 61 seconds, so that no minute has more than that.
CREATE OR REPLACE FUNCTION scopefloor.slot_sum(slots bigint[]) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT sum(s)::bigint FROM unnest(slots) s $$;

-- In how many seconds so much has gone out of the slots that there is room for `more` within `most`.
CREATE OR REPLACE FUNCTION scopefloor.seconds_to_room(slots bigint[], now_second bigint, more bigint, most bigint) RETURNS int
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  left_over bigint := scopefloor.slot_sum(slots);
BEGIN
  FOR d IN 1..61 LOOP
    left_over := left_over - slots[(now_second - 61 + d) % 61 + 1];
    IF left_over + more <= most THEN
      RETURN d;
    END IF;
  END LOOP;
  RETURN 61;
END $$;

-- Which limit a call does not fit in: {rate: requests | tokens | concurrency, at, retryAfter}; NULL: it fits in all.
CREATE OR REPLACE FUNCTION scopefloor.over_rate(ls scopefloor.scope_limit[], rs scopefloor.limit_rate[], own int[], calls bigint, call_tokens bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l scopefloor.scope_limit;
  r scopefloor.limit_rate;
BEGIN
  FOR n IN 1..cardinality(own) LOOP
    l := ls[own[n]];
    r := rs[own[n]];
    IF calls > 0 AND scopefloor.slot_sum(r.requests) + calls > l.requests_per_minute THEN
      RETURN jsonb_build_object('rate', 'requests', 'at', own[n], 'retryAfter', scopefloor.seconds_to_room(r.requests, r.second, calls, l.requests_per_minute));
    ELSIF call_tokens > 0 AND scopefloor.slot_sum(r.tokens) + call_tokens > l.tokens_per_minute THEN
      RETURN jsonb_build_object('rate', 'tokens', 'at', own[n], 'isTooLarge', call_tokens > l.tokens_per_minute,
                                'retryAfter', scopefloor.seconds_to_room(r.tokens, r.second, call_tokens, l.tokens_per_minute));
    ELSIF calls > 0 AND r.running + calls > l.concurrent_requests THEN
      RETURN jsonb_build_object('rate', 'concurrency', 'at', own[n], 'retryAfter', 1);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- What a caller is told of the rates that it is under: of those at its own floor or below, and of its key's own.
-- What is above would tell it how much others do.
CREATE OR REPLACE FUNCTION scopefloor.told_rates(ls scopefloor.scope_limit[], rs scopefloor.limit_rate[], own int[], floor jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  told jsonb := '{}';
  l scopefloor.scope_limit;
  r scopefloor.limit_rate;
  rate record;
BEGIN
  FOR n IN 1..cardinality(own) LOOP
    l := ls[own[n]];
    r := rs[own[n]];
    CONTINUE WHEN NOT EXISTS (SELECT 1 FROM scopefloor.scope s WHERE s.id = l.scope_id AND s.tags @> floor);
    FOR rate IN SELECT * FROM (VALUES
      ('requests', l.requests_per_minute, l.requests_per_minute - scopefloor.slot_sum(r.requests), least(60, scopefloor.seconds_to_room(r.requests, r.second, 0, 0))),
      ('tokens', l.tokens_per_minute, l.tokens_per_minute - scopefloor.slot_sum(r.tokens), least(60, scopefloor.seconds_to_room(r.tokens, r.second, 0, 0))),
      ('concurrency', l.concurrent_requests, l.concurrent_requests - r.running, 1)) v(name, most, remaining, reset) WHERE v.most IS NOT NULL
    LOOP
      IF NOT told ? rate.name OR rate.remaining < (told->rate.name->>'remaining')::bigint THEN
        told := told || jsonb_build_object(rate.name, jsonb_build_object('limit', rate.most, 'remaining', greatest(0, rate.remaining), 'reset', rate.reset));
      END IF;
    END LOOP;
  END LOOP;
  RETURN told;
END $$;

-- The rows of these limits, locked in their order and advanced to now; NULL for one that is gone.
CREATE OR REPLACE FUNCTION scopefloor.lock_rates(ls scopefloor.scope_limit[], now_second bigint) RETURNS scopefloor.limit_rate[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rs scopefloor.limit_rate[] := '{}';
  r scopefloor.limit_rate;
BEGIN
  FOR i IN 1..cardinality(ls) LOOP
    SELECT * INTO r FROM scopefloor.limit_rate o WHERE o.scope_id = (ls[i]).scope_id AND o.limit_id = (ls[i]).id FOR UPDATE;
    rs[i] := CASE WHEN FOUND THEN scopefloor.advanced_rate(r, now_second) END;
  END LOOP;
  RETURN rs;
END $$;

CREATE OR REPLACE FUNCTION scopefloor.write_rates(rs scopefloor.limit_rate[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR i IN 1..cardinality(rs) LOOP
    UPDATE scopefloor.limit_rate r SET second = (rs[i]).second, requests = (rs[i]).requests, tokens = (rs[i]).tokens, running = (rs[i]).running
    WHERE r.scope_id = (rs[i]).scope_id AND r.limit_id = (rs[i]).limit_id;
  END LOOP;
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
    UNION ALL SELECT i.tenant_id, i.scope_id, octet_length(i.value::text)::bigint, 0 FROM scopefloor.memory_item i WHERE ids IS NULL OR i.scope_id = ANY (ids)) k
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

-- Trigger of statements on documents, sessions and keyed items.
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
CREATE OR REPLACE FUNCTION scopefloor.order_embedding(of_embedder int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.full_ticket();
  summary jsonb;
BEGIN
  IF t IS NULL THEN
    RETURN NULL;
  END IF;
  WITH reached AS MATERIALIZED (
    SELECT s.tenant_id, s.id, s.epoch FROM scopefloor.scope s WHERE s.tags @> (t->'target')),
  counted AS MATERIALIZED (
    SELECT r.tenant_id, r.id, r.epoch, sum(c.passages) AS passages,
           coalesce(sum(c.passages) FILTER (WHERE c.embedder_id IS DISTINCT FROM of_embedder), 0) AS pending
    FROM reached r JOIN scopefloor.scope_counter c ON c.scope_id = r.id GROUP BY 1, 2, 3),
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
    'settings', coalesce((SELECT c.config FROM scopefloor.context c WHERE c.id = in_context), '{}'));
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
  -- Rules that the eraser could take away go with the scope, once no live key is under them; one from above stays,
  -- and so nobody is rid of it.
  IF t->>'principal' = 'management' THEN
    unruled := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.id = ANY (ids)
      AND (EXISTS (SELECT 1 FROM scopefloor.budget b WHERE b.scope_id = s.id) OR EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.scope_id = s.id))
      AND NOT EXISTS (SELECT 1 FROM scopefloor.api_key k WHERE k.scope_id = ANY (ids) AND k.floor @> s.tags AND k.revoked_at IS NULL
                      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())));
    DELETE FROM scopefloor.budget b WHERE b.scope_id = ANY (unruled) AND b.set_by @> (t->'floor');
    DELETE FROM scopefloor.scope_limit l WHERE l.scope_id = ANY (unruled) AND l.set_by @> (t->'floor');
  END IF;
  gone := ARRAY(SELECT s.id FROM scopefloor.scope s
    WHERE s.id = ANY (ids) AND s.id <> 0 AND NOT EXISTS (SELECT 1 FROM scopefloor.budget b WHERE b.scope_id = s.id)
      AND NOT EXISTS (SELECT 1 FROM scopefloor.scope_limit l WHERE l.scope_id = s.id)
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
  SET left_digest = scopefloor.scope_digest(t.root), root = jsonb_build_object('!erased', t.id::text),
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
BEGIN
  IF scopefloor.ticket()->>'mode' = 'erase' THEN
    WITH erased AS (
      UPDATE scopefloor.audit_entry e SET salt = NULL FROM changed c
      WHERE e.scope_id = c.scope_id AND e.source = TG_ARGV[0] AND e.id = c.id AND e.salt IS NOT NULL
      RETURNING e.tenant_id, e.scope_id, e.source, e.id, e.leaf)
    INSERT INTO scopefloor.audit_entry (tenant_id, scope_id, source, id, leaf, text_hash)
    SELECT d.tenant_id, d.scope_id, d.source || ' erased', d.id, sha256(convert_to(d.source || ' erased', 'UTF8') || d.leaf), '' FROM erased d;
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
-- src/db/sql/3_upkeep/5_reports.sql
-- What the reporting role reads (docs/reporting.md), and the housekeeping of traces. Each view runs as whoever
-- asks. `scope` is of type jsonb; scope @> '{"org": "acme"}' finds the rows of one org by an index.

-- Traces, without text. A trace of a scope that was erased has its marker.
CREATE OR REPLACE VIEW scopefloor.traces WITH (security_invoker = true) AS
SELECT s.tags AS scope, d.id, d.created_at, d.kind, d.operation, d.tenant_id, d.scope_id, d.api_key_id, d.principal, d.on_behalf_of, d.session_id,
       d.parent_id, d.tier, d.tier_reason, d.candidates, d.returned, d.provider, d.model, d.input_tokens, d.cached_input_tokens, d.output_tokens,
       d.embedding_tokens, d.total_tokens, d.saved_tokens, d.cost_usd, d.token_source, d.duration_ms, d.status, d.plan
FROM scopefloor.scope s JOIN scopefloor.decision_trace d ON d.scope_id = s.id;

-- Traces by hour: their sums, and those one by one that are in no sum yet. `calls` counts traces, `unpriced`
-- those of models without a price.
CREATE OR REPLACE VIEW scopefloor.usage_by_hour WITH (security_invoker = true) AS
SELECT u.hour, s.tags AS scope, u.scope_id, u.tenant_id, u.api_key_id, u.operation, nullif(u.provider, '') AS provider, nullif(u.model, '') AS model,
       nullif(u.tier, '') AS tier, u.status, u.calls, u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens,
       u.input_tokens + u.output_tokens + u.embedding_tokens AS total_tokens, u.saved_tokens, u.cost_usd, u.unpriced, u.duration_ms, u.last_at
FROM scopefloor.usage_hour u JOIN scopefloor.scope s ON s.id = u.scope_id
UNION ALL
SELECT date_trunc('hour', d.created_at, 'UTC'), s.tags, d.scope_id, d.tenant_id, d.api_key_id, d.operation, d.provider, d.model,
       d.tier, d.status, 1, d.input_tokens, d.cached_input_tokens, d.output_tokens, d.embedding_tokens,
       d.total_tokens, d.saved_tokens, coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int, d.duration_ms::numeric, d.created_at
FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id JOIN scopefloor.scope s ON s.id = e.scope_id
WHERE e.batch IS NULL AND e.source = 'trace';

-- The same by org and day (UTC), for reports over all of them.
CREATE OR REPLACE VIEW scopefloor.usage_by_org WITH (security_invoker = true) AS
SELECT u.day, n.root->>'org' AS org, u.tenant_id, u.operation, nullif(u.provider, '') AS provider, nullif(u.model, '') AS model, nullif(u.tier, '') AS tier, u.status,
       u.calls, u.input_tokens, u.cached_input_tokens, u.output_tokens, u.embedding_tokens, u.input_tokens + u.output_tokens + u.embedding_tokens AS total_tokens,
       u.saved_tokens, u.cost_usd, u.unpriced, u.duration_ms
FROM scopefloor.usage_day u JOIN scopefloor.tenant n ON n.id = u.tenant_id
UNION ALL
SELECT (d.created_at AT TIME ZONE 'UTC')::date, n.root->>'org', d.tenant_id, d.operation, d.provider, d.model, d.tier, d.status,
       1, d.input_tokens, d.cached_input_tokens, d.output_tokens, d.embedding_tokens, d.total_tokens,
       d.saved_tokens, coalesce(d.cost_usd, 0), (d.cost_usd IS NULL)::int, d.duration_ms::numeric
FROM scopefloor.audit_entry e JOIN scopefloor.decision_trace d ON d.scope_id = e.scope_id AND d.id = e.id JOIN scopefloor.tenant n ON n.id = d.tenant_id
WHERE e.batch IS NULL AND e.source = 'trace';

CREATE OR REPLACE VIEW scopefloor.usage_by_scope WITH (security_invoker = true) AS
SELECT u.scope_id, u.scope, sum(u.calls)::bigint AS calls,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens, sum(u.embedding_tokens)::bigint AS embedding_tokens,
       sum(u.total_tokens)::bigint AS total_tokens, sum(u.cost_usd) AS cost_usd, max(u.last_at) AS last_used_at
FROM scopefloor.usage_by_hour u GROUP BY u.scope_id, u.scope;

CREATE OR REPLACE VIEW scopefloor.usage_by_day WITH (security_invoker = true) AS
SELECT (u.hour AT TIME ZONE 'UTC')::date AS day, u.scope_id, u.scope, sum(u.calls)::bigint AS calls,
       sum(u.input_tokens)::bigint AS input_tokens, sum(u.output_tokens)::bigint AS output_tokens, sum(u.embedding_tokens)::bigint AS embedding_tokens,
       sum(u.total_tokens)::bigint AS total_tokens, sum(u.cost_usd) AS cost_usd
FROM scopefloor.usage_by_hour u GROUP BY 1, 2, 3;

-- Keys by name, without anything that opens one.
CREATE OR REPLACE VIEW scopefloor.key_names WITH (security_invoker = true) AS
SELECT k.id AS api_key_id, k.name, k.principal, k.floor AS scope, k.scope_id, k.tenant_id, k.verbs, k.created_at, k.last_used_at, k.expires_at, k.revoked_at
FROM scopefloor.api_key k;

-- Refused attempts with their reasons; what was asked is not told.
CREATE OR REPLACE VIEW scopefloor.denials WITH (security_invoker = true) AS
SELECT a.id, a.created_at, s.tags AS scope, a.scope_id, a.tenant_id, a.api_key_id, a.on_behalf_of, a.route, a.reason
FROM scopefloor.access_denied a JOIN scopefloor.scope s ON s.id = a.scope_id;

CREATE OR REPLACE VIEW scopefloor.storage_by_day WITH (security_invoker = true) AS
SELECT k.day, s.tags AS scope, k.scope_id, k.tenant_id, k.bytes, k.passages, k.cost_usd
FROM scopefloor.storage_day k JOIN scopefloor.scope s ON s.id = k.scope_id;

-- Budgets with what was spent in each of their periods.
CREATE OR REPLACE VIEW scopefloor.budgets WITH (security_invoker = true) AS
SELECT b.id, s.tags AS scope, b.scope_id, b.tenant_id, b.name, b.period, b.timezone, b.mode, b.token_limit, b.cost_limit AS cost_limit_usd, b.request_limit,
       b.more_tokens, b.more_cost AS more_cost_usd, b.more_until, w.starts, w.used_tokens, w.used_cost AS used_cost_usd, w.used_requests,
       w.held_tokens, w.held_cost AS held_cost_usd, w.held_requests
FROM scopefloor.budget b JOIN scopefloor.scope s ON s.id = b.scope_id
LEFT JOIN scopefloor.budget_window w ON w.scope_id = b.scope_id AND w.budget_id = b.id;

-- What was forgotten, by whom and how much of it. No ids of what it was.
CREATE OR REPLACE VIEW scopefloor.receipts WITH (security_invoker = true) AS
SELECT r.id, r.created_at, s.tags AS scope, r.scope_id, r.tenant_id, r.subtree, r.action, r.policy, r.counts, r.api_key_id
FROM scopefloor.forget_receipt r JOIN scopefloor.scope s ON s.id = r.scope_id;

-- DDL, so it runs as the one who calls it: the owner. Makes the partition of a month, moving there
-- what fell into the rest meanwhile.
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
  -- Before it is attached: a partition does not take the parent's.
  EXECUTE format('ALTER TABLE scopefloor.%I ALTER query SET STATISTICS 0, ALTER error SET STATISTICS 0, ALTER scope SET STATISTICS 0', name);
  EXECUTE format('ALTER TABLE scopefloor.decision_trace ATTACH PARTITION scopefloor.%I FOR VALUES FROM (%L) TO (%L)', name, lower, upper);
END $$;

-- Deletes what is over: erasures and share groups' times after a day, given-up jobs after 30 days, cached
-- and stored answers after 24 hours. Gives the number of stored answers.
CREATE OR REPLACE FUNCTION scopefloor.purge_old() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  purged int;
BEGIN
  DELETE FROM scopefloor.erasure WHERE at < now() - interval '1 day';
  DELETE FROM scopefloor.job_share WHERE taken_at < now() - interval '1 day';
  DELETE FROM scopefloor.job WHERE state = 'dead' AND run_after < now() - interval '30 days';
  DELETE FROM scopefloor.response_cache WHERE created_at < now() - interval '24 hours';
  DELETE FROM scopefloor.idempotency WHERE created_at < now() - interval '24 hours';
  GET DIAGNOSTICS purged = ROW_COUNT;
  RETURN purged;
END $$;

-- Rows that no scope explains, since their scope is not in the dictionary or was erased: by table how many,
-- and some of their ids. For a ticket that reads everything; of any other scope the policies show none.
CREATE OR REPLACE FUNCTION scopefloor.unscoped_content() RETURNS TABLE (name text, n bigint, samples jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  looked text;
BEGIN
  IF t IS NULL OR t->>'verb' <> 'memory:read' OR NOT (t->>'content')::bool THEN
    RAISE EXCEPTION 'scopefloor: no ticket for content' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF t->'floor' <> '{}' OR NOT coalesce((t->'read'->>'all')::bool, false) THEN
    RETURN;
  END IF;
  FOREACH looked IN ARRAY ARRAY['session', 'turn', 'passage', 'document', 'entity', 'attribute', 'relation', 'memory_item'] LOOP
    RETURN QUERY EXECUTE format(
      'SELECT %L, count(*), to_jsonb((array_agg(r.id ORDER BY r.id))[1:10]) FROM scopefloor.%I r
       WHERE r.scope_id NOT IN (SELECT s.id FROM scopefloor.scope s WHERE s.erased_at IS NULL) HAVING count(*) > 0', looked, looked);
  END LOOP;
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
    ('document', '{title,source,content_hash,labels,error}'),
    ('document_content', '{bytes}'),
    ('keyword', '{normalised,phrase}'),
    ('entity', '{name,type,identity,folded}'),
    ('attribute', '{key,normal_key,value,sentence,labels,terms,languages}'),
    ('relation', '{key,normal_key,sentence,labels,terms,languages}'),
    ('memory_item', '{key,value}'),
    ('idempotency', '{endpoint,key,answer}'),
    ('response_cache', '{answer,digest,version,scope_ids}'),
    ('decision_trace', '{query,error,scope}'),
    ('access_denied', '{asked,named,floor}'),
    ('forget_receipt', '{target,items}'),
    ('budget', '{name,set_by}'),
    ('scope_limit', '{set_by}'),
    ('budget_hold', '{operation}'),
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
    ('scope', 'read', 'SELECT', app,
     'id = ANY ((SELECT scopefloor.listable())::int[]) OR (SELECT scopefloor.lists_all())'
     || ' OR id = (SELECT scopefloor.insertable())' -- a key that only writes knows the scope it writes to
     || ' OR (id = 0 AND (SELECT scopefloor.caller()) IS NOT NULL)', NULL), -- the row of {} says nothing
    ('scope', 'change', 'UPDATE', app, 'id = (SELECT scopefloor.insertable())', 'id = (SELECT scopefloor.insertable())'),
    ('scope_counter', 'read', 'SELECT', app, knowledge, NULL),
    ('embedder', 'read', 'SELECT', service, 'true', NULL), -- models, no tenant's data

    ('session', 'read', 'SELECT', app, own, NULL),
    ('session', 'write', 'INSERT', app, NULL, by_caller),
    ('session', 'change', 'UPDATE', app, format(own_session, modifiable), format(own_session, modifiable)),
    ('session', 'remove', 'DELETE', app, format(own_session, forgotten), NULL),
    ('turn', 'read', 'SELECT', app, own, NULL),
    ('turn', 'write', 'INSERT', app, NULL, by_caller || ' AND session_id = (SELECT scopefloor.reserved_session())'),
    ('turn', 'change', 'UPDATE', app, modifiable, modifiable),
    ('turn', 'remove', 'DELETE', app, forgotten, NULL),

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
GRANT UPDATE (status, error, ready_version, content_hash, title, source, updated_at, processing_started_at, processing_completed_at)
  ON scopefloor.document TO scopefloor_app, scopefloor_worker;

-- The worker, inside a job.
GRANT SELECT, INSERT, DELETE ON scopefloor.passage, scopefloor.segment, scopefloor.posting_block, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band TO scopefloor_worker;
GRANT SELECT, DELETE ON scopefloor.document, scopefloor.entity, scopefloor.attribute, scopefloor.relation, scopefloor.memory_item
  TO scopefloor_worker;
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
GRANT SELECT (id, root, created_at) ON scopefloor.tenant TO scopefloor_report;
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
  callers constant jsonb := '{"add_document":["app"],"add_usage":[],"apply_stored":[],"audit_evidence":["app"],"authenticate":[],"begin_replay":["owner"],"bill":["app"],"billed_scopes":[],"budget_answer":[],"budgets_above":[],"cache_answer":["app"],"caller":["app","worker"],"caller_principal":["app","worker"],"change_verbs":["app"],"check_audit":["owner"],"check_room":[],"check_unchained":["owner"],"claim_idempotency":["app"],"configure_context":["app"],"context_created_at":["app"],"cost_of":[],"count_passages":[],"cut_before":[],"delegated_from":[],"deletes":["app","worker"],"descends_from":[],"drop_budget":["app"],"drop_cached_answers":["app"],"drop_limit":["app"],"drop_price":["app"],"embedders_in_use":["app"],"end_holds":["app"],"end_job_hold":["worker"],"end_over":[],"end_over_anywhere":["worker"],"end_over_within":["app"],"end_replay":["owner"],"enqueue":["app","worker"],"ensure_context":["owner"],"ensure_embedder":[],"ensure_entity":[],"ensure_scope":[],"ensure_tenant":[],"enter":["app"],"enter_job":["worker"],"erase_audited":[],"extend_job":["worker"],"extend_job_hold":["worker"],"fact_at":[],"finish_job":["worker"],"fold_calls":["app"],"fold_counters":["worker"],"fold_holds":["worker"],"fold_own_holds":["app"],"forget_facts":["app"],"forgets":["app"],"full_ticket":[],"handles_any_session":["app"],"has_first_key":[],"has_work":["app"],"hides_scopes":["app"],"hold_calls":["app"],"hold_entities":["app"],"hold_for_job":["worker"],"hold_placed":[],"hold_scope":[],"hold_segments":["worker"],"hold_tail":["worker"],"ids_in":[],"insertable":["app","worker"],"insertable_tenant":["app","worker"],"issue_ticket":[],"job_ticket":[],"join_tail":[],"journal_lines":["owner"],"keep_hold":[],"kept_below":[],"key_row":[],"key_ticket":[],"known_key":["app"],"known_keys":["app"],"knows_lines":["app"],"lacks_hold":[],"lexical_state":["app","worker"],"limit_answer":[],"list_budgets":["app"],"list_keys":["app"],"list_limits":["app"],"list_prices":["app"],"listable":["app"],"lists_all":["app"],"live_key":[],"live_keys":[],"live_scopes":[],"lock_rates":[],"lock_windows":[],"lookup_hashes":["app","worker"],"mark_records":[],"may_manage":[],"may_record":["app","worker"],"mint_key":["app"],"model_price":[],"modifiable":["app","worker"],"modifies_all":["app","worker"],"named_key":[],"named_scopes":["owner"],"note_audit":[],"note_kept":[],"note_replayed":["owner"],"note_stored":[],"note_vector_index":["worker"],"observation_beside":[],"open_session":["app"],"open_window":[],"operator_ticket":[],"order_embedding":["app"],"order_job":[],"over_rate":[],"own_keys":["app"],"own_share_group":["app"],"pending_documents":["app"],"permit":[],"postpone_job":["worker"],"price_trace":[],"principal_of":["app"],"purge_old":["worker"],"put_block":[],"put_item":["app"],"put_observation":[],"put_triples":["app"],"queue_depth":["app","worker"],"rates_above":[],"reach_of":[],"readable":["app","worker"],"readable_own":["app"],"reads_all":["app","worker"],"recall_facts":[],"recall_state":["app"],"record_denial":["app"],"record_lost_call":["worker"],"record_spent":["app"],"recover_first_key":["owner"],"recover_jobs":["worker"],"redact_denials":[],"register_embedder":["owner"],"relink_documents":["app"],"replace_document":["app"],"requeue_job":[],"reserve_turns":["app"],"reserved_session":["app"],"resolve_clauses":[],"resolve_place":[],"respell_facts":["worker"],"retire_scopes":["app"],"revoke_delegates":[],"revoke_key":["app"],"rotate_key":["app"],"rotate_ticket_secret":["owner"],"rows_are_there":[],"rule_ticket":[],"sample_storage":["worker"],"scope_hash":[],"seal_audit":["worker"],"set_budget":["app"],"set_first_key":["owner"],"set_limit":["app"],"set_lookup":[],"set_price":["app"],"settle_facts":[],"share_group_of":[],"short_of":[],"shortage_answer":[],"sign_ticket":[],"store_answer":["app"],"stored_answer":["app"],"stored_bytes":[],"take_job":["worker"],"take_out":[],"tell_thresholds":[],"tenant_lines":[],"tenant_use":["app"],"ticket":[],"told_rates":[],"touch_key":["app"],"trace_lines":[],"try_write":["app"],"unindex_passages":[],"unknown_lines":["owner"],"unscoped_content":["app"],"unsummed_lines":[],"usage":["app"],"usage_lines":[],"vector_index_work":["worker"],"was_erased":[],"watch_tail":[],"windows_for":[],"word_secret":[],"write_rates":[],"write_receipt":["app"],"write_ticket":[],"write_windows":[]}';
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
