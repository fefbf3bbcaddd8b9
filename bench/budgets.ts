/**
 * What budgets cost, and whether they hold. Facts and recalls over HTTP without any budget, beside another tenant's,
 * and under one, two and a deployment-wide one, turn about; holds a second under one deployment-wide budget;
 * and rounds of calls at once on two processes under three nested budgets, every second round with a kill -9,
 * judged by the scripted provider's own count.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type postgres from "postgres";
import type { KeyHash } from "../src/db/access/entry.ts";
import { openPostgres } from "../src/db/connect/open.ts";
import { hashSecret } from "../src/keys/secret.ts";
import { HoldBatcher } from "../src/metering/hold-batcher.ts";
import { load, quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";
import { type BenchService, benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";

const WIDTH = 16;
const ROUNDS = 3;

export default async function budgets(): Promise<Record<string, unknown>> {
  const costs = await hotPath();
  const holds = await holdsPerSecond();
  const spending = await overspending(numberOption("rounds", 10), numberOption("calls", 1_000));
  return { ...costs, ...holds, ...spending };
}

/** The service's routes of budgets, for a bench. */
function budgetsOf(service: BenchService) {
  const call = clientOf(service.url, service.managementKey);
  return {
    set: (body: object) => call<{ id: string }>("PUT", "/contexts/default/budgets", body),
    clear: async (sql: postgres.Sql) => {
      await sql`DELETE FROM scopefloor.budget`;
      await sql`DELETE FROM scopefloor.budget_hold`;
    },
  };
}

async function hotPath(): Promise<Record<string, unknown>> {
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({
    DATABASE_URL: database.url,
    SCOPEFLOOR_DATA_DIR: folder.path,
    SCOPEFLOOR_DB_CONNECTIONS: String(WIDTH),
  });
  const sql = database.connect();
  try {
    const keys = await Promise.all(
      Array.from({ length: 16 }, (_, i) => mintAgent(service, `agent ${i}`, { org: `org-${i}` })),
    );
    const clients = keys.map((key) => clientOf(service.url, key));
    const say = async (i: number) => {
      await clients[i % 16]?.("POST", "/default/facts", {
        text: `the harbour number ${i} opens at dawn and closes at dusk`,
      });
    };
    const ask = async (i: number) => {
      await clients[i % 16]?.("POST", "/default/query", { query: `when does harbour number ${i} open` });
    };
    await load(1_600, WIDTH, say);
    await load(400, WIDTH, ask);
    const { set, clear } = budgetsOf(service);
    const much = { scope: {}, period: "month", tokenLimit: 1_000_000_000 };
    const cases: readonly (readonly [string, () => Promise<unknown>])[] = [
      ["no budget", async () => undefined],
      ["another tenant's", () => set({ ...much, scope: "org/elsewhere" })],
      ["one for each org", () => Promise.all(keys.map((_, i) => set({ ...much, scope: `org/org-${i}` })))],
      ["one for everybody", () => set(much)],
      ["both", () => Promise.all([set(much), ...keys.map((_, i) => set({ ...much, scope: `org/org-${i}` }))])],
    ];
    const times = new Map<string, { say: number[]; ask: number[] }>(
      cases.map(([name]) => [name, { say: [], ask: [] }]),
    );
    for (let n = 0; n < ROUNDS; n++) {
      for (const [name, prepare] of cases) {
        await clear(sql);
        await prepare();
        await load(32, WIDTH, say);
        times.get(name)?.say.push((await load(800, WIDTH, say)).perSecond);
        times.get(name)?.ask.push((await load(800, WIDTH, ask)).perSecond);
      }
    }
    const of = (name: string) => ({
      say: quantile(times.get(name)?.say ?? [], 0.5),
      ask: quantile(times.get(name)?.ask ?? [], 0.5),
    });
    const base = of("no budget");
    const rows = cases.map(
      ([name]) => [name, of(name).say, of(name).say / base.say, of(name).ask, of(name).ask / base.ask] as const,
    );
    process.stdout.write(table([["budgets", "facts/s", "ratio", "recalls/s", "ratio"], ...rows]));
    return {
      ratios: Object.fromEntries(
        rows.map(([name, , facts, , recalls]) => [name, { facts: round(facts), recalls: round(recalls) }]),
      ),
    };
  } finally {
    await sql.end();
    await service.stop();
    await database.drop();
    await folder.remove();
  }
}

