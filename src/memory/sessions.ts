import { v7 as uuid } from "uuid";
import { uncounted, withinAnswer } from "../db/access/budget.ts";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError, notFound } from "../errors.ts";
import { type Scope, scopeFromDatabase, scopePaths } from "../scope/scope.ts";
import { recordTrace } from "../traces/record.ts";

export interface Session {
  readonly id: string;
  readonly scopes: string[][];
  readonly scope: Scope;
  /** The id that its key gave it; for that key alone. */
  readonly name?: string;
  readonly metadata: Record<string, unknown>;
  readonly createdAt: string;
  readonly closedAt?: string;
}

interface SessionRow {
  readonly id: string;
  readonly tags: Record<string, string>;
  readonly name: string | null;
  readonly metadata: Record<string, unknown>;
  readonly createdAt: string;
  readonly closedAt: string | null;
}

function toSession({ tags, closedAt, name, ...row }: SessionRow): Session {
  const scope = scopeFromDatabase(tags);
  return {
    ...row,
    scopes: scopePaths(scope),
    scope,
    ...(name === null ? {} : { name }),
    ...(closedAt === null ? {} : { closedAt }),
  };
}

const columns = (tx: ScopedTransaction) =>
  sql`s.id, d.tags, CASE WHEN s.api_key_id = ${tx.entry.key.id}::uuid THEN s.name END AS name, s.metadata, s.created_at AS "createdAt", s.closed_at AS "closedAt"`;

/** Only the row: `createSession` records a trace too. */
export async function insertSession(
  tx: ScopedTransaction,
  metadata: Record<string, unknown>,
): Promise<{ id: string; createdAt: string }> {
  const id = uuid();
  const createdAt = new Date().toISOString();
  await tx.insert("session", [{ id, apiKeyId: tx.entry.key.id, metadata: json(metadata), createdAt }]);
  return { id, createdAt };
}

export async function createSession(tx: ScopedTransaction, metadata: Record<string, unknown>): Promise<Session> {
  const made = await insertSession(tx, metadata);
  recordTrace(tx, { kind: "decision", operation: "session", sessionId: made.id });
  const scope = tx.entry.effective ?? tx.entry.trace.tags;
  return { id: made.id, scopes: scopePaths(scope), scope, metadata, createdAt: made.createdAt };
}

/** Newest first. */
export async function listSessions(tx: ScopedTransaction, limit: number, offset: number): Promise<Session[]> {
  const rows = await tx.rows<SessionRow>(sql`
    SELECT ${columns(tx)} FROM ${tx.read("session", "s")} JOIN ${tx.read("scope", "d")} ON d.id = s.scope_id
    ORDER BY s.created_at DESC, s.id DESC LIMIT ${limit} OFFSET ${offset}`);
  return rows.map(toSession);
}

export async function getSession(tx: ScopedTransaction, id: string): Promise<Session> {
  const row = await tx.row<SessionRow>(sql`
    SELECT ${columns(tx)} FROM ${tx.read("session", "s")} JOIN ${tx.read("scope", "d")} ON d.id = s.scope_id WHERE s.id = ${id}::uuid`);
  if (row === undefined) throw notFound();
  return toSession(row);
}

/**
 * A session is written into, closed and forgotten by the key that created it, or by management.
 *
 * @throws AppError 404 for a session that is not visible, 403 for another agent's
 */
export async function refuseOthersSession(tx: ScopedTransaction, id: string): Promise<void> {
  const session = await tx.row<{ key: string }>(
    sql`SELECT s.api_key_id AS key FROM ${tx.read("session", "s")} WHERE s.id = ${id}::uuid`,
  );
  if (session === undefined) throw notFound();
  if (tx.entry.key.principal === "agent" && session.key !== tx.entry.key.id)
    throw new AppError("forbidden", "the session is another key's: that one, or management, closes and forgets it");
}

/** No more turns; those that are there stay. Closing twice is fine. */
export async function closeSession(tx: ScopedTransaction, id: string): Promise<void> {
  await refuseOthersSession(tx, id);
  const closed = await tx.update("session", { closedAt: sql`coalesce(closed_at, now())` }, sql`id = ${id}::uuid`);
  if (closed === 0) throw notFound();
  recordTrace(tx, { kind: "decision", operation: "session_close", sessionId: id });
}

export interface Turn {
  readonly id: string;
  readonly session: string;
  readonly role: string;
  readonly content: string;
  readonly seq: number;
  readonly createdAt: string;
}

/** In their order or against it, and how many there are in all. What was forgotten is not among them. */
export async function listTurns(
  tx: ScopedTransaction,
  sessionId: string,
  { limit, offset, order }: { readonly limit: number; readonly offset: number; readonly order: "asc" | "desc" },
): Promise<{ readonly turns: Turn[]; readonly total: number }> {
  await getSession(tx, sessionId);
  const select = sql`
    SELECT ${TURN} FROM ${tx.read("turn", "t")}
    WHERE t.session_id = ${sessionId}::uuid AND t.expired_at IS NULL
    ORDER BY ${order === "asc" ? sql`t.seq` : sql`t.seq DESC`} LIMIT ${limit} OFFSET ${offset}`;
  const [rows, counted] = await Promise.all([
    tx.rows<Turn>(withinAnswer(select, "content")),
    tx.row<{ n: number }>(sql`
      SELECT count(*)::int AS n FROM ${tx.read("turn", "t")} WHERE t.session_id = ${sessionId}::uuid AND t.expired_at IS NULL`),
  ]);
  const turns = rows.map(uncounted);
  recordTrace(tx, {
    kind: "retrieval",
    operation: "turns",
    sessionId,
    sources: turns.map((turn) => turn.id),
    returned: turns.length,
  });
  return { turns, total: counted?.n ?? 0 };
}

/** The columns of a {@link Turn}, of a row t. */
export const TURN = sql`t.id, t.session_id AS session, t.role, t.content, t.seq, t.created_at AS "createdAt"`;
