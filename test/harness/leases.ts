import type { Lease, Leases, Row } from "../../src/db/connect/lease.ts";

/** The leases, with each of their statements sent by `query`: to look at it, or to say it or its answer in another way. */
export function withQuery(
  leases: Leases,
  query: (lease: Lease, text: string, params: readonly unknown[] | undefined) => Promise<Row[]>,
): Leases {
  return {
    close: () => leases.close(),
    acquire: async (turn) => {
      const lease = await leases.acquire(turn);
      return { release: () => lease.release(), query: (text, params) => query(lease, text, params) };
    },
  };
}
