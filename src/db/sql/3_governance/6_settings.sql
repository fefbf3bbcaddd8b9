-- Settings by scope: of a value that several scopes above a place set, the narrowest one's holds.

-- The settings in force at these tags: the Context's, with those of scopes over them. Of two as narrow the first by its path.
CREATE OR REPLACE FUNCTION scopefloor.settings_at(of_tags jsonb, in_context text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own jsonb := coalesce((SELECT c.config FROM scopefloor.context c WHERE c.id = in_context), '{}');
BEGIN
  -- Where no scope has any, this is all that anybody pays for them.
  IF NOT EXISTS (SELECT 1 FROM scopefloor.scope_setting) THEN
    RETURN own;
  END IF;
  RETURN own || (SELECT coalesce(jsonb_object_agg(v.name, v.value), '{}') FROM scopefloor.settings_above(of_tags) v);
END $$;

-- The same with where each comes from.
CREATE OR REPLACE FUNCTION scopefloor.settings_above(of_tags jsonb) RETURNS TABLE (name text, value jsonb, tags jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  above jsonb[] := scopefloor.scopes_between('{}', of_tags);
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above));
BEGIN
  RETURN QUERY SELECT DISTINCT ON (v.name) v.name, v.value, s.tags
    FROM scopefloor.scope_setting v JOIN scopefloor.scope s ON s.id = v.scope_id WHERE v.scope_id = ANY (ids)
    ORDER BY v.name, scopefloor.tag_count(s.tags) DESC,
      (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(s.tags) t) COLLATE "C";
END $$;

-- Sets values at the ticket's target, {name: value}, and credentials, {provider: {sealed, baseUrl}}. {status: ok, scope, settings}, or {status, detail} and then none.
CREATE OR REPLACE FUNCTION scopefloor.set_settings(given jsonb, credentials jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  above text;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = at_scope.id FOR NO KEY UPDATE;
  SELECT v.name INTO above FROM scopefloor.set_at(at_scope.id) v
  WHERE (given ? v.name OR credentials ? v.of_provider) AND NOT v.set_by @> (t->'floor') LIMIT 1;
  IF above IS NOT NULL THEN
    RETURN jsonb_build_object('status', 'forbidden', 'detail', format('a key above this one has set %s', above));
  END IF;
  INSERT INTO scopefloor.scope_setting AS o (tenant_id, scope_id, name, value, set_by, api_key_id)
  SELECT at_scope.tenant_id, at_scope.id, g.key, g.value, t->'floor', (t->>'key')::uuid FROM jsonb_each(given) g
  ON CONFLICT (scope_id, name, tenant_id) DO UPDATE SET value = EXCLUDED.value, set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp();
  INSERT INTO scopefloor.scope_credential AS o (tenant_id, scope_id, provider, base_url, sealed, set_by, api_key_id)
  SELECT at_scope.tenant_id, at_scope.id, g.key, g.value->>'baseUrl', g.value->>'sealed', t->'floor', (t->>'key')::uuid FROM jsonb_each(credentials) g
  ON CONFLICT (scope_id, provider, tenant_id) DO UPDATE SET base_url = EXCLUDED.base_url, sealed = EXCLUDED.sealed, set_by = EXCLUDED.set_by, api_key_id = EXCLUDED.api_key_id, updated_at = clock_timestamp();
  RETURN jsonb_build_object('status', 'ok', 'scope', at_scope.tags,
    'settings', (SELECT jsonb_object_agg(v.name, v.value) FROM scopefloor.set_at(at_scope.id) v));
END $$;

-- What scopes of the ticket's target and below set, by page: {total, scopes: [{scope, settings}]}.
CREATE OR REPLACE FUNCTION scopefloor.list_settings(most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  ids int[];
BEGIN
  IF NOT (t->'read'->>'all')::bool THEN
    ids := scopefloor.ids_in(t->'read');
  END IF;
  RETURN (WITH found AS MATERIALIZED (
            SELECT s.scope_id FROM scopefloor.scope_setting s WHERE ids IS NULL OR s.scope_id = ANY (ids)
            UNION SELECT c.scope_id FROM scopefloor.scope_credential c WHERE ids IS NULL OR c.scope_id = ANY (ids)),
          shown AS (SELECT f.* FROM found f ORDER BY f.scope_id LIMIT most OFFSET after)
          SELECT jsonb_build_object('total', (SELECT count(*) FROM found), 'scopes', coalesce((
            SELECT jsonb_agg(jsonb_build_object('scope', s.tags, 'settings', (SELECT jsonb_object_agg(v.name, v.value) FROM scopefloor.set_at(o.scope_id) v)) ORDER BY o.scope_id) FROM shown o JOIN scopefloor.scope s ON s.id = o.scope_id), '[]')));
END $$;

-- What is in force at the ticket's target: {name: {value, scope}}; null in place of a scope: the Context's.
CREATE OR REPLACE FUNCTION scopefloor.effective_settings(in_context text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
BEGIN
  RETURN coalesce((SELECT jsonb_object_agg(c.key, jsonb_build_object('value', c.value, 'scope', NULL)) FROM scopefloor.context o, jsonb_each(o.config) c WHERE o.id = in_context), '{}')
    || coalesce((SELECT jsonb_object_agg(v.name, jsonb_build_object('value', v.value, 'scope', v.tags)) FROM scopefloor.settings_above(t->'target') v), '{}')
    || coalesce((SELECT jsonb_object_agg('credentials.' || c.provider, jsonb_build_object('value', scopefloor.credential_shown(c.base_url, c.updated_at), 'scope', c.tags))
                 FROM scopefloor.credentials_above(t->'target') c), '{}');
END $$;

-- Takes values of the ticket's target away (null: all): {status: ok}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.drop_settings(names text[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope int := (SELECT s.id FROM scopefloor.scope s WHERE s.tags = t->'target');
  dropped int;
BEGIN
  IF scopefloor.full_ticket() IS NULL THEN
    RETURN scopefloor.needs_every_right();
  END IF;
  IF EXISTS (SELECT 1 FROM scopefloor.set_at(at_scope) v WHERE (names IS NULL OR v.name = ANY (names)) AND NOT v.set_by @> (t->'floor')) THEN
    RETURN '{"status": "forbidden", "detail": "a key above this one has set one of these"}';
  END IF;
  WITH settings AS (DELETE FROM scopefloor.scope_setting v WHERE v.scope_id = at_scope AND (names IS NULL OR v.name = ANY (names)) RETURNING 1),
    credentials AS (DELETE FROM scopefloor.scope_credential c WHERE c.scope_id = at_scope AND (names IS NULL OR 'credentials.' || c.provider = ANY (names)) RETURNING 1)
  SELECT (SELECT count(*) FROM settings) + (SELECT count(*) FROM credentials) INTO dropped;
  RETURN jsonb_build_object('status', CASE dropped WHEN 0 THEN 'not-found' ELSE 'ok' END, 'detail', '');
END $$;
