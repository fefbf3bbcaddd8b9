-- The algebra of scopes, and their dictionary. A preposition before a parameter's name (at_, of_, in_)
-- keeps it apart from the columns.

-- Every map between `smallest` and `smallest || extra`: smallest with each subset of extra's tags.
CREATE OR REPLACE FUNCTION scopefloor.scopes_between(smallest jsonb, extra jsonb) RETURNS jsonb[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found jsonb[] := ARRAY[smallest];
  tag record;
BEGIN
  FOR tag IN SELECT key, value FROM jsonb_each(extra) LOOP
    CONTINUE WHEN smallest ? tag.key;
    found := found || ARRAY(SELECT s || jsonb_build_object(tag.key, tag.value) FROM unnest(found) s);
  END LOOP;
  RETURN found;
END $$;

-- Whether two scopes give one dimension two values. (In plpgsql, like the other functions that
-- enter calls, because a plan is kept: a function in SQL is planned anew in each transaction.)
CREATE OR REPLACE FUNCTION scopefloor.contradicts(a jsonb, b jsonb) RETURNS bool
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Where both say the same of what they share, putting one over the other is the same either way.
  RETURN coalesce(a || b <> b || a, false);
END $$;

-- Whether two scopes have a tag in common, or one of them is {}.
CREATE OR REPLACE FUNCTION scopefloor.are_related(a jsonb, b jsonb) RETURNS bool
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN a = '{}' OR b = '{}' OR EXISTS (SELECT 1 FROM jsonb_each(a) x JOIN jsonb_each(b) y USING (key, value));
END $$;

-- The tags that two scopes have in common; those of one where the other is NULL.
CREATE OR REPLACE FUNCTION scopefloor.common_tags(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF a IS NULL OR b IS NULL THEN
    RETURN coalesce(a, b);
  END IF;
  RETURN (SELECT coalesce(jsonb_object_agg(x.key, x.value), '{}') FROM jsonb_each(a) x JOIN jsonb_each(b) y USING (key, value));
END $$;

-- Refuses what is no scope: the service has looked at the grammar, and whoever calls the database by
-- itself must not make a scope that the markers of erased ones would meet.
CREATE OR REPLACE FUNCTION scopefloor.check_tags(tags jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM jsonb_each(tags) t WHERE t.key !~ '^[a-z][a-z0-9_]{0,31}$' OR jsonb_typeof(t.value) <> 'string' OR length(t.value #>> '{}') NOT BETWEEN 1 AND 256) THEN
    RAISE EXCEPTION 'scopefloor: not a scope' USING ERRCODE = 'check_violation';
  END IF;
END $$;

-- How many tags a scope has.
CREATE OR REPLACE FUNCTION scopefloor.tag_count(tags jsonb) RETURNS int
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT count(*) FROM jsonb_object_keys(tags));
END $$;

-- The first tag of a scope, org before others; {} has none.
CREATE OR REPLACE FUNCTION scopefloor.first_tag(tags jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE WHEN tags ? 'org' THEN jsonb_build_object('org', tags->'org')
    ELSE coalesce((SELECT jsonb_build_object(key, value) FROM jsonb_each(tags) ORDER BY key LIMIT 1), '{}') END;
END $$;

-- The hash under which a scope is locked and its erasure noted: keyed, so that who can see locks, or
-- would take one, does not know whose they are.
CREATE OR REPLACE FUNCTION scopefloor.scope_hash(tags jsonb) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT ('x' || left(encode(sha256(sha256(t.secret || '\x6c6f636b73') || convert_to(tags::text, 'UTF8')), 'hex'), 16))::bit(64)::bigint
          FROM scopefloor.tenant t WHERE t.id = 0);
END $$;

-- The hash that stands for a scope: of its path in canonical order, `org` first (src/scope/scope.ts).
CREATE OR REPLACE FUNCTION scopefloor.scope_digest(tags jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT encode(sha256(convert_to(CASE WHEN tags = '{}' THEN '{}'
    ELSE (SELECT string_agg(t.key || '/' || t.value, '/' ORDER BY t.key <> 'org', t.key COLLATE "C") FROM jsonb_each_text(tags) t) END, 'UTF8')), 'hex')
$$;

-- The tenant that a scope belongs to, made when there is none: that of its `org` tag, 0 without one.
CREATE OR REPLACE FUNCTION scopefloor.ensure_tenant(of_scope jsonb) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted jsonb := jsonb_build_object('org', of_scope->'org');
  found int;
BEGIN
  IF NOT of_scope ? 'org' THEN
    RETURN 0;
  END IF;
  -- Held until the scope is there: an erasure that takes the name from the tenant comes before or after.
  SELECT t.id INTO found FROM scopefloor.tenant t WHERE t.root = wanted FOR KEY SHARE;
  IF found IS NULL THEN
    INSERT INTO scopefloor.tenant (root) VALUES (wanted) ON CONFLICT (root) DO NOTHING RETURNING id INTO found;
    IF found IS NULL THEN
      SELECT t.id INTO STRICT found FROM scopefloor.tenant t WHERE t.root = wanted;
    END IF;
  END IF;
  RETURN found;
END $$;

-- The dictionary's row for these tags, made when there is none. Only what writes calls this.
CREATE OR REPLACE FUNCTION scopefloor.ensure_scope(wanted jsonb) RETURNS scopefloor.scope
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.scope;
BEGIN
  SELECT * INTO found FROM scopefloor.scope s WHERE s.tags = wanted;
  IF found.id IS NULL THEN
    PERFORM scopefloor.check_room('scopes', wanted);
    INSERT INTO scopefloor.scope (tags, tenant_id) VALUES (wanted, scopefloor.ensure_tenant(wanted)) ON CONFLICT (tags) DO NOTHING RETURNING * INTO found;
    IF found.id IS NULL THEN
      SELECT * INTO STRICT found FROM scopefloor.scope s WHERE s.tags = wanted;
    END IF;
  END IF;
  RETURN found;
END $$;

-- Ids of scopes and tenants that no other deployment gives: of 128 numbered deployments each has 2^24
-- of its own (SCOPEFLOOR_DEPLOYMENT). NULL: a deployment that stands alone has all of them. For the
-- owner's connection, at the start; what was given before stays.
CREATE OR REPLACE FUNCTION scopefloor.number_deployment(deployment int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t text;
  least bigint := coalesce(deployment, 0)::bigint * 16777216 + 1;
  most bigint := CASE WHEN deployment IS NULL THEN 2147483647 ELSE least + 16777214 END;
  ids record;
  used bigint;
BEGIN
  IF deployment NOT BETWEEN 0 AND 127 THEN
    RAISE EXCEPTION 'a deployment''s number is between 0 and 127, not %', deployment;
  END IF;
  FOREACH t IN ARRAY ARRAY['scope', 'tenant'] LOOP
    SELECT s.seqmin, s.seqmax INTO ids FROM pg_sequence s WHERE s.seqrelid = pg_get_serial_sequence('scopefloor.' || t, 'id')::regclass;
    CONTINUE WHEN ids.seqmin = least AND ids.seqmax = most;
    EXECUTE format('LOCK TABLE scopefloor.%I IN SHARE ROW EXCLUSIVE MODE', t);
    -- A deployment may come back to a number that it has had.
    EXECUTE format('SELECT max(id) FROM scopefloor.%I WHERE id BETWEEN $1 AND $2', t) INTO used USING least, most;
    EXECUTE format('ALTER TABLE scopefloor.%I ALTER id SET START %2$s SET MINVALUE %2$s SET MAXVALUE %3$s RESTART WITH %4$s', t, least, most,
                   coalesce(used + 1, least));
  END LOOP;
END $$;
