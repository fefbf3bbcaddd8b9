/** What a model is for, as errors call it. */
export type ModelRole = "embedding model" | "reranker" | "vision model" | "speech model";

/** A model did not give what was asked of it. The message is for operators and traces: it holds no text of theirs. */
export class ModelUnavailable extends Error {
  /** How long the provider asks to be left alone, in ms. */
  readonly retryAfterMs: number | undefined;
  /** A text may be to blame, not the model: then others' texts go on. */
  readonly mayBeText: boolean;
  /** Whether the provider has said no, or was not reached: then it bills nothing. */
  readonly isRefusal: boolean;
  /** What the attempt may have used all the same. */
  tokens = 0;

  constructor(
    what: string,
    options: {
      readonly model?: ModelRole | undefined;
      readonly cause?: unknown;
      readonly retryAfterMs?: number | undefined;
      readonly mayBeText?: boolean;
      readonly isRefusal?: boolean;
    } = {},
  ) {
    super(`the ${options.model ?? "embedding model"} is not available: ${what}`, { cause: options.cause });
    this.name = "ModelUnavailable";
    this.retryAfterMs = options.retryAfterMs;
    this.mayBeText = options.mayBeText ?? false;
    this.isRefusal = options.isRefusal ?? false;
  }
}

/** `Retry-After` in ms: seconds, or an HTTP date. At most an hour; anything else is no wish. */
export function retryAfterOf(header: string | null): number | undefined {
  if (header === null) return undefined;
  const ms = /^\d{1,6}$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(ms, 0), 3_600_000);
}

/** What an error is called by those who threw it: its code, or its name. */
export function codeOf(error: unknown): string | undefined {
  for (let cause: unknown = error, depth = 0; cause instanceof Error && depth < 6; cause = cause.cause, depth++) {
    const { code } = cause as { code?: unknown };
    if (typeof code === "string" && /^[A-Z_]{3,40}$/.test(code)) return code;
  }
  return error instanceof Error && /^\w{3,40}$/.test(error.name) && error.name !== "Error" ? error.name : undefined;
}

/** Nobody has got what was sent. */
const UNREACHED: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
]);

/** Whether a call failed before anything was sent. */
export const wasUnreached = (error: unknown): boolean => UNREACHED.has(codeOf(error) ?? "");
