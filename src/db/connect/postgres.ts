import postgres from "postgres";
import { AppError } from "../../errors.ts";
import { parseJson, stringifyJson } from "../../exact-json.ts";
import { FairQueue } from "../../load/fair-queue.ts";
import { type Lease, type Leases, type Row, refuseLate } from "./lease.ts";

export interface PostgresLeasesOptions {
  readonly url: string;
  /** Connections at most; they are opened as they are needed. */
  readonly size: number;
  /** Of a statement, and of the wait for a free connection, in ms. */
  readonly timeoutMs: number;
  /** The role of every connection from its start on, where the login is not that role's own. */
  readonly role?: string;
  readonly applicationName: string;
  readonly onNotice?: ((message: string) => void) | undefined;
  /** The owner's connection runs migrations: no statement timeout, and the simple protocol. */
  readonly owner?: boolean;
}

/**
 * Ends a lease clean, in one message. Prepared statements stay: preparing them anew costs more than
 * the rest of a small request (docs/measurements.md). But for those that were prepared in SQL, which
 * only an injected statement does: under the name of a cached one it would run in the next tenant's
 * transaction. A connection that has any, which the last of these statements tells, is thrown away.
 */
const CLEANSE = [
  "CLOSE ALL",
  "DISCARD TEMP",
  "RESET ALL",
  "RESET ROLE",
  "UNLISTEN *",
  "SELECT pg_catalog.pg_advisory_unlock_all()",
  "SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE from_sql LIMIT 1",
].join("; ");

/** postgres.js has the option and its types do not: without it a statement without values is simple. */
const protocol = (simple: boolean) => ({ prepare: !simple, simple }) as postgres.UnsafeQueryOptions;

/** A client of exactly one connection, and whether that connection has ever closed. */
interface Client {
  readonly sql: postgres.Sql;
  closed: boolean;
  /** Told when it closes: postgres.js leaves some statements that were queued then without an answer. */
  readonly onLost: Set<() => void>;
}

const lost = () => new AppError("unavailable", "the database connection was lost", { retryAfter: 1 });

/** postgres.js has these as booleans in its types, and sends none that is false. */
const OFF = "off" as unknown as boolean;

/** A transaction takes at most so many times what a statement may. */
export const TRANSACTION_TIMEOUTS = 2;

/** All that the service relies on, as PostgreSQL has it by default: said at the connection's start it wins over settings of the login and the database. */
const SETTINGS = {
  default_transaction_read_only: OFF,
  default_transaction_isolation: "read committed",
  default_transaction_deferrable: OFF,
  row_security: "on",
  synchronous_commit: "on",
  client_encoding: "UTF8",
  DateStyle: "ISO, MDY",
  IntervalStyle: "postgres",
  bytea_output: "hex",
  extra_float_digits: "1",
  standard_conforming_strings: "on",
  default_text_search_config: "pg_catalog.english",
  plan_cache_mode: "auto",
  enable_seqscan: "on",
  enable_indexscan: "on",
  enable_indexonlyscan: "on",
  enable_bitmapscan: "on",
  enable_nestloop: "on",
  enable_hashjoin: "on",
  enable_mergejoin: "on",
  enable_sort: "on",
  enable_hashagg: "on",
  enable_material: "on",
} as const;

/** Past the server's own timeout, in ms: then the network, not the statement, is to blame. */
const GRACE_MS = 2_000;

/** JSON travels as text both ways, so that a string is never encoded twice. */
const asText = (value: unknown) => (typeof value === "string" ? value : stringifyJson(value));

/** RFC 3339 in UTC; what JavaScript cannot read (a year BC) stays as the database spells it. */
export function asInstant(text: string): string {
  const instant = new Date(text);
  return Number.isNaN(instant.getTime()) ? text : instant.toISOString();
}

