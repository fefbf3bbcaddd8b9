import type Router from "@koa/router";
import { inTransaction } from "../../db/lease.ts";
import { isMigrated } from "../../db/migrate.ts";
import type { Deps } from "../app.ts";

interface Readiness {
  readonly status: "ok" | "unavailable";
  readonly checks: Record<string, "ok" | "failed" | "stopping">;
  /** What an operator should know although everything answers. */
  readonly warnings?: readonly string[];
}

async function readiness(deps: Deps): Promise<Readiness> {
  const works = async (check: () => Promise<boolean>) => ((await check().catch(() => false)) ? "ok" : "failed");
  const checks = {
    serving: deps.isServing() ? "ok" : "stopping",
    database: await works(
      async () => (await inTransaction(deps.database.app, (lease) => lease.query("SELECT 1"))).length === 1,
    ),
    migrations: await works(() => isMigrated(deps.database.app)),
  } as const;
  return {
    status: Object.values(checks).every((check) => check === "ok") ? "ok" : "unavailable",
    checks,
    ...(deps.database.separateLogin ? {} : { warnings: [ONE_LOGIN] }),
  };
}

export const ONE_LOGIN =
  "one database login serves the application and the owner: an injected set_config('role', …) would lift the second lock; set DATABASE_OWNER_URL";

/** The routes without a key. They tell nothing about any tenant. */
export function operationRoutes(router: Router, deps: Deps): void {
  router.get("/health", (ctx) => {
    ctx.body = { status: "ok" };
  });
  router.get("/ready", async (ctx) => {
    const ready = await readiness(deps);
    ctx.status = ready.status === "ok" ? 200 : 503;
    ctx.body = ready;
  });
}
