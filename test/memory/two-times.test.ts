import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());

let tenants = 0;
const tenant = () => service.mint("agent", { org: `times-${++tenants}` });
const subject = { type: "Person", name: "Kim" };
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
/** A moment of the database's clock that lies strictly between what was written before and after it. */
async function momentBetween(): Promise<string> {
  await pause(3);
  const at = new Date().toISOString();
  await pause(3);
  return at;
}

interface Row {
  id: string;
  value?: unknown;
  target?: { name: string };
  validFrom: string;
  validUntil: string | null;
}
const day = (n: number) => new Date(Date.UTC(2024, 0, n)).toISOString();

const say = async (client: Client, value: unknown, observedAt?: string, more: object = {}) => {
  const answer = await client.post<{ extraction: { attributes: { id: string; stored: boolean; current: boolean }[] } }>(
    "/facts",
    {
      triples: [{ entity: subject, key: "city", value }],
      ...(observedAt === undefined ? {} : { observedAt }),
      ...more,
    },
  );
  expect(answer.status, answer.text).toBe(200);
  return answer.body.extraction.attributes[0];
};
const befriend = async (client: Client, names: readonly string[], observedAt: string) => {
  const answer = await client.post("/facts", {
    triples: names.map((name) => ({ entity: subject, key: "friend", target: { type: "Person", name } })),
    observedAt,
  });
  expect(answer.status, answer.text).toBe(200);
};
const about = async (client: Client, query: Record<string, string> = {}) => {
  const answer = await client.get<{ attributes: Row[]; relations: Row[] }>(
    `/entities/Person/Kim?${new URLSearchParams(query)}`,
  );
  if (answer.status === 404) return { attributes: [], relations: [] };
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
};
const values = async (client: Client, query: Record<string, string> = {}) =>
  (await about(client, query)).attributes.map(({ value }) => value);
const recalled = async (client: Client, moment: Record<string, string> = {}, mode = "bm25") => {
  const answer = await client.post<{ hits: { text: string }[] }>("/query", {
    query: "which city Kim friend",
    include: "facts",
    k: 50,
    mode,
    ...moment,
  });
  expect(answer.status, answer.text).toBe(200);
  return answer.body.hits.map(({ text }) => text).sort();
};

/** What was said together: of one key a value, or the targets that stand together. */
interface Said {
  readonly at: number;
  readonly what: readonly string[];
}
interface Held {
  readonly what: string;
  readonly from: number;
  readonly until: number | null;
}

/** The rules of docs/concepts.md, as plainly as can be: sort, and cut runs. */
function timelineOf(said: readonly Said[]): Held[] {
  // Of the same time the later said follows: ids grow.
  const order = said.map((one, i) => ({ ...one, i })).sort((a, b) => a.at - b.at || a.i - b.i);
  const held: Held[] = [];
  let open = new Map<string, number>();
  for (const { at, what } of order) {
    for (const [one, from] of open) if (!what.includes(one)) held.push({ what: one, from, until: at });
    open = new Map(what.map((one) => [one, open.get(one) ?? at]));
  }
  return [...held, ...[...open].map(([what, from]) => ({ what, from, until: null }))];
}
const holding = (held: readonly Held[], at: number) =>
  held
    .filter(({ from, until }) => from <= at && (until === null || until > at))
    .map(({ what }) => what)
    .sort();

