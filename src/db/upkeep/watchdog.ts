import { type Database, inTransaction } from "../connect/lease.ts";

/**
 * Ends transactions of the service's logins that are older than they can be: each has a timeout, but a
 * statement that was injected can switch it off, and hold locks that everyone waits for. On a server;
 * the owner's login must be allowed to end others' sessions (a superuser, or a member of pg_signal_backend).
 *
 * @param longestMs how old a transaction may be
 * @returns how many were ended
 */
export async function endOverdueTransactions(database: Database, longestMs: number): Promise<number> {
  if (database.kind === "embedded") return 0;
  const ended = await inTransaction(database.owner, (owner) =>
    owner.query(
      `SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
       WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
         AND a.xact_start < clock_timestamp() - make_interval(secs => $1)
         AND (pg_has_role(a.usesysid, 'scopefloor_app', 'MEMBER') OR pg_has_role(a.usesysid, 'scopefloor_worker', 'MEMBER'))
         -- Where one login is everything, its owner's work may take its time.
         AND (a.usename <> current_user OR a.application_name IN ('scopefloor', 'scopefloor worker'))`,
      [longestMs / 1000],
    ),
  );
  return ended.length;
}
