import { endpoints } from "../../src/http/routes/index.ts";

const routes = endpoints.map((endpoint) => ({
  endpoint,
  pattern: new RegExp(`^${endpoint.path.replace("{ctx}", "[^/]+").replace(/\{\w+\}/g, "[^/]+")}$`),
}));

/** Throws when a good answer is not what the API's description says of it. */
export function checkAnswer(method: string, path: string, status: number, body: unknown): void {
  const route = routes.find(
    ({ endpoint, pattern }) => endpoint.method === method.toLowerCase() && pattern.test(path.replace(/\?.*$/, "")),
  );
  if (route === undefined || status >= 300) return;
  if (status !== route.endpoint.status)
    throw new Error(`${method} ${path} answered ${status}, described is ${route.endpoint.status}`);
  const { answer } = route.endpoint;
  if (answer === undefined || body === undefined) return;
  const checked = answer.safeParse(body);
  if (!checked.success)
    throw new Error(`${method} ${path} is not as described: ${checked.error.message} ${JSON.stringify(body)}`);
}
