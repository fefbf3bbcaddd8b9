import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { enterScope } from "../../src/db/access/enter.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Block, eachEntry, NUMBERS_KEY, placeAt, SegmentBuilder } from "../../src/lexical/block.ts";
import { BYTES_A_TERM } from "../../src/lexical/packed-terms.ts";
import { rankByBm25 } from "../../src/recall/ranking/bm25.ts";
import { NO_FILTER, type PassageFilter } from "../../src/recall/ranking/filter.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";
import { readIndex } from "../harness/word-index.ts";

let service: TestService;
beforeAll(async () => {
  service = await startService({ worker: {} });
  await service.operator.call("PATCH", "/contexts/default", { config: { cacheSeconds: 0, language: "en" } });
});
afterAll(() => service.stop());

function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

/** One term each, and no stop word. */
const wordOf = (n: number) => `w${[...String(n)].map((digit) => "bcfgjkmnpt".charAt(Number(digit))).join("")}o`;
/** As words of a language are: few in nearly every text, most in a few. */
const randomWord = (random: () => number, most: number) => wordOf(Math.floor(most ** random()));

/** Okapi BM25 as written down in the literature, sharing no code with the service. */
function reference(all: readonly string[], query: readonly string[]): Map<string, number> {
  const documents = all.map((text) => text.split(" "));
  const mean = documents.reduce((sum, words) => sum + words.length, 0) / documents.length;
  const scores = new Map<string, number>();
  for (const [i, words] of documents.entries()) {
    let score = 0;
    for (const term of new Set(query)) {
      const tf = words.filter((word) => word === term).length;
      if (tf === 0) continue;
      const df = documents.filter((other) => other.includes(term)).length;
      const idf = Math.log(1 + (documents.length - df + 0.5) / (df + 0.5));
      score += (idf * tf * 2.2) / (tf + 1.2 * (0.25 + (0.75 * words.length) / mean));
    }
    if (score > 0) scores.set(all[i] ?? "", score);
  }
  return scores;
}

const ranked = (client: Client, query: string, filter: PassageFilter, limit: number, view: "strict" | "subtree") =>
  enterScope(
    service.database.app,
    { keyHash: hashSecret(client.key) as never, onBehalfOf: undefined, route: "test", operation: "test" },
    { verb: "memory:read", mode: "select", view, question: Buffer.alloc(32) },
    (tx) => rankByBm25(tx, query, filter, limit),
  );

const sql = (text: string, params: unknown[] = []) => service.database.sql(text, params);

