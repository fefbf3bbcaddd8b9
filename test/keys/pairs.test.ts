import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Every kind of key that calls, and that is called upon: who may do what to whom, and nothing more. */
interface Kind {
  readonly principal: "management" | "supervisor" | "agent";
  readonly floor: Readonly<Record<string, string>>;
  readonly verbs: readonly string[];
  readonly content: boolean;
  /** Which of the callers mints it. */
  readonly mintedBy: string;
}

const ALL = ["memory:forget", "memory:read", "memory:write"];
const KINDS: Readonly<Record<string, Kind>> = {
  operator: { principal: "management", floor: {}, verbs: ALL, content: true, mintedBy: "root" },
  "another operator": { principal: "management", floor: {}, verbs: ALL, content: true, mintedBy: "root" },
  billing: { principal: "management", floor: {}, verbs: ["memory:read"], content: false, mintedBy: "root" },
  meter: { principal: "management", floor: {}, verbs: ["usage:read"], content: true, mintedBy: "root" },
  reader: { principal: "management", floor: {}, verbs: ["memory:read"], content: true, mintedBy: "root" },
  "acme's administrator": {
    principal: "management",
    floor: { org: "acme" },
    verbs: ALL,
    content: true,
    mintedBy: "operator",
  },
  "acme's other administrator": {
    principal: "management",
    floor: { org: "acme" },
    verbs: ALL,
    content: true,
    mintedBy: "root",
  },
  "a supervisor of acme": {
    principal: "supervisor",
    floor: { org: "acme" },
    verbs: ALL,
    content: true,
    mintedBy: "root",
  },
  "an agent of acme": { principal: "agent", floor: { org: "acme" }, verbs: ALL, content: true, mintedBy: "operator" },
  "acme's recall-only agent": {
    principal: "agent",
    floor: { org: "acme" },
    verbs: ["memory:read"],
    content: true,
    mintedBy: "acme's administrator",
  },
  "an agent of globex": { principal: "agent", floor: { org: "globex" }, verbs: ALL, content: true, mintedBy: "root" },
};
const NAMES = Object.keys(KINDS);

let service: TestService;
const callers = new Map<string, Client>();

beforeAll(async () => {
  service = await startService();
  callers.set("root", service.operator);
  for (const name of NAMES) callers.set(name, await mint(name));
});
afterAll(() => service.stop());

const kindOf = (name: string): Kind => KINDS[name] as Kind;
const callerOf = (name: string): Client => callers.get(name) as Client;

/** A key of its own kind, for one operation. */
async function mint(name: string): Promise<Client> {
  const { principal, floor, verbs, content, mintedBy } = kindOf(name);
  const minter = callerOf(mintedBy);
  const { status, body, text } = await minter.post<{ id: string; key: string }>("/contexts/default/keys", {
    name: `${name.replaceAll("'", "")} ${Math.random()}`.slice(0, 100),
    principal,
    scopeFloor: floor,
    verbs,
    content,
  });
  if (status !== 201) throw new Error(`${name}: ${text}`);
  return service.client(body.key, body.id);
}

const isWithin = (outer: Kind["floor"], inner: Kind["floor"]) =>
  Object.entries(outer).every(([dimension, value]) => inner[dimension] === value);
const isBelow = (outer: Kind["floor"], inner: Kind["floor"]) => isWithin(outer, inner) && !isWithin(inner, outer);

/** The rule, said once more: rights and floor at least the target's; of management keys only those below. */
function mayChange(caller: string, target: string): boolean {
  const [own, other] = [kindOf(caller), kindOf(target)];
  const isManager = own.principal === "management" && own.verbs.some((verb) => verb !== "usage:read");
  const isParent = other.mintedBy === caller;
  return (
    isManager &&
    isWithin(own.floor, other.floor) &&
    other.verbs.every((verb) => verb === "usage:read" || own.verbs.includes(verb)) &&
    (own.content || !other.content) &&
    (other.principal !== "management" || isParent || isBelow(own.floor, other.floor))
  );
}
function maySee(caller: string, target: string): boolean {
  const [own, other] = [kindOf(caller), kindOf(target)];
  return (
    own.principal === "management" &&
    isWithin(own.floor, other.floor) &&
    other.verbs.every((verb) => verb === "usage:read" || own.verbs.includes(verb)) &&
    (own.content || !other.content)
  );
}

const id = (client: Client) => `/contexts/default/keys/${client.id}`;
const CHANGES: Readonly<Record<string, (caller: Client, target: Client) => Promise<{ status: number }>>> = {
  rotate: (caller, target) => caller.post(`${id(target)}/rotate`),
  revoke: (caller, target) => caller.del(id(target)),
};

