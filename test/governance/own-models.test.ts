import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Writable } from "node:stream";
import pino from "pino";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { resealCredentials } from "../../src/governance/credentials.ts";
import { orderDueRuns } from "../../src/jobs/schedules.ts";
import { createLog } from "../../src/log.ts";
import { CredentialSeal } from "../../src/models/credentials.ts";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Models and providers' keys that a scope has of its own: for its calls alone, and told to nobody. */

const SEAL = Buffer.alloc(32, 7);
const SERVICE_KEY = "sk-of-the-service";
const RERANK_KEY = "rerank-key-of-the-service";

let provider: EmbeddingProvider;
let elsewhere: EmbeddingProvider;
let reranker: Server;
let rerankedBy: string[] = [];
let service: TestService;
let org: string;
let admin: Client;
let agent: Client;
let counter = 0;
let logged = "";

const at = "/contexts/default/settings";
const set = (by: Client, settings: object) => by.call<Record<string, unknown>>("PUT", at, settings);
const keysSince = (from: number) => [...new Set(provider.calls.slice(from).map(({ key }) => key))];
const modelsSince = (from: number) => [...new Set(provider.calls.slice(from).map(({ model }) => model))].sort();

beforeAll(async () => {
  [provider, elsewhere] = await Promise.all([startProvider(), startProvider()]);
  reranker = createServer(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    rerankedBy.push(String(request.headers.authorization));
    const { documents } = JSON.parse(Buffer.concat(parts).toString()) as { documents: string[] };
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ results: documents.map((_, index) => ({ index, relevance_score: -index })) }));
  });
  await new Promise<void>((resolve) => reranker.listen(0, "127.0.0.1", resolve));
  const sink = new Writable({
    write(chunk, _, done) {
      logged += String(chunk);
      done();
    },
  });
  service = await startService({
    worker: {},
    log: pino({ level: "trace" }, sink),
    reranker: {
      url: `http://127.0.0.1:${(reranker.address() as AddressInfo).port}/rerank`,
      model: "scripted",
      apiKey: RERANK_KEY,
    },
    models: {
      ...provider.models,
      openaiApiKey: SERVICE_KEY,
      offered: ["local", "openai:other"],
      credentialKeys: [SEAL],
      providerUrls: [elsewhere.models.openaiBaseUrl ?? ""],
    },
  });
  await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
});
afterAll(async () => {
  await service.stop();
  reranker.closeAllConnections();
  reranker.close();
  await Promise.all([provider.stop(), elsewhere.stop()]);
});
beforeEach(async () => {
  org = `tenant-${++counter}`;
  admin = await service.mint("management", { org });
  agent = await service.mint("agent", { org });
  rerankedBy = [];
});

const modelsOfRows = async (of: string) =>
  (
    await service.database.sql(
      `SELECT coalesce(e.name, 'none') AS name, count(*)::int AS n FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id
       LEFT JOIN scopefloor.embedder e ON e.id = p.embedder_id WHERE s.tags->>'org' = $1 GROUP BY 1 ORDER BY 1`,
      [of],
    )
  ).map(({ name, n }) => `${name} ${n}`);
