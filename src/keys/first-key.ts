import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { v7 as uuid } from "uuid";
import { type Database, inTransaction } from "../db/lease.ts";
import { hashSecret, newSecret } from "./secret.ts";

/** Where the first management key is; the key itself is never printed. */
export type FirstKey =
  | { readonly from: "environment" }
  | { readonly from: "file"; readonly path: string; readonly created: boolean }
  | { readonly from: "elsewhere" };

/**
 * Makes sure that the Context has its first management key: the configured one, or the one in
 * `<data dir>/management.key`, or a new one in that file (mode 0600).
 */
export async function ensureFirstKey(
  database: Database,
  options: { configured: string | undefined; dataDir: string },
): Promise<FirstKey> {
  const path = resolve(join(options.dataDir, "management.key"));
  if (options.configured !== undefined) {
    await setFirstKey(database, options.configured);
    return { from: "environment" };
  }
  const kept = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (kept !== undefined) {
    await setFirstKey(database, kept.trim());
    return { from: "file", path, created: false };
  }
  // Another replica made it, or its file is gone: a new one would lock the others out.
  const [row] = await inTransaction(database.owner, (owner) =>
    owner.query("SELECT scopefloor.has_first_key() AS known"),
  );
  if (row?.known === true) return { from: "elsewhere" };
  await mkdir(options.dataDir, { recursive: true });
  const secret = newSecret("management");
  await writeFile(path, `${secret}\n`, { mode: 0o600, flag: "wx" });
  await chmod(path, 0o600);
  await setFirstKey(database, secret);
  return { from: "file", path, created: true };
}

async function setFirstKey(database: Database, secret: string): Promise<void> {
  if (!/^[\x21-\x7e]{32,512}$/.test(secret)) {
    throw new Error("the first management key must have 32 to 512 printable characters without spaces");
  }
  await inTransaction(database.owner, (owner) =>
    owner.query("SELECT scopefloor.set_first_key($1, $2)", [uuid(), hashSecret(secret)]),
  );
}
