import type Router from "@koa/router";
import type { Deps } from "../app.ts";

/** The routes without a key. They tell nothing about any tenant. */
export function operationRoutes(router: Router, deps: Deps): void {
  router.get("/health", (ctx) => {
    ctx.body = { status: "ok" };
  });
  router.get("/ready", async (ctx) => {
    const readiness = await deps.readiness();
    ctx.status = readiness.status === "ok" ? 200 : 503;
    ctx.body = readiness;
  });
}
