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
