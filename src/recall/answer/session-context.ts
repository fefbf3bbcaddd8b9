import type { ScopedTransaction } from "../../db/access/scoped.ts";
import { sql } from "../../db/access/scoped.ts";
import { countTokens } from "../../models/tokens.ts";
import { contextBlock } from "./context-block.ts";
import type { Hit } from "./hits.ts";
import { quoted } from "./quoted.ts";

interface RecentTurn {
  readonly role: string;
  readonly content: string;
}

const HEADING = "## Conversation so far";
/** The conversation's part of the budget. */
const CONVERSATION_TOKEN_SHARE = 0.5;
const MOST_TURNS = 50;

/** The end of a session, oldest first, within a budget: who said it, and what as a quotation. */
async function conversation(tx: ScopedTransaction, sessionId: string, maxTokens: number): Promise<string[]> {
  const turns = await tx.rows<RecentTurn>(sql`
    SELECT CASE WHEN t.role = 'system' AND p.author <> 'management' THEN 'system turn of an ' || p.author ELSE t.role END AS role, t.content
    FROM ${tx.read("turn", "t")} LEFT JOIN ${tx.read("passage", "p")} ON p.scope_id = t.scope_id AND p.turn_id = t.id AND p.kind = 'turn'
    WHERE t.session_id = ${sessionId}::uuid AND t.expired_at IS NULL ORDER BY t.seq DESC LIMIT ${MOST_TURNS}`);
  const lines: string[] = [];
  let spent = countTokens(HEADING);
  for (const { role, content } of turns) {
    const line = `- (${role}) ${quoted(content)}`;
    spent += countTokens(`\n${line}`);
    if (spent > maxTokens) break;
    lines.unshift(line);
  }
  return lines;
}

/** A session for a prompt: how it went on last, and what memory has on the question beside it. */
export async function sessionContext(
  tx: ScopedTransaction,
  sessionId: string,
  hits: readonly Hit[],
  maxTokens: number,
): Promise<string> {
  const lines = await conversation(tx, sessionId, maxTokens * CONVERSATION_TOKEN_SHARE);
  const talk = lines.length === 0 ? "" : [HEADING, "", ...lines].join("\n");
  const memory = contextBlock(
    hits.filter((hit) => hit.sessionId !== sessionId),
    maxTokens - countTokens(talk),
  );
  return [talk, memory].filter((part) => part !== "").join("\n\n");
}
