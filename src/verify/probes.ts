/**
 * Attacks from outside: what a tenant could try over HTTP to see, change, count or influence another.
 * Two tenants are minted for the purpose, one stores secrets, the other tries; all of it is removed.
 */
import { randomBytes } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { ADDRESSING } from "./attacks/addressing.ts";
import { CHANGING } from "./attacks/changing.ts";
import { KEYS } from "./attacks/keys.ts";
import { SEEING } from "./attacks/seeing.ts";
import { Caller, type ProbeTarget } from "./caller.ts";
import type { Finding } from "./finding.ts";
import { createProbeFixture, type Probe, path } from "./fixture.ts";

/** Without it the others would prove nothing: what is not there is not shown. */
const CONTROL: Probe = {
  name: "the other tenant itself finds each of its words (the control)",
  threats: [],
  run: async ({ victim, canaries, ids, itemKey }) => {
    const status = await processed(victim, ids.document);
    const found = await Promise.all([
      victim.call("POST", "/query", { query: "secret", k: 50, includeDuplicates: true }),
      victim.call("POST", "/documents/query", { query: "secret" }),
      victim.call("GET", `/memory/${itemKey}`),
    ]);
    const missing = canaries.filter((canary) => found.every(({ text }) => !text.includes(canary)));
    return [
      ...(status === "ready" ? [] : [`its document is ${status}: is a worker running?`]),
      ...missing.map((canary) => `it does not find ${canary}`),
    ];
  },
};

/** How far the document is once it is through, or after half a minute. */
async function processed(owner: Caller, id: string): Promise<unknown> {
  for (const until = performance.now() + 30_000; ; await setTimeout(100)) {
    const { body } = await owner.call("GET", `/documents/${id}`);
    if (body.status === "ready" || body.status === "failed" || performance.now() > until) return body.status;
  }
}

/** Tags that the floors of the keys it mints have beside those of the management key's. */
export const PROBE_TAGS = 2;

/** Runs every probe and removes what it made. */
export async function runProbes(target: ProbeTarget): Promise<{ findings: Finding[]; requests: number }> {
  let requests = 0;
  const count = () => {
    requests++;
  };
  const operator = new Caller(target, target.managementKey, "", count);
  const made: { caller: Caller; tags: Record<string, string> }[] = [];
  const mark = randomBytes(5).toString("hex");
  const keys = `/contexts/${target.context}/keys`;

  const mint = async (tags: Record<string, string>): Promise<Caller> => {
    const { status, body, text } = await operator.call("POST", keys, {
      name: `verify ${mark} ${made.length}`,
      principal: "agent",
      scopeFloor: tags,
      ttlSeconds: 3_600,
    });
    if (status !== 201) throw new Error(`no key could be minted: ${text}`);
    const caller = new Caller(target, body.key as string, body.id as string, count);
    made.push({ caller, tags: body.scopeFloor as Record<string, string> });
    return caller;
  };
  const revoke = async (caller: Caller) => {
    await operator.call("DELETE", `${keys}/${caller.id}`);
  };

  const findings: Finding[] = [];
  let failure: unknown;
  try {
    const stranger = new Caller(target, `sf_agent_${mark}`, "", count);
    const fixture = await createProbeFixture({ mint, revoke, stranger, mark, context: target.context, made });
    for (const { name, threats, run } of [CONTROL, ...SEEING, ...ADDRESSING, ...CHANGING, ...KEYS]) {
      const before = requests;
      const problems = await run(fixture).catch((error: unknown) => [
        `the probe itself failed: ${(error as Error).message}`,
      ]);
      findings.push({ check: name, threats, looked: requests - before, problems });
    }
  } catch (error) {
    failure = error;
  }
  const left: string[] = [];
  for (const { caller, tags } of made) {
    await revoke(caller); // first: the dictionary keeps the scope of a live key
    const erased = await operator.call("POST", "/scopes/forget", { path: path(tags) });
    if (erased.status !== 200) left.push(`${path(tags)}: ${erased.status}`);
  }
  if (failure !== undefined) throw failure;
  findings.push({ check: "what was made for this is removed", threats: [], looked: made.length, problems: left });
  return { findings, requests };
}
