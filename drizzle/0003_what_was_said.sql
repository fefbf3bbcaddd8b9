DROP INDEX "scopefloor"."attribute_key";--> statement-breakpoint
DROP INDEX "scopefloor"."relation_key";--> statement-breakpoint
ALTER TABLE "scopefloor"."response_cache" ADD COLUMN "good_until" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "digest" "bytea";--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "starts_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "ends_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."passage" ADD COLUMN "suspicious" text[] DEFAULT '{}' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "normal_key" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "sentence" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "tokens" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "labels" text[] DEFAULT '{}' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "observation_id" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "is_confirmation" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "ends_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "cut_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ADD COLUMN "cut_known_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."entity" ADD COLUMN "identity" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."entity" ADD COLUMN "folded" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."entity" ADD COLUMN "folded_hash" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "normal_key" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "sentence" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "tokens" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "labels" text[] DEFAULT '{}' NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "observation_id" uuid;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "is_confirmation" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "ends_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "cut_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ADD COLUMN "cut_known_at" timestamp with time zone;--> statement-breakpoint
-- What is there already: names and keys stand as they are until their scope's job brings them up
-- (src/jobs/bring-up.ts), a fact's words are those of its passage, and each row is an observation.
UPDATE "scopefloor"."entity" e SET "identity" = e.type || chr(31) || e.name, "folded" = lower(e.name),
  "folded_hash" = scopefloor.word_hash(scopefloor.word_secret(e.tenant_id, e.scope_id), lower(e.name));
