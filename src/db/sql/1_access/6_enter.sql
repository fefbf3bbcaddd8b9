-- The only way to a ticket, and what is recorded of those who get none.

-- Opens a transaction for a key: finds the key, checks verb and request against the floor in the
-- key's own row, resolves the scope ids and leaves a signed ticket in scopefloor.ticket.
--
--   key_hash   SHA-256 of the presented secret
--   verb       memory:read | memory:write | memory:forget | manage | self
--   requested  {mode, clauses?, session?, document?, memory?, subtree?, reopen?, context, ageMs, metered?, hold?}; a clause is
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
  by_default text;
  began timestamptz := transaction_timestamp() - make_interval(secs => coalesce((requested->>'ageMs')::float8, 0) / 1000);
BEGIN
  caller := scopefloor.authenticate(key_hash, on_behalf_of);
  refusal := coalesce(caller.refusal,
    scopefloor.permit((caller.k).principal, (caller.other).principal, caller.verbs, caller.content, verb, mode));
  -- Who may come in at all, before the request itself is looked at.
  IF refusal IS NULL AND scopefloor.is_shut_out(caller.floor, '{}') THEN
    refusal := '{"status": "forbidden", "detail": "the tenant of this key is suspended or leaving"}';
  END IF;
  IF refusal IS NOT NULL OR mode = 'check' THEN
    RETURN coalesce(refusal, '{"status": "ok"}');
  END IF;

  -- On behalf of another, no more than either sees.
  by_default := CASE WHEN scopefloor.default_view_of(caller.k) = 'strict' OR ((caller.other).id IS NOT NULL AND scopefloor.default_view_of(caller.other) = 'strict')
                THEN 'strict' ELSE 'subtree' END;
  view := CASE mode
    WHEN 'select' THEN coalesce(view, by_default)
    WHEN 'write' THEN 'strict'
    WHEN 'delete' THEN CASE WHEN jsonb_typeof(requested->'clauses') = 'array' THEN 'strict' ELSE 'subtree' END
    WHEN 'forget' THEN CASE WHEN coalesce((requested->>'subtree')::bool, jsonb_typeof(requested->'clauses') IS DISTINCT FROM 'array' AND by_default = 'subtree')
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

  IF NOT caller.floor ? 'org' AND named.effective ? 'org' AND scopefloor.is_shut_out(caller.floor, named.effective) THEN
    RETURN '{"status": "forbidden", "detail": "the tenant of this scope is suspended or leaving"}';
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

  -- Between two batches of an erasure nothing new comes in (3_governance/4_runs.sql).
  IF mode IN ('write', 'modify', 'delete') AND scopefloor.is_being_erased(trace_tags) THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', 'the scope is being erased; nothing is stored there until that is done');
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
    'write', written.id, 'tenant', written.tenant_id, 'memory', CASE WHEN mode = 'write' THEN requested->'memory' END,
    'trace', jsonb_build_object('id', traced.id, 'tenant', traced.tenant_id, 'tags', trace_tags, 'elsewhere', traced.tags <> trace_tags)));

  RETURN jsonb_build_object(
    'status', 'ok',
    'key', jsonb_build_object('id', (caller.k).id, 'name', (caller.k).name, 'principal', (caller.k).principal, 'content', caller.content,
                              'defaultView', by_default, 'expiresAt', (caller.k).expires_at),
    'verbs', to_jsonb(caller.verbs), 'floor', caller.floor, 'onBehalfOf', (caller.other).id,
    'view', view, 'effective', named.effective, 'general', general,
    'read', jsonb_build_object(
      'scopes', coalesce((SELECT jsonb_object_agg(s.id, s.tags) FROM scopefloor.scope s WHERE s.id = ANY (ARRAY(SELECT jsonb_array_elements_text(reach->'ids')::int))), '{}'),
      'trees', reach->'trees', 'tenant', reach->'tenant'),
    'write', CASE WHEN written.id IS NOT NULL THEN jsonb_build_object('id', written.id, 'tenant', written.tenant_id) END,
    'settings', scopefloor.settings_at(trace_tags, requested->>'context'), 'credentials', scopefloor.credentials_at(trace_tags),
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
