import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import type { HoldAnswer } from "./hold-lane.ts";
import type { ModelCall } from "./model-call.ts";

/** A budget has no room for what a job's model would use: the job waits. */
export class WaitsForBudget extends Error {
  /** How long until it is worth another look. */
  readonly seconds: number;

  constructor(seconds: number) {
    super("a budget is used up; it goes on when that resets or is raised");
    this.name = "WaitsForBudget";
    this.seconds = seconds;
  }
}

/** A raise shows within so long. */
const LONGEST_WAIT_SECONDS = 120;

/**
 * Holds what a job's next call may use, in the transaction of the job; the call is made once that is committed.
 *
 * @param seconds how long the hold outlives the call's own deadline
 * @returns the id for the trace that is to tell of the call
 * @throws WaitsForBudget
 */
export async function holdForJob(tx: ScopedTransaction, call: ModelCall, seconds: number): Promise<string> {
  const id = uuid();
  const { operation, provider, model, isRemote: isSent, inputTokens: input, embeddingTokens: embedding } = call;
  const asked = { id, operation, provider, model, isSent, mayDegrade: false, requests: 0, input, output: 0, embedding };
  const answer = await tx.call<HoldAnswer>("hold_for_job", json(asked), seconds);
  if (answer.status !== "refused") return id;
  const untilReset =
    answer.resetsAt === null ? Number.POSITIVE_INFINITY : (Date.parse(answer.resetsAt) - Date.now()) / 1000;
  throw new WaitsForBudget(answer.inFlight ? 1 : Math.max(1, Math.min(untilReset, LONGEST_WAIT_SECONDS)));
}
