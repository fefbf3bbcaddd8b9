-- What was under way while something was taken away from under it: a scope that was erased, verbs that
-- were taken from a key; and a wait that is over before the statement is.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
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
  k scopefloor.api_key;
  other scopefloor.api_key;
  own_session scopefloor.session;
  own_document scopefloor.document;
  mode text := requested->>'mode';
  floor jsonb;
  verbs text[];
  content bool;
  clause jsonb;
  effective jsonb;       -- E of the clause at hand; at the end, of the request where it has one
  shared jsonb;          -- what the E of all clauses have in common: the trace's scope
  exact jsonb[] := '{}'; -- candidate scopes
  trees jsonb[] := '{}'; -- subtree roots
  ids int[] := '{}';
  deep int[];
  spread jsonb := '[]';
  write_id int;
  trace_id int;
  trace_tags jsonb;
  tombstone timestamptz;
  visible jsonb;
  reach jsonb;
  modify jsonb := '{"ids": []}';
  general bool;
  everything bool;
  silent bool := false;  -- the trace says nothing of what was asked
  began timestamptz := transaction_timestamp() - make_interval(secs => coalesce((requested->>'ageMs')::float8, 0) / 1000);
BEGIN
  -- An empty or missing argument matches nothing.
  IF key_hash IS NULL OR octet_length(key_hash) <> 32 THEN
    RETURN '{"status": "unauthorized"}';
  END IF;
  k := scopefloor.live_key(key_hash);
  IF k.id IS NULL THEN
    RETURN '{"status": "unauthorized"}';
  END IF;
  floor := k.floor;
  verbs := k.verbs;
  content := k.content;

  IF on_behalf_of IS NOT NULL THEN
    IF on_behalf_of ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
      SELECT * INTO other FROM scopefloor.api_key a
      WHERE a.id = on_behalf_of::uuid AND a.revoked_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > clock_timestamp());
    END IF;
    -- One answer for an unknown id, for a contradiction, and for a floor without a tag in common (whose
    -- tags the answer would tell): the id tells nothing.
    IF other.id IS NULL OR NOT scopefloor.are_related(floor, other.floor) OR scopefloor.contradicts(floor, other.floor) OR scopefloor.tag_count(floor || other.floor) > 8 THEN
      RETURN jsonb_build_object('status', 'scope-floor', 'detail', 'the key cannot act on behalf of that principal');
    END IF;
    floor := floor || other.floor;
    verbs := ARRAY(SELECT unnest(verbs) INTERSECT SELECT unnest(other.verbs) ORDER BY 1);
    content := content AND other.content;
  END IF;

  -- The matrix of principals and verbs.
  IF verb NOT IN ('memory:read', 'memory:write', 'memory:forget', 'manage', 'self') OR mode IS NULL
     OR mode NOT IN ('check', 'select', 'id', 'write', 'modify', 'delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor.enter: unknown verb % or mode %', verb, mode;
  END IF;
  IF verb = 'manage' AND (k.principal <> 'management' OR (other.id IS NOT NULL AND other.principal <> 'management')) THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this needs a management key');
  END IF;
  IF verb LIKE 'memory:%' AND NOT content THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this key was minted with content: false and reaches no content');
  END IF;
  IF verb LIKE 'memory:%' AND NOT verb = ANY (verbs) THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', format('this key does not have the verb %s', verb));
  END IF;
  IF verb IN ('memory:write', 'memory:forget') AND 'supervisor' IN (k.principal, other.principal) THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor reads; it does not write or forget');
  END IF;
  -- Who may come in at all, before the request itself is looked at.
  IF mode = 'check' THEN
    RETURN '{"status": "ok"}';
  END IF;
  IF (verb = 'memory:read' AND mode NOT IN ('select', 'id')) OR (verb = 'memory:write' AND mode NOT IN ('write', 'modify', 'delete'))
     OR (verb = 'memory:forget' AND mode NOT IN ('forget', 'erase')) OR (verb IN ('manage', 'self') AND mode NOT IN ('select', 'id')) THEN
    RAISE EXCEPTION 'scopefloor.enter: mode % does not go with verb %', mode, verb;
  END IF;

  -- Changing or matching what exists shows it: that takes the verb for reading too. (An erase
  -- deletes by scope alone; its ticket reaches just what it deletes.)
  IF mode IN ('modify', 'delete', 'forget') AND NOT 'memory:read' = ANY (verbs) THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'this needs the verb memory:read as well');
  END IF;

  view := coalesce(view, CASE WHEN k.principal = 'agent' THEN 'strict' ELSE 'subtree' END);
  IF mode IN ('id', 'modify') THEN
    view := 'subtree';
  ELSIF mode = 'delete' THEN
    view := CASE WHEN jsonb_typeof(requested->'clauses') = 'array' THEN 'strict' ELSE 'subtree' END;
  ELSIF mode IN ('forget', 'erase') THEN
    view := CASE WHEN (requested->>'subtree')::bool THEN 'subtree' ELSE 'strict' END;
  ELSIF mode = 'write' THEN
    view := 'strict';
  END IF;

  -- A session decides the scope of what is written into it.
  IF requested->>'session' IS NOT NULL AND mode = 'write' THEN
    SELECT s.* INTO own_session FROM scopefloor.session s JOIN scopefloor.scope d ON d.id = s.scope_id
    WHERE s.id = (requested->>'session')::uuid AND d.tags @> floor
      AND (s.scope_id <> 0 OR floor = '{}');
    IF own_session.id IS NULL THEN
      RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such session');
    END IF;
    IF k.principal = 'agent' AND own_session.api_key_id <> k.id THEN
      RETURN jsonb_build_object('status', 'forbidden', 'detail', 'an agent writes turns only into sessions that its own key created');
    END IF;
    IF own_session.closed_at IS NOT NULL THEN
      RETURN jsonb_build_object('status', 'conflict', 'detail', 'the session is closed');
    END IF;
  END IF;

  -- So does a document of its next version.
  IF requested->>'document' IS NOT NULL AND mode = 'write' THEN
    SELECT o.* INTO own_document FROM scopefloor.document o JOIN scopefloor.scope d ON d.id = o.scope_id
    WHERE o.id = (requested->>'document')::uuid AND d.tags @> floor AND (o.scope_id <> 0 OR floor = '{}');
    IF own_document.id IS NULL THEN
      RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such document');
    END IF;
  END IF;

  -- E = R ∪ F for each clause; no clause at all means E = F, an empty list reaches nothing.
  FOR clause IN SELECT jsonb_array_elements(
      CASE WHEN jsonb_typeof(requested->'clauses') = 'array' THEN requested->'clauses' ELSE '[{"tags": {}}]' END) LOOP
    IF scopefloor.contradicts(floor, clause->'tags') THEN
      RETURN jsonb_build_object('status', 'scope-floor', 'detail', 'the requested scope contradicts the key''s scope floor');
    END IF;
    effective := floor || (clause->'tags');
    IF scopefloor.tag_count(effective) > 8 THEN
      RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'the requested scope and the key''s floor have more than 8 tags together');
    END IF;
    IF own_session.id IS NOT NULL OR own_document.id IS NOT NULL THEN
      SELECT tags INTO visible FROM scopefloor.scope WHERE id = coalesce(own_session.scope_id, own_document.scope_id);
      IF jsonb_typeof(requested->'clauses') = 'array' AND effective <> visible THEN
        RETURN jsonb_build_object('status', 'unprocessable', 'detail',
                                  format('the %s has another scope than the one named', CASE WHEN own_session.id IS NULL THEN 'document' ELSE 'session' END));
      END IF;
      effective := visible;
    END IF;
    IF view = 'subtree' OR (mode <> 'delete' AND (clause->>'subtree')::bool) THEN
      trees := trees || effective;
    ELSIF mode IN ('delete', 'forget', 'erase', 'write') THEN
      exact := exact || effective;
    ELSE
      exact := exact || scopefloor.scopes_between(floor, effective);
    END IF;
    shared := CASE WHEN shared IS NULL THEN effective
      ELSE (SELECT coalesce(jsonb_object_agg(x.key, x.value), '{}') FROM jsonb_each(shared) x JOIN jsonb_each(effective) y ON x.key = y.key AND x.value = y.value) END;
  END LOOP;
  general := shared IS NOT NULL AND mode IN ('select', 'id', 'write', 'modify', 'delete');
  everything := '{}'::jsonb = ANY (trees);
  -- An erase takes its target's tags out of the dictionary: its own trace stands at the floor.
  trace_tags := CASE WHEN mode = 'erase' THEN floor ELSE coalesce(shared, floor) END;

  IF mode IN ('forget', 'erase') THEN
    IF effective IS NULL OR (jsonb_typeof(requested->'clauses') = 'array' AND jsonb_array_length(requested->'clauses') > 1) THEN
      RETURN jsonb_build_object('status', 'unprocessable', 'detail', 'a forget names exactly one scope');
    END IF;
  END IF;
  PERFORM scopefloor.hold_scope(trace_tags, CASE WHEN mode IN ('forget', 'erase') THEN effective END);
  IF mode NOT IN ('forget', 'erase') AND scopefloor.was_erased(trace_tags, began) THEN
    IF mode = 'write' THEN
      RETURN jsonb_build_object('status', 'conflict', 'detail', 'the scope was erased while this write was under way; nothing was stored');
    ELSIF scopefloor.was_erased(trace_tags, transaction_timestamp()) THEN
      -- It waited for the erasure: as a transaction that begins now it may go on.
      RAISE EXCEPTION 'scopefloor: the scope was erased meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    -- It arrived before the erasure, and what it says is from before: its trace names neither.
    trace_tags := floor;
    silent := true;
  END IF;

  IF mode = 'write' THEN
    -- What was true before the locks may be gone. (reserve_turns looks again whether it is open.)
    IF own_session.id IS NOT NULL THEN
      PERFORM 1 FROM scopefloor.session s WHERE s.scope_id = own_session.scope_id AND s.id = own_session.id;
      IF NOT FOUND THEN
        RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such session');
      END IF;
      write_id := own_session.scope_id;
    ELSIF own_document.id IS NOT NULL THEN
      PERFORM 1 FROM scopefloor.document o WHERE o.scope_id = own_document.scope_id AND o.id = own_document.id;
      IF NOT FOUND THEN
        RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such document');
      END IF;
      write_id := own_document.scope_id;
    ELSE
      write_id := scopefloor.ensure_scope(effective);
    END IF;
    SELECT tombstoned_at INTO tombstone FROM scopefloor.scope WHERE id = write_id;
    IF tombstone IS NOT NULL AND NOT coalesce((requested->>'reopen')::bool, false) THEN
      RETURN jsonb_build_object('status', 'conflict', 'detail', 'the scope was deleted; POST /scopes opens it again');
    END IF;
    -- What the key may read beside what it writes: the floor's subtree, and only with that verb.
    IF 'memory:read' = ANY (verbs) THEN
      trees := ARRAY[floor];
      everything := floor = '{}';
    END IF;
    exact := '{}';
    general := 'memory:read' = ANY (verbs);
  END IF;

  SELECT s.id INTO trace_id FROM scopefloor.scope s WHERE s.tags = trace_tags;
  IF trace_id IS NULL THEN
    SELECT a.scope_id INTO trace_id FROM scopefloor.api_key a WHERE a.id = k.id;
  END IF;

  -- Looked up as an array: 1.2 ms beside 101,000 scopes, where an OR or IN took 31 ms.
  IF cardinality(exact) > 0 THEN
    SELECT coalesce(array_agg(s.id), '{}') INTO ids FROM scopefloor.scope s WHERE s.tags = ANY (exact);
  END IF;
  IF everything THEN
    trees := ARRAY['{}'::jsonb];
  END IF;
  FOR i IN 1..cardinality(trees) LOOP
    -- A small subtree goes into the ticket as ids, a large one as its tags.
    IF everything THEN
      deep := ARRAY(SELECT s.id FROM scopefloor.scope s LIMIT 257); -- {} is in all tags, which no index tells quickly
    ELSE
      deep := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags @> trees[i] LIMIT 257);
    END IF;
    IF cardinality(deep) > 256 THEN
      spread := spread || jsonb_build_array(trees[i]);
    ELSE
      ids := ids || deep;
    END IF;
  END LOOP;
  -- {} itself is in the floor's own rows only where the floor is {}.
  IF floor <> '{}' THEN
    ids := array_remove(ids, 0);
  END IF;
  ids := ARRAY(SELECT DISTINCT unnest(ids) ORDER BY 1);
  reach := jsonb_build_object('ids', ids, 'trees', spread, 'all', everything);
  IF mode IN ('modify', 'delete', 'forget', 'erase') THEN
    modify := reach;
  END IF;

  IF verb = 'memory:read' THEN
    -- All that a recall writes is its trace: not worth waiting for the disk. (docs/security.md)
    PERFORM set_config('synchronous_commit', 'off', true);
  END IF;
  PERFORM set_config('scopefloor.ticket', scopefloor.sign_ticket(jsonb_build_object(
    'pid', pg_backend_pid(),
    'began', extract(epoch FROM transaction_timestamp()),
    'until', extract(epoch FROM clock_timestamp()) + 60,
    'key', k.id, 'principal', k.principal, 'verb', verb, 'mode', mode, 'verbs', to_jsonb(verbs), 'content', content,
    'floor', floor, 'on_behalf_of', other.id, 'target', effective,
    'read', reach, 'general', general, 'modify', modify, 'write', write_id, 'session', own_session.id,
    'trace', jsonb_build_object('id', trace_id, 'tags', trace_tags))), true);

  RETURN jsonb_build_object(
    'status', 'ok',
    'key', jsonb_build_object('id', k.id, 'name', k.name, 'principal', k.principal, 'content', content, 'expiresAt', k.expires_at),
    'verbs', to_jsonb(verbs), 'floor', floor, 'onBehalfOf', other.id,
    'view', view, 'effective', effective, 'general', general,
    'read', jsonb_build_object('scopes', coalesce((SELECT jsonb_object_agg(s.id, s.tags) FROM scopefloor.scope s WHERE s.id = ANY (ids)), '{}'),
                               'trees', spread),
    'write', write_id,
    'settings', coalesce((SELECT c.config FROM scopefloor.context c WHERE c.id = requested->>'context'), '{}'),
    'trace', jsonb_build_object('id', trace_id, 'tags', trace_tags, 'silent', silent));
