import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let provider: EmbeddingProvider;
let service: TestService;

beforeAll(async () => {
  provider = await startProvider();
  service = await startService({ models: provider.models, worker: { backoffSeconds: 0.1 } });
});
afterEach(() => provider.behave("ok"));
afterAll(async () => {
  await service.stop();
  await provider.stop();
});

let tenants = 0;
const tenant = () => service.mint("agent", { org: `tenant-${++tenants}` });

interface QueryAnswer {
  tier: string;
  hits: { text: string }[];
  trace: { plan: string; tierReason: string; tokens: { embedding: number; source?: string } };
}
const ask = async (client: Client, query: string, more = {}) =>
  (await client.post<QueryAnswer>("/query", { query, ...more })).body;

async function until(what: string, check: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 400; tries++) {
    if (await check()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`still not so: ${what}`);
}

const pending = async (client: Client) => {
  const [row] = await service.database.sql(
    "SELECT count(*)::int AS n FROM scopefloor.passage p JOIN scopefloor.api_key k ON k.id = p.api_key_id WHERE k.id = $1 AND p.embedding IS NULL",
    [client.id],
  );
  return row?.n as number;
};

/** After a failure the model is left alone for a moment, by this process as a whole. */
const recovered = async (client: Client) =>
  until("the model is used again", async () =>
    (await ask(client, "anything at all")).trace.plan.includes("exact vectors"),
  );

describe("a provider that answers", () => {
  test("is the one whose tokens are on the trace, and says so", async () => {
    const client = await tenant();
    await client.remember("The lighthouse keeper counts the ships.");
    const [trace] = await service.database.sql(
      "SELECT provider, model, embedding_tokens, token_source FROM scopefloor.decision_trace WHERE api_key_id = $1 AND operation = 'facts'",
      [client.id],
    );
    expect(trace).toEqual({ provider: "openai", model: "scripted", embedding_tokens: 1000, token_source: "provider" });
    const found = await ask(client, "who counts ships");
    expect(found.trace.tokens).toMatchObject({ embedding: 1000, source: "provider" });
    expect(found.trace.plan).toContain("exact vectors");
  });

  test("may speak Ollama's protocol: its tokens and its failures are read in the same way", {
    tags: ["long"],
  }, async () => {
    const ollama = await startService({
      models: { ...provider.models, embeddings: "ollama:scripted" },
      worker: { backoffSeconds: 0.1 },
    });
    try {
      const client = await ollama.mint("agent", { org: "ollama" });
      await client.remember("The lighthouse keeper counts the ships.");
      const found = await ask(client, "who counts ships");
      expect(found.trace.tokens).toMatchObject({ embedding: 7, source: "provider" });
      expect(found.trace.plan).toContain("exact vectors");
      provider.behave("500");
      await client.remember("The lamp burns all night.");
      const later = await ask(client, "lamp night");
      expect(later.hits[0]?.text).toBe("The lamp burns all night.");
      expect(later.trace.plan).toContain("it answered 500");
      provider.behave("ok");
      await until("embedded", async () => {
        const [row] = await ollama.database.sql(
          "SELECT count(*)::int AS n FROM scopefloor.passage WHERE embedding IS NULL",
        );
        return row?.n === 0;
      });
    } finally {
      await ollama.stop();
    }
  });

  test("without usage is counted by the tokenizer, and the trace says that", async () => {
    const client = await tenant();
    provider.behave("no usage");
    await client.remember("The lighthouse keeper counts the ships.");
    const [trace] = await service.database.sql(
      "SELECT embedding_tokens, token_source FROM scopefloor.decision_trace WHERE api_key_id = $1 AND operation = 'facts'",
      [client.id],
    );
    expect(trace).toEqual({ embedding_tokens: 7, token_source: "tokenizer" });
  });

  test("embeds a document from the queue, in batches, and the document is ready then", { tags: ["long"] }, async () => {
    const client = await tenant();
    const text = Array.from(
      { length: 200 },
      (_, i) => `Paragraph ${i} speaks of subject${i}.\n\n${"word ".repeat(120)}`,
    ).join("\n\n");
    const accepted = await client.upload(text, "long.txt");
    const document = await client.processed(accepted.body.id);
    expect(document.status, JSON.stringify(document)).toBe("ready");
    expect(await pending(client)).toBe(0);
    expect(Math.max(...provider.calls.map(({ texts }) => texts.length))).toBeLessThanOrEqual(64);
  });
});