const reembed = async (by: Client, scope: object) => {
  for (let tries = 0; ; tries++) {
    const { body } = await by.post<{ pending: number; model: string }>("/contexts/default/reembed", { scope });
    if (body.pending === 0 || tries > 200) return body;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
const vectorHits = async (by: Client, query: string) => {
  const { body } = await by.post<{ hits: { text: string }[]; trace: { plan: string } }>("/query", {
    query,
    mode: "vector",
    includeDuplicates: true,
  });
  return { texts: body.hits.map(({ text }) => text).sort(), plan: body.trace.plan };
};

describe("the embedding model of a scope", () => {
  test("embeds what its requests and jobs store, and no one else's (threat 55)", async () => {
    const rival = await service.mint("agent", { org: `${org}-rival` });
    await agent.remember("The heron stands in the reeds.");
    expect((await set(admin, { scope: { org }, embeddings: "openai:other" })).status).toBe(200);
    await agent.remember("The bittern hides in the reeds.");
    await agent.post("/facts", { triples: [{ entity: { type: "bird", name: "heron" }, key: "eats", value: "frogs" }] });
    await rival.remember("A coot of the rival.");
    expect(await modelsOfRows(org)).toEqual(["openai:other 2", "openai:scripted 1"]);
    expect(await modelsOfRows(`${org}-rival`)).toEqual(["openai:scripted 1"]);

    // Both are asked, since both have vectors; of the rival, its own alone.
    let from = provider.calls.length;
    const found = await vectorHits(agent, "a bird in the reeds");
    expect(found.texts.filter((text) => text.includes("reeds"))).toHaveLength(2);
    expect(found.plan).toContain("exact vectors of 2 + exact vectors of 1 over");
    expect(modelsSince(from)).toEqual(["other", "scripted"]);
    from = provider.calls.length;
    await vectorHits(rival, "a bird in the reeds");
    expect(modelsSince(from)).toEqual(["scripted"]);

    // A job embeds what it finds, also what another model has.
    await agent.processed((await agent.upload("A warbler sings in the reeds.", "warbler.txt")).body.id);
    const done = await reembed(admin, { org });
    expect(done).toMatchObject({ model: "openai:other", pending: 0 });
    expect(await modelsOfRows(org)).toEqual(["openai:other 4"]);
    from = provider.calls.length;
    await vectorHits(agent, "a bird in the reeds");
    expect(modelsSince(from)).toEqual(["other"]);
  });

  test("may be the one that runs here, and a narrower scope may go back; a corrected text has its own too", async () => {
    await set(admin, { scope: { org }, embeddings: "local" });
    await set(admin, { scope: { org, user: "ann" }, embeddings: "openai:scripted" });
    const ann = await service.mint("agent", { org, user: "ann" });
    const from = provider.calls.length;
    const { chunkId } = await agent.remember("The ferry leaves at nine.");
    expect(modelsSince(from)).toEqual([]);
    await ann.remember("Ann takes the ferry.");
    expect(modelsSince(from)).toEqual(["scripted"]);
    expect(await modelsOfRows(org)).toEqual(["lexical-hash-384 1", "openai:scripted 1"]);
    await set(admin, { scope: { org }, embeddings: "openai:other" });
    expect((await agent.call("PATCH", `/memories/${chunkId}`, { text: "The ferry leaves at ten." })).status).toBe(200);
    expect(await modelsOfRows(org)).toEqual(["openai:other 1", "openai:scripted 1"]);
    // The subtree is moved over scope by scope, each to its own model.
    expect((await reembed(service.operator, { org })).pending).toBe(0);
    expect(await modelsOfRows(org)).toEqual(["openai:other 1", "openai:scripted 1"]);
  });

  test("beside general knowledge of another model: both are asked, and the caller's scope pays", async () => {
    await service.operator.post("/facts", { text: `The almanac of ${org} lists the tides.`, scopes: {} });
    await set(admin, { scope: { org }, embeddings: "openai:other" });
    await agent.remember("Our own tides are noted in the log.");
    await service.database.sql("DELETE FROM scopefloor.decision_trace WHERE api_key_id = $1", [agent.id]);
    const { texts } = await vectorHits(agent, `almanac of ${org}: tides`);
    expect(texts).toEqual(
      expect.arrayContaining([`The almanac of ${org} lists the tides.`, "Our own tides are noted in the log."]),
    );
    const paid = await service.database.sql(
      `SELECT model, embedding_tokens::int AS tokens, scope->>'org' AS org FROM scopefloor.decision_trace
       WHERE api_key_id = $1 AND embedding_tokens > 0 ORDER BY model`,
      [agent.id],
    );
    expect(paid).toEqual([
      { model: "other", tokens: 1000, org },
      { model: "scripted", tokens: 1000, org },
    ]);
  });

  test("that is not offered is refused, by every door", async () => {
    const wrong = { embeddings: "openai:somebody-elses" };
    const offered = "this service offers openai:scripted, local, openai:other";
    for (const answer of [
      await set(admin, { scope: { org }, ...wrong }),
      await service.operator.call("PATCH", "/contexts/default", { config: wrong }),
      await service.operator.call("PUT", "/contexts/default/templates/wrong", { settings: wrong }),
      await service.operator.post("/contexts/default/tenants", { scope: { org: `${org}-b` }, settings: wrong }),
    ]) {
      expect(answer.status).toBe(422);
      expect(answer.text).toContain(offered);
    }
    const effective = await admin.get<{ settings: Record<string, unknown> }>(
      `${at}?scope=${encodeURIComponent(`org/${org}`)}&effective=true`,
    );
    expect(effective.body.settings.embeddings).toEqual({ value: "openai:scripted", scope: null });
  });
});

describe("a credential of a scope", () => {
  const secret = () => `sk-own-${org}-0123456789abcdef`;

  test("is used for the scope's calls, of requests and jobs, and for no one else's (threat 57)", async () => {
    const rival = await service.mint("agent", { org: `${org}-rival` });
    const answer = await set(admin, { scope: { org }, credentials: { openai: secret(), rerank: `re-${secret()}` } });
    expect(answer.status).toBe(200);
    const from = provider.calls.length;
    for (const client of [agent, rival]) {
      await client.remember("The kiln is fired.");
      await client.remember("The kiln is cooled, and the glaze is hard.");
      await client.processed((await client.upload("The kiln has a door of brick.", "kiln.txt")).body.id);
      await client.recall("kiln");
    }
    expect(new Set(keysSince(from))).toEqual(new Set([secret(), SERVICE_KEY]));
    const own = provider.calls.slice(from).filter(({ key }) => key === secret());
    const others = provider.calls.slice(from).filter(({ key }) => key === SERVICE_KEY);
    expect([own.length, others.length]).toEqual([4, 4]);
    expect(rerankedBy).toEqual([`Bearer re-${secret()}`, `Bearer ${RERANK_KEY}`]);
    // A user's own comes before the organisation's.
    await set(admin, { scope: { org, user: "ann" }, credentials: { openai: `${secret()}-ann` } });
    const ann = await service.mint("agent", { org, user: "ann" });
    const before = provider.calls.length;
    await ann.remember("Ann's kiln.");
    expect(keysSince(before)).toEqual([`${secret()}-ann`]);
    expect((await admin.del(`${at}?scope=org/${org}/user/ann&names=credentials.openai`)).status).toBe(204);
    await ann.remember("Ann's other kiln.");
    expect(provider.calls.at(-1)?.key).toBe(secret());
  });

  test("that fails falls back to no other's, and stops nobody else's (threat 57)", async () => {
    const rival = await service.mint("agent", { org: `${org}-rival` });
    await set(admin, { scope: { org }, credentials: { openai: secret() } });
    provider.unknownKeys.add(secret());
    const from = provider.calls.length;
    for (let n = 0; n < 4; n++) await agent.remember(`A lantern, number ${n}.`);
    // By its words it is recalled all the same.
    expect(await agent.recall("lantern number")).toHaveLength(4);
    expect(keysSince(from)).toEqual([secret()]);
    const said = await agent.post<{ trace: { plan: string } }>("/query", { query: "a lantern", mode: "vector" });
    expect(said.text).not.toContain(secret());
    const before = provider.calls.length;
    await rival.remember("The rival's lantern.");
    expect(keysSince(before)).toContain(SERVICE_KEY);
    expect(await modelsOfRows(`${org}-rival`)).toEqual(["openai:scripted 1"]);
    // With a key that works the queue makes up for it.
    await set(admin, { scope: { org }, credentials: { openai: `${secret()}-new` } });
    expect((await reembed(admin, { org })).pending).toBe(0);
    expect(await modelsOfRows(org)).toEqual(["openai:scripted 4"]);
    expect(
      keysSince(from)
        .filter((key) => key.startsWith("sk-own"))
        .sort(),
    ).toEqual([secret(), `${secret()}-new`]);
  });

  test("is in no answer, log, trace, table, report or error (threat 57)", async () => {
    const own = `${secret()}-canary`;
    const made = await set(admin, { scope: { org }, credentials: { openai: own, rerank: own }, language: "en" });
    provider.unknownKeys.add(own);
    await agent.remember("A canary sings.");
    await agent.recall("canary");
    const wrong = [
      await set(admin, { scope: { org }, credentials: { openai: { apiKey: own, baseUrl: "http://nowhere.test" } } }),
      await set(admin, { scope: { org }, credentials: { openai: `${own} with a space` } }),
      await set(admin, { scope: { org }, credentials: { openai: own }, embeddings: "openai:unknown" }),
      await set(admin, { scope: { org }, credentials: { openai: { apiKey: own, url: "x" } } }),
      await set(agent, { scope: { org }, credentials: { openai: own } }),
    ];
    expect(wrong.map(({ status }) => status)).toEqual([422, 400, 422, 400, 403]);
    const answers = [
      made,
      ...wrong,
      await admin.get(at),
      await admin.get(`${at}?scope=org/${org}&effective=true`),
      await service.operator.get("/contexts/default/audit"),
      await service.operator.get("/contexts/default/denied"),
      await service.operator.get(`/contexts/default/tenants/org/${org}`),
      await service.operator.get("/metrics"),
    ];
    expect(made.body.settings).toMatchObject({
      language: "en",
      "credentials.openai": { baseUrl: null, updatedAt: expect.any(String) },
    });
    for (const answer of answers) expect(answer.text).not.toContain(own);
    expect(logged.length).toBeGreaterThan(0);
    expect(logged).not.toContain(own);
    const tables = await service.database.sql(
      "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relnamespace = 'scopefloor'::regnamespace AND c.relkind IN ('r', 'p')",
    );
    let rows = 0;
    for (const { name } of tables) {
      for (const { row } of await service.database.sql(`SELECT t::text AS row FROM ${String(name)} t`)) {
        rows++;
        expect(String(row)).not.toContain(own);
        expect(String(row)).not.toContain(Buffer.from(own).toString("hex"));
      }
    }
    expect(rows).toBeGreaterThan(100);
  });

  test("that is moved to another scope, provider or address in the database does not open there (threat 57)", async () => {
    const rival = await service.mint("agent", { org: `${org}-rival` });
    const rivals = await service.mint("management", { org: `${org}-rival` });
    await set(admin, { scope: { org }, credentials: { openai: secret() } });
    await set(rivals, { scope: { org: `${org}-rival` }, credentials: { openai: `${secret()}-rival` } });
    await service.database.sql(
      `UPDATE scopefloor.scope_credential o SET sealed = c.sealed FROM scopefloor.scope_credential c, scopefloor.scope s, scopefloor.scope r
       WHERE s.id = c.scope_id AND s.tags = $1 AND r.id = o.scope_id AND r.tags = $2`,
      [JSON.stringify({ org }), JSON.stringify({ org: `${org}-rival` })],
    );
    const from = provider.calls.length;
    await rival.remember("The rival writes.");
    await rival.recall("the rival");
    expect(keysSince(from)).toEqual([]);
    await agent.remember("The owner writes.");
    expect(keysSince(from)).toEqual([secret()]);
    await service.database.sql(
      "UPDATE scopefloor.scope_credential c SET base_url = $1 FROM scopefloor.scope s WHERE s.id = c.scope_id AND s.tags = $2",
      [elsewhere.models.openaiBaseUrl, JSON.stringify({ org })],
    );
    await agent.remember("The owner writes again.");
    expect([keysSince(from), elsewhere.calls.length]).toEqual([[secret()], 0]);
  });

  test("is sent without what the environment adds to the service's own calls (threat 57)", async () => {
    const added = { OPENAI_ORG_ID: "org-of-the-service", OPENAI_PROJECT_ID: "project-of-the-service" };
    Object.assign(process.env, added);
    try {
      await set(admin, { scope: { org }, credentials: { openai: secret() } });
      await agent.remember("By its own key.");
      const rival = await service.mint("agent", { org: `${org}-rival` });
      await rival.remember("By the service's.");
      const said = (key: string) => JSON.stringify(provider.calls.findLast((call) => call.key === key)?.headers);
      expect(said(secret())).not.toContain("of-the-service");
      // The control: the service's own say it.
      expect(said(SERVICE_KEY)).toContain("org-of-the-service");
    } finally {
      for (const name of Object.keys(added)) delete process.env[name];
    }
  });

  test("goes to an address of the operator's list alone (threat 57)", async () => {
    const inside = ["http://127.0.0.1:1/v1", "http://169.254.169.254/latest", "file:///etc/passwd", ""];
    for (const baseUrl of [...inside, `${elsewhere.models.openaiBaseUrl}/../admin`]) {
      const answer = await set(admin, { scope: { org }, credentials: { openai: { apiKey: secret(), baseUrl } } });
      expect(answer.status, baseUrl).toBe(422);
      expect(answer.text).toContain("SCOPEFLOOR_PROVIDER_URLS");
    }
    const baseUrl = elsewhere.models.openaiBaseUrl;
    const answer = await set(admin, { scope: { org }, credentials: { openai: { apiKey: secret(), baseUrl } } });
    expect(answer.status).toBe(200);
    const from = provider.calls.length;
    const before = elsewhere.calls.length;
    await agent.remember("It is sent elsewhere.");
    expect([keysSince(from), elsewhere.calls.slice(before).map(({ key }) => key)]).toEqual([[], [secret()]]);
  });

  test("set from above is not changed from below, nor by a key with less than every right (threat 50)", async () => {
    await set(service.operator, { scope: { org }, credentials: { openai: secret() } });
    expect((await set(admin, { scope: { org }, credentials: { openai: "sk-mine" } })).status).toBe(403);
    expect((await admin.del(`${at}?scope=org/${org}`)).status).toBe(403);
    const neighbour = await service.mint("management", { org: `${org}-other` });
    expect((await set(neighbour, { scope: { org }, credentials: { openai: "sk-mine" } })).status).toBe(403);
    const blind = await service.mint("management", { org }, { content: false });
    expect((await set(blind, { scope: { org, user: "x" }, credentials: { openai: "sk-mine" } })).status).toBe(403);
    // No template keeps one: it would be in the clear.
    const template = { settings: { credentials: { openai: secret() } } };
    expect((await service.operator.call("PUT", "/contexts/default/templates/keys", template)).status).toBe(400);
  });

  test("leaves with its tenant", async () => {
    await set(service.operator, { scope: { org }, credentials: { openai: secret() } });
    await service.operator.post("/contexts/default/tenants/offboard", { scope: { org }, confirm: `org/${org}` });
    await orderDueRuns(service.database, createLog("silent"));
    for (let tries = 0; tries < 200; tries++) {
      const left = await service.database.sql(
        "SELECT 1 FROM scopefloor.scope_credential c JOIN scopefloor.scope s ON s.id = c.scope_id WHERE s.tags->>'org' = $1",
        [org],
      );
      if (left.length === 0) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error("the credential is still there");
  });
});

test("credentials are sealed anew when the key changes, and what does not open is said", async () => {
  const other = Buffer.alloc(32, 9);
  org = `tenant-${++counter}`;
  const place = { scope: `org/${org}`, provider: "openai", baseUrl: null };
  await set(await service.mint("management", { org }), { scope: { org }, credentials: { openai: "sk-rotated" } });
  const sealed = async () =>
    String(
      (
        await service.database.sql(
          "SELECT c.sealed FROM scopefloor.scope_credential c JOIN scopefloor.scope s ON s.id = c.scope_id WHERE s.tags = $1",
          [JSON.stringify({ org })],
        )
      )[0]?.sealed,
    );
  const before = await sealed();
  expect(new CredentialSeal([other]).open({ ...place, sealed: before })).toBeUndefined();
  expect(new CredentialSeal([SEAL]).open({ ...place, sealed: before })).toBe("sk-rotated");
  await resealCredentials(service.database, new CredentialSeal([other, SEAL]), createLog("silent"));
  const after = await sealed();
  expect(new CredentialSeal([other]).open({ ...place, sealed: after })).toBe("sk-rotated");
  expect(new CredentialSeal([SEAL]).open({ ...place, sealed: after })).toBeUndefined();
  // By a key that knows neither, nothing is changed.
  await resealCredentials(service.database, new CredentialSeal([Buffer.alloc(32, 1)]), createLog("silent"));
  expect(await sealed()).toBe(after);
  await resealCredentials(service.database, new CredentialSeal([SEAL, other]), createLog("silent"));
});