END $$;
--> statement-breakpoint
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
  INSERT INTO scopefloor.access_denied (scope_id, id, api_key_id, floor, asked, on_behalf_of, route, reason)
  SELECT a.scope_id, denial, a.id, a.floor, asked,
         -- An id and nothing else: a header of any text would outlive a forget.
         CASE WHEN on_behalf_of ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN on_behalf_of END,
         left(record_denial.route, 200), left(record_denial.reason, 300)
  FROM scopefloor.api_key a WHERE a.id = k.id;
  INSERT INTO scopefloor.decision_trace (id, kind, operation, scope_id, scope, api_key_id, principal, duration_ms, status)
  SELECT trace, 'denied', record_denial.operation, a.scope_id, a.floor, a.id, a.principal, 0, 'denied'
  FROM scopefloor.api_key a WHERE a.id = k.id;
END $$;
--> statement-breakpoint
-- Mints a key that is never wider than the ticket and the key behind it: floor = asked ∪ the caller's,
-- verbs a subset.
CREATE OR REPLACE FUNCTION scopefloor.mint_key(new_id uuid, key_hash bytea, new_name text, new_principal text, asked_floor jsonb,
                                    asked_verbs text[], with_content bool, expires timestamptz) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  own scopefloor.api_key;
  made scopefloor.api_key;
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
  IF NOT coalesce(asked_verbs, parent_verbs) <@ parent_verbs THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'the new key would have verbs that the minting key lacks');
  END IF;
  IF child_content AND NOT (t->>'content')::bool THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a key without content cannot mint one with content');
  END IF;
  IF NOT child_content AND new_principal <> 'management' THEN
    RETURN jsonb_build_object('status', CASE WHEN (t->>'content')::bool THEN 'unprocessable' ELSE 'forbidden' END,
                              'detail', 'content: false is for management keys');
  END IF;
  -- What an agent delegates ends with it.
  IF own.principal = 'agent' THEN
    expires := least(expires, own.expires_at);
  END IF;
  PERFORM scopefloor.hold_scope(child_floor);
  INSERT INTO scopefloor.api_key (id, scope_id, parent_id, name, principal, floor, verbs, content, secret_hash, expires_at)
  VALUES (new_id, scopefloor.ensure_scope(child_floor), own.id, new_name, new_principal, child_floor,
          coalesce(asked_verbs, parent_verbs), child_content, sha256(key_hash), expires)
  ON CONFLICT DO NOTHING
  RETURNING * INTO made;
  IF made.id IS NULL THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', 'this key has already minted a key of that name');
  END IF;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;
