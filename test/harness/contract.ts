import { endpoints } from "../../src/http/routes/index.ts";
import { PUBLIC_SHAPES, publicError } from "./public-shapes.ts";

const routes = endpoints.map((endpoint) => ({
  endpoint,
  pattern: new RegExp(`^${endpoint.path.replace("{ctx}", "[^/]+").replace(/\{\w+\}/g, "[^/]+")}$`),
  promised: PUBLIC_SHAPES[`${endpoint.method} ${endpoint.path}`],
}));

/** Throws when an answer is not what the API's description says of it, or not what is promised to foreign clients. */
export function checkAnswer(method: string, path: string, status: number, body: unknown): void {
  const isFit = (shape: (typeof routes)[number]["promised"], what: string) => {
    const checked = shape?.safeParse(body);
    if (checked !== undefined && !checked.success)
      throw new Error(`${method} ${path} is not as ${what}: ${checked.error.message} ${JSON.stringify(body)}`);
  };
  // MCP has errors of its own.
  if (status >= 400 && body !== undefined && !path.endsWith("/mcp")) isFit(publicError, "promised to foreign clients");
  const route = routes.find(
    ({ endpoint, pattern }) => endpoint.method === method.toLowerCase() && pattern.test(path.replace(/\?.*$/, "")),
  );
  if (route === undefined || status >= 300) return;
  if (status !== route.endpoint.status)
    throw new Error(`${method} ${path} answered ${status}, described is ${route.endpoint.status}`);
  if (body === undefined) return;
  isFit(route.endpoint.answer, "described");
  isFit(route.promised, "promised to foreign clients");
}
