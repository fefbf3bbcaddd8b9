-- Roles, the extension and the schema.
--
-- No role here can log in: the operator makes logins in them (docs/operations.md).
--   scopefloor_app      what the service runs as: owns nothing, bypasses nothing
--   scopefloor_worker   background work: counters, the queue, what a job reaches
--   scopefloor_report   SQL reports on decision_trace
--   scopefloor_definer  owns the SECURITY DEFINER functions; nobody logs in as it
--
-- Roles belong to the cluster, not to the database: another database of the same cluster may be
-- creating them at this moment, hence the exceptions.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['scopefloor_app', 'scopefloor_worker', 'scopefloor_report', 'scopefloor_definer'] LOOP
    CONTINUE WHEN EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name);
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOREPLICATION', name);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END LOOP;
  -- An owner that is not a superuser needs to be able to become these roles: the definer to give
  -- it its functions, the other two where one login serves all, which uses SET LOCAL ROLE.
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    FOREACH name IN ARRAY ARRAY['scopefloor_app', 'scopefloor_worker', 'scopefloor_definer'] LOOP
      CONTINUE WHEN pg_has_role(current_user, name, 'SET'); -- while it migrates it inherits the definer's rights (src/db/upkeep/migrate.ts)
      EXECUTE format('GRANT %I TO %I WITH INHERIT FALSE, SET TRUE', name, current_user);
    END LOOP;
  END IF;
END $$;

CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS scopefloor;
REVOKE ALL ON SCHEMA scopefloor FROM PUBLIC;
GRANT USAGE ON SCHEMA scopefloor TO scopefloor_app, scopefloor_worker, scopefloor_report, scopefloor_definer;

DO $$
BEGIN
  -- The application must not make temporary tables, which could shadow names.
  EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
  -- What everyone could create there would be found by the service's own statements.
  REVOKE CREATE ON SCHEMA public FROM PUBLIC;
  -- Reports name decision_trace without its schema; the service itself sets its own search_path.
  EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, scopefloor', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not the database''s owner: TEMPORARY stays granted to PUBLIC, and reports must name scopefloor.decision_trace';
END $$;

-- What the server lets everyone ask would tell of rows behind the row policies, in three ways:
--
-- - large objects know no row security, and would carry text from one transaction into another
-- - statistics and locks say who is at work and what a scan has touched; advisory locks, sleep and the
--   end of other sessions would let one statement hold everybody up
-- - comparisons that PostgreSQL calls leakproof run before a row policy, also where they compare
--   content: whether the policy is asked at all then tells whether any row compares so
--
-- They are closed where this login may, which on most servers is a superuser alone; the catalog audit
-- warns of what is open (src/verify/catalog.ts). At every start, since neither a restored database nor a
-- new version of the server has it.
CREATE OR REPLACE FUNCTION scopefloor.close_side_channels() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  f record;
BEGIN
  FOR f IN
    SELECT p.oid::regprocedure AS signature, p.proname AS name FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
      AND (p.proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lo_get', 'lo_open', 'lowrite', 'loread',
                         'pg_stat_force_next_flush', 'pg_lock_status', 'pg_blocking_pids', 'pg_safe_snapshot_blocking_pids',
                         'pg_terminate_backend', 'pg_cancel_backend', 'pg_logical_emit_message')
           OR p.proname ~ '^pg_stat_get_|^pg_sleep|^pg_(try_)?advisory_(xact_)?lock')
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f.signature);
    IF f.name ~ '^pg_stat_|lock' AND f.name !~ 'advisory' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pg_monitor', f.signature); -- what watches the server goes on
    ELSIF f.name ~ 'backend$' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pg_signal_backend', f.signature);
    ELSIF f.name ~ 'advisory' THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO scopefloor_definer, %s', f.signature,
                     (SELECT n.nspowner::regrole::text FROM pg_namespace n WHERE n.nspname = 'scopefloor'));
    END IF;
  END LOOP;
  FOR f IN
    SELECT p.oid::regprocedure AS signature FROM pg_proc p
    WHERE p.proleakproof AND p.pronamespace = 'pg_catalog'::regnamespace
      AND p.proargtypes::oid[] && ARRAY['text', 'varchar', 'bpchar', 'bytea', 'bit', 'varbit']::regtype[]::oid[]
  LOOP
    EXECUTE format('ALTER FUNCTION %s NOT LEAKPROOF', f.signature);
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not a superuser: what PostgreSQL grants to PUBLIC stays open (docs/security.md)';
END $$;
SELECT scopefloor.close_side_channels();

-- A time as the API gives it.
CREATE OR REPLACE FUNCTION scopefloor.rfc3339(at_time timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT to_char(at_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') $$;
