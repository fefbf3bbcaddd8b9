import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { openPostgres } from "../../src/db/connect/open.ts";
import { type ScrubStep, scrub } from "../../src/db/upkeep/scrub.ts";
import { faultTimeout } from "../faults/share.ts";
import { type Cluster, createCluster } from "../harness/cluster.ts";
import { onPostgres } from "../harness/database.ts";
import { pause, type ServiceProcess, serviceProcess } from "../harness/service-process.ts";

const run = promisify(execFile);

/** Words that stand in every place in which a tenant's words can stand. */
const CANARIES = {
  tag: "wolverine",
  text: "pangolin",
  file: "cassowary",
  title: "ocelot",
  label: "tapir",
  item: "dugong",
  fact: "kakapo",
  question: "lemming",
  metadata: "caracal",
  idempotency: "saiga",
  denied: "markhor",
} as const;

/** The files below a folder that hold any of the words, with the words. */
async function holding(folder: string): Promise<string[]> {
  const found: string[] = [];
  const files = await readdir(folder, { recursive: true, withFileTypes: true });
  for (const file of files) {
    if (!file.isFile()) continue;
    const path = join(file.parentPath, file.name);
    const bytes = await readFile(path);
    for (const word of Object.values(CANARIES))
      if (bytes.includes(word)) found.push(`${path.slice(folder.length)}: ${word}`);
  }
  return found;
}

