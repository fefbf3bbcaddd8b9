/** What a key could try to become. */
import { expectStatus, type Probe, UNKNOWN_ID, withoutIds } from "../fixture.ts";

export const KEYS: readonly Probe[] = [
  {
    name: "acting on behalf of the other tenant's key is refused like an unknown one",
    threats: [29],
    run: async (fixture) => {
      const on = (id: string) =>
        fixture.attacker.call("POST", "/query", { query: "secret" }, { "x-spectron-on-behalf-of": id });
      const [foreign, random] = await Promise.all([on(fixture.victim.id), on(UNKNOWN_ID)]);
      const isSame = withoutIds(foreign, fixture.victim.id) === withoutIds(random, UNKNOWN_ID);
      return [...expectStatus("it", foreign, 403), ...(isSame ? [] : ["the answers tell which key exists"])];
    },
  },
  {
    name: "a tenant's own keys mint none that is wider",
    threats: [29],
    run: async (fixture) => {
      const wider = await fixture.attacker.call("POST", "/keys", { scopeFloor: fixture.victimTags });
      const managing = await fixture.attacker.call("POST", `/contexts/${fixture.context}/keys`, {
        name: "verify wider",
        principal: "agent",
        scopeFloor: fixture.victimTags,
      });
      return [
        ...expectStatus("a key beyond the floor", wider, 403),
        ...expectStatus("a key by the management's route", managing, 403),
      ];
    },
  },
  {
    name: "a revoked key is refused at once, and so is none at all",
    threats: [28, 30],
    run: async (fixture) => {
      const short = await fixture.mint({ ...fixture.attackerTags, user: "short" });
      const before = await short.call("GET", "/me");
      await fixture.revoke(short);
      const after = await short.call("GET", "/me");
      const none = await fixture.stranger.call("GET", "/me");
      return [
        ...expectStatus("the key", before, 200),
        ...expectStatus("the revoked key", after, 401),
        ...expectStatus("a key that is none", none, 401),
      ];
    },
  },
];
