import { afterAll, beforeAll, expect, test } from "vitest";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

interface Answer {
  hits: { id: string; text: string; score: number }[];
  trace: { plan: string };
}

const ROWS = 2_100;
const SUBJECTS = ["harbour", "orchard", "quarry", "library", "foundry", "vineyard", "mill", "observatory"];
const QUESTIONS = SUBJECTS.map((subject, i) => `${subject} ledger of shelf ${i * 3} and box ${i * 5}`);

let provider: EmbeddingProvider;
let service: TestService;
let large: Client;
let other: Client;

const ask = async (client: Client, query: string, more: object = {}) =>
  (await client.post<Answer>("/query", { query, mode: "vector", k: 10, ...more })).body;

const fill = async (client: Client, rows: number, mark: string) => {
  for (let at = 0; at < rows; at += 300) {
    const messages = Array.from({ length: Math.min(300, rows - at) }, (_, i) => {
      const n = at + i;
      const subject = SUBJECTS[n % SUBJECTS.length];
      return { role: "user", content: `${mark} ${subject} ledger ${n} of shelf ${n % 37} and box ${n % 53}` };
    });
    await client.post("/facts/batch", { messages });
  }
};

/** By the owner, every vector compared. */
const exactly = async (query: string, mark: string) => {
  const vector = JSON.stringify((await embed([query]))[0]);
  return service.database.sql(
    `SELECT id, 1 - (embedding <=> '${vector}'::halfvec) AS score FROM scopefloor.passage
     WHERE text LIKE '${mark}%' AND expired_at IS NULL ORDER BY embedding <=> '${vector}'::halfvec, id LIMIT 10`,
  );
};

const embed = async (input: string[]) => {
  const answer = await fetch(`${provider.models.openaiBaseUrl}/embeddings`, {
    method: "POST",
    body: JSON.stringify({ input, model: "dense" }),
  });
  const { data } = (await answer.json()) as { data: { embedding: number[] }[] };
  return data.map(({ embedding }) => embedding.map((x) => +x.toFixed(6)));
};

const without = async (where: string) =>
  Number((await service.database.sql(`SELECT count(*) AS n FROM scopefloor.passage WHERE ${where}`))[0]?.n);

beforeAll(async () => {
  provider = await startProvider();
  service = await startService({ models: provider.modelNamed("dense"), timeoutMs: 60_000 });
  await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
  large = await service.mint("agent", { org: "large" });
  other = await service.mint("agent", { org: "other" });
  await fill(large, ROWS, "canary-large");
  await fill(other, 300, "canary-other");
});
afterAll(async () => {
  await service.stop();
  await provider.stop();
});

test("a middling scope of a dense model is ranked by codes first, and gives what comparing every vector gives", {
  tags: ["long"],
}, async () => {
  let same = 0;
  for (const question of QUESTIONS) {
    const [answer, exact] = await Promise.all([ask(large, question), exactly(question, "canary-large")]);
    expect(answer.trace.plan).toBe(
      `exact vectors of the 768 nearest by their codes of ${ROWS} over 1 scope and general knowledge`,
    );
    const score = new Map(exact.map((row) => [row.id as string, row.score as number]));
    for (const hit of answer.hits) {
      expect(hit.text).toContain("canary-large");
      const expected = score.get(hit.id);
      if (expected === undefined) continue;
      same++;
      expect(hit.score).toBeCloseTo(expected, 5);
    }
  }
  expect(same).toBeGreaterThanOrEqual(79);
});

test("a small scope, and a narrowed recall, compare every vector", async () => {
  expect((await ask(other, "harbour ledger")).trace.plan).toBe(
    "exact vectors of 300 over 1 scope and general knowledge",
  );
  const since = { validFrom: "2020-01-01T00:00:00Z" };
  expect((await ask(large, "harbour ledger", since)).trace.plan).not.toContain("codes");
});

test("a code is the database's own: no writer can give a false one, and it goes with its vector", async () => {
  const [one] = await service.database.sql("SELECT id FROM scopefloor.passage ORDER BY id LIMIT 1");
  await service.database.sql(`UPDATE scopefloor.passage SET code = B'1' WHERE id = '${one?.id}'`);
  expect(await without("code <> binary_quantize(embedding)")).toBe(0);
  expect(await without("(code IS NULL) <> (embedding IS NULL)")).toBe(0);
  const [, second] = (await ask(large, QUESTIONS[0] ?? "")).hits;
  await large.post("/forget", { query: second?.text, threshold: 1 });
  const after = await ask(large, QUESTIONS[0] ?? "");
  expect(after.trace.plan).toContain("by their codes");
  expect(after.hits.map((hit) => hit.id)).not.toContain(second?.id);
  expect(await without("expired_at IS NOT NULL AND code IS NOT NULL")).toBe(0);
  expect(await without("expired_at IS NOT NULL")).toBeGreaterThan(0);
});

test("a model whose vectors are mostly 0 has no codes", { tags: ["long"] }, async () => {
  const local = await startService();
  const client = await local.mint("agent", { org: "local" });
  await client.remember("the harbour master keeps the ledger");
  const [row] = await local.database.sql("SELECT code, embedding FROM scopefloor.passage");
  expect(row?.code).toBeNull();
  expect(row?.embedding).not.toBeNull();
  await local.stop();
});
