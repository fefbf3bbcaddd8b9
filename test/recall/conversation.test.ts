import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { rankInContext, type WordHit } from "../../src/recall/ranking/in-context.ts";
import { likenessInTime, timesNamed } from "../../src/recall/ranking/named-time.ts";
import { startService, type TestService } from "../harness/service.ts";

const turn = (position: number, frequencies: number[], more: Partial<WordHit> = {}): WordHit => ({
  id: `turn-${more.sessionId ?? "s"}-${position}`,
  scopeId: 1,
  score: 1,
  frequencies,
  observedAt: "2023-05-08T13:00:00.000Z",
  words: 10,
  sessionId: "s",
  position,
  turns: 20,
  speaker: null,
  ...more,
});

describe("ranking in context", () => {
  const rare = [{ idf: 3, share: 0.01 }];

  test("gives the turns around a hit a share that falls with distance, and those two turns away the last", () => {
    const ranked = rankInContext({ lexemes: rare, hits: [turn(5, [1])] }, "q");
    expect(ranked.map(({ id, place }) => id ?? place?.position)).toEqual(["turn-s-5", 4, 6, 3, 7]);
  });

  test("keeps a word of every fourth passage and more to the turn that says it", () => {
    const ranked = rankInContext({ lexemes: [{ idf: 0.7, share: 0.5 }], hits: [turn(5, [1])] }, "q");
    const beside = ranked.filter(({ place }) => place !== undefined);
    const own = ranked.find(({ id }) => id !== undefined)?.score ?? 0;
    for (const { score } of beside) expect(score).toBeLessThan(own);
    // What is left to them is their session's score.
    expect(new Set(beside.map(({ score }) => score)).size).toBe(1);
  });

  test("does not reach into another session, nor out of a session of one turn", () => {
    const alone = turn(0, [1], { sessionId: "alone", turns: 1, id: "alone" });
    const ranked = rankInContext({ lexemes: rare, hits: [turn(0, [1]), alone] }, "q");
    expect(ranked.filter(({ place }) => place?.sessionId === "alone")).toEqual([]);
    expect(ranked.every(({ place }) => place === undefined || place.position > 0)).toBe(true);
  });

  test("prefers who is named and when it was said", () => {
    const hits = [turn(1, [1], { speaker: "Ana" }), turn(9, [1], { speaker: "Bo" })];
    const first = (query: string) => rankInContext({ lexemes: rare, hits }, query)[0]?.id;
    expect(first("what did Ana say")).toBe("turn-s-1");
    expect(first("what did Bo say")).toBe("turn-s-9");
    const dated = [
      turn(1, [1], { observedAt: "2023-06-01T00:00:00.000Z" }),
      turn(9, [1], { observedAt: "2023-05-08T00:00:00.000Z" }),
    ];
    expect(rankInContext({ lexemes: rare, hits: dated }, "in May 2023")[0]?.id).toBe("turn-s-9");
    expect(rankInContext({ lexemes: rare, hits: dated }, "in June")[0]?.id).toBe("turn-s-1");
  });
});

describe("times that a question names", () => {
  test.each([
    ["on 7 May 2023", [{ year: 2023, month: 4, day: 7 }]],
    ["May 7th, 2023", [{ year: 2023, month: 4, day: 7 }]],
    ["in May", [{ year: undefined, month: 4, day: undefined }]],
    ["during July 2022", [{ year: 2022, month: 6, day: undefined }]],
    ["on 2023-05-07", [{ year: 2023, month: 4, day: 7 }]],
    ["you may march on", []],
    ["in the year 2022", []],
  ])("%s", (text, expected) => {
    expect(timesNamed(text)).toEqual(expected);
  });

  test("a day is also about the days beside it, a month about all of its days", () => {
    const named = timesNamed("7 May 2023");
    const at = (day: string) => likenessInTime(named, `${day}T12:00:00.000Z`);
    expect([at("2023-05-07"), at("2023-05-09"), at("2023-05-20"), at("2023-06-07"), at("2022-05-07")]).toEqual([
      1, 0.75, 0.5, 0, 0,
    ]);
  });
});

describe("recall in a conversation", () => {
  let service: TestService;
  beforeAll(async () => {
    service = await startService();
  });
  afterAll(() => service.stop());

  const talk = (scopes: string, about: string) => ({
    scopes,
    messages: [
      { role: "user", content: `Did you find the ${about} you were looking for?` },
      { role: "assistant", content: "Yes, behind the stove, of all places." },
      { role: "user", content: "Wonderful. Shall we have lunch?" },
      { role: "assistant", content: "Gladly. I know a place by the river." },
    ],
  });

  test("finds an answer that shares no word with the question beside the turn that does", async () => {
    const client = await service.mint("agent", { org: "talk" });
    await client.post("/facts/batch", talk("org/talk", "brooch"));
    const found = await client.recall("Where was the brooch?");
    expect(found[0]).toContain("brooch");
    expect(found.indexOf("Yes, behind the stove, of all places.")).toBe(1);
    expect(await client.recall("Where was the brooch?", { mode: "bm25" })).toHaveLength(1);
  });

  test("neighbours pass the filters that a hit passes, and are gone when forgotten", async () => {
    const client = await service.mint("agent", { org: "talk", user: "filters" });
    const before = new Date().toISOString();
    await client.post("/facts/batch", { ...talk("org/talk/user/filters", "brooch"), labels: ["room=kitchen"] });
    expect(await client.recall("brooch", { labels: ["room=kitchen"] })).toContain(
      "Yes, behind the stove, of all places.",
    );
    expect(await client.recall("brooch", { labels: ["room=cellar"] })).toEqual([]);
    expect(await client.recall("brooch", { asOf: before })).toEqual([]);
    await client.post("/forget", { query: "stove" });
    expect(JSON.stringify(await client.recall("brooch"))).not.toContain("stove");
  });

  test("a neighbour is never another scope's turn, whatever its session's id (threats 15, 24)", async () => {
    const acme = await service.mint("agent", { org: "acme" });
    const other = await service.mint("agent", { org: "other" });
    const { body } = await acme.post<{ sessionId: string }>("/facts/batch", talk("org/acme", "canary"));
    await other.post("/facts/batch", talk("org/other", "canary"));
    // The same session id in both scopes: nothing but the scope tells their turns apart.
    await service.database.sql("ALTER TABLE scopefloor.passage DISABLE TRIGGER USER");
    await service.database.sql(
      `UPDATE scopefloor.passage SET session_id = '${body.sessionId}' WHERE scope_id = (SELECT id FROM scopefloor.scope WHERE tags = '{"org":"other"}')`,
    );
    await service.database.sql(
      `UPDATE scopefloor.passage SET text = 'canary-foreign ' || text WHERE scope_id = (SELECT id FROM scopefloor.scope WHERE tags = '{"org":"acme"}')`,
    );
    expect(JSON.stringify(await other.recall("canary"))).not.toContain("canary-foreign");
    expect((await acme.recall("canary")).some((text) => text.includes("canary-foreign"))).toBe(true);
  });
});