const isAllowed = (caller: string) => {
  test.each(Object.keys(CHANGES))("may %s the keys that it manages, and no other", async (operation) => {
    for (const target of NAMES) {
      const victim = await mint(target);
      const { status } = (await CHANGES[operation]?.(callerOf(caller), victim)) ?? { status: 0 };
      expect(status < 300, `${operation} ${target}: ${status}`).toBe(mayChange(caller, target));
      const isAlive = (await victim.get("/me")).status === 200;
      expect(isAlive, target).toBe(!mayChange(caller, target));
    }
  });

  test("may take the verbs of the keys that it manages and give them back, and of no other", async () => {
    for (const target of NAMES) {
      // A key's own verbs are for the routes of its own, which management reaches as well.
      const isManaged = mayChange(caller, target);
      const victim = await mint(target);
      const grants = `/principals/${victim.id}/grants`;
      const taken = await callerOf(caller).post<{ grants: object }>(grants, { verbs: [] });
      if (isManaged || kindOf(caller).principal !== "supervisor")
        expect(taken.status, `take from ${target}`).toBe(isManaged ? 200 : 404);
      const left = await victim.get<{ verbs: string[] }>("/me");
      expect([...left.body.verbs].sort(), target).toEqual(isManaged ? [] : [...kindOf(target).verbs].sort());
      if (!isManaged) continue;
      expect((await callerOf(caller).post(grants, { verbs: kindOf(target).verbs })).status, target).toBe(200);
      expect([...(await victim.get<{ verbs: string[] }>("/me")).body.verbs].sort()).toEqual(
        [...kindOf(target).verbs].sort(),
      );
      const wider = [...ALL, "usage:read"].filter((verb) => !kindOf(target).verbs.includes(verb));
      if (wider.length > 0) {
        expect((await callerOf(caller).post(grants, { verbs: [...kindOf(target).verbs, ...wider] })).status).toBe(422);
      }
    }
  });

  test("sees the keys that it could be, and no other", async () => {
    const isManager = kindOf(caller).principal === "management" && !kindOf(caller).verbs.includes("usage:read");
    const listed = await callerOf(caller).get<{ keys: { id: string }[] }>("/contexts/default/keys?pageSize=100");
    expect(listed.status).toBe(isManager ? 200 : 403);
    for (const target of NAMES) {
      const victim = await mint(target);
      const read = await callerOf(caller).get(`/principals/${victim.id}`);
      expect(read.status === 200, `read ${target}`).toBe(maySee(caller, target));
      const page = await callerOf(caller).get<{ keys: { id: string }[] }>("/contexts/default/keys?pageSize=100");
      if (isManager)
        expect(
          page.body.keys.some((key) => key.id === victim.id),
          `list ${target}`,
        ).toBe(maySee(caller, target));
    }
  });

  test("changes the Context, orders work and reads usage by its rights", async () => {
    const { principal, floor, verbs, content } = kindOf(caller);
    const isManager = principal === "management" && !verbs.includes("usage:read");
    const isFull = isManager && content && ALL.every((verb) => verbs.includes(verb));
    const isOperator = Object.keys(floor).length === 0;
    const config = { config: { contextTokens: 3_000 } };
    const key = callerOf(caller);
    expect((await key.call("PATCH", "/contexts/default", config)).status).toBe(isFull && isOperator ? 200 : 403);
    expect((await key.post("/contexts/default/reembed")).status).toBe(isFull ? 200 : 403);
    expect((await key.get("/contexts/default/usage")).status).toBe(principal === "management" ? 200 : 403);
    expect((await key.get("/contexts/default/receipts")).status).toBe(isManager ? 200 : 403);
  });
};
/** The others are as long again. */
const FIRST = ["billing", "acme's administrator"];
describe.each(FIRST)("%s (threats 29, 37)", isAllowed);
describe.each(NAMES.filter((name) => !FIRST.includes(name)))("%s (threats 29, 37)", { tags: ["long"] }, isAllowed);

describe("a key that reads usage (threat 37)", () => {
  test("mints and changes no other, is changed by who manages, and gives the verb to nobody", async () => {
    const meter = await mint("meter");
    expect((await meter.post("/keys", { name: "backdoor" })).status).toBe(403);
    const other = await mint("meter");
    const grants = `/principals/${other.id}/grants`;
    expect((await meter.post(grants, { verbs: [] })).status).toBe(404);
    expect((await service.operator.post(grants, { verbs: [] })).status).toBe(200);
    expect((await other.get("/contexts/default/usage")).status).toBe(403);
    expect((await service.operator.post(grants, { verbs: ["usage:read"] })).status).toBe(200);
    expect((await other.get("/contexts/default/usage")).status).toBe(200);
    expect((await service.operator.del(id(other))).status).toBe(204);
    const both = await service.mint("management", { org: "acme" }, { verbs: [...ALL, "usage:read"] });
    const child = await both.post<{ verbs: string[] }>("/contexts/default/keys", { name: "child", principal: "agent" });
    expect([...child.body.verbs].sort()).toEqual(ALL);
    expect(
      (await both.post("/contexts/default/keys", { name: "x", principal: "agent", verbs: ["usage:read"] })).status,
    ).toBe(422);
    expect((await service.operator.del(id(both))).status).toBe(204);
  });
});

