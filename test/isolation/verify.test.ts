import { afterAll, beforeAll, expect, test } from "vitest";
import { runProbes } from "../../src/verify/probes.ts";
import { startService, type TestService } from "../harness/service.ts";

let service: TestService;

beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());

const probe = async (managementKey = service.operator.key) => {
  const { findings } = await runProbes({ url: service.url, context: "default", managementKey });
  return findings;
};
const failed = async () => (await probe()).filter(({ problems }) => problems.length > 0).map(({ check }) => check);

/** With a database function said in another way. */
async function brokenBy<T>(name: string, from: string, to: string, work: () => Promise<T>): Promise<T> {
  const [row] = await service.database.sql(
    "SELECT pg_get_functiondef(oid) AS text FROM pg_proc WHERE pronamespace = 'scopefloor'::regnamespace AND proname = $1",
    [name],
  );
  const text = row?.text as string;
  expect(text).toContain(from);
  await service.database.sql(text.replaceAll(from, to));
  try {
    return await work();
  } finally {
    await service.database.sql(text);
  }
}

test("every probe fails to get anywhere, and nothing that was made for it is left", async () => {
  const findings = await probe();
  expect(findings.flatMap(({ problems }) => problems)).toEqual([]);
  expect(findings.length).toBeGreaterThan(10);
  const left = await service.database.sql("SELECT tags FROM scopefloor.scope WHERE tags ? 'verify'");
  expect(left).toEqual([]);
  const keys = await service.database.sql(
    "SELECT 1 FROM scopefloor.api_key WHERE name LIKE 'verify %' AND revoked_at IS NULL",
  );
  expect(keys).toEqual([]);
});

test("a tenant's administrator can run them below its own floor", async () => {
  const admin = await service.mint("management", { org: "acme" });
  expect((await probe(admin.key)).flatMap(({ problems }) => problems)).toEqual([]);
});

test.each([
  ["live_key", "AND a.revoked_at IS NULL", "", "a revoked key is refused at once, and so is none at all"],
  [
    "enter",
    "IF scopefloor.contradicts(floor, clause->'tags') THEN",
    "IF false THEN",
    "naming the other tenant's scope is refused, in every spelling",
  ],
  [
    "enter",
    "NOT scopefloor.are_related(floor, other.floor) OR scopefloor.contradicts(floor, other.floor)",
    "false",
    "acting on behalf of the other tenant's key is refused like an unknown one",
  ],
])("a deployment whose %s is broken is found out (the controls)", async (name, from, to, check) => {
  expect(await brokenBy(name, from, to, failed)).toContain(check);
});
