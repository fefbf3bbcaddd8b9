import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { verify } from "../../src/commands/verify.ts";
import { databaseWarnings } from "../../src/db/connect/warnings.ts";
import { runProbes } from "../../src/verify/probes.ts";
import type { AuditReport } from "../../src/verify/report.ts";
import { onPostgres } from "../harness/database.ts";
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

test("every probe of the command fails to get anywhere, nothing that was made for it is left, and the database's warnings are told", async () => {
  const written: string[] = [];
  const spy = vi.spyOn(process.stdout, "write").mockImplementation((text) => written.push(String(text)) > 0);
  try {
    expect(await verify(["--url", service.url, "--json"], { SCOPEFLOOR_KEY: service.operator.key })).toBe(0);
  } finally {
    spy.mockRestore();
  }
  const { findings, warnings } = JSON.parse(written.join("")) as AuditReport;
  expect(findings.flatMap(({ problems }) => problems)).toEqual([]);
  expect(findings.length).toBeGreaterThan(10);
  const left = await service.database.sql("SELECT tags FROM scopefloor.scope WHERE tags ? 'verify'");
  expect(left).toEqual([]);
  const keys = await service.database.sql(
    "SELECT 1 FROM scopefloor.api_key WHERE name LIKE 'verify %' AND revoked_at IS NULL",
  );
  expect(keys).toEqual([]);
  expect(warnings).toEqual(await databaseWarnings(service.database));
  // The tests' one login is a superuser's.
  expect(warnings.length > 0).toBe(onPostgres());
});

test("a tenant's administrator can run them below its own floor", { tags: ["long"] }, async () => {
  const admin = await service.mint("management", { org: "acme" });
  expect((await probe(admin.key)).flatMap(({ problems }) => problems)).toEqual([]);
});

test.each([
  ["live_key", "AND a.revoked_at IS NULL", "", "a revoked key is refused at once, and so is none at all"],
  [
    "resolve_clauses",
    "IF scopefloor.contradicts(floor, clause->'tags') THEN",
    "IF false THEN",
    "naming the other tenant's scope is refused, in every spelling",
  ],
  [
    "authenticate",
    "NOT scopefloor.are_related(floor, other.floor) OR scopefloor.contradicts(floor, other.floor)",
    "false",
    "acting on behalf of the other tenant's key is refused like an unknown one",
  ],
])("a deployment whose %s is broken is found out (the controls)", { tags: ["long"] }, async (name, from, to, check) => {
  expect(await brokenBy(name, from, to, failed)).toContain(check);
});

/** In front of the service: takes every tenant's key for that of the first one that was minted. */
async function confused(): Promise<{ url: string; stop: () => Promise<unknown> }> {
  let first: string | undefined;
  const forward = async (request: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const { host: _, connection: __, "content-length": ___, ...headers } = request.headers as Record<string, string>;
    const isTenant = headers.authorization?.startsWith("Bearer sf_agent_");
    const answer = await fetch(new URL(request.url ?? "/", service.url), {
      method: request.method ?? "GET",
      headers: { ...headers, ...(isTenant && first !== undefined ? { authorization: `Bearer ${first}` } : {}) },
      ...(parts.length === 0 ? {} : { body: Buffer.concat(parts) }),
    });
    const text = await answer.text();
    if (request.url?.endsWith("/contexts/default/keys")) first ??= (JSON.parse(text) as { key: string }).key;
    response.writeHead(answer.status, { "content-type": answer.headers.get("content-type") ?? "text/plain" }).end(text);
  };
  const server = createServer((request, response) => {
    forward(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`,
    stop: () => new Promise((resolve) => server.close(resolve)),
  };
}

test("a deployment that takes one tenant for another fails every probe that asks about one (the control of all others)", {
  tags: ["long"],
}, async () => {
  const { url, stop } = await confused();
  try {
    const { findings } = await runProbes({ url, context: "default", managementKey: service.operator.key });
    expect(findings.filter(({ problems }) => problems.length === 0).map(({ check }) => check)).toEqual([
      "the other tenant itself finds each of its words (the control)",
      // It is about what is asked, not about who asks.
      "an unknown field or filter is refused, and none is read as SQL",
      // The other tenant's own was deleted by a probe before.
      "a file that the other tenant has is as new as any",
      "what was made for this is removed",
    ]);
  } finally {
    await stop();
  }
});
