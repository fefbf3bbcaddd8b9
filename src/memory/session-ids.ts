import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError, notFound } from "../errors.ts";

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
 * Our id of a session to read; of several of the caller's own name the one at E, and else the newest.
 *
 * @throws AppError 404 where none is visible
 */
export async function visibleSession(tx: ScopedTransaction, ref: SessionRef): Promise<string> {
  if (isOurs(ref)) return ref;
  const at = tx.entry.effective ?? tx.entry.floor;
  const found = await tx.row<{ id: string }>(sql`
    SELECT s.id FROM ${tx.read("session", "s")} JOIN ${tx.read("scope", "d")} ON d.id = s.scope_id
    WHERE s.api_key_id = ${tx.entry.key.id}::uuid AND s.name_hash = ANY (${tx.hashes(`${tx.entry.key.id}\u001f${ref}`)})
    ORDER BY d.tags = ${json(at)} DESC, s.created_at DESC, s.id DESC LIMIT 1`);
  if (found === undefined) throw notFound();
  return found.id;
}
