import type { ParameterizedContext } from "koa";

/** Scheme and host, as the caller addresses this service. A proxy that ends TLS says so. */
export const originOf = (ctx: Pick<ParameterizedContext, "get" | "protocol" | "host">): string =>
  `${ctx.get("x-forwarded-proto").split(",")[0]?.trim() === "https" ? "https" : ctx.protocol}://${ctx.host}`;
