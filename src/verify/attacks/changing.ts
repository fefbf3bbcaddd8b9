/** What a tenant could try to change of another, or to learn by storing the same. */
import { randomBytes } from "node:crypto";
import { canonicalPath, scopeFromDatabase } from "../../scope/scope.ts";
import { expectStatus, leakedCanaries, type Probe, path } from "../fixture.ts";

export const CHANGING: readonly Probe[] = [
  {
    name: "a file that the other tenant has is as new as any",
    threats: [3],
    run: async (fixture) => {
      const answer = await fixture.attacker.call("POST", "/documents", fixture.uploaded());
      const isNew = answer.body.deduplicated === false && answer.body.id !== fixture.ids.document;
      return [
        ...expectStatus("the upload", answer, 202),
        ...(isNew ? [] : ["the upload is taken for the other tenant's"]),
      ];
    },
  },
  {
    name: "the same Idempotency-Key from two tenants gives each its own answer",
    threats: [4],
    run: async (fixture) => {
      const key = { "idempotency-key": `verify-${randomBytes(8).toString("hex")}` };
      const body = { text: "the same text from both" };
      const theirs = await fixture.victim.call("POST", "/facts", body, key);
      const own = await fixture.attacker.call("POST", "/facts", body, key);
      const isOwn = own.body.sessionId !== undefined && own.body.sessionId !== theirs.body.sessionId;
      return [...expectStatus("the second", own, 200), ...(isOwn ? [] : ["the other tenant's answer was given again"])];
    },
  },
  {
    name: "a forget of one tenant takes nothing of the other's",
    threats: [19],
    run: async (fixture) => {
      const problems: string[] = [];
      const dry = await fixture.attacker.call("POST", "/forget", {
        query: fixture.canaries[0],
        dryRun: true,
        subtree: true,
      });
      problems.push(...expectStatus("the dry run", dry, 200), ...leakedCanaries(fixture, "the dry run", dry));
      const me = await fixture.attacker.call("GET", "/me");
      const floor = scopeFromDatabase(me.body.scopeFloor as Record<string, string>);
      const gone = await fixture.attacker.call("POST", "/scopes/forget", { confirm: canonicalPath(floor) });
      problems.push(...expectStatus("the attacker's own erasure", gone, 200));
      const beyond = await fixture.attacker.call("POST", "/scopes/forget", { path: path(fixture.victimTags) });
      problems.push(...expectStatus("erasing the other's scope", beyond, 403));
      const still = await fixture.victim.call("POST", "/query", { query: fixture.canaries[0], k: 50 });
      if (!still.text.includes(fixture.canaries[0] ?? "")) problems.push("the victim's rows are gone");
      return problems;
    },
  },
];
