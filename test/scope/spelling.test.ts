import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hintFor, isSpelled, spelled } from "../../src/scope/spelling.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Names that people, identity providers and other systems have, and how each is written. */
const NAMES: readonly (readonly [name: string, written: string])[] = [
  ["acme", "acme"],
  ["ann@example.com", "ann@example.com"],
  ["auth0|5f7c8ec7c33c6c004bbafe82", "auth0|5f7c8ec7c33c6c004bbafe82"],
  ["https://idp/users/42", "https:%2F%2Fidp%2Fusers%2F42"],
  ["Müller", "M%C3%BCller"],
  ["O'Brien", "O%27Brien"],
  ["100%", "100%25"],
  ["two words", "two%20words"],
  ["राहुल", "%E0%A4%B0%E0%A4%BE%E0%A4%B9%E0%A5%81%E0%A4%B2"],
  ["東京", "%E6%9D%B1%E4%BA%AC"],
  ["_private", "%5Fprivate"],
  ["a_b", "a_b"],
  ["AT&T", "AT%26T"],
  ["🙂", "%F0%9F%99%82"],
];

describe("the one spelling of a name (threat 20)", () => {
  test.each(NAMES)("%s is written %s", (name, written) => {
    expect(spelled(name)).toBe(written);
    expect(isSpelled(written)).toBe(true);
    expect(decodeURIComponent(written)).toBe(name);
  });

  test.each([
    ["lower-case hex", "M%c3%bcller"],
    ["what needs none", "%61cme"],
    ["NFD", "Mu%CC%88ller"],
    ["a percent sign by itself", "100%"],
    ["half a character", "M%C3"],
    ["longer than needed", "%C0%AF"],
    ["a surrogate", "%ED%A0%80"],
    ["a control", "a%00"],
    ["a line's end", "a%0A"],
    ["a zero-width space", "a%E2%80%8B"],
    ["a soft hyphen", "a%C2%AD"],
    ["a change of direction", "a%E2%80%AE"],
    ["private use", "a%EE%80%80"],
    ["unassigned", "a%CD%B8"],
    ["a line separator", "a%E2%80%A8"],
    ["twice", "M%25C3%25BCller%2"],
    ["not encoded", "Müller"],
    ["dots alone", "%2E"],
    ["two dots", "%2E."],
    ["nothing", ""],
    ["129 characters", "x".repeat(129)],
    ["257 bytes", `${"%C3%BC".repeat(42)}abcde`],
  ])("%s is refused", (_, text) => {
    expect(isSpelled(text)).toBe(false);
  });

  test("says how it would be written", () => {
    expect(hintFor("Müller")).toBe("; write M%C3%BCller");
    expect(hintFor("M%c3%bcller")).toBe("; write M%C3%BCller");
    expect(hintFor("a\u200b")).toBe("");
  });

  test("is one for each name: what is spelled decodes to a name that is spelled so", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 20 }), (name) => {
        const written = spelled(name);
        if (written === undefined) return;
        expect(isSpelled(written)).toBe(true);
        expect(spelled(decodeURIComponent(written))).toBe(written);
        expect(decodeURIComponent(written)).toBe(name.normalize("NFC"));
      }),
    );
  });
});

