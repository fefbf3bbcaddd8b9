/** One family of errors, rendered once (http/problem.ts) as RFC 9457 `application/problem+json`. */

const statusOf = {
  "validation-error": 400,
  unauthorized: 401,
  forbidden: 403,
  "scope-floor": 403,
  "not-found": 404,
  conflict: 409,
  "payload-too-large": 413,
  "unsupported-media-type": 415,
  unprocessable: 422,
  "rate-limited": 429,
  "budget-exceeded": 429,
  internal: 500,
  unavailable: 503,
  "quota-exceeded": 507,
} as const;

export type ErrorSlug = keyof typeof statusOf;

/**
 * An answer that is an error. `detail` goes to the client: it says what was wrong, with which
 * value, and what to do, and never carries internals.
 */
export class AppError extends Error {
  readonly slug: ErrorSlug;
  readonly status: number;
  /** Seconds after which trying again makes sense (429 and 503). */
  readonly retryAfter: number | undefined;
  /** Members of the answer besides the usual ones. */
  readonly more: Readonly<Record<string, unknown>>;

  constructor(
    slug: ErrorSlug,
    detail: string,
    options: { cause?: unknown; retryAfter?: number; more?: Readonly<Record<string, unknown>> } = {},
  ) {
    super(detail, { cause: options.cause });
    this.name = "AppError";
    this.slug = slug;
    this.status = statusOf[slug];
    this.retryAfter = options.retryAfter;
    this.more = options.more ?? {};
  }
}

/** 400: the request is not well-formed. */
export const invalid = (detail: string) => new AppError("validation-error", detail);

/** 422: well-formed, but not something that can be done. */
export const unprocessable = (detail: string) => new AppError("unprocessable", detail);

/** 404, the same for what does not exist and for what lies outside the visible scopes. */
export const notFound = () =>
  new AppError("not-found", "there is no such thing, or it lies outside of what this key sees");
