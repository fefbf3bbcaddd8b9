import { createHash } from "node:crypto";
import { isPresent } from "../memory/fact-timeline.ts";
import { normalForm } from "../text/normal-form.ts";
import type { SearchRequest } from "./ranking/search.ts";

/**
 * A question as it is searched for and cached: nothing below this line sees more of it than the cache's key
 * does. Spacing, Unicode form, the first letter's case and the marks at the end make no other question. The
 * case of others does: names are known by it.
 */
export function canonicalQuestion(query: string): string {
  const text = normalForm(query).replace(/\s+/g, " ").trim();
  // Not by a pattern: one for the end of a string tries every place of a long run of marks.
  let end = text.length;
  while (end > 0 && " ?!.".includes(text.charAt(end - 1))) end--;
  return text.charAt(0).toLowerCase() + text.slice(1, Math.max(end, 1));
}

/**
 * SHA-256 under which the answer to a canonical question is cached: the question, all that narrows it, and what
 * would rank it. Whose key asks and what is visible is the database's to add. Undefined: never cached,
 * since what is asked for does not stand in the passages of the present alone.
 */
export function questionDigest(
  request: Omit<SearchRequest, "prepared">,
  rankedBy: readonly (string | number)[],
): Uint8Array | undefined {
  const { query, filter, fusion, ...rest } = request;
  if (filter.mimeTypes !== undefined || fusion !== undefined || !isPresent(filter.moment ?? {})) return undefined;
  const narrowed = Object.entries({ ...filter, moment: undefined })
    .filter(([, value]) => value !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const asked = [query, narrowed, Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1)), rankedBy];
  return createHash("sha256").update(JSON.stringify(asked)).digest();
}
