import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { examine } from "../../src/commands/first/doctor.ts";
import { lockFolder } from "../../src/db/connect/folder-lock.ts";
import { orderDueRuns } from "../../src/jobs/schedules.ts";
import { createLog } from "../../src/log.ts";
import { onPostgres } from "../harness/database.ts";
import { startService, type TestService } from "../harness/service.ts";

/** What a newcomer meets: the command that shows the service, the one that checks it, and the errors of a start. */

let service: TestService;
let folder: string;
beforeAll(async () => {
  service = await startService({ worker: {} });
  folder = await mkdtemp(join(tmpdir(), "scopefloor-first-"));
});
afterAll(async () => {
  await service.stop();
  await rm(folder, { recursive: true });
});

interface Run {
  readonly code: number;
  readonly out: string;
  readonly error: string;
}
const built = (file: string) => join(inject("built"), "src", file);
const run = (file: string, args: readonly string[], env: Record<string, string>): Promise<Run> =>
  promisify(execFile)(process.execPath, [built(file), ...args], {
    env: { PATH: process.env.PATH ?? "", ...env },
    timeout: 30_000,
  }).then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, error: stderr }),
    (failure: { code: number; stdout: string; stderr: string }) => ({
      code: failure.code,
      out: failure.stdout,
      error: failure.stderr,
    }),
  );
const start = (env: Record<string, string>) => run("main.js", [], { SCOPEFLOOR_DATA_DIR: folder, ...env });

describe("scopefloor try", () => {
  const environment = () => ({ SCOPEFLOOR_URL: service.url, SCOPEFLOOR_KEY: service.operator.key });

  test("shows two tenants apart, each step as a line for a shell, and leaves nothing behind", async () => {
    // As a worker does each few seconds.
    const due = setInterval(() => void orderDueRuns(service.database, createLog("silent")), 300);
    const { code, out, error } = await run("cli.js", ["try"], environment());
    clearInterval(due);
    expect([code, error], out).toEqual([0, ""]);
    expect(out).toContain("All of it went as it should.");
    expect(out).not.toContain(service.operator.key);
    const left = await service.database.sql(
      "SELECT 1 FROM scopefloor.passage p JOIN scopefloor.scope s ON s.id = p.scope_id WHERE s.tags->>'org' LIKE 'try-%'",
    );
    expect(left).toEqual([]);
    expect((await service.operator.get("/contexts/default/tenants")).text).not.toContain("try-acme");
  });

  test("gives lines that a shell runs", async () => {
    const { out } = await run("cli.js", ["try", "--keep"], environment());
    const [, acme] = /ACME=(sf_agent_\w+)/.exec(out) ?? [];
    const line = out.split("\n").find((one) => one.includes("when do we ship?"));
    expect(line).toMatch(/^curl -s /);
    const shell = await promisify(execFile)("sh", ["-c", line ?? ""], {
      env: { PATH: process.env.PATH ?? "", URL: service.url, ACME: acme ?? "" },
    });
    expect(shell.stdout).toContain("zeppelin");
  });

  test("says what to do where there is no service, or no key", async () => {
    const silent = await run("cli.js", ["try"], { SCOPEFLOOR_URL: "http://127.0.0.1:9", SCOPEFLOOR_KEY: "x" });
    expect(silent).toMatchObject({ code: 2, error: expect.stringContaining("npm start") });
    const keyless = await run("cli.js", ["try"], { SCOPEFLOOR_URL: service.url, SCOPEFLOOR_DATA_DIR: folder });
    expect(keyless).toMatchObject({ code: 2, error: expect.stringContaining("SCOPEFLOOR_KEY") });
    const wrong = await run("cli.js", ["try"], { SCOPEFLOOR_URL: service.url, SCOPEFLOOR_KEY: "wrong" });
    expect(wrong).toMatchObject({ code: 2, error: expect.stringContaining("management key of this service") });
  });
});

