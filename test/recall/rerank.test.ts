import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

type Behaviour = "cohere" | "tei" | "500" | "400" | "garbage" | "hang" | "partial";

let server: Server;
let service: TestService;
let behaviour: Behaviour = "cohere";
let asked: Record<string, unknown>[] = [];
let onAsked: () => Promise<void> = async () => undefined;

/** Longer texts first: an order that no ranking of the service would give. */
const byLength = (texts: string[]) => texts.map((text, index) => ({ index, score: text.length }));

beforeAll(async () => {
  server = createServer(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const body = JSON.parse(Buffer.concat(parts).toString()) as Record<string, unknown>;
    asked.push({ ...body, authorization: request.headers.authorization });
    await onAsked();
    const send = (status: number, answer: unknown) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(typeof answer === "string" ? answer : JSON.stringify(answer));
    };
    const documents = (body.documents ?? body.texts) as string[];
    if (behaviour === "hang") return;
    if (behaviour === "500") return send(500, { error: "canary-provider" });
    if (behaviour === "400") return send(400, { error: "one of these texts is too long" });
    if (behaviour === "garbage") return send(200, "<html>");
    if (behaviour === "tei")
      return body.texts === undefined ? send(422, { error: "missing field texts" }) : send(200, byLength(documents));
    const results = byLength(documents).map(({ index, score }) => ({ index, relevance_score: score }));
    send(200, { results: behaviour === "partial" ? results.slice(1, 2) : results, usage: { total_tokens: 77 } });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/rerank`;
  service = await startService({ reranker: { url, model: "scripted", apiKey: "rerank-secret" } });
  await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
});
beforeEach(() => {
  behaviour = "cohere";
  asked = [];
  onAsked = async () => undefined;
});
afterAll(async () => {
  await service.stop();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

let tenants = 0;
const tenant = async () => {
  const client = await service.mint("agent", { org: `rerank-${++tenants}` });
  await client.remember("kiln");
  await client.remember("kiln kiln and the glaze");
  await client.remember("The kiln is fired twice a week, and cooled for a day.");
  return client;
};

interface Answer {
  hits: { text: string; score: number }[];
  trace: { plan: string; tokens: { total: number } };
}
const ask = async (client: Client) => (await client.post<Answer>("/query", { query: "kiln" })).body;

/** A failure leaves the endpoint alone for two seconds. */
const rested = () => new Promise((resolve) => setTimeout(resolve, 2_100));

describe("a reranker", () => {
  test.each(["cohere", "tei", "cohere"] as const)(
    "orders what was found, in the shape of %s, with its tokens on a trace",
    async (shape) => {
      behaviour = shape;
      const client = await tenant();
      const answer = await ask(client);
      expect(answer.hits.map((hit) => hit.text.length)).toEqual(
        [...answer.hits.map((hit) => hit.text.length)].sort((a, b) => b - a),
      );
      expect(answer.trace.plan).toContain("the best 3 by the reranker");
      expect(asked.at(-1)).toMatchObject({ query: "kiln", authorization: "Bearer rerank-secret" });
      const { body } = await client.get<{ traces: { operation: string; tokens: { input: number } }[] }>(
        "/traces?operation=rerank",
      );
      expect(body.traces).toHaveLength(1);
      expect(body.traces[0]?.tokens.input).toBeGreaterThan(0);
    },
  );

  test.each(["500", "garbage"] as const)(
    "that answers with %s changes nothing, and the plan says why",
    async (failure) => {
      behaviour = failure;
      const client = await tenant();
      const answer = await ask(client);
      expect(answer.hits).toHaveLength(3);
      expect(answer.trace.plan).toContain("not reranked");
      expect(JSON.stringify(answer)).not.toContain("canary-provider");
      await rested();
    },
  );

  test("is not asked again for an answer from the cache, whose trace says what both models' tokens would be", async () => {
    const config = (cacheSeconds: number) =>
      service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds } });
    const client = await tenant();
    await config(60);
    try {
      const first = await ask(client);
      asked = [];
      const { body } = await client.post<{ tier: string; hits: unknown; trace: { savedTokens: number } }>("/query", {
        query: "kiln",
      });
      expect(body).toMatchObject({ tier: "cache", hits: first.hits });
      expect(asked).toHaveLength(0);
      expect(body.trace.savedTokens).toBe(77 + first.trace.tokens.total);
    } finally {
      await config(0);
    }
  });

  test("that leaves texts out has them last, in their old order", async () => {
    behaviour = "partial";
    const answer = await ask(await tenant());
    expect(answer.hits).toHaveLength(3);
    const scores = answer.hits.map(({ score }) => score);
    expect(scores).toEqual([...scores].sort((a, b) => b - a));
  });

  test("that refuses one tenant's texts ranks the next one's", async () => {
    behaviour = "400";
    expect((await ask(await tenant())).trace.plan).toContain("not reranked");
    behaviour = "cohere";
    expect((await ask(await tenant())).trace.plan).toContain("by the reranker");
  });

  test("takes many texts in parts, and none of an explicit mode", async () => {
    const client = await tenant();
    const messages = Array.from({ length: 60 }, (_, i) => ({
      role: "user",
      content: `kiln number ${i} ${"x".repeat(i)}`,
    }));
    await client.post("/facts/batch", { messages });
    asked = [];
    const { body } = await client.post<{ hits: { text: string }[] }>("/query", {
      query: "kiln",
      k: 50,
      includeDuplicates: true,
    });
    expect(body.hits).toHaveLength(50);
    const sizes = asked.map(({ documents, texts }) => ((documents ?? texts) as string[]).length);
    expect(sizes.sort()).toEqual([18, 32]);
    asked = [];
    for (const mode of ["bm25", "vector"]) {
      expect((await client.post("/query", { query: "kiln", mode })).status).toBe(200);
    }
    expect(asked).toEqual([]);
  });

  test("that hangs is waited for no longer than three seconds, with no transaction open", async () => {
    behaviour = "hang";
    const client = await tenant();
    let open: unknown;
    onAsked = async () => {
      [open] = await service.database.sql(
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
      );
    };
    const began = performance.now();
    const answer = await ask(client);
    expect(answer.hits).toHaveLength(3);
    expect(performance.now() - began).toBeLessThan(6_000);
    expect(open).toEqual({ n: 0 });
    await rested();
  });

  test("does not bring back what was forgotten while it was asked", async () => {
    const client = await tenant();
    onAsked = async () => {
      await client.post("/forget", { query: "glaze", purge: true });
    };
    const answer = await ask(client);
    expect(JSON.stringify(answer.hits)).not.toContain("glaze");
    expect(answer.hits).toHaveLength(2);
  });

  test("sees the texts of the asking tenant alone", async () => {
    const other = await service.mint("agent", { org: "rerank-foreign" });
    await other.remember("canary-foreign kiln");
    await ask(await tenant());
    expect(JSON.stringify(asked)).not.toContain("canary-foreign");
  });
});
