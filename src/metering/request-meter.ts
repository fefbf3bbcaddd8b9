import type { Logger } from "pino";
import { v7 as uuid } from "uuid";
import { requestedOf } from "../db/access/enter.ts";
import type { AccessRequest, Caller } from "../db/access/entry.ts";
import { type Database, inTransaction } from "../db/connect/lease.ts";
import { failureOf } from "../log.ts";
import type { HoldAnswer, HoldBatcher, HoldRequest } from "./hold-batcher.ts";
import type { Meter, ModelCall, Permit, Spent } from "./model-call.ts";
import { budgetExceeded, type Rates, rateLimited, shortageText } from "./refusals.ts";

/** Keys whose requests were under a budget a moment ago: theirs are held before they enter. */
export class BudgetedKeys {
  static readonly #MOST = 100_000;
  readonly #names = new Set<string>();

  has = ({ keyHash }: Pick<Caller, "keyHash">) => this.#names.has(Buffer.from(keyHash).toString("base64"));

  note({ keyHash }: Pick<Caller, "keyHash">, isBudgeted: boolean): void {
    const name = Buffer.from(keyHash).toString("base64");
    this.#names.delete(name);
    if (!isBudgeted) return;
    const [oldest] = this.#names;
    if (this.#names.size >= BudgetedKeys.#MOST && oldest !== undefined) this.#names.delete(oldest);
    this.#names.add(name);
  }
}

export interface RequestMeterDeps {
  readonly database: Database;
  readonly holds: HoldBatcher;
  readonly budgeted: BudgetedKeys;
  readonly log: Logger;
}

/** A model was called that the budgets have no room for: the request is done again without it. */
export class OverBudget extends Error {}

/** What a request wants to be held for it, but for where. */
type Wanted = Pick<
  HoldRequest,
  "calls" | "operation" | "isOwn" | "provider" | "model" | "inputTokens" | "embeddingTokens" | "isSent" | "mayDegrade"
>;

const NO_MODEL = { provider: null, model: null, inputTokens: 0, embeddingTokens: 0, isSent: false, mayDegrade: false };

/**
 * One request's calls to models and what is held for it: one hold for the request and the calls that its
 * trace tells of, and one for each call that has a trace of its own.
 */
export class RequestMeter implements Meter {
  /** The request's own hold: its trace has this id. */
  holdId: string | undefined;
  /** What is left of the limits that the caller may know of. */
  rates: Rates = {};
  readonly #deps: RequestMeterDeps;
  readonly #caller: Caller;
  readonly #verb: AccessRequest["verb"];
  /** Whether it counts against budgets; limits count every request. */
  readonly #isBudgeted: boolean;
  #request: AccessRequest | undefined;
  /** Holds that no trace has settled yet. */
  readonly #open = new Set<string>();
  readonly #spent: Spent[] = [];
  /** Whether a transaction was committed whose trace tells of the calls that were made before. */
  #isTold = false;
  /** Calls in this process that were made without a hold. */
  #unheld: Spent | undefined;

  constructor(
    deps: RequestMeterDeps,
    caller: Caller,
    spec: { verb: AccessRequest["verb"]; countsAgainstBudgets: boolean },
  ) {
    this.#deps = deps;
    this.#caller = caller;
    this.#verb = spec.verb;
    this.#isBudgeted = spec.countsAgainstBudgets;
  }

  /** The meter of calls that are made for what enter is asked for with this. */
  setAccess(request: AccessRequest): this {
    this.#request = request;
    return this;
  }

  /** Whether the request is to have a hold before it enters. */
  get isExpected(): boolean {
    return this.holdId !== undefined || this.#deps.budgeted.has(this.#caller);
  }