describe("scopefloor doctor", () => {
  const checks = async (env: Record<string, string>) =>
    Object.fromEntries(
      (await examine({ SCOPEFLOOR_DATA_DIR: folder, ...env })).map(({ name, state, found }) => [name, [state, found]]),
    );

  test("finds nothing wrong with what works", async () => {
    const port = new URL(service.url).port;
    const { code, out } = await run("cli.js", ["doctor", "--json"], { PORT: port, SCOPEFLOOR_DATA_DIR: folder });
    expect(code, out).toBe(0);
    expect(JSON.parse(out).checks).toContainEqual({
      name: "service",
      state: "ok",
      found: `ready at http://127.0.0.1:${port}`,
    });
  });

  test("says of each thing that is wrong what to do", async () => {
    expect(await checks({ PORT: "http" })).toMatchObject({ configuration: ["fail", expect.stringContaining("PORT")] });
    const elsewhere = createServer((_, response) => response.writeHead(404).end("not yours"));
    await new Promise<void>((done) => elsewhere.listen(0, "127.0.0.1", done));
    const port = String((elsewhere.address() as AddressInfo).port);
    expect(await checks({ PORT: port })).toMatchObject({ service: ["fail", expect.stringContaining("set PORT")] });
    elsewhere.close();
    const wrong = await checks({
      PORT: "9",
      DATABASE_URL: "postgres://nobody@127.0.0.1:9/none",
      SCOPEFLOOR_EMBEDDINGS: "openai:none",
      OPENAI_BASE_URL: "http://127.0.0.1:9/v1",
      SCOPEFLOOR_RERANK_URL: "http://127.0.0.1:9/rerank",
      SCOPEFLOOR_VISION_MODEL: "openai:sees",
    });
    expect(wrong).toMatchObject({
      service: ["warn", expect.stringContaining("npm start")],
      database: ["fail", expect.stringContaining("start PostgreSQL")],
      embeddings: ["fail", expect.stringContaining("openai:none")],
      reranker: ["fail", expect.stringContaining("127.0.0.1:9")],
      "openai:sees": ["fail", expect.stringContaining("127.0.0.1:9")],
    });
  });

  test("looks at the server's version, extension, roles, migrations and clock", async () => {
    if (!onPostgres()) return;
    const found = await checks({ PORT: "9", DATABASE_URL: service.database.url ?? "" });
    expect(found).toMatchObject({
      database: ["ok", expect.stringMatching(/^PostgreSQL 1[7-9]/)],
      pgvector: ["ok", expect.any(String)],
      clock: ["ok", expect.any(String)],
      migrations: ["ok", "at this version"],
    });
    const missing = new URL(service.database.url ?? "");
    missing.pathname = "/no_such_database";
    expect(await checks({ PORT: "9", DATABASE_URL: missing.href })).toMatchObject({
      database: ["fail", expect.stringContaining("create it")],
    });
  });
});

describe("a start that cannot be", { tags: ["long"] }, () => {
  test("says what to do", async () => {
    const port = new URL(service.url).port;
    const taken = await start({ PORT: port });
    expect(taken).toMatchObject({
      code: 1,
      error: `scopefloor: port ${port} is in use: end what listens there, or set PORT\n`,
    });
    expect((await start({ HOST: "203.0.113.9", PORT: "0" })).error).toContain("HOST is no address of this machine");
    expect((await start({ DATABASE_URL: "postgres://nobody@127.0.0.1:9/none" })).error).toMatch(
      /DATABASE_URL.*scopefloor doctor/,
    );
    expect((await start({ PORT: "a" })).error).toContain("PORT");
  });

  test("leaves an embedded database alone that another process has, and takes it over from one that was killed", async () => {
    const own = await mkdtemp(join(tmpdir(), "scopefloor-own-"));
    const first = spawn(process.execPath, [built("main.js")], {
      env: { PATH: process.env.PATH ?? "", SCOPEFLOOR_DATA_DIR: own, PORT: "0" },
      stdio: ["ignore", "pipe", "ignore"],
    });
    try {
      await new Promise<void>((done) => first.stdout.on("data", (text) => String(text).includes("serving") && done()));
      const second = await start({ SCOPEFLOOR_DATA_DIR: own, PORT: "0" });
      expect(second).toMatchObject({ code: 1, error: expect.stringContaining("SCOPEFLOOR_DATA_DIR") });
    } finally {
      const ended = new Promise((done) => first.once("close", done));
      first.kill("SIGKILL");
      await ended;
    }
    const release = await lockFolder(own);
    await expect(lockFolder(own)).rejects.toThrow("another process has the embedded database");
    await release();
    await (await lockFolder(own))();
    // As long as a path may be.
    const deep = join(own, "d".repeat(120));
    await (await lockFolder(deep))();
    await rm(own, { recursive: true });
  });
});
