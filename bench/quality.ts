/**
 * Quality of recall without a model, over HTTP as a client would: LoCoMo (a session for each
 * conversation's session, a tenant for each conversation) and Cranfield (a document for each
 * abstract). The data stays outside: `--data=<folder>` with `locomo-dev.json` and `cranfield-dev.json`.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { round, table } from "./measure.ts";
import { textOption } from "./options.ts";
import { benchDatabase, clientOf, mintAgent, startBuilt, temporaryFolder } from "./service.ts";

interface Turn {
  readonly speaker: string;
  readonly dia_id: string;
  readonly text: string;
  readonly blip_caption?: string;
}

interface Conversation {
  readonly conversation: Record<string, Turn[] | string>;
  readonly qa: { question: string; evidence?: string[]; category: number }[];
}

interface Cranfield {
  readonly docs: { id: string; title: string; text: string }[];
  readonly queries: { id: string; text: string }[];
  readonly qrels: Record<string, Record<string, number>>;
}

interface Answer {
  readonly hits: { id: string; text: string }[];
}

const MODES = [
  ["plain BM25", "bm25"],
  ["full ranking", "hybrid"],
] as const;
/** Of dialogues the answers are scored a third time as clients get them, with what says the same folded. */
const OF_DIALOGUES = [...MODES, ["full ranking, folded", "folded"]] as const;

export default async function quality(): Promise<Record<string, unknown>> {
  const folder = textOption("data") ?? "../shared/data";
  const read = async <T>(name: string) => JSON.parse(await readFile(join(folder, name), "utf8")) as T;
  const conversations = await read<Conversation[]>("locomo-dev.json");
  const cranfield = await read<Cranfield>("cranfield-dev.json");
  const database = await benchDatabase();
  const temporary = await temporaryFolder();
  const service = await startBuilt({ DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: temporary.path });
  try {
    const talk = await dialogues(service, conversations, false);
    const together = await dialogues(service, conversations, true);
    const spelt = (values: readonly number[] | undefined) => (values ?? []).map((x) => x.toFixed(4));
    process.stdout.write(
      table([
        ["LoCoMo dev", "turn recall@5", "@10", "@50", "session hit@1", "hit@5"],
        ...OF_DIALOGUES.map(([name, mode]) => [name, ...spelt(talk[mode])]),
        ["aim", "0.74", "0.815", "0.90", "0.755", "0.94"],
        ...MODES.map(([name, mode]) => [`all in one tenant, ${name}`, ...spelt(together[mode])]),
        ["aim", "", "0.81", "", "0.74", ""],
      ]),
    );
    const texts = await abstracts(service, cranfield);
    process.stdout.write(
      `\n${table([
        ["Cranfield dev", "nDCG@10", "recall@10", "title finds its text first"],
        ...MODES.map(([name, mode]) => [name, ...spelt(texts[mode])]),
        ["aim", "0.44", "", "0.83"],
      ])}`,
    );
    const [r5 = 0, r10 = 0, r50 = 0, h1 = 0, h5 = 0] = talk.hybrid ?? [];
    const [ndcg = 0, recall = 0, titles = 0] = texts.hybrid ?? [];
    return {
      turnRecall5: round(r5, 4),
      turnRecall10: round(r10, 4),
      turnRecall50: round(r50, 4),
      sessionHit1: round(h1, 4),
      sessionHit5: round(h5, 4),
      cranfieldNdcg10: round(ndcg, 4),
      cranfieldRecall10: round(recall, 4),
      titleHit1: round(titles, 4),
      oneTenant: {
        turnRecall10: round(together.hybrid?.[1] ?? 0, 4),
        sessionHit1: round(together.hybrid?.[3] ?? 0, 4),
      },
      folded: { turnRecall10: round(talk.folded?.[1] ?? 0, 4), turnRecall50: round(talk.folded?.[2] ?? 0, 4) },
      plainBm25: {
        turnRecall10: round(talk.bm25?.[1] ?? 0, 4),
        sessionHit1: round(talk.bm25?.[3] ?? 0, 4),
        cranfieldNdcg10: round(texts.bm25?.[0] ?? 0, 4),
      },
    };
  } finally {
    await service.stop();
    await temporary.remove();
    await database.drop();
  }
}