/** Two batchers, as two processes have them, over one budget of everybody. */
async function holdsPerSecond(): Promise<Record<string, unknown>> {
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  const pools = [0, 1].map(() => openPostgres({ app: database.url, connections: 4, timeoutMs: 60_000 }));
  const sql = database.connect();
  try {
    const keys = await Promise.all(
      Array.from({ length: 64 }, (_, i) => mintAgent(service, `agent ${i}`, { org: `org-${i}` })),
    );
    const { set } = budgetsOf(service);
    const batchers = pools.map((pool) => new HoldBatcher(pool));
    const hold = async (i: number) => {
      const answer = await batchers[i % 2]?.hold({
        id: crypto.randomUUID(),
        caller: { keyHash: hashSecret(keys[i % 64] ?? "") as KeyHash, onBehalfOf: undefined },
        verb: "memory:write",
        requested: { mode: "write", clauses: null },
        operation: "facts",
        calls: 1,
        requests: 1,
        provider: "openai",
        model: "m",
        inputTokens: 0,
        embeddingTokens: 20,
        isOwn: false,
        isSent: true,
        mayDegrade: true,
      });
      if (answer?.status !== "held") throw new Error(`a hold was ${answer?.status}`);
    };
    const rows: [string, number, number][] = [];
    for (const [name, prepare] of [
      ["one for everybody", () => set({ scope: {}, period: "month", tokenLimit: 1e12 })],
      [
        "and one for each org",
        () => Promise.all(keys.map((_, i) => set({ scope: `org/org-${i}`, period: "month", tokenLimit: 1e12 }))),
      ],
    ] as const) {
      await prepare();
      await load(2_000, 256, hold);
      await sql`DELETE FROM scopefloor.budget_hold`;
      const { perSecond, p95 } = await load(10_000, 256, hold);
      await sql`DELETE FROM scopefloor.budget_hold`;
      rows.push([name, perSecond, p95]);
    }
    process.stdout.write(`\n${table([["budgets", "holds/s", "p95 ms"], ...rows])}`);
    return { holdsPerSecond: rows.map(([, perSecond]) => round(perSecond, 0)) };
  } finally {
    await sql.end();
    for (const pool of pools) await pool.close();
    await service.stop();
    await database.drop();
    await folder.remove();
  }
}

const TOKENS_A_CALL = 300;

