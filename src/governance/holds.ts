import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError, invalid } from "../errors.ts";
import { wordsOfSubject } from "../text/names.ts";
import { recordTrace } from "../traces/record.ts";
import { type Answer, accepted } from "./answer.ts";

/** A legal hold: what it reaches is neither forgotten nor changed until it is taken away. */
export interface Hold {
  readonly id: string;
  readonly scope: Record<string, string>;
  /** What mentions this person or thing; null: whatever it is about. */
  readonly subject: string | null;
  /** One document with its parts; null: all. */
  readonly documentId: string | null;
  readonly reason: string;
  readonly keyId: string;
  readonly createdAt: string;
}

export interface NewHold {
  readonly subject?: string | undefined;
  readonly documentId?: string | undefined;
  readonly reason: string;
}

/** SQLSTATE of a transaction that would have forgotten or changed what is held (src/db/sql/3_governance/1_holds.sql). */
export const HELD_SQLSTATE = "SF409";

/** 409, for an error with {@link HELD_SQLSTATE}. Which hold it is, and why, management alone sees. */
export const held = (cause: unknown): AppError =>
  new AppError("conflict", "this is under a legal hold: nothing of it is forgotten or changed; nothing was done", {
    cause,
  });

/** Holds the transaction's scope and all below it, or there what is named. */
export async function setHold(tx: ScopedTransaction, hold: NewHold): Promise<Hold> {
  const words = hold.subject === undefined ? undefined : wordsOfSubject(hold.subject);
  if (words?.length === 0) throw invalid("subject: must have a letter or a digit");
  const given = json({ ...hold, ...(words === undefined ? {} : { words }) });
  const set = accepted(await tx.call<Answer<{ hold: Hold }>>("set_hold", uuid(), given));
  recordTrace(tx, { kind: "decision", operation: "hold_set" });
  return set.hold;
}

/** The holds at the transaction's scope and below, newest first; `page` counts from 0. */
export const listHolds = (
  tx: ScopedTransaction,
  pageSize: number,
  page: number,
): Promise<{ holds: Hold[]; total: number }> => tx.call("list_holds", pageSize, page * pageSize);

export async function dropHold(tx: ScopedTransaction, id: string): Promise<void> {
  accepted(await tx.call<Answer>("drop_hold", id));
  recordTrace(tx, { kind: "decision", operation: "hold_delete" });
}
