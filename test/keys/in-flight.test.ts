import { v7 as uuid } from "uuid";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ScopedTransaction } from "../../src/db/access/scoped.ts";
import { hashSecret, newSecret } from "../../src/keys/secret.ts";
import { onPostgres } from "../harness/database.ts";
import { hold } from "../harness/held.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

// One connection has one transaction at a time.
describe.runIf(onPostgres())("while a key's verbs are taken away (threat 29)", () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service.stop());

  const SELF = { verb: "self", mode: "id" } as const;
  let names = 0;
  interface Minted {
    readonly status: string;
    readonly key?: { readonly id: string; readonly verbs: readonly string[] };
  }
  const minting = (verbs: readonly string[] | null) => (tx: ScopedTransaction) =>
    tx.call<Minted>(
      "mint_key",
      uuid(),
      hashSecret(newSecret("agent")),
      `child ${names++}`,
      "agent",
      null,
      verbs === null ? null : `{${verbs.join(",")}}`,
      null,
      null,
      null,
      null,
    );
  const narrow = (client: Client) =>
    service.operator.post(`/principals/${client.id}/grants`, { verbs: ["memory:read"] });
  const verbsOf = async (id: string | undefined) =>
    (await service.database.sql("SELECT to_jsonb(verbs) AS verbs FROM scopefloor.api_key WHERE id = $1", [id]))[0]
      ?.verbs;

  test("a request of its that came in before mints nothing with them", async () => {
    const agent = await service.mint("agent", { org: "in-flight" });
    const asking = await hold(service, agent, SELF, async () => undefined);
    const taking = await hold(service, agent, SELF, async () => undefined);
    expect((await narrow(agent)).status).toBe(200);
    expect(await asking(minting(["memory:read", "memory:write"]))).toMatchObject({ status: "forbidden" });
    expect(await taking(minting(null))).toMatchObject({ status: "ok", key: { verbs: ["memory:read"] } });
  });

  test("what one that it delegated is just minting is narrowed too", async () => {
    const agent = await service.mint("agent", { org: "in-flight" });
    const { body } = await agent.post<{ id: string; key: string }>("/keys", { name: "delegated" });
    let grandchild: Minted | undefined;
    const end = await hold(service, service.client(body.key, body.id), SELF, async (tx) => {
      grandchild = await minting(null)(tx);
    });
    expect(grandchild?.key?.verbs).toContain("memory:write");
    const narrowed = narrow(agent);
    await expect
      .poll(() =>
        service.database.sql(
          "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%change_verbs%'",
        ),
      )
      .toHaveLength(1);
    await end();
    expect((await narrowed).status).toBe(200);
    expect(await verbsOf(body.id)).toEqual(["memory:read"]);
    expect(await verbsOf(grandchild?.key?.id)).toEqual(["memory:read"]);
  });
});
