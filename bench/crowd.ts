/** Other tenants' rows, written by the database itself: passages of random words with their postings and vectors. */
import type postgres from "postgres";
import { clusteredVectors, vectorText } from "./store.ts";
import { seeded } from "./text.ts";

export interface Crowd {
  readonly orgs: number;
  /** Users of each org, with a scope of their own; 0: the org's scope alone. */
  readonly users: number;
  /** In each scope. */
  readonly passages: number;
  /** In each passage, with repetitions. */
  readonly words: number;
  /** Of the orgs' names: `<prefix>-0` and on. */
  readonly prefix: string;
}

/** Adds a crowd; the counters are as the triggers would have left them. */
export async function addCrowd(sql: postgres.Sql, { orgs, users, passages, words, prefix }: Crowd): Promise<void> {
  await sql`CREATE TABLE IF NOT EXISTS public.bench_vector (i int PRIMARY KEY, embedding halfvec)`;
  const next = clusteredVectors(seeded(11), 384, 100);
  const [known] = await sql`SELECT count(*)::int AS n FROM public.bench_vector`;
  for (let i = (known?.n as number) ?? 0; i < 997; i++) {
    await sql`INSERT INTO public.bench_vector VALUES (${i}, ${vectorText(next())}::text::halfvec)`;
  }
  await sql`SET session_replication_role = replica`;
  await sql`
    INSERT INTO scopefloor.tenant (root) SELECT jsonb_build_object('org', ${prefix}::text || '-' || o) FROM generate_series(0, ${orgs}::int - 1) o`;
  await sql`
    INSERT INTO scopefloor.scope (tenant_id, tags) SELECT id, root FROM scopefloor.tenant WHERE starts_with(root->>'org', ${`${prefix}-`})`;
  await sql`
    INSERT INTO scopefloor.scope (tenant_id, tags)
    SELECT id, root || jsonb_build_object('user', 'user-' || u)
    FROM scopefloor.tenant, generate_series(0, ${users}::int - 1) u WHERE starts_with(root->>'org', ${`${prefix}-`})`;
  const [model] = await sql`SELECT id FROM scopefloor.embedder WHERE name = 'lexical-hash-384'`;
  const embedder = model?.id as number;
  await sql`
    CREATE TEMP TABLE staged AS
    SELECT s.tenant_id, s.id AS scope_id, gen_random_uuid() AS id, w.words, (random() * 996)::int AS v
    FROM scopefloor.scope s, generate_series(1, ${passages}::int) n,
      LATERAL (SELECT array_agg('w' || floor(4000 ^ random())::int) AS words FROM generate_series(1, ${words}::int) k WHERE n > 0 AND s.id > 0) w
    WHERE starts_with(s.tags->>'org', ${`${prefix}-`}) AND ((s.tags ? 'user') = (${users}::int > 0))`;
  await sql`
    INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, api_key_id, text, tokens, lexemes, embedder_id, embedding, observed_at)
    SELECT t.tenant_id, t.scope_id, t.id, 'turn', gen_random_uuid(), array_to_string(t.words, ' '), cardinality(t.words), cardinality(t.words), ${embedder}::int, v.embedding, now()
    FROM staged t JOIN public.bench_vector v ON v.i = t.v`;
  await sql`
    INSERT INTO scopefloor.posting (tenant_id, scope_id, lexeme, passage_id, tf, lexemes)
    SELECT t.tenant_id, t.scope_id, w, t.id, count(*), cardinality(t.words) FROM staged t, unnest(t.words) w GROUP BY t.tenant_id, t.scope_id, t.id, w, t.words`;
  await sql`
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, ${embedder}::int, count(*), sum(cardinality(words)), sum(cardinality(words)), 0 FROM staged GROUP BY 1, 2`;
  await sql`DROP TABLE staged`;
  await sql`SET session_replication_role = origin`;
  await sql`VACUUM ANALYZE`;
}

/** Words of a crowd, as a query. */
export const crowdQuery = (random: () => number, words: number) =>
  Array.from({ length: words }, () => `w${Math.floor(4_000 ** random())}`).join(" ");
