import pino, { type Logger } from "pino";

/** Structured logs on standard output. Callers log ids, counts and times, never text or keys. */
export function createLog(level: string): Logger {
  return pino({
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    // A second net: should a request's parts ever get into a line, these do not leave with it.
    redact: [
      "authorization",
      "*.authorization",
      "key",
      "*.key",
      "secret",
      "*.secret",
      "text",
      "*.text",
      "query",
      "*.query",
    ],
  });
}

/** What a log line says of an error: its message may quote a row. */
export function failureOf(error: unknown): { readonly error: string | undefined; readonly code: unknown } {
  const { name, code } = error as { name?: string; code?: unknown };
  return { error: name, code };
}
