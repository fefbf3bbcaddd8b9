import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError, notFound, unprocessable } from "../errors.ts";
import { merge, type Scope } from "../scope/scope.ts";
import type { Selector } from "../scope/selector.ts";

/**
 * A session's id as a request gives it: one of ours, or a string of the caller's own, which names a session
 * of that key at one scope. Everything else has ours: a trace outlives the session, and with it its name.
 */
export type SessionRef = string;

export const isOurs = (ref: SessionRef): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(ref);

/** What entering to write needs of it: one of ours decides the scope, any other is looked for at E. */
export const ourSession = (ref: SessionRef | undefined): string | undefined =>
  ref !== undefined && isOurs(ref) ? ref : undefined;

/** The session that a write goes to; one of the caller's own that is not there yet is opened at the write scope. */
export async function writtenSession(tx: ScopedTransaction, ref: SessionRef | undefined): Promise<string | undefined> {
  if (ref === undefined || isOurs(ref)) return ref;
  const { id, closed } = await tx.call<{ id: string; closed: boolean }>("open_session", uuid(), ref, json({}));
  if (closed) throw new AppError("conflict", "the session is closed");
  return id;
}

/**
 * Our id of a session to read: of the caller's own name the one at E, or at the scope that the selector
 * names; where that has none, the only one there is.
 *
 * @throws AppError 404 where none is visible, 409 where it could be several
 */
export async function visibleSession(tx: ScopedTransaction, ref: SessionRef, lens?: Selector): Promise<string> {
  const named = lens && scopeOf(tx, lens);
  if (isOurs(ref)) {
    if (named !== undefined && !(await isAt(tx, ref, named))) throw notFound();
    return ref;
  }
  const at = named ?? tx.entry.effective ?? tx.entry.floor;
  const [found, other] = await tx.rows<{ id: string; isAt: boolean }>(sql`
    SELECT s.id, d.tags = ${json(at)} AS "isAt" FROM ${tx.read("session", "s")} JOIN ${tx.read("scope", "d")} ON d.id = s.scope_id
    WHERE s.api_key_id = ${tx.entry.key.id}::uuid AND ${tx.isNamed("s", "name_hash", `${tx.entry.key.id}\u001f${ref}`)}
    ORDER BY "isAt" DESC, s.id LIMIT 2`);
  if (found === undefined || (named !== undefined && !found.isAt)) throw notFound();
  if (!found.isAt && other !== undefined)
    throw new AppError("conflict", "several scopes have a session of that name; say which scope, or use its id");
  return found.id;
}

/** The one scope that a selector names, below the floor. */
function scopeOf(tx: ScopedTransaction, lens: Selector): Scope {
  const [clause, ...more] = lens;
  // No clause reaches nothing.
  if (clause === undefined) throw notFound();
  if (more.length > 0) throw unprocessable("lens: a session is of exactly one scope");
  const named = merge(clause.tags, tx.entry.floor);
  if (named === undefined) throw new AppError("scope-floor", "the requested scope contradicts the key's scope floor");
  return named;
}

const isAt = async (tx: ScopedTransaction, id: string, scope: Scope): Promise<boolean> =>
  (await tx.row(sql`
    SELECT 1 FROM ${tx.read("session", "s")} JOIN ${tx.read("scope", "d")} ON d.id = s.scope_id
    WHERE s.id = ${id}::uuid AND d.tags = ${json(scope)}`)) !== undefined;
