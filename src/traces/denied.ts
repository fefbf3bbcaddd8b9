import { type ScopedTransaction, sql } from "../db/access/scoped.ts";

export interface DeniedAttempt {
  readonly id: string;
  readonly keyId: string;
  readonly scopeFloor: Record<string, string>;
  /** The clauses asked for; null where none was, or once they were erased. */
  readonly asked: unknown;
  readonly onBehalfOf: string | null;
  readonly route: string;
  readonly reason: string;
  readonly createdAt: string;
}

/** Refused attempts of the keys inside the floor, newest first. */
export async function listDenied(tx: ScopedTransaction, limit: number, offset: number): Promise<DeniedAttempt[]> {
  // Called keyFloor as far as here: the builder refuses a statement that holds the schema's name, which the
  // field's name on the wire does, in whatever case.
  const rows = await tx.rows<Omit<DeniedAttempt, "scopeFloor"> & { keyFloor: DeniedAttempt["scopeFloor"] }>(sql`
    SELECT a.id, a.api_key_id AS "keyId", a.floor AS "keyFloor", a.asked, a.on_behalf_of AS "onBehalfOf", a.route, a.reason,
           a.created_at AS "createdAt"
    FROM ${tx.read("access_denied", "a")}
    ORDER BY a.created_at DESC, a.id DESC LIMIT ${limit} OFFSET ${offset}`);
  return rows.map(({ keyFloor, ...row }) => ({ ...row, scopeFloor: keyFloor }));
}
