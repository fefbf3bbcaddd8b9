ALTER TABLE "scopefloor"."embedder" ADD COLUMN "is_dense" boolean GENERATED ALWAYS AS (name LIKE '%:%') STORED;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "code" bit varying;--> statement-breakpoint
ALTER TABLE scopefloor.passage ALTER code SET STATISTICS 0;
--> statement-breakpoint
-- A code follows its vector whoever writes it, so that none is missing beside a version of the service
-- that knows nothing of codes.
CREATE FUNCTION scopefloor.set_code() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$ -- pgvector is in one of the first two
BEGIN
  NEW.code := CASE WHEN NEW.embedding IS NOT NULL AND (SELECT e.is_dense FROM scopefloor.embedder e WHERE e.id = NEW.embedder_id)
    THEN binary_quantize(NEW.embedding) END;
  RETURN NEW;
END $$;
--> statement-breakpoint
REVOKE ALL ON FUNCTION scopefloor.set_code() FROM PUBLIC;
--> statement-breakpoint
CREATE TRIGGER set_code BEFORE INSERT OR UPDATE OF embedding, embedder_id, code ON scopefloor.passage
FOR EACH ROW EXECUTE FUNCTION scopefloor.set_code();
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
UPDATE scopefloor.passage p SET code = NULL FROM scopefloor.embedder e WHERE e.id = p.embedder_id AND e.is_dense AND p.embedding IS NOT NULL;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
-- Holds all that a ranking by codes reads, a tenth of the vectors' size.
CREATE INDEX passage_code ON scopefloor.passage (scope_id, embedder_id) INCLUDE (id, code) WHERE expired_at IS NULL AND code IS NOT NULL;
