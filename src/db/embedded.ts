import { PGlite, types } from "@electric-sql/pglite";
import { vector } from "@electric-sql/pglite-pgvector";
import { AppError } from "../errors.ts";
import type { Database, Lease, Leases, Row } from "./lease.ts";
import { asInstant } from "./postgres.ts";

/** scopefloor is not in the search_path: a table can only be named with its schema. */
const SESSION = "SET search_path = pg_catalog, public; SET TimeZone = 'UTC'";

/** A queue longer than this is refused at its end. */
const MOST_WAITING = 1_000;

/** PGlite has one connection: one lease at a time, for all roles together. */
class Turnstile {
  #tail: Promise<void> = Promise.resolve();
  closed = false;
  #waiting = 0;

  async enter(): Promise<() => void> {
    if (this.closed) throw new AppError("unavailable", "the service is stopping", { retryAfter: 1 });
    if (this.#waiting >= MOST_WAITING)
      throw new AppError("unavailable", "the embedded database is busy", { retryAfter: 1 });
    this.#waiting++;
    const before = this.#tail;
    let leave = () => {};
    this.#tail = new Promise((resolve) => {
      leave = resolve;
    });
    await before;
    this.#waiting--;
    return leave;
  }

  async drained(): Promise<void> {
    this.closed = true;
    await this.#tail;
  }
}

class EmbeddedLeases implements Leases {
  readonly #pg: PGlite;
  readonly #turnstile: Turnstile;
  readonly #role: string | undefined;

  constructor(pg: PGlite, turnstile: Turnstile, role?: string) {
    this.#pg = pg;
    this.#turnstile = turnstile;
    this.#role = role;
  }

  async acquire(): Promise<Lease> {
    const leave = await this.#turnstile.enter();
    let released = false;
    const query = async (text: string, params: readonly unknown[] = []): Promise<Row[]> => {
      if (released) throw new Error("the lease was released: its connection may be another transaction's by now");
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
          await this.#pg.exec(`CLOSE ALL; RESET ALL; ${SESSION}; SELECT pg_catalog.pg_advisory_unlock_all()`);
        } finally {
          leave();
        }
      },
    };
  }

  async close(): Promise<void> {
    await this.#turnstile.drained();
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
    },
  });
  await pg.exec(SESSION);
  const turnstile = new Turnstile();
  return {
    kind: "embedded",
    warning: undefined,
    app: new EmbeddedLeases(pg, turnstile, "scopefloor_app"),
    worker: new EmbeddedLeases(pg, turnstile, "scopefloor_worker"),
    owner: new EmbeddedLeases(pg, turnstile),
    close: async () => {
      if (pg.closed) return;
      await turnstile.drained();
      await pg.close();
    },
  };
}

/** The embedded database as a file that {@link openEmbedded} can load: a migrated template for tests. */
export async function dumpEmbedded(prepare: (database: Database) => Promise<void>): Promise<Blob> {
  const pg = await PGlite.create({ extensions: { vector } });
  const turnstile = new Turnstile();
  const owner = new EmbeddedLeases(pg, turnstile);
  await prepare({
    kind: "embedded",
    warning: undefined,
    app: owner,
    worker: owner,
    owner,
    close: async () => undefined,
  });
  const dump = await pg.dumpDataDir("none");
  await pg.close();
  return dump;
}
