import type { ParameterizedContext } from "koa";
import type { RateName, Rates } from "../metering/refusals.ts";

/** Names of quota units (draft-ietf-httpapi-ratelimit-headers); tokens are no registered unit. */
const UNITS: { readonly [name in RateName]: string } = {
  requests: ";w=60",
  tokens: ';qu="tokens";w=60',
  concurrency: ';qu="concurrent-requests"',
};

/** As Go spells durations, which is how clients of OpenAI read them: `1m0s`. */
const duration = (seconds: number) => (seconds < 60 ? `${seconds}s` : `${Math.floor(seconds / 60)}m${seconds % 60}s`);

/**
 * What is left of the limits that the caller may know of, in the two families of headers that clients read.
 * They say neither whose limits they are nor what others do.
 */
export function setRateHeaders(ctx: ParameterizedContext, rates: Rates): void {
  const names = (Object.keys(UNITS) as RateName[]).flatMap((name) => {
    const rate = rates[name];
    return rate === undefined ? [] : [{ name, ...rate }];
  });
  if (names.length === 0) return;
  ctx.set("RateLimit-Policy", names.map(({ name, limit }) => `"${name}";q=${limit}${UNITS[name]}`).join(", "));
  ctx.set("RateLimit", names.map(({ name, remaining, reset }) => `"${name}";r=${remaining};t=${reset}`).join(", "));
  for (const { name, limit, remaining, reset } of names) {
    if (name === "concurrency") continue;
    ctx.set(`x-ratelimit-limit-${name}`, String(limit));
    ctx.set(`x-ratelimit-remaining-${name}`, String(remaining));
    ctx.set(`x-ratelimit-reset-${name}`, duration(reset));
  }
}
