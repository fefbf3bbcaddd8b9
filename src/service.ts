import type Koa from "koa";
import type { Logger } from "pino";
import { modelRegistry } from "./db/access/model-registry.ts";
import { type Database, inTransaction } from "./db/connect/lease.ts";
import { databaseWarnings } from "./db/connect/warnings.ts";
import { migrate, migrationCheck } from "./db/upkeep/migrate.ts";
import { createApp } from "./http/app.ts";
import { createMetrics } from "./http/metrics.ts";
import { queueDepth } from "./jobs/queue.ts";
import { Worker, type WorkerOptions } from "./jobs/worker.ts";
import { KeyTouches } from "./keys/touch.ts";
import { FairQueue } from "./load/fair-queue.ts";
import { type QuotaLimits, type QuotaOptions, Quotas } from "./load/quotas.ts";
import { ShareGroups } from "./load/share-groups.ts";
import { type ProxySettings, Strangers } from "./load/strangers.ts";
import { HoldBatcher } from "./metering/hold-batcher.ts";
import { BudgetedKeys } from "./metering/request-meter.ts";
import { opener } from "./models/credentials.ts";
import { Models } from "./models/models.ts";
import { registerModels } from "./models/register.ts";
import { Reranker, type RerankerSettings } from "./models/reranker.ts";
import { LOCAL_MODELS, type ModelSettings } from "./models/settings.ts";
import { readinessOf } from "./readiness.ts";
import { ANALYSER } from "./text/analysis/analyse.ts";
import type { ReceiptSigner } from "./traces/receipt-signer.ts";

/** At most 8 bodies of up to 16 MiB are in memory at once. */
const LARGE_BODIES = { places: 8, waitMs: 30_000, whenFull: "too many large bodies are being read" };
/** At most 16 uploads of up to 50 MiB are on the disk at once. */
const UPLOADS = { places: 16, waitMs: 30_000, whenFull: "too many uploads are being read" };
/** What one tenant may store, unless the operator says otherwise. */
export const DEFAULT_QUOTAS: QuotaLimits = {
  storedBytes: 20 * 1024 ** 3,
  passages: 5_000_000,
  sessions: 1_000_000,
  scopes: 100_000,
};
/** An audit report attacks the service over HTTP, so one runs at a time. */
const AUDIT_REPORTS = { places: 1, waitMs: 60_000, mostWaiting: 1, whenFull: "other audit reports are being made" };

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
  readonly models?: ModelSettings;
  /** Absent: answers stand as recall ranks them. */
  readonly reranker?: RerankerSettings | undefined;
  /** Absent: receipts are not signed. */
  readonly signer?: ReceiptSigner | undefined;
  /** Absent: {@link DEFAULT_QUOTAS}. */
  readonly quotas?: QuotaOptions | undefined;
  /** Absent: clients connect directly. */
  readonly proxy?: ProxySettings | undefined;
  /** Absent: another process is the worker. */
  readonly worker?: Partial<WorkerOptions>;
}

/** Migrates, where this process may, and registers the Context and the embedding model. */
export async function prepareDatabase(
  database: Database,
  options: {
    context: string;
    mayMigrate: boolean;
    log: Logger;
    models?: ModelSettings;
    deployment?: number | undefined;
  },
): Promise<void> {
  if (!options.mayMigrate) {
    if ((await inTransaction(database.app, migrationCheck())) === "current") return;
    throw new Error("the database is not at this version: start a worker first, or set DATABASE_OWNER_URL here");
  }
  await migrate(database);
  await inTransaction(database.owner, (owner) =>
    owner.query("SELECT scopefloor.number_deployment($1::int)", [options.deployment ?? null]),
  );
  await inTransaction(database.owner, (owner) => owner.query("SELECT scopefloor.close_side_channels()"));
  await registerModels(modelRegistry(database), options.models ?? LOCAL_MODELS, options.log);
  const [row] = await inTransaction(database.owner, (owner) =>
    owner.query("SELECT scopefloor.ensure_context($1, $2) AS scopes", [options.context, ANALYSER]),
  );
  if (row?.scopes !== 0) options.log.info({ scopes: row?.scopes }, "texts are analysed anew, in the background");
}

/** The application over a prepared database, and the worker where this process is one. It does not listen. */
export async function createService(database: Database, options: ServiceOptions): Promise<Service> {
  const { context, log } = options;
  const touches = new KeyTouches(database.app);
  const shareGroups = new ShareGroups();
  const holds = new HoldBatcher(database, (keyHash) => shareGroups.of(keyHash));
  const models = await Models.open(modelRegistry(database), options.models ?? LOCAL_MODELS, log);
  const warnings = await databaseWarnings(database);
  for (const warning of warnings) log.warn(warning);
  let serving = true;
  const isServing = () => serving;
  const worker =
    options.worker === undefined
      ? undefined
      : new Worker({ database, models, context, log, signer: options.signer }, options.worker).start();
  const app = createApp({
    database,
    shareGroups,
    strangers: new Strangers(options.proxy),
    intake: new FairQueue(LARGE_BODIES),
    uploads: new FairQueue(UPLOADS),
    quotas: new Quotas(options.quotas ?? DEFAULT_QUOTAS),
    metering: { database, holds, budgeted: new BudgetedKeys(), log },
    auditReports: new FairQueue(AUDIT_REPORTS),
    models,
    reranker:
      options.reranker === undefined
        ? undefined
        : new Reranker(options.reranker, opener(models.seal, models.settings.providerUrls)),
    signer: options.signer,
    context,
    log,
    metrics: createMetrics(() => queueDepth(database)),
    wakeWorker: () => worker?.wake(),
    touchKey: (keyHash) => touches.touch(keyHash),
    isServing,
    warnings,
    readiness: readinessOf(database, isServing, warnings),
  });
  return {
    app,
    drain: () => {
      serving = false;
    },
    settled: async () => {
      await Promise.all([touches.settled(), holds.settled(), worker?.stop()]);
    },
  };
}
