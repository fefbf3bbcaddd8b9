/**
 * BM25 of five terms over one scope of 1,000, 10,000 and 100,000 passages, and over a tail of 500; what a posting
 * takes up, with the terms that its passage keeps; and the subtree of 1,000 users of 50 passages, which are all tails.
 */

import { BM25_DEFAULTS } from "../src/lexical/bm25-score.ts";
import { WordSearch } from "../src/lexical/word-search.ts";
import { rankByBm25 } from "../src/recall/ranking/bm25.ts";
import { NO_FILTER } from "../src/recall/ranking/filter.ts";
import { addCrowd, crowdQuery, indexCrowd } from "./crowd.ts";
import { quantile, round, table } from "./measure.ts";
import { benchStore, timeEach } from "./store.ts";
import { seeded } from "./text.ts";

const SIZES = [
  { name: "500, all tail", passages: 500, tail: Number.POSITIVE_INFINITY, users: 0 },
  { name: "1,000", passages: 1_000, tail: 0, users: 0 },
  { name: "10,000", passages: 10_000, tail: 0, users: 0 },
  { name: "100,000", passages: 100_000, tail: 0, users: 0 },
  { name: "1,000 users of 50", passages: 50, tail: Number.POSITIVE_INFINITY, users: 1_000 },
];

export default async function lexical(): Promise<Record<string, unknown>> {
  const store = await benchStore();
  const { sql } = store;
  try {
    const random = seeded(7700);
    const lines: (string | number)[][] = [
      ["passages", "BM25 with ids p50 ms", "p95 ms", "places alone p50 ms", "bytes/posting", "bytes/passage"],
    ];
    const result: Record<string, unknown> = {};
    for (const [i, { name, passages, tail, users }] of SIZES.entries()) {
      const prefix = `lexical-${i}`;
      await addCrowd(sql, { orgs: 1, users, passages, words: 30, prefix });
      const org = `${prefix}-0`;
      await indexCrowd(sql, org, Math.max(tail, 1));
      const queries = Array.from({ length: 40 }, () => crowdQuery(random, 5));
      const view = users > 0 ? "subtree" : "strict";
      const whole: number[] = [];
      const places: number[] = [];
      await timeEach(40, (q) =>
        store.read(
          org,
          async (tx) => {
            const at = performance.now();
            await rankByBm25(tx, queries[q] ?? "", NO_FILTER, 256);
            whole[q] = performance.now() - at;
          },
          view,
        ),
      );
      await timeEach(40, (q) =>
        store.read(
          org,
          async (tx) => {
            const at = performance.now();
            await (await WordSearch.of(tx, queries[q] ?? "")).best(256, BM25_DEFAULTS);
            places[q] = performance.now() - at;
          },
          view,
        ),
      );
      const [size] = await sql`
        SELECT coalesce((SELECT sum(octet_length(p.terms))::float8 FROM scopefloor.passage p WHERE p.scope_id = ANY (s.ids)), 0) AS terms,
               coalesce((SELECT sum(pg_column_size(b.*) + 6)::float8 FROM scopefloor.posting_block b WHERE b.scope_id = ANY (s.ids)), 0) AS blocks,
               coalesce((SELECT count(*)::float8 FROM scopefloor.posting_block b WHERE b.scope_id = ANY (s.ids)), 0) * 44 AS keys
        FROM (SELECT array_agg(id) AS ids FROM scopefloor.scope WHERE tags->>'org' = ${org}) s`;
      const terms = size?.terms as number;
      const bytes = terms + (size?.blocks as number) + (size?.keys as number);
      const all = passages * Math.max(users, 1);
      lines.push([
        name,
        quantile(whole, 0.5),
        quantile(whole, 0.95),
        quantile(places, 0.5),
        bytes / (terms / 7),
        bytes / all,
      ]);
      result[name] = {
        p50: round(quantile(whole, 0.5)),
        placesP50: round(quantile(places, 0.5)),
        bytesPerPosting: round(bytes / (terms / 7), 1),
      };
    }
    process.stdout.write(table(lines));
    return result;
  } finally {
    await store.close();
  }
}
