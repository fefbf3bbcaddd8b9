import type { Caller } from "../db/access/entry.ts";
import { type Database, inTransaction, retried } from "../db/connect/lease.ts";
import { AppError } from "../errors.ts";
import { canonicalPath, scopeFromDatabase } from "../scope/scope.ts";
import type { Budget } from "./budgets.ts";

/** What is to be held for a request or for one of its calls (`scopefloor.hold_calls`). */
export interface HoldRequest {
  /** Of the trace that is to come; one that there is a hold for already adds to it. */
  readonly id: string;
  readonly caller: Pick<Caller, "keyHash" | "onBehalfOf">;
  readonly verb: string;
  /** What enter is asked for: {@link requestedOf}. */
  readonly requested: unknown;
  readonly operation: string;
  /** 1 for a request, 0 for a call within one: what limits count. */
  readonly calls: number;
  /** The same, but 0 for a request that counts against no budget. */
  readonly requests: number;
  readonly provider: string | null;
  readonly model: string | null;
  readonly inputTokens: number;
  readonly embeddingTokens: number;
  readonly isSent: boolean;
  readonly mayDegrade: boolean;
}

/** Which budget has no room. */
export interface Shortage {
  readonly limit: "tokens" | "cost" | "requests" | "price" | "tokensPerMinute";
  /** Only what is held for calls under way is in the way. */
  readonly inFlight: boolean;
  readonly resetsAt: string | null;
  /** The budget, where moving on what was settled may make room. */
  readonly foldable?: string | null;
  /** Absent for a caller whose floor does not hold the budget's scope. */
  readonly budget?: Budget | null;
}

/** What is left of a limit that the caller may know of. */
export interface Rate {
  readonly limit: number;
  readonly remaining: number;
  /** Seconds until all of it is there again. */
  readonly reset: number;
}

export type RateName = "requests" | "tokens" | "concurrency";
export type Rates = { readonly [name in RateName]?: Rate };

interface WithRates {
  readonly rates?: Rates;
}

export type HoldAnswer = WithRates &
  (
    | { readonly status: "none" | "held" | "stranger" }
    | {
        readonly status: "limited";
        readonly rate: RateName;
        readonly retryAfter: number;
        readonly foldable?: string | null;
      }
    | ({ readonly status: "degraded" | "refused" } & Shortage)
  );

/** Calls that go to the database in one statement. */
const MOST_AT_ONCE = 64;
/** Of one group, and of all. */
const MOST_OF_GROUP = 1_024;
const MOST_WAITING = 8_192;
/** A hold lasts for longer than any request may take with its models. */
const HOLD_SECONDS = 120;

interface Waiting {
  readonly request: HoldRequest;
  readonly resolve: (answer: HoldAnswer) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Takes holds for the requests of this process, as many as wait in one statement, and one statement at a
 * time: so a budget that everybody's calls count against is written a few hundred times a second at most,
 * however many calls there are. Of several tenants that wait each gets its turn.
 */
export class HoldLane {
  readonly #database: Database;
  readonly #groupOf: (keyHash: Uint8Array) => string | undefined;
  readonly #waiting = new Map<string, Waiting[]>();
  #count = 0;
  #ended: { id: string; keyHash: string }[] = [];
  #running: Promise<void> | undefined;

  /** @param groupOf the tenant that a key belongs to, where it is known (src/load/share-groups.ts) */
  constructor(database: Database, groupOf: (keyHash: Uint8Array) => string | undefined = () => undefined) {
    this.#database = database;
    this.#groupOf = groupOf;
  }

  /** @throws AppError `rate-limited` behind too much of the same, `unavailable` behind others */
  hold(request: HoldRequest): Promise<HoldAnswer> {
    const group = this.#groupOf(request.caller.keyHash) ?? nameOf(request.caller.keyHash);
    const line = this.#waiting.get(group) ?? [];
    if (line.length >= MOST_OF_GROUP)
      throw new AppError("rate-limited", "too many requests of this tenant wait for their budgets", { retryAfter: 1 });
    if (this.#count >= MOST_WAITING)
      throw new AppError("unavailable", "too many requests wait for their budgets", { retryAfter: 1 });
    this.#count++;
    return new Promise((resolve, reject) => {
      line.push({ request, resolve, reject });
      this.#waiting.set(group, line);
      this.#run();
    });
  }

  /** Gives a hold back: no trace is going to settle it. */
  end(id: string, { keyHash }: Pick<Caller, "keyHash">): void {
    this.#ended.push({ id, keyHash: hexOf(keyHash) });
    this.#run();
  }

  /** Waits until nothing waits. */
  async settled(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  #run(): void {
    this.#running ??= this.#serve().finally(() => {
      this.#running = undefined;
      if (this.#count > 0 || this.#ended.length > 0) this.#run();
    });
  }

  async #serve(): Promise<void> {
    // Those that come in the same turn of the event loop go together.
    await Promise.resolve();
    if (this.#ended.length > 0) await this.#end(this.#ended.splice(0, MOST_AT_ONCE));
    const batch = this.#next();
    if (batch.length === 0) return;
    try {
      await this.#answer(batch);
    } catch (error) {
      if (batch.length === 1) return batch[0]?.reject(error);
      // One of them may be to blame: the others get their answers.
      for (const one of batch) await this.#answer([one]).catch(one.reject);
    }
  }

