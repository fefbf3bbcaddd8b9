/**
 * What a retention rule takes a second beside a bare DELETE of as many rows of the same kind, and what a neighbour's
 * paced recall notices of it: five rounds of each, in turn.
 */
import type postgres from "postgres";
import { quantile, round, table } from "./measure.ts";
import { numberOption } from "./options.ts";
import { type BenchService, benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";
import { randomText, seeded } from "./text.ts";

const ROUNDS = 5;
const BATCH = 500;

export default async function retention(): Promise<Record<string, unknown>> {
  const turns = numberOption("turns", 20_000);
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path });
  const sql = database.connect();
  try {
    await clientOf(service.url, service.managementKey)("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
    const random = seeded(7700);
    const fill = async (org: string, count: number) => {
      const call = clientOf(service.url, await mintAgent(service, org, { org }));
      for (let at = 0; at < count; at += BATCH) {
        const messages = Array.from({ length: BATCH }, () => ({ role: "user", content: randomText(random, 30) }));
        await call("POST", "/default/facts/batch", { messages });
      }
      return call;
    };
    const quiet = await fill("quiet", 1_000);
    await fill("source", turns);
    for (let n = 0; n < ROUNDS; n++)
      for (const org of [`ruled-${n}`, `deleted-${n}`]) {
        await fill(org, 0);
        await copyTurns(sql, "source", org);
      }
    await sql`VACUUM ANALYZE`;
    const queries = Array.from({ length: 200 }, () => randomText(random, 5));
    /** The neighbour asks every 20 ms at most until `work` is done; gives the ms of what it asked in that time, and when. */
    const beside = async <T>(work: Promise<T>) => {
      const asked: { at: number; ms: number }[] = [];
      let isOver = false;
      const ended = work.finally(() => {
        isOver = true;
      });
      for (let i = 0; !isOver; i++) {
        const at = Date.now();
        const began = performance.now();
        await quiet("POST", "/default/query", { query: queries[i % 200] });
        asked.push({ at, ms: performance.now() - began });
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return { asked, result: await ended };
    };
    const p95 = (asked: readonly { ms: number }[]) =>
      quantile(
        asked.map(({ ms }) => ms),
        0.95,
      );
    const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
    await beside(pause(3_000));
    const alone: number[] = [];
    const during: number[] = [];
    const ruled: number[] = [];
    const deleted: number[] = [];
    for (let n = 0; n < ROUNDS; n++) {
      alone.push(p95((await beside(pause(5_000))).asked));
      const { asked, result } = await beside(runRule(service, sql, `ruled-${n}`));
      during.push(p95(asked.filter(({ at, ms }) => at + ms > result.startedAt && at < result.finishedAt)));
      ruled.push((1_000 * turns) / (result.finishedAt - result.startedAt));
      deleted.push(turns / (await bareDelete(sql, `deleted-${n}`)));
    }
    const median = (values: readonly number[]) => quantile(values, 0.5);
    const rate = median(ruled) / median(deleted);
    const noticed = median(during) / median(alone);
    process.stdout.write(
      table([
        [`${turns} turns of a tenant, median of ${ROUNDS}`, "turns/s", "neighbour's p95 ms"],
        ["nothing", "", median(alone)],
        ["a retention rule that erases", median(ruled), median(during)],
        ["DELETE by the owner", median(deleted), ""],
      ]),
    );
    process.stdout.write(
      `\n${round(rate)} of the bare DELETE (aim 0.33); the neighbour's p95 ${round(noticed)} × (aim 1.5)\n`,
    );
    return {
      turns,
      rate: round(rate),
      perSecond: round(median(ruled)),
      deletedPerSecond: round(median(deleted)),
      neighbour: round(noticed),
    };
  } finally {
    await sql.end();
    await service.stop();
    await database.drop();
    await folder.remove();
  }
}

interface Run {
  /** Milliseconds of the clock. */
  readonly startedAt: number;
  readonly finishedAt: number;
}

/** Sets a rule that takes all that the org has, and waits for its run. */
async function runRule(service: BenchService, sql: postgres.Sql, org: string): Promise<Run> {
  await clientOf(service.url, service.managementKey)("PUT", "/contexts/default/retention", {
    scope: { org },
    kinds: ["turns"],
    olderThan: "PT1S",
    action: "erase",
  });
  await sql`
    UPDATE scopefloor.retention_rule r SET next_run = now()
    FROM scopefloor.scope s WHERE s.id = r.scope_id AND s.tags = ${sql.json({ org })}`;
  for (;;) {
    const [run] = await sql`
      SELECT r.state, r.error, 1000 * extract(epoch FROM r.started_at)::float8 AS started, 1000 * extract(epoch FROM r.finished_at)::float8 AS finished
      FROM scopefloor.forget_run r JOIN scopefloor.scope s ON s.id = r.scope_id WHERE s.tags = ${sql.json({ org })}`;
    if (run?.finished != null) {
      if (run.state !== "done") throw new Error(`the run ended as ${run.state}: ${run.error}`);
      return { startedAt: run.started as number, finishedAt: run.finished as number };
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Gives an org the same sessions, turns and passages as another has, under ids of their own. */
async function copyTurns(sql: postgres.Sql, from: string, to: string): Promise<void> {
  const [target] = await sql`SELECT id, tenant_id FROM scopefloor.scope WHERE tags = ${sql.json({ org: to })}`;
  const other = (column: string) => `md5(o.${column}::text || '${to}')::uuid`;
  for (const [name, ids] of [
    ["session", ["id"]],
    ["turn", ["id", "session_id"]],
    ["passage", ["id", "turn_id", "session_id"]],
  ] as const)
    await sql.unsafe(`
      INSERT INTO scopefloor.${name}
      SELECT (jsonb_populate_record(o, jsonb_build_object('tenant_id', ${target?.tenant_id}, 'scope_id', ${target?.id}, ${ids.map((id) => `'${id}', ${other(id)}`).join(", ")}))).*
      FROM scopefloor.${name} o JOIN scopefloor.scope s ON s.id = o.scope_id WHERE s.tags = '{"org":"${from}"}'`);
}

/** Deletes what the org has said in one statement a table, with all that keeps the indexes true; gives the seconds. */
async function bareDelete(sql: postgres.Sql, org: string): Promise<number> {
  const began = performance.now();
  await sql.begin(async (tx) => {
    const scopes = tx`SELECT id FROM scopefloor.scope WHERE tags = ${tx.json({ org })}`;
    await tx`DELETE FROM scopefloor.passage WHERE scope_id = ANY (ARRAY(${scopes}))`;
    await tx`DELETE FROM scopefloor.turn WHERE scope_id = ANY (ARRAY(${scopes}))`;
  });
  return (performance.now() - began) / 1_000;
}
