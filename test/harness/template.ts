/** Runs once: makes the migrated template that every test database is a copy of. */
import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import postgres from "postgres";
import type { ProvidedContext } from "vitest";
import type { TestProject } from "vitest/node";
import { dumpEmbedded } from "../../src/db/connect/embedded.ts";
import type { Database } from "../../src/db/connect/lease.ts";
import { openPostgres } from "../../src/db/connect/open.ts";
import { createLog } from "../../src/log.ts";
import { prepareDatabase } from "../../src/service.ts";
import { mutateDatabase } from "../mutants/apply.ts";
import { buildService } from "./build.ts";
import { checkPlans, type SentStatement } from "./plans.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** A file that PGlite loads, or undefined on PostgreSQL. */
    embeddedTemplate: string | undefined;
    /** The server's URL and the template database's name, or undefined when embedded. */
    postgresTemplate: { url: string; name: string } | undefined;
    /** The folder of the built service (build.ts). */
    built: string;
    /** The built parser of documents. */
    parser: string;
    /** A folder for the statements that were sent (statement-proof.ts). */
    statements: string;
  }
}

type PostgresTemplate = NonNullable<ProvidedContext["postgresTemplate"]>;

export const withDatabase = (url: string, name: string) => {
  const changed = new URL(url);
  changed.pathname = `/${name}`;
  return changed.toString();
};

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const built = await buildService();
  project.provide("built", built.folder);
  project.provide("parser", join(built.folder, "src/documents/parsing/parser-process.js"));
  const { postgres, remove: removeTemplate } = await makeTemplate(project);
  const checkStatements = await collectStatements(project, postgres);
  return async () => {
    await built.remove();
    // Vitest only prints what fails here.
    await checkStatements().catch((error: unknown) => {
      process.stderr.write(`${(error as Error).message}\n`);
      process.exitCode = 1;
    });
    await removeTemplate();
  };
}

/** When the suite is done, the plans of what it sent are looked at too, and it is said how many there were. */
async function collectStatements(project: TestProject, database?: PostgresTemplate): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "scopefloor-statements-"));
  project.provide("statements", folder);
  return async () => {
    const files = await Promise.all((await readdir(folder)).map((name) => readFile(join(folder, name), "utf8")));
    const lines = new Set(files.flatMap((file) => file.split("\n").filter(Boolean)));
    await rm(folder, { recursive: true });
    const statements = [...lines].map((line) => JSON.parse(line) as SentStatement);
    const plans = database === undefined ? 0 : await checkPlans(withDatabase(database.url, database.name), statements);
    const seen = plans === 0 ? "" : `, and both locks seen in ${plans} plans`;
    process.stdout.write(`${statements.length} distinct statements of the service were proven${seen}\n`);
  };
}

async function prepare(database: Database): Promise<void> {
  await prepareDatabase(database, { context: "default", mayMigrate: true, log: createLog("silent") });
  await mutateDatabase(database);
}

async function makeTemplate(
  project: TestProject,
): Promise<{ postgres?: PostgresTemplate; remove: () => Promise<void> }> {
  const url = process.env.TEST_DATABASE_URL;
  if (url === undefined) {
    const folder = await mkdtemp(join(tmpdir(), "scopefloor-template-"));
    const dump = await dumpEmbedded(prepare);
    const file = join(folder, "template.tar");
    await writeFile(file, Buffer.from(await dump.arrayBuffer()));
    project.provide("embeddedTemplate", file);
    project.provide("postgresTemplate", undefined);
    return { remove: () => rm(folder, { recursive: true }) };
  }
  const name = `scopefloor_template_${randomBytes(4).toString("hex")}`;
  const admin = postgres(url, { max: 1, onnotice: () => undefined });
  await admin.unsafe(`CREATE DATABASE ${name}`);
  const database = openPostgres({ app: withDatabase(url, name), connections: 2, timeoutMs: 30_000 });
  await prepare(database);
  await database.close();
  project.provide("embeddedTemplate", undefined);
  project.provide("postgresTemplate", { url, name });
  return {
    postgres: { url, name },
    remove: async () => {
      await admin.unsafe(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}
