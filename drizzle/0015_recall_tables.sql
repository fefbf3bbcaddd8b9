-- A number of its own for each change of a scope's passages.
CREATE SEQUENCE "scopefloor"."change_number";
--> statement-breakpoint
CREATE TABLE "scopefloor"."vector_index" (
	"scope_id" integer NOT NULL,
	"embedder_id" integer NOT NULL,
	"ready" boolean DEFAULT false NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "vector_index_scope_id_embedder_id_pk" PRIMARY KEY("scope_id","embedder_id")
);
--> statement-breakpoint
CREATE TABLE "scopefloor"."response_cache" (
	"scope_id" integer NOT NULL,
	"digest" "bytea" NOT NULL,
	"version" text NOT NULL,
	"answer" jsonb NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "response_cache_scope_id_digest_pk" PRIMARY KEY("scope_id","digest")
);
--> statement-breakpoint
ALTER TABLE "scopefloor"."decision_trace" ADD COLUMN "saved_tokens" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."decision_trace" ADD COLUMN "plan" text;--> statement-breakpoint
ALTER TABLE "scopefloor"."scope_counter" ADD COLUMN "change" numeric DEFAULT nextval('scopefloor.change_number') NOT NULL;--> statement-breakpoint
CREATE INDEX "response_cache_age" ON "scopefloor"."response_cache" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "passage_session" ON "scopefloor"."passage" USING btree ("scope_id","session_id","position");
