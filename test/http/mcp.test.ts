import { readFile } from "node:fs/promises";
import { MultiServerMCPClient } from "@langchain/mcp-adapters";
import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from "@modelcontextprotocol/client";
import { Client as FirstClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as FirstTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** MCP, as the clients speak it that people have: both eras of the protocol, and LangChain's adapters. */

let service: TestService;
let org: string;
let agent: Client;
let counter = 0;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());
beforeEach(async () => {
  org = `mcp-${++counter}`;
  agent = await service.mint("agent", { org });
});

const root = () => service.url.replace("/api/v1", "/mcp");
const inContext = () => `${service.url}/default/mcp`;
const bearer = (key: string) => ({ requestInit: { headers: { authorization: `Bearer ${key}` } } });

interface Called {
  isError?: boolean;
  content: { type: string; text: string }[];
  structuredContent?: Record<string, unknown>;
}
interface Peer {
  listTools(): Promise<{
    tools: { name: string; inputSchema: object; outputSchema?: object; annotations?: object; title?: string }[];
  }>;
  callTool(call: { name: string; arguments: Record<string, unknown> }): Promise<unknown>;
  listResources(): Promise<{ resources: { uri: string; name: string }[] }>;
  readResource(of: { uri: string }): Promise<{ contents: { text?: string }[] }>;
  listPrompts(): Promise<{ prompts: { name: string }[] }>;
  getPrompt(of: {
    name: string;
    arguments?: Record<string, string>;
  }): Promise<{ messages: { content: { text?: string } }[] }>;
  getInstructions(): string | undefined;
  close(): Promise<void>;
}

const ERAS = ["2025, by the first package", "2025, by the second package", "2026, without sessions"] as const;
type Era = (typeof ERAS)[number];

async function connect(era: Era, key = agent.key, url = root()): Promise<Peer> {
  if (era === ERAS[0]) {
    const client = new FirstClient({ name: "test", version: "1" });
    await client.connect(new FirstTransport(new URL(url), bearer(key)) as never);
    return client as unknown as Peer;
  }
  const modern = era === ERAS[2] ? { versionNegotiation: { mode: { pin: "2026-07-28" } } } : {};
  const client = new ModernClient({ name: "test", version: "1" }, modern as never);
  await client.connect(new ModernTransport(new URL(url), bearer(key)));
  expect(client.getProtocolEra()).toBe(era === ERAS[2] ? "modern" : "legacy");
  return client as unknown as Peer;
}

const call = async (peer: Peer, name: string, args: Record<string, unknown>) =>
  (await peer.callTool({ name, arguments: args })) as Called;

const operations = async () =>
  (
    await service.database.sql(
      "SELECT operation, principal FROM scopefloor.decision_trace WHERE scope->>'org' = $1 AND operation <> 'extract' ORDER BY created_at, id",
      [org],
    )
  ).map(({ operation }) => operation);

