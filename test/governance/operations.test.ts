import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { orderDueRuns } from "../../src/jobs/schedules.ts";
import { onPostgres } from "../harness/database.ts";
import { startService, type TestService } from "../harness/service.ts";

/** The day in docs/operations.md, command by command, as it stands there. */
let service: TestService;
let folder: string;
beforeAll(async () => {
  service = await startService({ worker: {} });
  folder = await mkdtemp(join(tmpdir(), "scopefloor-day-"));
});
const afterThis: (() => void)[] = [];
afterAll(async () => {
  for (const end of afterThis) end();
  await service.stop();
  await rm(folder, { recursive: true });
});

interface Run {
  readonly code: number;
  readonly out: string;
  readonly error: string;
}

/** Runs a line of a shell in the folder, where `scopefloor` is the built command. */
const shell = (line: string, environment: Record<string, string> = {}): Promise<Run> => {
  const env = {
    PATH: process.env.PATH ?? "",
    SCOPEFLOOR_URL: service.url,
    SCOPEFLOOR_KEY: service.operator.key,
    ...(service.database.url === undefined ? {} : { DATABASE_OWNER_URL: service.database.url }),
    ...environment,
  };
  const script = `scopefloor() { "${process.execPath}" "${join(inject("built"), "src/cli.js")}" "$@"; }\n${line}`;
  return promisify(execFile)("sh", ["-c", script], { env, cwd: folder, timeout: 60_000 }).then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, error: stderr }),
    (failure: { code: number; stdout: string; stderr: string }) => ({
      code: failure.code,
      out: failure.stdout,
      error: failure.stderr,
    }),
  );
};

/** The commands of a section, each with all of its lines. */
async function commandsOf(heading: string): Promise<string[]> {
  const text = await readFile("docs/operations.md", "utf8");
  const section = text.split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  return [...section.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block = ""]) => {
    const commands: string[] = [];
    for (const line of block.split("\n")) {
      const open = commands.at(-1);
      // A here-document, and a line that ends in a backslash, go on.
      if (open !== undefined && (/\\$/.test(open) || (/<<'END'/.test(open) && !/\nEND$/.test(open))))
        commands[commands.length - 1] = `${open}\n${line}`;
      else if (line.trim() !== "" && !line.startsWith("#")) commands.push(line);
    }
    return commands;
  });
}

test("every command of a day with a thousand tenants does what it says", {
  timeout: 120_000,
  tags: ["long"],
}, async () => {
  const commands = await commandsOf("A day with a thousand tenants");
  expect(commands.length).toBeGreaterThan(20);
  // What the page takes as given: somebody has been at work, and the worker's clock goes on.
  const ids: Record<string, string> = {};
  const clock = setInterval(() => void orderDueRuns(service.database), 300);
  afterThis.push(() => clearInterval(clock));
  for (const command of commands) {
    if (command.includes("verify --tenant") && !onPostgres()) continue;
    if (command.includes("psql")) continue;
    const { code, out, error } = await shell(command, ids);
    expect(code, `${command}\n${out}${error}`).toBe(0);
    if (command.startsWith("scopefloor tenant add org/acme")) {
      const acme = JSON.parse((await shell("scopefloor key list --scope org/acme --json")).out) as {
        keys: { name: string }[];
      };
      expect(acme.keys.map(({ name }) => name).sort()).toEqual(["acme admin", "acme agent"]);
      const agent = await service.mint("agent", { org: "acme" });
      await agent.remember("Carol Weber signed the lease");
    }
    for (const [name, path, list] of [
      ["SCHEDULE", "forget-schedules", "schedules"],
      ["HOLD", "holds", "holds"],
      ["RECEIPT", "receipts", "receipts"],
    ] as const) {
      const { body } = await service.operator.get<Record<string, { id: string }[]>>(`/contexts/default/${path}`);
      const id = body[list]?.[0]?.id;
      if (id !== undefined) ids[name] = id;
    }
  }
  expect((await service.operator.get("/contexts/default/tenants/org%2Fglobex")).status).toBe(404);
});

test("what destroys is confirmed; what is refused says why and ends with 1, what is misspelt with 2", async () => {
  await service.mint("agent", { org: "initech" });
  for (const [line, code, said] of [
    ["scopefloor tenant offboard org/initech", 2, "--confirm org/initech"],
    ["scopefloor tenant offboard org/initech --confirm initech", 2, "--confirm org/initech"],
    ["scopefloor key revoke nobody --confirm nobody", 1, "404"],
    ["scopefloor key mint x --principal king --floor org/initech", 2, "king"],
    ["scopefloor tenant show org/nobody", 1, "404"],
    ["scopefloor tenant lst", 2, "there is no command lst; there are list, show"],
    ["scopefloor tenant offboard org/initech --confirm org/initech --wait", 2, "--grace 0"],
    ["scopefloor key mint x --principal agent --floor org/initech/user", 2, "user"],
    ["scopefloor tenant add org/other --template none", 1, "no template none"],
    ["scopefloor retention set --scope org/initech --older-than soon --action erase", 1, "ISO 8601"],
    ["scopefloor schedule add --scope org/initech --cron '* *' --action expire", 1, "cron"],
    ["scopefloor hold set --scope org/initech", 2, "--reason"],
    ["scopefloor tenant add org/initech --file /nowhere.json", 2, "/nowhere.json"],
    ["scopefloor receipt verify /nowhere --keys /nowhere", 2, "cannot be read"],
  ] as const) {
    const run = await shell(line);
    expect([run.code, run.error], line).toEqual([code, expect.stringContaining(said)]);
  }
});

test("a receipt is verified without the service, and one that was changed is not", async () => {
  const agent = await service.mint("agent", { org: "hooli" });
  await agent.remember("forget this");
  const { body } = await agent.post("/forget", { query: "forget this", sessionId: undefined, ids: undefined });
  const offline = { SCOPEFLOOR_URL: "http://127.0.0.1:9", SCOPEFLOOR_KEY: "" };
  expect(
    (await shell(`scopefloor receipt show ${body.receiptId} --json > r.json && scopefloor receipt keys > keys.json`))
      .code,
  ).toBe(0);
  const good = await shell("scopefloor receipt verify r.json --keys keys.json --scope org/hooli", offline);
  expect([good.code, good.out], good.error).toEqual([0, expect.stringContaining("holds")]);
  for (const [line, said] of [
    [
      'sed \'s/"deleted"/"x"/; s/"turn": [0-9]*/"turn": 99/\' r.json > c.json; scopefloor receipt verify c.json --keys keys.json',
      "something else",
    ],
    ["scopefloor receipt verify r.json --keys keys.json --scope org/acme", "another scope"],
    ...["target", "subtree", "keyId", "policy", "createdAt"].map(
      (field) =>
        [
          `node -e 'const r = require("./r.json"); r.${field} = r.${field}?.org ? { org: "x" } : "x"; console.log(JSON.stringify(r))' > c.json; scopefloor receipt verify c.json --keys keys.json`,
          `${field} was`,
        ] as const,
    ),
    ["echo '{\"keys\":[]}' > none.json; scopefloor receipt verify r.json --keys none.json", "not by one of these keys"],
  ] as const) {
    const run = await shell(line, offline);
    expect([run.code, run.error], line).toEqual([1, expect.stringContaining(said)]);
  }
});
