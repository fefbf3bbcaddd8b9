import { type Database, inTransaction } from "./lease.ts";

/** Asked as the application's login itself, whatever the URLs are called. */
const WARNINGS = `
  SELECT (rolsuper OR rolbypassrls OR EXISTS (
           SELECT 1 FROM pg_catalog.pg_roles r
           WHERE r.rolname IN ('scopefloor_worker', 'scopefloor_definer', 'scopefloor_report') AND pg_has_role(session_user, r.oid, 'MEMBER')))
           AS "oneLogin",
         has_database_privilege(current_database(), 'TEMPORARY') AS temporary,
         has_function_privilege('pg_catalog.lo_from_bytea(oid, bytea)', 'EXECUTE') AS "largeObjects",
         has_function_privilege('pg_catalog.pg_stat_get_activity(integer)', 'EXECUTE')
           OR has_function_privilege('pg_catalog.pg_lock_status()', 'EXECUTE')
           OR has_function_privilege('pg_catalog.pg_advisory_xact_lock(bigint)', 'EXECUTE') AS statistics,
         EXISTS (SELECT 1 FROM pg_catalog.pg_proc p WHERE p.oid IN ('pg_catalog.texteq(text,text)'::regprocedure, 'pg_catalog.text_lt(text,text)'::regprocedure)
                 AND p.proleakproof) AS leakproof
  FROM pg_catalog.pg_roles WHERE rolname = session_user`;

const TEXTS = {
  oneLogin:
    "the application's database login can be more than scopefloor_app: an injected set_config('role', …) would lift the second lock; give DATABASE_URL, DATABASE_WORKER_URL and DATABASE_OWNER_URL a login each",
  temporary:
    "everyone may make temporary tables in this database: as its owner, REVOKE TEMPORARY ON DATABASE … FROM PUBLIC",
  largeObjects:
    "large objects, which know no scope and which no forget reaches, are open to everyone: an injected statement could leave text there for another tenant's; as a superuser, REVOKE EXECUTE ON FUNCTION lo_creat, lo_create, lo_from_bytea, lo_put, lo_open, lowrite FROM PUBLIC",
  statistics:
    "the server's statistics and locks are open to everyone: an injected statement could ask them how much lies behind the row policies, or hold a lock that all wait for; start the service once with a superuser as DATABASE_OWNER_URL, or have one call scopefloor.close_side_channels()",
  leakproof:
    "PostgreSQL compares text before it asks the row policies: an injected statement could tell by that what other tenants' texts say; start the service once with a superuser as DATABASE_OWNER_URL, or have one call scopefloor.close_side_channels()",
} as const;

/** Whether a database URL leads no further than this machine: loopback, or a socket. */
export function isLoopback(url: string): boolean {
  const { hostname, searchParams } = new URL(url);
  const host = (searchParams.get("host") ?? hostname).replace(/^\[|\]$/g, "");
  return (
    host === "" || host.startsWith("/") || host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host)
  );
}

/**
 * An injected statement on a superuser's connection would have the whole server, row security or not.
 *
 * @throws Error where the application's login is one, and the database is on another machine
 */
export async function refuseSuperuser(database: Database, isLocal: boolean): Promise<void> {
  if (database.kind === "embedded" || isLocal) return;
  const [login] = await inTransaction(database.app, (app) =>
    app.query("SELECT rolname AS name FROM pg_catalog.pg_roles WHERE rolname = session_user AND rolsuper"),
  );
  if (login === undefined) return;
  throw new Error(
    `DATABASE_URL is the login ${login.name}, a superuser: give it a login of its own (docs/operations.md, "PostgreSQL"), or set SCOPEFLOOR_ALLOW_SUPERUSER=true`,
  );
}

/** What an operator should know about how this database is set up, although it works. */
export async function databaseWarnings(database: Database): Promise<readonly string[]> {
  // There one connection serves all roles, and set_config is closed instead (embedded.ts).
  if (database.kind === "embedded") return [];
  const [found] = await inTransaction(database.app, (app) => app.query(WARNINGS));
  return (Object.keys(TEXTS) as (keyof typeof TEXTS)[]).flatMap((name) =>
    found?.[name] === true ? [TEXTS[name]] : [],
  );
}
