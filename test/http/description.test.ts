import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { endpoints } from "../../src/http/routes/index.ts";
import { startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());

interface OpenApi {
  openapi: string;
  components: { schemas: Record<string, object> };
  paths: Record<
    string,
    Record<
      string,
      {
        operationId: string;
        parameters: { name: string; schema: { type: string } }[];
        requestBody?: { content: Record<string, { schema: { properties: object } }> };
        responses: Record<string, { content?: object }>;
      }
    >
  >;
}

describe("the description of the API", () => {
  test("is OpenAPI 3.1, names every route once, and needs no key", async () => {
    const description = (await (await fetch(`${service.url}/openapi.json`)).json()) as OpenApi;
    expect(description.openapi).toBe("3.1.0");
    for (const { method, path, body, answer, status } of endpoints) {
      const operation = description.paths[path]?.[method];
      expect(operation, `${method} ${path}`).toBeDefined();
      expect(operation?.requestBody !== undefined).toBe(body !== undefined);
      const response = operation?.responses[String(status)];
      expect(response, `${method} ${path}`).toBeDefined();
      if (status !== 422) expect(response?.content !== undefined, `${method} ${path}`).toBe(answer !== undefined);
    }
    const ids = Object.values(description.paths).flatMap((path) =>
      Object.values(path).flatMap(({ operationId }) => operationId ?? []),
    );
    expect(new Set(ids).size).toBe(ids.length);
    const { schemas } = description.components;
    expect(description.paths["/{ctx}/query"]?.post?.requestBody).toMatchObject({
      required: true,
      content: { "application/json": { schema: { $ref: "#/components/schemas/QueryRequest" } } },
    });
    expect(schemas.QueryRequest).toMatchObject({
      type: "object",
      required: ["query"],
      additionalProperties: false,
      properties: {
        lens: { anyOf: expect.any(Array) },
        query: { type: "string", maxLength: 8000 },
        k: { type: "integer", maximum: 50 },
      },
    });
    const upload = description.paths["/{ctx}/documents"]?.post?.requestBody?.content["multipart/form-data"]?.schema;
    expect(upload).toMatchObject({
      required: ["file"],
      properties: { metadata: { $ref: "#/components/schemas/DocumentsRequest" } },
    });
    expect(schemas.DocumentsRequest).toMatchObject({ properties: { title: { type: "string" } } });
    // Names of schemas stand for one thing each, and everything that is pointed at is there.
    const pointed = [...JSON.stringify(description).matchAll(/"#\/components\/schemas\/(\w+)"/g)].map(
      ([, name]) => name,
    );
    expect(pointed.filter((name) => schemas[name ?? ""] === undefined)).toEqual([]);
    const numbers = description.paths["/{ctx}/documents"]?.get?.parameters.filter(({ name }) => /^page/.test(name));
    expect(numbers?.map(({ schema }) => schema.type)).toEqual(["integer", "integer"]);
  });

  test("has a page to try it, which loads nothing from elsewhere", async () => {
    const page = await fetch(`${service.url}/docs`);
    expect(page.headers.get("content-type")).toContain("text/html");
    expect(page.headers.get("content-security-policy")).toContain("script-src 'self'");
    const html = await page.text();
    expect(html).not.toMatch(/https?:/);
    const script = /<script src="([^"]+)"/.exec(html)?.[1] ?? "";
    const code = await fetch(new URL(script, `${service.url}/docs`));
    expect(code.status).toBe(200);
    expect(code.headers.get("content-type")).toContain("javascript");
    expect((await code.text()).length).toBeGreaterThan(100_000);
  });
});

