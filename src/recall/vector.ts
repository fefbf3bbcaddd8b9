import { type ScopedTransaction, sql } from "../db/scoped.ts";
import type { VectorText } from "../models/embedder.ts";
import type { Candidate } from "./candidate.ts";
import { andNarrowed, type PassageFilter } from "./filter.ts";

/**
 * The nearest passages by cosine distance, exactly: every vector of the visible scopes is compared,
 * so recall is 1 whatever the neighbours hold. The score is 1 − distance.
 */
export async function rankByDistance(
  tx: ScopedTransaction,
  embedderId: number,
  vector: VectorText,
  filter: PassageFilter,
  limit: number,
): Promise<Candidate[]> {
  return tx.rows<Candidate>(sql`
    SELECT p.id, p.scope_id AS "scopeId", 1 - (p.embedding <=> ${vector}::halfvec) AS score
    FROM ${tx.read("passage", "p")}
    WHERE p.embedder_id = ${embedderId}::int AND p.embedding IS NOT NULL AND p.expired_at IS NULL${andNarrowed(tx, filter)}
    ORDER BY p.embedding <=> ${vector}::halfvec, p.id LIMIT ${limit}`);
}
