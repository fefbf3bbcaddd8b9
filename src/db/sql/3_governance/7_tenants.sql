-- Tenants as records: what an `org` is called, what it was made from, and whether its keys come in. Making and changing
-- them is the operator's.

-- Whether a key may come in: its tenant, and that of the scope it asks for, are neither suspended nor leaving. The
-- operator's keys always may.
CREATE OR REPLACE FUNCTION scopefloor.is_shut_out(floor jsonb, of_tags jsonb) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  org jsonb := coalesce(floor->'org', of_tags->'org');
BEGIN
  RETURN floor <> '{}' AND org IS NOT NULL AND EXISTS (SELECT 1 FROM scopefloor.tenant t WHERE t.root = jsonb_build_object('org', org) AND t.state <> 'active');
END $$;

-- A tenant as the API gives it, with what it uses.
CREATE OR REPLACE FUNCTION scopefloor.tenant_answer(o scopefloor.tenant) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
  ids int[] := ARRAY(SELECT s.id FROM scopefloor.scope s WHERE s.tenant_id = o.id LIMIT 10000);
BEGIN
  RETURN jsonb_build_object(
    'scope', o.root, 'path', 'org/' || (o.root->>'org'), 'name', o.name, 'template', o.template, 'templateVersion', o.template_version, 'state', o.state,
    'leavesAt', scopefloor.rfc3339(o.leaves_at), 'createdAt', scopefloor.rfc3339(o.created_at))
    || (SELECT jsonb_build_object('keys', count(*) FILTER (WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())), 'lastUsedAt', scopefloor.rfc3339(max(k.last_used_at)))
        FROM scopefloor.api_key k WHERE k.tenant_id = o.id)
    || (SELECT jsonb_build_object('usage', jsonb_build_object('from', scopefloor.rfc3339(month::timestamp AT TIME ZONE 'UTC'), 'calls', coalesce(sum(u.calls), 0),
          'totalTokens', coalesce(sum(u.input_tokens + u.output_tokens + u.embedding_tokens), 0), 'costUsd', coalesce(sum(u.cost_usd), 0)))
        FROM scopefloor.usage_day u WHERE u.tenant_id = o.id AND u.day >= month)
    || (SELECT jsonb_build_object('storage', jsonb_build_object('scopes', cardinality(ids), 'passages', coalesce(sum(k.passages), 0), 'bytes', coalesce(sum(k.bytes), 0)))
        FROM scopefloor.stored_bytes(ids) k);
END $$;

-- Makes the tenant that the ticket's target is, or changes its name and what it was made from: {status: ok, created, tenant}.
CREATE OR REPLACE FUNCTION scopefloor.put_tenant(of_name text, of_template text, of_version int) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  at_scope scopefloor.scope;
  o scopefloor.tenant;
  is_new bool;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right makes tenants"}';
  END IF;
  is_new := NOT EXISTS (SELECT 1 FROM scopefloor.tenant x WHERE x.root = t->'target');
  PERFORM scopefloor.hold_scope(t->'target');
  at_scope := scopefloor.ensure_scope(t->'target');
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.id = at_scope.tenant_id FOR UPDATE;
  IF o.state <> 'active' THEN
    RETURN jsonb_build_object('status', 'conflict', 'detail', format('the tenant is %s', o.state));
  END IF;
  -- One that keys alone have made is a tenant like any from now on.
  is_new := is_new OR NOT o.is_provisioned;
  UPDATE scopefloor.tenant x
  SET name = coalesce(of_name, x.name), template = coalesce(of_template, x.template), template_version = CASE WHEN of_template IS NULL THEN x.template_version ELSE of_version END, is_provisioned = true
  WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'created', is_new);
END $$;

