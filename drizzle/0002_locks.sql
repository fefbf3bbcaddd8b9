-- The second lock: tickets, row policies and privileges.
--
-- A transaction opens with scopefloor.enter (next migration), which puts a signed ticket into a
-- setting of that transaction. Everything here reads only that ticket.

-- ---------------------------------------------------------------------------------------------
-- Tables beyond what the table definitions can say.

CREATE UNIQUE INDEX posting_key ON scopefloor.posting (scope_id, lexeme, passage_id) INCLUDE (tf, lexemes);
--> statement-breakpoint
CREATE INDEX posting_passage ON scopefloor.posting (scope_id, passage_id);
--> statement-breakpoint
ALTER TABLE scopefloor.posting ADD FOREIGN KEY (scope_id, passage_id)
  REFERENCES scopefloor.passage (scope_id, id) ON DELETE CASCADE;
--> statement-breakpoint
-- Names are unique per parent, so that a name tells nothing about another tenant's keys.
CREATE UNIQUE INDEX api_key_name ON scopefloor.api_key (parent_id, name) NULLS NOT DISTINCT WHERE revoked_at IS NULL;
--> statement-breakpoint
ALTER TABLE scopefloor.decision_trace ADD CHECK (input_tokens >= 0 AND output_tokens >= 0 AND embedding_tokens >= 0);
--> statement-breakpoint
-- Nothing is lost while no partition exists for a month: it goes here, and the worker moves it.
CREATE TABLE scopefloor.decision_trace_rest PARTITION OF scopefloor.decision_trace DEFAULT;
--> statement-breakpoint
INSERT INTO scopefloor.scope (id, tags) VALUES (0, '{}');
--> statement-breakpoint
-- The planner's statistics would keep samples of forgotten text.
ALTER TABLE scopefloor.turn ALTER content SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.passage ALTER text SET STATISTICS 0, ALTER labels SET STATISTICS 0, ALTER embedding SET STATISTICS 0;
--> statement-breakpoint
-- Without a sample the planner would take 200 lexemes for the whole table.
ALTER TABLE scopefloor.posting ALTER lexeme SET STATISTICS 0, ALTER lexeme SET (n_distinct = -0.02);
--> statement-breakpoint
ALTER TABLE scopefloor.session ALTER metadata SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.idempotency ALTER answer SET STATISTICS 0, ALTER key SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.decision_trace ALTER query SET STATISTICS 0, ALTER error SET STATISTICS 0, ALTER scope SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.scope ALTER tags SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.access_denied ALTER asked SET STATISTICS 0, ALTER floor SET STATISTICS 0;
--> statement-breakpoint

-- ---------------------------------------------------------------------------------------------
-- Tickets: HMAC-SHA-256 (RFC 2104) over the payload, with the pads kept instead of the secret.

CREATE FUNCTION scopefloor.rotate_ticket_secret() RETURNS void
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
  -- Two are valid at a time: transactions that are open now keep their tickets.
  DELETE FROM scopefloor.ticket_secret t
  WHERE t.id NOT IN (SELECT s.id FROM scopefloor.ticket_secret s ORDER BY s.id DESC LIMIT 2);
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.sign_ticket(payload jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s scopefloor.ticket_secret;
BEGIN
  SELECT * INTO STRICT s FROM scopefloor.ticket_secret ORDER BY id DESC LIMIT 1;
  RETURN s.id || '.'
    || encode(sha256(s.outer_pad || sha256(s.inner_pad || convert_to(payload::text, 'UTF8'))), 'hex')
    || '.' || payload::text;
END $$;
--> statement-breakpoint
-- The verified ticket of this transaction. NULL: there is none, so no rows. A ticket that is
-- malformed, forged, of another transaction or expired raises: a silent zero once let a DELETE
-- of nothing commit as a success.
CREATE FUNCTION scopefloor.ticket() RETURNS jsonb
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
--> statement-breakpoint
-- The ids of a set in a ticket: those listed, and those in its subtrees.
CREATE FUNCTION scopefloor.ids_in(reach jsonb) RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ids int[] := ARRAY(SELECT jsonb_array_elements_text(reach->'ids')::int);
  tree jsonb;
BEGIN
  FOR tree IN SELECT jsonb_array_elements(reach->'trees') LOOP
    ids := ids || ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags @> tree);
  END LOOP;
  RETURN ids;
