/** What a tenant could try to see of another. */
import { expectStatus, leakedCanaries, type Probe, path, UNKNOWN_ID, withoutIds } from "../fixture.ts";

export const SEEING: readonly Probe[] = [
  {
    name: "recall finds nothing of the other tenant, in any mode, view or tier",
    threats: [1, 8, 35],
    run: async (fixture) => {
      const problems: string[] = [];
      for (const mode of ["hybrid", "vector", "bm25"]) {
        for (const scopeView of ["strict", "subtree"]) {
          const answer = await fixture.attacker.call("POST", "/query", {
            query: "secret",
            mode,
            scopeView,
            k: 50,
            includeDuplicates: true,
          });
          problems.push(
            ...expectStatus(`recall in mode ${mode}`, answer, 200),
            ...leakedCanaries(fixture, `recall in mode ${mode}`, answer),
          );
        }
      }
      for (const [route, body] of [
        ["/context", { query: "secret" }],
        ["/documents/query", { query: "secret" }],
        ["/documents/keywords/search", { query: "secret" }],
      ] as const) {
        const answer = await fixture.attacker.call("POST", route, body);
        problems.push(...expectStatus(route, answer, 200), ...leakedCanaries(fixture, route, answer));
      }
      return problems;
    },
  },
  {
    name: "an id of the other tenant answers like one that does not exist",
    threats: [6, 35],
    run: async (fixture) => {
      const { session, document, trace } = fixture.ids;
      const problems: string[] = [];
      for (const [method, at, id] of [
        ["GET", "/sessions/%", session],
        ["GET", "/sessions/%/turns", session],
        ["DELETE", "/sessions/%", session],
        ["GET", "/documents/%", document],
        ["GET", "/documents/%/raw", document],
        ["GET", "/documents/%/chunks", document],
        ["GET", "/documents/%/keywords", document],
        ["DELETE", "/documents/%", document],
        ["GET", "/traces/%", trace],
        ["GET", "/principals/%", fixture.victim.id],
      ] as const) {
        const [foreign, random] = await Promise.all([
          fixture.attacker.call(method, at.replace("%", id)),
          fixture.attacker.call(method, at.replace("%", UNKNOWN_ID)),
        ]);
        if (withoutIds(foreign, id) !== withoutIds(random, UNKNOWN_ID))
          problems.push(`${method} ${at} tells that the id exists`);
        problems.push(
          ...expectStatus(`${method} ${at}`, foreign, 404),
          ...leakedCanaries(fixture, `${method} ${at}`, foreign),
        );
      }
      const write = await fixture.attacker.call("POST", "/facts", { text: "planted", session_id: session });
      return [...problems, ...expectStatus("writing into a foreign session", write, 404)];
    },
  },
  {
    name: "no list, profile, state, trace, report or count has anything of the other tenant",
    threats: [5, 12, 13],
    run: async (fixture) => {
      const problems: string[] = [];
      for (const at of [
        "/sessions?limit=500",
        "/documents?pageSize=100",
        "/documents/keywords?pageSize=100",
        "/entities?limit=500",
        "/entities/Secret/secret",
        "/memory",
        `/memory/${fixture.itemKey}`,
        "/profile",
        "/state",
        "/scopes",
        "/traces",
        "/traces/stats",
        "/audit",
        "/usage",
        "/keys",
        "/principals",
        "/me",
      ]) {
        const answer = await fixture.attacker.call("GET", at);
        problems.push(...expectStatus(`GET ${at}`, answer, 200, 404), ...leakedCanaries(fixture, `GET ${at}`, answer));
        if (answer.text.includes(path(fixture.victimTags))) problems.push(`GET ${at} names the other tenant's scope`);
      }
      return problems;
    },
  },
];
