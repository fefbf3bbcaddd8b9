import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
  await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
});
afterAll(() => service.stop());

let tenants = 0;
/** A tenant of its own that knows these facts, each by itself. */
async function knowing(facts: readonly string[]): Promise<Client> {
  const client = await service.mint("agent", { org: `speaks-${tenants++}` });
  await Promise.all(facts.map((fact) => client.remember(fact)));
  return client;
}

const taken = async (client: Client, query: string): Promise<string[]> => {
  const { body } = await client.post<{ matches: { text: string }[] }>("/forget", { query, dryRun: true });
  return body.matches.map(({ text }) => text).sort();
};

// A few of each set: `npm run bench -- languages` asks them all.
test.each(["ar", "de", "en", "es", "fi", "fr", "he", "hi", "ja", "ko", "nl", "pl", "ru", "th", "tr", "zh"])(
  "facts in %s are found, and forgotten, in other forms of their words",
  async (language) => {
    const lines = (await readFile(`bench/languages/${language}.tsv`, "utf8")).trim().split("\n");
    const rows = lines.map((line) => line.split("\t"));
    const asked = rows.filter(([kind]) => kind === "q").slice(0, 6);
    const others = rows.filter(([kind]) => kind === "o").slice(0, 30);
    const client = await knowing([...asked, ...others].map(([, fact = ""]) => fact));
    let [first, found] = [0, 0];
    for (const [, fact = "", question = "", topic = ""] of asked) {
      const [best] = await client.recall(question, { k: 1 });
      if (best === fact) first++;
      const matches = await taken(client, topic);
      if (matches.includes(fact)) found++;
    }
    expect(first).toBeGreaterThanOrEqual(5);
    expect(found).toBeGreaterThanOrEqual(3);
  },
);

test("a stem of one language is no stop word of another: a name takes what says it, and ranks first", async () => {
  const client = await knowing([
    "The dog sleeps in the garden",
    "Alice gave the book to the teacher",
    "Theo likes chess",
    "Notes are kept in the blue folder",
    "It is not a good idea",
    "María vive en Madrid y trabaja en el banco",
    "Me gusta el café con leche por la mañana",
  ]);
  expect(await taken(client, "forget Theo")).toEqual(["Theo likes chess"]);
  expect(await taken(client, "forget notes")).toEqual(["Notes are kept in the blue folder"]);
  expect(await taken(client, "forget Thea")).toEqual([]);
  expect((await client.recall("Theo"))[0]).toBe("Theo likes chess");
  expect((await client.recall("notes"))[0]).toBe("Notes are kept in the blue folder");
});

test("a word inside of another is found by a question, and takes nothing by itself", async () => {
  const facts = [
    "Lena wohnt in Köln und mag Musik",
    "Magdalena wohnt in München und malt",
    "Der Kindergarten hat im August geschlossen",
    "Im Garten stehen drei Apfelbäume",
    "Das Krankenhaus liegt am Fluss",
  ];
  const client = await knowing(facts);
  expect(await taken(client, "Vergiss alles über Lena")).toEqual([facts[0]]);
  expect(await taken(client, "Vergiss den Garten")).toEqual([facts[3]]);
  expect(await taken(client, "Lösche das Haus")).toEqual([]);
  expect((await client.recall("Haus"))[0]).toBe(facts[4]);
});

test.each([
  ["田中さんについて忘れて", "田中さんは東京に住んでいます", "鈴木さんは大阪に住んでいます"],
  ["请忘记小明", "小明住在上海", "小红住在北京"],
  ["민수에 대해 잊어줘", "민수는 서울에 살아요", "영희는 부산에 살아요"],
  ["Ayşe hakkında her şeyi unut", "Ayşe İstanbul'da yaşıyor", "Mehmet Ankara'da yaşıyor"],
  ["राम के बारे में सब भूल जाओ", "राम दिल्ली में रहता है", "सीता मुंबई में रहती है"],
  ["ลืมทุกอย่างเกี่ยวกับสมชาย", "สมชายอยู่กรุงเทพ", "มานีอยู่เชียงใหม่"],
  ["Oublie tout ce que tu sais sur Luc", "Luc aime le café", "Anne aime le thé"],
])("%s: what orders a forget is no part of what it is about", async (request, about, other) => {
  const client = await knowing([about, other]);
  expect(await taken(client, request)).toEqual([about]);
});

test("a text without a word of the question that is spelled like it comes before recency", async () => {
  const client = await knowing(["Bartholomew repaired the accordion", "the kettle is blue", "rain is due on Friday"]);
  const answer = await client.post<{ tier: string; hits: { text: string }[] }>("/query", { query: "Bartolomew" });
  expect(answer.body.tier).toBe("hybrid");
  expect(answer.body.hits.map(({ text }) => text)).toEqual(["Bartholomew repaired the accordion"]);
});
