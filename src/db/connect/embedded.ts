import { PGlite, types } from "@electric-sql/pglite";
import { vector } from "@electric-sql/pglite-pgvector";
import { parseJson } from "../../exact-json.ts";
import { FairQueue } from "../../load/fair-queue.ts";
import { type Database, type Lease, type Leases, type Row, refuseLate } from "./lease.ts";
import { asInstant } from "./postgres.ts";

/** scopefloor is not in the search_path: a table can only be named with its schema. */
const SESSION = "SET search_path = pg_catalog, public; SET TimeZone = 'UTC'";

/** Everybody waits for the one connection: what takes longer is ended after the statement that it is at. */
const TRANSACTION_MS = 20_000;

/** PGlite has one connection: one lease at a time, for all roles together. */
const oneAtATime = () =>
  new FairQueue({ places: 1, waitMs: 60_000, mostWaiting: 1_000, whenFull: "the database is busy" });

class EmbeddedLeases implements Leases {
  readonly #pg: PGlite;
  readonly #queue: FairQueue;
  readonly #role: string | undefined;

  constructor(pg: PGlite, queue: FairQueue, role?: string) {
    this.#pg = pg;
    this.#queue = queue;
    this.#role = role;
  }

  async acquire(shareGroup?: string): Promise<Lease> {
    const leave = await this.#queue.enter(shareGroup);
    const since = performance.now();
    let released = false;
    const query = async (text: string, params: readonly unknown[] = []): Promise<Row[]> => {
      if (released) throw new Error("the lease was released: its connection may be another transaction's by now");
      if (this.#role !== undefined) refuseLate(since, TRANSACTION_MS, text);
      if (this.#role === undefined && params.length === 0) {
        const results = await this.#pg.exec(text); // the owner's migrations: several statements at once
        return (results.at(-1)?.rows ?? []) as Row[];
      }
      if (text === "BEGIN") {
        // One call: a statement that was queued meanwhile must not run before the role is taken.
        await this.#pg.exec(`BEGIN; SET LOCAL ROLE ${this.#role}`);
        return [];
      }
      const { rows } = await this.#pg.query<Row>(text, [...params]);
      return rows;
    };
    return {
      query,
      release: async () => {
        if (released) return;
        released = true;
        try {
          await this.#pg.exec(
            `CLOSE ALL; DEALLOCATE ALL; UNLISTEN *; RESET ALL; ${SESSION}; SELECT pg_catalog.pg_advisory_unlock_all()`,
          );
        } finally {
          leave();
        }
      },
    };
  }

  async close(): Promise<void> {
    await this.#queue.close();
  }
}

export interface EmbeddedOptions {
  /** A folder, or undefined for memory. */
  readonly dataDir?: string;
  readonly loadDataDir?: Blob;
}

/**
 * PostgreSQL in this process (PGlite), with the same roles and policies as a server.
 *
 * `set_config` is closed to all but the definer functions here: with it an injected expression
 * could leave the application's role, which on a server a separate login prevents. Whole statements
 * cannot be injected: only the extended protocol is used, one statement at a time.
 */
export async function openEmbedded(options: EmbeddedOptions): Promise<Database> {
  const pg = await PGlite.create({
    ...(options.dataDir === undefined ? {} : { dataDir: options.dataDir }),
    ...(options.loadDataDir === undefined ? {} : { loadDataDir: options.loadDataDir }),
    extensions: { vector },
    parsers: {
      [types.TIMESTAMPTZ]: asInstant,
      [types.INT8]: Number,
      [types.JSON]: parseJson,
      [types.JSONB]: parseJson,
    },
  });
  await pg.exec(SESSION);
  const queue = oneAtATime();
  return {
    kind: "embedded",
    app: new EmbeddedLeases(pg, queue, "scopefloor_app"),
    worker: new EmbeddedLeases(pg, queue, "scopefloor_worker"),
    owner: new EmbeddedLeases(pg, queue),
    close: async () => {
      if (pg.closed) return;
      await queue.close();
      await pg.close();
    },
  };
}

/**
 * The embedded database as a file that {@link openEmbedded} can load: a migrated template for tests. It is
 * as small as it can be, since each test reads all of it: a short log, no databases to copy from, few buffers.
 */
export async function dumpEmbedded(prepare: (database: Database) => Promise<void>): Promise<Blob> {
  const pg = await PGlite.create({ extensions: { vector }, initDbStartParams: ["--wal-segsize=1"] });
  await pg.exec(SESSION);
  const queue = oneAtATime();
  const owner = new EmbeddedLeases(pg, queue);
  await prepare({
    kind: "embedded",
    app: owner,
    worker: owner,
    owner,
    close: async () => undefined,
  });
  await pg.exec("UPDATE pg_database SET datistemplate = false WHERE datistemplate");
  await pg.exec("DROP DATABASE template0");
  await pg.exec("DROP DATABASE template1");
  await pg.exec("ALTER SYSTEM SET shared_buffers = '16MB'");
  await pg.exec("CHECKPOINT");
  const dump = await pg.dumpDataDir("none");
  await pg.close();
  return dump;
}
