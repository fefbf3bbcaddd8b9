import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import postgres from "postgres";
import { inject } from "vitest";
import { openEmbedded } from "../../src/db/connect/embedded.ts";
import { type Database, inTransaction, type Row } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { withDatabase } from "./template.ts";

/** A migrated database of its own, on whichever kind the suite runs against. */
export interface TestDatabase extends Database {
  /** The owner's URL, on PostgreSQL. */
  readonly url: string | undefined;
  /** As the owner: what a test looks at or breaks from outside. */
  sql(text: string, params?: readonly unknown[]): Promise<Row[]>;
  drop(): Promise<void>;
}

export const onPostgres = () => inject("postgresTemplate") !== undefined;

/** Puts the migrated embedded database into a data folder, so that a process which starts there need not make one. */
export async function unpackTemplate(dataDir: string): Promise<void> {
  const file = inject("embeddedTemplate");
  if (file === undefined) return;
  await mkdir(join(dataDir, "db"), { recursive: true, mode: 0o700 });
  await promisify(execFile)("tar", ["-xf", file, "-C", join(dataDir, "db")]);
}

export async function createTestDatabase(
  options: { connections?: number; timeoutMs?: number; onNotice?: (message: string) => void } = {},
): Promise<TestDatabase> {
  const template = inject("postgresTemplate");
  if (template === undefined) {
    const file = inject("embeddedTemplate");
    if (file === undefined) throw new Error("no template");
    const database = await openEmbedded({ loadDataDir: new Blob([new Uint8Array(await readFile(file))]) });
    return {
      ...database,
      url: undefined,
      // One statement with values, or several without.
      sql: (text, params) => inTransaction(database.owner, (owner) => owner.query(text, params)),
      drop: () => database.close(),
    };
  }
  const name = `scopefloor_test_${randomBytes(6).toString("hex")}`;
  const admin = postgres(template.url, { max: 1, onnotice: () => undefined });
  await admin.unsafe(`CREATE DATABASE ${name} TEMPLATE ${template.name}`);
  // A copy does not take the database's own privileges along.
  await admin.unsafe(`REVOKE TEMPORARY ON DATABASE ${name} FROM PUBLIC`);
  const url = withDatabase(template.url, name);
  const database = openPostgres({
    app: url,
    connections: options.connections ?? 8,
    timeoutMs: options.timeoutMs ?? 10_000,
    ...(options.onNotice === undefined ? {} : { onNotice: options.onNotice }),
  });
  return {
    ...database,
    url,
    sql: (text, params) => inTransaction(database.owner, (owner) => owner.query(text, params)),
    drop: async () => {
      await database.close();
      await admin.unsafe(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}
