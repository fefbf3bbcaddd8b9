-- Keys for providers that a scope has of its own: of those above a place, the narrowest scope's is its calls'. The
-- database keeps them sealed and has no key that opens them (src/models/credentials.ts).

-- What anybody is told of one.
CREATE OR REPLACE FUNCTION scopefloor.credential_shown(base_url text, updated_at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN jsonb_build_object('baseUrl', base_url, 'updatedAt', updated_at);
END $$;

-- Those in force at these tags, by provider. Of two as narrow the first by its path.
CREATE OR REPLACE FUNCTION scopefloor.credentials_above(of_tags jsonb) RETURNS TABLE (provider text, base_url text, sealed text, updated_at timestamptz, tags jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  above jsonb[] := scopefloor.scopes_between('{}', of_tags);
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tags = ANY (above));
BEGIN
  RETURN QUERY SELECT DISTINCT ON (c.provider) c.provider, c.base_url, c.sealed, c.updated_at, s.tags
    FROM scopefloor.scope_credential c JOIN scopefloor.scope s ON s.id = c.scope_id WHERE c.scope_id = ANY (ids)
    ORDER BY c.provider, scopefloor.tag_count(s.tags) DESC,
      (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(s.tags) t) COLLATE "C";
END $$;

-- The same for the service, which opens them: {provider: {provider, baseUrl, sealed, scope}}.
CREATE OR REPLACE FUNCTION scopefloor.credentials_at(of_tags jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Where no scope has any, this is all that anybody pays for them.
  IF NOT EXISTS (SELECT 1 FROM scopefloor.scope_credential) THEN
    RETURN '{}';
  END IF;
  RETURN (SELECT coalesce(jsonb_object_agg(c.provider, jsonb_build_object('provider', c.provider, 'baseUrl', c.base_url, 'sealed', c.sealed, 'scope', c.tags)), '{}')
          FROM scopefloor.credentials_above(of_tags) c);
END $$;

-- What a scope has set, settings and credentials, each with the floor that set it. Of a credential no more than that it is there.
CREATE OR REPLACE FUNCTION scopefloor.set_at(at_scope int) RETURNS TABLE (name text, value jsonb, set_by jsonb, of_provider text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT v.name, v.value, v.set_by, NULL::text FROM scopefloor.scope_setting v WHERE v.scope_id = at_scope
    UNION ALL SELECT 'credentials.' || c.provider, scopefloor.credential_shown(c.base_url, c.updated_at), c.set_by, c.provider
              FROM scopefloor.scope_credential c WHERE c.scope_id = at_scope;
END $$;

-- For a worker that has the keys: what is not sealed with this one, in order, after a place in it.
CREATE OR REPLACE FUNCTION scopefloor.credentials_under_others(current_key text, after_scope int, after_provider text, most int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT coalesce(jsonb_agg(jsonb_build_object('scopeId', o.scope_id, 'provider', o.provider, 'baseUrl', o.base_url, 'sealed', o.sealed, 'scope', o.tags) ORDER BY o.scope_id, o.provider), '[]')
          FROM (SELECT c.scope_id, c.provider, c.base_url, c.sealed, s.tags FROM scopefloor.scope_credential c JOIN scopefloor.scope s ON s.id = c.scope_id
                WHERE split_part(c.sealed, '.', 1) <> current_key AND (c.scope_id, c.provider) > (after_scope, after_provider)
                ORDER BY c.scope_id, c.provider LIMIT most) o);
END $$;

-- The same credential under another key; one that has changed meanwhile stays as it is.
CREATE OR REPLACE FUNCTION scopefloor.reseal_credential(at_scope int, of_provider text, before text, after text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.scope_credential c SET sealed = after WHERE c.scope_id = at_scope AND c.provider = of_provider AND c.sealed = before;
END $$;
