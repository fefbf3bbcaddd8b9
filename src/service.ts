import type Koa from "koa";
import type { Logger } from "pino";
import { type Database, inTransaction } from "./db/lease.ts";
import { migrate, migrationCheck } from "./db/migrate.ts";
import { createApp } from "./http/app.ts";
import { KeyTouches } from "./keys/touch.ts";
import { localEmbedder } from "./models/embedder.ts";
import { readinessOf } from "./readiness.ts";

export interface Service {
  readonly app: Koa;
  /** From now on readiness is 503 and connections close after their answer. */
  drain(): void;
  /** Waits for what runs in the background. The database stays open. */
  settled(): Promise<void>;
}

export interface ServiceOptions {
  readonly context: string;
  readonly log: Logger;
}

/** Migrates, where this process may, and registers the Context and the embedding model. */
export async function prepareDatabase(
  database: Database,
  options: { context: string; mayMigrate: boolean },
): Promise<void> {
  if (!options.mayMigrate) {
    if (await inTransaction(database.app, migrationCheck())) return;
    throw new Error("the database is not at this version: start a worker first, or set DATABASE_OWNER_URL here");
  }
  await migrate(database);
  await localEmbedder(database, true);
  await inTransaction(database.owner, (owner) =>
    owner.query("SELECT scopefloor.ensure_context($1)", [options.context]),
  );
}

/** The application over a prepared database. It does not listen. */
export async function createService(database: Database, { context, log }: ServiceOptions): Promise<Service> {
  const touches = new KeyTouches(database.app);
  let serving = true;
  const isServing = () => serving;
  const app = createApp({
    database,
    embedder: await localEmbedder(database, false),
    context,
    log,
    touchKey: (keyHash) => touches.touch(keyHash),
    isServing,
    readiness: readinessOf(database, isServing),
  });
  return {
    app,
    drain: () => {
      serving = false;
    },
    settled: () => touches.settled(),
  };
}
