-- What a tenant could do to the journal of receipts, and to the start that reads it, by an injected
-- statement or by many refused requests.

GRANT CREATE ON SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
SET LOCAL ROLE scopefloor_definer;
--> statement-breakpoint
-- As in 0023; its numbers are ones that a reader of JSON has too.
CREATE OR REPLACE FUNCTION scopefloor.write_receipt(of_policy text, of_action text, with_subtree bool, given jsonb, taken jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  new_id uuid := gen_random_uuid();
  ids jsonb;
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF of_action NOT IN ('expire', 'erase') OR (t->>'mode' = 'erase') <> (of_policy = 'scope')
     OR of_policy NOT IN ('scope', 'query', 'session', 'query in a session', 'document', 'entity', 'item')
     OR EXISTS (SELECT 1 FROM jsonb_each(given) n WHERE n.key !~ '^[a-zA-Z_]{1,40}$'
                OR CASE jsonb_typeof(n.value) WHEN 'number' THEN n.value::numeric <> trunc(n.value::numeric) OR n.value::numeric NOT BETWEEN 0 AND 9007199254740991 ELSE true END)
     OR EXISTS (SELECT 1 FROM jsonb_object_keys(taken) kind WHERE kind NOT IN (
       'passages', 'turns', 'facts', 'items', 'contents', 'sessions', 'documents', 'entities', 'sections', 'titles', 'sources')) THEN
    RAISE EXCEPTION 'scopefloor: not a receipt' USING ERRCODE = 'check_violation';
  END IF;
  -- An erasure's target says all of it.
  IF t->>'mode' <> 'erase' THEN
    SELECT coalesce(jsonb_object_agg(k.key, (SELECT jsonb_agg((i.value #>> '{}')::uuid) FROM jsonb_array_elements(k.value) i)), '{}') INTO ids
    FROM jsonb_each(taken) k WHERE k.value <> '[]';
  END IF;
  INSERT INTO scopefloor.forget_receipt (scope_id, id, target, subtree, action, policy, counts, items, api_key_id)
  VALUES ((t->'trace'->>'id')::int, new_id,
          CASE t->>'mode' WHEN 'erase' THEN jsonb_build_object('!digest', scopefloor.scope_digest(t->'target'))
                          WHEN 'forget' THEN t->'target' ELSE t->'trace'->'tags' END,
          with_subtree, of_action, of_policy, given, ids, (t->>'key')::uuid);
  RETURN new_id;
END $$;
--> statement-breakpoint
-- As in 0023, without what cannot be a scope: a refused request may have asked for more tags than one has.
CREATE OR REPLACE FUNCTION scopefloor.named_scopes() RETURNS TABLE (tags jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT n.tags FROM (
    SELECT s.tags FROM scopefloor.scope s
    UNION SELECT d.scope FROM scopefloor.decision_trace d
    UNION SELECT r.target FROM scopefloor.forget_receipt r WHERE NOT r.target ? '!digest'
    UNION SELECT a.floor FROM scopefloor.access_denied a
    UNION SELECT c->'tags' FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c
    UNION SELECT a.floor || (c->'tags') FROM scopefloor.access_denied a, jsonb_array_elements(CASE jsonb_typeof(a.asked) WHEN 'array' THEN a.asked ELSE '[]' END) c) AS n(tags)
  WHERE CASE jsonb_typeof(n.tags) WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys(n.tags) d WHERE d NOT LIKE '!%') <= 8 END
$$;
--> statement-breakpoint
RESET ROLE;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
