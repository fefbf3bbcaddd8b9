import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());

const ready = async (client: Client, text: string, name: string) => {
  const { body } = await client.upload(text, name);
  expect((await client.processed(body.id)).status).toBe("ready");
  return body.id;
};

const TEXT =
  "# Menu\n\nThe kitchen serves lentil soup on Mondays, and on every other day whatever the market has that morning.\n\n# Keys\n\nThe vault combination is narwhalcanary, which nobody may know who does not work in the house itself.\n";

describe("forgetting what a document says", () => {
  const isTaken = async (purge: boolean) => {
    const client = await service.mint("agent", { org: `forget-${purge}` });
    const id = await ready(client, TEXT, "house.md");
    const kept = await ready(client, "Another document, about lentil soup.", "kept.txt");
    const done = await client.post<{ deleted: number; receiptId: string }>("/forget", {
      query: "vault combination narwhalcanary",
      purge,
    });
    expect(done.body.deleted).toBe(1);
    expect(await client.recall("vault combination", { mode: "bm25" })).toEqual([]);
    expect(await client.recall("lentil soup", { mode: "bm25" })).toHaveLength(2);
    expect((await client.call("GET", `/documents/${id}/raw`)).status).toBe(404);
    expect(
      (await client.get<{ chunks: { text: string }[] }>(`/documents/${id}/chunks`)).body.chunks.map(({ text }) => text),
    ).toEqual([expect.stringContaining("lentil")]);
    expect((await client.get(`/documents/${id}`)).body).toMatchObject({ contentHash: "" });
    expect((await client.get<{ keywords: unknown[] }>(`/documents/${id}/keywords`)).body.keywords).toEqual([]);
    const [stored] = await service.database.sql(
      "SELECT count(*)::int AS n FROM scopefloor.document_content WHERE document_id = $1",
      [id],
    );
    expect(stored).toEqual({ n: 0 });
    if (purge) {
      const [row] = await service.database.sql(
        "SELECT count(*)::int AS n FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id WHERE s.tags = $1::jsonb AND p.text LIKE '%narwhalcanary%'",
        [JSON.stringify({ org: "forget-true" })],
      );
      expect(row).toEqual({ n: 0 });
    }
    // The other document is whole, and the forgotten file may be uploaded anew.
    expect((await client.get(`/documents/${kept}`)).body.contentHash).not.toBeNull();
    const again = await client.upload(TEXT, "house.md");
    expect(again.body).toMatchObject({ deduplicated: false });
    expect(again.body.id).not.toBe(id);
  };
  const TITLE = "takes the chunk, and the bytes and keywords that hold it too (purge: %s)";

  test.each([true])(TITLE, isTaken);

  test.each([false])(TITLE, { tags: ["long"] }, isTaken);

  test("takes headings, titles and sources that name it", { tags: ["long"] }, async () => {
    const client = await service.mint("agent", { org: "names" });
    const { body } = await client.upload(
      "# About okapicanary\n\nThe animal lives in the forest and eats leaves all day long, says the keeper.\n\n# Other\n\nNothing here.",
      "okapicanary_notes.md",
      { source: "https://example.com/okapicanary" },
    );
    await client.processed(body.id);
    await client.post("/forget", { query: "okapicanary", purge: true });
    for (const table of ["passage", "document", "keyword", "document_content"]) {
      const rows = await service.database.sql(`SELECT 1 FROM scopefloor.${table} t WHERE t::text LIKE '%okapicanary%'`);
      expect(rows, table).toEqual([]);
    }
    expect((await client.get(`/documents/${body.id}`)).body).toMatchObject({ title: "untitled", source: "" });
  });

  test("says in its receipt how many documents it could not see yet", { tags: ["long"] }, async () => {
    const quiet = await startService();
    try {
      const client = await quiet.mint("agent", { org: "pending" });
      await client.remember("The vault combination is secret.");
      await client.upload("The vault combination is in here as well.", "later.txt");
      const done = await client.post<{ receiptId: string }>("/forget", { query: "vault combination" });
      const receipt = await quiet.operator.get<{ counts: object }>(`/contexts/default/receipts/${done.body.receiptId}`);
      expect(receipt.body.counts).toMatchObject({ passage: 1, pendingDocuments: 1 });
    } finally {
      await quiet.stop();
    }
  });

  test("an erased scope takes its documents along, and leaves the neighbours' alone", async () => {
    const client = await service.mint("agent", { org: "neighbours" });
    await client.upload(TEXT, "a.md", { scopes: "user/alice" });
    const bob = await client.upload(TEXT, "a.md", { scopes: "user/bob" });
    await client.processed(bob.body.id);
    const before = await service.database.sql(
      "SELECT md5(string_agg(p::text, ',' ORDER BY p.id)) AS sum FROM scopefloor.passage p WHERE document_id = $1",
      [bob.body.id],
    );
    expect((await client.post("/scopes/forget", { path: "user/alice" })).status).toBe(200);
    expect(
      (await client.get<{ documents: { id: string }[] }>("/documents")).body.documents.map(({ id }) => id),
    ).toEqual([bob.body.id]);
    const after = await service.database.sql(
      "SELECT md5(string_agg(p::text, ',' ORDER BY p.id)) AS sum FROM scopefloor.passage p WHERE document_id = $1",
      [bob.body.id],
    );
    expect(after).toEqual(before);
  });

  test("nothing of an upload lands after the receipt of an erasure, however the two race (threat 18)", async () => {
    const leaving = await service.mint("agent", { org: "racing" });
    const admin = await service.mint("management", { org: "racing" });
    for (let round = 0; round < 6; round++) {
      const upload = leaving.upload(`${TEXT} ${round}`, "race.md", { scopes: "user/leaver" });
      await new Promise((resolve) => setTimeout(resolve, round * 60));
      expect((await admin.post("/scopes/forget", { path: "user/leaver" })).status).toBe(200);
      const accepted = await upload;
      expect([202, 409]).toContain(accepted.status);
    }
    expect((await admin.post("/scopes/forget", { path: "user/leaver" })).status).toBe(200);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    for (const table of [
      "document",
      "document_content",
      "passage",
      "segment",
      "posting_block",
      "keyword",
      "job",
      "chunk_band",
    ]) {
      const rows = await service.database.sql(
        `SELECT 1 FROM scopefloor.${table} t JOIN scopefloor.scope s ON s.id = t.scope_id WHERE s.tags ? '!erased' OR s.tags @> '{"user":"leaver"}'`,
      );
      expect(rows, table).toEqual([]);
    }
  });
});