  async #answer(batch: readonly Waiting[]): Promise<void> {
    const answers = await this.#ask(batch);
    const short = answers.flatMap((answer) => ("foldable" in answer && answer.foldable ? [answer.foldable] : []));
    if (short.length === 0) return resolveEach(batch, answers);
    // What was settled meanwhile is moved on, while nothing is locked, and may make room.
    await this.#call("SELECT scopefloor.fold_calls($1::uuid[])", [`{${[...new Set(short)].join(",")}}`]);
    const isShort = (i: number) => {
      const answer = answers[i];
      // One that was degraded has its hold, of the request alone.
      return answer !== undefined && "foldable" in answer && Boolean(answer.foldable) && answer.status !== "degraded";
    };
    const again = batch.filter((_, i) => isShort(i));
    resolveEach(
      batch.filter((_, i) => !isShort(i)),
      answers.filter((_, i) => !isShort(i)),
    );
    if (again.length > 0) resolveEach(again, await this.#ask(again));
  }

  async #ask(batch: readonly Waiting[]): Promise<HoldAnswer[]> {
    const calls = JSON.stringify(batch.map(({ request }) => callOf(request)));
    const [row] = await this.#call("SELECT scopefloor.hold_calls($1::jsonb, $2) AS answers", [calls, HOLD_SECONDS]);
    const answers = row?.answers as HoldAnswer[];
    if (answers.length !== batch.length) throw new Error("scopefloor.hold_calls left out a call");
    return answers;
  }

  #call(text: string, params: readonly unknown[]) {
    return retried(5, () => inTransaction(this.#database.app, (app) => app.query(text, params)));
  }

  /** One of each group in turn, until the batch is full. */
  #next(): Waiting[] {
    const batch: Waiting[] = [];
    while (batch.length < MOST_AT_ONCE && this.#waiting.size > 0) {
      for (const [group, line] of this.#waiting) {
        const first = line.shift();
        if (line.length === 0) this.#waiting.delete(group);
        if (first !== undefined) batch.push(first);
        if (batch.length === MOST_AT_ONCE) break;
      }
    }
    this.#count -= batch.length;
    return batch;
  }

  /** Where it fails they expire. */
  async #end(ended: readonly unknown[]): Promise<void> {
    await this.#call("SELECT scopefloor.end_holds($1::jsonb)", [JSON.stringify(ended)]).catch(() => undefined);
  }
}

const resolveEach = (batch: readonly Waiting[], answers: readonly HoldAnswer[]) => {
  for (const [i, { resolve }] of batch.entries()) resolve(answers[i] as HoldAnswer);
};

const hexOf = (keyHash: Uint8Array) => Buffer.from(keyHash).toString("hex");
const nameOf = (keyHash: Uint8Array) => Buffer.from(keyHash).toString("base64");

const callOf = ({ caller, inputTokens, embeddingTokens, ...request }: HoldRequest) => ({
  ...request,
  keyHash: hexOf(caller.keyHash),
  onBehalfOf: caller.onBehalfOf ?? null,
  input: inputTokens,
  output: 0,
  embedding: embeddingTokens,
});

/** A day, for a budget that never begins anew. */
const NEVER_SECONDS = 86_400;

/** Of a budget that the caller may not know: not even whether it is used up or only held tells how others do. */
const HIDDEN_SECONDS = 60;

function secondsUntil({ inFlight, resetsAt, budget }: Shortage): number {
  const untilReset =
    resetsAt === null ? NEVER_SECONDS : Math.max(1, Math.ceil((Date.parse(resetsAt) - Date.now()) / 1000));
  if (!budget) return Math.min(HIDDEN_SECONDS, untilReset);
  return inFlight ? 1 : untilReset;
}

const LEFT = { tokens: "tokens", cost: "money", requests: "requests" } as const;
const PERIOD = { hour: "hourly ", day: "daily ", week: "weekly ", month: "monthly ", total: "" } as const;

/** What was reached, in words that name nobody: it stays on traces, which outlive names. */
export function shortageText({ limit, resetsAt }: Shortage, whose = "a budget"): string {
  if (limit === "tokensPerMinute") return "the model's call is more tokens than a limit allows in a minute";
  if (limit === "price") return `${whose} limits the cost, and the model has no price`;
  const until = resetsAt === null ? "it does not reset" : `it resets at ${resetsAt}`;
  return `${whose} has not enough ${LEFT[limit]} left; ${until}`;
}

/** The same for a caller, who may know the budget or not. */
function shortageDetail(shortage: Shortage): string {
  const { budget, inFlight, limit } = shortage;
  if (!budget) return shortageText(shortage, "a budget above this key's calls");
  const name = budget.name === "" ? "" : `${JSON.stringify(budget.name)} `;
  const whose = `the ${PERIOD[budget.period]}budget ${name}of ${canonicalPath(scopeFromDatabase(budget.scope))}`;
  return inFlight && limit !== "price"
    ? `${whose} has no room for that beside the calls under way`
    : shortageText(shortage, whose);
}

/** 429 `budget-exceeded`. */
export const budgetExceeded = (shortage: Shortage): AppError =>
  new AppError("budget-exceeded", shortageDetail(shortage), {
    retryAfter: secondsUntil(shortage),
    more: {
      limit: shortage.limit,
      resetsAt: shortage.resetsAt,
      ...(shortage.budget === undefined || shortage.budget === null ? {} : { budget: shortage.budget }),
    },
  });

const RATE_WORDS = {
  requests: "too many requests in a minute",
  tokens: "too many tokens in a minute",
  concurrency: "too many requests at once",
} as const;

/** 429 `rate-limited`, of a limit that was set for a scope or a key. */
export const rateLimited = ({ rate, retryAfter }: { readonly rate: RateName; readonly retryAfter: number }): AppError =>
  new AppError(
    "rate-limited",
    `${RATE_WORDS[rate]}: a limit that this key is under is reached; try again in ${retryAfter} s`,
    {
      retryAfter,
      more: { "violated-policies": [rate] },
    },
  );
