import { z } from "zod";
import { AppError } from "../../errors.ts";
import { stringifyJson } from "../../exact-json.ts";
import { failureOf } from "../../log.ts";
import { type Endpoint, endpoint, RawAnswer, type Request } from "../endpoint.ts";
import { mcpHandler } from "../mcp/server.ts";

/** A file in a call is base64. */
const BODY_LIMIT = 16 * 1024 * 1024;

/** The version that clients are told. */
const VERSION = "0.1.0";

/** A page of another host has no business here, whatever key it has got hold of (DNS rebinding). */
function refuseForeignOrigin({ http }: Pick<Request<unknown, unknown, unknown>, "http">): void {
  const { origin } = http.headers;
  if (origin === undefined || !/^https?:/i.test(origin)) return;
  if (URL.canParse(origin) && new URL(origin).host === new URL(http.origin).host) return;
  throw new AppError("forbidden", "the Origin header names another host than the one that was asked");
}

/** @param endpoints all others: tools are some of them */
export function mcpEndpoints(endpoints: readonly Endpoint[]): Endpoint[] {
  const byName = new Map(endpoints.map((one) => [`${one.method} ${one.path}`, one]));
  const answer = async (method: string, request: Request<unknown, unknown, unknown, unknown>): Promise<RawAnswer> => {
    const { deps, http, call, peek, body } = request;
    refuseForeignOrigin(request);
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
      new globalThis.Request(`${http.origin}/mcp`, { method: method.toUpperCase(), headers, ...sent }),
      method === "post" ? { parsedBody: body } : {},
    );
    return new RawAnswer(response.status, [...response.headers], await response.text());
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

/** Said of the body as it came, which is another one here. */
const OF_THE_BODY = new Set(["content-length", "transfer-encoding", "connection", "expect"]);
