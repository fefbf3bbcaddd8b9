import Router from "@koa/router";
import Koa from "koa";
import type { Logger } from "pino";
import type { KeyHash } from "../db/enter.ts";
import type { FairQueue } from "../db/fair-queue.ts";
import type { Database } from "../db/lease.ts";
import type { Turns } from "../db/turns.ts";
import { notFound } from "../errors.ts";
import type { Models } from "../models/models.ts";
import type { Reranker } from "../models/reranker.ts";
import type { Readiness } from "../readiness.ts";
import type { RecallDeps } from "../recall/recall.ts";
import { runEndpoint } from "./endpoint.ts";
import type { Metrics } from "./metrics.ts";
import { problems } from "./problem.ts";
import { endpoints } from "./routes/index.ts";
import { operationRoutes } from "./routes/operation.ts";

/** Everything that the request path needs. Nothing here listens or reads the environment. */
export interface Deps {
  readonly database: Database;
  readonly turns: Turns;
  /** Large bodies that are in memory at a time; the others wait unread, which holds their senders back. */
  readonly intake: FairQueue;
  /** Audit reports, of which one is made at a time. */
  readonly auditReports: FairQueue;
  readonly models: Models;
  readonly reranker: Reranker | undefined;
  /** The Context's id in URLs. */
  readonly context: string;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Tells the worker of this process, if it has one, that there is work. */
  readonly wakeWorker: () => void;
  /** Notes that a key was used, later and outside the request's transaction. */
  readonly touchKey: (keyHash: KeyHash) => void;
  /** Whether the process still takes work: false while it drains. */
  readonly isServing: () => boolean;
  readonly readiness: () => Promise<Readiness>;
  /** What an operator should know about the database. */
  readonly warnings: readonly string[];
  /** The whole application, for requests that the service makes to itself. */
  readonly callback: ReturnType<Koa["callback"]>;
}

/** What recall needs of it. */
export const recallDeps = ({ models, reranker, metrics }: Deps): RecallDeps => ({
  models,
  reranker,
  onCache: (isHit) => metrics.observeCache(isHit),
});

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
  app.use(() => {
    throw notFound();
  });
  return app;
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
