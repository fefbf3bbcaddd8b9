import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { startService, type TestService } from "../harness/service.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({});
});
afterAll(() => service.stop());

interface Run {
  readonly code: number;
  readonly out: string;
  readonly error: string;
}

async function run(args: string, environment: Record<string, string> = {}): Promise<Run> {
  const env = {
    PATH: process.env.PATH ?? "",
    SCOPEFLOOR_URL: service.url,
    SCOPEFLOOR_KEY: service.operator.key,
    ...environment,
  };
  return promisify(execFile)(process.execPath, [join(inject("built"), "src/cli.js"), ...args.split(" ")], { env }).then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, error: stderr }),
    (failure: { code: number; stdout: string; stderr: string }) => ({
      code: failure.code,
      out: failure.stdout,
      error: failure.stderr,
    }),
  );
}

test("prices, budgets, limits, usage and a bill, for people and as JSON", async () => {
  expect(await run("price set --operation query --call 0.5")).toMatchObject({ code: 0, error: "" });
  const set = await run(
    "budget set --scope org/acme --period month --cost 25 --tokens 1000 --timezone Europe/Berlin --alert 0.5 --json",
  );
  expect(set.code, set.error).toBe(0);
  expect(JSON.parse(set.out)).toMatchObject({
    scope: { org: "acme" },
    costLimitUsd: 25,
    tokenLimit: 1_000,
    alertAt: [0.5],
    mode: "hard",
  });
  expect((await run("limit set --scope org/acme --requests-per-minute 600 --storage-bytes 5000")).code).toBe(0);
  const agent = await service.mint("agent", { org: "acme" });
  await agent.remember("the harbour opens at dawn");
  await agent.recall("harbour");
  const lists = await Promise.all(
    ["budget", "limit list", "price", "usage --by org", "bill --scope org/acme"].map((args) => run(args)),
  );
  for (const { code, error } of lists) expect([code, error]).toEqual([0, ""]);
  const [budgets, limits, prices, usage, bill] = lists.map(({ out }) =>
    out.split("\n").map((line) => line.trim().split(/ {2,}/)),
  );
  expect(budgets?.[2]?.slice(1)).toEqual([
    "org/acme",
    "month",
    "Europe/Berlin",
    "hard",
    "tokens",
    "1000",
    expect.any(String),
    "0",
    expect.any(String),
  ]);
  expect(budgets?.[3]?.slice(1, 9)).toEqual(["org/acme", "month", "Europe/Berlin", "hard", "USD", "25", "0.5", "0"]);
  expect(limits?.[2]).toEqual(["org/acme", "requestsPerMinute", "600", "2"]);
  expect(prices?.[2]).toContain("query");
  expect(usage?.[0]?.[0]).toBe("org");
  expect(usage?.some((row) => row[0] === "acme")).toBe(true);
  expect(bill?.at(-2)).toEqual(["total", "0", "0.5"]);
  const csv = await run("bill --csv");
  expect(csv.out.split("\r\n")[0]).toContain("scope,kind,operation");
  const [{ id } = { id: "" }] = JSON.parse((await run("budget list --json")).out).budgets;
  expect((await run(`budget delete ${id}`)).code).toBe(0);
  expect((await run("limit delete --scope org/acme")).code).toBe(0);
});

test("what is refused ends with 1 and says why; what is called wrongly with 2", async () => {
  const refused = await run("budget set --scope org/acme --period day", {});
  expect(refused).toMatchObject({ code: 1, out: "" });
  expect(refused.error).toContain("400 a budget has a tokenLimit");
  expect((await run("usage", { SCOPEFLOOR_KEY: "sf_mgmt_wrong" })).code).toBe(1);
  const nobody = await run("usage", { SCOPEFLOOR_URL: "http://127.0.0.1:9" });
  expect([nobody.code, nobody.error]).toEqual([1, expect.stringContaining("is the service running there?")]);
  const keyless = await run("usage", { SCOPEFLOOR_KEY: "" });
  expect([keyless.code, keyless.error]).toEqual([
    2,
    "scopefloor usage: SCOPEFLOOR_KEY is not set: it takes a management key\n",
  ]);
  for (const args of [
    "budget set",
    "limit set --scope org/acme",
    "budget set --period day --raise-cost 1",
    "budget set --period month --tokens many",
    "usage --what",
    "price sell",
  ])
    expect((await run(args)).code, args).toBe(2);
  const help = await run("budget --help");
  expect([help.code, help.out]).toEqual([0, expect.stringContaining("SCOPEFLOOR_URL")]);
});
