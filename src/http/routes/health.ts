import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type Router from "@koa/router";
import { knownKeys } from "../../traces/receipt-signer.ts";
import type { Deps } from "../deps.ts";
import type { Endpoint } from "../endpoint.ts";
import { openApiOf } from "../openapi.ts";

/** RapiDoc, served from here: the page loads nothing from anywhere else. */
const PAGE = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Scopefloor API</title><script src="docs/rapidoc.js" defer></script></head>
<body><rapi-doc spec-url="openapi.json" render-style="focused" show-header="false" theme="light" load-fonts="false"
  allow-spec-url-load="false" allow-spec-file-load="false" schema-description-expanded="true"></rapi-doc></body>
</html>
`;

/** One file of a package with 127 others behind it: the build takes that file along. */
const BUILT_VIEWER = new URL("../rapidoc-min.js", import.meta.url);
const require = createRequire(import.meta.url);

/** The routes without a key. They tell nothing about any tenant. */
export function operationRoutes(router: Router, deps: Deps, endpoints: readonly Endpoint[]): void {
  const description = JSON.stringify(openApiOf(endpoints, deps.context));
  router.get("/health", (ctx) => {
    ctx.body = { status: "ok" };
  });
  router.get("/ready", async (ctx) => {
    const readiness = await deps.readiness();
    ctx.status = readiness.status === "ok" ? 200 : 503;
    ctx.body = readiness;
  });
  router.get("/receipt-keys", async (ctx) => {
    ctx.body = await knownKeys(deps.database);
  });
  router.get("/openapi.json", (ctx) => {
    ctx.type = "application/json";
    ctx.body = description;
  });
  router.get("/docs", (ctx) => {
    ctx.type = "text/html";
    ctx.set(
      "Content-Security-Policy",
      "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    );
    ctx.body = PAGE;
  });
  router.get("/docs/rapidoc.js", async (ctx) => {
    ctx.type = "text/javascript";
    ctx.set("Cache-Control", "public, max-age=3600");
    ctx.body = await readFile(existsSync(BUILT_VIEWER) ? BUILT_VIEWER : require.resolve("rapidoc/dist/rapidoc-min.js"));
  });
}
