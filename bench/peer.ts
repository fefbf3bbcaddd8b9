/**
 * The same rows and questions here and in LangChain's PGVectorStore with its metadata filter, on the
 * same server: a hundred tenants in one store, the ten nearest of one of them, four questions at a time.
 */
import type { VectorText } from "../src/models/embedder.ts";
import { fetchHits } from "../src/recall/answer/hits.ts";
import { NO_FILTER } from "../src/recall/ranking/filter.ts";
import { rankByDistance } from "../src/recall/ranking/vector.ts";
import { type Load, load, round, table } from "./measure.ts";
import { openPeer } from "./peer-store.ts";
import { benchStore, clusteredVectors, vectorText } from "./store.ts";
import { seeded } from "./text.ts";

const TENANTS = 100;
const QUESTIONS = 50;
const WIDTH = 4;

export default async function peer(): Promise<Record<string, unknown>> {
  const lines: (string | number)[][] = [["rows", "", "requests/s", "p50 ms", "p95 ms", "recall@10"]];
  const result: Record<string, unknown> = {};
  for (const rows of [10_000, 100_000]) {
    const store = await benchStore();
    const { sql } = store;
    const { store: theirs, close } = await openPeer(store.url, "peer");
    try {
      const embedderId = await store.embedder(384);
      const vector = clusteredVectors(seeded(7700), 384, 1_000);
      const scopes: number[] = [];
      for (let i = 0; i < TENANTS; i++) scopes.push(await store.scope(`tenant-${i}`));
      await store.write(
        (function* () {
          for (let i = 0; i < rows; i++) yield { scopeId: scopes[i % TENANTS] ?? 0, embedderId, vector: vector() };
        })(),
      );
      await sql`
        INSERT INTO public.peer (text, metadata, embedding)
        SELECT p.id::text, jsonb_build_object('org', d.tags->>'org'), p.embedding::vector FROM scopefloor.passage p JOIN scopefloor.scope d ON d.id = p.scope_id`;
      await sql`VACUUM ANALYZE`;
      const questions = Array.from({ length: QUESTIONS }, vector);
      const texts = questions.map((question) => vectorText(question) as VectorText);
      const truth: Set<string>[] = [];
      for (const [i, text] of texts.entries()) {
        const best = await sql`
          SELECT id FROM scopefloor.passage WHERE scope_id = ${scopes[i % TENANTS] ?? 0} ORDER BY embedding <=> ${text}::text::halfvec LIMIT 10`;
        truth.push(new Set(best.map((row) => row.id as string)));
      }
      const measure = async (ask: (i: number) => Promise<string[]>) => {
        const found: string[][] = [];
        const once = async (i: number) => {
          found[i % QUESTIONS] = await ask(i % QUESTIONS);
        };
        await load(QUESTIONS, WIDTH, once);
        const taken = await load(QUESTIONS * 6, WIDTH, once);
        const recall =
          found.reduce((sum, ids, i) => sum + ids.filter((id) => truth[i]?.has(id)).length / (truth[i]?.size ?? 1), 0) /
          QUESTIONS;
        return { ...taken, recall };
      };
      const ours = await measure((i) =>
        store.read(`tenant-${i % TENANTS}`, async (tx) => {
          const { ranking } = await rankByDistance(
            tx,
            { id: embedderId, dimensions: 384, isDense: true },
            texts[i] as VectorText,
            NO_FILTER,
            10,
          );
          return (await fetchHits(tx, ranking)).map((hit) => hit.id);
        }),
      );
      const askPeer = async (i: number) => {
        const answer = await theirs.similaritySearchVectorWithScore(Array.from(questions[i] ?? []), 10, {
          org: `tenant-${i % TENANTS}`,
        });
        return answer.map(([document]) => document.pageContent);
      };
      const plain = await measure(askPeer);
      await theirs.createHnswIndex({ dimensions: 384, distanceFunction: "cosine" });
      await sql`VACUUM ANALYZE public.peer`;
      const indexed = await measure(askPeer);
      const line = (name: string, l: Load & { recall: number }) => [
        rows,
        name,
        l.perSecond,
        l.p50,
        l.p95,
        round(l.recall, 3),
      ];
      lines.push(
        line("scopefloor, both locks", ours),
        line("PGVectorStore", plain),
        line("PGVectorStore with its HNSW", indexed),
      );
      result[String(rows)] = {
        timesPlain: round(ours.perSecond / plain.perSecond),
        timesIndexed: round(ours.perSecond / indexed.perSecond),
        recall: { ours: round(ours.recall, 3), plain: round(plain.recall, 3), indexed: round(indexed.recall, 3) },
      };
    } finally {
      await close();
      await store.close();
    }
  }
  process.stdout.write(`${table(lines)}\naim: at least 3 × PGVectorStore's requests/s\n`);
  return result;
}
