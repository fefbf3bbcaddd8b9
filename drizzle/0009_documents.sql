CREATE TABLE "scopefloor"."attribute" (
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
	CONSTRAINT "attribute_scope_id_id_pk" PRIMARY KEY("scope_id","id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."chunk_band" (
	"scope_id" integer NOT NULL,
	"band" integer NOT NULL,
	"passage_id" uuid NOT NULL,
	CONSTRAINT "chunk_band_scope_id_band_passage_id_pk" PRIMARY KEY("scope_id","band","passage_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."document" (
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
	CONSTRAINT "document_scope_id_id_pk" PRIMARY KEY("scope_id","id"),
	CONSTRAINT "document_hash" UNIQUE("scope_id","content_hash")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."document_content" (
	"scope_id" integer NOT NULL,
	"document_id" uuid NOT NULL,
	"version" integer NOT NULL,
	"part" integer NOT NULL,
	"bytes" "bytea" NOT NULL,
	CONSTRAINT "document_content_scope_id_document_id_version_part_pk" PRIMARY KEY("scope_id","document_id","version","part")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."document_link" (
	"scope_id" integer NOT NULL,
	"from_id" uuid NOT NULL,
	"to_id" uuid NOT NULL,
	"weight" real NOT NULL,
	CONSTRAINT "document_link_scope_id_from_id_to_id_pk" PRIMARY KEY("scope_id","from_id","to_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."entity" (
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"type" text NOT NULL,
	"name" text NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "entity_scope_id_id_pk" PRIMARY KEY("scope_id","id"),
	CONSTRAINT "entity_name" UNIQUE("scope_id","type","name")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."job" (
	"scope_id" integer NOT NULL,
	"id" uuid NOT NULL,
	"kind" text NOT NULL,
	"document_id" uuid,
	"version" integer,
	"api_key_id" uuid NOT NULL,
	"principal" text NOT NULL,
	"on_behalf_of" uuid,
	"epoch" integer NOT NULL,
	"floor_hash" bigint NOT NULL,
	"state" text DEFAULT 'queued' NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"run_after" timestamp with time zone DEFAULT now() NOT NULL,
	"lease" uuid,
	"leased_until" timestamp with time zone,
	"error" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "job_scope_id_id_pk" PRIMARY KEY("scope_id","id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."job_turn" (
	"floor_hash" bigint PRIMARY KEY NOT NULL,
	"taken_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."keyword" (
	"scope_id" integer NOT NULL,
	"document_id" uuid NOT NULL,
	"normalised" text NOT NULL,
	"phrase" text NOT NULL,
	"score" real NOT NULL,
	"count" integer NOT NULL,
	CONSTRAINT "keyword_scope_id_document_id_normalised_pk" PRIMARY KEY("scope_id","document_id","normalised")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."memory_item" (
	"scope_id" integer NOT NULL,
	"key" text NOT NULL,
	"id" uuid NOT NULL,
	"value" jsonb NOT NULL,
	"api_key_id" uuid NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "memory_item_scope_id_key_pk" PRIMARY KEY("scope_id","key")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."relation" (
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
	CONSTRAINT "relation_scope_id_id_pk" PRIMARY KEY("scope_id","id")
);
--> statement-breakpoint
ALTER TABLE "scopefloor"."decision_trace" ADD COLUMN "token_source" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "document_id" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "position" integer;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "section" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "char_start" integer;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "char_end" integer;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "duplicate_of" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."scope_counter" ADD COLUMN "embedder_id" integer;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD CONSTRAINT "attribute_scope_id_entity_id_entity_scope_id_id_fk" FOREIGN KEY ("scope_id","entity_id") REFERENCES "scopefloor"."entity"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."chunk_band" ADD CONSTRAINT "chunk_band_scope_id_passage_id_passage_scope_id_id_fk" FOREIGN KEY ("scope_id","passage_id") REFERENCES "scopefloor"."passage"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."document_content" ADD CONSTRAINT "document_content_scope_id_document_id_document_scope_id_id_fk" FOREIGN KEY ("scope_id","document_id") REFERENCES "scopefloor"."document"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."document_link" ADD CONSTRAINT "document_link_from_fk" FOREIGN KEY ("scope_id","from_id") REFERENCES "scopefloor"."document"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."document_link" ADD CONSTRAINT "document_link_to_fk" FOREIGN KEY ("scope_id","to_id") REFERENCES "scopefloor"."document"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."keyword" ADD CONSTRAINT "keyword_scope_id_document_id_document_scope_id_id_fk" FOREIGN KEY ("scope_id","document_id") REFERENCES "scopefloor"."document"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD CONSTRAINT "relation_entity_fk" FOREIGN KEY ("scope_id","entity_id") REFERENCES "scopefloor"."entity"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD CONSTRAINT "relation_target_fk" FOREIGN KEY ("scope_id","target_id") REFERENCES "scopefloor"."entity"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "attribute_key" ON "scopefloor"."attribute" USING btree ("scope_id","entity_id","key");--> statement-breakpoint
CREATE INDEX "chunk_band_passage" ON "scopefloor"."chunk_band" USING btree ("scope_id","passage_id");--> statement-breakpoint
CREATE INDEX "document_id" ON "scopefloor"."document" USING btree ("id");--> statement-breakpoint
CREATE INDEX "document_recent" ON "scopefloor"."document" USING btree ("scope_id","created_at");--> statement-breakpoint
CREATE INDEX "document_link_to" ON "scopefloor"."document_link" USING btree ("scope_id","to_id");--> statement-breakpoint
CREATE INDEX "entity_id" ON "scopefloor"."entity" USING btree ("id");--> statement-breakpoint
CREATE INDEX "job_id" ON "scopefloor"."job" USING btree ("id");--> statement-breakpoint
CREATE INDEX "job_due" ON "scopefloor"."job" USING btree ("state","floor_hash","run_after");--> statement-breakpoint
CREATE INDEX "job_document" ON "scopefloor"."job" USING btree ("scope_id","document_id");--> statement-breakpoint
CREATE INDEX "keyword_normalised" ON "scopefloor"."keyword" USING btree ("scope_id","normalised");--> statement-breakpoint
CREATE INDEX "relation_key" ON "scopefloor"."relation" USING btree ("scope_id","entity_id","key");--> statement-breakpoint
CREATE INDEX "relation_target" ON "scopefloor"."relation" USING btree ("scope_id","target_id");--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD CONSTRAINT "passage_scope_id_document_id_document_scope_id_id_fk" FOREIGN KEY ("scope_id","document_id") REFERENCES "scopefloor"."document"("scope_id","id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "passage_document" ON "scopefloor"."passage" USING btree ("scope_id","document_id","position");--> statement-breakpoint
ALTER TABLE "scopefloor"."embedder" ADD COLUMN "near_distance" real DEFAULT 0.5 NOT NULL;
