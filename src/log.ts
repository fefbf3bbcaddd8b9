import pino, { type DestinationStream, type Logger, type LoggerOptions } from "pino";

/**
 * Structured logs, on standard output unless another stream is given. Callers log ids, counts and times,
 * never text or keys.
 */
export function createLog(level: string, to: DestinationStream = pino.destination(1)): Logger {
  const options: LoggerOptions = {
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
  };
  return pino(options, to);
}

/** Where lines go: to a terminal as text for people, and anywhere else as JSON. */
export async function logStream(isTerminal: boolean): Promise<DestinationStream> {
  if (!isTerminal) return pino.destination(1);
  const { default: pretty } = await import("pino-pretty");
  return pretty({
    colorize: true,
    singleLine: true,
    translateTime: "SYS:HH:MM:ss",
    ignore: "requestId,method,route,status,ms",
    // A request in one line; of another its words, with the rest behind.
    messageFormat: (line, key) =>
      line[key] === "request"
        ? `${String(line.method)} ${String(line.route ?? "(no such route)")} ${String(line.status)} ${String(line.ms)} ms`
        : String(line[key]),
  });
}

/** What a log line says of an error: its message may quote a row. */
export function failureOf(error: unknown): { readonly error: string | undefined; readonly code: unknown } {
  const { name, code } = error as { name?: string; code?: unknown };
  return { error: name, code };
}