describe.each(ERAS)("a client of the era %s", (era) => {
  test("remembers, recalls, and forgets what it has seen first; each on the trace under its own name", async () => {
    const peer = await connect(era);
    expect(peer.getInstructions()).toContain("never an instruction");
    const remembered = await call(peer, "remember", { text: "The heron nests in the alder.", labels: ["topic=birds"] });
    expect(remembered.isError, JSON.stringify(remembered)).toBeFalsy();
    expect(remembered.structuredContent).toMatchObject({ mode: "none", session_id: expect.any(String) });
    const recalled = await call(peer, "recall", { query: "where does the heron nest", k: 3 });
    expect(recalled.structuredContent).toMatchObject({
      hits: [{ text: "The heron nests in the alder.", scope: `org/${org}`, labels: ["topic=birds"] }],
    });
    expect(recalled.content[0]?.text).toContain("The heron nests in the alder.");
    const block = await call(peer, "context", { query: "" });
    expect(block.content[0]?.text).toContain("The heron nests in the alder.");
    const preview = await call(peer, "forget", { query: "heron nests in the alder" });
    expect(preview.structuredContent).toMatchObject({
      applied: false,
      deleted: 1,
      matches: [{ text: "The heron nests in the alder." }],
    });
    expect(await agent.recall("heron nest")).toHaveLength(1);
    const forgotten = await call(peer, "forget", { query: "heron nests in the alder", apply: true });
    expect(forgotten.structuredContent).toMatchObject({ applied: true, deleted: 1 });
    expect(await agent.recall("heron nest")).toEqual([]);
    const ours = (await operations()).filter((operation) => String(operation).startsWith("mcp_"));
    expect(ours).toEqual(["mcp_remember", "mcp_recall", "mcp_context", "mcp_forget", "mcp_forget"]);
    await peer.close();
  });

  test("uploads and reads documents, inspects, and is taught when to remember", async () => {
    const peer = await connect(era, agent.key, inContext());
    const bytes = Buffer.from("# Bitterns\n\nBitterns boom at night in the reeds.\n");
    const uploaded = await call(peer, "upload", {
      bytes_base64: bytes.toString("base64"),
      filename: "bitterns.md",
      title: "Bitterns",
    });
    expect(uploaded.structuredContent, JSON.stringify(uploaded)).toMatchObject({ status: "queued", version: 1 });
    const id = String(uploaded.structuredContent?.id);
    await agent.processed(id);
    expect((await call(peer, "inspect", { ref: `document:${id}` })).structuredContent).toMatchObject({
      kind: "document",
      document: { title: "Bitterns", mimeType: "text/markdown", status: "ready" },
    });
    const { resources } = await peer.listResources();
    expect(resources.map(({ uri }) => uri)).toEqual(
      expect.arrayContaining(["scopefloor://profile", `scopefloor://documents/${id}`]),
    );
    const { contents } = await peer.readResource({ uri: `scopefloor://documents/${id}` });
    expect(contents[0]?.text).toContain("Bitterns boom at night in the reeds.");
    expect(
      JSON.parse((await peer.readResource({ uri: "scopefloor://profile" })).contents[0]?.text ?? ""),
    ).toHaveProperty("static");
    const missing = "scopefloor://documents/0197c0de-0000-7000-8000-000000000000";
    await expect(peer.readResource({ uri: missing })).rejects.toMatchObject({
      code: expect.toBeOneOf([-32602, -32002]),
      message: expect.stringContaining("what this key sees"),
    });
    expect((await peer.listPrompts()).prompts.map(({ name }) => name)).toEqual(["use-memory"]);
    const { messages } = await peer.getPrompt({ name: "use-memory", arguments: { about: "Hetty" } });
    expect(messages[0]?.content.text).toMatch(/call recall[\s\S]*about: Hetty/);
    await peer.close();
  });

  test("sees the tools that its key may use, each described in full", async () => {
    const names = async (key: string) => (await (await connect(era, key)).listTools()).tools.map(({ name }) => name);
    expect(await names(agent.key)).toEqual(["remember", "recall", "context", "forget", "upload", "inspect"]);
    const reader = await service.mint("agent", { org }, { verbs: ["memory:read"] });
    expect(await names(reader.key)).toEqual(["recall", "context", "inspect"]);
    const writer = await service.mint("agent", { org }, { verbs: ["memory:write"] });
    expect(await names(writer.key)).toEqual(["remember", "upload"]);
    const blind = await service.mint("management", { org }, { content: false });
    expect(await names(blind.key)).toEqual([]);
    const { tools } = await (await connect(era)).listTools();
    for (const tool of tools) {
      expect(tool.title, tool.name).toBeTruthy();
      expect(tool.annotations).toMatchObject({
        readOnlyHint: expect.any(Boolean),
        destructiveHint: tool.name === "forget",
      });
      expect(tool.inputSchema, tool.name).toMatchObject({ type: "object", properties: expect.any(Object) });
      expect(tool.outputSchema, tool.name).toMatchObject({ type: "object", properties: expect.any(Object) });
      expect(Object.keys(tool.inputSchema)).not.toEqual(expect.arrayContaining(["anyOf"]));
    }
    const refused = await call(await connect(era, reader.key), "remember", { text: "x" }).catch(
      (error: Error) => error,
    );
    expect(refused instanceof Error || (refused as Called).isError).toBe(true);
  });

  test("is told what is wrong with a call as a result, and loses nothing", async () => {
    const peer = await connect(era);
    // From then on clients hold what they get against what the tools promise.
    await peer.listTools();
    for (const [name, args, status] of [
      ["remember", { text: "x", scope: `org/${org}-rival` }, 403],
      ["remember", { text: "x", labels: ["no label"] }, 400],
      ["recall", { query: "x", mode: "graph" }, 422],
      ["inspect", { ref: "nonsense" }, 400],
      ["inspect", { ref: "document:00000000-0000-7000-8000-000000000000" }, 404],
      ["upload", { bytes_base64: "*" }, 400],
      ["upload", { bytes_base64: "AAAA", mime_type: "image/png" }, 415],
      ["recall", { query: "x", context_id: "another" }, 401],
    ] as const) {
      const answer = await call(peer, name, args);
      expect([name, answer.isError, answer.structuredContent?.error], JSON.stringify(answer)).toMatchObject([
        name,
        true,
        { status },
      ]);
      expect(answer.content[0]?.text).toBeTruthy();
    }
    // What models send besides: null for absent, and JSON in strings.
    const lenient = await call(peer, "remember", {
      text: "Said leniently.",
      labels: '["a=b"]',
      scope: null,
      session_id: null,
    });
    expect(lenient.isError, JSON.stringify(lenient)).toBeFalsy();
    expect((await call(peer, "recall", { query: "said leniently", k: "5" })).structuredContent).toMatchObject({
      hits: [{ text: "Said leniently.", labels: ["a=b"] }],
    });
  });

  test("reaches no other tenant's memory, whatever it names (threat 58)", async () => {
    const rival = await service.mint("agent", { org: `${org}-rival` });
    const { chunkId } = await rival.remember("The rival's secret is a heron.");
    const upload = await rival.upload("The rival's document about herons.", "secret.txt");
    await rival.processed(upload.body.id);
    const peer = await connect(era);
    const answers = [
      await call(peer, "recall", { query: "rival secret heron" }),
      await call(peer, "context", { query: "rival secret heron" }),
      await call(peer, "forget", {
        query: "The rival's secret is a heron.",
        apply: true,
        purge: true,
        confirm: `org/${org}`,
      }),
      await call(peer, "recall", { query: "heron", lens: `org/${org}-rival` }),
      await call(peer, "inspect", { ref: `memory:${chunkId}` }),
      await call(peer, "inspect", { ref: `document:${upload.body.id}` }),
      await peer
        .readResource({ uri: `scopefloor://documents/${upload.body.id}` })
        .catch((error: Error) => ({ error: error.message })),
      await peer.listResources(),
      await peer.readResource({ uri: "scopefloor://profile" }),
    ];
    expect(JSON.stringify(answers)).not.toMatch(/secret is|document about|secret\.txt/);
    expect(await rival.recall("secret heron")).toHaveLength(2);
  });
});

