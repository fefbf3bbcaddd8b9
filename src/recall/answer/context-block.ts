import { countTokens } from "../../models/tokens.ts";
import { canonicalPath } from "../../scope/scope.ts";
import type { Hit } from "./hits.ts";
import { quoted } from "./quoted.ts";

const HEADING = "## Relevant memory";

/** One line: where the text comes from, then the text as a quotation. */
const line = (hit: Hit): string =>
  `- (${[speakerOf(hit), hit.occurredAt.slice(0, 10), canonicalPath(hit.scope), hit.id].join(", ")}) ${quoted(hit.text)}`;

/** An instruction is the system's only where management wrote it; of others it says who did. */
const speakerOf = ({ role, source, author }: Hit): string =>
  role === "system" && author !== "management" ? `system turn of an ${author}` : (role ?? source);

/**
 * The hits as a Markdown list within a token budget, best first: on each line the source in
 * parentheses, then the text as a JSON string. A hit that does not fit is left out and the next may.
 * Nothing found: an empty string.
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
