import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildsInParallel, limitBuilds } from "../../src/db/upkeep/vector-graph.ts";
import { reconcileGraphs } from "../../src/jobs/vector-graphs.ts";
import { createLog } from "../../src/log.ts";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

interface Answer {
  hits: { id: string; text: string; score: number }[];
  trace: { plan: string; traceId: string };
}

const ROWS = 1_200;
const SUBJECTS = ["harbour", "orchard", "quarry", "library", "foundry", "vineyard", "mill", "observatory"];

let service: TestService;
let large: Client;
let small: Client;

const ask = async (client: Client, query: string, more: object = {}) =>
  (await client.post<Answer>("/query", { query, mode: "vector", ...more })).body;

const fill = async (client: Client, rows: number, mark: string) => {
  for (let at = 0; at < rows; at += 400) {
    const messages = Array.from({ length: Math.min(400, rows - at) }, (_, i) => {
      const n = at + i;
      return {
        role: "user",
        content: `${mark} ${SUBJECTS[n % SUBJECTS.length]} ledger ${n} of shelf ${n % 37} and box ${n % 53}`,
      };
    });
    await client.post("/facts/batch", { messages });
  }
};

const graphs = async () =>
  (
    await service.database.sql("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'passage\\_graph\\_%' ORDER BY 1")
  ).map((row) => row.indexname);
const keep = (least: number, most?: number) =>
  reconcileGraphs(service.database, {
    least,
    ...(most === undefined ? {} : { most }),
    log: createLog("silent"),
    isStopped: () => false,
  });

beforeAll(async () => {
  service = await startService({ timeoutMs: 60_000 });
  await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
  large = await service.mint("agent", { org: "large" });
  small = await service.mint("agent", { org: "small" });
  await fill(large, ROWS, "canary-large");
  await fill(small, 100, "canary-small");
});
afterAll(() => service.stop());

test("every scope is answered exactly, and the trace says so with the count", async () => {
  const answer = await ask(small, "harbour ledger");
  expect(answer.trace.plan).toBe("exact vectors of 100 over 1 scope and general knowledge");
  const trace = await small.get(`/traces/${answer.trace.traceId}`);
  expect(trace.body).toMatchObject({ plan: answer.trace.plan });
});

test.runIf(!onPostgres())("the embedded database builds no graph", async () => {
  await keep(1_000);
  expect(await graphs()).toEqual([]);
});

describe.runIf(onPostgres())("a scope over the threshold", () => {
  const questions = SUBJECTS.map((subject, i) => `${subject} ledger of shelf ${i * 3} and box ${i * 5}`);

  test("gets a graph of its own, whose answers are the exact ones; small scopes beside it stay exact (threat 8)", async () => {
    const before = await Promise.all(questions.map((question) => ask(large, question)));
    const others = await Promise.all(questions.map((question) => ask(small, question)));
    await keep(1_000);
    expect(await graphs()).toHaveLength(1);
    // Its rows, as the build has counted them: nobody else's are in it.
    const [built] = await service.database.sql(
      "SELECT reltuples::int AS rows FROM pg_class WHERE relname LIKE 'passage\\_graph\\_%'",
    );
    expect(built?.rows).toBe(ROWS);
    let same = 0;
    for (const [i, question] of questions.entries()) {
      const after = await ask(large, question);
      expect(after.trace.plan).toContain("1 graph of large scopes");
      const exact = new Set(before[i]?.hits.map((hit) => hit.id));
      same += after.hits.filter((hit) => exact.has(hit.id)).length / exact.size / questions.length;
      expect(JSON.stringify(after.hits)).not.toContain("canary-small");
      const beside = await ask(small, question);
      expect(beside.hits).toEqual(others[i]?.hits);
      expect(beside.trace.plan).not.toContain("graph");
    }
    expect(same).toBeGreaterThan(0.99);
  });

  test("is merged with the scopes beside it, each planned by itself", async () => {
    const user = await service.mint("agent", { org: "large", user: "ann" });
    await user.remember("The observatory ledger of shelf 1000 and box 2000 belongs to Ann.");
    const admin = await service.mint("supervisor", { org: "large" });
    const answer = await ask(admin, "observatory ledger of shelf 1000 and box 2000 belongs to Ann");
    expect(answer.trace.plan).toContain("1 graph of large scopes and exact vectors of the others");
    expect(answer.hits[0]?.text).toContain("belongs to Ann");
    expect(answer.hits.some((hit) => hit.text.includes("canary-large"))).toBe(true);
  });

  test("is searched exactly where a filter leaves the graph too little", async () => {
    await large.remember("canary-large observatory note with a label", { labels: ["kind=rare"] });
    const answer = await ask(large, "harbour ledger", { labels: ["kind=rare"] });
    expect(answer.hits.map((hit) => hit.text)).toEqual(["canary-large observatory note with a label"]);
    expect(answer.trace.plan).toContain("whose graph gave too few");
  });

  test("has its graph taken away by the cap, by shrinking and by a forget, and is never left without an answer", async () => {
    await keep(50, 1);
    // The largest comes first: the cap leaves nothing for the small one.
    expect(await graphs()).toHaveLength(1);
    await service.operator.post("/scopes/forget", { path: "org/large" });
    await keep(1_000);
    expect(await graphs()).toEqual([]);
    const [noted] = await service.database.sql("SELECT count(*)::int AS n FROM scopefloor.vector_index");
    expect(noted?.n).toBe(0);
    expect((await ask(small, "harbour ledger")).hits).toHaveLength(10);
  });

  test("is built anew when a build was interrupted, and answers meanwhile are exact", async () => {
    const tenant = await service.mint("agent", { org: "again" });
    await fill(tenant, 600, "canary-again");
    const [scope] = await service.database.sql('SELECT id FROM scopefloor.scope WHERE tags = \'{"org":"again"}\'');
    const [model] = await service.database.sql("SELECT id FROM scopefloor.embedder LIMIT 1");
    await service.database.sql("SELECT scopefloor.note_vector_index($1, $2, 'building')", [scope?.id, model?.id]);
    expect((await ask(tenant, "mill ledger")).trace.plan).toContain("exact vectors");
    await keep(500);
    expect(await graphs()).toHaveLength(1);
    expect((await ask(tenant, "mill ledger")).trace.plan).toContain("1 graph");
  });
});

test.each([
  ["0.7.9", false],
  ["0.8", false],
  ["0.8.1", false],
  ["0.8.2", true],
  ["0.8.10", true],
  ["0.9.0", true],
  ["1.0.0", true],
  ["unknown", false],
])("pgvector %s builds in parallel: %s", (version, safe) => {
  expect(buildsInParallel(version)).toBe(safe);
});

test("a build is parallel where the installed pgvector does that safely", async () => {
  const owner = await service.database.owner.acquire();
  try {
    const shown = async () => (await owner.query("SHOW max_parallel_maintenance_workers"))[0];
    await owner.query("SET max_parallel_maintenance_workers = 2");
    await limitBuilds(owner);
    const [row] = await owner.query("SELECT extversion FROM pg_extension WHERE extname = 'vector'");
    const isSafe = buildsInParallel(row?.extversion as string);
    expect(await shown()).toEqual({ max_parallel_maintenance_workers: isSafe ? "2" : "0" });
    await owner.query("RESET max_parallel_maintenance_workers");
  } finally {
    await owner.release();
  }
});
