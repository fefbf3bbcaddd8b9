/** Ways to name another tenant's scope, or to say more than a request may. */
import { expectStatus, leakedCanaries, type Probe, path } from "../fixture.ts";

export const ADDRESSING: readonly Probe[] = [
  {
    name: "naming the other tenant's scope is refused, in every spelling",
    threats: [24, 33, 34],
    run: async (fixture) => {
      const tags = fixture.victimTags;
      const problems: string[] = [];
      for (const lens of [
        tags,
        path(tags),
        `${path(tags)}/*`,
        [path(tags)],
        [[path(tags)]],
        [[path(fixture.attackerTags)], [path(tags)]],
        Object.entries(tags).map(([dimension, value]) => `${dimension}=${value}`),
      ]) {
        const answer = await fixture.attacker.call("POST", "/query", { query: "secret", lens });
        problems.push(
          ...expectStatus(`the lens ${JSON.stringify(lens)}`, answer, 403),
          ...leakedCanaries(fixture, "its refusal", answer),
        );
        const write = await fixture.attacker.call("POST", "/facts", { text: "planted", scopes: lens });
        problems.push(...expectStatus(`writing to ${JSON.stringify(lens)}`, write, 400, 403, 422));
      }
      const nothing = await fixture.attacker.call("POST", "/query", { query: "secret", lens: [] });
      return [
        ...problems,
        ...expectStatus("an empty lens", nothing, 200),
        ...leakedCanaries(fixture, "an empty lens", nothing),
      ];
    },
  },
  {
    name: "names that look alike are other names",
    threats: [20, 33],
    run: async (fixture) => {
      const problems: string[] = [];
      const [dimension, value] = Object.entries(fixture.victimTags).at(-1) ?? ["verify", ""];
      for (const name of [value.slice(0, -1), `${value}0`, value.toUpperCase()]) {
        const near = await fixture.mint({ ...fixture.victimTags, [dimension]: name });
        const answer = await near.call("POST", "/query", { query: "secret", scopeView: "subtree", k: 50 });
        problems.push(
          ...expectStatus(`recall as ${name}`, answer, 200),
          ...leakedCanaries(fixture, `recall as ${name}`, answer),
        );
      }
      for (const hostile of [
        `${value} `,
        ` ${value}`,
        `${value}\u200b`,
        `${value}%`,
        `${value}*`,
        "",
        "..",
        `${value}'`,
        `${value}\u0000`,
      ]) {
        const answer = await fixture.attacker.call("POST", "/query", {
          query: "secret",
          lens: { [dimension]: hostile },
        });
        problems.push(...expectStatus(`the value ${JSON.stringify(hostile)}`, answer, 400));
      }
      return problems;
    },
  },
  {
    name: "an unknown field or filter is refused, and none is read as SQL",
    threats: [22, 23],
    run: async (fixture) => {
      const problems: string[] = [];
      for (const body of [
        { query: "secret", scope: fixture.victimTags, filter: { scope_id: 1 } },
        { query: "secret", where: "1=1" },
        { query: "secret", labels: ["a' OR '1'='1=1"] },
        { query: "secret", mode: "hybrid; SELECT 1" },
        { query: "secret", sessionId: "\u0000' OR true --" },
      ]) {
        const answer = await fixture.attacker.call("POST", "/query", body);
        problems.push(
          ...expectStatus(JSON.stringify(body), answer, 400),
          ...leakedCanaries(fixture, "its refusal", answer),
        );
      }
      return problems;
    },
  },
];
