-- What the row policies (5_policies.sql) ask of the ticket. Without a ticket each answers with nothing.

-- The ids of a set in a ticket: those listed, and those in its subtrees.
CREATE OR REPLACE FUNCTION scopefloor.ids_in(reach jsonb) RETURNS int[]
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

-- Rows to read, general ones among them where the ticket has them. Content is open to a ticket for content alone.
CREATE OR REPLACE FUNCTION scopefloor.readable() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('memory:read', 'memory:write', 'memory:forget') THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'read') || CASE WHEN (t->>'general')::bool THEN ARRAY[0] ELSE '{}'::int[] END;
END $$;

-- The same without general rows: sessions, turns and traces know none.
CREATE OR REPLACE FUNCTION scopefloor.readable_own() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('memory:read', 'memory:write', 'memory:forget') THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'read');
END $$;

-- Scopes, receipts and denials to list, which a management key may do too.
CREATE OR REPLACE FUNCTION scopefloor.listable() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  -- Without general rows: receipts and denials that stand at {} are the operator's.
  IF t IS NULL OR t->>'verb' NOT IN ('memory:read', 'memory:write', 'memory:forget', 'manage') THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'read');
END $$;

-- Rows to change, or with forgets() or deletes() to delete.
CREATE OR REPLACE FUNCTION scopefloor.modifiable() RETURNS int[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL THEN RETURN '{}'; END IF;
  RETURN scopefloor.ids_in(t->'modify');
END $$;

-- The one scope that new rows go to, and the tenant that it belongs to.
CREATE OR REPLACE FUNCTION scopefloor.insertable() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.ticket()->>'write')::int
$$;

CREATE OR REPLACE FUNCTION scopefloor.insertable_tenant() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.ticket()->>'tenant')::int
$$;

-- A floor of {} with a view of everything reaches every scope without listing them.
CREATE OR REPLACE FUNCTION scopefloor.reads_all() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((t->'read'->>'all')::bool AND t->>'verb' IN ('memory:read', 'memory:write', 'memory:forget'), false) FROM scopefloor.ticket() t
$$;

CREATE OR REPLACE FUNCTION scopefloor.lists_all() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((t->'read'->>'all')::bool AND t->>'verb' IN ('memory:read', 'memory:write', 'memory:forget', 'manage'), false) FROM scopefloor.ticket() t
$$;

CREATE OR REPLACE FUNCTION scopefloor.modifies_all() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((t->'modify'->>'all')::bool, false) FROM scopefloor.ticket() t
$$;

-- Sessions and turns leave by a forget alone.
CREATE OR REPLACE FUNCTION scopefloor.forgets() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(scopefloor.ticket()->>'mode' IN ('forget', 'erase'), false)
$$;

-- Rows leave by a forget, by the deletion of one thing by its id, or when a job puts others in their place.
CREATE OR REPLACE FUNCTION scopefloor.deletes() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(scopefloor.ticket()->>'mode' IN ('forget', 'erase', 'delete', 'job'), false)
$$;

-- Whether the ticket closes and removes sessions whoever created them.
CREATE OR REPLACE FUNCTION scopefloor.handles_any_session() RETURNS bool
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(t->>'principal' <> 'agent' OR t->>'mode' = 'erase', false) FROM scopefloor.ticket() t
$$;

-- The id of the ticket's key; NULL without a ticket.
CREATE OR REPLACE FUNCTION scopefloor.caller() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.ticket()->>'key')::uuid
$$;

-- The principal of the ticket's key; NULL without a ticket.
CREATE OR REPLACE FUNCTION scopefloor.caller_principal() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT scopefloor.ticket()->>'principal'
$$;

-- A trace stands where the ticket says, and names the caller.
CREATE OR REPLACE FUNCTION scopefloor.may_record(at_scope int, of_tenant int, tags jsonb, is_elsewhere bool, by_key uuid, as_principal text) RETURNS bool
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  RETURN coalesce((t->'trace'->>'id')::int = at_scope AND (t->'trace'->>'tenant')::int = of_tenant AND t->'trace'->'tags' = tags AND coalesce((t->'trace'->>'elsewhere')::bool, false) = is_elsewhere
                  AND (t->>'key')::uuid = by_key AND t->>'principal' = as_principal, false);
END $$;

-- The session in which the ticket's holder has reserved places (2_memory/3_turns_and_items.sql): turns go there alone.
CREATE OR REPLACE FUNCTION scopefloor.reserved_session() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (scopefloor.ticket()->>'session')::uuid
$$;
