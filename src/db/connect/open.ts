import { mkdir } from "node:fs/promises";
import { openEmbedded } from "./embedded.ts";
import { lockFolder } from "./folder-lock.ts";
import type { Database } from "./lease.ts";
import { PostgresLeases, TRANSACTION_TIMEOUTS } from "./postgres.ts";

export interface PostgresUrls {
  readonly app: string;
  /** Both default to `app`: then the service takes its roles by itself. */
  readonly worker?: string;
  readonly owner?: string;
  readonly connections: number;
  /** Jobs at work at the same time: each has a connection, and one more polls the queue. */
  readonly jobs?: number;
  readonly timeoutMs: number;
  /** What the server tells the application's and the worker's connections beside its answers; absent: nobody hears it. */
  readonly onNotice?: (message: string) => void;
}

/**
 * PostgreSQL with up to three logins. With one URL every connection still starts in the
 * application's role, but an injected `set_config('role', …)` could leave it (warnings.ts).
 */
export function openPostgres(urls: PostgresUrls): Database {
  const { timeoutMs } = urls;
  const app = new PostgresLeases({
    url: urls.app,
    size: urls.connections,
    timeoutMs,
    applicationName: "scopefloor",
    role: "scopefloor_app",
    onNotice: urls.onNotice,
  });
  const few = { size: 2, timeoutMs };
  const worker = new PostgresLeases({
    ...few,
    size: (urls.jobs ?? 2) + 2,
    url: urls.worker ?? urls.app,
    applicationName: "scopefloor worker",
    role: "scopefloor_worker",
    onNotice: urls.onNotice,
  });
  const owner = new PostgresLeases({
    ...few,
    url: urls.owner ?? urls.app,
    applicationName: "scopefloor owner",
    owner: true,
  });
  return {
    kind: "postgres",
    app,
    worker,
    owner,
    close: async () => {
      await Promise.all([app.close(), worker.close(), owner.close()]);
    },
  };
}

/** Where the database is, as configured. */
export interface DatabaseSettings {
  /** Unset: the embedded database, in the data folder. */
  readonly databaseUrl: string | undefined;
  readonly databaseWorkerUrl: string | undefined;
  readonly databaseOwnerUrl: string | undefined;
  readonly dataDir: string;
  readonly dbConnections: number;
  readonly dbTimeoutMs: number;
  /** Jobs at work at the same time. */
  readonly jobs: number;
}

/** What the service's own transactions take at most, in ms. */
export const longestTransactionMs = ({ dbTimeoutMs }: Pick<DatabaseSettings, "dbTimeoutMs">): number =>
  dbTimeoutMs * TRANSACTION_TIMEOUTS;

export async function openDatabase(config: DatabaseSettings): Promise<Database> {
  if (config.databaseUrl === undefined) {
    for (const folder of [config.dataDir, `${config.dataDir}/db`])
      await mkdir(folder, { recursive: true, mode: 0o700 });
    const release = await lockFolder(config.dataDir);
    const database = await openEmbedded({ dataDir: `${config.dataDir}/db` });
    return {
      ...database,
      close: async () => {
        await database.close();
        await release();
      },
    };
  }
  return openPostgres({
    app: config.databaseUrl,
    worker: config.databaseWorkerUrl,
    owner: config.databaseOwnerUrl,
    connections: config.dbConnections,
    jobs: config.jobs,
    timeoutMs: config.dbTimeoutMs,
  });
}
