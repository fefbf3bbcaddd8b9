import { createHash } from "node:crypto";
import type { SearchRequest } from "./ranking/search.ts";

/**
 * Spacing, Unicode form, the first letter's case and the marks at the end make no other question. The
 * case of others does: names are known by it.
 */
function normalise(query: string): string {
  const text = query.normalize("NFKC").replace(/\s+/g, " ").trim();
  // Not by a pattern: one for the end of a string tries every place of a long run of marks.
  let end = text.length;
  while (end > 0 && " ?!.".includes(text.charAt(end - 1))) end--;
  return text.charAt(0).toLowerCase() + text.slice(1, Math.max(end, 1));
}

/**
 * SHA-256 under which the answer to a question is cached: the question, all that narrows it, and what
 * would rank it. Whose key asks and what is visible is the database's to add. Undefined: never cached,
 * since what is asked for does not stand in passages alone.
 */
export function questionDigest(
  request: Omit<SearchRequest, "prepared">,
  rankedBy: readonly (string | number)[],
): Uint8Array | undefined {
  const { query, filter, fusion, ...rest } = request;
  if (filter.mimeType !== undefined || fusion !== undefined) return undefined;
  const narrowed = Object.entries(filter)
    .filter(([, value]) => value !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const asked = [normalise(query), narrowed, Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1)), rankedBy];
  return createHash("sha256").update(JSON.stringify(asked)).digest();
}
