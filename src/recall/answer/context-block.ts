import { countTokens } from "../../models/tokens.ts";
import { canonicalPath } from "../../scope/scope.ts";
import type { Hit } from "./hits.ts";

const HEADING = "## Relevant memory";

/** One line: the text on it, then where it comes from. Stored text cannot start a line of its own. */
function line(hit: Hit): string {
  const text = hit.text.replace(/\s+/g, " ").trim();
  const source = [hit.role ?? hit.source, hit.occurredAt.slice(0, 10), canonicalPath(hit.scope), hit.id];
  return `- ${text} _(${source.join(", ")})_`;
}

/**
 * The hits as a Markdown list within a token budget, best first; a hit that does not fit is left
 * out and the next may. Nothing found: an empty string.
 */
export function contextBlock(hits: readonly Hit[], maxTokens: number): string {
  const lines = [HEADING, ""];
  let spent = countTokens(lines.join("\n"));
  for (const hit of hits) {
    // Counting a text that cannot fit is work for nothing.
    if (spent + hit.tokens > maxTokens) continue;
    const next = line(hit);
    const cost = countTokens(`\n${next}`);
    if (spent + cost > maxTokens) continue;
    spent += cost;
    lines.push(next);
  }
  return lines.length === 2 ? "" : lines.join("\n");
}