describe("what a key above has set (threat 37)", () => {
  test("of two neither of which is above the other stays with who is above both", async () => {
    const agent = await service.mint("agent", { org: "two", team: "x", user: "u" });
    const [team, user] = [
      await service.mint("management", { org: "two", team: "x" }),
      await service.mint("management", { org: "two", user: "u" }),
    ];
    const grants = `/principals/${agent.id}/grants`;
    expect((await team.post(grants, { verbs: ["memory:read", "memory:write"] })).status).toBe(200);
    expect((await user.post(grants, { verbs: ["memory:read"] })).status).toBe(200);
    for (const key of [team, user]) expect((await key.post(grants, { verbs: ALL })).status).toBe(403);
    const above = await service.mint("management", { org: "two" });
    expect((await above.post(grants, { verbs: ALL })).status).toBe(200);
  });

  test("only it, or one above it, takes back: verbs that were taken, and a scope that was deleted", async () => {
    const admin = await service.mint("management", { org: "initech" });
    const agent = await service.mint("agent", { org: "initech" });
    const grants = `/principals/${agent.id}/grants`;
    expect((await service.operator.post(grants, { verbs: ["memory:read"] })).status).toBe(200);
    expect((await admin.post(grants, { verbs: ALL })).status).toBe(403);
    // Taking more does not make it the administrator's to give back.
    expect((await admin.post(grants, { verbs: [] })).status).toBe(200);
    expect((await admin.post(grants, { verbs: ["memory:read"] })).status).toBe(403);
    expect((await service.operator.post(grants, { verbs: ALL })).status).toBe(200);
    expect((await admin.post(grants, { verbs: ["memory:read"] })).status).toBe(200);
    expect((await admin.post(grants, { verbs: ALL })).status).toBe(200);

    const below = { path: "org/initech/team/x" };
    expect((await agent.post("/scopes", below)).status).toBe(201);
    expect((await service.operator.del("/scopes?path=org/initech/team/x")).status).toBe(204);
    for (const key of [agent, admin]) {
      expect((await key.post("/facts", { text: "no", scopes: "team/x" })).status).toBe(409);
      expect((await key.post("/scopes", below)).status).toBe(403);
    }
    expect((await service.operator.post("/scopes", below)).status).toBe(201);
    expect((await admin.del("/scopes?path=org/initech/team/x")).status).toBe(204);
    expect((await agent.post("/scopes", below)).status).toBe(201);
  });
});

describe("what was minted with a secret that leaked (threat 38)", () => {
  test("ends when the key is rotated without grace, but for children that are named", async () => {
    const agent = await service.mint("agent", { org: "leak" });
    const child = async (of: Client, name: string) => {
      const { body } = await of.post<{ id: string; key: string }>("/keys", { name });
      return service.client(body.key, body.id);
    };
    const [backdoor, wanted] = [await child(agent, "backdoor"), await child(agent, "wanted")];
    const [deeper, kept] = [await child(backdoor, "deeper"), await child(wanted, "kept")];
    // A name cannot be another's id.
    expect((await agent.post("/keys", { name: wanted.id })).status).toBe(400);
    const unknown = await service.operator.post(`${id(agent)}/rotate?keepChildren=wanted,nobody`);
    expect([unknown.status, unknown.text]).toEqual([422, expect.stringContaining("keepChildren")]);
    const rotated = await service.operator.post<{ children: { name: string }[] }>(
      `${id(agent)}/rotate?keepChildren=wanted`,
    );
    expect(rotated.body.children).toEqual([{ id: wanted.id, name: "wanted" }]);
    for (const dead of [agent, backdoor, deeper]) expect((await dead.get("/me")).status).toBe(401);
    for (const alive of [wanted, kept]) expect((await alive.get("/me")).status).toBe(200);
  });

  test("is listed when the key is rotated with grace, and ends no later than the key", async () => {
    const agent = await service.mint("agent", { org: "leak2" });
    const { body } = await agent.post<{ id: string; key: string }>("/keys", { name: "child" });
    const grandchild = await service
      .client(body.key, body.id)
      .post<{ id: string; key: string }>("/keys", { name: "grandchild" });
    const rotated = await service.operator.post<{ children: object[]; expiresAt: string }>(
      `${id(agent)}/rotate?graceSeconds=60&ttlSeconds=120`,
    );
    expect(rotated.body.children).toEqual([{ id: body.id, name: "child" }]);
    for (const key of [body.id, grandchild.body.id]) {
      const { keys } = (
        await service.operator.get<{ keys: { id: string; expiresAt: string }[] }>(
          "/contexts/default/keys?scope=org/leak2",
        )
      ).body;
      expect(keys.find((one) => one.id === key)?.expiresAt).toBe(rotated.body.expiresAt);
    }
  });
});
