import { link, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { v7 as uuid } from "uuid";
import { checkCaller } from "../db/access/enter.ts";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { AppError } from "../errors.ts";
import { hashSecret, newSecret } from "./secret.ts";

/** Where the first management key is; the key itself is never printed. */
export type FirstKey =
  | { readonly from: "environment" }
  | { readonly from: "file"; readonly path: string; readonly created: boolean }
  | { readonly from: "elsewhere" };

/**
 * Makes the Context's first management key where there has never been one: the configured one, the
 * one in `<data dir>/management.key`, or a new one in that file (mode 0600). Later starts change
 * nothing: a secret that was rotated or revoked does not come back with a restart.
 */
export async function ensureFirstKey(
  database: Database,
  options: { configured: string | undefined; dataDir: string },
): Promise<FirstKey> {
  if (options.configured !== undefined) {
    await makeFirstKey(database, options.configured);
    return { from: "environment" };
  }
  const path = resolve(join(options.dataDir, "management.key"));
  const kept = await readKey(path);
  if (kept !== undefined) {
    await makeFirstKey(database, kept);
    return { from: "file", path, created: false };
  }
  const secret = newSecret("management");
  await mkdir(options.dataDir, { recursive: true, mode: 0o700 });
  if (!(await writeWhole(path, `${secret}\n`))) return ensureFirstKey(database, options);
  // It opens also where another process of this folder has read the file meanwhile, and was faster.
  if ((await makeFirstKey(database, secret)) || (await opens(database, secret))) {
    return { from: "file", path, created: true };
  }
  // Another replica, or an earlier life of this Context, has made it: this secret opens nothing.
  await rm(path);
  return { from: "elsewhere" };
}

/** Makes the file with all of its text at once; false: another process of this folder was first. */
async function writeWhole(path: string, text: string): Promise<boolean> {
  const draft = `${path}.${uuid()}`;
  await writeFile(draft, text, { mode: 0o600, flag: "wx" });
  try {
    await link(draft, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    await rm(draft);
  }
}

async function readKey(path: string): Promise<string | undefined> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  return text?.trim();
}

const opens = (database: Database, secret: string) =>
  checkCaller(
    database.app,
    { keyHash: hashSecret(secret), onBehalfOf: undefined, route: "start", operation: "start" },
    "manage",
  ).then(
    () => true,
    (error: unknown) => {
      if (error instanceof AppError && error.slug === "unauthorized") return false;
      throw error;
    },
  );

/** Whether this call made it. */
async function makeFirstKey(database: Database, secret: string): Promise<boolean> {
  if (!/^[\x21-\x7e]{32,512}$/.test(secret)) {
    throw new Error("the first management key must have 32 to 512 printable characters without spaces");
  }
  const [row] = await inTransaction(database.owner, (owner) =>
    owner.query("SELECT scopefloor.set_first_key($1, $2) AS made", [uuid(), hashSecret(secret)]),
  );
  return row?.made === true;
}
