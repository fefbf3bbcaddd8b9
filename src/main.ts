import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Logger } from "pino";
import { type Config, readConfig } from "./config.ts";
import type { Database } from "./db/connect/lease.ts";
import { longestTransactionMs, openDatabase } from "./db/connect/open.ts";
import { isLoopback, refuseSuperuser } from "./db/connect/warnings.ts";
import { whatToDo } from "./db/connect/what-to-do.ts";
import { AppError } from "./errors.ts";
import { receiptJournal } from "./forget/replay/journal.ts";
import { isReplayed, replayReceipts } from "./forget/replay/replay.ts";
import { resealCredentials } from "./governance/credentials.ts";
import { startHousekeeping } from "./jobs/housekeeping.ts";
import { startSchedules } from "./jobs/schedules.ts";
import { ensureFirstKey, type FirstKey } from "./keys/first-key.ts";
import { createLog, logStream } from "./log.ts";
import { startSettling } from "./metering/settling.ts";
import { CredentialSeal } from "./models/credentials.ts";
import { createService, prepareDatabase } from "./service.ts";
import { openReceiptKey, ReceiptSigner } from "./traces/receipt-signer.ts";

/** How long a stop waits for requests that are under way. */
const DRAIN_MS = 25_000;

async function main(): Promise<void> {
  const config = readConfig(process.env);
  const log = createLog(config.logLevel, await logStream(process.stdout.isTTY));
  const database = await openDatabase(config);
  await refuseSuperuser(
    database,
    config.allowSuperuser || config.databaseUrl === undefined || isLoopback(config.databaseUrl),
  );
  const mayMigrate = config.role !== "api" || config.databaseOwnerUrl !== undefined;
  const { context, models, reranker, deployment, proxy, quotas } = config;
  await prepareDatabase(database, { context, mayMigrate, log, models, deployment });
  const firstKey: FirstKey = mayMigrate
    ? await ensureFirstKey(database, { configured: config.managementKey, dataDir: config.dataDir })
    : { from: "elsewhere" };
  const { receiptsFile } = config;
  // Before anyone is answered: this may be a backup from before a forget.
  if (receiptsFile !== undefined && mayMigrate) await replayReceipts(database, receiptsFile, log);
  else if (receiptsFile !== undefined && !(await isReplayed(database, receiptsFile))) {
    throw new Error(
      "the receipts file (SCOPEFLOOR_RECEIPTS) lists forgets that this database has not applied; start a worker first to repeat them",
    );
  }

  const housekeeping =
    config.role === "api"
      ? undefined
      : startHousekeeping(database, {
          log,
          graphFrom: config.graphFrom,
          overdueMs: 2 * longestTransactionMs(config),
          journal: receiptsFile === undefined ? undefined : receiptJournal(database, receiptsFile),
        });
  const settling = config.role === "api" ? undefined : startSettling(database, log);
  const schedules = config.role === "api" ? undefined : startSchedules(database, log);
  const worker = config.role === "api" ? undefined : { concurrency: config.jobs };
  const signer = await receiptSigner(database, config, mayMigrate, log);
  if (config.role !== "api") await resealCredentials(database, new CredentialSeal(models.credentialKeys), log);
  const service = await createService(database, { context, log, models, reranker, signer, worker, proxy, quotas });
  const server = config.role === "worker" ? undefined : await listen(createServer(service.app.callback()), config);
  if (server) announce(server, config, firstKey, log);

  const stop = async (signal: string) => {
    log.info({ signal }, "stopping");
    // Whatever hangs, the process ends.
    setTimeout(() => fail(new Error("stopping took too long")), DRAIN_MS + 10_000).unref();
    service.drain();
    if (server) await close(server);
    await service.settled();
    await settling?.stop();
    await schedules?.stop();
    await housekeeping?.stop();
    await database.close();
    log.info("stopped");
    process.exit(0);
  };
  let stopping = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      // A second signal does not cut the first one's stop short.
      if (stopping) return;
      stopping = true;
      stop(signal).catch(fail);
    });
  }
}

