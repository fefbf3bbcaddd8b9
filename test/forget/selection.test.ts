import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let client: Client;
let counter = 0;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());
beforeEach(async () => {
  client = await service.mint("agent", { org: `tenant-${++counter}` });
});

interface Forgotten {
  deleted: number;
  receiptId?: string;
  matches?: { text: string; why: string; id: string }[];
}
const forget = async (what: object) => {
  const answer = await client.post<Forgotten>("/forget", { purge: true, ...what });
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
};
const preview = async (what: object) => (await forget({ ...what, dryRun: true })).matches ?? [];
const texts = async () =>
  (await client.get<{ memories: { text: string }[] }>("/memories")).body.memories.map(({ text }) => text).sort();
const triple = (name: string, key: string, value: unknown) => ({ entity: { type: "Person", name }, key, value });
const upload = async (content: string, name: string, more: object = {}) => {
  const { body } = await client.upload(content, name, more);
  await client.processed(body.id);
  return body.id;
};

describe("forgetting by what something is", () => {
  test("by labels: turns, facts and whole documents that have all of them", async () => {
    await client.remember("labelled one", { labels: ["project=moon", "kind=note"] });
    await client.remember("labelled two", { labels: ["project=moon"] });
    await client.post("/facts", { triples: [triple("Ann", "role", "pilot")], labels: ["project=moon", "kind=note"] });
    await client.call("PUT", "/memory/project", { value: "moon" });
    const document = await upload("The plan.\n\nIts second part.", "plan.txt", {
      labels: ["project=moon", "kind=note"],
    });
    const found = await preview({ labels: ["project=moon", "kind=note"] });
    expect(found.map(({ text }) => text).sort()).toEqual(["Ann: role: pilot", "labelled one", "plan.txt"]);
    expect(found[0]?.why).toBe("has project=moon, kind=note");
    expect(await texts()).toHaveLength(5);
    const { deleted, receiptId } = await forget({ labels: ["project=moon", "kind=note"] });
    expect(deleted).toBe(3);
    expect(await texts()).toEqual(["labelled two", "project: moon"]);
    expect((await client.get(`/documents/${document}`)).status).toBe(404);
    const receipt = await service.operator.get(`/contexts/default/receipts/${receiptId}`);
    expect(receipt.body).toMatchObject({ policy: "selection", counts: { turn: 1, attribute: 1, document: 1 } });
  });

  test.each([
    ["Alice Moreau", "MOREAU, alice rang twice"],
    ["Алиса", "Вчера звонила АЛИСА из банка"],
    ["Łukasz", "ŁUKASZ has the keys"],
    ["白小", "我的狗叫白小"],
  ])("by subject: what mentions %s, with the reason, and no one else", async (subject, text) => {
    await client.remember(text);
    await client.remember("Bob rang once");
    await client.post("/facts", { triples: [triple(subject, "city", "Lyon"), triple("Bob", "city", "Nice")] });
    await client.call("PUT", `/memory/note`, { value: `ask ${subject}` });
    const document = await upload(
      `Minutes.\n\n${"Some other business. ".repeat(120)}\n\n${subject} was there.`,
      "minutes.txt",
    );
    const found = await preview({ subject });
    expect(found.every(({ why }) => why === `mentions ${subject}`)).toBe(true);
    expect(found.map((match) => match.text)).toEqual(
      expect.arrayContaining([text, `${subject}: city: Lyon`, `note: ask ${subject}`]),
    );
    await forget({ subject });
    const left = (await texts()).join("\n");
    expect(left).toContain("Bob rang once");
    expect(left).toContain("Bob: city: Nice");
    expect(left).toContain("other business");
    expect(left.toLowerCase()).not.toContain(subject.toLowerCase());
    // The file says it still: its bytes go.
    expect((await client.get(`/documents/${document}/raw`)).status).toBe(404);
    expect((await client.get(`/entities/Person/${encodeURIComponent(subject)}`)).status).toBe(404);
  });

  test("by document, by time, by ids; and what is given together has to hold together", async () => {
    const document = await upload("One file.", "one.txt");
    const { chunkId } = await client.remember("first, in 2020", { observedAt: "2020-03-01T12:00:00Z" });
    await client.remember("second, in 2021", { observedAt: "2021-03-01T12:00:00Z" });
    await client.remember("third, in 2022", { observedAt: "2022-03-01T12:00:00Z", labels: ["a=b"] });
    await client.remember("fourth, of today", { labels: ["a=b"] });
    expect((await forget({ documentId: document })).deleted).toBe(1);
    expect((await client.get(`/documents/${document}`)).status).toBe(404);
    expect(
      (await preview({ since: "2021-01-01T00:00:00Z", until: "2021-12-31T00:00:00Z" })).map(({ text }) => text),
    ).toEqual(["second, in 2021"]);
    expect((await forget({ until: "2023-01-01T00:00:00Z", labels: ["a=b"] })).deleted).toBe(1);
    expect((await forget({ ids: [chunkId] })).deleted).toBe(1);
    expect(
      (await forget({ query: "fourth second today", threshold: 0.1, since: "2023-01-01T00:00:00Z" })).deleted,
    ).toBe(1);
    expect(await texts()).toEqual(["second, in 2021"]);
  });

  test("expires without purge; a later purge takes what was expired", async () => {
    await client.remember("expire this zebra", { labels: ["a=b"] });
    await forget({ labels: ["a=b"], purge: false });
    expect(await texts()).toEqual([]);
    expect((await forget({ subject: "zebra" })).deleted).toBe(1);
    expect(await service.database.sql("SELECT 1 FROM scopefloor.turn WHERE content LIKE '%zebra%'")).toEqual([]);
  });

  test("reaches no other scope: neither by its labels nor by its ids", async () => {
    const other = await service.mint("agent", { org: `beside-${counter}` });
    const { chunkId } = await other.remember("theirs", { labels: ["a=b"] });
    expect((await forget({ labels: ["a=b"] })).deleted).toBe(0);
    expect((await forget({ ids: [chunkId], subtree: true })).deleted).toBe(0);
    expect((await forget({ subject: "theirs", subtree: true })).deleted).toBe(0);
    expect(await other.recall("theirs")).toEqual(["theirs"]);
    expect((await client.post("/forget", { purge: true })).status).toBe(400);
    expect((await client.post("/forget", { subject: "…" })).status).toBe(400);
    expect((await client.post("/forget", { labels: ["nonsense"] })).status).toBe(400);
  });
});
