import type Router from "@koa/router";
import type { Context } from "koa";
import { originOf } from "../origin.ts";

const WELL_KNOWN = "/.well-known/oauth-protected-resource";

/** Whether a path is where MCP is served. */
export const isMcp = (path: string): boolean => /^(\/api\/v1\/[^/]+)?\/mcp$/.test(path);

/** What a client without a key is told (RFC 9728, section 5.1). */
export const challengeOf = (ctx: Context): string =>
  `Bearer realm="scopefloor", resource_metadata="${originOf(ctx)}${WELL_KNOWN}${ctx.path}"`;

/**
 * Protected resource metadata (RFC 9728) of the paths of MCP: that a key goes into the Authorization header. It names
 * no authorization server, since there is none.
 */
export function metadataRoutes(router: Router): void {
  const answer = (ctx: Context, path: string) => {
    ctx.body = {
      resource: `${originOf(ctx)}${path}`,
      resource_name: "Scopefloor",
      bearer_methods_supported: ["header"],
    };
  };
  router.get(WELL_KNOWN, (ctx) => answer(ctx, "/mcp"));
  router.get(`${WELL_KNOWN}/mcp`, (ctx) => answer(ctx, "/mcp"));
  router.get(`${WELL_KNOWN}/api/v1/:context/mcp`, (ctx) => answer(ctx, ctx.path.slice(WELL_KNOWN.length)));
}
