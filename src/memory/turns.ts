import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction, sql } from "../db/scoped.ts";
import { AppError } from "../errors.ts";
import type { Embedder } from "../models/embedder.ts";
import { recordTrace } from "../traces/record.ts";
import { storePassages } from "./passages.ts";
import { insertSession } from "./sessions.ts";

export type Role = "user" | "assistant" | "system" | "tool";

export interface NewTurn {
  readonly role: Role;
  readonly content: string;
  readonly labels: readonly string[];
  readonly category: string | null;
  /** When it was said, RFC 3339; absent: now. */
  readonly observedAt: string | undefined;
}

/** Turns with their vectors: made before the transaction opens, since a model may be slow. */
export interface PreparedTurns {
  readonly turns: readonly (NewTurn & {
    readonly tokens: number;
    readonly embedding: Awaited<ReturnType<Embedder["embedTexts"]>>["vectors"][number];
  })[];
  readonly embeddingTokens: number;
}

export async function prepareTurns(embedder: Embedder, turns: readonly NewTurn[]): Promise<PreparedTurns> {
  const { vectors, tokens } = await embedder.embedTexts(turns.map((turn) => turn.content));
  return {
    turns: turns.map((turn, i) => ({ ...turn, tokens: tokens[i] ?? 0, embedding: vectors[i] ?? null })),
    embeddingTokens: tokens.reduce((sum, n) => sum + n, 0),
  };
}

export interface StoredTurns {
  readonly sessionId: string;
  readonly turnIds: string[];
  readonly passageIds: string[];
}

/** Stores turns at the end of a session, or of a new one, and makes each a passage. */
export async function storeTurns(
  tx: ScopedTransaction,
  embedder: Embedder,
  prepared: PreparedTurns,
  target: { readonly sessionId: string | undefined; readonly operation: "facts" | "facts_batch" },
): Promise<StoredTurns> {
  const now = new Date().toISOString();
  const sessionId = target.sessionId ?? (await insertSession(tx, {})).id;
  const first = await tx.call<number | null>("reserve_turns", sessionId, prepared.turns.length);
  if (first === null) throw new AppError("conflict", "the session is closed");
  const rows = prepared.turns.map((turn, i) => ({
    ...turn,
    id: uuid(),
    passageId: uuid(),
    seq: first + i,
    observedAt: turn.observedAt ?? now,
  }));
  // One value whatever the number: a row of values for each turn would be another statement for
  // each size of batch, and the server keeps them all prepared.
  const turns = json(rows.map(({ id, role, content, seq, observedAt }) => ({ id, role, content, seq, observedAt })));
  await tx.insertFrom(
    "turn",
    ["id", "session_id", "api_key_id", "role", "content", "seq", "observed_at"],
    sql`
      SELECT t.id, ${sessionId}::uuid, ${tx.entry.key.id}::uuid, t.role, t.content, t.seq, t."observedAt"
      FROM jsonb_to_recordset(${turns}) AS t(id uuid, role text, content text, seq int, "observedAt" timestamptz)`,
  );
  await storePassages(
    tx,
    embedder.id,
    rows.map(({ id, passageId, role, content, labels, category, tokens, embedding, observedAt }) => ({
      id: passageId,
      kind: "turn",
      sessionId,
      turnId: id,
      role,
      text: content,
      labels,
      category,
      tokens,
      embedding,
      observedAt,
    })),
  );
  recordTrace(tx, {
    kind: "decision",
    operation: target.operation,
    sessionId,
    provider: embedder.provider,
    model: embedder.model,
    embeddingTokens: prepared.embeddingTokens,
  });
  return { sessionId, turnIds: rows.map((row) => row.id), passageIds: rows.map((row) => row.passageId) };
}
