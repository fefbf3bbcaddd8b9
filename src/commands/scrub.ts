import { parseArgs } from "node:util";
import { readConfig } from "../config.ts";
import { openDatabase } from "../db/connect/open.ts";
import { scrub } from "../db/upkeep/scrub.ts";

const USAGE = `usage: scopefloor scrub

with the environment of the service (DATABASE_URL or SCOPEFLOOR_DATA_DIR, DATABASE_OWNER_URL)`;

/**
 * Takes the bytes of what was forgotten out of the database's files. Run it after a forget, with the
 * environment of the service; the embedded database's service has to be stopped. Gives 1 when a step
 * failed.
 */
export async function scrubDatabase(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> {
  const { values } = parseArgs({ args: [...args], options: { help: { type: "boolean", default: false } } });
  if (values.help) {
    process.stderr.write(`${USAGE}\n`);
    return 0;
  }
  const database = await openDatabase(readConfig(environment));
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
