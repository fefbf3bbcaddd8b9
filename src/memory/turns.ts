import { v7 as uuid } from "uuid";
import { contextSecondsOf } from "../context/settings.ts";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { AppError } from "../errors.ts";
import type { Meter } from "../metering/model-call.ts";
import { countAll, type Embedded } from "../models/embedder.ts";
import type { ScopeModels } from "../models/models.ts";
import { recordTrace, spending } from "../traces/record.ts";
import { insertSession } from "./sessions.ts";
import { storePassages } from "./store-passages.ts";

/** The last whose year has four digits. */
const LAST_TIME = Date.UTC(9999, 11, 31);

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
  readonly turns: readonly (NewTurn & { readonly tokens: number })[];
  /** Undefined: the model did not answer in time, and the queue sees to it. */
  readonly embedded: Embedded | undefined;
  /** For the trace. */
  readonly spent: ReturnType<typeof spending>;
}

export async function prepareTurns(
  models: ScopeModels,
  meter: Meter,
  turns: readonly NewTurn[],
): Promise<PreparedTurns> {
  const texts = turns.map((turn) => turn.content);
  const [counted, now] = await Promise.all([countedTurns(turns), models.embedNow(meter, texts)]);
  return { turns: counted, embedded: now.embedded, spent: spending(now) };
}

/** Turns with the tokens of each. */
export async function countedTurns(turns: readonly NewTurn[]): Promise<PreparedTurns["turns"]> {
  const tokens = await countAll(turns.map((turn) => turn.content));
  return turns.map((turn, i) => ({ ...turn, tokens: tokens[i] ?? 0 }));
}

export interface StoredTurns {
  readonly sessionId: string;
  readonly turnIds: string[];
  readonly passageIds: string[];
}

/** Stores a batch of turns at the end of a session, or of a new one, and makes each a passage. */
export async function storeTurns(
  tx: ScopedTransaction,
  prepared: PreparedTurns,
  inSession: string | undefined,
): Promise<StoredTurns> {
  const sessionId = inSession ?? (await insertSession(tx, {})).id;
  const stored = await insertTurns(tx, prepared, sessionId);
  if (prepared.embedded === undefined) await tx.call("enqueue", uuid(), "embed", null, null);
  recordTrace(tx, {
    kind: "decision",
    operation: "facts_batch",
    sessionId,
    ...prepared.spent,
  });
  return stored;
}

/** Only the rows: the caller records the trace, and orders the vectors that are missing. */
export async function insertTurns(
  tx: ScopedTransaction,
  { turns: prepared, embedded }: Pick<PreparedTurns, "turns" | "embedded">,
  sessionId: string,
): Promise<StoredTurns> {
  const now = new Date().toISOString();
  const first = await tx.call<number | null>("reserve_turns", sessionId, prepared.length);
  if (first === null) throw new AppError("conflict", "the session is closed");
  const rows = prepared.map((turn, i) => ({
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
    embedded?.embedderId ?? null,
    rows.map(({ id, passageId, seq, role, content, labels, category, tokens, observedAt }, i) => ({
      id: passageId,
      kind: "turn",
      sessionId,
      turnId: id,
      position: seq,
      role,
      text: content,
      labels,
      category,
      tokens,
      embedding: embedded?.vectors[i] ?? null,
      observedAt,
      endsAt:
        category === "context"
          ? new Date(Math.min(Date.parse(observedAt) + contextSecondsOf(tx) * 1000, LAST_TIME)).toISOString()
          : null,
    })),
  );
  return { sessionId, turnIds: rows.map((row) => row.id), passageIds: rows.map((row) => row.passageId) };
}