type Service = Awaited<ReturnType<typeof startBuilt>>;

const mean = (rows: readonly number[][]) =>
  (rows[0] ?? []).map((_, column) => rows.reduce((sum, row) => sum + (row[column] ?? 0), 0) / rows.length);

type Inspected = Map<string, { dia: string; session: number }>;

/** Conversations as clients store them, each in a tenant of its own or all in one. */
async function dialogues(
  service: Service,
  conversations: readonly Conversation[],
  isOneTenant: boolean,
): Promise<Record<string, number[]>> {
  const scores: Record<string, number[][]> = { bm25: [], hybrid: [], folded: [] };
  const stored: {
    c: number;
    call: ReturnType<typeof clientOf>;
    turns: Map<string, { id: string; session: number }>;
  }[] = [];
  const all = isOneTenant
    ? clientOf(service.url, await mintAgent(service, "all conversations", { org: "all-conversations" }))
    : undefined;
  for (const [c, { conversation }] of conversations.entries()) {
    const call =
      all ?? clientOf(service.url, await mintAgent(service, `conversation ${c}`, { org: `conversation-${c}` }));
    const turns = new Map<string, { id: string; session: number }>();
    for (const [key, said] of Object.entries(conversation)) {
      const session = /^session_(\d+)$/.exec(key)?.[1];
      if (session === undefined || !Array.isArray(said)) continue;
      const began = startOf(String(conversation[`${key}_date_time`]));
      const { turnIds } = await call<{ turnIds: string[] }>("POST", "/default/facts/batch", {
        messages: said.map(({ speaker, text, blip_caption }, i) => ({
          role: i % 2 === 0 ? "user" : "assistant",
          content: `${speaker}: ${text}${blip_caption === undefined ? "" : ` [shares ${blip_caption}]`}`,
          ts: new Date(began + i * 1_000).toISOString(),
        })),
      });
      for (const [i, { dia_id }] of said.entries())
        turns.set(`${c} ${dia_id}`, { id: turnIds[i] ?? "", session: 1_000 * c + Number(session) });
    }
    stored.push({ c, call, turns });
  }
  const together = new Map(stored.flatMap(({ turns }) => [...turns]));
  let inspected: Inspected | undefined;
  for (const { c, call, turns } of stored) {
    inspected = isOneTenant ? (inspected ?? (await passagesOf(call, together))) : await passagesOf(call, turns);
    await askAll(call, conversations[c]?.qa ?? [], c, turns, inspected, scores, isOneTenant);
  }
  return Object.fromEntries(Object.entries(scores).map(([mode, rows]) => [mode, mean(rows)]));
}

async function askAll(
  call: ReturnType<typeof clientOf>,
  qa: Conversation["qa"],
  c: number,
  turns: ReadonlyMap<string, { id: string; session: number }>,
  inspect: Inspected,
  scores: Record<string, number[][]>,
  isOneTenant: boolean,
): Promise<void> {
  for (const { question, evidence = [], category } of qa) {
    const wanted = evidence.map((id) => `${c} ${id}`).filter((id) => turns.has(id));
    if (category === 5 || wanted.length === 0) continue;
    for (const [, mode] of isOneTenant ? MODES : OF_DIALOGUES) {
      const { hits } = await call<Answer>("POST", "/default/query", {
        query: question,
        k: 50,
        mode: mode === "folded" ? "hybrid" : mode,
        includeDuplicates: mode !== "folded",
      });
      const found = hits.flatMap(({ text }) => inspect.get(text) ?? []);
      const recall = (k: number) =>
        wanted.filter((id) => found.slice(0, k).some((hit) => hit.dia === id)).length / wanted.length;
      const sessions = [...new Set(found.map((hit) => hit.session))];
      const right = new Set(wanted.map((id) => turns.get(id)?.session));
      const hit = (k: number) => (sessions.slice(0, k).some((session) => right.has(session)) ? 1 : 0);
      scores[mode]?.push([recall(5), recall(10), recall(50), hit(1), hit(5)]);
    }
  }
}