/** Signs with a key whose public half the database knows: a process that may not put it there signs with one that is. */
async function receiptSigner(database: Database, config: Config, mayRegister: boolean, log: Logger) {
  const signer = await ReceiptSigner.of(
    await openReceiptKey({ configured: config.receiptKey, dataDir: config.dataDir }),
  );
  if (mayRegister) return signer.register(database);
  if (await signer.isKnown(database)) return signer;
  log.warn("receipts are not signed here: set SCOPEFLOOR_RECEIPT_KEY to the worker's key, or DATABASE_OWNER_URL");
  return undefined;
}

async function listen(server: Server, config: Config): Promise<Server> {
  server.requestTimeout = 60_000;
  server.maxConnections = config.maxConnections;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(config.port, config.host, resolve);
  });
  return server;
}

/** Stops accepting, lets the requests under way finish, then drops what is left. */
async function close(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  const timer = setTimeout(() => server.closeAllConnections(), DRAIN_MS);
  await closed;
  clearTimeout(timer);
}

/** On a first start, what a newcomer needs in plain words; later a line in the log. */
function announce(server: Server, config: Config, key: FirstKey, log: Logger): void {
  const { port } = server.address() as AddressInfo;
  const host = config.host === "0.0.0.0" ? "127.0.0.1" : config.host.includes(":") ? `[${config.host}]` : config.host;
  const url = `http://${host}:${port}/api/v1`;
  log.info(
    { url, context: config.context, database: config.databaseUrl === undefined ? "embedded" : "postgres" },
    "serving",
  );
  if (key.from !== "file" || !key.created) return;
  const headers = `-H "Authorization: Bearer $(cat ${key.path})" -H 'Content-Type: application/json'`;
  process.stdout.write(`
Scopefloor is at   ${url}
Context            ${config.context}
Database           ${config.databaseUrl === undefined ? `embedded, in ${config.dataDir}` : "PostgreSQL"}
Management key     in ${key.path}

See it at work:                npm run try
Check what it is started with: npm run doctor
Remember something for a first tenant:
  curl -s ${url}/${config.context}/facts ${headers} -d '{"text": "Acme ships on Fridays", "scopes": "org/acme"}'

`);
}

function fail(error: unknown): never {
  process.stderr.write(`scopefloor: ${reasonOf(error)}\n`);
  process.exit(1);
}

/** Why it could not start, and what to do about it. */
function reasonOf(error: unknown): string {
  const { port, path, message } = error as NodeJS.ErrnoException & { port?: number };
  const code = codeIn(error);
  if (code === "EADDRINUSE" && port !== undefined) return `port ${port} is in use: end what listens there, or set PORT`;
  if (code === "EACCES" && port !== undefined)
    return `port ${port} is not this user's to listen on: set PORT to 1024 or more`;
  if (code === "EADDRNOTAVAIL")
    return "HOST is no address of this machine: set it to one, such as 127.0.0.1 or 0.0.0.0";
  if (code === "EACCES" || code === "EROFS")
    return `${path ?? "the data folder"} cannot be written: set SCOPEFLOOR_DATA_DIR to a folder of this user`;
  if (code === "ENOSPC") return "the disk is full: make room, or set SCOPEFLOOR_DATA_DIR to a folder elsewhere";
  if (code !== undefined && /^(ECONN|ENOTFOUND|EAI_AGAIN|28|3D000|42501|CONNECT)/.test(code))
    return `the database cannot be used (${code}): ${whatToDo(code)}; scopefloor doctor checks all of it`;
  if (error instanceof AppError && error.slug === "unavailable")
    return `${message}: the server of DATABASE_URL does not answer, or does not let this login in; scopefloor doctor says which`;
  return message ?? String(error);
}

/** An error's code, or its cause's. */
function codeIn(error: unknown): string | undefined {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 6; cause = cause.cause, depth++) {
    const { code } = cause as NodeJS.ErrnoException;
    if (typeof code === "string") return code;
  }
  return undefined;
}

main().catch(fail);
