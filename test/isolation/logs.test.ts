import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createLog } from "../../src/log.ts";
import { type EmbeddingProvider, startProvider } from "../harness/embedding-provider.ts";
import { startService, type TestService } from "../harness/service.ts";

const CANARY = "quetzalcanary";

let provider: EmbeddingProvider;
let service: TestService;
const lines: string[] = [];

beforeAll(async () => {
  provider = await startProvider();
  const log = createLog("trace", { write: (line) => lines.push(line) });
  service = await startService({ worker: {}, log, models: provider.models });
});
afterAll(async () => {
  await service.stop();
  await provider.stop();
});

describe("what leaves the service beside its answers (threat 12)", () => {
  test("holds neither text nor names nor keys: logs, errors, metrics, another tenant's traces", async () => {
    const tenant = await service.mint("agent", { org: CANARY });
    const other = await service.mint("agent", { org: "other" });
    const said: string[] = [];
    const keep = ({ text, status }: { text: string; status: number }) => {
      if (status >= 400) said.push(text);
    };
    await tenant.remember(`the ${CANARY} nests here`, { labels: [`bird=${CANARY}`] });
    await tenant.recall(CANARY);
    const { body } = await tenant.upload(`the ${CANARY} file`, `${CANARY}.txt`, { title: CANARY });
    await tenant.processed(body.id);
    const broken = await tenant.upload(`%PDF-1.7 ${CANARY}`, `${CANARY}.pdf`, { mimeType: "application/pdf" });
    expect(await tenant.processed(broken.body.id)).toMatchObject({ status: "failed" });
    // A provider that quotes what it was sent in its refusal.
    provider.behave("400");
    await tenant.remember(`the ${CANARY} sings`);
    await tenant.recall(`${CANARY} sings`);
    provider.behave("ok");
    await tenant.call("PUT", `/memory/${CANARY}`, { value: CANARY });
    // What is refused, and what the database itself refuses: its message quotes the row.
    for (const answer of [
      await other.post("/query", { query: "x", lens: { org: "another" } }),
      await other.post("/facts", { text: "x", unknown: "field" }),
      await other.get(`/documents/${body.id}`),
    ])
      keep(answer);
    await service.database.sql(`
      CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN RAISE EXCEPTION 'cannot take "%"', NEW.content USING DETAIL = NEW.content; END $$`);
    await service.database.sql(`
      CREATE TRIGGER refuse BEFORE INSERT ON scopefloor.turn FOR EACH ROW WHEN (NEW.content LIKE '%breaks%') EXECUTE FUNCTION public.refuse()`);
    const failed = await tenant.post("/facts", { text: `the ${CANARY} breaks a rule` });
    expect(failed.status).toBe(500);
    keep(failed);
    await service.database.sql("DROP TRIGGER refuse ON scopefloor.turn");
    await tenant.post("/forget", { query: CANARY, purge: true });
    expect((await service.operator.post("/scopes/forget", { path: `org/${CANARY}/user/ann` })).status).toBe(200);

    expect(lines.length).toBeGreaterThan(15);
    expect(lines.join("")).toContain("request failed");
    expect(said).toHaveLength(4);
    const traces = (await other.get("/traces")).text + (await other.get("/audit")).text;
    const metrics = (await service.operator.get("/metrics")).text;
    for (const text of [...lines, ...said, traces, metrics]) {
      expect(text).not.toContain(CANARY);
      for (const { key } of [tenant, other, service.operator]) expect(text).not.toContain(key);
    }
  });

  test("would be seen there (the control)", () => {
    const written: string[] = [];
    const log = createLog("info", { write: (line) => written.push(line) });
    log.info({ text: CANARY, query: CANARY }, "redacted");
    expect(written.join()).not.toContain(CANARY);
    log.info({ other: CANARY }, "not redacted");
    expect(written.join()).toContain(CANARY);
  });
});