/** Until the queue has packed what it was told to. */
async function packed(least: number): Promise<void> {
  for (let waited = 0; waited < 400; waited++) {
    const [row] = await sql(
      "SELECT (SELECT count(*)::int FROM scopefloor.segment) AS n, (SELECT count(*)::int FROM scopefloor.job WHERE kind = 'index') AS jobs",
    );
    if ((row?.n as number) >= least && row?.jobs === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("nothing was packed");
}

describe("the packed index", () => {
  test("ranks like plain BM25 to 1e-9: segments, tails, scopes, general knowledge, filters, deletions", {
    tags: ["long"],
  }, async () => {
    const random = seeded(11);
    const client = await service.mint("agent", { org: "packed" });
    const texts: { text: string; label: string; scope: string }[] = [];
    const say = async (scope: string, n: number) => {
      for (let from = 0; from < n; from += 200) {
        const label = `half=${random() < 0.5 ? 0 : 1}`;
        const messages = Array.from({ length: Math.min(200, n - from) }, () => ({
          role: "user",
          content: `${Array.from({ length: 3 + Math.floor(20 * random()) }, () => randomWord(random, 400)).join(" ")} only${wordOf(texts.length)}${Math.floor(
            1e6 * random(),
          )
            .toString(36)
            .replace(/[0-9]/g, "b")}o`,
        }));
        texts.push(...messages.map(({ content }) => ({ text: content, label, scope })));
        expect((await client.post("/facts/batch", { scopes: scope, messages, labels: [label] })).status).toBe(200);
      }
    };
    await say("org/packed", 1_000);
    await packed(1);
    await say("org/packed", 150);
    await say("org/packed/user/ann", 600);
    await packed(2);
    await say("org/packed/user/bob", 30);
    const general = `${wordOf(1)} ${wordOf(2)} general`;
    expect((await service.operator.post("/facts", { text: general, scopes: {} })).status).toBe(200);

    const check = async (view: "strict" | "subtree") => {
      const visible = [
        ...texts.filter(({ scope }) => view === "subtree" || scope === "org/packed"),
        { text: general, label: "", scope: "{}" },
      ];
      for (let n = 0; n < 12; n++) {
        const query = Array.from({ length: 1 + Math.floor(5 * random()) }, () => randomWord(random, 400));
        const filter = n % 3 === 2 ? { ...NO_FILTER, labels: ["half=1"] } : NO_FILTER;
        const limit = [1, 10, 50, 5_000][n % 4] ?? 10;
        const scores = reference(
          visible.map(({ text }) => text),
          query,
        );
        const allowed = visible.filter(({ text, label }) => scores.has(text) && (n % 3 !== 2 || label === "half=1"));
        const best = allowed.map(({ text }) => scores.get(text) ?? 0).sort((a, b) => b - a);
        const found = await ranked(client, query.join(" "), filter, limit, view);
        expect(found.length).toBe(Math.min(limit, allowed.length));
        for (const [i, { score }] of found.entries()) expect(Math.abs(score - (best[i] ?? 0))).toBeLessThan(1e-9);
        const named = await sql(
          "SELECT id, text FROM scopefloor.passage WHERE id = ANY (string_to_array($1, ',')::uuid[])",
          [found.map(({ id }) => id).join(",")],
        );
        const texted = new Map(named.map(({ id, text }) => [id, text as string]));
        for (const { id, score } of found)
          expect(Math.abs(score - (scores.get(texted.get(id) ?? "") ?? 0))).toBeLessThan(1e-9);
      }
    };
    await check("strict");
    await check("subtree");
    // Each text has a word of its own: so a topic is one passage.
    for (const i of [0, 7, 500, 999, 1_120]) {
      const gone = texts[i]?.text ?? "";
      const answer = await client.post<{ deleted: number }>("/forget", {
        query: gone.split(" ").at(-1),
        purge: i % 2 === 0,
      });
      expect(answer.body.deleted, gone).toBe(1);
      texts[i] = { text: "", label: "", scope: "gone" };
    }
    const left = texts.filter(({ scope }) => scope !== "gone");
    texts.splice(0, texts.length, ...left);
    await check("strict");
    await check("subtree");
    const index = await readIndex(sql);
    expect(index.ofBlocks.length).toBeGreaterThan(10_000);
    expect(index.ofBlocks).toEqual(index.ofPassages);
  });

  test("has no hash of one scope in another, neither of another tenant nor of the same", async () => {
    const text = "pelicans nest beside the lighthouse";
    const scopes = [{ org: "hash-a" }, { org: "hash-b" }, { org: "hash-a", user: "u" }];
    for (const scope of scopes) await (await service.mint("agent", scope)).remember(text);
    const rows = await sql("SELECT terms FROM scopefloor.passage WHERE text = $1", [text]);
    expect(rows).toHaveLength(3);
    const hashes = rows.map(({ terms }) => {
      const bytes = Buffer.from(terms as Uint8Array);
      const n = bytes.length / BYTES_A_TERM;
      return new Set(Array.from({ length: n }, (_, i) => bytes.subarray(6 * i, 6 * i + 6).toString("hex")));
    });
    expect(hashes[0]?.size).toBeGreaterThan(5);
    expect(new Set(hashes.flatMap((set) => [...set])).size).toBe(hashes.reduce((sum, { size }) => sum + size, 0));
  });

  test("takes postings out of blocks as the service would have packed them without", async () => {
    const random = seeded(5);
    const passage = (seq: number) => {
      const hashes = [...new Set(Array.from({ length: 12 }, () => Math.floor(500 ** random())))].sort((a, b) => a - b);
      const terms = Buffer.alloc(hashes.length * BYTES_A_TERM);
      for (const [i, hash] of hashes.entries()) {
        terms.writeUIntBE(hash * 1_000_003, i * 6, 6);
        terms[hashes.length * 6 + i] = 1 + Math.floor(3 * random());
      }
      return { seq, length: 12, terms };
    };
    const passages = Array.from({ length: 700 }, (_, i) => passage(i + 1));
    const pack = (some: typeof passages) => {
      const builder = new SegmentBuilder();
      for (const one of some) builder.add(one);
      return builder.pack();
    };
    const postings = (blocks: Block[]) => {
      const lines: string[] = [];
      for (const { key, data } of blocks)
        if (key !== NUMBERS_KEY)
          eachEntry(data, (hash, n, at) => {
            for (let i = 0; i < n; i++) lines.push(`${hash} ${placeAt(data, at, i)}`);
          });
      return lines.sort();
    };
    const { blocks } = await pack(passages);
    const gone = [0, 3, 255, 256, 257, 699];
    const without: Block[] = [];
    for (const block of blocks) {
      if (block.key === NUMBERS_KEY) continue;
      let { data } = block;
      const entries: (readonly [number, number[]])[] = [];
      eachEntry(data, (hash, n, at) => {
        const places = Array.from({ length: n }, (_, i) => placeAt(data, at, i)).filter((place) =>
          gone.includes(place),
        );
        if (places.length > 0) entries.push([hash, places]);
      });
      for (const [hash, places] of entries) {
        const bytes = Buffer.alloc(6);
        bytes.writeUIntBE(hash, 0, 6);
        const [row] = await sql(
          "SELECT encode(scopefloor.without_postings(decode($1, 'hex'), decode($2, 'hex'), string_to_array($3, ',')::int[]), 'hex') AS data",
          [data.toString("hex"), bytes.toString("hex"), places.join(",")],
        );
        data = Buffer.from(row?.data as string, "hex");
      }
      without.push({ ...block, data });
    }
    const expected = postings(blocks).filter((line) => !gone.includes(Number(line.split(" ")[1])));
    expect(postings(without)).toEqual(expected);
    expect(expected.length).toBeLessThan(postings(blocks).length);
  });

  test("no posting of a forgotten passage comes back, whatever is packed or put together beside the forget", async () => {
    const random = seeded(9);
    const clients = await Promise.all([0, 1].map((i) => service.mint("agent", { org: `race-${i}` })));
    const own = (i: number) => `only${wordOf(i)}${wordOf(7 * i)}`;
    let said = 0;
    for (let round = 0; round < 8; round++) {
      await Promise.all(
        clients.map(async (client) => {
          const first = said;
          said += 130;
          const messages = Array.from({ length: 130 }, (_, i) => ({
            role: "user",
            content: `${randomWord(random, 300)} ${randomWord(random, 300)} ${own(first + i)}`,
          }));
          const stored = await client.post("/facts/batch", { messages });
          expect(stored.status, stored.text).toBe(200);
          const forgotten = await Promise.all(
            [3, 60, 100].map((i, n) => client.post("/forget", { query: own(first + i), purge: n > 0 })),
          );
          for (const answer of forgotten) expect(answer.status, answer.text).toBe(200);
        }),
      );
    }
    await packed(3);
    const index = await readIndex(sql);
    expect(index.ofBlocks).toEqual(index.ofPassages);
    expect(index.segments).toBeGreaterThan(2);
  });

  test("an erased scope leaves nothing of it in the index", async () => {
    const client = await service.mint("agent", { org: "packed" });
    const [scope] = await sql(`SELECT id FROM scopefloor.scope WHERE tags = '{"org":"packed"}'`);
    const answer = await client.post("/scopes/forget", { path: "org/packed", confirm: "org/packed" });
    expect(answer.status, answer.text).toBe(200);
    const [left] = await sql(
      `SELECT (SELECT count(*)::int FROM scopefloor.segment WHERE scope_id = $1) AS segments, (SELECT count(*)::int FROM scopefloor.posting_block WHERE scope_id = $1) AS blocks,
              (SELECT count(*)::int FROM scopefloor.passage WHERE scope_id = $1) AS passages`,
      [scope?.id],
    );
    expect(left).toEqual({ segments: 0, blocks: 0, passages: 0 });
  });
});
