#!/usr/bin/env node
/**
 * `scopefloor scrub`: takes the bytes of what was forgotten out of the database's files. Run it after
 * a forget, with the environment of the service; the embedded database's service has to be stopped.
 */
import { readConfig } from "./config.ts";
import { openDatabase } from "./db/open.ts";
import { scrub } from "./db/scrub.ts";

async function main(): Promise<number> {
  const database = await openDatabase(readConfig(process.env));
  let failed = 0;
  try {
    await scrub(database, ({ what, failed: why }) => {
      if (why !== undefined) failed++;
      process.stdout.write(why === undefined ? `ok    ${what}\n` : `FAIL  ${what}: ${why}\n`);
    });
  } finally {
    await database.close();
  }
  process.stdout.write(
    failed === 0
      ? "\nReplicas, archived segments of the write-ahead log and backups are not in reach: see docs/security.md\n"
      : `\n${failed} steps failed: give DATABASE_OWNER_URL a superuser's login\n`,
  );
  return failed === 0 ? 0 : 1;
}

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = 2;
  },
);