function connect(options: PostgresLeasesOptions): Client {
  const client: Omit<Client, "sql"> & { sql?: postgres.Sql } = { closed: false, onLost: new Set() };
  client.sql = postgres(options.url, {
    max: 1,
    prepare: true,
    fetch_types: false,
    // Neither may end the connection by itself: postgres.js would open another under the lease.
    idle_timeout: 0,
    max_lifetime: null,
    connect_timeout: Math.max(1, Math.ceil(options.timeoutMs / 1000)),
    onnotice: (notice) => options.onNotice?.(notice.message ?? ""),
    onclose: () => {
      client.closed = true;
      for (const tell of client.onLost) tell();
    },
    connection: {
      application_name: options.applicationName,
      // scopefloor is not in it: a table can only be named with its schema.
      search_path: options.owner ? "public, pg_catalog" : "pg_catalog, public",
      TimeZone: "UTC",
      ...(options.role === undefined ? {} : { role: options.role }),
      ...(options.owner
        ? {}
        : {
            statement_timeout: options.timeoutMs,
            lock_timeout: options.timeoutMs,
            // Compiling took 500 ms of a ranking that ran for 50: its costs are estimated far too high.
            jit: "off",
            // A ranking of a large scope stays in memory.
            work_mem: "32MB",
            idle_in_transaction_session_timeout: 60_000,
            transaction_timeout: options.timeoutMs * TRANSACTION_TIMEOUTS,
            // What a login's own settings may be is no matter (ALTER ROLE … SET is open to every role for itself).
            ...SETTINGS,
          }),
    },
    types: {
      json: { to: 3802, from: [114, 3802], serialize: asText, parse: parseJson },
      time: { to: 1184, from: [1184], serialize: String, parse: asInstant },
      bigint: { to: 20, from: [20], serialize: String, parse: Number },
    },
  });
  return client as Client;
}

class PostgresLease implements Lease {
  readonly #client: Client;
  readonly #done: (usable: boolean) => void;
  readonly #options: PostgresLeasesOptions;
  readonly #since = performance.now();
  #released = false;
  #aborted = false;

  constructor(client: Client, options: PostgresLeasesOptions, done: (usable: boolean) => void) {
    this.#client = client;
    this.#options = options;
    this.#done = done;
  }

  async query(text: string, params: readonly unknown[] = []): Promise<Row[]> {
    if (!this.#options.owner) refuseLate(this.#since, this.#options.timeoutMs * TRANSACTION_TIMEOUTS, text);
    if (this.#released) throw new Error("the lease was released: its connection may be another transaction's by now");
    if (this.#client.closed) throw lost();
    try {
      // The extended protocol everywhere but in migrations: no stacked statements.
      return await this.#answered(text, params, this.#options.owner === true && params.length === 0);
    } catch (error) {
      this.#aborted ||= !(error instanceof postgres.PostgresError);
      throw error;
    }
  }

  /** The answer, or a failure when the connection is lost or says nothing for too long. */
  #answered(text: string, params: readonly unknown[], simple: boolean): Promise<Row[]> {
    return new Promise((resolve, reject) => {
      const fail = () => reject(lost());
      const timer = this.#options.owner ? undefined : setTimeout(fail, this.#options.timeoutMs + GRACE_MS);
      this.#client.onLost.add(fail);
      this.#client.sql
        .unsafe(text, params as postgres.SerializableParameter[], protocol(simple))
        .then((rows) => resolve(rows as Row[]), reject)
        .finally(() => {
          clearTimeout(timer);
          this.#client.onLost.delete(fail);
        });
    });
  }

  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    if (this.#client.closed || this.#aborted) return this.#done(false);
    try {
      const results = (await this.#answered(CLEANSE, [], true)) as unknown as Row[][];
      this.#done(!this.#client.closed && results.at(-1)?.length === 0);
    } catch {
      this.#done(false);
    }
  }
}

/** Leases over postgres.js: a set of single-connection clients, handed out by a fair queue. */
export class PostgresLeases implements Leases {
  readonly #options: PostgresLeasesOptions;
  readonly #queue: FairQueue;
  readonly #idle: Client[] = [];

  constructor(options: PostgresLeasesOptions) {
    this.#options = options;
    this.#queue = new FairQueue({
      places: options.size,
      waitMs: options.timeoutMs,
      whenFull: "all database connections are busy",
    });
  }

  async acquire(shareGroup?: string): Promise<Lease> {
    const leave = await this.#queue.enter(shareGroup);
    const client = this.#idleClient() ?? connect(this.#options);
    return new PostgresLease(client, this.#options, (usable) => {
      if (usable) this.#idle.push(client);
      else discard(client);
      leave();
    });
  }

  #idleClient(): Client | undefined {
    for (let client = this.#idle.pop(); client; client = this.#idle.pop()) {
      if (!client.closed) return client;
      discard(client);
    }
    return undefined;
  }

  async close(): Promise<void> {
    await this.#queue.close();
    await Promise.all(this.#idle.splice(0).map((client) => client.sql.end({ timeout: 5 })));
  }
}

/** Closes without waiting; what was still queued on the client is refused, not sent. */
function discard(client: Client): void {
  client.closed = true;
  for (const tell of client.onLost) tell();
  client.sql.end({ timeout: 0 }).catch(() => undefined);
}
