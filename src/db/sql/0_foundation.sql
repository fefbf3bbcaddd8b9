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
  -- Reports name decision_trace without its schema; the service itself sets its own search_path.
  EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, scopefloor', current_database());
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not the database''s owner: TEMPORARY stays granted to PUBLIC, and reports must name scopefloor.decision_trace';
END $$;

DO $$
DECLARE
  f regprocedure;
BEGIN
  -- Large objects know no row security: nobody here needs them, and they would carry text from one
  -- transaction into another.
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
           AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lo_get', 'lo_open', 'lowrite', 'loread') LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'not a superuser: large objects stay open to PUBLIC';
END $$;
