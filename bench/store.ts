/**
 * A migrated database with rows written straight into its tables: what a bench needs a million of. The
 * reading goes through the product's own entering, locks and planner.
 */
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import postgres from "postgres";
import { enterScope } from "../src/db/access/enter.ts";
import type { KeyHash } from "../src/db/access/entry.ts";
import type { ScopedTransaction } from "../src/db/access/scoped.ts";
import type { Database } from "../src/db/connect/lease.ts";
import { openPostgres } from "../src/db/connect/open.ts";
import { ensureFirstKey } from "../src/keys/first-key.ts";
import { hashSecret } from "../src/keys/secret.ts";
import { createLog } from "../src/log.ts";
import { parseScope } from "../src/scope/scope.ts";
import { prepareDatabase } from "../src/service.ts";
import { benchDatabase } from "./service.ts";

export interface BenchStore {
  readonly database: Database;
  readonly url: string;
  /** As the owner, one connection. */
  readonly sql: postgres.Sql;
  /** The id of `{org: name}`. */
  scope(name: string): Promise<number>;
  /** A model of vectors of so many dimensions, by its id. */
  embedder(dimensions: number): Promise<number>;
  write(rows: Iterable<BenchRow>): Promise<void>;
  /** Reads as the operator would with the selector `{org: name}`: under both locks. */
  read<T>(name: string, work: (tx: ScopedTransaction) => Promise<T>, view?: "strict" | "subtree"): Promise<T>;
  /** Writes at `{org: name}`, as the operator. */
  store<T>(name: string, work: (tx: ScopedTransaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export interface BenchRow {
  readonly scopeId: number;
  readonly embedderId: number;
  readonly vector: Float32Array;
}

export async function benchStore(): Promise<BenchStore> {
  const made = await benchDatabase();
  const database = openPostgres({ app: made.url, connections: 4, timeoutMs: 600_000 });
  const log = createLog("warn");
  await prepareDatabase(database, { context: "default", mayMigrate: true, log });
  const secret = randomBytes(32).toString("hex");
  await ensureFirstKey(database, { configured: secret, dataDir: "" });
  const caller = { keyHash: hashSecret(secret) as KeyHash, onBehalfOf: undefined, route: "bench", operation: "bench" };
  const sql = postgres(made.url, { max: 1, fetch_types: false, onnotice: () => undefined });
  return {
    database,
    url: made.url,
    sql,
    scope: async (name) => {
      const [row] = await sql`
        WITH made AS (INSERT INTO scopefloor.tenant (root) VALUES (${sql.json({ org: name })}) RETURNING id, root)
        INSERT INTO scopefloor.scope (tenant_id, tags) SELECT id, root FROM made RETURNING id`;
      return row?.id as number;
    },
    embedder: async (dimensions) => {
      const [row] = await sql`
        SELECT scopefloor.ensure_embedder(${`bench:${dimensions}`}, ${dimensions}) AS id`;
      return row?.id as number;
    },
    write: (rows) => copyPassages(sql, rows),
    read: (name, work, view = "strict") =>
      enterScope(
        database.app,
        caller,
        {
          verb: "memory:read",
          mode: "select",
          view,
          selector: [{ tags: parseScope({ org: name }), subtree: false }],
          question: createHash("sha256").update("bench").digest(),
        },
        work,
      ),
    store: (name, work) =>
      enterScope(
        database.app,
        caller,
        { verb: "memory:write", mode: "write", selector: [{ tags: parseScope({ org: name }), subtree: false }] },
        work,
      ),
    close: async () => {
      await sql.end();
      await database.close();
      await made.drop();
    },
  };
}

/** COPY in binary form, without triggers; codes and counters are as the triggers would have left them. */
async function copyPassages(sql: postgres.Sql, rows: Iterable<BenchRow>): Promise<void> {
  await sql`SET session_replication_role = replica`;
  const scopes = await sql`SELECT id, tenant_id FROM scopefloor.scope`;
  const tenants = new Map(scopes.map((row) => [row.id as number, row.tenant_id as number]));
  const stream = await sql`
    COPY scopefloor.passage (tenant_id, scope_id, id, kind, api_key_id, text, tokens, lexemes, embedder_id, embedding, code, observed_at)
    FROM STDIN (FORMAT binary)`.writable();
  const header = Buffer.alloc(19);
  header.write("PGCOPY\n\xff\r\n\0", "latin1");
  stream.write(header);
  let n = 0;
  let parts: Buffer[] = [];
  for (const row of rows) {
    parts.push(tuple(row, tenants.get(row.scopeId) ?? 0, n++));
    if (parts.length < 500) continue;
    if (!stream.write(Buffer.concat(parts))) await once(stream, "drain");
    parts = [];
  }
  stream.end(Buffer.concat([...parts, Buffer.from([0xff, 0xff])]));
  await once(stream, "finish");
  await sql`SET session_replication_role = origin`;
  await sql`DELETE FROM scopefloor.scope_counter`;
  await sql`
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, embedder_id, count(*), sum(tokens), sum(lexemes), sum(octet_length(text)) FROM scopefloor.passage GROUP BY 1, 2, 3`;
}

const KEY = Buffer.alloc(16, 7);

function tuple({ scopeId, embedderId, vector }: BenchRow, tenantId: number, n: number): Buffer {
  const fields: Buffer[] = [
    int4(tenantId),
    int4(scopeId),
    randomBytes(16),
    Buffer.from("turn"),
    KEY,
    Buffer.from(`passage ${n}`),
    int4(8),
    int4(8),
    int4(embedderId),
    halfvec(vector),
    signs(vector),
    Buffer.alloc(8),
  ];
  const size = 2 + fields.reduce((sum, field) => sum + 4 + field.length, 0);
  const out = Buffer.allocUnsafe(size);
  let at = out.writeInt16BE(fields.length, 0);
  for (const field of fields) {
    at = out.writeInt32BE(field.length, at);
    at += field.copy(out, at);
  }
  return out;
}

function int4(value: number): Buffer {
  const out = Buffer.allocUnsafe(4);
  out.writeInt32BE(value);
  return out;
}

/** pgvector's binary form: dimensions, two unused bytes, IEEE halves. */
function halfvec(vector: Float32Array): Buffer {
  const out = Buffer.allocUnsafe(4 + vector.length * 2);
  out.writeUInt16BE(vector.length, 0);
  out.writeUInt16BE(0, 2);
  const bits = new Uint32Array(vector.buffer, vector.byteOffset, vector.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i] ?? 0;
    const exponent = ((x >>> 23) & 0xff) - 112;
    const half = exponent <= 0 ? 0 : (exponent << 10) | ((x >>> 13) & 0x3ff);
    out.writeUInt16BE(((x >>> 16) & 0x8000) | half, 4 + i * 2);
  }
  return out;
}

/** PostgreSQL's binary form of bits: their number, then the bits, the first one highest. */
function signs(vector: Float32Array): Buffer {
  const out = Buffer.alloc(4 + Math.ceil(vector.length / 8));
  out.writeInt32BE(vector.length, 0);
  for (const [i, x] of vector.entries()) if (x > 0) out[4 + (i >> 3)] = (out[4 + (i >> 3)] ?? 0) | (0x80 >> (i & 7));
  return out;
}

/** Unit vectors around so many centres, as texts on so many subjects have. */
export function clusteredVectors(random: () => number, dimensions: number, clusters: number): () => Float32Array {
  const gaussian = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const pool = (n: number) => Array.from({ length: n }, () => Float32Array.from({ length: dimensions }, gaussian));
  const centres = pool(clusters);
  const noise = pool(512);
  const pick = (from: readonly Float32Array[]) => from[Math.floor(random() * from.length)] as Float32Array;
  return () => {
    const [centre, a, b] = [pick(centres), pick(noise), pick(noise)];
    const [share, other] = [0.4 + 0.4 * random(), 0.4 + 0.4 * random()];
    const vector = new Float32Array(dimensions);
    let norm = 0;
    for (let i = 0; i < dimensions; i++) {
      const x = (centre[i] ?? 0) + share * (a[i] ?? 0) + other * (b[i] ?? 0);
      vector[i] = x;
      norm += x * x;
    }
    const length = Math.sqrt(norm);
    for (let i = 0; i < dimensions; i++) vector[i] = (vector[i] ?? 0) / length;
    return vector;
  };
}

export const vectorText = (vector: Float32Array) => `[${Array.from(vector, (x) => +x.toFixed(5)).join(",")}]`;

/** Milliseconds that each call takes, one at a time, after a few that are not counted. */
export async function timeEach(times: number, work: (i: number) => Promise<unknown>): Promise<number[]> {
  for (let i = 0; i < Math.min(10, times); i++) await work(i);
  const taken: number[] = [];
  for (let i = 0; i < times; i++) {
    const began = performance.now();
    await work(i);
    taken.push(performance.now() - began);
  }
  return taken;
}