test("an operator's agent says where it writes", async () => {
  const peer = await connect(ERAS[0], service.operator.key);
  await peer.listTools();
  const refused = await call(peer, "remember", { text: "For whom?" });
  expect(refused).toMatchObject({ isError: true, structuredContent: { error: { status: 422 } } });
  const placed = await call(peer, "remember", { text: "For them.", scope: `org/${org}` });
  expect(placed.isError, JSON.stringify(placed)).toBeFalsy();
  expect(await agent.recall("for them")).toEqual(["For them."]);
});

test("a key acts on behalf of another over MCP as over HTTP", async () => {
  const supervisor = await service.mint("management", { org });
  const user = await service.mint("agent", { org, user: "ann" });
  await service.client(agent.key).remember("Everyone's heron.");
  await user.remember("Ann's own heron.");
  const client = new FirstClient({ name: "test", version: "1" });
  const headers = { authorization: `Bearer ${supervisor.key}`, "X-Memory-On-Behalf-Of": agent.id };
  await client.connect(new FirstTransport(new URL(root()), { requestInit: { headers } }) as never);
  const { content } = (await client.callTool({ name: "recall", arguments: { query: "heron" } })) as Called;
  expect(content[0]?.text).toContain("Everyone's heron.");
  expect(content[0]?.text).not.toContain("Ann's own heron.");
  await client.close();
});

test("limits and budgets hold, and a tool costs what its route costs (threat 58)", async () => {
  await service.operator.call("PUT", "/contexts/default/prices", { operation: "query", perCall: 0.01 });
  const peer = await connect(ERAS[0]);
  await call(peer, "recall", { query: "anything" });
  const [row] = await service.database.sql(
    "SELECT cost_usd::float8 AS cost FROM scopefloor.decision_trace WHERE scope->>'org' = $1 AND operation = 'mcp_recall'",
    [org],
  );
  expect(row?.cost).toBeCloseTo(0.01);
  await service.operator.call("PUT", "/contexts/default/budgets", {
    scope: { org },
    period: "day",
    costLimitUsd: 0.015,
  });
  const refused = await call(peer, "recall", { query: "anything else" });
  expect(refused).toMatchObject({
    isError: true,
    structuredContent: { error: { status: 429, code: "budget-exceeded" } },
  });
  await service.operator.call("DELETE", "/contexts/default/prices?operation=query");
});

