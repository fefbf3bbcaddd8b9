import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let org: string;
let admin: Client;
let counter = 0;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());
beforeEach(async () => {
  org = `tenant-${++counter}`;
  admin = await service.mint("management", { org });
});

const at = "/contexts/default/settings";
const put = (by: Client, settings: object) => by.call(`PUT`, at, settings);
const effective = async (scope: string) =>
  (
    await service.operator.get<{ settings: Record<string, { value: unknown; scope: object | null }> }>(
      `${at}?scope=${scope}&effective=true`,
    )
  ).body.settings;

describe("settings", () => {
  test("of the narrowest scope hold, and the answer says where each comes from (threat 55)", async () => {
    await put(service.operator, { scope: {}, cacheSeconds: 7 });
    await put(admin, { scope: { org }, language: "de", contextDays: 3 });
    await put(admin, { scope: { org, user: "ann" }, language: "fr" });
    expect(await effective(`org/${org}/user/ann`)).toMatchObject({
      language: { value: "fr", scope: { org, user: "ann" } },
      contextDays: { value: 3, scope: { org } },
      cacheSeconds: { value: 7, scope: {} },
      contextTokens: { value: 2_000, scope: null },
    });
    expect(await effective("org/somebody-else")).toMatchObject({ language: { value: "auto", scope: null } });
    const listed = await admin.get<{ scopes: unknown[]; total: number }>(at);
    expect(listed.body).toMatchObject({
      total: 2,
      scopes: [{ settings: { language: "de" } }, { settings: { language: "fr" } }],
    });
    expect((await admin.del(`${at}?scope=org/${org}/user/ann&names=language`)).status).toBe(204);
    expect(await effective(`org/${org}/user/ann`)).toMatchObject({ language: { value: "de" } });
    expect((await admin.del(`${at}?scope=org/${org}/user/ann`)).status).toBe(404);
    await service.operator.del(`${at}?scope=%7B%7D`);
  });

  test("hold for the scope's requests and jobs, and for no one else's", async () => {
    const agent = await service.mint("agent", { org });
    const other = await service.mint("agent", { org: `${org}-x` });
    await put(admin, { scope: { org }, cacheSeconds: 0, chunkTokens: 50, contextTokens: 100 });
    for (const client of [agent, other]) {
      await client.remember("the harbour master keeps the ledger");
      const ask = () => client.post<{ tier: string }>("/query", { query: "who keeps the ledger" });
      await ask();
      expect((await ask()).body.tier).toBe(client === agent ? "hybrid" : "cache");
      const file = await client.upload("A sentence about harbours and ledgers. ".repeat(40), "long.txt");
      await client.processed(file.body.id);
      const chunks = await client.get<unknown[]>(`/documents/${file.body.id}/chunks`);
      const { length } = Array.isArray(chunks.body)
        ? chunks.body
        : ((chunks.body as { chunks: unknown[] }).chunks ?? []);
      if (client === agent) expect(length).toBeGreaterThan(6);
      else expect(length).toBeLessThan(4);
    }
  });

  test("are the floor's that set them: below nobody changes them; a narrower scope may have its own", async () => {
    await put(service.operator, { scope: { org }, contextDays: 5 });
    expect((await put(admin, { scope: { org }, contextDays: 50 })).status).toBe(403);
    expect((await put(admin, { scope: { org }, contextDays: 50, language: "de" })).status).toBe(403);
    expect((await admin.del(at)).status).toBe(403);
    expect((await put(admin, { scope: { org }, language: "de" })).status).toBe(200);
    expect(await effective(`org/${org}`)).toMatchObject({ contextDays: { value: 5 }, language: { value: "de" } });
    expect((await put(admin, { scope: { org: "another" }, language: "de" })).status).toBe(403);
    const other = await service.mint("management", { org: `${org}-x` });
    expect((await other.get<{ total: number }>(at)).body.total).toBe(0);
    expect((await other.get(`${at}?scope=org/${org}&effective=true`)).status).toBe(403);
  });

  test("that change are on the trace, by their names", async () => {
    await put(admin, { scope: { org }, language: "de", cacheSeconds: 1 });
    const rows = await service.database.sql(
      "SELECT tier_reason FROM scopefloor.decision_trace WHERE operation = 'settings_change' AND scope = $1",
      [JSON.stringify({ org })],
    );
    expect(String(rows[0]?.tier_reason).split(", ").sort()).toEqual(["cacheSeconds", "language"]);
  });

  test.each([
    [{}, 400],
    [{ language: "klingon" }, 400],
    [{ chunkTokens: 1 }, 400],
    [{ cacheSeconds: "long" }, 400],
    [{ colour: "red" }, 400],
  ])("refuse %j", async (settings, status) => {
    expect((await put(admin, { scope: { org }, ...settings })).status).toBe(status);
  });
});
