import { fileURLToPath } from "node:url";
import { readMigrationFiles } from "drizzle-orm/migrator";
import { type Database, inTransaction, retried, type Transaction } from "../connect/lease.ts";

/** The same place from `src/` and from `dist/`. */
const MIGRATIONS = fileURLToPath(new URL("../../../drizzle", import.meta.url));

/** What the first migration of the databases from before the first release was. */
const BEFORE_FIRST_RELEASE = "2077bbb8ac07200c0bc5ee073ddb86894bf97cdf3190d61bdde2dcf7268370ff";

/** An older version may be at work: whom of the two a deadlock ends is not ours to choose. */
const ATTEMPTS = 10;

/**
 * Brings the database to this code's version: forward only, in one transaction, under an advisory
 * lock (drizzle's own migrator takes none), so that many processes may start at once.
 *
 * @throws Error when the database is newer than this code, was migrated by other files, or is from before
 *   the first release
 */
export async function migrate(database: Database, folder = MIGRATIONS): Promise<void> {
  const files = readMigrationFiles({ migrationsFolder: folder });
  const all = async (owner: Transaction) => {
    await owner.query("SELECT pg_advisory_xact_lock(7700, 0)");
    await owner.query("CREATE SCHEMA IF NOT EXISTS scopefloor");
    await owner.query(
      "CREATE TABLE IF NOT EXISTS scopefloor.migration (number int PRIMARY KEY, hash text NOT NULL, at timestamptz NOT NULL DEFAULT now())",
    );
    const applied = await owner.query("SELECT number, hash FROM scopefloor.migration ORDER BY number");
    if (applied[0]?.hash === BEFORE_FIRST_RELEASE) {
      throw new Error(
        "the database is from before the first release and cannot be upgraded: move it (the data folder, or the PostgreSQL database) away and start with an empty one",
      );
    }
    if (applied.length > files.length) {
      throw new Error(
        `the database is at migration ${applied.length} and this version of scopefloor knows ${files.length}: start a newer version`,
      );
    }
    for (const [number, row] of applied.entries()) {
      if (row.hash !== files[number]?.hash) {
        throw new Error(
          `migration ${number} of the database is not the one of this version: it was migrated by another build`,
        );
      }
    }
    for (const [number, file] of files.entries()) {
      if (number < applied.length) continue;
      await lendDefiner(owner, true);
      for (const statement of file.sql) {
        await owner.query(statement);
        if (statement.includes("DROP POLICY")) await openToDefiner(owner);
      }
      await owner.query("INSERT INTO scopefloor.migration (number, hash) VALUES ($1, $2)", [number, file.hash]);
    }
    await lendDefiner(owner, false);
    if (database.kind === "embedded") await closeSetConfig(owner);
    else await closeTemporary(owner);
  };
  await retried(ATTEMPTS, () => inTransaction(database.owner, all));
}

/**
 * An owner that is no superuser replaces and hands over the definer's functions while it migrates, and
 * has none of the definer's rights otherwise.
 */
async function lendDefiner(owner: Transaction, isLent: boolean): Promise<void> {
  await owner.query(`
    DO $$ BEGIN
      IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND to_regrole('scopefloor_definer') IS NOT NULL THEN
        EXECUTE format('GRANT scopefloor_definer TO %I WITH INHERIT ${isLent ? "TRUE" : "FALSE"}, SET TRUE', current_user);
      END IF;
    END $$`);
}

/**
 * Where a migration has dropped the policies, to make them anew at its end, row security lets nobody through
 * who is not a superuser: what it fills in between would find no row.
 */
async function openToDefiner(owner: Transaction): Promise<void> {
  await owner.query(`
    DO $$ DECLARE t record; BEGIN
      FOR t IN SELECT c.oid::regclass AS name FROM pg_class c
               WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'migration'
                 AND NOT EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'definer') LOOP
        EXECUTE format('CREATE POLICY definer ON %s TO scopefloor_definer USING (true) WITH CHECK (true)', t.name);
      END LOOP;
    END $$`);
}

/** See embedded.ts. The definer functions keep it: enter leaves the ticket with it. */
async function closeSetConfig(owner: Transaction): Promise<void> {
  await owner.query(
    `REVOKE EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) FROM PUBLIC;
     GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO scopefloor_definer`,
  );
}

/** Each time: a dump that is restored into a new database does not bring the database's own privileges along. */
async function closeTemporary(owner: Transaction): Promise<void> {
  await owner.query(`
    DO $$ BEGIN
      IF pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'MEMBER') THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
      END IF;
    END $$`);
}

/** `ahead`: the database has all that this version knows, and more: a newer version has been there. */
export type MigrationState = "behind" | "current" | "ahead";

/** Asks how a database stands to this code's version; the files are read once. */
export function migrationCheck(folder = MIGRATIONS): (lease: Transaction) => Promise<MigrationState> {
  const hashes = readMigrationFiles({ migrationsFolder: folder }).map((file) => file.hash);
  return async (lease) => {
    const [known] = await lease.query("SELECT to_regclass('scopefloor.migration') IS NOT NULL AS known");
    if (known?.known !== true) return "behind";
    const applied = await lease.query("SELECT hash FROM scopefloor.migration ORDER BY number");
    if (!hashes.every((hash, i) => applied[i]?.hash === hash)) return "behind";
    return applied.length > hashes.length ? "ahead" : "current";
  };
}