test("LangChain's adapters list the tools and call them", async () => {
  const clients = new MultiServerMCPClient({
    mcpServers: { memory: { transport: "http", url: root(), headers: { Authorization: `Bearer ${agent.key}` } } },
  });
  const tools = await clients.getTools();
  const named = (name: string) => tools.find((tool) => tool.name === name);
  await named("remember")?.invoke({ text: "The coot builds a floating nest." });
  expect(JSON.stringify(await named("recall")?.invoke({ query: "floating nest" }))).toContain(
    "The coot builds a floating nest.",
  );
  await clients.close();
});

describe("over plain HTTP", () => {
  const post = (url: string, body: unknown, headers: Record<string, string> = {}) =>
    fetch(url, {
      method: "POST",
      headers: {
        authorization: `Bearer ${agent.key}`,
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        ...headers,
      },
      body: JSON.stringify(body),
    });
  const initialize = {
    jsonrpc: "2.0",
    id: 1,
    method: "initialize",
    params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "curl", version: "1" } },
  };

  test("without a key it is 401, and says where to read what a key is", async () => {
    for (const url of [root(), inContext()]) {
      const refused = await post(url, initialize, { authorization: "" });
      expect(refused.status).toBe(401);
      const [, metadata = ""] = /resource_metadata="([^"]+)"/.exec(refused.headers.get("www-authenticate") ?? "") ?? [];
      const told = await fetch(metadata);
      expect(told.status).toBe(200);
      const body = (await told.json()) as Record<string, unknown>;
      expect(body).toMatchObject({ resource: url, bearer_methods_supported: ["header"] });
      expect(body).not.toHaveProperty("authorization_servers");
    }
    expect((await post(root(), initialize, { authorization: "Bearer sf_agent_nonsense" })).status).toBe(401);
    expect((await post(`${service.url}/another/mcp`, initialize)).status).toBe(401);
  });

  test("GET and DELETE are 405, a notification is 202, a page of another host 403", async () => {
    for (const method of ["GET", "DELETE"]) {
      const answer = await fetch(root(), {
        method,
        headers: { authorization: `Bearer ${agent.key}`, accept: "text/event-stream" },
      });
      expect(answer.status, method).toBe(405);
    }
    const notified = await post(root(), { jsonrpc: "2.0", method: "notifications/initialized" });
    expect([notified.status, await notified.text()]).toEqual([202, ""]);
    expect((await post(root(), initialize, { origin: "https://evil.example" })).status).toBe(403);
    expect((await post(root(), initialize, { origin: new URL(service.url).origin })).status).toBe(200);
    expect((await post(root(), initialize, { origin: "vscode-file://vscode-app" })).status).toBe(200);
  });

  test("a list of messages is refused, of which one could cancel another so that no answer comes (threat 58)", async () => {
    const calls = [
      { jsonrpc: "2.0", id: 2, method: "tools/call", params: { name: "recall", arguments: { query: "q" } } },
      { jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: 2 } },
    ];
    expect((await post(root(), calls)).status).toBe(400);
    expect((await post(root(), calls[1])).status).toBe(202);
    expect((await post(root(), calls[0])).status).toBe(200);
    expect((await post(root(), calls[0], { "idempotency-key": "once" })).status).toBe(400);
    expect((await post(root(), initialize, { origin: "null" })).status).toBe(403);
  });

  test("odd names are arguments that there are not", async () => {
    for (const name of ["constructor", "toString", "__proto__"]) {
      const body = {
        jsonrpc: "2.0",
        id: 3,
        method: "tools/call",
        params: { name: "recall", arguments: JSON.parse(`{"query": "x", "${name}": "5"}`) },
      };
      const said = await (await post(root(), body)).text();
      expect([name, said]).toEqual([name, expect.not.stringContaining("is not a function")]);
    }
  });

  test("what is no call is an error of the protocol", async () => {
    const unknown = await post(root(), { jsonrpc: "2.0", id: 7, method: "no/such" });
    expect(await unknown.text()).toContain("-32601");
    const listening = await post(
      root(),
      {
        jsonrpc: "2.0",
        id: 8,
        method: "subscriptions/listen",
        params: {
          _meta: {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { name: "curl", version: "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
          },
          notifications: { toolsListChanged: true },
        },
      },
      { "mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen" },
    );
    expect(await listening.text()).toContain("error");
    expect((await post(root(), "x")).status).toBe(400);
  });
});

test("the server says the version that the package has", async () => {
  const { version } = JSON.parse(await readFile("package.json", "utf8")) as { version: string };
  const client = new FirstClient({ name: "test", version: "1" });
  await client.connect(new FirstTransport(new URL(root()), bearer(agent.key)) as never);
  expect(client.getServerVersion()).toMatchObject({ name: "scopefloor", version });
  await client.close();
});
