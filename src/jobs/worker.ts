import { JobGone, type TakenJob } from "../db/access/enter-job.ts";
import { PARSER_LIMITS, type ParserLimits, Parsers } from "../documents/parsing/parser.ts";
import { failureOf } from "../log.ts";
import { WaitsForBudget } from "../metering/job-meter.ts";
import { ModelUnavailable } from "../models/unavailable.ts";
import { bringUp } from "./bring-up.ts";
import { processDocument } from "./documents/process-document.ts";
import { embedPassages } from "./embed-passages.ts";
import { forget } from "./forget.ts";
import { indexPassages } from "./index-passages.ts";
import type { JobContext } from "./job-context.ts";
import { Queue } from "./queue.ts";

export interface WorkerOptions {
  /** Jobs at work at the same time in this process. */
  readonly concurrency: number;
  /** Of those of one share group at most, over all workers. */
  readonly perGroup: number;
  /** A job that says nothing for this long is another worker's to take. */
  readonly leaseSeconds: number;
  /** How often an empty queue is polled. */
  readonly pollMs: number;
  /** The first wait before another attempt; it doubles with each. */
  readonly backoffSeconds: number;
  readonly attempts: number;
  readonly parser: ParserLimits;
}

const WORK = {
  document: processDocument,
  embed: embedPassages,
  index: indexPassages,
  bring_up: bringUp,
  forget,
} as const;

const WORKER_DEFAULTS: WorkerOptions = {
  concurrency: 2,
  perGroup: 1,
  leaseSeconds: 30,
  pollMs: 500,
  backoffSeconds: 2,
  attempts: 8,
  parser: PARSER_LIMITS,
};

const MAX_BACKOFF_SECONDS = 300;
const BURST_MS = 30_000;
const BURST_POLL_MS = 100;

/** Takes jobs from the queue and does them, until it is stopped. */
export class Worker {
  readonly #deps: Omit<JobContext, "extend" | "parsers">;
  readonly #parsers: Parsers;
  readonly #settings: WorkerOptions;
  readonly #queue: Queue;
  readonly #atWork = new Set<Promise<void>>();
  #isStopped = false;
  #lastWork = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #polling: Promise<void> | undefined;
  /** Something was put into the queue while it was being polled. */
  #pollAgain = false;

  constructor(deps: Omit<JobContext, "extend" | "parsers">, options: Partial<WorkerOptions> = {}) {
    this.#deps = deps;
    this.#settings = { ...WORKER_DEFAULTS, ...options };
    this.#parsers = new Parsers(this.#settings.parser);
    this.#queue = new Queue(deps.database, this.#settings.leaseSeconds);
  }

  start(): this {
    if (this.#deps.database.kind === "embedded") {
      // One process has the embedded database to itself: whoever had a job is gone.
      this.#polling = this.#queue
        .recover()
        .catch((error: unknown) => this.#logFailure("jobs of an earlier process could not be recovered", error))
        .finally(() => {
          this.#polling = undefined;
          this.wake();
        });
    } else this.wake();
    return this;
  }

  /** Polls the queue now: something was put there. */
  wake(): void {
    if (this.#isStopped) return;
    if (this.#polling !== undefined) {
      this.#pollAgain = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#polling = this.#poll()
      .catch((error: unknown) => this.#logFailure("the queue could not be read", error))
      .finally(() => {
        this.#polling = undefined;
        if (!this.#isStopped) this.#timer = setTimeout(() => this.wake(), this.#pause());
      });
  }

  /** Work comes in bursts: for a while after the last the queue is looked at more often. */
  #pause(): number {
    const { pollMs } = this.#settings;
    return performance.now() - this.#lastWork < BURST_MS ? Math.min(pollMs, BURST_POLL_MS) : pollMs;
  }

  /** Takes no more jobs, and waits for those at work. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    await this.#polling;
    await Promise.all(this.#atWork);
    await this.#parsers.stop();
  }

  async #poll(): Promise<void> {
    do {
      this.#pollAgain = false;
      while (!this.#isStopped && this.#atWork.size < this.#settings.concurrency) {
        const job = await this.#queue.take(this.#settings.perGroup);
        if (job === undefined) break;
        this.#lastWork = performance.now();
        const work = this.#run(job).finally(() => {
          this.#atWork.delete(work);
          this.wake();
        });
        this.#atWork.add(work);
      }
    } while (this.#pollAgain && !this.#isStopped);
  }

  async #run(job: TakenJob): Promise<void> {
    const { leaseSeconds, attempts } = this.#settings;
    const startedAt = performance.now();
    const extend = (mine: TakenJob) => this.#queue.extend(mine);
    // Where it fails the lease runs out, and the job runs once more.
    const heartbeat = setInterval(() => extend(job).catch(() => undefined), (leaseSeconds * 1000) / 3);
    try {
      if (job.attempts > attempts) {
        await this.#queue.postpone(job, `given up after ${attempts} attempts that were interrupted`, 0, true);
        return;
      }
      await WORK[job.kind]({ ...this.#deps, parsers: this.#parsers, extend }, job);
      const ms = Math.round(performance.now() - startedAt);
      this.#deps.log.info({ job: job.id, kind: job.kind, attempts: job.attempts, ms }, "job done");
    } catch (error) {
      if (!(error instanceof JobGone)) await this.#postpone(job, error);
    } finally {
      clearInterval(heartbeat);
    }
  }

  async #postpone(job: TakenJob, error: unknown): Promise<void> {
    if (error instanceof WaitsForBudget) {
      await this.#queue.postpone(job, error.message, error.seconds, false, false).catch(() => undefined);
      return;
    }
    const giveUp = job.attempts >= this.#settings.attempts;
    const requested = error instanceof ModelUnavailable ? (error.retryAfterMs ?? 0) / 1000 : 0;
    const backoff = Math.min(this.#settings.backoffSeconds * 2 ** (job.attempts - 1), MAX_BACKOFF_SECONDS);
    // Spread a little, so that what failed together does not come back together.
    const seconds = Math.max(requested, backoff * (0.8 + 0.4 * Math.random()));
    const reason = `${reasonOf(error)}${giveUp ? ` (given up after ${job.attempts} attempts)` : ""}`;
    const { id, kind, attempts } = job;
    this.#logFailure(giveUp ? "job given up" : "job will be tried again", error, { job: id, kind, attempts });
    await this.#queue.postpone(job, reason, seconds, giveUp).catch(() => undefined); // then its lease runs out
  }

  #logFailure(what: string, error: unknown, more: object = {}): void {
    const reason = error instanceof ModelUnavailable ? error.message : undefined;
    this.#deps.log.warn({ ...more, ...failureOf(error), reason }, what);
  }
}

/** What is kept of a failure: for the uploader and the operator, without a word of anyone's text. */
function reasonOf(error: unknown): string {
  if (error instanceof ModelUnavailable) return error.message;
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? `the database or the machine failed (${code})` : "processing failed";
}