--> statement-breakpoint
UPDATE "scopefloor"."attribute" a SET "normal_key" = a.key, "observation_id" = a.id, "labels" = coalesce(p.labels, '{}'), "tokens" = coalesce(p.tokens, 0),
  "sentence" = coalesce(p.text, e.name || ': ' || regexp_replace(a.key, '[_-]+', ' ', 'g') || ': ' || (a.value #>> '{}'))
FROM "scopefloor"."attribute" b JOIN "scopefloor"."entity" e ON e.scope_id = b.scope_id AND e.id = b.entity_id
LEFT JOIN "scopefloor"."passage" p ON p.scope_id = b.scope_id AND p.id = b.id
WHERE a.scope_id = b.scope_id AND a.id = b.id;
--> statement-breakpoint
UPDATE "scopefloor"."relation" r SET "normal_key" = r.key, "labels" = coalesce(p.labels, '{}'), "tokens" = coalesce(p.tokens, 0),
  "sentence" = coalesce(p.text, e.name || ' ' || regexp_replace(r.key, '[_-]+', ' ', 'g') || ' ' || o.name), "observation_id" = g.first
FROM (SELECT b.*, (min(b.id::text) OVER (PARTITION BY b.scope_id, b.entity_id, b.key_hash, b.valid_from, b.created_at))::uuid AS first FROM "scopefloor"."relation" b) g
JOIN "scopefloor"."entity" e ON e.scope_id = g.scope_id AND e.id = g.entity_id
JOIN "scopefloor"."entity" o ON o.scope_id = g.scope_id AND o.id = g.target_id
LEFT JOIN "scopefloor"."passage" p ON p.scope_id = g.scope_id AND p.id = g.id
WHERE r.scope_id = g.scope_id AND r.id = g.id;
--> statement-breakpoint
-- A target that was said again with others was not stored again: it confirms the fact that is there.
INSERT INTO "scopefloor"."relation" (tenant_id, scope_id, id, entity_id, target_id, key, normal_key, key_hash, category, sentence, tokens, labels,
  valid_from, observation_id, is_confirmation, session_id, turn_id, api_key_id, created_at)
SELECT r.tenant_id, r.scope_id, gen_random_uuid(), r.entity_id, r.target_id, r.key, r.normal_key, r.key_hash, r.category, r.sentence, r.tokens, r.labels,
  g.valid_from, g.observation_id, true, r.session_id, r.turn_id, r.api_key_id, g.created_at
FROM "scopefloor"."relation" r
JOIN (SELECT DISTINCT scope_id, entity_id, key_hash, valid_from, observation_id, created_at FROM "scopefloor"."relation" WHERE expired_at IS NULL) g
  ON g.scope_id = r.scope_id AND g.entity_id = r.entity_id AND g.key_hash = r.key_hash
  AND (g.valid_from, g.observation_id) > (r.valid_from, r.observation_id)
WHERE r.expired_at IS NULL AND (r.valid_until > g.valid_from) IS NOT FALSE
  AND NOT EXISTS (SELECT 1 FROM "scopefloor"."relation" o WHERE o.scope_id = r.scope_id AND o.entity_id = r.entity_id AND o.key_hash = r.key_hash
                  AND o.target_id = r.target_id AND o.observation_id = g.observation_id);
--> statement-breakpoint
UPDATE "scopefloor"."passage" p SET "starts_at" = CASE WHEN p.observed_at > now() THEN p.observed_at END, "ends_at" = f.valid_until
FROM (SELECT scope_id, id, valid_until FROM "scopefloor"."attribute" UNION ALL SELECT scope_id, id, valid_until FROM "scopefloor"."relation") f
WHERE p.scope_id = f.scope_id AND p.id = f.id AND p.kind = 'attribute' AND (p.observed_at > now() OR f.valid_until IS NOT NULL);
--> statement-breakpoint
-- Each scope that holds anything is brought up by a job, as the first key, before or beside its requests.
INSERT INTO "scopefloor"."job" (tenant_id, scope_id, id, kind, api_key_id, principal, epoch, share_group)
SELECT s.tenant_id, s.id, gen_random_uuid(), 'bring_up', k.id, k.principal, s.epoch, scopefloor.share_group_of(k.id)
FROM "scopefloor"."scope" s CROSS JOIN (SELECT id, principal FROM "scopefloor"."api_key" WHERE parent_id IS NULL AND principal = 'management' ORDER BY created_at LIMIT 1) k
WHERE EXISTS (SELECT 1 FROM "scopefloor"."passage" p WHERE p.scope_id = s.id) OR EXISTS (SELECT 1 FROM "scopefloor"."entity" e WHERE e.scope_id = s.id);
--> statement-breakpoint
ALTER TABLE "scopefloor"."attribute" ALTER COLUMN "observation_id" SET NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."relation" ALTER COLUMN "observation_id" SET NOT NULL;--> statement-breakpoint
ALTER TABLE "scopefloor"."entity" ALTER COLUMN "folded_hash" SET NOT NULL;--> statement-breakpoint
CREATE INDEX "passage_starts" ON "scopefloor"."passage" USING btree ("scope_id","starts_at") WHERE starts_at IS NOT NULL;--> statement-breakpoint
CREATE INDEX "passage_ends" ON "scopefloor"."passage" USING btree ("scope_id","ends_at") WHERE ends_at IS NOT NULL AND expired_at IS NULL;--> statement-breakpoint
CREATE INDEX "passage_over" ON "scopefloor"."passage" USING btree ("ends_at") WHERE ends_at IS NOT NULL AND expired_at IS NULL;--> statement-breakpoint
CREATE INDEX "passage_begun" ON "scopefloor"."passage" USING btree ("starts_at") WHERE starts_at IS NOT NULL;--> statement-breakpoint
CREATE INDEX "scope_counter_embedder" ON "scopefloor"."scope_counter" USING btree ("embedder_id") WHERE passages > 0;--> statement-breakpoint
CREATE INDEX "attribute_head" ON "scopefloor"."attribute" USING btree ("scope_id","entity_id","key_hash","valid_from","observation_id") WHERE NOT is_confirmation;--> statement-breakpoint
CREATE INDEX "attribute_id" ON "scopefloor"."attribute" USING btree ("id");--> statement-breakpoint
CREATE INDEX "attribute_ending" ON "scopefloor"."attribute" USING btree ("scope_id","valid_until") WHERE closed_at IS NULL AND valid_until IS NOT NULL;--> statement-breakpoint
CREATE INDEX "attribute_over" ON "scopefloor"."attribute" USING btree ("valid_until") WHERE closed_at IS NULL AND valid_until IS NOT NULL;--> statement-breakpoint
CREATE INDEX "entity_folded" ON "scopefloor"."entity" USING btree ("scope_id","folded_hash");--> statement-breakpoint
CREATE INDEX "relation_head" ON "scopefloor"."relation" USING btree ("scope_id","entity_id","key_hash","valid_from","observation_id") WHERE NOT is_confirmation;--> statement-breakpoint
CREATE INDEX "relation_id" ON "scopefloor"."relation" USING btree ("id");--> statement-breakpoint
CREATE INDEX "relation_ending" ON "scopefloor"."relation" USING btree ("scope_id","valid_until") WHERE closed_at IS NULL AND valid_until IS NOT NULL;--> statement-breakpoint
CREATE INDEX "relation_over" ON "scopefloor"."relation" USING btree ("valid_until") WHERE closed_at IS NULL AND valid_until IS NOT NULL;--> statement-breakpoint
CREATE INDEX "attribute_key" ON "scopefloor"."attribute" USING btree ("scope_id","entity_id","key_hash","valid_from","observation_id");--> statement-breakpoint
CREATE INDEX "relation_key" ON "scopefloor"."relation" USING btree ("scope_id","entity_id","key_hash","valid_from","observation_id");
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
DROP FUNCTION scopefloor.ensure_entity;
--> statement-breakpoint
DROP FUNCTION scopefloor.put_triples;
--> statement-breakpoint
-- src/db/sql/1_access/9_words.sql
-- Words are looked up by keyed hashes. What an index holds can be asked for below the row policies, by
-- every login that may read the table (0_foundation.sql): so it holds no word of a tenant, and nothing that
-- can be computed from one without the tenant's secret.

-- The normal form of a text, in which texts are compared and indexed: compatibility forms made one, and what
-- has no look left out. The same as src/text/normal-form.ts, for what the database has to read by itself.
CREATE OR REPLACE FUNCTION scopefloor.normal_form(said text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN said ~ '^[\x01-\x7f]*$' THEN said ELSE normalize(regexp_replace(normalize(said, NFKC),
    '[\u00AD\u034F\u061C\u115F\u1160\u17B4\u17B5\u180B-\u180F\u200B-\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFF8\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]',
    '', 'g'), NFKC) END
$$;

-- The hash of a word under a secret: 128 bits of a nested SHA-256. (Without SET, so that it is inlined.)
CREATE OR REPLACE FUNCTION scopefloor.word_hash(secret bytea, word text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.encode(pg_catalog.substring(pg_catalog.sha256(secret OPERATOR(pg_catalog.||) pg_catalog.sha256(pg_catalog.convert_to(word, 'UTF8'))), 1, 16), 'hex')::pg_catalog.uuid
$$;

-- The secret under which the words of a scope are hashed: one of its own, made from its tenant's, so that
-- who reads one scope of a tenant can ask for no word of another.
CREATE OR REPLACE FUNCTION scopefloor.word_secret(of_tenant int, of_scope int) RETURNS bytea
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found bytea;
BEGIN
  SELECT t.secret INTO STRICT found FROM scopefloor.tenant t WHERE t.id = of_tenant;
  RETURN sha256(found || int4send(of_scope));
END $$;

-- Trigger: the hashes follow their words, whoever writes them.
CREATE OR REPLACE FUNCTION scopefloor.set_lookup() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  secret bytea := scopefloor.word_secret(NEW.tenant_id, NEW.scope_id);
BEGIN
  IF TG_TABLE_NAME = 'entity' THEN
    -- The service gives the forms of a name (src/text/names.ts); where it has not, the name stands as it is.
    NEW.identity := coalesce(nullif(NEW.identity, ''), NEW.type || chr(31) || NEW.name);
    NEW.folded := coalesce(nullif(NEW.folded, ''), NEW.name);
    NEW.name_hash := scopefloor.word_hash(secret, NEW.identity);
    NEW.folded_hash := scopefloor.word_hash(secret, NEW.folded);
  ELSIF TG_TABLE_NAME IN ('attribute', 'relation') THEN
    NEW.normal_key := coalesce(nullif(NEW.normal_key, ''), NEW.key);
    NEW.key_hash := scopefloor.word_hash(secret, NEW.normal_key);
  ELSIF TG_TABLE_NAME = 'memory_item' THEN
    NEW.key_hash := scopefloor.word_hash(secret, NEW.key);
  ELSIF TG_TABLE_NAME = 'session' THEN
    NEW.name_hash := scopefloor.word_hash(secret, NEW.api_key_id::text || chr(31) || NEW.name);
  ELSIF TG_TABLE_NAME = 'keyword' THEN
    NEW.normalised_hash := scopefloor.word_hash(secret, NEW.normalised);
  ELSIF TG_TABLE_NAME = 'document' THEN
    NEW.content_key := scopefloor.word_hash(secret, NEW.content_hash);
  ELSE
    RAISE EXCEPTION 'scopefloor: % has no words to look up', TG_TABLE_NAME;
  END IF;
  RETURN NEW;
END $$;

-- The hashes of these words at each scope where the ticket reads, changes or writes content.
CREATE OR REPLACE FUNCTION scopefloor.lookup_hashes(words text[]) RETURNS TABLE (word text, hash uuid, scope_id int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 4 AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('memory:read', 'memory:write', 'memory:forget') OR NOT (t->>'content')::bool THEN
    RAISE EXCEPTION 'scopefloor: no ticket for content' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN QUERY
    SELECT w, scopefloor.word_hash(sha256(k.secret || int4send(s.id)), w), s.id
    FROM scopefloor.scope s JOIN scopefloor.tenant k ON k.id = s.tenant_id, unnest(words) w
    WHERE s.id = ANY (scopefloor.ids_in(t->'read') || scopefloor.ids_in(t->'modify') || (t->>'write')::int
                      || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END);
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
  UPDATE scopefloor.context SET config = changed WHERE id = of_context;
  RETURN FOUND;
END $$;

-- Makes the Context's row where there is none.
CREATE OR REPLACE FUNCTION scopefloor.ensure_context(of_context text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO scopefloor.context (id) VALUES (of_context) ON CONFLICT DO NOTHING
$$;

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
-- src/db/sql/2_memory/3_turns_and_items.sql
-- Writing turns and keyed items, as far as it takes more than inserting rows through the builder:
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
-- src/db/sql/2_memory/6_recall.sql
-- The cache of answers, and what a recall has to know before it searches.

-- The key of the response cache: the question with the floor, principal and rights of whoever asks. NULL
-- where the ticket is not for a recall.
CREATE OR REPLACE FUNCTION scopefloor.cache_key(t jsonb, question bytea) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT sha256(question || convert_to(jsonb_build_array(t->'floor', t->'on_behalf_of', t->'principal', t->'verbs', t->'content', t->'general')::text, 'UTF8'))
  WHERE t->>'verb' = 'memory:read' AND t->>'mode' = 'select' AND octet_length(question) = 32
$$;

-- The version of these scopes: each id with the sum of its changes, as recall_state gives it.
CREATE OR REPLACE FUNCTION scopefloor.version_of(ids int[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT string_agg(v.scope_id || ':' || v.change, ' ' ORDER BY v.scope_id)
  FROM (SELECT c.scope_id, sum(c.change) AS change FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids) GROUP BY 1) v
$$;

-- What a recall has to know of the visible scopes before it begins, in the round trip of entering:
--   {counts: {embedder: passages}, indexed: [[scope, embedder], …], version, cached: {given, ageSeconds}, timed}
-- timed: whether there may be passages that are no answer now, since they begin later or are over.
-- version and cached are null where nothing is cached for such a view. A scope's sum of changes only
-- grows with every commit, so an answer of the same version has seen the same rows.
CREATE OR REPLACE FUNCTION scopefloor.recall_state(question bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  ids int[];
  counts jsonb;
  seen text;
  is_listed bool;
  cached jsonb;
BEGIN
  IF t IS NULL OR t->>'verb' <> 'memory:read' THEN
    RETURN NULL;
  END IF;
  ids := ARRAY(SELECT jsonb_array_elements_text(t->'read'->'ids')::int) || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
  is_listed := jsonb_array_length(t->'read'->'trees') = 0;
  IF is_listed THEN
    WITH standing AS (
      SELECT c.scope_id, c.embedder_id, sum(c.passages) AS passages, sum(c.change) AS change
      FROM scopefloor.scope_counter c WHERE c.scope_id = ANY (ids) GROUP BY 1, 2)
    SELECT (SELECT jsonb_object_agg(m.embedder_id, m.passages)
            FROM (SELECT s.embedder_id, sum(s.passages) AS passages FROM standing s WHERE s.embedder_id IS NOT NULL GROUP BY 1) m),
           (SELECT string_agg(v.scope_id || ':' || v.change, ' ' ORDER BY v.scope_id)
            FROM (SELECT s.scope_id, sum(s.change) AS change FROM standing s GROUP BY 1) v)
    INTO counts, seen;
    SELECT jsonb_build_object('given', r.answer, 'ageSeconds', extract(epoch FROM clock_timestamp() - r.created_at)) INTO cached
    FROM scopefloor.response_cache r
    WHERE r.scope_id = (t->'trace'->>'id')::int AND r.digest = scopefloor.cache_key(t, question) AND r.version = seen
      AND (r.good_until > now()) IS NOT FALSE;
  END IF;
  RETURN jsonb_build_object(
    'counts', coalesce(counts, '{}'), 'version', seen, 'cached', cached,
    'timed', NOT is_listed OR EXISTS (
      SELECT 1 FROM unnest(ids) at_scope WHERE
        EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.starts_at > now())
        OR EXISTS (SELECT 1 FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.ends_at <= now() AND p.expired_at IS NULL)),
    'indexed', coalesce((
      SELECT jsonb_agg(jsonb_build_array(v.scope_id, v.embedder_id) ORDER BY v.scope_id, v.embedder_id)
      FROM scopefloor.vector_index v JOIN scopefloor.scope s ON s.id = v.scope_id
      WHERE v.ready AND (v.scope_id = ANY (ids) OR EXISTS (SELECT 1 FROM jsonb_array_elements(t->'read'->'trees') tree WHERE s.tags @> tree))), '[]'));
END $$;

-- When a passage of these scopes begins or ends next; null: none does.
CREATE OR REPLACE FUNCTION scopefloor.next_change(ids int[]) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT min(least(
    (SELECT min(p.starts_at) FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.starts_at > now()),
    (SELECT min(p.ends_at) FROM scopefloor.passage p WHERE p.scope_id = at_scope AND p.ends_at > now() AND p.expired_at IS NULL)))
  FROM unnest(ids) at_scope
$$;

-- Keeps an answer for the next one who asks the same, until time alone may change it. The version is the one that recall_state gave
-- before the search began: what was written meanwhile is in the next one. A forget that is not
-- committed yet changes it too, so that this answer, which has ids and no text, is never given.
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
  ids := ARRAY(SELECT jsonb_array_elements_text(t->'read'->'ids')::int) || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
  IF scopefloor.version_of(ids) IS DISTINCT FROM seen THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.response_cache AS r (tenant_id, scope_id, digest, version, scope_ids, answer, good_until)
  VALUES ((t->'trace'->>'tenant')::int, (t->'trace'->>'id')::int, key, seen, ids, given, scopefloor.next_change(ids))
  ON CONFLICT (scope_id, digest, tenant_id) DO UPDATE
  SET version = excluded.version, scope_ids = excluded.scope_ids, answer = excluded.answer, good_until = excluded.good_until, created_at = excluded.created_at;
END $$;

-- Graphs to build and to drop, from the counts alone: a scope gets one from `least_passages`
-- passages of a model on, the largest first and `most` in all, and keeps it until it has shrunk to half of that.
CREATE OR REPLACE FUNCTION scopefloor.vector_index_work(least_passages bigint, most int)
RETURNS TABLE (work text, scope_id int, embedder_id int, dimensions int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH standing AS (
    SELECT c.scope_id, c.embedder_id, sum(c.passages) AS passages FROM scopefloor.scope_counter c
    WHERE c.embedder_id IS NOT NULL GROUP BY 1, 2),
  kept AS (
    SELECT v.scope_id, v.embedder_id, v.ready FROM scopefloor.vector_index v
    JOIN standing s ON s.scope_id = v.scope_id AND s.embedder_id = v.embedder_id AND s.passages * 2 >= least_passages)
  SELECT 'drop', v.scope_id, v.embedder_id, e.dimensions FROM scopefloor.vector_index v JOIN scopefloor.embedder e ON e.id = v.embedder_id
  WHERE NOT EXISTS (SELECT 1 FROM kept k WHERE k.scope_id = v.scope_id AND k.embedder_id = v.embedder_id)
  UNION ALL
  (SELECT 'build', s.scope_id, s.embedder_id, e.dimensions FROM standing s JOIN scopefloor.embedder e ON e.id = s.embedder_id
   WHERE s.passages >= least_passages AND e.dimensions BETWEEN 1 AND 4000 -- pgvector's limit for halfvec
     AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.scope_id = s.scope_id AND k.embedder_id = s.embedder_id AND k.ready)
   ORDER BY s.passages DESC, s.scope_id LIMIT greatest(0, most - (SELECT count(*) FROM kept k WHERE k.ready)))
$$;

-- Notes how a graph stands: building, ready or gone.
CREATE OR REPLACE FUNCTION scopefloor.note_vector_index(at_scope int, of_embedder int, state text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF state = 'gone' THEN
    DELETE FROM scopefloor.vector_index v WHERE v.scope_id = at_scope AND v.embedder_id = of_embedder;
  ELSE
    INSERT INTO scopefloor.vector_index AS v (tenant_id, scope_id, embedder_id, ready)
    SELECT s.tenant_id, s.id, of_embedder, state = 'ready' FROM scopefloor.scope s
    -- A scope that has passages of that model: no other gets a graph.
    WHERE s.id = at_scope AND EXISTS (SELECT 1 FROM scopefloor.scope_counter c WHERE c.scope_id = s.id AND c.embedder_id = of_embedder)
    ON CONFLICT (scope_id, embedder_id, tenant_id) DO UPDATE SET ready = excluded.ready;
  END IF;
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

-- Orders vectors for what a scope has without, in the transaction of whoever changed it.
CREATE OR REPLACE FUNCTION scopefloor.order_vectors(at_scope int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  INSERT INTO scopefloor.job (tenant_id, scope_id, id, kind, api_key_id, principal, on_behalf_of, epoch, share_group)
  SELECT s.tenant_id, s.id, gen_random_uuid(), 'embed', (t->>'key')::uuid, t->>'principal', (t->>'on_behalf_of')::uuid, s.epoch,
         coalesce((t->>'share_group')::bigint, scopefloor.share_group_of((t->>'key')::uuid))
  FROM scopefloor.scope s WHERE s.id = at_scope
  ON CONFLICT (scope_id, tenant_id) WHERE kind = 'embed' AND state = 'queued' DO UPDATE SET run_after = least(job.run_after, EXCLUDED.run_after);
END $$;

-- A vector as it is written. (By itself, so that no definer function looks for names in pgvector's schema.)
CREATE OR REPLACE FUNCTION scopefloor.vector_of(written text) RETURNS halfvec
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$ -- pgvector is in one of the first two
  SELECT written::halfvec
$$;

-- Makes passages for facts at a scope, for recall. `given`: what the service has made of new ones,
-- [{id, words, embedding, digest, suspicious}]; of others the words are found again, and the queue sees to the vector.
CREATE OR REPLACE FUNCTION scopefloor.recall_facts(at_scope int, fact_ids uuid[], given jsonb, of_embedder int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF cardinality(fact_ids) = 0 THEN
    RETURN;
  END IF;
  WITH facts AS (
    SELECT a.tenant_id, a.id, a.session_id, a.api_key_id, a.sentence, a.labels, a.category, a.tokens, a.valid_from, a.valid_until
    FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.id = ANY (fact_ids)
    UNION ALL
    SELECT r.tenant_id, r.id, r.session_id, r.api_key_id, r.sentence, r.labels, r.category, r.tokens, r.valid_from, r.valid_until
    FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.id = ANY (fact_ids)),
  worded AS MATERIALIZED (
    SELECT f.*, g.embedding, g.suspicious, g.id IS NOT NULL AS is_new, decode(g.digest, 'hex') AS digest,
           to_tsvector('english', coalesce(g.words, scopefloor.normal_form(f.sentence))) AS words
    FROM facts f LEFT JOIN jsonb_to_recordset(given) AS g(id uuid, words text, embedding text, digest text, suspicious jsonb) ON g.id = f.id),
  passages AS (
    INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, session_id, api_key_id, author, text, labels, category, tokens, lexemes,
                                    embedding, embedder_id, observed_at, starts_at, ends_at, digest, suspicious)
    SELECT w.tenant_id, at_scope, w.id, 'attribute', w.session_id, w.api_key_id,
           coalesce((SELECT k.principal FROM scopefloor.api_key k WHERE k.id = w.api_key_id), 'agent'), w.sentence, w.labels, w.category, w.tokens,
           (SELECT coalesce(sum(cardinality(l.positions)), 0)::int FROM unnest(w.words) l),
           scopefloor.vector_of(w.embedding), CASE WHEN w.is_new THEN of_embedder END, w.valid_from, CASE WHEN w.valid_from > clock_timestamp() THEN w.valid_from END, w.valid_until,
           w.digest, ARRAY(SELECT jsonb_array_elements_text(w.suspicious))
    FROM worded w RETURNING id, tenant_id, lexemes)
  INSERT INTO scopefloor.posting (tenant_id, scope_id, lexeme, passage_id, tf, lexemes)
  SELECT p.tenant_id, at_scope, hashtextextended(l.lexeme, 0), p.id, cardinality(l.positions)::smallint, p.lexemes
  FROM passages p JOIN worded w ON w.id = p.id, unnest(w.words) l;
  -- One that comes back has no vector yet.
  IF EXISTS (SELECT 1 FROM unnest(fact_ids) f WHERE NOT given @> jsonb_build_array(jsonb_build_object('id', f))) THEN
    PERFORM scopefloor.order_vectors(at_scope);
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
    INSERT INTO scopefloor.attribute (tenant_id, scope_id, id, entity_id, value, key, normal_key, category, sentence, tokens, labels,
                                      valid_from, observation_id, is_confirmation, ends_at, valid_until, cut_at, cut_known_at, session_id, turn_id, api_key_id, created_at)
    SELECT at_tenant, at_scope, (x->>'id')::uuid, subject, x->'what', x->>'key', x->>'normalKey', x->>'category', x->>'sentence', (x->>'tokens')::int,
           ARRAY(SELECT jsonb_array_elements_text(x->'labels')), observed, observation, NOT is_alone, scopefloor.end_of(observed, x), scopefloor.end_of(observed, x), cut.at, cut.known_at, in_session, in_turn, (t->>'key')::uuid, learnt
    FROM jsonb_array_elements(items) x;
  ELSIF is_stored THEN
    INSERT INTO scopefloor.relation (tenant_id, scope_id, id, entity_id, target_id, key, normal_key, category, sentence, tokens, labels,
                                     valid_from, observation_id, is_confirmation, ends_at, valid_until, cut_at, cut_known_at, session_id, turn_id, api_key_id, created_at)
    SELECT DISTINCT ON (x->'what') at_tenant, at_scope, (x->>'id')::uuid, subject, (x->>'what')::uuid, x->>'key', x->>'normalKey', x->>'category', x->>'sentence', (x->>'tokens')::int,
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
--   [{id, entity: {type, name, identity, folded}, key, normalKey, value? | target?: an entity, category, sentence, words, tokens,
--     labels, at?, lifetime? (seconds), embedding, digest, suspicious}]
-- Several targets of one key are one observation; of several values the later one follows the earlier.
-- Gives for each what put_observation says of it.
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
  RETURN (SELECT coalesce(jsonb_agg((done->(x->>'id')) - 'unrecalled' ORDER BY n), '[]') FROM jsonb_array_elements(triples) WITH ORDINALITY y(x, n));
END $$;

--> statement-breakpoint
-- src/db/sql/2_memory/8_facts_over.sql
-- Facts that are forgotten, deleted, or over (7_facts.sql says how facts are kept).

-- Forgets these rows: out of every answer (kept for audit), or for good. What was observed before ends where
-- they began: that something else was known does not make the earlier true again. Gives how many by table.
CREATE OR REPLACE FUNCTION scopefloor.forget_facts(fact_ids uuid[], for_good bool) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  reached int[];
  key record;
  attributes int := 0;
  relations int := 0;
  taken int;
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
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
        UPDATE scopefloor.attribute a SET expired_at = now() WHERE a.scope_id = key.scope_id AND a.id = ANY (key.ids) AND a.expired_at IS NULL;
      END IF;
      GET DIAGNOSTICS taken = ROW_COUNT;
      attributes := attributes + taken;
    ELSE
      IF for_good THEN
        DELETE FROM scopefloor.relation r WHERE r.scope_id = key.scope_id AND r.id = ANY (key.ids);
      ELSE
        UPDATE scopefloor.relation r SET expired_at = now() WHERE r.scope_id = key.scope_id AND r.id = ANY (key.ids) AND r.expired_at IS NULL;
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
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
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

-- Closes what is over, `most` rows of each kind at a time: facts, which stay findable for the past, and
-- passages of what was said for a while, which are expired. At these scopes, or everywhere (null). Gives how many.
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
    WITH over AS MATERIALIZED (
      SELECT * FROM (SELECT p.scope_id, p.id, p.kind FROM scopefloor.passage p
                     WHERE at_scope IS NULL AND p.ends_at <= at_now AND p.expired_at IS NULL ORDER BY p.ends_at LIMIT most FOR UPDATE SKIP LOCKED) anywhere
      UNION ALL
      SELECT * FROM (SELECT p.scope_id, p.id, p.kind FROM scopefloor.passage p
                     WHERE p.scope_id = at_scope AND p.ends_at <= at_now AND p.expired_at IS NULL ORDER BY p.ends_at LIMIT most FOR UPDATE SKIP LOCKED) here),
    unindexed AS (
      DELETE FROM scopefloor.posting o USING over WHERE o.scope_id = over.scope_id AND o.passage_id = over.id AND over.kind <> 'attribute'),
    removed AS (
      DELETE FROM scopefloor.passage p USING over WHERE p.scope_id = over.scope_id AND p.id = over.id AND over.kind = 'attribute'),
    expired AS (
      UPDATE scopefloor.passage p SET expired_at = at_now, embedding = NULL, embedder_id = NULL FROM over
      WHERE p.scope_id = over.scope_id AND p.id = over.id AND over.kind <> 'attribute' RETURNING 1)
    SELECT count(*) INTO taken FROM expired;
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
-- src/db/sql/2_memory/9_facts_respelled.sql
-- Names and keys of facts that are there already, brought to the spelling of the service's present version
-- (7_facts.sql says how facts are kept).

-- Gives entities and keys at a job's scope the forms of their names that the service has now:
-- [{id, identity, folded}] and [{key, normalKey}]. What becomes one is put together with its history.
CREATE OR REPLACE FUNCTION scopefloor.respell_facts(entities jsonb, keys jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  at_scope int := (t->>'write')::int;
  secret bytea;
  named record;
  survivor uuid;
  touched uuid[] := '{}';
  key record;
BEGIN
  IF t IS NULL OR t->>'job' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: not in a job' USING ERRCODE = 'insufficient_privilege';
  END IF;
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
-- src/db/sql/3_upkeep/5_reports.sql
-- Reports and usage, and the housekeeping of what they read.

CREATE OR REPLACE VIEW scopefloor.usage_by_scope WITH (security_invoker = true) AS
SELECT scope_id, scope, count(*) AS calls,
       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(embedding_tokens) AS embedding_tokens,
       sum(total_tokens) AS total_tokens, coalesce(sum(cost_usd), 0) AS cost_usd, max(created_at) AS last_used_at
FROM scopefloor.decision_trace GROUP BY scope_id, scope;

CREATE OR REPLACE VIEW scopefloor.usage_by_day WITH (security_invoker = true) AS
SELECT (created_at AT TIME ZONE 'UTC')::date AS day, scope_id, scope, count(*) AS calls,
       sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(embedding_tokens) AS embedding_tokens,
       sum(total_tokens) AS total_tokens, coalesce(sum(cost_usd), 0) AS cost_usd
FROM scopefloor.decision_trace GROUP BY 1, 2, 3;

-- Sums over E's subtree, numbers only: an agent may see what its whole floor has used, but only
-- the traces of its own key. E comes out of the ticket: an argument could widen what it names.
CREATE OR REPLACE FUNCTION scopefloor.usage(since timestamptz, until timestamptz, grouped_by text) RETURNS TABLE (
  grp jsonb, calls bigint, input_tokens bigint, output_tokens bigint, embedding_tokens bigint, total_tokens bigint,
  cost_usd numeric, stored_bytes bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  t jsonb := scopefloor.ticket();
  root jsonb;
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for usage' USING ERRCODE = 'insufficient_privilege';
  END IF;
  root := t->'target';
  RETURN QUERY
  WITH reached AS MATERIALIZED (
    SELECT s.id, s.tags FROM scopefloor.scope s WHERE s.tags @> root),
  used AS (
    SELECT CASE grouped_by
             WHEN 'scope' THEN r.tags
             WHEN 'org' THEN coalesce(r.tags->'org', 'null')
             WHEN 'key' THEN to_jsonb(d.api_key_id)
             WHEN 'model' THEN coalesce(to_jsonb(d.model), 'null')
             WHEN 'operation' THEN to_jsonb(d.operation)
             WHEN 'day' THEN to_jsonb((d.created_at AT TIME ZONE 'UTC')::date)
             ELSE 'null' END AS grp,
           count(*) AS calls, sum(d.input_tokens) AS i, sum(d.output_tokens) AS o, sum(d.embedding_tokens) AS e,
           sum(d.total_tokens) AS total, coalesce(sum(d.cost_usd), 0) AS cost
    FROM scopefloor.decision_trace d JOIN reached r ON r.id = d.scope_id
    WHERE d.scope_id = ANY (ARRAY(SELECT id FROM reached)) AND (since IS NULL OR d.created_at >= since) AND (until IS NULL OR d.created_at < until)
    GROUP BY 1),
  stored AS (
    SELECT CASE grouped_by WHEN 'scope' THEN r.tags WHEN 'org' THEN coalesce(r.tags->'org', 'null') ELSE 'null' END AS grp,
           sum(c.bytes)::bigint AS bytes
    FROM scopefloor.scope_counter c JOIN reached r ON r.id = c.scope_id
    -- (As an array, so that whoever has few scopes reads by the index.)
    WHERE c.scope_id = ANY (ARRAY(SELECT id FROM reached)) AND (grouped_by IS NULL OR grouped_by IN ('scope', 'org'))
    GROUP BY 1)
  SELECT coalesce(used.grp, stored.grp), coalesce(used.calls, 0), coalesce(used.i, 0)::bigint, coalesce(used.o, 0)::bigint,
         coalesce(used.e, 0)::bigint, coalesce(used.total, 0)::bigint, coalesce(used.cost, 0),
         CASE WHEN grouped_by IS NULL OR grouped_by IN ('scope', 'org') THEN coalesce(stored.bytes, 0) END
  FROM used FULL JOIN stored ON stored.grp = used.grp
  ORDER BY 6 DESC, 1;
END $$;

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
    ('scope', '{tags,display_name,description,tombstoned_by}'),
    ('api_key', '{name,floor,narrowed_by}'),
    ('session', '{metadata,name}'),
    ('turn', '{content}'),
    ('passage', '{text,labels,embedding,code,section,digest,suspicious}'),
    ('posting', '{lexeme}'),
    ('document', '{title,source,content_hash,labels,error}'),
    ('document_content', '{bytes}'),
    ('keyword', '{normalised,phrase}'),
    ('entity', '{name,type,identity,folded}'),
    ('attribute', '{key,normal_key,value,sentence,labels}'),
    ('relation', '{key,normal_key,sentence,labels}'),
    ('memory_item', '{key,value}'),
    ('idempotency', '{endpoint,key,answer}'),
    ('response_cache', '{answer,digest,version,scope_ids}'),
    ('decision_trace', '{query,error,scope}'),
    ('access_denied', '{asked,named,floor}'),
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
  -- Of an agent those of its own key; an erasure takes whatever stands at the scope.
  own_session constant text := '(%s) AND ((SELECT scopefloor.handles_any_session()) OR api_key_id = (SELECT scopefloor.caller()))';
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
    ('session', 'change', 'UPDATE', app, format(own_session, modifiable), format(own_session, modifiable)),
    ('session', 'remove', 'DELETE', app, format(own_session, forgotten), NULL),
    ('turn', 'read', 'SELECT', app, own, NULL),
    ('turn', 'write', 'INSERT', app, NULL, by_caller || ' AND scopefloor.may_add_turn(scope_id, session_id)'),
    ('turn', 'change', 'UPDATE', app, modifiable, modifiable),
    ('turn', 'remove', 'DELETE', app, forgotten, NULL),

    ('passage', 'read', 'SELECT', service, knowledge, NULL),
    ('passage', 'write', 'INSERT', service, NULL, by_caller || ' AND author = (SELECT scopefloor.caller_principal())'),
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
GRANT UPDATE (display_name, description, tombstoned_at, tombstoned_by) ON scopefloor.scope TO scopefloor_app;
GRANT UPDATE (closed_at, metadata) ON scopefloor.session TO scopefloor_app;
GRANT UPDATE (expired_at) ON scopefloor.turn TO scopefloor_app;
GRANT UPDATE (expired_at, embedding, embedder_id) ON scopefloor.passage TO scopefloor_app;
GRANT UPDATE (section) ON scopefloor.passage TO scopefloor_app; -- a heading may name what is forgotten
GRANT UPDATE (status, error, ready_version, content_hash, title, source, updated_at, processing_started_at, processing_completed_at)
  ON scopefloor.document TO scopefloor_app, scopefloor_worker;

-- The worker, inside a job.
GRANT SELECT, INSERT, DELETE ON scopefloor.passage, scopefloor.posting, scopefloor.document_content, scopefloor.keyword,
  scopefloor.document_link, scopefloor.chunk_band TO scopefloor_worker;
GRANT SELECT, DELETE ON scopefloor.document, scopefloor.entity, scopefloor.attribute, scopefloor.relation, scopefloor.memory_item
  TO scopefloor_worker;
GRANT UPDATE (embedding, embedder_id, digest, suspicious, lexemes) ON scopefloor.passage TO scopefloor_worker;
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
  callers constant jsonb := '{"add_document":["app"],"audit_evidence":["app"],"authenticate":[],"begin_replay":["owner"],"cache_answer":["app"],"caller":["app","worker"],"caller_principal":["app","worker"],"change_verbs":["app"],"check_audit":["owner"],"check_unchained":["owner"],"claim_idempotency":["app"],"configure_context":["app"],"context_created_at":["app"],"cut_before":[],"count_passages":[],"delegated_from":[],"deletes":["app","worker"],"descends_from":[],"drop_cached_answers":["app"],"embedders_in_use":["app"],"end_over":[],"end_over_anywhere":["worker"],"end_over_within":["app"],"end_replay":["owner"],"enqueue":["app","worker"],"ensure_context":["owner"],"ensure_embedder":[],"ensure_entity":[],"ensure_scope":[],"ensure_tenant":[],"enter":["app"],"enter_job":["worker"],"erase_audited":[],"extend_job":["worker"],"fact_at":[],"finish_job":["worker"],"fold_counters":["worker"],"forget_facts":["app"],"forgets":["app"],"full_ticket":[],"handles_any_session":["app"],"has_first_key":[],"has_work":["app"],"hides_scopes":["app"],"hold_entities":["app"],"hold_scope":[],"ids_in":[],"insertable":["app","worker"],"insertable_tenant":["app","worker"],"issue_ticket":[],"journal_lines":["owner"],"key_row":[],"key_ticket":[],"known_key":["app"],"known_keys":["app"],"knows_lines":["app"],"list_keys":["app"],"listable":["app"],"lookup_hashes":["app","worker"],"lists_all":["app"],"live_key":[],"may_add_turn":["app"],"may_manage":[],"may_record":["app","worker"],"mark_records":[],"mint_key":["app"],"modifiable":["app","worker"],"modifies_all":["app","worker"],"own_share_group":["app"],"named_key":[],"named_scopes":["owner"],"note_audit":[],"note_replayed":["owner"],"note_vector_index":["worker"],"observation_beside":[],"open_session":["app"],"order_embedding":["app"],"order_vectors":[],"own_keys":["app"],"pending_documents":["app"],"permit":[],"postpone_job":["worker"],"principal_of":["app"],"purge_old":["worker"],"put_item":["app"],"put_observation":[],"put_triples":["app"],"queue_depth":["app","worker"],"reach_of":[],"readable":["app","worker"],"readable_own":["app"],"reads_all":["app","worker"],"recall_facts":[],"recall_state":["app"],"record_denial":["app"],"recover_first_key":["owner"],"recover_jobs":["worker"],"redact_denials":[],"register_embedder":["owner"],"relink_documents":["app"],"replace_document":["app"],"requeue_job":[],"reserve_turns":["app"],"respell_facts":["worker"],"resolve_clauses":[],"resolve_place":[],"retire_scopes":["app"],"revoke_delegates":[],"revoke_key":["app"],"rotate_key":["app"],"rotate_ticket_secret":["owner"],"rows_are_there":[],"scope_hash":[],"seal_audit":["worker"],"set_first_key":["owner"],"set_lookup":[],"settle_facts":[],"sign_ticket":[],"store_answer":["app"],"stored_answer":["app"],"take_job":["worker"],"tenant_use":["app"],"ticket":[],"touch_key":["app"],"try_write":["app"],"share_group_of":[],"unknown_lines":["owner"],"unscoped_content":["app"],"usage":["app"],"vector_index_work":["worker"],"was_erased":[],"write_receipt":["app"],"word_secret":[],"write_ticket":[]}';
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
-- src/db/sql/2_memory/3_turns_and_facts.sql
-- Its subject stands in other files now.

--> statement-breakpoint
DROP FUNCTION scopefloor.retire_fact;
--> statement-breakpoint
DROP FUNCTION scopefloor.put_attribute;
--> statement-breakpoint
DROP FUNCTION scopefloor.put_relation;
--> statement-breakpoint
DROP FUNCTION scopefloor.entity_word;
--> statement-breakpoint
DROP FUNCTION scopefloor.entity_hash;