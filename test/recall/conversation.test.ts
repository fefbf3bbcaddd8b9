import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { rankInContext, type SessionTurn } from "../../src/recall/ranking/in-context.ts";
import { cuesOf, typesAsked } from "../../src/text/answer-cues.ts";
import { bonusInTime, timesNamed } from "../../src/text/named-time.ts";
import { startService, type TestService } from "../harness/service.ts";

const turn = (position: number, frequencies: number[], more: Partial<SessionTurn> = {}): SessionTurn => ({
  id: `turn-${more.sessionId ?? "s"}-${position}`,
  scopeId: 1,
  score: 1,
  digest: null,
  frequencies,
  observedAt: "2023-05-08T13:00:00.000Z",
  words: 10,
  sessionId: "s",
  position,
  turns: 20,
  speaker: null,
  cues: 0,
  ...more,
});

describe("ranking in context", () => {
  const rare = [{ place: 0, weight: 3, idf: 3, spreads: true }];
  const silent = (sessionId: string, around: number) =>
    [-3, -2, -1, 1, 2, 3].map((away) => turn(around + away, [0], { sessionId }));
  const rank = (turns: SessionTurn[], query = "q", words = rare) =>
    rankInContext({
      words,
      hits: turns.filter(({ frequencies }) => (frequencies[0] ?? 0) > 0),
      turns,
      query,
      named: timesNamed(query),
    });

  test("gives the turns around a hit a share that falls with distance, down to two turns away", () => {
    const ranked = rank([turn(5, [1]), ...silent("s", 5)]);
    expect(ranked.map(({ id }) => id).slice(0, 5)).toEqual([
      "turn-s-5",
      "turn-s-4",
      "turn-s-6",
      "turn-s-3",
      "turn-s-7",
    ]);
    // What is further away has its session's score alone.
    const scores = new Map(ranked.map(({ id, score }) => [id, score]));
    expect(scores.get("turn-s-2")).toBe(scores.get("turn-s-8"));
    expect(scores.get("turn-s-2")).toBeLessThan(scores.get("turn-s-7") ?? 0);
  });

  test("keeps a word of every fourth passage and more to the turn that says it", () => {
    const ranked = rank([turn(5, [1]), ...silent("s", 5)], "q", [{ place: 0, weight: 0.7, idf: 0.7, spreads: false }]);
    expect(ranked[0]?.id).toBe("turn-s-5");
    expect(new Set(ranked.slice(1).map(({ score }) => score)).size).toBe(1);
  });

  test("does not reach into another session, nor out of a session of one turn", () => {
    const alone = turn(0, [1], { sessionId: "alone", turns: 1, id: "alone" });
    const beside = turn(1, [0], { sessionId: "other" });
    const ranked = rankInContext({
      words: rare,
      hits: [turn(0, [1]), alone],
      turns: [turn(0, [1]), beside],
      query: "q",
      named: [],
    });
    expect(ranked.map(({ id }) => id).sort()).toEqual(["alone", "turn-other-1", "turn-s-0"]);
    expect(ranked.at(-1)?.id).toBe("turn-other-1");
  });

  test("prefers who is named, where it is one, and when it was said", () => {
    const turns = [turn(1, [1], { speaker: "Ana" }), turn(9, [1], { speaker: "Bo" })];
    const first = (query: string) => rank(turns, query)[0]?.id;
    expect(first("what did Ana say")).toBe("turn-s-1");
    expect(first("what did Bo say")).toBe("turn-s-9");
    // Of two, or of a name inside of another word, nothing follows.
    expect(new Set(rank(turns, "what did Bo say to Ana").map(({ score }) => score)).size).toBe(1);
    expect(new Set(rank(turns, "what did Bob say about Anatolia").map(({ score }) => score)).size).toBe(1);
    const dated = [
      turn(1, [1], { observedAt: "2023-06-01T00:00:00.000Z" }),
      turn(9, [1], { observedAt: "2023-05-08T00:00:00.000Z" }),
    ];
    expect(rank(dated, "in May 2023")[0]?.id).toBe("turn-s-9");
    expect(rank(dated, "in June")[0]?.id).toBe("turn-s-1");
  });

  test("prefers what may be an answer of the type that is asked for to what asks itself", () => {
    const said = (position: number, text: string) => turn(position, [1], { cues: cuesOf(text) });
    const turns = [
      said(1, "Ana: Shall we see the gate?"),
      said(9, "Bo: I saw the gate."),
      said(15, "Ana: I saw the gate last week."),
    ];
    expect(rank(turns, "When did they see the gate").map(({ id }) => id)).toEqual([
      "turn-s-15",
      "turn-s-9",
      "turn-s-1",
    ]);
  });
});

describe("types of answers", () => {
  test.each([
    ["When did Ana leave", "Bo: She left yesterday."],
    ["how long did it take", "It took two weeks"],
    ["how many are left", "twelve? no, 11"],
    ["where does she live", "We moved to Porto"],
    ["who drove", "my brother did"],
    ["what book was it", 'We read "The Long Way" together'],
    ["why did he stop", "because of his knee"],
    ["how does she feel", "I'm so happy"],
  ])("%s", (question, answer) => {
    expect(typesAsked(question) & cuesOf(answer)).not.toBe(0);
    expect(typesAsked(question) & cuesOf("blue")).toBe(0);
  });

  test("a name before and a picture behind are no part of what is said", () => {
    expect(cuesOf("June: blue [shares a photo of May 2nd]")).toBe(0);
    expect(cuesOf("Ana: really? [shares a photo]")).not.toBe(0);
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

  test("a day is worth the more the nearer, a month all of its days", () => {
    const named = timesNamed("7 May 2023");
    const at = (day: string) => bonusInTime(named, `${day}T12:00:00.000Z`);
    expect(at("2023-05-07")).toBe(4);
    expect(at("2023-05-08")).toBeLessThan(4);
    expect(at("2023-05-08")).toBeGreaterThan(at("2023-05-20"));
    expect(at("2023-05-20")).toBe(3.2);
    expect(at("2023-06-20")).toBeLessThan(0.1);
    expect(at("2022-05-07")).toBeLessThan(0.1);
    const month = timesNamed("in May 2023");
    const bonuses = ["2023-05-30", "2022-05-30", "2023-06-04", "2023-06-24", "2023-08-01"];
    expect(bonuses.map((day) => bonusInTime(month, `${day}T12:00:00.000Z`))).toEqual([6, 3, 1.2, 0, 0]);
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
    expect(found.slice(0, 2).sort()).toEqual([
      "Did you find the brooch you were looking for?",
      "Yes, behind the stove, of all places.",
    ]);
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
