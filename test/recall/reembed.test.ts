import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { modelRegistry } from "../../src/db/access/model-registry.ts";
import { createLog } from "../../src/log.ts";
import { registerModels } from "../../src/models/register.ts";
import type { ModelSettings } from "../../src/models/settings.ts";
import { createService } from "../../src/service.ts";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { startService, type TestService } from "../harness/service.ts";

let provider: EmbeddingProvider;
let before: TestService;
beforeAll(async () => {
  provider = await startProvider();
  before = await startService({ models: provider.models });
});
afterAll(async () => {
  await before.stop();
  await provider.stop();
});

test("a model changes while recall goes on: old and new vectors stand side by side, and reembed moves a scope over", async () => {
  const agent = await before.mint("agent", { org: "moving" });
  const other = await before.mint("agent", { org: "staying" });
  await agent.remember("The observatory opens its dome at dusk.");
  await other.remember("The observatory of another tenant stays shut.");

  const { call, stop } = await serveWith(provider.modelNamed("other"));
  type Found = { hits: { text: string }[]; trace: { plan: string } };
  const vectorHits = async () =>
    call<Found>(agent.key, "/default/query", {
      query: "observatory dome dusk",
      mode: "vector",
      includeDuplicates: true,
    });
  try {
    await call(agent.key, "/default/facts", { text: "A second dome of the observatory is being built." });
    const side = await vectorHits();
    expect(side.hits.map(({ text }) => text).sort()).toEqual([
      "A second dome of the observatory is being built.",
      "The observatory opens its dome at dusk.",
    ]);
    expect(side.trace.plan).toContain("exact vectors of 1 + exact vectors of 1 over");
    const ordered = await call<{ pending: number; model: string }>(before.operator.key, "/contexts/default/reembed", {
      scope: "org/moving",
    });
    expect(ordered).toMatchObject({ model: "openai:other", pending: 1, embedded: 1, passages: 2, scopes: 1 });
    for (let tries = 0; tries < 200; tries++) {
      expect((await vectorHits()).hits).toHaveLength(2); // at every moment
      const { pending } = await call<{ pending: number }>(before.operator.key, "/contexts/default/reembed", {
        scope: "org/moving",
      });
      if (pending === 0) break;
    }
    const rows = await before.database.sql(
      `SELECT s.tags->>'org' AS org, e.name, count(*)::int AS n FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id
       JOIN scopefloor.embedder e ON e.id = p.embedder_id GROUP BY 1, 2 ORDER BY 1`,
    );
    expect(rows).toEqual([
      { org: "moving", name: "openai:other", n: 2 },
      { org: "staying", name: "openai:scripted", n: 1 },
    ]);
  } finally {
    await stop();
  }
});

/** The same database, served with another model by a service of its own. */
async function serveWith(models: ModelSettings) {
  const log = createLog("silent");
  await registerModels(modelRegistry(before.database), models, log);
  const service = await createService(before.database, { context: "default", log, models, worker: { pollMs: 50 } });
  const server = createServer(service.app.callback());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`;
  return {
    call: async <T>(key: string, path: string, body: object) =>
      (await (
        await fetch(url + path, {
          method: "POST",
          headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
          body: JSON.stringify(body),
        })
      ).json()) as T,
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await service.settled();
    },
  };
}

test("a model that only neighbours have vectors of has no part in an answer, its tokens or its failures (threats 2, 7)", async () => {
  const [old, current] = [provider.modelNamed("neighbours"), provider.models];
  const agent = await before.mint("agent", { org: "alone" });
  const rival = await before.mint("agent", { org: "neighbour" });
  for (const text of ["A heron waits in the reeds.", "The reeds hide a nest.", "Nothing of the kind."]) {
    await agent.remember(text);
  }
  const worker = await serveWith(current);
  await agent.processed((await agent.upload("A heron stands in the reeds.", "heron.txt")).body.id);
  await worker.stop();
  const asked: [path: string, body: object][] = [
    ...["vector", "hybrid", "bm25"].map((mode): [string, object] => ["/default/query", { query: "heron reeds", mode }]),
    ["/default/context", { query: "heron reeds" }],
    ["/default/documents/query", { query: "heron reeds", mode: "vector", threshold: 0.3 }],
    ["/default/documents/query", { query: "heron reeds" }],
    ["/default/forget", { query: "heron reeds", dryRun: true }],
  ];
  const answersNow = async () => {
    const { call, stop } = await serveWith(current);
    try {
      await before.database.sql("DELETE FROM scopefloor.response_cache");
      const calls = provider.calls.length;
      const since = new Date().toISOString();
      const texts: string[] = [];
      for (const [path, body] of asked) {
        const { queryMs: _, trace, ...answer } = await call<Record<string, unknown>>(agent.key, path, body);
        const { plan, tierReason, topScores } = (trace ?? {}) as Record<string, unknown>;
        texts.push(JSON.stringify({ ...answer, plan, tierReason, topScores }));
      }
      return {
        texts,
        // One that is not asked cannot fail.
        calls: provider.calls.length - calls,
        traces: await before.database.sql(
          `SELECT operation, tier, regexp_replace(tier_reason, '\\d+ s ago', 'lately') AS tier_reason, plan, input_tokens, embedding_tokens, candidates, returned
           FROM scopefloor.decision_trace WHERE api_key_id = $1 AND created_at >= $2 ORDER BY created_at, id`,
          [agent.id, since],
        ),
      };
    } finally {
      await stop();
    }
  };
  const without = await answersNow();
  const neighbour = await serveWith(old);
  await neighbour.call(rival.key, "/default/facts", { text: "A heron of the neighbour's." });
  await neighbour.stop();
  expect(await answersNow()).toEqual(without);
  // The control: once the tenant has a vector of that model itself, its answers are made with it too.
  const moved = await serveWith(old);
  await moved.call(agent.key, "/default/facts", { text: "A heron of the other model." });
  await moved.stop();
  expect((await answersNow()).calls).toBeGreaterThan(without.calls + 4);
});

test("a model whose vectors have another length than before stops the start, and one that never answered too", async () => {
  provider.behave("wrong dimension");
  await expect(registerModels(modelRegistry(before.database), provider.models, createLog("silent"))).rejects.toThrow(
    /384 dimensions before and gives 383 now/,
  );
  provider.behave("500");
  await expect(
    registerModels(modelRegistry(before.database), provider.modelNamed("unheard"), createLog("silent")),
  ).rejects.toThrow(/has never answered here/);
  // One that is known may be away for a while.
  await registerModels(modelRegistry(before.database), provider.models, createLog("silent"));
  provider.behave("ok");
  await expect(
    registerModels(
      modelRegistry(before.database),
      { ...provider.models, embeddings: "nonsense:model" },
      createLog("silent"),
    ),
  ).rejects.toThrow(/unknown provider/);
  await expect(
    registerModels(
      modelRegistry(before.database),
      { ...provider.models, embeddings: "cohere:model" },
      createLog("silent"),
    ),
  ).rejects.toThrow(/npm install @langchain\/cohere/);
});
