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