describe.each<["429" | "500" | "hang" | "reset" | "wrong dimension" | "nan" | "garbage", { tags?: string[] }]>([
  ["429", {}],
  ["500", { tags: ["long"] }],
  ["hang", { tags: ["long"] }],
  ["reset", { tags: ["long"] }],
  ["wrong dimension", {}],
  ["nan", { tags: ["long"] }],
  ["garbage", { tags: ["long"] }],
])("a provider that answers with %s", (fault, options) => {
  test(
    "loses nothing: the text is there at once by its words, and by its vector once it works again",
    options,
    async () => {
      const client = await tenant();
      await recovered(client);
      provider.behave(fault);
      const startedAt = performance.now();
      await client.remember(`The ${fault} heron stands in the reeds.`);
      const batch = await client.post("/facts/batch", {
        messages: [{ role: "user", content: `A ${fault} walrus sleeps on the ice.` }],
      });
      expect(batch.status).toBe(200);
      expect(performance.now() - startedAt).toBeLessThan(8_000);
      const meanwhile = await ask(client, "heron reeds");
      expect(meanwhile.hits[0]?.text).toContain("heron");
      expect(meanwhile.tier).toBe("hybrid");
      expect(meanwhile.trace.plan).toContain("no vector (the embedding model is not available");
      expect(meanwhile.trace.tierReason).toContain("lexical for now");
      // Nothing waits inside a transaction.
      const open = await service.database.sql(
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' AND now() - state_change > interval '500 ms'",
      );
      expect(open).toEqual([{ n: 0 }]);
      expect(await pending(client)).toBe(2);
      provider.behave("ok");
      await until("embedded", async () => (await pending(client)) === 0);
      const found = await ask(client, "heron reeds");
      expect(found.hits[0]?.text).toContain("heron");
      expect(
        await service.database.sql("SELECT 1 FROM scopefloor.passage WHERE api_key_id = $1", [client.id]),
      ).toHaveLength(2);
    },
  );
});

describe("a text that the provider refuses", () => {
  test("is left to its words, and keeps no other from its vector", async () => {
    const client = await tenant();
    await recovered(client);
    provider.behave((texts) => (texts.some((text) => text.includes("poison")) ? "400" : "ok"));
    await client.post("/facts/batch", {
      messages: [
        { role: "user", content: "a poison text that is refused" },
        { role: "user", content: "a harmless text that is not" },
      ],
    });
    await until("the harmless one is embedded", async () => (await pending(client)) === 1);
    await until("no job is left", async () => {
      const [row] = await service.database.sql(
        "SELECT count(*)::int AS n FROM scopefloor.job j JOIN scopefloor.scope s ON s.id = j.scope_id WHERE s.tags = $1::jsonb",
        [JSON.stringify({ org: `tenant-${tenants}` })],
      );
      return row?.n === 0;
    });
    expect(await client.recall("poison refused")).toContain("a poison text that is refused");
  });
});

describe("a provider that stays away", () => {
  test("leaves a dead job that names the reason, a failed document, and reembed brings both back", async () => {
    const quick = await startService({ models: provider.models, worker: { backoffSeconds: 0.02, attempts: 3 } });
    try {
      const client = await quick.mint("agent", { org: "patient" });
      provider.behave("500");
      const accepted = await client.upload("The albatross follows the ship.", "bird.txt");
      const document = await client.processed(accepted.body.id);
      expect(document).toMatchObject({ status: "failed", error: expect.stringMatching(/it answered 500|left alone/) });
      expect(document.error).toContain("given up after 3 attempts");
      const [job] = await quick.database.sql("SELECT state, attempts, error FROM scopefloor.job");
      expect(job).toMatchObject({ state: "dead", attempts: 3, error: document.error });
      // By its words it was found all the time.
      expect(await client.recall("albatross")).toEqual(["The albatross follows the ship."]);
      provider.behave("ok");
      const ordered = await quick.operator.post("/contexts/default/reembed", { scope: "org/patient" });
      expect(ordered.body).toMatchObject({ model: "openai:scripted", scopes: 1, passages: 1, pending: 1, embedded: 0 });
      await until(
        "ready",
        async () => (await client.get<{ status: string }>(`/documents/${accepted.body.id}`)).body.status === "ready",
      );
      expect((await quick.operator.post("/contexts/default/reembed", { scope: "org/patient" })).body).toMatchObject({
        pending: 0,
        embedded: 1,
      });
      expect(await quick.database.sql("SELECT 1 FROM scopefloor.job")).toEqual([]);
    } finally {
      await quick.stop();
    }
  });
});
