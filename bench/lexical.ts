/** BM25 of five terms over one scope of 1,000, 10,000 and 100,000 passages, beside a bare read of the same postings. */

import { findByWords, rankByBm25 } from "../src/recall/ranking/bm25.ts";
import { NO_FILTER } from "../src/recall/ranking/filter.ts";
import { addCrowd, crowdQuery } from "./crowd.ts";
import { quantile, round, table } from "./measure.ts";
import { benchStore, timeEach } from "./store.ts";
import { seeded } from "./text.ts";

export default async function lexical(): Promise<Record<string, unknown>> {
  const store = await benchStore();
  const { sql } = store;
  try {
    const random = seeded(7700);
    const lines: (string | number)[][] = [
      [
        "passages",
        "bare read p50 ms",
        "BM25 p50 ms",
        "p95 ms",
        "ratio",
        "in context p50 ms",
        "postings/passage",
        "bytes/passage",
      ],
    ];
    const result: Record<string, unknown> = {};
    let worst = 0;
    let before = 0;
    for (const n of [1_000, 10_000, 100_000]) {
      await addCrowd(sql, { orgs: 1, users: 0, passages: n, words: 30, prefix: `lexical-${n}` });
      const name = `lexical-${n}-0`;
      const [scope] = await sql`SELECT id FROM scopefloor.scope WHERE tags->>'org' = ${name}`;
      const id = scope?.id as number;
      const queries = Array.from({ length: 40 }, () => crowdQuery(random, 5));
      const bare = await timeEach(
        40,
        (i) => sql`
          SELECT count(*), sum(tf), sum(lexemes) FROM scopefloor.posting
          WHERE scope_id = ${id} AND lexeme = ANY (tsvector_to_array(to_tsvector('english', ${queries[i] ?? ""})))`,
      );
      const taken: number[] = [];
      const inContext: number[] = [];
      await timeEach(40, (i) =>
        store.read(name, async (tx) => {
          const at = performance.now();
          await rankByBm25(tx, queries[i] ?? "", NO_FILTER, 256);
          taken[i] = performance.now() - at;
        }),
      );
      await timeEach(40, (i) =>
        store.read(name, async (tx) => {
          const at = performance.now();
          await findByWords(tx, queries[i] ?? "", NO_FILTER, 256);
          inContext[i] = performance.now() - at;
        }),
      );
      const [size] = await sql`SELECT pg_total_relation_size('scopefloor.posting')::float8 AS bytes`;
      const [postings] = await sql`SELECT count(*)::float8 AS n FROM scopefloor.posting WHERE scope_id = ${id}`;
      const bytes = ((size?.bytes as number) - before) / n;
      before = size?.bytes as number;
      const ratio = quantile(taken, 0.5) / quantile(bare, 0.5);
      worst = Math.max(worst, ratio);
      lines.push([
        n,
        quantile(bare, 0.5),
        quantile(taken, 0.5),
        quantile(taken, 0.95),
        ratio,
        quantile(inContext, 0.5),
        (postings?.n as number) / n,
        bytes,
      ]);
      result[String(n)] = {
        bareP50: round(quantile(bare, 0.5)),
        p50: round(quantile(taken, 0.5)),
        inContextP50: round(quantile(inContext, 0.5)),
        ratio: round(ratio),
        bytesPerPassage: round(bytes, 0),
      };
    }
    process.stdout.write(table(lines));
    process.stdout.write(`\nBM25 at most ${round(worst)} × the bare read (aim 4)\n`);
    return { worstRatio: round(worst), bySize: result };
  } finally {
    await store.close();
  }
}
