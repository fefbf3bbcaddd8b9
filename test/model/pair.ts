/**
 * Noninterference: a tenant's script is run in two worlds that differ in everybody else, and every
 * answer that it gets must be the same, byte for byte, but for ids, times and durations.
 */
import type { Client, TestService } from "../harness/service.ts";
import { Random } from "./random.ts";

/** Requests of one tenant's script. */
export const STEPS = 14;
const WORDS = "harbour ledger quarry orchard foundry lantern vineyard granite copper meadow signal barrel".split(" ");
const NEAR_MISSES = ["", "0", "-corp", ".", "a"];
const LISTS = [
  "/me",
  "/keys",
  "/sessions",
  "/documents",
  "/documents/keywords",
  "/entities",
  "/memory",
  "/memories",
  "/memories?limit=3&source=memory_chunk",
  "/profile",
  "/state",
  "/scopes",
  "/traces",
  "/traces/stats",
  "/audit",
  "/usage",
  "/principals",
];

const sentence = (random: Random) => Array.from({ length: 3 + random.below(6) }, () => random.pick(WORDS)).join(" ");

/** Answers with what may differ taken out: ids by their order of appearance, times, durations. */
export class Normaliser {
  readonly #ids = new Map<string, string>();

  text(answer: string): string {
    return (
      answer
        .replace(/sf_(agent|mgmt|sup)_\w+/g, "<secret>")
        .replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, (id) => {
          const name = this.#ids.get(id) ?? `<id ${this.#ids.size}>`;
          this.#ids.set(id, name);
          return name;
        })
        .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, "<time>")
        // Noted a while after the use, by the clock: whether it is there yet is a time too.
        .replaceAll('"lastUsedAt":null', '"lastUsedAt":"<time>"')
        .replace(/"(\w*(Ms|Latency|latency\w*|ms))":[\d.]+/g, '"$1":0')
        // A time and an id.
        .replace(/"nextCursor":"[^"]*"/g, '"nextCursor":"<cursor>"')
        .replace(/"requestId":"[^"]*"/g, "")
    );
  }
}

/** One world: the service, its operator, and everybody who is not the tenant that is looked at. */
export interface World {
  readonly service: TestService;
  /** What the others do; each world has its own seed. */
  readonly others: Random;
  /** Requests of others beside each of the tenant's. */
  readonly traffic: number;
}

/**
 * Runs one tenant's script in both worlds; throws at the first answer that differs.
 *
 * @param uploads whether files are uploaded too, and often: each is a process for its parser
 */
export async function runPair(seed: number, worlds: readonly [World, World], uploads: boolean): Promise<number> {
  const name = `t${seed}`;
  const players = await Promise.all(
    worlds.map(async (world) => ({
      world,
      client: await mintAt(world.service, `${name} agent`, { org: name }),
      rival: await mintAt(world.service, `${name} rival`, { org: `${name}${world.others.pick(NEAR_MISSES)}x` }),
      normaliser: new Normaliser(),
      memory: { texts: [] as string[], sessions: [] as string[], documents: [] as string[] },
    })),
  );
  // Rules of its own that it runs into, and of the others', who do as well.
  const rules = seed % 4;
  for (const { world, client, rival } of players) {
    if (rules === 0) continue;
    const { floor } = (await floorsOf(client)) as { floor: object };
    const rivals = (await floorsOf(rival)) as { floor: object };
    for (const scope of [floor, rivals.floor])
      await setRules(world.service, scope, rules, scope === floor ? new Random(seed) : world.others);
    if (rules === 3)
      await put(world.service, "settings", rivals.floor, {
        embeddings: "openai:scripted",
        credentials: { openai: "sk-of-another" },
      });
  }
  for (let step = 0; step < STEPS; step++) {
    const answers = await Promise.all(
      players.map(async ({ world, client, rival, normaliser, memory }) => {
        // The same choices in both worlds: a stream of this step's own.
        const random = new Random(seed * 1_000 + step);
        const beside = Array.from({ length: world.traffic }, () => disturb(world.others, rival, memory.texts, uploads));
        const answer = await act(random, client, memory, uploads, world.service.operator);
        await Promise.all(beside);
        return normaliser.text(answer);
      }),
    );
    if (answers[0] !== answers[1]) {
      throw new Error(`pair ${seed}, step ${step}: the others made a difference\n${answers.join("\n")}`);
    }
  }
  return STEPS;
}