describe("identifiers that people have", () => {
  let service: TestService;
  let acme: Client;
  beforeAll(async () => {
    service = await startService();
    acme = await service.mint("agent", { org: "M%C3%BCller" });
  });
  afterAll(() => service.stop());

  test("stand in scopes, in every spelling of a selector", async () => {
    const user = "https:%2F%2Fidp%2Fusers%2F42";
    await acme.remember("the harbour opens at five", { scopes: `user/${user}` });
    for (const lens of [`user/${user}`, [`user=${user}`], [[`org/M%C3%BCller/user/${user}`]], { user }]) {
      expect(await acme.recall("harbour", { lens })).toEqual(["the harbour opens at five"]);
    }
    const listed = await acme.get<{ path: string }[]>("/scopes?scopeView=subtree");
    expect(listed.body.map(({ path }) => path)).toContain(`org/M%C3%BCller/user/${user}`);
    const query = encodeURIComponent(`user/${user}`);
    expect((await acme.get<object[]>(`/scopes?lens=${query}`)).status).toBe(200);
    const wrong = await acme.post("/query", { query: "x", lens: "user/Jürgen" });
    expect([wrong.status, wrong.text]).toEqual([400, expect.stringContaining("write J%C3%BCrgen")]);
  });

  test("of two that look alike are two: NFC and NFD, letters of two alphabets, upper and lower case", async () => {
    for (const user of ["ann", "Ann", "%D0%B0nn", "%E1%BA%A1nn"])
      await acme.remember(`said by ${user}`, { scopes: { user } });
    for (const user of ["ann", "Ann", "%D0%B0nn", "%E1%BA%A1nn"])
      expect(await acme.recall("said", { lens: { user } })).toEqual([`said by ${user}`]);
    expect((await acme.post("/query", { query: "x", lens: { user: "a%CC%A3nn" } })).status).toBe(400);
  });

  test("are keys of keyed items, and labels", async () => {
    const key = "pr%C3%A9f%C3%A9rences%2Fth%C3%A8me";
    const path = `/memory/${encodeURIComponent(key)}`;
    expect((await acme.call("PUT", path, { value: "sombre" })).status).toBe(200);
    expect((await acme.get<{ key: string; value: string }>(path)).body).toMatchObject({ key, value: "sombre" });
    expect(
      (await acme.get<{ items: { key: string }[] }>("/memory?prefix=pr%25C3")).body.items.map((one) => one.key),
    ).toEqual([key]);
    const raw = await acme.call("PUT", `/memory/${encodeURIComponent("préférences")}`, { value: 1 });
    expect([raw.status, raw.text]).toEqual([400, expect.stringContaining("write pr%C3%A9f%C3%A9rences")]);
    const labels = ["threadId=T 1/ü", "user-id=1", "x.y=", "Case=A"];
    await acme.remember("labelled as others do", { labels });
    for (const label of labels)
      expect(await acme.recall("labelled", { labels: [label] })).toEqual(["labelled as others do"]);
    for (const label of ["_x=1", "1x=1", "x", "x=a\u0000b", `x=${"y".repeat(257)}`])
      expect((await acme.post("/facts", { text: "x", labels: [label] })).status, label).toBe(400);
  });

  test("name sessions: by key and scope, and everything else has our id", async () => {
    const session_id = "live-example-session/日本";
    const first = await acme.post<{ sessionId: string }>("/facts", { text: "one in the talk", session_id });
    const again = await acme.post<{ sessionId: string }>("/facts/batch", {
      session_id,
      messages: [{ role: "user", content: "two in the talk" }],
    });
    expect(again.body.sessionId).toBe(first.body.sessionId);
    const elsewhere = await acme.post<{ sessionId: string }>("/facts", {
      text: "three elsewhere",
      session_id,
      scopes: "user/bob",
    });
    expect(elsewhere.body.sessionId).not.toBe(first.body.sessionId);
    const sibling = await service.mint("agent", { org: "M%C3%BCller" });
    const theirs = await sibling.post<{ sessionId: string }>("/facts", { text: "four of another key", session_id });
    expect(new Set([first, elsewhere, theirs].map(({ body }) => body.sessionId)).size).toBe(3);

    const path = `/sessions/${encodeURIComponent(session_id)}`;
    expect((await acme.get(path)).body).toMatchObject({ id: first.body.sessionId, name: session_id });
    const bobs = `${path}?lens=${encodeURIComponent("user/bob")}`;
    expect((await acme.get(bobs)).body.id).toBe(elsewhere.body.sessionId);
    expect((await acme.get(`${path}?lens=user/carol`)).status).toBe(404);
    // Below the floor twice, and not at it: it could be either.
    for (const scopes of ["user/ann", "user/bob"])
      await acme.post("/facts", { text: "in two scopes", session_id: "two", scopes });
    for (const answer of [
      await acme.get("/sessions/two/turns"),
      await acme.post("/forget", { sessionId: "two", purge: true }),
      await acme.del("/sessions/two"),
    ])
      expect(answer.status).toBe(409);
    expect((await acme.post("/forget", { sessionId: "two", scopes: "user/ann", purge: true })).body.deleted).toBe(1);
    expect((await acme.get<{ turns: object[] }>("/sessions/two/turns")).body.turns).toHaveLength(1);
    for (const name of ["\u0958".repeat(65), "\u{1D160}".repeat(60), "  ", "\u2028"])
      expect((await acme.post("/facts", { text: "x", session_id: name })).status).toBe(400);
    expect((await sibling.get(`/sessions/${first.body.sessionId}`)).body.name).toBeUndefined();
    const turns = await acme.get<{ turns: { content: string }[] }>(`${path}/turns`);
    expect(turns.body.turns.map(({ content }) => content)).toEqual(["one in the talk", "two in the talk"]);
    expect(await acme.recall("talk elsewhere another", { sessionId: session_id })).toEqual(
      expect.arrayContaining(["one in the talk", "two in the talk"]),
    );
    expect((await acme.post(`${path}/context`, { query: "talk" })).status).toBe(200);
    expect((await acme.get("/sessions/none-of-that-name")).status).toBe(404);
    expect((await acme.post("/query", { query: "x", sessionId: "none-of-that-name" })).status).toBe(404);

    // Many at once open it once.
    const many = await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        acme.post<{ sessionId: string }>("/facts", { text: `at once ${i}`, session_id: "at once" }),
      ),
    );
    expect(new Set(many.map(({ body }) => body.sessionId)).size).toBe(1);

    expect((await acme.del(path)).status).toBe(204);
    expect((await acme.post("/facts", { text: "late", session_id })).status).toBe(409);
    expect((await acme.post("/forget", { sessionId: session_id, purge: true })).status).toBe(200);
    expect((await acme.get(`/sessions/${first.body.sessionId}`)).status).toBe(404);
    // The name goes with the session; no trace has it.
    const left = JSON.stringify(await service.database.sql("SELECT d::text AS row FROM scopefloor.decision_trace d"));
    expect(left).not.toContain("live-example");
    expect(left).toContain(first.body.sessionId);
    const names = await service.database.sql(
      "SELECT name FROM scopefloor.session WHERE name IS NOT NULL ORDER BY name",
    );
    expect(names.map(({ name }) => name)).toEqual(["at once", session_id, session_id, "two"]);
    const fresh = await acme.post<{ sessionId: string }>("/facts", { text: "anew", session_id });
    expect(fresh.body.sessionId).not.toBe(first.body.sessionId);
  });

  test("a session is closed and forgotten by its own key or by management (threat 44)", async () => {
    const sibling = await service.mint("agent", { org: "M%C3%BCller" });
    const { sessionId } = await acme.remember("a talk of one key");
    expect((await sibling.del(`/sessions/${sessionId}`)).status).toBe(403);
    expect((await sibling.post("/forget", { sessionId, purge: true })).status).toBe(403);
    expect((await acme.post("/facts", { text: "goes on", session_id: sessionId })).status).toBe(200);
    const admin = await service.mint("management", { org: "M%C3%BCller" });
    expect((await admin.del(`/sessions/${sessionId}`)).status).toBe(204);
    expect((await admin.post("/forget", { sessionId, purge: true })).status).toBe(200);
  });

  test("a whole floor is erased with its path as a word (threat 44)", async () => {
    const tenant = await service.mint("agent", { org: "floor", user: "ann" });
    await tenant.remember("kept by a missing word");
    for (const body of [
      {},
      { confirm: "yes" },
      { confirm: "{}" },
      { path: "org/floor/user/ann" },
      { path: "user/ann", confirm: "org/floor" },
    ]) {
      const { status, text } = await tenant.post("/scopes/forget", body);
      expect([status, text]).toEqual([422, expect.stringContaining('\\"confirm\\": \\"org/floor/user/ann\\"')]);
    }
    expect(await tenant.recall("missing word")).toEqual(["kept by a missing word"]);
    expect((await tenant.post("/scopes/forget", { confirm: "org/floor/user/ann" })).status).toBe(200);
    expect(await tenant.recall("missing word")).toEqual([]);
  });

  test("acting on behalf of a key is heard under both names, and under no other in silence (threat 45)", async () => {
    const bob = await service.mint("agent", { org: "M%C3%BCller", user: "bob" });
    const admin = await service.mint("management", { org: "M%C3%BCller" });
    await acme.remember("Alice's diagnosis is secret", { scopes: "user/alice" });
    const ask = (headers: Record<string, string>) =>
      admin.post<{ hits: { text: string }[] }>("/query", { query: "diagnosis", scopeView: "subtree" }, { headers });
    expect(JSON.stringify((await ask({})).body.hits)).toContain("diagnosis");
    for (const name of ["X-Spectron-On-Behalf-Of", "X-Memory-On-Behalf-Of", "x-memory-on-behalf-of"]) {
      for (const value of [bob.id, `principal:${bob.id}`])
        expect(JSON.stringify((await ask({ [name]: value })).body.hits)).not.toContain("diagnosis");
      expect((await ask({ [name]: "nonsense" })).status).toBe(403);
      for (const empty of ["", " ", "principal:"]) expect((await ask({ [name]: empty })).status).toBe(400);
    }
    for (const name of ["X-Other-On-Behalf-Of", "On-Behalf-Of"])
      expect((await ask({ [name]: bob.id })).status).toBe(400);
    expect((await ask({ "X-Spectron-On-Behalf-Of": bob.id, "X-Memory-On-Behalf-Of": acme.id })).status).toBe(400);
    const me = await admin.call("GET", "/me", undefined, {
      headers: { "X-Memory-On-Behalf-Of": `principal:${bob.id}` },
    });
    expect(me.body.delegatedPrincipalId).toBe(bob.id);
  });
});
