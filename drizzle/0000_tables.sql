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
  -- Reports name decision_trace without its schema; the service itself sets its own search_path.
  EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, scopefloor', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not the database''s owner: TEMPORARY stays granted to PUBLIC, and reports must name scopefloor.decision_trace';
END $$;

DO $$
DECLARE
  f regprocedure;
BEGIN
  -- Large objects know no row security: nobody here needs them, and they would carry text from one
  -- transaction into another.
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
           AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lo_get', 'lo_open', 'lowrite', 'loread') LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not a superuser: large objects stay open to PUBLIC';
END $$;

--> statement-breakpoint
CREATE SEQUENCE "scopefloor"."change_number" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1;--> statement-breakpoint
CREATE TABLE "scopefloor"."idempotency" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"api_key_id" uuid NOT NULL,
	"endpoint" text NOT NULL,
	"key" text NOT NULL,
	"body_hash" "bytea" NOT NULL,
	"answer" jsonb,
	"row_ids" uuid[],
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "idempotency_api_key_id_endpoint_key_pk" PRIMARY KEY("api_key_id","endpoint","key")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."response_cache" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"digest" "bytea" NOT NULL,
	"version" text NOT NULL,
	"scope_ids" integer[] DEFAULT '{}' NOT NULL,
	"answer" jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "response_cache_scope_id_digest_tenant_id_pk" PRIMARY KEY("scope_id","digest","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."document" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"api_key_id" uuid NOT NULL,
	"title" text NOT NULL,
	"source" text,
	"mime_type" text NOT NULL,
	"size_bytes" integer NOT NULL,
	"content_hash" text,
	"labels" text[] DEFAULT '{}' NOT NULL,
	"status" text DEFAULT 'queued' NOT NULL,
	"error" text,
	"version" integer DEFAULT 1 NOT NULL,
	"ready_version" integer,
	"observed_at" timestamp with time zone NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	"processing_started_at" timestamp with time zone,
	"processing_completed_at" timestamp with time zone,
	CONSTRAINT "document_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "document_hash" UNIQUE("scope_id","content_hash","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."document_content" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"document_id" uuid NOT NULL,
	"version" integer NOT NULL,
	"part" integer NOT NULL,
	"bytes" "bytea" NOT NULL,
	CONSTRAINT "document_content_scope_id_document_id_version_part_tenant_id_pk" PRIMARY KEY("scope_id","document_id","version","part","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."document_link" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"from_id" uuid NOT NULL,
	"to_id" uuid NOT NULL,
	"weight" real NOT NULL,
	CONSTRAINT "document_link_scope_id_from_id_to_id_tenant_id_pk" PRIMARY KEY("scope_id","from_id","to_id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."keyword" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"document_id" uuid NOT NULL,
	"normalised" text NOT NULL,
	"phrase" text NOT NULL,
	"score" real NOT NULL,
	"count" integer NOT NULL,
	CONSTRAINT "keyword_scope_id_document_id_normalised_tenant_id_pk" PRIMARY KEY("scope_id","document_id","normalised","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."api_key" (
	"id" uuid PRIMARY KEY NOT NULL,
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"parent_id" uuid,
	"name" text NOT NULL,
	"principal" text NOT NULL,
	"floor" jsonb NOT NULL,
	"verbs" text[] NOT NULL,
	"content" boolean DEFAULT true NOT NULL,
	"secret_hash" "bytea" NOT NULL,
	"previous_hash" "bytea",
	"previous_until" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone,
	"revoked_at" timestamp with time zone,
	"last_used_at" timestamp with time zone,
	"changed_at" timestamp with time zone,
	CONSTRAINT "api_key_secret_hash_unique" UNIQUE("secret_hash")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."context" (
	"id" text PRIMARY KEY NOT NULL,
	"config" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."embedder" (
	"id" integer PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"dimensions" integer NOT NULL,
	"near_distance" real DEFAULT 0.5 NOT NULL,
	"is_dense" boolean GENERATED ALWAYS AS (name LIKE '%:%') STORED,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "embedder_name_unique" UNIQUE("name")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."ticket_secret" (
	"id" integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY (sequence name "scopefloor"."ticket_secret_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"inner_pad" "bytea" NOT NULL,
	"outer_pad" "bytea" NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."chunk_band" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"band" integer NOT NULL,
	"passage_id" uuid NOT NULL,
	CONSTRAINT "chunk_band_scope_id_band_passage_id_tenant_id_pk" PRIMARY KEY("scope_id","band","passage_id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."passage" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"kind" text NOT NULL,
	"session_id" uuid,
	"turn_id" uuid,
	"api_key_id" uuid NOT NULL,
	"role" text,
	"text" text NOT NULL,
	"labels" text[] DEFAULT '{}' NOT NULL,
	"category" text,
	"tokens" integer NOT NULL,
	"lexemes" integer NOT NULL,
	"embedding" halfvec,
	"embedder_id" integer,
	"code" bit varying,
	"observed_at" timestamp with time zone NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expired_at" timestamp with time zone,
	"position" integer,
	"document_id" uuid,
	"section" text,
	"char_start" integer,
	"char_end" integer,
	"duplicate_of" uuid,
	CONSTRAINT "passage_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."posting" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"lexeme" text NOT NULL,
	"passage_id" uuid NOT NULL,
	"tf" smallint NOT NULL,
	"lexemes" integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."session" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"api_key_id" uuid NOT NULL,
	"metadata" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"next_seq" integer DEFAULT 0 NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"closed_at" timestamp with time zone,
	CONSTRAINT "session_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."turn" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"session_id" uuid NOT NULL,
	"api_key_id" uuid NOT NULL,
	"role" text NOT NULL,
	"content" text NOT NULL,
	"seq" integer NOT NULL,
	"observed_at" timestamp with time zone NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expired_at" timestamp with time zone,
	CONSTRAINT "turn_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "turn_seq" UNIQUE("scope_id","session_id","seq","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."vector_index" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"embedder_id" integer NOT NULL,
	"ready" boolean DEFAULT false NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "vector_index_scope_id_embedder_id_tenant_id_pk" PRIMARY KEY("scope_id","embedder_id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."job" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"kind" text NOT NULL,
	"document_id" uuid,
	"version" integer,
	"api_key_id" uuid NOT NULL,
	"principal" text NOT NULL,
	"on_behalf_of" uuid,
	"epoch" integer NOT NULL,
	"share_group" bigint NOT NULL,
	"state" text DEFAULT 'queued' NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"run_after" timestamp with time zone DEFAULT now() NOT NULL,
	"lease" uuid,
	"leased_until" timestamp with time zone,
	"error" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "job_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."job_share" (
	"share_group" bigint PRIMARY KEY NOT NULL,
	"taken_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."access_denied" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"api_key_id" uuid NOT NULL,
	"floor" jsonb NOT NULL,
	"asked" jsonb,
	"on_behalf_of" text,
	"route" text NOT NULL,
	"reason" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "access_denied_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."audit_batch" (
	"n" bigint PRIMARY KEY NOT NULL,
	"entries" integer NOT NULL,
	"digest" "bytea" NOT NULL,
	"hash" "bytea" NOT NULL,
	"sealed_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."audit_entry" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"source" text NOT NULL,
	"id" uuid NOT NULL,
	"batch" bigint,
	"leaf" "bytea" NOT NULL,
	"text_hash" "bytea" NOT NULL,
	"salt" "bytea",
	CONSTRAINT "audit_entry_scope_id_source_id_tenant_id_pk" PRIMARY KEY("scope_id","source","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."decision_trace" (
	"id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"kind" text NOT NULL,
	"operation" text NOT NULL,
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"scope" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"principal" text NOT NULL,
	"on_behalf_of" uuid,
	"session_id" uuid,
	"parent_id" uuid,
	"query" text,
	"tier" text,
	"tier_reason" text,
	"sources" jsonb,
	"candidates" integer,
	"returned" integer,
	"provider" text,
	"model" text,
	"input_tokens" integer DEFAULT 0 NOT NULL,
	"output_tokens" integer DEFAULT 0 NOT NULL,
	"embedding_tokens" integer DEFAULT 0 NOT NULL,
	"total_tokens" integer GENERATED ALWAYS AS (input_tokens + output_tokens + embedding_tokens) STORED NOT NULL,
	"cost_usd" numeric,
	"duration_ms" real NOT NULL,
	"status" text NOT NULL,
	"error" text,
	"token_source" text,
	"saved_tokens" integer DEFAULT 0 NOT NULL,
	"plan" text,
	CONSTRAINT "decision_trace_scope_id_id_created_at_tenant_id_pk" PRIMARY KEY("scope_id","id","created_at","tenant_id"),
	CONSTRAINT "decision_trace_tokens" CHECK ("scopefloor"."decision_trace"."input_tokens" >= 0 AND "scopefloor"."decision_trace"."output_tokens" >= 0 AND "scopefloor"."decision_trace"."embedding_tokens" >= 0),
	CONSTRAINT "decision_trace_cost" CHECK ("scopefloor"."decision_trace"."cost_usd" >= 0)
) PARTITION BY RANGE ("created_at");
--> statement-breakpoint
CREATE TABLE "scopefloor"."erasure" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"hash" bigint NOT NULL,
	"at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."forget_receipt" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"target" jsonb NOT NULL,
	"subtree" boolean NOT NULL,
	"action" text NOT NULL,
	"policy" text NOT NULL,
	"counts" jsonb NOT NULL,
	"items" jsonb,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "forget_receipt_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."scope" (
	"id" integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY (sequence name "scopefloor"."scope_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"tenant_id" integer NOT NULL,
	"tags" jsonb NOT NULL,
	"epoch" integer DEFAULT 0 NOT NULL,
	"display_name" text,
	"description" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"tombstoned_at" timestamp with time zone,
	"erased_at" timestamp with time zone,
	CONSTRAINT "scope_tags_unique" UNIQUE("tags")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."scope_counter" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid DEFAULT gen_random_uuid() NOT NULL,
	"embedder_id" integer,
	"passages" bigint NOT NULL,
	"tokens" bigint NOT NULL,
	"lexemes" bigint NOT NULL,
	"bytes" bigint NOT NULL,
	"change" numeric DEFAULT nextval('scopefloor.change_number') NOT NULL,
	CONSTRAINT "scope_counter_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."tenant" (
	"id" integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY (sequence name "scopefloor"."tenant_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"root" jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "tenant_root_unique" UNIQUE("root")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."attribute" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"entity_id" uuid NOT NULL,
	"key" text NOT NULL,
	"category" text,
	"valid_from" timestamp with time zone NOT NULL,
	"valid_until" timestamp with time zone,
	"superseded_by" uuid,
	"closed_at" timestamp with time zone,
	"session_id" uuid,
	"turn_id" uuid,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expired_at" timestamp with time zone,
	"value" jsonb NOT NULL,
	CONSTRAINT "attribute_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."entity" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"type" text NOT NULL,
	"name" text NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "entity_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id"),
	CONSTRAINT "entity_name" UNIQUE("scope_id","type","name","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."memory_item" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"key" text NOT NULL,
	"id" uuid NOT NULL,
	"value" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "memory_item_scope_id_key_tenant_id_pk" PRIMARY KEY("scope_id","key","tenant_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."relation" (
	"tenant_id" integer NOT NULL,
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"entity_id" uuid NOT NULL,
	"key" text NOT NULL,
	"category" text,
	"valid_from" timestamp with time zone NOT NULL,
	"valid_until" timestamp with time zone,
	"superseded_by" uuid,
	"closed_at" timestamp with time zone,
	"session_id" uuid,
	"turn_id" uuid,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expired_at" timestamp with time zone,
	"target_id" uuid NOT NULL,
	CONSTRAINT "relation_scope_id_id_tenant_id_pk" PRIMARY KEY("scope_id","id","tenant_id")
);
--> statement-breakpoint
ALTER TABLE "scopefloor"."document_content" ADD CONSTRAINT "document_content_scope_id_document_id_tenant_id_document_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","document_id","tenant_id") REFERENCES "scopefloor"."document"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."document_link" ADD CONSTRAINT "document_link_from_fk" FOREIGN KEY ("scope_id","from_id","tenant_id") REFERENCES "scopefloor"."document"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."document_link" ADD CONSTRAINT "document_link_to_fk" FOREIGN KEY ("scope_id","to_id","tenant_id") REFERENCES "scopefloor"."document"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."keyword" ADD CONSTRAINT "keyword_scope_id_document_id_tenant_id_document_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","document_id","tenant_id") REFERENCES "scopefloor"."document"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."chunk_band" ADD CONSTRAINT "chunk_band_scope_id_passage_id_tenant_id_passage_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","passage_id","tenant_id") REFERENCES "scopefloor"."passage"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD CONSTRAINT "passage_scope_id_document_id_tenant_id_document_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","document_id","tenant_id") REFERENCES "scopefloor"."document"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD CONSTRAINT "passage_scope_id_turn_id_tenant_id_turn_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","turn_id","tenant_id") REFERENCES "scopefloor"."turn"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."posting" ADD CONSTRAINT "posting_scope_id_passage_id_tenant_id_passage_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","passage_id","tenant_id") REFERENCES "scopefloor"."passage"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."turn" ADD CONSTRAINT "turn_scope_id_session_id_tenant_id_session_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","session_id","tenant_id") REFERENCES "scopefloor"."session"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."scope" ADD CONSTRAINT "scope_tenant_id_tenant_id_fk" FOREIGN KEY ("tenant_id") REFERENCES "scopefloor"."tenant"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD CONSTRAINT "attribute_scope_id_entity_id_tenant_id_entity_scope_id_id_tenant_id_fk" FOREIGN KEY ("scope_id","entity_id","tenant_id") REFERENCES "scopefloor"."entity"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD CONSTRAINT "relation_entity_fk" FOREIGN KEY ("scope_id","entity_id","tenant_id") REFERENCES "scopefloor"."entity"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD CONSTRAINT "relation_target_fk" FOREIGN KEY ("scope_id","target_id","tenant_id") REFERENCES "scopefloor"."entity"("scope_id","id","tenant_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "idempotency_scope" ON "scopefloor"."idempotency" USING btree ("scope_id");--> statement-breakpoint
CREATE INDEX "idempotency_age" ON "scopefloor"."idempotency" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "response_cache_age" ON "scopefloor"."response_cache" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "response_cache_scopes" ON "scopefloor"."response_cache" USING gin ("scope_ids");--> statement-breakpoint
CREATE INDEX "document_id" ON "scopefloor"."document" USING btree ("id");--> statement-breakpoint
CREATE INDEX "document_recent" ON "scopefloor"."document" USING btree ("scope_id","created_at");--> statement-breakpoint
CREATE INDEX "document_link_to" ON "scopefloor"."document_link" USING btree ("scope_id","to_id");--> statement-breakpoint
CREATE INDEX "keyword_normalised" ON "scopefloor"."keyword" USING btree ("scope_id","normalised");--> statement-breakpoint
CREATE INDEX "api_key_previous_hash" ON "scopefloor"."api_key" USING btree ("previous_hash") WHERE previous_hash IS NOT NULL;--> statement-breakpoint
CREATE INDEX "api_key_parent" ON "scopefloor"."api_key" USING btree ("parent_id","created_at");--> statement-breakpoint
CREATE INDEX "api_key_scope" ON "scopefloor"."api_key" USING btree ("scope_id");--> statement-breakpoint
CREATE INDEX "chunk_band_passage" ON "scopefloor"."chunk_band" USING btree ("scope_id","passage_id");--> statement-breakpoint
CREATE INDEX "passage_id" ON "scopefloor"."passage" USING btree ("id");--> statement-breakpoint
CREATE INDEX "passage_recent" ON "scopefloor"."passage" USING btree ("scope_id","observed_at");--> statement-breakpoint
CREATE INDEX "passage_turn" ON "scopefloor"."passage" USING btree ("scope_id","turn_id");--> statement-breakpoint
CREATE INDEX "passage_document" ON "scopefloor"."passage" USING btree ("scope_id","document_id","position");--> statement-breakpoint
CREATE INDEX "passage_session" ON "scopefloor"."passage" USING btree ("scope_id","session_id","position");--> statement-breakpoint
CREATE INDEX "posting_passage" ON "scopefloor"."posting" USING btree ("scope_id","passage_id");--> statement-breakpoint
CREATE INDEX "session_id" ON "scopefloor"."session" USING btree ("id");--> statement-breakpoint
CREATE INDEX "session_recent" ON "scopefloor"."session" USING btree ("scope_id","created_at");--> statement-breakpoint
CREATE INDEX "turn_id" ON "scopefloor"."turn" USING btree ("id");--> statement-breakpoint
CREATE INDEX "job_id" ON "scopefloor"."job" USING btree ("id");--> statement-breakpoint
CREATE INDEX "job_due" ON "scopefloor"."job" USING btree ("state","share_group","run_after");--> statement-breakpoint
CREATE INDEX "job_document" ON "scopefloor"."job" USING btree ("scope_id","document_id");--> statement-breakpoint
CREATE INDEX "access_denied_recent" ON "scopefloor"."access_denied" USING btree ("scope_id","created_at");--> statement-breakpoint
CREATE INDEX "audit_entry_batch" ON "scopefloor"."audit_entry" USING btree ("batch");--> statement-breakpoint
CREATE INDEX "decision_trace_id" ON "scopefloor"."decision_trace" USING btree ("id");--> statement-breakpoint
CREATE INDEX "decision_trace_recent" ON "scopefloor"."decision_trace" USING btree ("scope_id","created_at");--> statement-breakpoint
CREATE INDEX "decision_trace_time" ON "scopefloor"."decision_trace" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "erasure_hash" ON "scopefloor"."erasure" USING btree ("hash","at");--> statement-breakpoint
CREATE INDEX "erasure_at" ON "scopefloor"."erasure" USING btree ("at");--> statement-breakpoint
CREATE INDEX "forget_receipt_id" ON "scopefloor"."forget_receipt" USING btree ("id");--> statement-breakpoint
CREATE INDEX "scope_tenant" ON "scopefloor"."scope" USING btree ("tenant_id");--> statement-breakpoint
CREATE INDEX "scope_tags_subtree" ON "scopefloor"."scope" USING gin ("tags" jsonb_path_ops);--> statement-breakpoint
CREATE INDEX "scope_without_org" ON "scopefloor"."scope" USING btree ("id") WHERE NOT "scopefloor"."scope"."tags" ? 'org';--> statement-breakpoint
CREATE INDEX "attribute_key" ON "scopefloor"."attribute" USING btree ("scope_id","entity_id","key");--> statement-breakpoint
CREATE INDEX "entity_id" ON "scopefloor"."entity" USING btree ("id");--> statement-breakpoint
CREATE INDEX "relation_key" ON "scopefloor"."relation" USING btree ("scope_id","entity_id","key");--> statement-breakpoint
CREATE INDEX "relation_target" ON "scopefloor"."relation" USING btree ("scope_id","target_id");