async function mintAt(service: TestService, name: string, scopeFloor: object): Promise<Client> {
  const { status, body, text } = await service.operator.post<{ id: string; key: string }>("/contexts/default/keys", {
    name,
    principal: "agent",
    scopeFloor,
  });
  if (status !== 201) throw new Error(text);
  return service.client(body.key, body.id);
}

const floorsOf = async (client: Client) => ({
  floor: (await client.get<{ scopeFloor: object }>("/me")).body.scopeFloor,
});

async function put(service: TestService, path: string, scope: object, body: object): Promise<void> {
  const { status, text } = await service.operator.call("PUT", `/contexts/default/${path}`, { scope, ...body });
  if (status !== 200) throw new Error(text);
}

/** A hard budget that a few requests use up, limits of what is kept, or a hold and settings. */
async function setRules(service: TestService, scope: object, rules: number, random: Random): Promise<void> {
  // No tokens at all: with some, when a job finds room for a text of its batch is a matter of time.
  if (rules === 1) await put(service, "budgets", scope, { period: "total", tokenLimit: 0, requestLimit: 12 });
  else if (rules === 2) await put(service, "limits", scope, { storageBytes: 200, sessions: 5, scopes: 2 });
  else {
    await put(service, "holds", scope, { subject: random.pick(WORDS), reason: "a case" });
    const settings = { language: random.pick(["auto", "en", "de"]), cacheSeconds: random.pick([0, 60]) };
    // Room for all there is: a block names ids, and how many tokens an id has differs between the worlds.
    await put(service, "settings", scope, {
      ...settings,
      contextTokens: 4_000 + random.below(400),
      chunkTokens: 50 + random.below(200),
    });
    await put(service, "retention", scope, { olderThan: "P9Y", action: "erase" });
  }
}

interface Memory {
  readonly texts: string[];
  readonly sessions: string[];
  readonly documents: string[];
}

/**
 * The document once its text is stored; its vectors may wait for a budget. Asked for by the operator: how often one
 * looks counts against no budget of the tenant's.
 */
