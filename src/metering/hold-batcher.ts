import type { Caller } from "../db/access/entry.ts";
import { type Database, inTransaction, retried } from "../db/connect/lease.ts";
import { AppError } from "../errors.ts";
import type { RateName, Rates, Shortage } from "./refusals.ts";

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
  /** The call has a trace of its own. */
  readonly isOwn: boolean;
  readonly provider: string | null;
  readonly model: string | null;
  readonly inputTokens: number;
  readonly embeddingTokens: number;
  readonly isSent: boolean;
  readonly mayDegrade: boolean;
}

interface WithRates {
  readonly rates?: Rates;
}

export type HoldAnswer = WithRates &
  (
    | { readonly status: "none" | "held" | "not-admitted" }
    | {
        readonly status: "limited";
        readonly rate: RateName;
        /** Seconds. */
        readonly retryAfter: number;
        /** It is more than a whole minute may have. */
        readonly isTooLarge: boolean;
        readonly settleable?: string | null;
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
export class HoldBatcher {
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
    const open = new Set(batch);
    try {
      await this.#answer(open);
    } catch (error) {
      const [only] = open;
      if (open.size === 1) return only?.reject(error);
      // One of them may be to blame: the others get their answers.
      for (const one of open) await this.#answer(new Set([one])).catch(one.reject);
    }
  }

  /** Answers what waits, and takes what is answered out of the set. */
  async #answer(open: Set<Waiting>): Promise<void> {
    const short = await this.#answerOnce(open, false);
    if (short.size === 0) return;
    // What was settled meanwhile is moved on, while nothing is locked, and may make room.
    await this.#call("SELECT scopefloor.fold_calls($1::uuid[])", [`{${[...short].join(",")}}`]);
    await this.#answerOnce(open, true);
  }

  /** @returns the budgets and limits where moving on what was settled may make room */
  async #answerOnce(open: Set<Waiting>, isLast: boolean): Promise<Set<string>> {
    const asked = [...open];
    const short = new Set<string>();
    for (const [i, answer] of (await this.#ask(asked, isLast)).entries()) {
      const one = asked[i] as Waiting;
      const settleable = isLast ? undefined : settleableOf(answer);
      if (settleable !== undefined) {
        short.add(settleable);
        continue;
      }
      one.resolve(answer);
      open.delete(one);
    }
    return short;
  }

  async #ask(batch: readonly Waiting[], isLast: boolean): Promise<HoldAnswer[]> {
    const calls = JSON.stringify(batch.map(({ request }) => ({ ...callOf(request), isLast })));
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

/** Where it is worth asking once more, the budget or limit to settle before. */
const settleableOf = (answer: HoldAnswer): string | undefined =>
  answer.status === "refused" || answer.status === "limited" ? (answer.settleable ?? undefined) : undefined;

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