-- The floors of those keys of the tenant at the ticket's target that have one of these names and are not revoked, by name.
CREATE OR REPLACE FUNCTION scopefloor.minted_names(names text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
BEGIN
  RETURN (SELECT coalesce(jsonb_object_agg(k.name, k.floor), '{}') FROM scopefloor.api_key k
          JOIN scopefloor.tenant o ON o.id = k.tenant_id WHERE o.root = t->'target' AND k.name = ANY (names) AND k.revoked_at IS NULL);
END $$;

-- Suspends the tenant that the ticket's target is, or lets its keys in again; gives it its name. {status: ok, tenant}, or {status, detail}.
CREATE OR REPLACE FUNCTION scopefloor.change_tenant(of_state text, of_name text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  o scopefloor.tenant;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "only a management key with the floor {} and every right changes tenants"}';
  END IF;
  SELECT * INTO o FROM scopefloor.tenant x WHERE x.root = t->'target' FOR UPDATE;
  IF o.id IS NULL OR o.id = 0 THEN
    RETURN '{"status": "not-found", "detail": ""}';
  ELSIF of_state IS NOT NULL AND o.state = 'leaving' THEN
    RETURN '{"status": "conflict", "detail": "the tenant is leaving; take the offboarding back first"}';
  END IF;
  UPDATE scopefloor.tenant x SET state = coalesce(of_state, x.state), name = coalesce(of_name, x.name) WHERE x.id = o.id RETURNING * INTO o;
  RETURN jsonb_build_object('status', 'ok', 'tenant', scopefloor.tenant_answer(o));
END $$;

-- Tenants by page, in the order in which they were made: all for the operator, its own for an administrator; or the one
-- that the ticket's target is. {total, tenants}
CREATE OR REPLACE FUNCTION scopefloor.list_tenants(only_target bool, of_state text, most int, after int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.rule_ticket();
  own jsonb := CASE WHEN only_target THEN t->'target' WHEN t->'floor' <> '{}' THEN t->'floor' END;
BEGIN
  IF own IS NOT NULL THEN
    -- By the index on roots; what has no org is no tenant, nor is what lies below one.
    RETURN (SELECT jsonb_build_object('total', count(*), 'tenants', coalesce(jsonb_agg(scopefloor.tenant_answer(o)), '[]'))
            FROM scopefloor.tenant o WHERE o.root = own AND o.id <> 0 AND own ? 'org' AND after = 0 AND (of_state IS NULL OR o.state = of_state));
  END IF;
  RETURN (WITH page AS (
            SELECT o FROM scopefloor.tenant o WHERE o.id <> 0 AND o.root ? 'org' AND (of_state IS NULL OR o.state = of_state) ORDER BY o.id LIMIT most OFFSET after)
          SELECT jsonb_build_object(
            'total', (SELECT count(*) FROM scopefloor.tenant o WHERE o.id <> 0 AND o.root ? 'org' AND (of_state IS NULL OR o.state = of_state)),
            'tenants', coalesce((SELECT jsonb_agg(scopefloor.tenant_answer(p.o) ORDER BY (p.o).id) FROM page p), '[]')));
END $$;

-- Templates: what tenants are made from. The operator's, and no tenant's data. Each change is a version of its own.

CREATE OR REPLACE FUNCTION scopefloor.template_answer(o scopefloor.template) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('name', o.name, 'version', o.version, 'template', o.body, 'createdAt', scopefloor.rfc3339(o.created_at))
$$;

-- Stores the next version: {status: ok, template}. One that says the same as the last is that one.
CREATE OR REPLACE FUNCTION scopefloor.put_template(of_name text, new_body jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most_templates constant int := 200;
  most_versions constant int := 1000;
  t jsonb := scopefloor.operator_ticket();
  last scopefloor.template;
BEGIN
  IF t IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "templates are the operator''s: only a management key with the floor {} and every right changes them"}';
  END IF;
  -- Of two at once, one after the other.
  PERFORM 1 FROM scopefloor.scope s WHERE s.id = 0 FOR NO KEY UPDATE;
  SELECT * INTO last FROM scopefloor.template o WHERE o.name = of_name ORDER BY o.version DESC LIMIT 1;
  IF last.body = new_body THEN
    RETURN jsonb_build_object('status', 'ok', 'template', scopefloor.template_answer(last));
  ELSIF last.version >= most_versions OR (last.name IS NULL AND (SELECT count(DISTINCT o.name) FROM scopefloor.template o) >= most_templates) THEN
    RETURN jsonb_build_object('status', 'quota-exceeded', 'detail', format('there may be at most %s templates with %s versions each', most_templates, most_versions));
  END IF;
  INSERT INTO scopefloor.template (name, version, body, api_key_id) VALUES (of_name, coalesce(last.version, 0) + 1, new_body, (t->>'key')::uuid) RETURNING * INTO last;
  RETURN jsonb_build_object('status', 'ok', 'template', scopefloor.template_answer(last));
END $$;

-- The last version of each template; or of one this version (null: the last), with the numbers of all. NULL: there is none.
CREATE OR REPLACE FUNCTION scopefloor.templates(of_name text, of_version int) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN NULL;
  ELSIF of_name IS NULL THEN
    RETURN (SELECT coalesce(jsonb_agg(scopefloor.template_answer(o) ORDER BY o.name), '[]') FROM scopefloor.template o
            WHERE NOT EXISTS (SELECT 1 FROM scopefloor.template x WHERE x.name = o.name AND x.version > o.version));
  END IF;
  RETURN (SELECT scopefloor.template_answer(o) || jsonb_build_object('versions', (SELECT jsonb_agg(x.version ORDER BY x.version) FROM scopefloor.template x WHERE x.name = of_name))
          FROM scopefloor.template o WHERE o.name = of_name AND (of_version IS NULL OR o.version = of_version) ORDER BY o.version DESC LIMIT 1);
END $$;

-- Takes a template away with all of its versions: {status: ok}, or {status, detail}. What was made from it stays.
CREATE OR REPLACE FUNCTION scopefloor.drop_template(of_name text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  dropped int;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN '{"status": "forbidden", "detail": "templates are the operator''s: this needs a management key with the floor {} and every right"}';
  END IF;
  DELETE FROM scopefloor.template o WHERE o.name = of_name;
  GET DIAGNOSTICS dropped = ROW_COUNT;
  RETURN jsonb_build_object('status', CASE dropped WHEN 0 THEN 'not-found' ELSE 'ok' END, 'detail', '');
END $$;