async function stored(operator: Client, id: string): Promise<object> {
  for (const until = performance.now() + 60_000; performance.now() < until; ) {
    const { status, body } = await operator.get<{ status: string }>(`/documents/${id}`);
    if (status === 200 && ["ready", "failed", "embedding"].includes(body.status)) return body;
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  throw new Error("the document was not stored within a minute");
}

/** One request of the tenant that is looked at; gives the whole answer as text. */
async function act(
  random: Random,
  client: Client,
  memory: Memory,
  uploads: boolean,
  operator: Client,
): Promise<string> {
  const text = sentence(random);
  const asked = random.chance(0.4) ? { scopes: { user: random.pick(["1", "10"]) } } : {};
  const told = async (answer: Promise<{ status: number; text: string }>) => {
    const { status, text: body } = await answer;
    return `${status} ${body}`;
  };
  return random.weighted([
    {
      weight: 6,
      value: async () => {
        memory.texts.push(text);
        return told(client.post("/facts", { text, ...asked, labels: [`kind=${random.pick(WORDS)}`] }));
      },
    },
    {
      weight: 2,
      value: () =>
        told(
          client.post("/facts/batch", {
            messages: [text, `${text} again`].map((content) => ({ role: "user", content })),
            ...asked,
          }),
        ),
    },
    {
      weight: 1,
      value: () =>
        told(
          client.post("/facts", {
            infer: "triples",
            triples: [{ entity: { type: "Thing", name: random.pick(WORDS) }, key: "note", value: text }],
            ...asked,
          }),
        ),
    },
    {
      weight: 1,
      value: () =>
        told(
          client.call("PUT", `/memory/${random.pick(WORDS)}`, {
            value: text,
            index: random.chance(0.5) ? ["$"] : false,
            ...asked,
          }),
        ),
    },
    {
      weight: uploads ? 5 : 0,
      value: async () => {
        const { status, body, text: answer } = await client.upload(text, "note.txt", { title: random.pick(WORDS) });
        const done = status === 202 ? await stored(operator, body.id) : {};
        return `${status} ${answer} ${JSON.stringify(done)}`;
      },
    },
    {
      weight: 8,
      value: () =>
        told(
          client.post("/query", {
            query: text,
            mode: random.pick(["hybrid", "vector", "bm25"]),
            scopeView: random.pick(["strict", "subtree"]),
            k: 1 + random.below(50),
            includeDuplicates: random.chance(0.5),
          }),
        ),
    },
    { weight: 1, value: () => told(client.post("/context", { query: text })) },
    {
      weight: 1,
      value: () => told(client.post("/documents/query", { query: text, mode: random.pick(["hybrid", "bm25"]) })),
    },
    { weight: 6, value: () => told(client.get(random.pick(LISTS))) },
    { weight: 1, value: () => told(client.post("/forget", { query: text, dryRun: random.chance(0.5) })) },
    {
      weight: 1,
      value: () =>
        told(
          client.post("/forget", {
            ...(random.chance(0.5) ? { subject: random.pick(WORDS) } : { labels: [`kind=${random.pick(WORDS)}`] }),
            dryRun: random.chance(0.5),
            purge: random.chance(0.5),
          }),
        ),
    },
    { weight: 2, value: () => changeOne(random, client, text, told) },
    { weight: 0.3, value: () => told(client.eraseFloor()) },
  ])();
}

/** Corrects, relabels or deletes the newest memory. */
async function changeOne(
  random: Random,
  client: Client,
  text: string,
  told: (answer: Promise<{ status: number; text: string }>) => Promise<string>,
): Promise<string> {
  const { body } = await client.get<{ memories?: { id: string; source: string }[] }>("/memories?limit=1");
  const [newest] = body.memories ?? [];
  const path = `/memories/${newest?.id ?? "01900000-0000-7000-8000-000000000000"}`;
  const change = random.chance(0.5)
    ? { text, keepHistory: random.chance(0.5) }
    : { labels: [`kind=${text.slice(0, 4)}`] };
  return random.chance(0.3) ? told(client.del(path)) : told(client.call("PATCH", path, change));
}

/** One request of somebody else: alike in every way but the scope. */
async function disturb(random: Random, rival: Client, texts: readonly string[], uploads: boolean): Promise<void> {
  // What the tenant itself has said, often: a copy must make no difference either.
  const text = texts.length > 0 && random.chance(0.5) ? random.pick(texts) : sentence(random);
  await random.weighted<() => Promise<unknown>>([
    { weight: 4, value: () => rival.post("/facts", { text }) },
    {
      weight: 2,
      value: () =>
        rival.post("/facts/batch", {
          messages: Array.from({ length: 8 }, () => ({ role: "user", content: sentence(random) })),
        }),
    },
    { weight: 3, value: () => rival.post("/query", { query: text, k: 50 }) },
    { weight: uploads ? 3 : 0, value: () => rival.upload(text, "note.txt", { title: random.pick(WORDS) }) },
    {
      weight: 1,
      value: () => rival.call("PUT", `/memory/${random.pick(WORDS)}`, { value: text, index: ["$"] }),
    },
    { weight: 0.5, value: () => rival.post("/forget", { query: text, purge: true }) },
    { weight: 0.5, value: () => rival.post("/forget", { subject: random.pick(WORDS), purge: true }) },
    { weight: 0.3, value: () => rival.eraseFloor() },
  ])();
}
