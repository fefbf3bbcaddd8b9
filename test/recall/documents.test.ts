import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());

const upload = async (client: Client, title: string, text: string) => {
  const { body } = await client.upload(text, `${title}.txt`, { title });
  await client.processed(body.id);
};

/** A paragraph long enough to have a vocabulary. */
const about = (words: string[], n: number) =>
  Array.from(
    { length: 12 },
    (_, i) => `${words[(i + n) % words.length]} ${words[(i * 3 + n) % words.length]} item${n} part${i}`,
  ).join(" ");

describe("recall of documents", () => {
  test("finds a chunk by its document's title, and forgets it by that too", async () => {
    const client = await service.mint("agent", { org: "titles" });
    await upload(
      client,
      "Quarterly report of the Heliotrope project",
      "Spending was within plan and two people joined.",
    );
    await upload(client, "Canteen", "Soup is served at noon.");
    const [first] = await client.recall("heliotrope");
    expect(first).toContain("Spending was within plan");
    expect(await client.recall("heliotrope", { mode: "bm25" })).toHaveLength(1);
    await client.post("/forget", { query: "heliotrope", purge: true });
    expect(await client.recall("heliotrope", { mode: "bm25" })).toEqual([]);
  });

  test("ranks up what speaks the vocabulary of the best documents, of the visible scopes alone", {
    tags: ["long"],
  }, async () => {
    const client = await service.mint("agent", { org: "vocabulary" });
    const related = ["turbine", "rotor", "blade", "stator", "nacelle"];
    for (let n = 0; n < 6; n++) await upload(client, `n${n}`, `generator generator ${about(related, n)}`);
    const unrelated = ["flour", "sugar", "butter", "oven", "dough"];
    // Both say the query's word once; one of them is about the same thing as those that say it often.
    await upload(client, "kin", `generator ${about(related, 7)}`);
    await upload(client, "stranger", `generator ${about(unrelated, 8)}`);
    const order = async () => {
      const found = await client.recall("generator", { include: "passages", k: 20, includeDuplicates: true });
      return {
        found,
        kin: found.findIndex((text) => text.includes("item7")),
        stranger: found.findIndex((text) => text.includes("item8")),
      };
    };
    const before = await order();
    expect(before.kin).toBeGreaterThanOrEqual(0);
    expect(before.kin).toBeLessThan(before.stranger);
    // A neighbour's texts, full of the stranger's words, change nothing.
    const foreign = await service.mint("agent", { org: "vocabulary-corp" });
    for (let n = 0; n < 3; n++)
      await upload(foreign, `f${n}`, `generator generator generator ${about(unrelated, n + 20)}`);
    await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    expect(await order()).toEqual(before);
  });
});
