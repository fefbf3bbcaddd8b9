import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import type { TokenSource } from "../models/embedder.ts";
import type { HoldAnswer } from "./hold-batcher.ts";
import type { ModelCall, UsedTokens } from "./model-call.ts";

/** A budget has no room for what a job's model would use: the job waits. */
export class WaitsForBudget extends Error {
  /** How long until it is worth another look. */
  readonly seconds: number;
  /** No wait makes room: the call alone is more than the whole limit. */
  readonly isTooLarge: boolean;

  constructor(seconds: number, isTooLarge: boolean) {
    super("a budget is used up; it goes on when that resets or is raised");
    this.name = "WaitsForBudget";
    this.seconds = seconds;
    this.isTooLarge = isTooLarge;
  }
}

const SHORTEST_WAIT_SECONDS = 5;
/** A raise shows within so long. */
export const LONGEST_WAIT_SECONDS = 120;

/**
 * Holds what a job's next call may use, in the transaction of the job; the call is made once that is committed.
 *
 * @param seconds until the hold expires: longer than the call may take
 * @returns the id for the trace that is to tell of the call
 * @throws WaitsForBudget
 */
export async function holdForJob(tx: ScopedTransaction, call: ModelCall, seconds: number): Promise<string> {
  const id = uuid();
  const { operation, provider, model, isRemote: isSent, inputTokens: input, embeddingTokens: embedding } = call;
  const output = call.outputTokens ?? 0;
  const asked = { id, operation, provider, model, isSent, isOwn: true, mayDegrade: false, input, output, embedding };
  const answer = await tx.call<HoldAnswer>("hold_for_job", json(asked), seconds);
  if (answer.status === "limited") throw new WaitsForBudget(answer.retryAfter, answer.isTooLarge);
  if (answer.status !== "refused") return id;
  const untilReset =
    answer.resetsAt === null ? Number.POSITIVE_INFINITY : (Date.parse(answer.resetsAt) - Date.now()) / 1000;
  throw new WaitsForBudget(
    answer.inFlight
      ? SHORTEST_WAIT_SECONDS
      : Math.max(SHORTEST_WAIT_SECONDS, Math.min(untilReset, LONGEST_WAIT_SECONDS)),
    answer.isTooLarge,
  );
}

/** Says that a hold is needed for so many seconds more. */
export const extendJobHold = (tx: ScopedTransaction, id: string, seconds: number) =>
  tx.call<void>("extend_job_hold", id, seconds);

/** Gives a hold back whose call was not made, in the transaction of its job. */
export const endJobHold = (tx: ScopedTransaction, id: string) => tx.call<void>("end_job_hold", id);

/** Records what a call used whose job was gone when it came back. */
export async function recordLostCall(
  database: Database,
  id: string,
  { inputTokens = 0, outputTokens = 0, embeddingTokens = 0 }: Partial<UsedTokens>,
  source: TokenSource,
): Promise<void> {
  const used = JSON.stringify({ input: inputTokens, output: outputTokens, embedding: embeddingTokens });
  await inTransaction(database.worker, (worker) =>
    worker.query("SELECT scopefloor.record_lost_call($1, $2::jsonb, $3)", [id, used, source]),
  );
}