  async permit(describe: () => ModelCall | Promise<ModelCall>, isRemote: boolean, isOwn: boolean): Promise<Permit> {
    // What runs in this process is held once enter says that it has to be.
    if (!isRemote && !this.isExpected) return { isGiven: true };
    const call = await describe();
    const id = isOwn ? uuid() : (this.holdId ?? uuid());
    const answer = await this.#hold(id, {
      calls: isOwn || this.holdId !== undefined ? 0 : 1,
      operation: isOwn ? call.operation : this.#caller.operation,
      isOwn,
      provider: call.provider,
      model: call.model,
      inputTokens: call.inputTokens,
      embeddingTokens: call.embeddingTokens,
      isSent: call.isRemote,
      mayDegrade: true,
    });
    if (answer.status === "none") return { isGiven: true };
    // Enter says what is wrong with the request; until then no model is called for it.
    if (answer.status === "not-admitted") return { isGiven: false, reason: "the request is refused" };
    refuse(answer);
    if (!isOwn) this.holdId = id;
    if (answer.status === "degraded")
      return { isGiven: false, reason: shortageText(answer), error: budgetExceeded(answer) };
    return { isGiven: true, traceId: id };
  }

  note(spent: Spent): void {
    this.#spent.push(spent);
    if (!spent.isRemote && this.holdId === undefined) this.#unheld = plus(this.#unheld, spent);
  }

  /**
   * Takes the hold that enter has asked for.
   *
   * @throws AppError `budget-exceeded`, `rate-limited`; OverBudget where there is room for all but a model's call that was made
   *   in this process
   */
  async holdFor(request: AccessRequest): Promise<void> {
    this.#request = request;
    const id = uuid();
    const unheld = this.#unheld;
    const answer = await this.#hold(id, {
      ...NO_MODEL,
      calls: 1,
      operation: this.#caller.operation,
      isOwn: false,
      ...(unheld === undefined
        ? {}
        : {
            provider: unheld.provider,
            model: unheld.model,
            inputTokens: unheld.inputTokens,
            embeddingTokens: unheld.embeddingTokens,
            mayDegrade: true,
          }),
    });
    refuse(answer);
    if (answer.status === "held" || answer.status === "degraded") this.holdId = id;
    if (answer.status === "degraded") throw new OverBudget();
  }

  /** Whether the request is told of, and what it goes on with needs no hold. */
  get isTold(): boolean {
    return this.#isTold;
  }

  /** A transaction was committed that has written these traces: they tell of the calls that were made before. */
  told(traceIds: readonly string[]): void {
    if (traceIds.length > 0) this.#isTold = true;
    for (const id of traceIds) this.#open.delete(id);
  }

  /** The request is over: calls that no trace tells of get one, and holds of calls that were not made are given back. */
  async end(): Promise<void> {
    const untold = new Map<string, Spent>();
    for (const spent of this.#spent) {
      if (!spent.isRemote || (spent.traceId === undefined ? this.#isTold : !this.#open.has(spent.traceId))) continue;
      const id = spent.traceId ?? `${spent.provider}:${spent.model}`;
      untold.set(id, plus(untold.get(id), spent));
    }
    for (const [id, spent] of untold) {
      this.#open.delete(id); // should it not be recorded, what was held is charged
      await this.#record(spent.traceId ?? uuid(), spent).catch((error: unknown) =>
        this.#deps.log.error(failureOf(error), "a call to a model could not be recorded"),
      );
    }
    for (const id of this.#open) this.#deps.holds.end(id, this.#caller);
  }

  async #hold(id: string, wanted: Wanted): Promise<HoldAnswer> {
    const { holds, budgeted } = this.#deps;
    if (this.#request === undefined) throw new Error("a hold is for no request");
    const answer = await holds.hold({
      ...wanted,
      requests: this.#isBudgeted ? wanted.calls : 0,
      id,
      caller: this.#caller,
      verb: this.#verb,
      requested: requestedOf(this.#request),
    });
    if (answer.status !== "not-admitted") budgeted.note(this.#caller, answer.status !== "none");
    if (answer.status === "held" || answer.status === "degraded") this.#open.add(id);
    if (answer.rates !== undefined) this.rates = answer.status === "limited" ? whenItFits(answer) : answer.rates;
    return answer;
  }

  async #record(id: string, spent: Spent): Promise<void> {
    const { keyHash, onBehalfOf } = this.#caller;
    const told = {
      ...spent,
      id,
      onBehalfOf: onBehalfOf ?? null,
      requested: this.#request === undefined ? { mode: "id" } : requestedOf(this.#request),
    };
    await inTransaction(this.#deps.database.app, (app) =>
      app.query("SELECT scopefloor.record_spent($1, $2::jsonb)", [keyHash, JSON.stringify(told)]),
    );
  }
}

/** @throws AppError for what may not be done at all */
function refuse(answer: HoldAnswer): asserts answer is Exclude<HoldAnswer, { status: "refused" | "limited" }> {
  if (answer.status === "refused") throw budgetExceeded(answer);
  if (answer.status === "limited") throw rateLimited(answer);
}

/** Of the limit that is reached, the reset is when this call fits: no client is told to try again before it. */
function whenItFits({ rate, rates = {}, retryAfter }: Extract<HoldAnswer, { status: "limited" }>): Rates {
  const reached = rates[rate];
  return reached === undefined
    ? rates
    : { ...rates, [rate]: { ...reached, reset: Math.min(reached.reset, retryAfter) } };
}

const plus = (one: Spent | undefined, other: Spent): Spent =>
  one === undefined
    ? other
    : {
        ...other,
        inputTokens: one.inputTokens + other.inputTokens,
        embeddingTokens: one.embeddingTokens + other.embeddingTokens,
      };
