/**
 * Hybrid recall over HTTP beside the same retrieval as bare SQL: 50 tenants × 1,000 passages on
 * PostgreSQL, 16 database connections. Bare SQL is PostgreSQL's own full-text search and exact vectors over a
 * table of its own, from the owner's login: no key, no ticket, no row security, no trace, no HTTP. Then facts, one in each request.
 */
import { Agent, request } from "node:http";
import postgres from "postgres";
import { LexicalEmbeddings } from "../src/models/lexical-embeddings.ts";
import { type Load, load, round, table } from "./measure.ts";
import { type BenchService, benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";
import { randomText, seeded } from "./text.ts";

const TENANTS = 50;
const PASSAGES = 1_000;
const REQUESTS = 3_000;
const CONNECTIONS = 16;

export default async function http(): Promise<Record<string, unknown>> {
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const service = await startBuilt({
    DATABASE_URL: database.url,
    SCOPEFLOOR_DATA_DIR: folder.path,
    SCOPEFLOOR_DB_CONNECTIONS: String(CONNECTIONS),
  });
  try {
    const random = seeded(7700);
    const keys = await seed(service, random);
    const queries = Array.from({ length: 200 }, () => randomText(random, 5));
    const sql = postgres(database.url, { max: 1, fetch_types: false, onnotice: () => undefined });
    await sql`
      CREATE TABLE public.plain AS
      SELECT id, scope_id, turn_id, text, observed_at, embedding, to_tsvector('english', text) AS words FROM scopefloor.passage`;
    await sql`CREATE INDEX ON public.plain (scope_id)`;
    await sql`CREATE INDEX ON public.plain (id)`;
    await sql`VACUUM ANALYZE`;
    const scopes = await scopeIds(sql);
    const bare = await bareRetrieval(sql, queries);

    const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
    const send = (route: string, i: number, body: object) =>
      new Promise<void>((resolve, reject) => {
        const call = request(
          `${service.url}/default/${route}`,
          {
            method: "POST",
            agent,
            headers: { authorization: `Bearer ${keys[i % TENANTS]}`, "content-type": "application/json" },
          },
          (answer) => {
            answer.resume();
            answer.once("end", () =>
              answer.statusCode === 200 ? resolve() : reject(new Error(`${route} answered ${answer.statusCode}`)),
            );
          },
        );
        call.once("error", reject);
        call.end(JSON.stringify(body));
      });
    const ask = (i: number) => send("query", i, { query: queries[i % queries.length] });
    const texts = Array.from({ length: 500 }, () => randomText(random, 30));
    const say = (i: number) => send("facts", i, { text: texts[i % texts.length] });
    const askBare = (i: number) => bare(scopes[i % TENANTS] ?? 0, i % queries.length);
    await load(400, CONNECTIONS, ask);
    await load(200, 1, askBare);

    const rows: [string, Load][] = [
      ["bare SQL, one connection, one at a time", await load(REQUESTS / 3, 1, askBare)],
      ["HTTP, one at a time", await load(REQUESTS / 3, 1, ask)],
      [`bare SQL, one connection, ${CONNECTIONS} at a time`, await load(REQUESTS, CONNECTIONS, askBare)],
      [`HTTP, ${CONNECTIONS} at a time`, await load(REQUESTS, CONNECTIONS, ask)],
    ];
    const residentMb = await service.residentMb();
    await load(200, CONNECTIONS, say);
    const facts = await load(REQUESTS / 2, CONNECTIONS, say);
    rows.push([`facts over HTTP, ${CONNECTIONS} at a time`, facts]);
    const residentAfterFactsMb = await service.residentMb();
    await sql.end();
    agent.destroy();
    const warmEmbeddedMs = await warmEmbeddedStart();
    const [bareOne, httpOne, bareMany, httpMany] = rows.map(([, l]) => l) as [Load, Load, Load, Load];

    process.stdout.write(
      table([
        ["", "per second", "p50 ms", "p95 ms", "p99 ms"],
        ...rows.map(([name, l]) => [name, l.perSecond, l.p50, l.p95, l.p99]),
      ]),
    );
    const ratios = { oneAtATime: round(httpOne.p50 / bareOne.p50), sixteenAtATime: round(httpMany.p50 / bareMany.p50) };
    process.stdout.write(
      `\np50 ratio HTTP / bare SQL: ${ratios.oneAtATime} one at a time, ${ratios.sixteenAtATime} with ${CONNECTIONS} at a time (aim 2)\n` +
        `resident memory ${round(residentMb, 0)} MB after recalls (aim 300), ${round(residentAfterFactsMb, 0)} MB after facts; warm embedded start to the first answer ${round(warmEmbeddedMs / 1000)} s (aim 4)\n`,
    );
    return {
      requestsPerSecond: round(httpMany.perSecond),
      p50: round(httpMany.p50),
      p95: round(httpMany.p95),
      p99: round(httpMany.p99),
      factsPerSecond: round(facts.perSecond),
      factsP50: round(facts.p50),
      p50Ratio: ratios.oneAtATime,
      p50RatioSixteen: ratios.sixteenAtATime,
      residentMb: round(residentMb, 0),
      residentAfterFactsMb: round(residentAfterFactsMb, 0),
      warmEmbeddedStartMs: round(warmEmbeddedMs, 0),
    };
  } finally {
    await service.stop();
    await folder.remove();
    await database.drop();
  }
}

async function seed(service: BenchService, random: () => number): Promise<string[]> {
  // The cache would answer what is asked a second time: here every question is searched for.
  await clientOf(service.url, service.managementKey)("PATCH", "/contexts/default", { config: { cacheSeconds: 0 } });
  const keys: string[] = [];
  for (let tenant = 0; tenant < TENANTS; tenant++) {
    const key = await mintAgent(service, `tenant ${tenant}`, { org: `tenant-${tenant}` });
    const call = clientOf(service.url, key);
    for (let stored = 0; stored < PASSAGES; stored += 500) {
      const messages = Array.from({ length: 500 }, () => ({ role: "user", content: randomText(random, 30) }));
      await call("POST", "/default/facts/batch", { messages });
    }
    keys.push(key);
  }
  return keys;
}

async function scopeIds(sql: postgres.Sql): Promise<number[]> {
  const ids: number[] = [];
  for (let tenant = 0; tenant < TENANTS; tenant++) {
    const [row] = await sql`SELECT id FROM scopefloor.scope WHERE tags->>'org' = ${`tenant-${tenant}`}`;
    ids.push(row?.id as number);
  }
  return ids;
}

/** The retrieval of one query: words, vectors, then the passages, k = 10. */
async function bareRetrieval(sql: postgres.Sql, queries: readonly string[]) {
  const embeddings = new LexicalEmbeddings();
  const vectors = (await embeddings.embedDocuments([...queries])).map(
    (v) => `[${v.map((x) => +x.toFixed(6)).join(",")}]`,
  );
  return async (scope: number, query: number): Promise<void> => {
    const scopes = `{0,${scope}}`;
    const [words, near] = await Promise.all([
      sql`
        SELECT p.id, ts_rank_cd(p.words, q.q) AS score
        FROM public.plain p, (SELECT replace(plainto_tsquery('english', ${queries[query] ?? ""})::text, '&', '|')::tsquery AS q) q
        WHERE p.scope_id = ANY (${scopes}::int[]) AND p.words @@ q.q ORDER BY score DESC, p.id LIMIT 256`,
      sql`
        SELECT id, 1 - (embedding <=> ${vectors[query] ?? ""}::halfvec) AS score FROM public.plain
        WHERE scope_id = ANY (${scopes}::int[])
        ORDER BY embedding <=> ${vectors[query] ?? ""}::halfvec, id LIMIT 256`,
    ]);
    const best = [...words.slice(0, 10), ...near.slice(0, 10)].map((row) => row.id as string);
    await sql`
      SELECT p.id, p.text, d.tags, p.observed_at, t.role FROM public.plain p JOIN scopefloor.scope d ON d.id = p.scope_id
      LEFT JOIN scopefloor.turn t ON t.scope_id = p.scope_id AND t.id = p.turn_id
      WHERE p.scope_id = ANY (${scopes}::int[]) AND p.id = ANY (${`{${best.join(",")}}`}::uuid[])`;
  };
}

/** From the start of the process to its first answer, on a database that exists. */
async function warmEmbeddedStart(): Promise<number> {
  const folder = await temporaryFolder();
  const environment = { SCOPEFLOOR_DATA_DIR: folder.path };
  await (await startBuilt(environment)).stop();
  const warm = await startBuilt(environment);
  await warm.stop();
  await folder.remove();
  return warm.startMs;
}