/** Hits name passages; the turns of a conversation are told apart by what they say. */
async function passagesOf(
  call: ReturnType<typeof clientOf>,
  turns: ReadonlyMap<string, { id: string; session: number }>,
): Promise<Map<string, { dia: string; session: number }>> {
  const { sessions } = await call<{ sessions: { id: string }[] }>("GET", "/default/sessions?limit=500");
  const byId = new Map([...turns].map(([dia, { id, session }]) => [id, { dia, session }]));
  const texts = new Map<string, { dia: string; session: number }>();
  for (const { id } of sessions) {
    const answer = await call<{ turns: { id: string; content: string }[] }>(
      "GET",
      `/default/sessions/${id}/turns?limit=500`,
    );
    for (const turn of answer.turns) {
      const known = byId.get(turn.id);
      if (known !== undefined) texts.set(turn.content, known);
    }
  }
  return texts;
}

/** `1:56 pm on 8 May, 2023`, as UTC. */
function startOf(text: string): number {
  const [, hour, minute, half, day, month, year] = /^(\d+):(\d+) ([ap]m) on (\d+) (\w+), (\d+)$/.exec(text) ?? [];
  const at = Date.parse(`${day} ${month} ${year} 00:00 UTC`);
  return at + ((Number(hour) % 12) + (half === "pm" ? 12 : 0)) * 3_600_000 + Number(minute) * 60_000;
}

async function abstracts(service: Service, { docs, queries, qrels }: Cranfield): Promise<Record<string, number[]>> {
  const key = await mintAgent(service, "cranfield", { org: "cranfield" });
  const call = clientOf(service.url, key);
  for (const { id, title, text } of docs) {
    if (text.trim() === "") continue; // two of them are
    const form = new FormData();
    form.append("metadata", JSON.stringify({ title, source: id, mimeType: "text/plain" }));
    form.append("file", new Blob([text]), `${id}.txt`);
    const answer = await fetch(`${service.url}/default/documents`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}` },
      body: form,
    });
    if (answer.status !== 202) throw new Error(`upload answered ${answer.status}: ${await answer.text()}`);
    await answer.arrayBuffer();
  }
  for (;;) {
    const waiting = await Promise.all(
      ["queued", "extracting", "chunking", "embedding", "keywording"].map((status) =>
        call<{ total: number }>("GET", `/default/documents?status=${status}`),
      ),
    );
    if (waiting.every(({ total }) => total === 0)) break;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const scores: Record<string, number[][]> = { bm25: [], hybrid: [] };
  for (const { id, text } of queries) {
    const relevant = qrels[id];
    if (relevant === undefined) continue;
    for (const [, mode] of MODES) {
      const { results } = await call<{ results: { document: { source: string } }[] }>(
        "POST",
        "/default/documents/query",
        {
          query: text,
          k: 50,
          mode,
        },
      );
      const found = [...new Set(results.map(({ document }) => document.source))].slice(0, 10);
      const gain = found.reduce((sum, doc, i) => sum + (relevant[doc] ? 1 / Math.log2(i + 2) : 0), 0);
      const n = Object.keys(relevant).length;
      const ideal = Array.from({ length: Math.min(10, n) }, (_, i) => 1 / Math.log2(i + 2)).reduce((a, b) => a + b, 0);
      scores[mode]?.push([gain / ideal, found.filter((doc) => relevant[doc]).length / n]);
    }
  }
  const known = docs
    .filter(({ title, text }) => title.trim() !== "" && text.trim() !== "")
    .filter((_, i) => i % 4 === 0);
  const result: Record<string, number[]> = {};
  for (const [, mode] of MODES) {
    let first = 0;
    for (const { id, title } of known.slice(0, 300)) {
      const { results } = await call<{ results: { document: { source: string } }[] }>(
        "POST",
        "/default/documents/query",
        { query: title, k: 1, mode },
      );
      if (results[0]?.document.source === id) first++;
    }
    result[mode] = [...mean(scores[mode] ?? []), first / Math.min(known.length, 300)];
  }
  return result;
}
