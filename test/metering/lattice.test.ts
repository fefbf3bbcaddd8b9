import { afterAll, beforeAll, expect, test } from "vitest";
import type { Budget } from "../../src/metering/budgets.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { contradicts, isWithin, type Tags } from "../model/oracle.ts";
import { Random } from "../model/random.ts";

/** Scopes with near-miss names, as the model has them. */
const SCOPES: readonly Tags[] = [
  {},
  { org: "acme" },
  { org: "acme-corp" },
  { org: "acme", user: "1" },
  { org: "acme", user: "10" },
  { org: "acme", team: "a" },
  { org: "acme", team: "a", user: "1" },
  { user: "1" },
  { team: "a" },
];
const SEED = Number(process.env.SEED ?? 7);
const CALLS = 250;

/** What the rules say of a budget of requests, written once more. */
interface Rule {
  readonly scope: Tags;
  readonly limit: number;
  readonly isHard: boolean;
  used: number;
}

let service: TestService;

/** A scope's budget comes, is raised, or goes. */
async function changeRule(rules: Map<string, Rule>, scope: Tags, random: Random): Promise<void> {
  const [id, known] = [...rules.entries()].find(([, rule]) => rule.scope === scope) ?? [];
  if (id !== undefined && random.chance(0.3)) {
    expect((await service.operator.del(`/contexts/default/budgets/${id}`)).status).toBe(204);
    rules.delete(id);
    return;
  }
  const rule = {
    scope,
    limit: (known?.limit ?? 0) + 5 + random.below(15),
    isHard: random.chance(0.8),
    used: known?.used ?? 0,
  };
  const { status, body, text } = await service.operator.call<Budget>("PUT", "/contexts/default/budgets", {
    scope,
    period: "total",
    requestLimit: rule.limit,
    mode: rule.isHard ? "hard" : "soft",
  });
  expect(status, text).toBe(200);
  rules.set(body.id, rule);
}

beforeAll(async () => {
  service = await startService({});
});
afterAll(() => service.stop());

test(`random calls count against the budgets above them and no others, and are refused where one is used up (seed ${SEED}; threats 27, 33, 49)`, async () => {
  const random = new Random(SEED);
  const floors = SCOPES.filter((scope) => Object.keys(scope).length > 0);
  const clients: { floor: Tags; client: Client }[] = [];
  for (const floor of floors) clients.push({ floor, client: await service.mint("agent", floor) });
  const rules = new Map<string, Rule>();
  const answers: number[] = [];
  for (let n = 0; n < CALLS; n++) {
    // At first each scope gets one; later they are raised, or go.
    const scope = SCOPES[n] ?? (random.chance(0.1) ? random.pick(SCOPES) : undefined);
    if (scope !== undefined) await changeRule(rules, scope, random);
    const { floor, client } = random.pick(clients);
    const asked = random.pick(SCOPES);
    const answer = random.chance(0.5)
      ? await client.post("/facts", { text: `call ${n}`, scopes: asked })
      : await client.post("/query", { query: `call ${n}`, lens: asked });
    answers.push(answer.status);
    if (contradicts(floor, asked)) {
      expect(answer.status).toBe(403);
      continue;
    }
    const at = { ...floor, ...asked };
    const above = [...rules.values()].filter(({ scope }) => isWithin(at, scope));
    const isRefused = above.some(({ isHard, used, limit }) => isHard && used >= limit);
    expect(answer.status, `call ${n} at ${JSON.stringify(at)}: ${answer.text}`).toBe(isRefused ? 429 : 200);
    if (!isRefused) for (const rule of above) rule.used++;
  }
  for (const [id, rule] of rules) {
    const { body } = await service.operator.get<Budget>(`/contexts/default/budgets/${id}`);
    expect(body.used.requests, JSON.stringify(rule)).toBe(rule.used);
    expect(body.reserved.requests).toBe(0);
  }
  expect(new Set(answers)).toEqual(new Set([200, 403, 429]));
});
