import type { Logger } from "pino";
import { JobGone, type TakenJob } from "../db/enter-job.ts";
import type { Database } from "../db/lease.ts";
import { PARSER_LIMITS, type ParserLimits } from "../documents/parsing/parser.ts";
import { failureOf } from "../log.ts";
import type { Models } from "../models/models.ts";
import { ModelUnavailable } from "../models/unavailable.ts";
import { embedPassages } from "./embed-passages.ts";
import { processDocument } from "./process-document.ts";
import { Queue } from "./queue.ts";

export interface WorkerOptions {
  /** Jobs at work at the same time in this process. */
  readonly concurrency: number;
  /** Of those of one floor at most, over all workers. */
  readonly perFloor: number;
  /** A job that says nothing for this long is another worker's to take. */
  readonly leaseSeconds: number;
  /** Between looks at an empty queue. */
  readonly pollMs: number;
  /** The first wait before another attempt; it doubles with each. */
  readonly backoffSeconds: number;
  readonly attempts: number;
  readonly parser: ParserLimits;
}

const WORKER_DEFAULTS: WorkerOptions = {
  concurrency: 2,
  perFloor: 1,
  leaseSeconds: 30,
  pollMs: 500,
  backoffSeconds: 2,
  attempts: 8,
  parser: PARSER_LIMITS,
};

const LONGEST_WAIT_SECONDS = 300;

/** What a job works with. */
export interface JobContext {
  readonly database: Database;
  readonly models: Models;
  readonly context: string;
  readonly log: Logger;
  readonly parser: ParserLimits;
  extend(job: TakenJob): Promise<void>;
}

export interface RunningWorker {
  /** Looks at the queue now: something was put there. */
  wake(): void;
  /** Takes no more jobs, and waits for those at work. */
  stop(): Promise<void>;
}

/** Takes jobs from the queue and does them, until it is stopped. */
export function startWorker(
  deps: Omit<JobContext, "extend" | "parser">,
  options: Partial<WorkerOptions> = {},
): RunningWorker {
  const settings = { ...WORKER_DEFAULTS, ...options };
  const atWork = new Set<Promise<void>>();
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let looking: Promise<void> | undefined;
  let again = false;

  const queue = new Queue(deps.database, settings.leaseSeconds);

  const look = async () => {
    do {
      again = false;
      while (!stopped && atWork.size < settings.concurrency) {
        const job = await queue.take(settings.perFloor);
        if (job === undefined) break;
        const work = run(job).finally(() => {
          atWork.delete(work);
          wake();
        });
        atWork.add(work);
      }
    } while (again && !stopped);
  };

  const wake = () => {
    if (stopped) return;
    if (looking !== undefined) {
      again = true;
      return;
    }
    clearTimeout(timer);
    looking = look()
      .catch((error: unknown) => logFailure("the queue could not be looked at", error))
      .finally(() => {
        looking = undefined;
        if (!stopped) timer = setTimeout(wake, settings.pollMs);
      });
  };

  const run = async (job: TakenJob) => {
    const startedAt = performance.now();
    const heartbeat = setInterval(
      () => {
        queue.extend(job).catch(() => undefined); // then the lease runs out, and the job runs once more
      },
      (settings.leaseSeconds * 1000) / 3,
    );
    try {
      if (job.attempts > settings.attempts) {
        await queue.postpone(job, `given up after ${settings.attempts} attempts that were interrupted`, 0, true);
        return;
      }
      await (job.kind === "document" ? processDocument : embedPassages)(
        { ...deps, parser: settings.parser, extend: (mine) => queue.extend(mine) },
        job,
      );
      deps.log.info(
        { job: job.id, kind: job.kind, attempts: job.attempts, ms: Math.round(performance.now() - startedAt) },
        "job done",
      );
    } catch (error) {
      if (!(error instanceof JobGone)) await putOff(job, error);
    } finally {
      clearInterval(heartbeat);
    }
  };

  const putOff = async (job: TakenJob, error: unknown) => {
    const giveUp = job.attempts >= settings.attempts;
    const wish = error instanceof ModelUnavailable ? (error.retryAfterMs ?? 0) / 1000 : 0;
    const backoff = Math.min(settings.backoffSeconds * 2 ** (job.attempts - 1), LONGEST_WAIT_SECONDS);
    // Spread a little, so that what failed together does not come back together.
    const seconds = Math.max(wish, backoff * (0.8 + 0.4 * Math.random()));
    const reason = `${reasonOf(error)}${giveUp ? ` (given up after ${job.attempts} attempts)` : ""}`;
    logFailure(giveUp ? "job given up" : "job will be tried again", error, {
      job: job.id,
      kind: job.kind,
      attempts: job.attempts,
    });
    await queue.postpone(job, reason, seconds, giveUp).catch(() => undefined); // then its lease runs out
  };

  const logFailure = (what: string, error: unknown, more: object = {}) => {
    const reason = error instanceof ModelUnavailable ? error.message : undefined;
    deps.log.warn({ ...more, ...failureOf(error), reason }, what);
  };

  if (deps.database.kind === "embedded") {
    // One process has the embedded database to itself: whoever had a job is gone.
    looking = queue
      .recover()
      .catch((error: unknown) => logFailure("jobs of an earlier process could not be recovered", error))
      .finally(() => {
        looking = undefined;
        wake();
      });
  } else wake();
  return {
    wake,
    stop: async () => {
      stopped = true;
      clearTimeout(timer);
      await looking;
      await Promise.all(atWork);
    },
  };
}

/** What is kept of a failure: for the uploader and the operator, without a word of anyone's text. */
function reasonOf(error: unknown): string {
  if (error instanceof ModelUnavailable) return error.message;
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? `the database or the machine failed (${code})` : "processing failed";
}