describe("what an erasure leaves in the database's files (threat 17)", () => {
  let folder: string;
  let cluster: Cluster | undefined;
  let service: ServiceProcess;
  let environment: Record<string, string>;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scopefloor-erasure-"));
    if (onPostgres()) {
      cluster = await createCluster();
      await cluster.start();
      environment = { DATABASE_URL: cluster.url };
    } else {
      environment = { SCOPEFLOOR_DATA_DIR: folder };
    }
    service = await serviceProcess(environment);
    await service.start();
  });
  afterAll(async () => {
    await service.end("SIGKILL");
    await cluster?.remove();
    await rm(folder, { recursive: true });
  });

  const call = async (key: string, method: string, path: string, body?: unknown, headers: object = {}) => {
    const isForm = body instanceof FormData;
    const response = await fetch(`${service.url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined || isForm ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: isForm ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, text, body: text.startsWith("{") ? JSON.parse(text) : {} };
  };

  /** A tenant that says each word in its place, and another that stays. */
  async function fill(): Promise<string> {
    const mint = async (tags: object) =>
      (
        await call(service.key, "POST", "/contexts/default/keys", {
          name: `key ${Math.random()}`,
          principal: "agent",
          scopeFloor: tags,
        })
      ).body;
    const { id, key } = await mint({ org: CANARIES.tag });
    const stays = await mint({ org: "stays" });
    const labels = [`topic=${CANARIES.label}`];
    const form = new FormData();
    form.append("metadata", JSON.stringify({ title: `${CANARIES.title} handbook` }));
    form.append("file", new Blob([`The ${CANARIES.file} runs.\n\nIt kicks too.`], { type: "text/plain" }), "x.txt");
    const answers = [
      await call(key, "POST", "/default/facts", { text: `the ${CANARIES.text} sleeps`, labels }),
      await call(key, "POST", "/default/documents", form),
      await call(key, "PUT", `/default/memory/${CANARIES.item}`, { value: `${CANARIES.item} swims` }),
      await call(key, "POST", "/default/facts", {
        infer: "triples",
        triples: [{ entity: { type: "Bird", name: CANARIES.fact }, key: "is", value: `${CANARIES.fact} green` }],
      }),
      await call(key, "POST", "/default/query", { query: `where is the ${CANARIES.question}` }),
      await call(
        key,
        "POST",
        "/default/sessions",
        { metadata: { note: CANARIES.metadata } },
        { "idempotency-key": CANARIES.idempotency },
      ),
      await call(stays.key, "POST", "/default/facts", { text: "what stays is of another tenant" }),
    ];
    for (const { status, text } of answers) expect(status, text).toBeLessThan(300);
    expect((await call(key, "POST", "/default/query", { query: "x", lens: `org/${CANARIES.denied}` })).status).toBe(
      403,
    );
    for (let n = 0; n < 200; n++) {
      const { body } = await call(key, "GET", `/default/documents/${answers[1]?.body.id}`);
      if (body.status === "ready") return id;
      await pause(50);
    }
    throw new Error("the document was not processed");
  }

  /** A transaction that began now and may see what there is now; gives how to end it. */
  async function lookBack(url: string, how: "reads" | "writes"): Promise<() => Promise<void>> {
    const old = postgres(url, { max: 1 });
    const session = await old.reserve();
    if (how === "reads") {
      await session`BEGIN ISOLATION LEVEL REPEATABLE READ`;
      await session`SELECT pg_current_snapshot()`;
    } else {
      await session`BEGIN`;
      await session`SELECT pg_current_xact_id()`;
      // Between two statements: no snapshot is left.
      await session.unsafe("SELECT 1").simple();
    }
    return () => old.end({ timeout: 0 });
  }

  /** What an open transaction may still see is written anew too, and that is said. */
  async function scrubInVain(url: string): Promise<void> {
    const database = openPostgres({ app: url, connections: 1, timeoutMs: 30_000 });
    const steps: ScrubStep[] = [];
    await scrub(database, (step) => steps.push(step), { lookBackMs: 600 });
    await database.close();
    expect(steps.flatMap(({ failed }) => failed ?? [])).toEqual([
      expect.stringMatching(/^session \d+(, session \d+)? may still see rows that are gone/),
    ]);
  }

  const psql = async (statement: string) =>
    (await cluster?.program("psql", ["-At", "-d", cluster.url, "-c", statement]))?.trim();
  const dump = () => cluster?.program("pg_dump", ["--inserts", "-d", cluster.url]);

  test("no word in a dump; and after `scopefloor scrub` none in any file, and the neighbour's are there", {
    ...faultTimeout,
    tags: ["long"],
  }, async () => {
    const keyId = await fill();
    const data = cluster?.data ?? folder;
    if (cluster !== undefined) {
      // The control: before, each word is in the dump.
      const before = (await dump()) ?? "";
      for (const word of Object.values(CANARIES)) expect(before.includes(word), word).toBe(true);
    }
    const [reader, writer] =
      cluster === undefined ? [] : [await lookBack(cluster.url, "reads"), await lookBack(cluster.url, "writes")];
    expect((await call(service.key, "DELETE", `/contexts/default/keys/${keyId}`)).status).toBeLessThan(300);
    expect((await call(service.key, "POST", "/default/scopes/forget", { path: `org/${CANARIES.tag}` })).status).toBe(
      200,
    );
    if (cluster !== undefined) {
      const after = (await dump()) ?? "";
      for (const word of Object.values(CANARIES)) expect(after.includes(word), word).toBe(false);
      expect(after).toContain("what stays is of another tenant");
    }
    const metrics = (await call(service.key, "GET", "/metrics")).text;
    for (const word of Object.values(CANARIES)) expect(metrics.includes(word), word).toBe(false);
    expect(await service.end("SIGTERM")).toBe(0);
    // The control: the files still hold them.
    expect((await holding(data)).length).toBeGreaterThan(0);
    if (cluster !== undefined) {
      await scrubInVain(cluster.url);
      expect(await holding(data)).not.toEqual([]);
      await reader?.();
      await scrubInVain(cluster.url);
      await writer?.();
      await psql("ALTER SYSTEM SET wal_recycle = off");
    }
    const { stdout } = await run(process.execPath, [join(inject("built"), "src/cli.js"), "scrub"], {
      env: { PATH: process.env.PATH, ...environment },
    });
    expect(stdout).not.toContain("FAIL");
    expect(await holding(data)).toEqual([]);
    if (cluster !== undefined) {
      // What the operator had set is as it was.
      expect(await psql("SELECT setting::bool FROM pg_file_settings WHERE name = 'wal_recycle'")).toBe("f");
    }
    await service.start();
    const left = await call(service.key, "POST", "/default/query", { query: "what stays", lens: "org/stays" });
    expect(left.text).toContain("what stays is of another tenant");
  });
});