END $$;
--> statement-breakpoint
-- What each policy asks. Content is closed to a ticket for management work ('manage', 'self').
CREATE FUNCTION scopefloor.readable() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' IN ('manage', 'self') THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'read') || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.readable_own() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' IN ('manage', 'self') THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'read');
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.listable() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  -- Without general rows: receipts and denials that stand at {} are the operator's.
  IF t IS NULL OR t->>'verb' = 'self' THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'read');
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.modifiable() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'modify');
END $$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.insertable() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.ticket()->>'write')::int
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.recordable() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.ticket()->'trace'->>'id')::int
$$;
--> statement-breakpoint
-- A floor of {} with a view of everything reaches every scope without listing them.
CREATE FUNCTION scopefloor.reads_all() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((t->'read'->>'all')::bool AND t->>'verb' NOT IN ('manage', 'self'), false) FROM scopefloor.ticket() t
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.lists_all() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((t->'read'->>'all')::bool AND t->>'verb' <> 'self', false) FROM scopefloor.ticket() t
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.modifies_all() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((t->'modify'->>'all')::bool, false) FROM scopefloor.ticket() t
$$;
--> statement-breakpoint
-- Rows are only ever deleted by a forget, and a receipt is only written by one.
CREATE FUNCTION scopefloor.forgets() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(scopefloor.ticket()->>'mode' IN ('forget', 'erase'), false)
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.caller() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.ticket()->>'key')::uuid
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.caller_principal() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.ticket()->>'principal'
$$;
--> statement-breakpoint
CREATE FUNCTION scopefloor.may_record(at_scope int, tags jsonb, by_key uuid, as_principal text) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  RETURN coalesce((t->'trace'->>'id')::int = at_scope AND t->'trace'->'tags' = tags
                  AND (t->>'key')::uuid = by_key AND t->>'principal' = as_principal, false);
END $$;
--> statement-breakpoint
-- An agent adds turns only to sessions that its own key created.
CREATE FUNCTION scopefloor.may_add_turn(to_scope int, to_session uuid) RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT 1 FROM scopefloor.session s, scopefloor.ticket() t
    WHERE s.scope_id = to_scope AND s.id = to_session AND s.scope_id = (t->>'write')::int
      AND (t->>'principal' <> 'agent' OR s.api_key_id = (t->>'key')::uuid))
$$;
--> statement-breakpoint

-- ---------------------------------------------------------------------------------------------
-- Row security, enabled and forced, with one policy per command.
--
-- Each value is an uncorrelated sub-select: evaluated once per statement, and the one behind an OR
-- only when a row fails what stands before it, which with the builder's own predicate none does.
-- That predicate, on the same column, is what the indexes serve.

DO $$
DECLARE
  t text;
  visible text;
  read_all text;
