import Router from "@koa/router";
import Koa from "koa";
import type { Logger } from "pino";
import { AppError, notFound } from "../errors.ts";
import type { Deps } from "./deps.ts";
import { runEndpoint } from "./dispatch.ts";
import { metadataRoutes } from "./mcp/metadata.ts";
import type { Metrics } from "./metrics.ts";
import { problems } from "./problem.ts";
import { operationRoutes } from "./routes/health.ts";
import { endpoints } from "./routes/index.ts";

/** The HTTP application, without a listener. */
export function createApp(parts: Omit<Deps, "callback">): Koa {
  const app = new Koa();
  const deps: Deps = { ...parts, callback: (request, response) => app.callback()(request, response) };
  app.silent = true; // errors are rendered and logged in problems()
  app.use(requestLog(deps.log, deps.metrics));
  app.use(problems(deps.log));
  // Never shared, never kept: an answer belongs to the key that asked.
  app.use(async (ctx, next) => {
    ctx.set("Cache-Control", "no-store");
    ctx.set("X-Content-Type-Options", "nosniff");
    if (!deps.isServing()) ctx.set("Connection", "close");
    await next();
  });

  const router = new Router({ prefix: "/api/v1", strict: true, sensitive: true });
  operationRoutes(router, deps, endpoints);
  for (const spec of endpoints) {
    const path = spec.path.replace(/\{(\w+)\}/g, ":$1");
    router[spec.method](path, (ctx) => runEndpoint(spec, deps, ctx, refuseUnstorableParams(ctx.params)));
  }
  app.use(router.routes());
  app.use(rootRoutes(deps).routes());
  app.use(({ method, path }) => {
    throw new AppError("not-found", `there is no route ${method} ${path.slice(0, 200)}; /docs lists them`);
  });
  return app;
}

/** What clients look for at the root of the server: MCP, whose Context is the key's, and what a client of it needs to know. */
function rootRoutes(deps: Deps): Router {
  const router = new Router({ strict: true, sensitive: true });
  metadataRoutes(router);
  for (const spec of endpoints)
    if (spec.path === "/{ctx}/mcp") router[spec.method]("/mcp", (ctx) => runEndpoint(spec, deps, ctx, {}));
  return router;
}

/** A parameter that cannot be stored names nothing. */
function refuseUnstorableParams(params: Record<string, string>): Record<string, string> {
  for (const value of Object.values(params)) {
    if (value.includes("\0") || !value.isWellFormed()) throw notFound();
  }
  return params;
}

/** One line a request: the route's shape and the time, no query string, no body, no key. */
function requestLog(log: Logger, metrics: Metrics): Koa.Middleware {
  return async (ctx, next) => {
    const startedAt = performance.now();
    await next();
    const seconds = (performance.now() - startedAt) / 1000;
    metrics.observeRequest(ctx.method, String(ctx._matchedRoute ?? "none"), ctx.status, seconds);
    log.info(
      {
        requestId: ctx.state.requestId,
        method: ctx.method,
        route: ctx._matchedRoute ?? null,
        status: ctx.status,
        ms: Math.round(seconds * 10_000) / 10,
      },
      "request",
    );
  };
}
