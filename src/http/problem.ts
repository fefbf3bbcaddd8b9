import { randomUUID } from "node:crypto";
import type { Context, Next } from "koa";
import type { Logger } from "pino";
import { AppError, type ErrorSlug } from "../errors.ts";
import { HELD_SQLSTATE, held } from "../governance/holds.ts";
import { QUOTA_SQLSTATE, quotaExceeded } from "../metering/limits.ts";
import { challengeOf, isMcp } from "./mcp/metadata.ts";

const titles: Record<ErrorSlug, string> = {
  "validation-error": "The request is not valid",
  unauthorized: "Not authenticated",
  forbidden: "Not allowed",
  "scope-floor": "Outside the key's scope floor",
  "not-found": "Not found",
  conflict: "Conflict",
  "payload-too-large": "The body is too large",
  "unsupported-media-type": "Unsupported content type",
  unprocessable: "Cannot be processed",
  "rate-limited": "Too many requests",
  "budget-exceeded": "Budget exceeded",
  internal: "Internal error",
  unavailable: "Temporarily unavailable",
  "quota-exceeded": "Quota exceeded",
};

/** PostgreSQL's classes for "not now": connection, a transaction that took too long or may not write, resources, operator intervention, and system errors. */
const UNAVAILABLE_SQLSTATE = /^(08|25P04|25006|40001|40P01|53|55P03|57|58)/;
const UNAVAILABLE_CODE = /^(CONNECTION_|CONNECT_TIMEOUT|ECONN|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND|EAI_AGAIN|ENOSPC)/;

/** What an error says to the client. Anything unknown is 500 and says nothing of its inside. */
export function asAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  if (code === HELD_SQLSTATE) return held(error);
  if (code === QUOTA_SQLSTATE) return quotaExceeded((error as Error).message, error);
  if (typeof code === "string" && (UNAVAILABLE_SQLSTATE.test(code) || UNAVAILABLE_CODE.test(code))) {
    return new AppError("unavailable", "the database cannot answer at the moment; try again", {
      cause: error,
      retryAfter: 1,
    });
  }
  return new AppError("internal", "internal error; search the log for this requestId", {
    cause: error,
  });
}

/** Overload is told once a second, with how many requests it was: it is nobody's fault, and may be thousands. */
const OVERLOAD_LOG_MS = 1_000;

class OverloadLog {
  readonly #log: Logger;
  #refused = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  note(problem: AppError): void {
    this.#refused++;
    this.#timer ??= setTimeout(() => {
      this.#log.warn({ requests: this.#refused, reason: problem.message }, "requests were refused for lack of room");
      this.#refused = 0;
      this.#timer = undefined;
    }, OVERLOAD_LOG_MS).unref();
  }
}

/** Renders whatever is thrown below as `application/problem+json`. */
export function problems(log: Logger) {
  const overload = new OverloadLog(log);
  return async (ctx: Context, next: Next): Promise<void> => {
    const requestId = randomUUID();
    ctx.state.requestId = requestId;
    ctx.set("X-Request-Id", requestId);
    try {
      await next();
    } catch (error) {
      const problem = asAppError(error);
      if (problem.slug === "unavailable" && problem.cause === undefined) {
        overload.note(problem);
      } else if (problem.status >= 500) {
        // Name, code and place only: a database's message may quote a row.
        const cause = (problem.cause ?? error) as { name?: string; message?: string; code?: string; stack?: string };
        const place = (cause.stack ?? "")
          .replace(cause.message ?? "", "")
          .split("\n")
          .filter((row) => row.trim().startsWith("at "))
          .slice(0, 8);
        log.error({ requestId, slug: problem.slug, error: cause.name, code: cause.code, place }, "request failed");
      }
      ctx.status = problem.status;
      ctx.type = "application/problem+json";
      if (problem.retryAfter !== undefined) ctx.set("Retry-After", String(problem.retryAfter));
      if (problem.status === 401)
        ctx.set("WWW-Authenticate", isMcp(ctx.path) ? challengeOf(ctx) : 'Bearer realm="scopefloor"');
      const usual = {
        type: `https://scopefloor.dev/errors/${problem.slug}`,
        title: titles[problem.slug],
        status: problem.status,
        detail: problem.message,
        // The same, for clients that look for it here.
        message: problem.message,
        instance: ctx.path,
        requestId,
        ...(problem.retryAfter === undefined ? {} : { retryAfter: problem.retryAfter }),
      };
      ctx.body = JSON.stringify({ ...usual, ...problem.more, ...usual });
    }
  };
}
