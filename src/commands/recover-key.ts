import { parseArgs } from "node:util";
import { readConfig } from "../config.ts";
import { inTransaction } from "../db/connect/lease.ts";
import { openDatabase } from "../db/connect/open.ts";
import { hashSecret, newSecret } from "../keys/secret.ts";

const USAGE = `usage: scopefloor recover-key

Gives the first management key another secret, for when every management key is lost, and prints it once.
It takes the service's environment: DATABASE_OWNER_URL, or of the embedded database, whose service is
stopped first, SCOPEFLOOR_DATA_DIR. The database is told a hash of the secret alone.`;

/** Prints the new secret; gives 1 where there has never been a first key. */
export async function recoverKey(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> {
  const { values } = parseArgs({ args: [...args], options: { help: { type: "boolean", default: false } } });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const database = await openDatabase(readConfig(environment));
  try {
    const secret = newSecret("management");
    const [row] = await inTransaction(database.owner, (owner) =>
      owner.query("SELECT scopefloor.recover_first_key($1) AS recovered", [hashSecret(secret)]),
    );
    if (row?.recovered !== true) {
      process.stderr.write("there is no first management key yet: the service makes it at its first start\n");
      return 1;
    }
    process.stdout.write(`${secret}\n`);
    return 0;
  } finally {
    await database.close();
  }
}
