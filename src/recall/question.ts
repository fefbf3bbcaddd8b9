import { createHash } from "node:crypto";
import type { SearchRequest } from "./search.ts";

/** Differences in case, spacing, Unicode form and the marks at the end make no other question. */
const normalise = (query: string) =>
  query
    .normalize("NFKC")
    .toLowerCase()
    .replace(/\s+/g, " ")
    .trim()
    .replace(/[\s?!.]+$/, "");

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
