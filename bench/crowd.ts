/** Other tenants' rows, written by the database itself: passages of random words with their postings and vectors. */
import type postgres from "postgres";
import { MOST_PASSAGES, SegmentBuilder } from "../src/lexical/block.ts";
import { packTerms } from "../src/lexical/packed-terms.ts";
import { ANALYSER, Analyser } from "../src/text/analysis/analyse.ts";
import { termKey } from "../src/text/analysis/term-hash.ts";
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
      LATERAL (SELECT array_agg('w' || translate(floor(4000 ^ random())::int::text, '0123456789', ${LETTERS}) || 'o') AS words
               FROM generate_series(1, ${words}::int) k WHERE n > 0 AND s.id > 0) w
    WHERE starts_with(s.tags->>'org', ${`${prefix}-`}) AND ((s.tags ? 'user') = (${users}::int > 0))`;
  // Of about the size of the true terms, which nobody asks for: see indexCrowd.
  await sql`
    INSERT INTO scopefloor.passage (tenant_id, scope_id, id, kind, api_key_id, text, tokens, terms, lexemes, languages, analyser, embedder_id, embedding, observed_at)
    SELECT t.tenant_id, t.scope_id, t.id, 'turn', gen_random_uuid(), array_to_string(t.words, ' '), cardinality(t.words),
           decode(substring(repeat(md5(t.id::text), cardinality(t.words)) FROM 1 FOR 14 * cardinality(t.words)), 'hex'),
           cardinality(t.words), 'en', ${ANALYSER}::smallint, ${embedder}::int, v.embedding, now()
    FROM staged t JOIN public.bench_vector v ON v.i = t.v`;
  await sql`
    INSERT INTO scopefloor.scope_counter (tenant_id, scope_id, embedder_id, languages, passages, tokens, lexemes, bytes)
    SELECT tenant_id, scope_id, ${embedder}::int, 'en', count(*), sum(cardinality(words)), sum(cardinality(words)), 0 FROM staged GROUP BY 1, 2`;
  await sql`DROP TABLE staged`;
  await sql`SET session_replication_role = origin`;
  await sql`VACUUM ANALYZE`;
}

/** Digits as letters, so that a word is one term. */
const LETTERS = "bcfgjkmnpt";
const wordOf = (number: number) => `w${[...String(number)].map((digit) => LETTERS.charAt(Number(digit))).join("")}o`;

/** A list as one bound value. */
const literal = (values: readonly (string | number)[]) => `{${values.join(",")}}`;

/** Words of a crowd, as a query. */
export const crowdQuery = (random: () => number, words: number) =>
  Array.from({ length: words }, () => wordOf(Math.floor(4_000 ** random()))).join(" ");

/**
 * Gives the passages of one org their true terms, and packs them as the worker does in the end: segments
 * of as many as there may be, and what is left of a scope below `tail` stays its tail.
 */
export async function indexCrowd(sql: postgres.Sql, org: string, tail: number): Promise<void> {
  await sql`SET session_replication_role = replica`;
  const scopes = await sql`
    SELECT s.id, s.tenant_id, encode(scopefloor.term_key(t.secret, s.id), 'hex') AS key
    FROM scopefloor.scope s JOIN scopefloor.tenant t ON t.id = s.tenant_id WHERE s.tags->>'org' = ${org}`;
  for (const scope of scopes) {
    const key = termKey(Buffer.from(scope.key as string, "hex"));
    const analyser = new Analyser("en");
    const rows =
      await sql`SELECT id, seq::float8 AS seq, text FROM scopefloor.passage WHERE scope_id = ${scope.id as number} ORDER BY seq`;
    const passages = rows.map((row) => {
      const analysis = analyser.text(row.text as string);
      return { id: row.id as string, seq: row.seq as number, length: analysis.length, terms: packTerms(analysis, key) };
    });
    for (let from = 0; from < passages.length; from += 2_000) {
      const some = passages.slice(from, from + 2_000);
      await sql`
        UPDATE scopefloor.passage p SET terms = decode(t.terms, 'hex') FROM unnest(${literal(some.map(({ id }) => id))}::uuid[], ${literal(some.map(({ terms }) => terms.toString("hex")))}::text[]) AS t(id, terms)
        WHERE p.scope_id = ${scope.id as number} AND p.id = t.id`;
    }
    for (let from = 0; passages.length - from >= tail; from += MOST_PASSAGES) {
      const some = passages.slice(from, from + MOST_PASSAGES);
      const builder = new SegmentBuilder();
      for (const passage of some) builder.add(passage);
      const { bits, places, blocks } = await builder.pack();
      const [segment] = await sql`
        INSERT INTO scopefloor.segment (tenant_id, scope_id, first_seq, last_seq, passages, places, bits)
        VALUES (${scope.tenant_id as number}, ${scope.id as number}, ${some[0]?.seq ?? 0}, ${some.at(-1)?.seq ?? 0}, ${some.length}, ${places}, ${bits}) RETURNING id`;
      for (let at = 0; at < blocks.length; at += 500) {
        const part = blocks.slice(at, at + 500);
        await sql`
          INSERT INTO scopefloor.posting_block (tenant_id, scope_id, segment_id, key, first, data)
          SELECT ${scope.tenant_id as number}, ${scope.id as number}, ${segment?.id as string}, b.key, b.first, decode(b.data, 'hex')
          FROM unnest(${literal(part.map(({ key: number }) => number))}::text[]::bigint[], ${literal(part.map(({ first }) => first))}::text[]::int[],
                      ${literal(part.map(({ data }) => data.toString("hex")))}::text[]) AS b(key, first, data)`;
      }
    }
  }
  await sql`SET session_replication_role = origin`;
  await sql`VACUUM ANALYZE scopefloor.passage, scopefloor.segment, scopefloor.posting_block`;
}