/** A provider that counts what it was sent. */
async function scriptedProvider() {
  let tokens = 0;
  const server = createServer(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const { input } = JSON.parse(Buffer.concat(parts).toString()) as { input: string | string[] };
    const texts = Array.isArray(input) ? input : [input];
    const used = texts.length * TOKENS_A_CALL;
    tokens += used;
    await new Promise((resolve) => setTimeout(resolve, 2 + Math.random() * 10));
    response.writeHead(200, { "content-type": "application/json" });
    const vector = Array.from({ length: 8 }, (_, i) => (i === tokens % 8 ? 1 : 0.1));
    response.end(
      JSON.stringify({
        data: texts.map((_, index) => ({ index, embedding: vector })),
        usage: { prompt_tokens: used, total_tokens: used },
      }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    get tokens() {
      return tokens;
    },
    stop: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

async function overspending(rounds: number, calls: number): Promise<Record<string, unknown>> {
  const database = await benchDatabase();
  const folders = [await temporaryFolder(), await temporaryFolder()];
  const provider = await scriptedProvider();
  const start = (i: number, managementKey?: string) =>
    startBuilt({
      DATABASE_URL: database.url,
      SCOPEFLOOR_DATA_DIR: folders[i]?.path ?? "",
      SCOPEFLOOR_EMBEDDINGS: "openai:scripted",
      OPENAI_BASE_URL: provider.url,
      OPENAI_API_KEY: "bench",
      SCOPEFLOOR_LOG_LEVEL: "fatal",
      ...(managementKey === undefined
        ? {}
        : { SCOPEFLOOR_MANAGEMENT_KEY: managementKey, SCOPEFLOOR_ROLE: "api", DATABASE_OWNER_URL: database.url }),
    });
  const first = await start(0);
  let second = await start(1, first.managementKey);
  const sql = database.connect();
  const text = (i: number) => `text ${i} `.padEnd(TOKENS_A_CALL + 30, "and more ");
  const sums = { overspent: 0, stranded: 0, difference: 0, made: 0, refused: 0, failed: 0 };
  try {
    const keys = await Promise.all(["a", "b"].map((user) => mintAgent(first, `user ${user}`, { org: "acme", user })));
    const { set } = budgetsOf(first);
    const rows: number[][] = [];
    for (let n = 0; n < rounds; n++) {
      await sql`DELETE FROM scopefloor.budget`;
      await sql`DELETE FROM scopefloor.budget_hold`;
      const limits = [calls * TOKENS_A_CALL * 0.5, calls * TOKENS_A_CALL * 0.4, calls * TOKENS_A_CALL * 0.15];
      const name = `round ${n}`;
      const ids = [];
      for (const [i, scope] of [{}, "org/acme", "org/acme/user/a"].entries()) {
        const { id } = await set({
          scope,
          name,
          period: "total",
          tokenLimit: limits[i],
        });
        // What was spent in earlier rounds is not this one's.
        await sql`UPDATE scopefloor.budget_window SET used_tokens = 0 WHERE budget_id = ${id}`;
        ids.push(id);
      }
      const before = provider.tokens;
      const [traced] = await sql`SELECT coalesce(sum(embedding_tokens), 0)::int AS n FROM scopefloor.decision_trace`;
      const killing = n % 2 === 1;
      let done = 0;
      const work = async (i: number) => {
        const url = i % 2 === 0 ? first.url : second.url;
        await fetch(`${url}/default/facts`, {
          method: "POST",
          headers: { authorization: `Bearer ${keys[(i >> 1) % 2]}`, "content-type": "application/json" },
          body: JSON.stringify({ text: text(i) }),
        }).then(
          (answer) => {
            if (answer.status === 200) sums.made++;
            else if (answer.status === 429 || answer.status === 503) sums.refused++;
            else sums.failed++;
          },
          () => sums.failed++,
        );
        if (killing && ++done === Math.round(calls / 8)) process.kill(second.pid, "SIGKILL");
      };
      await load(calls, 200, work);
      if (killing) second = await start(1, first.managementKey);
      // The dead process's holds expire, as they would in three minutes.
      await new Promise((resolve) => setTimeout(resolve, 1_500));
      await sql`UPDATE scopefloor.budget_hold SET expires_at = '-infinity' WHERE state IN ('held', 'sent')`;
      await sql`SELECT scopefloor.fold_holds(100000)`;
      const spent = provider.tokens - before;
      const [window] = await sql`
        SELECT used_tokens::int AS used, (held_tokens + held_requests)::int AS held FROM scopefloor.budget_window WHERE budget_id = ${ids[1] ?? ""}`;
      const [after] = await sql`SELECT coalesce(sum(embedding_tokens), 0)::int AS n FROM scopefloor.decision_trace`;
      const [charged] =
        await sql`SELECT coalesce(sum(tokens), 0)::int AS n FROM scopefloor.budget_hold WHERE state = 'charged'`;
      const overspent = Math.max(0, spent - (limits[1] ?? 0));
      const difference = Math.abs(
        (window?.used as number) - ((after?.n as number) - (traced?.n as number)) - (charged?.n as number),
      );
      sums.overspent += overspent;
      sums.stranded += window?.held as number;
      sums.difference += difference;
      rows.push([
        n + 1,
        limits[1] ?? 0,
        spent,
        window?.used as number,
        charged?.n as number,
        window?.held as number,
        difference,
      ]);
    }
    process.stdout.write(
      `\n${table([["round", "limit", "the provider's count", "used", "of it charged for the dead", "held", "used - traces - charged"], ...rows])}`,
    );
    return sums;
  } finally {
    await sql.end();
    await second.stop();
    await first.stop();
    provider.stop();
    await database.drop();
    for (const folder of folders) await folder.remove();
  }
}
