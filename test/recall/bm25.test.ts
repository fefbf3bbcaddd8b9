import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let corpus = 0;

beforeAll(async () => {
  service = await startService();
  // What is compared here is what the rankings give.
  await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
});
afterAll(() => service.stop());

/** Words that the English stemmer leaves as they are. */
const WORDS = ["alpha", "bravo", "delta", "gamma", "kappa", "lambda", "omega", "sigma"];

/** Okapi BM25 as written down in the literature, sharing no code with the service. */
function referenceScores(texts: readonly string[], query: readonly string[], k1 = 1.2, b = 0.75): number[] {
  const documents = texts.map((text) => text.split(" "));
  const mean = documents.reduce((sum, words) => sum + words.length, 0) / documents.length;
  return documents.map((words) => {
    let score = 0;
    for (const term of new Set(query)) {
      const tf = words.filter((word) => word === term).length;
      if (tf === 0) continue;
      const df = documents.filter((other) => other.includes(term)).length;
      const idf = Math.log(1 + (documents.length - df + 0.5) / (df + 0.5));
      score += (idf * tf * (k1 + 1)) / (tf + k1 * (1 - b + (b * words.length) / mean));
    }
    return score;
  });
}

const scoresOf = async (client: Client, query: string) => {
  const answer = await client.post<{ hits: { text: string; score: number }[] }>("/query", {
    query,
    mode: "bm25",
    k: 50,
    includeDuplicates: true,
  });
  return answer.body.hits.map(({ text, score }) => [text, score] as const);
};

describe("BM25", () => {
  test("agrees with a reference implementation to 1e-6 on random corpora", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(
          fc.array(fc.constantFrom(...WORDS), { minLength: 1, maxLength: 12 }).map((w) => w.join(" ")),
          { minLength: 2, maxLength: 12 },
        ),
        fc.array(fc.constantFrom(...WORDS), { minLength: 1, maxLength: 4 }),
        async (texts, query) => {
          const tenant = await service.mint("agent", { org: `bm25-${corpus++}` });
          await tenant.post("/facts/batch", { messages: texts.map((content) => ({ role: "user", content })) });
          const reference = new Map(referenceScores(texts, query).map((score, i) => [texts[i], score]));
          const found = await scoresOf(tenant, query.join(" "));
          expect(found).toHaveLength([...reference.values()].filter((score) => score > 0).length);
          for (const [text, score] of found) expect(Math.abs(score - (reference.get(text) ?? 0))).toBeLessThan(1e-6);
          expect(found.map(([, score]) => score)).toEqual(found.map(([, score]) => score).sort((x, y) => y - x));
        },
      ),
      { numRuns: 25 },
    );
  });

  test("has the same scores to the last bit before and after foreign inserts (threats 7, 13)", async () => {
    const tenant = await service.mint("agent", { org: "still" });
    const foreign = await service.mint("agent", { org: "noisy" });
    await tenant.post("/facts/batch", {
      messages: ["alpha bravo", "alpha alpha delta", "omega"].map((content) => ({ role: "user", content })),
    });
    const answers = async () => {
      const all = [];
      for (const mode of ["bm25", "vector", "hybrid"]) {
        const answer = await tenant.post<{ hits: unknown; trace: { plan: string } }>("/query", {
          query: "alpha omega",
          mode,
        });
        all.push(JSON.stringify(answer.body.hits), answer.body.trace.plan);
      }
      return all;
    };
    const before = await answers();
    await foreign.post("/facts/batch", {
      messages: Array.from({ length: 200 }, (_, i) => ({ role: "user", content: `alpha omega ${i} alpha` })),
    });
    expect(await answers()).toEqual(before);
    // The control: the tenant's own insert does change them.
    await tenant.remember("alpha kappa");
    expect(await answers()).not.toEqual(before);
  });

  test("counts what is there now: forgotten passages weigh no more, folding changes nothing", async () => {
    const tenant = await service.mint("agent", { org: "counted" });
    await tenant.post("/facts/batch", {
      messages: ["alpha bravo", "alpha delta", "sigma sigma sigma"].map((content) => ({ role: "user", content })),
    });
    await tenant.post("/forget", { query: "sigma" });
    const expected = referenceScores(["alpha bravo", "alpha delta"], ["bravo"]);
    const [first] = await scoresOf(tenant, "bravo");
    expect(first?.[1]).toBeCloseTo(expected[0] ?? 0, 6);
    await service.database.sql("SELECT scopefloor.fold_counters()");
    expect((await scoresOf(tenant, "bravo"))[0]?.[1]).toBe(first?.[1]);
    const [rows] = await service.database.sql(
      `SELECT count(*)::int AS n, count(DISTINCT (c.embedder_id, c.languages))::int AS kinds
       FROM scopefloor.scope_counter c JOIN scopefloor.scope s ON s.id = c.scope_id WHERE s.tags = '{"org":"counted"}'`,
    );
    expect(rows?.n).toBe(rows?.kinds);
  });
});