BEGIN
  FOREACH t IN ARRAY ARRAY['scope', 'scope_counter', 'api_key', 'ticket_secret', 'context', 'embedder', 'erasure', 'session',
                           'turn', 'passage', 'posting', 'idempotency', 'forget_receipt', 'access_denied', 'decision_trace'] LOOP
    EXECUTE format('ALTER TABLE scopefloor.%I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE scopefloor.%I FORCE ROW LEVEL SECURITY', t);
    -- FORCE binds the owner too: the definer functions run as a role with policies of its own.
    EXECUTE format('CREATE POLICY definer ON scopefloor.%I TO scopefloor_definer USING (true) WITH CHECK (true)', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON scopefloor.%I TO scopefloor_definer', t);
  END LOOP;
  ALTER TABLE scopefloor.decision_trace_rest ENABLE ROW LEVEL SECURITY;
  ALTER TABLE scopefloor.decision_trace_rest FORCE ROW LEVEL SECURITY;

  FOREACH t IN ARRAY ARRAY['session', 'turn', 'passage', 'posting', 'scope_counter', 'forget_receipt', 'access_denied'] LOOP
    IF t IN ('passage', 'posting', 'scope_counter') THEN -- knowledge: general rows are visible to all
      visible := 'readable'; read_all := 'reads_all';
    ELSIF t IN ('session', 'turn') THEN
      visible := 'readable_own'; read_all := 'reads_all';
    ELSE
      visible := 'listable'; read_all := 'lists_all';
    END IF;
    EXECUTE format(
      'CREATE POLICY read ON scopefloor.%I FOR SELECT TO scopefloor_app
         USING (scope_id = ANY ((SELECT scopefloor.%I())::int[]) OR (SELECT scopefloor.%I()))', t, visible, read_all);
  END LOOP;
END $$;
--> statement-breakpoint
CREATE POLICY read ON scopefloor.scope FOR SELECT TO scopefloor_app
  USING (id = ANY ((SELECT scopefloor.listable())::int[]) OR (SELECT scopefloor.lists_all())
         OR id = (SELECT scopefloor.insertable()) -- a key that only writes knows the scope it writes to
         OR (id = 0 AND (SELECT scopefloor.caller()) IS NOT NULL)); -- the row of {} says nothing
--> statement-breakpoint
CREATE POLICY change ON scopefloor.scope FOR UPDATE TO scopefloor_app
  USING (id = (SELECT scopefloor.insertable())) WITH CHECK (id = (SELECT scopefloor.insertable()));
--> statement-breakpoint
CREATE POLICY read ON scopefloor.decision_trace FOR SELECT TO scopefloor_app
  USING ((scope_id = ANY ((SELECT scopefloor.readable_own())::int[]) OR (SELECT scopefloor.reads_all()))
         AND ((SELECT scopefloor.caller_principal()) <> 'agent' OR api_key_id = (SELECT scopefloor.caller())));
--> statement-breakpoint
CREATE POLICY read ON scopefloor.embedder FOR SELECT TO scopefloor_app USING (true); -- models, no tenant's data
--> statement-breakpoint
CREATE POLICY write ON scopefloor.session FOR INSERT TO scopefloor_app
  WITH CHECK (scope_id = (SELECT scopefloor.insertable()) AND api_key_id = (SELECT scopefloor.caller()));
--> statement-breakpoint
CREATE POLICY write ON scopefloor.turn FOR INSERT TO scopefloor_app
  WITH CHECK (scope_id = (SELECT scopefloor.insertable()) AND api_key_id = (SELECT scopefloor.caller())
              AND scopefloor.may_add_turn(scope_id, session_id));
--> statement-breakpoint
CREATE POLICY write ON scopefloor.passage FOR INSERT TO scopefloor_app
  WITH CHECK (scope_id = (SELECT scopefloor.insertable()) AND api_key_id = (SELECT scopefloor.caller()));
--> statement-breakpoint
CREATE POLICY write ON scopefloor.posting FOR INSERT TO scopefloor_app
  WITH CHECK (scope_id = (SELECT scopefloor.insertable()));
--> statement-breakpoint
CREATE POLICY write ON scopefloor.forget_receipt FOR INSERT TO scopefloor_app
  WITH CHECK ((SELECT scopefloor.forgets()) AND scope_id = (SELECT scopefloor.recordable()) AND api_key_id = (SELECT scopefloor.caller()));
--> statement-breakpoint
-- A trace says whose it is and for which scope; neither can be made up.
CREATE POLICY write ON scopefloor.decision_trace FOR INSERT TO scopefloor_app
  WITH CHECK (scopefloor.may_record(scope_id, scope, api_key_id, principal));
--> statement-breakpoint
DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['session', 'turn', 'passage', 'posting'] LOOP
    EXECUTE format(
      'CREATE POLICY change ON scopefloor.%I FOR UPDATE TO scopefloor_app
         USING (scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all()))
         WITH CHECK (scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all()))', t);
    EXECUTE format(
      'CREATE POLICY remove ON scopefloor.%I FOR DELETE TO scopefloor_app
         USING ((SELECT scopefloor.forgets()) AND (scope_id = ANY ((SELECT scopefloor.modifiable())::int[]) OR (SELECT scopefloor.modifies_all())))', t);
  END LOOP;
END $$;
--> statement-breakpoint

-- ---------------------------------------------------------------------------------------------
-- Privileges. What is not granted here is reached through definer functions that check the ticket.

GRANT SELECT ON scopefloor.scope, scopefloor.scope_counter, scopefloor.embedder, scopefloor.session, scopefloor.turn,
  scopefloor.passage, scopefloor.posting, scopefloor.forget_receipt, scopefloor.access_denied, scopefloor.decision_trace
  TO scopefloor_app;
--> statement-breakpoint
GRANT INSERT ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.posting, scopefloor.forget_receipt,
  scopefloor.decision_trace TO scopefloor_app;
--> statement-breakpoint
-- scope_id is in none of these lists: a row cannot be moved to another scope.
GRANT UPDATE (display_name, description, tombstoned_at) ON scopefloor.scope TO scopefloor_app;
--> statement-breakpoint
GRANT UPDATE (closed_at, metadata) ON scopefloor.session TO scopefloor_app;
--> statement-breakpoint
GRANT UPDATE (expired_at) ON scopefloor.turn TO scopefloor_app;
--> statement-breakpoint
GRANT UPDATE (expired_at, embedding, embedder_id) ON scopefloor.passage TO scopefloor_app;
--> statement-breakpoint
GRANT DELETE ON scopefloor.session, scopefloor.turn, scopefloor.passage, scopefloor.posting TO scopefloor_app;
--> statement-breakpoint

-- ---------------------------------------------------------------------------------------------
-- Counters: appended by statement triggers, so that no path that adds or removes passages can
-- forget them. (Updating one dictionary row per write cut throughput to a third and deadlocked.)

CREATE FUNCTION scopefloor.count_passages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO scopefloor.scope_counter (scope_id, passages, tokens, lexemes, bytes)
    SELECT scope_id, count(*), sum(tokens), sum(lexemes), sum(octet_length(text))
    FROM added WHERE expired_at IS NULL GROUP BY scope_id;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO scopefloor.scope_counter (scope_id, passages, tokens, lexemes, bytes)
    SELECT scope_id, -count(*), -sum(tokens), -sum(lexemes), -sum(octet_length(text))
    FROM removed WHERE expired_at IS NULL GROUP BY scope_id;
  ELSE
    INSERT INTO scopefloor.scope_counter (scope_id, passages, tokens, lexemes, bytes)
    SELECT scope_id, sum(n), sum(n * tokens), sum(n * lexemes), sum(n * octet_length(text))
    FROM (SELECT 1 AS n, a.* FROM added a WHERE expired_at IS NULL
          UNION ALL
          SELECT -1, r.* FROM removed r WHERE expired_at IS NULL) change
    GROUP BY scope_id HAVING sum(n) <> 0;
  END IF;
  RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER passages_added AFTER INSERT ON scopefloor.passage
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.count_passages();
--> statement-breakpoint
CREATE TRIGGER passages_removed AFTER DELETE ON scopefloor.passage
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.count_passages();
--> statement-breakpoint
CREATE TRIGGER passages_changed AFTER UPDATE ON scopefloor.passage
  REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION scopefloor.count_passages();
