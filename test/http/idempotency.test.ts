import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let acme: Client;

beforeAll(async () => {
  service = await startService();
  acme = await service.mint("agent", { org: "acme" });
});
afterAll(() => service.stop());

const once = (key: string) => ({ headers: { "idempotency-key": key } });

describe("Idempotency-Key", () => {
  test("the same request gives the stored answer and is done once", async () => {
    const first = await acme.post("/facts", { text: "said once" }, once("a"));
    const second = await acme.post("/facts", { text: "said once" }, once("a"));
    expect(second.body).toEqual(first.body);
    expect(second.status).toBe(first.status);
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(await acme.recall("said once", { mode: "bm25", includeDuplicates: true })).toHaveLength(1);
  });

  test("another body is 409; another endpoint or key is another request", async () => {
    await acme.post("/facts", { text: "one" }, once("b"));
    expect((await acme.post("/facts", { text: "two" }, once("b"))).status).toBe(409);
    expect((await acme.post("/sessions", {}, once("b"))).status).toBe(201);
    expect((await acme.post("/facts", { text: "two" }, once("b2"))).status).toBe(200);
  });

  test("twenty at once have one effect and one answer", async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => acme.post("/facts", { text: "in parallel" }, once("c"))),
    );
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([200]));
    expect(new Set(answers.map((answer) => answer.text)).size).toBe(1);
    expect(await acme.recall("parallel", { mode: "bm25", includeDuplicates: true })).toHaveLength(1);
  });

  test("a failed write frees it", async () => {
    expect(
      (await acme.post("/facts", { text: "x", session_id: "01900000-0000-7000-8000-000000000000" }, once("d"))).status,
    ).toBe(404);
    const { sessionId } = await acme.remember("a session");
    await acme.del(`/sessions/${sessionId}`);
    expect((await acme.post("/facts", { text: "y", sessionId }, once("d"))).status).toBe(409);
    expect((await acme.post("/facts", { text: "z" }, once("d"))).status).toBe(200);
  });

  test("a retry gets its answer although the same would be refused by now", async () => {
    const { sessionId } = await acme.remember("a session to close");
    const first = await acme.post("/facts", { text: "last words", sessionId }, once("late"));
    await acme.del(`/sessions/${sessionId}`);
    const retried = await acme.post("/facts", { text: "last words", sessionId }, once("late"));
    expect(retried.text).toBe(first.text);
    expect((await acme.post("/facts", { text: "other words", sessionId }, once("late"))).status).toBe(409);
  });

  test("two tenants' keys do not meet (threat 4)", async () => {
    const globex = await service.mint("agent", { org: "globex" });
    await acme.post("/facts", { text: "acme's own" }, once("shared"));
    const other = await globex.post("/facts", { text: "globex's own" }, once("shared"));
    expect(other.status).toBe(200);
    expect(other.headers.get("idempotent-replayed")).toBeNull();
    expect(await globex.recall("own")).toEqual(["globex's own"]);
  });

  test("an answer that carried a secret is not stored: 409, and no second key", async () => {
    const minted = await acme.post("/keys", { name: "secret" }, once("e"));
    expect(minted.status).toBe(201);
    const again = await acme.post("/keys", { name: "secret" }, once("e"));
    expect(again.status).toBe(409);
    const stored = await service.database.sql("SELECT i::text AS row FROM scopefloor.idempotency i");
    expect(JSON.stringify(stored)).not.toContain("sf_agent_");
  });

  test("is kept for 24 hours", async () => {
    await acme.post("/facts", { text: "yesterday" }, once("f"));
    await service.database.sql(
      "UPDATE scopefloor.idempotency SET created_at = now() - interval '25 hours' WHERE key = 'f'",
    );
    expect((await acme.post("/facts", { text: "today" }, once("f"))).status).toBe(200);
  });

  test("a malformed one is 400", async () => {
    expect((await acme.post("/facts", { text: "x" }, once("a b"))).status).toBe(400);
    expect((await acme.post("/facts", { text: "x" }, once("a".repeat(256)))).status).toBe(400);
  });
});