describe("keys with fewer verbs", () => {
  test("an upload-only key uploads, and neither sees nor deletes anything", async () => {
    const client = await service.mint("agent", { org: "verbs" });
    const uploader = await service.mint("agent", { org: "verbs" }, { verbs: ["memory:write"] });
    const { status, body } = await uploader.upload("Uploaded blindly, says the mole.", "mole.txt");
    expect(status).toBe(202);
    expect((await uploader.upload("Uploaded blindly, says the mole.", "mole.txt")).body).toMatchObject({
      id: body.id,
      deduplicated: true,
    });
    for (const path of [`/documents/${body.id}`, "/documents", `/documents/${body.id}/raw`])
      expect((await uploader.get(path)).status).toBe(403);
    expect((await uploader.del(`/documents/${body.id}`)).status).toBe(403);
    expect((await client.processed(body.id)).status).toBe("ready");
    expect(await client.recall("mole")).toEqual(["Uploaded blindly, says the mole."]);
    const triple = { triples: [{ entity: { type: "Animal", name: "Mole" }, key: "sight", value: "none" }] };
    expect((await uploader.post("/facts", triple)).status).toBe(200);
    expect((await uploader.call("PUT", "/memory/mole", { value: 1 })).status).toBe(200);
    expect((await uploader.get("/memory/mole")).status).toBe(403);
    const version = await uploader.upload("Uploaded again, says the mole.", "mole.txt", undefined, {
      method: "PUT",
      path: `/documents/${body.id}`,
    });
    expect(version.status).toBe(202);
  });

  test("a recall-only key reads and cannot write; nobody changes general documents but the operator", async () => {
    const reader = await service.mint("agent", { org: "verbs" }, { verbs: ["memory:read"] });
    expect((await reader.upload("no", "no.txt")).status).toBe(403);
    const general = await service.operator.upload("Everyone may know about the solstice.", "solstice.txt", {
      scopes: {},
    });
    expect(general.status).toBe(202);
    await service.operator.processed(general.body.id);
    const client = await service.mint("agent", { org: "verbs" });
    expect((await client.get(`/documents/${general.body.id}`)).body).toMatchObject({ scope: {}, scopes: [[]] });
    expect(await client.recall("solstice", { mode: "bm25" })).toEqual(["Everyone may know about the solstice."]);
    expect((await client.del(`/documents/${general.body.id}`)).status).toBe(404);
    const replaced = await client.upload("Nobody may know.", "solstice.txt", undefined, {
      method: "PUT",
      path: `/documents/${general.body.id}`,
    });
    expect(replaced.status).toBe(404);
    expect((await service.operator.del(`/documents/${general.body.id}`)).status).toBe(204);
  });
});