describe("two times", () => {
  test("a value that was confirmed later survives a late older one", async () => {
    const client = await tenant();
    await say(client, "Oslo", day(1));
    expect(await say(client, "Oslo", day(120))).toMatchObject({ stored: false, current: true });
    expect(await say(client, "Rome", day(60))).toMatchObject({ stored: true, current: false });
    expect(await values(client)).toEqual(["Oslo"]);
    const at = (n: number) => values(client, { atInstant: day(n) });
    expect([await at(30), await at(90), await at(150)]).toEqual([["Oslo"], ["Rome"], ["Oslo"]]);
    expect(await recalled(client)).toEqual(["Kim: city: Oslo"]);
    expect(await recalled(client, { atInstant: day(90) })).toEqual(["Kim: city: Rome"]);
    const { history } = (await client.get<{ history: Row[] }>("/entities/Person/Kim/history/city")).body;
    expect(history.map(({ value, validFrom, validUntil }) => [value, validFrom, validUntil])).toEqual([
      ["Oslo", day(120), null],
      ["Rome", day(60), day(120)],
      ["Oslo", day(1), day(60)],
    ]);
  });

  test("a fact of the future is not current before its time, blocks nothing, and comes by itself", async () => {
    const client = await tenant();
    expect(await say(client, "Mars", "2090-01-01T00:00:00Z")).toMatchObject({ stored: true, current: false });
    expect(await values(client)).toEqual([]);
    expect(await recalled(client)).toEqual([]);
    expect(await say(client, "Oslo")).toMatchObject({ current: true });
    expect(await values(client)).toEqual(["Oslo"]);
    expect(await recalled(client)).toEqual(["Kim: city: Oslo"]);
    expect(await recalled(client, {}, "vector")).toEqual(["Kim: city: Oslo"]);
    expect(await recalled(client, { atInstant: "2091-01-01T00:00:00Z" })).toEqual(["Kim: city: Mars"]);
    const soon = new Date(Date.now() + 2_500).toISOString();
    await say(client, "Bergen", soon);
    // The same question before and after: what is cached must not outlive its truth.
    const ask = async () =>
      (
        await client.post<{ hits: { text: string }[]; tier: string }>("/query", {
          query: "the city where Kim lives",
          include: "facts",
        })
      ).body;
    expect((await ask()).hits.map(({ text }) => text)).toEqual(["Kim: city: Oslo"]);
    expect((await ask()).tier).toBe("cache");
    await pause(Math.max(0, Date.parse(soon) - Date.now()) + 50);
    expect(await values(client)).toEqual(["Bergen"]);
    expect((await ask()).hits.map(({ text }) => text)).toEqual(["Kim: city: Bergen"]);
  });

  test("what is so for a while ends by itself, and lifecycle/expire closes it", async () => {
    const client = await tenant();
    const ago = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();
    await say(client, "Oslo", ago(8), { memory_category: "context" });
    expect(await values(client)).toEqual([]);
    expect(await recalled(client)).toEqual([]);
    expect(await values(client, { atInstant: ago(5) })).toEqual(["Oslo"]);
    expect(await recalled(client, { atInstant: ago(5) })).toEqual(["Kim: city: Oslo"]);
    await client.post("/facts", {
      text: "Kim is at the dentist in the city",
      observedAt: ago(9),
      memory_category: "context",
    });
    expect(await client.recall("dentist city", { mode: "bm25" })).toEqual([]);
    const closed = await client.post<{ affected: number }>("/lifecycle/expire", {});
    expect([closed.status, closed.body]).toEqual([200, { affected: 2 }]);
    expect((await client.post("/lifecycle/expire", {})).body).toEqual({ affected: 0 });
    // Said again in time it goes on; after a gap it begins anew.
    await say(client, "Rome", ago(6), { memory_category: "context" });
    await say(client, "Rome", ago(1), { memory_category: "context" });
    const [rome] = (await about(client)).attributes;
    expect(rome).toMatchObject({
      value: "Rome",
      validFrom: ago(6).slice(0, 10) === rome?.validFrom.slice(0, 10) ? rome?.validFrom : "",
    });
    expect(Date.parse(rome?.validUntil ?? "")).toBeGreaterThan(Date.now() + 5 * 86_400_000);
  });

  test("what was superseded is found for the past, expired and erased nowhere, and the earlier does not come back", async () => {
    for (const purge of [false, true]) {
      const client = await tenant();
      await say(client, "Oslo", day(1));
      const known = await momentBetween();
      await say(client, "Rome", day(60));
      await say(client, "Lima", day(90));
      expect(await recalled(client, { atInstant: day(70) })).toEqual(["Kim: city: Rome"]);
      expect((await client.post("/forget", { query: "Rome", purge })).body).toMatchObject({ deleted: 1 });
      expect(await recalled(client, { atInstant: day(70) })).toEqual([]);
      expect(await values(client, { atInstant: day(70) })).toEqual([]);
      expect(await values(client)).toEqual(["Lima"]);
      expect((await client.post("/forget", { query: "Lima", purge })).body).toMatchObject({ deleted: 1 });
      expect(await values(client)).toEqual([]);
      expect(await recalled(client)).toEqual([]);
      expect(await values(client, { atInstant: day(30) })).toEqual(["Oslo"]);
      // As known before the others were learnt it goes on.
      expect(await values(client, { asOf: known, atInstant: day(70) })).toEqual(["Oslo"]);
    }
  });

  test("a late arrival before what was forgotten ends where that began", async () => {
    for (const late of ["Oslo", "Paris"]) {
      const client = await tenant();
      await say(client, "Oslo", day(1));
      await say(client, "Rome", day(60));
      await client.post("/forget", { query: "Rome", purge: true });
      await say(client, late, day(30));
      expect(await values(client), late).toEqual([]);
      expect(await values(client, { atInstant: day(40) })).toEqual([late]);
    }
  });

  test("as known then a fact ends as was known then, in recall as by name", async () => {
    const client = await tenant();
    const ago = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();
    await say(client, "Oslo", ago(6), { memory_category: "context" });
    const asOf = await momentBetween();
    await say(client, "Oslo", ago(1), { memory_category: "context" });
    for (const [atInstant, expected] of [
      [ago(-3), []],
      [ago(-0.5), ["Oslo"]],
    ] as const) {
      expect(await values(client, { asOf, atInstant })).toEqual(expected);
      expect(await recalled(client, { asOf, atInstant })).toEqual(expected.map((city) => `Kim: city: ${city}`));
    }
    expect(await values(client, { atInstant: ago(-3) })).toEqual(["Oslo"]);
  });

  test("what was said for a while is gone for the past too, before and after it is closed", async () => {
    const client = await tenant();
    const ago = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();
    await client.post("/facts", {
      text: "Kim is in the city for a meeting",
      observedAt: ago(8),
      memory_category: "context",
    });
    const then = () => client.recall("Kim meeting", { mode: "bm25", atInstant: ago(7.5) });
    expect(await then()).toEqual([]);
    await client.post("/lifecycle/expire", {});
    expect(await then()).toEqual([]);
  });

  test("a topic is forgotten in one session alone, whatever others said of the same", async () => {
    const client = await tenant();
    const said = async (value: string) => {
      const answer = await client.post<{ sessionId: string }>("/facts", {
        triples: [{ entity: subject, key: "pet", value }],
      });
      return answer.body.sessionId;
    };
    const first = await said("ibis");
    const second = await said("ibis");
    await said("newt");
    const forget = (sessionId: string) => client.post("/forget", { query: "Kim pet ibis", sessionId, purge: true });
    const history = async () =>
      (await client.get<{ history: Row[] }>("/entities/Person/Kim/history/pet")).body.history.map(({ value }) => value);
    expect((await forget(second)).body).toMatchObject({ deleted: 1 });
    expect(await history()).toEqual(["newt", "ibis"]);
    expect((await forget(first)).body).toMatchObject({ deleted: 1 });
    expect(await history()).toEqual(["newt"]);
    const whole = await said("axolotl");
    await said("newt");
    expect((await client.post("/forget", { sessionId: whole, dryRun: true })).body).toMatchObject({ deleted: 1 });
    expect((await client.post("/forget", { sessionId: whole })).body).toMatchObject({ deleted: 1 });
    expect(await history()).toEqual(["newt", "newt"]);
  });

  test("a span that ends before it begins is 400; what was replaced in the same moment was never so", async () => {
    const client = await tenant();
    const triples = ["glad", "sad"].map((value) => ({ entity: subject, key: "mood", value }));
    await client.post("/facts", { triples, observedAt: day(1) });
    const span = { validFrom: day(1), validUntil: day(9) };
    expect(await values(client, span)).toEqual(["sad"]);
    expect((await client.post("/query", { query: "mood", validFrom: day(9), validUntil: day(1) })).status).toBe(400);
    expect(
      (await client.get(`/entities/Person/Kim?${new URLSearchParams({ validFrom: day(9), validUntil: day(1) })}`))
        .status,
    ).toBe(400);
    const last = await client.post<{ extraction: { attributes: unknown[] } }>("/facts", {
      triples: [{ entity: subject, key: "x", value: 1, memoryCategory: "context" }],
      observedAt: "9999-12-31T23:59:59Z",
      text: "the last day",
      memoryCategory: "context",
    });
    expect(last.status).toBe(200);
    expect(
      (await client.get<{ history: Row[] }>("/entities/Person/Kim/history/x")).body.history[0]?.validUntil,
    ).toMatch(/^9999-/);
  });

  test("forgetting what a session said leaves what others said of the same", async () => {
    const client = await tenant();
    const first = await client.post<{ sessionId: string }>("/facts", {
      triples: [{ entity: subject, key: "city", value: "Oslo" }],
      observedAt: day(1),
    });
    await say(client, "Oslo", day(30));
    expect((await client.post("/forget", { sessionId: first.body.sessionId, purge: true })).status).toBe(200);
    expect((await about(client)).attributes).toMatchObject([{ value: "Oslo", validFrom: day(30) }]);
    expect(await recalled(client)).toEqual(["Kim: city: Oslo"]);
  });

  /** Random arrivals, whose answers the model gives too. */
  async function followsTheRules(numRuns: number): Promise<void> {
    const what = fc.constantFrom("Oslo", "Rome", "Lima");
    const value = fc.record({ at: fc.integer({ min: 1, max: 6 }), what: fc.tuple(what) });
    const group = fc.record({
      at: fc.integer({ min: 1, max: 6 }),
      what: fc.uniqueArray(what, { minLength: 1, maxLength: 3 }),
    });
    const arrivals = fc.record({
      values: fc.array(value, { minLength: 1, maxLength: 6 }),
      groups: fc.array(group, { minLength: 1, maxLength: 6 }),
    });
    await fc.assert(
      fc.asyncProperty(arrivals, async ({ values: said, groups }) => {
        const client = await tenant();
        const knownAt: { asOf: string; values: number; groups: number }[] = [];
        for (let n = 0; n < Math.max(said.length, groups.length); n++) {
          const [one, many] = [said[n], groups[n]];
          if (one !== undefined) await say(client, one.what[0], day(one.at));
          if (many !== undefined) await befriend(client, many.what, day(many.at));
          knownAt.push({
            asOf: await momentBetween(),
            values: Math.min(n + 1, said.length),
            groups: Math.min(n + 1, groups.length),
          });
        }
        const namesOf = ({ attributes, relations }: { attributes: Row[]; relations: Row[] }) => [
          attributes.map((row) => String(row.value)).sort(),
          relations.map((row) => row.target?.name ?? "").sort(),
        ];
        const sentences = ([city = [], friends = []]: string[][]) =>
          [...city.map((name) => `Kim: city: ${name}`), ...friends.map((name) => `Kim friend ${name}`)].sort();
        const check = async (moment: Record<string, string>, known: { values: number; groups: number }, at: number) => {
          const expected = [
            holding(timelineOf(said.slice(0, known.values)), at),
            holding(timelineOf(groups.slice(0, known.groups)), at),
          ];
          expect(namesOf(await about(client, moment)), JSON.stringify(moment)).toEqual(expected);
          expect(await recalled(client, moment), `recall ${JSON.stringify(moment)}`).toEqual(sentences(expected));
        };
        const all = { values: said.length, groups: groups.length };
        await check({}, all, 1_000);
        for (const at of [1, 3, 6]) await check({ atInstant: day(at) }, all, at);
        for (const { asOf, ...known } of knownAt.slice(0, 3)) {
          await check({ asOf }, known, 1_000);
          await check({ asOf, atInstant: day(4) }, known, 4);
        }
        // Each row says how long it holds.
        const { history } = (await client.get<{ history: Row[] }>("/entities/Person/Kim/history/city")).body;
        const rows = history.map((row) => [String(row.value), row.validFrom, row.validUntil]).sort();
        const model = timelineOf(said).filter(({ from, until }) => until === null || until > from);
        expect(rows.filter(([, from, until]) => from !== until)).toEqual(
          model.map(({ what: one, from, until }) => [one, day(from), until === null ? null : day(until)]).sort(),
        );
      }),
      { numRuns, seed: Number(process.env.SEED ?? 19), endOnFailure: false },
    );
  }

  test("of random arrivals the present, any instant, and any moment of knowledge follow the rules", () =>
    followsTheRules(4));
  test("the same of many more", { tags: ["long"], timeout: 120_000 }, () => followsTheRules(12));
});