describe("metrics", () => {
  test("are for the operator, and say nothing of a tenant", async () => {
    const tenant = await service.mint("agent", { org: "metriccanary" });
    await tenant.remember("metriccanary text");
    await tenant.recall("metriccanary");
    await tenant.upload("metriccanary", "metriccanary.txt");
    const metrics = await service.operator.get("/metrics");
    expect(metrics.status).toBe(200);
    expect(metrics.headers.get("content-type")).toContain("text/plain");
    expect(metrics.text).toContain(
      'scopefloor_request_duration_seconds_count{method="POST",route="/api/v1/:ctx/query",status="200"}',
    );
    expect(metrics.text).toContain('scopefloor_jobs{kind="document",state="queued"} 1');
    expect(metrics.text).not.toContain("metriccanary");
    expect(metrics.text).not.toContain(tenant.id);
    const admin = await service.mint("management", { org: "metriccanary" });
    expect((await admin.get("/metrics")).status).toBe(403);
    expect((await tenant.get("/metrics")).status).toBe(403);
  });
});

describe("principals", () => {
  test("are keys; an agent knows itself and its children, a tenant's administrator those of its floor", async () => {
    const admin = await service.mint("management", { org: "house" });
    const agent = await service.mint("agent", { org: "house" });
    const child = await agent.post<{ id: string; key: string }>("/keys", { name: "child" });
    const ids = async (client: typeof agent) =>
      (await client.get<{ id: string }[]>("/principals")).body.map(({ id }) => id).sort();
    expect(await ids(agent)).toEqual([agent.id, child.body.id].sort());
    expect(await ids(admin)).toEqual([admin.id, agent.id, child.body.id].sort());
    expect((await agent.get(`/principals/${agent.id}`)).body).toMatchObject({
      id: agent.id,
      kind: "agent",
      grants: { "memory:read": ["org/house/*"] },
    });
    expect((await agent.get(`/principals/${admin.id}`)).status).toBe(404);
    const at = async (path: string) =>
      (await agent.get<{ verbs: string[]; path: string }>(`/principals/${agent.id}/effective?path=${path}`)).body;
    expect(await at("org/house/user/bob")).toMatchObject({
      path: "org/house/user/bob",
      verbs: expect.arrayContaining(["memory:read"]),
    });
    expect((await at("org/other")).verbs).toEqual([]);
  });

  test("grants only narrow, at once, and what was delegated narrows with them", async () => {
    const agent = await service.mint("agent", { org: "narrow" });
    const child = await agent.post<{ id: string; key: string }>("/keys", { name: "child" });
    const narrowed = await agent.post<{ grants: object }>(`/principals/${agent.id}/grants`, {
      verbs: ["memory:read", "memory:write"],
    });
    expect(Object.keys(narrowed.body.grants)).toEqual(["memory:read", "memory:write"]);
    expect((await agent.post(`/principals/${agent.id}/grants`, { verbs: ["memory:forget"] })).status).toBe(422);
    expect((await service.client(child.body.key).post("/forget", { query: "x" })).status).toBe(403);
    const less = await agent.call<{ grants: object }>("DELETE", `/principals/${child.body.id}/grants`, {
      grants: { "memory:write": ["org/narrow/*"] },
    });
    expect(Object.keys(less.body.grants)).toEqual(["memory:read"]);
    expect((await service.client(child.body.key).post("/facts", { text: "no" })).status).toBe(403);
    expect(
      (await agent.post(`/principals/${agent.id}/grants`, { grants: { "memory:read": ["org/elsewhere/*"] } })).status,
    ).toBe(422);
    expect((await agent.post(`/principals/${agent.id}/grants`, {})).status).toBe(400);
    // An administrator does not narrow its equals, nor the operator.
    const admin = await service.mint("management", { org: "narrow" });
    const equal = await service.mint("management", { org: "narrow" });
    expect((await admin.post(`/principals/${equal.id}/grants`, { verbs: [] })).status).toBe(404);
    expect((await admin.post(`/principals/${service.operator.id}/grants`, { verbs: [] })).status).toBe(404);
    expect((await admin.post(`/principals/${agent.id}/grants`, { verbs: ["memory:read"] })).status).toBe(200);
  });
});