--> statement-breakpoint
-- As in 0013.
CREATE OR REPLACE FUNCTION scopefloor.narrow_key(of_id uuid, keep text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
  caller uuid := (t->>'key')::uuid;
  made scopefloor.api_key;
BEGIN
  IF t->>'principal' = 'supervisor' THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', 'a supervisor does not change keys');
  END IF;
  UPDATE scopefloor.api_key k SET verbs = ARRAY(SELECT unnest(k.verbs) INTERSECT SELECT unnest(keep) ORDER BY 1)
  WHERE k.id = of_id AND k.revoked_at IS NULL AND k.floor @> (t->'floor')
    AND (k.id = caller OR k.parent_id = caller
         OR (t->>'principal' = 'management'
             AND (k.principal <> 'management' OR scopefloor.descends_from(k.id, caller) OR t->'floor' <> k.floor)))
  RETURNING * INTO made;
  IF made.id IS NULL THEN
    RETURN jsonb_build_object('status', 'not-found', 'detail', 'no such key');
  END IF;
  -- What it delegated cannot do more than it: agents' children narrow with it. Waits for whoever is
  -- minting from one of them, and again for what those minted: until nothing is left.
  LOOP
    WITH RECURSIVE delegated AS (
      SELECT made.id AS id, made.principal AS principal
      UNION
      SELECT k.id, k.principal FROM scopefloor.api_key k JOIN delegated d ON k.parent_id = d.id WHERE d.principal = 'agent')
    UPDATE scopefloor.api_key k SET verbs = ARRAY(SELECT unnest(k.verbs) INTERSECT SELECT unnest(made.verbs) ORDER BY 1)
    FROM delegated d WHERE k.id = d.id AND k.id <> made.id AND NOT k.verbs <@ made.verbs;
    EXIT WHEN NOT FOUND;
  END LOOP;
  RETURN jsonb_build_object('status', 'ok', 'key', scopefloor.key_row(made));
END $$;
--> statement-breakpoint
-- Until the transaction ends: of those who forget and those who store answers, no two that may concern
-- the same rows. Both sides take the table and then their org's lock. Whether it was had: who stores
-- waits 5 s for it, or half as long as a statement may take where that is less, and without `patiently`
-- not at all.
--
--                     locks        waits for
--   stores, org acme  ROW SHARE    forgets of no org; of acme by its lock
--   stores, no org    ROW EXCL.    every forget, but not in line: other orgs' forgets would wait behind it
--   forgets, org acme SHARE        who stores and has no org; acme's by its lock
--   forgets, no org   EXCLUSIVE    everyone
CREATE OR REPLACE FUNCTION scopefloor.hold_answers(t jsonb, patiently bool) RETURNS bool
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  forgets bool := t->>'mode' IN ('delete', 'forget', 'erase');
  org text := CASE WHEN forgets THEN scopefloor.forgotten_root(t) ELSE t->'floor' END->>'org';
  own bigint := hashtextextended(org, 7701);
  most interval := nullif(current_setting('statement_timeout'), '0')::interval / 2;
  until timestamptz := clock_timestamp() + CASE WHEN patiently THEN least(interval '5 s', most) ELSE interval '0' END;
BEGIN
  IF forgets THEN
    IF org IS NULL THEN
      LOCK TABLE scopefloor.forget_gate IN EXCLUSIVE MODE;
    ELSE
      LOCK TABLE scopefloor.forget_gate IN SHARE MODE;
      PERFORM pg_advisory_xact_lock(own);
    END IF;
    RETURN true;
  END IF;
  LOOP
    -- What is left of it, for whichever lock comes next.
    PERFORM set_config('lock_timeout', greatest(1, extract(epoch FROM until - clock_timestamp()) * 1000)::int || 'ms', true) WHERE patiently;
    BEGIN
      IF org IS NULL THEN
        LOCK TABLE scopefloor.forget_gate IN ROW EXCLUSIVE MODE NOWAIT;
        RETURN true;
      ELSIF NOT patiently THEN
        LOCK TABLE scopefloor.forget_gate IN ROW SHARE MODE NOWAIT;
        RETURN pg_try_advisory_xact_lock_shared(own);
      END IF;
      LOCK TABLE scopefloor.forget_gate IN ROW SHARE MODE;
      PERFORM set_config('lock_timeout', greatest(1, extract(epoch FROM until - clock_timestamp()) * 1000)::int || 'ms', true);
      PERFORM pg_advisory_xact_lock_shared(own);
      RETURN true;
    EXCEPTION WHEN lock_not_available THEN
      IF clock_timestamp() >= until THEN
        RETURN false;
      END IF;
      PERFORM pg_sleep(0.01);
    END;
  END LOOP;
END $$;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
