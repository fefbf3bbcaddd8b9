import type { IncomingHttpHeaders } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { z } from "zod";
import { AppError, invalid } from "../../errors.ts";
import { stringifyJson } from "../../exact-json.ts";
import { failureOf } from "../../log.ts";
import { type Endpoint, endpoint, RawAnswer, type Request } from "../endpoint.ts";
import { mcpHandler } from "../mcp/server.ts";

/** A file in a call is base64. */
const BODY_LIMIT = 16 * 1024 * 1024;

/** The version that clients are told. */
const VERSION = "0.1.0";

/** Longer than the longest call takes: what is not answered by then never is. */
const ANSWER_MS = 120_000;

/** A page of another host has no business here, whatever key it has got hold of (DNS rebinding). */
function refuseForeignOrigin({ origin, host }: IncomingHttpHeaders): void {
  if (origin === undefined || !/^(https?:|null$)/i.test(origin)) return;
  if (URL.canParse(origin) && new URL(origin).host === host) return;
  throw new AppError("forbidden", "the Origin header names another host than the one that was asked");
}

/**
 * What the protocol's library would take, and is not served: a list of messages, of which one may cancel another, so
 * that no answer ever comes (the revision 2025-06-18 has no lists any more).
 */
function refuseOddRequest(headers: IncomingHttpHeaders, body: unknown): void {
  refuseForeignOrigin(headers);
  if (Array.isArray(body)) throw invalid("a request over MCP is one message, and no list of them");
  if (headers["idempotency-key"] !== undefined)
    throw invalid("Idempotency-Key is not for MCP, where a call has no answer that is kept");
}

/** @param endpoints all others: tools are some of them */
export function mcpEndpoints(endpoints: readonly Endpoint[]): Endpoint[] {
  const byName = new Map(endpoints.map((one) => [`${one.method} ${one.path}`, one]));
  const answer = async (method: string, request: Request<unknown, unknown, unknown, unknown>): Promise<RawAnswer> => {
    const { deps, http, call, peek, body } = request;
    refuseOddRequest(http.headers, body);
    const { verbs, writesForAll } = await peek({}, async ({ entry }) => ({
      // A key that manages without seeing content has no use for any tool.
      verbs: entry.key.content ? entry.verbs : [],
      writesForAll: Object.keys(entry.floor).length === 0,
    }));
    const handler = mcpHandler({
      context: deps.context,
      version: VERSION,
      verbs,
      writesForAll,
      route: (name) => {
        const route = byName.get(name);
        if (route === undefined) throw new Error(`there is no route ${name}`);
        return route;
      },
      call: async (other, { params = {}, query = {}, body: given = {}, upload }) =>
        // As on the wire: what is undefined is not there.
        JSON.parse(stringifyJson(await call(other, { params, query, body: given, upload }))) as unknown,
      onFailure: (error) => deps.log.warn(failureOf(error), "a call over MCP failed"),
    });
    const headers = Object.entries(http.headers).flatMap(([name, value]) =>
      typeof value === "string" && !OF_THE_BODY.has(name) ? [[name, value] as [string, string]] : [],
    );
    const sent = method === "post" ? { body: stringifyJson(body) } : {};
    const response = await handler.fetch(
      // Nobody asks there: what the caller calls this host may be no name at all.
      new globalThis.Request("http://localhost/mcp", { method: method.toUpperCase(), headers, ...sent }),
      method === "post" ? { parsedBody: body } : {},
    );
    const text = await within(ANSWER_MS, response.text()).finally(() => void handler.close());
    return new RawAnswer(response.status, [...response.headers], text);
  };
  return (["get", "post", "delete"] as const).map((method) =>
    endpoint({
      method,
      path: "/{ctx}/mcp",
      verb: "self",
      operation: "mcp",
      summary:
        method === "post"
          ? "MCP (Streamable HTTP, without sessions); the same as /mcp at the root of the server"
          : "405: MCP is served without streams and sessions",
      ...(method === "post" ? {} : { status: 405 }),
      bodyLimit: BODY_LIMIT,
      ...(method === "post" ? { body: z.unknown() } : {}),
      handle: (request) => answer(method, request as Request<unknown, unknown, unknown, unknown>),
    }),
  );
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const ended = new AbortController();
  const late = pause(ms, undefined, { signal: ended.signal, ref: false }).then(() => {
    throw new AppError("unavailable", "the call took too long", { retryAfter: 1 });
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    ended.abort();
    late.catch(() => undefined);
  }
}

/** Said of the body as it came, which is another one here. */
const OF_THE_BODY = new Set(["content-length", "transfer-encoding", "connection", "expect"]);
