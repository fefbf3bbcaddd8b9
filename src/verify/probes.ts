/**
 * Attacks from outside: what a tenant could try over HTTP to see, change, count or influence another.
 * Two tenants are minted for the purpose, one stores secrets, the other tries; all of it is removed.
 */
import { randomBytes } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import type { Finding } from "./catalog.ts";

export interface ProbeTarget {
  /** With the base path: `http://127.0.0.1:7700/api/v1`. */
  readonly url: string;
  readonly context: string;
  /** A management key: an operator's, or a tenant administrator's, below whose floor all of it happens. */
  readonly managementKey: string;
}

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly body: Record<string, unknown>;
}

/** One key's requests; counted. */
class Caller {
  readonly id: string;
  readonly #target: ProbeTarget;
  readonly #key: string;
  readonly #count: () => void;

  constructor(target: ProbeTarget, key: string, id: string, count: () => void) {
    this.#target = target;
    this.#key = key;
    this.id = id;
    this.#count = count;
  }

  async call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    this.#count();
    const form = body instanceof FormData;
    const url = path.startsWith("/contexts")
      ? `${this.#target.url}${path}`
      : `${this.#target.url}/${this.#target.context}${path}`;
    const response = await fetch(url, {
      method,
      headers: {
        authorization: `Bearer ${this.#key}`,
        ...(body === undefined || form ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: form ? body : JSON.stringify(body) }),
      signal: AbortSignal.timeout(30_000),
    });
    const text = await response.text();
    const isJson = (response.headers.get("content-type") ?? "").includes("json");
    return { status: response.status, text, body: isJson && text !== "" ? JSON.parse(text) : {} };
  }
}

/** What every probe has to work with. */
interface Stage {
  readonly attacker: Caller;
  readonly victim: Caller;
  /** With a key that was never minted. */
  readonly stranger: Caller;
  readonly victimTags: Record<string, string>;
  readonly attackerTags: Record<string, string>;
  /** Words that only the victim's rows hold, until the attacker uploads the file that one is in. */
  readonly canaries: readonly string[];
  readonly ids: Readonly<Record<"session" | "document" | "trace", string>>;
  readonly itemKey: string;
  readonly uploaded: () => FormData;
  /** Mints a key below the attacker's floor, which goes away with the rest. */
  mint(tags: Record<string, string>): Promise<Caller>;
  revoke(caller: Caller): Promise<void>;
  readonly context: string;
}

interface Probe {
  readonly name: string;
  readonly threats: readonly number[];
  /** What is wrong; nothing: the attack has failed, as it should. */
  run(stage: Stage): Promise<string[]>;
}

const UNKNOWN_ID = "01900000-0000-7000-8000-000000000000";

const path = (tags: Record<string, string>) => Object.entries(tags).flat().join("/");

/** Which of the victim's words an answer shows. */
const shown = ({ canaries }: Stage, what: string, { text }: Answer) =>
  canaries.filter((canary) => text.includes(canary)).map((canary) => `${what} shows ${canary}`);

const expectStatus = (what: string, answer: Answer, ...statuses: number[]) =>
  statuses.includes(answer.status) ? [] : [`${what} answered ${answer.status} and not ${statuses.join(" or ")}`];

/** The same answer but for what names the request itself. */
const bare = ({ status, text }: Answer, id: string) =>
  `${status} ${text.replaceAll(id, "<id>").replace(/"(requestId|instance)":"[^"]*"/g, "")}`;

/** Without it the others would prove nothing: what is not there is not shown. */
const CONTROL: Probe = {
  name: "the other tenant itself finds each of its words (the control)",
  threats: [],
  run: async ({ victim, canaries, ids, itemKey }) => {
    const status = await processed(victim, ids.document);
    const found = await Promise.all([
      victim.call("POST", "/query", { query: "secret", k: 50, includeDuplicates: true }),
      victim.call("POST", "/documents/query", { query: "secret" }),
      victim.call("GET", `/memory/${itemKey}`),
    ]);
    const missing = canaries.filter((canary) => found.every(({ text }) => !text.includes(canary)));
    return [
      ...(status === "ready" ? [] : [`its document is ${status}: is a worker running?`]),
      ...missing.map((canary) => `it does not find ${canary}`),
    ];
  },
};

/** How far the document is once it is through, or after half a minute. */
async function processed(owner: Caller, id: string): Promise<unknown> {
  for (const until = performance.now() + 30_000; ; await setTimeout(100)) {
    const { body } = await owner.call("GET", `/documents/${id}`);
    if (body.status === "ready" || body.status === "failed" || performance.now() > until) return body.status;
  }
}

const PROBES: readonly Probe[] = [
  {
    name: "recall finds nothing of the other tenant, in any mode, view or tier",
    threats: [1, 8, 35],
    run: async (stage) => {
      const problems: string[] = [];
      for (const mode of ["hybrid", "vector", "bm25"]) {
        for (const scopeView of ["strict", "subtree"]) {
          const answer = await stage.attacker.call("POST", "/query", {
            query: "secret",
            mode,
            scopeView,
            k: 50,
            includeDuplicates: true,
          });
          problems.push(
            ...expectStatus(`recall in mode ${mode}`, answer, 200),
            ...shown(stage, `recall in mode ${mode}`, answer),
          );
        }
      }
      for (const [route, body] of [
        ["/context", { query: "secret" }],
        ["/documents/query", { query: "secret" }],
        ["/documents/keywords/search", { query: "secret" }],
      ] as const) {
        const answer = await stage.attacker.call("POST", route, body);
        problems.push(...expectStatus(route, answer, 200), ...shown(stage, route, answer));
      }
      return problems;
    },
  },
  {
    name: "naming the other tenant's scope is refused, in every spelling",
    threats: [24, 33, 34],
    run: async (stage) => {
      const tags = stage.victimTags;
      const problems: string[] = [];
      for (const lens of [
        tags,
        path(tags),
        `${path(tags)}/*`,
        [path(tags)],
        [[path(tags)]],
        [[path(stage.attackerTags)], [path(tags)]],
        Object.entries(tags).map(([dimension, value]) => `${dimension}=${value}`),
      ]) {
        const answer = await stage.attacker.call("POST", "/query", { query: "secret", lens });
        problems.push(
          ...expectStatus(`the lens ${JSON.stringify(lens)}`, answer, 403),
          ...shown(stage, "its refusal", answer),
        );
        const write = await stage.attacker.call("POST", "/facts", { text: "planted", scopes: lens });
        problems.push(...expectStatus(`writing to ${JSON.stringify(lens)}`, write, 400, 403, 422));
      }
      const nothing = await stage.attacker.call("POST", "/query", { query: "secret", lens: [] });
      return [...problems, ...expectStatus("an empty lens", nothing, 200), ...shown(stage, "an empty lens", nothing)];
    },
  },
  {
    name: "an id of the other tenant answers like one that does not exist",
    threats: [6, 35],
    run: async (stage) => {
      const { session, document, trace } = stage.ids;
      const problems: string[] = [];
      for (const [method, at, id] of [
        ["GET", "/sessions/%", session],
        ["GET", "/sessions/%/turns", session],
        ["DELETE", "/sessions/%", session],
        ["GET", "/documents/%", document],
        ["GET", "/documents/%/raw", document],
        ["GET", "/documents/%/chunks", document],
        ["GET", "/documents/%/keywords", document],
        ["DELETE", "/documents/%", document],
        ["GET", "/traces/%", trace],
        ["GET", "/principals/%", stage.victim.id],
      ] as const) {
        const [foreign, random] = await Promise.all([
          stage.attacker.call(method, at.replace("%", id)),
          stage.attacker.call(method, at.replace("%", UNKNOWN_ID)),
        ]);
        if (bare(foreign, id) !== bare(random, UNKNOWN_ID)) problems.push(`${method} ${at} tells that the id exists`);
        problems.push(...expectStatus(`${method} ${at}`, foreign, 404), ...shown(stage, `${method} ${at}`, foreign));
      }
      const write = await stage.attacker.call("POST", "/facts", { text: "planted", session_id: session });
      return [...problems, ...expectStatus("writing into a foreign session", write, 404)];
    },
  },
  {
    name: "no list, profile, state, trace, report or count has anything of the other tenant",
    threats: [5, 12, 13],
    run: async (stage) => {
      const problems: string[] = [];
      for (const at of [
        "/sessions?limit=500",
        "/documents?pageSize=100",
        "/documents/keywords?pageSize=100",
        "/entities?limit=500",
        "/entities/Secret/secret",
        "/memory",
        `/memory/${stage.itemKey}`,
        "/profile",
        "/state",
        "/scopes",
        "/traces",
        "/traces/stats",
        "/audit",
        "/usage",
        "/keys",
        "/principals",
        "/me",
      ]) {
        const answer = await stage.attacker.call("GET", at);
        problems.push(...expectStatus(`GET ${at}`, answer, 200, 404), ...shown(stage, `GET ${at}`, answer));
        if (answer.text.includes(path(stage.victimTags))) problems.push(`GET ${at} names the other tenant's scope`);
      }
      return problems;
    },
  },
  {
    name: "a file that the other tenant has is as new as any",
    threats: [3],
    run: async (stage) => {
      const answer = await stage.attacker.call("POST", "/documents", stage.uploaded());
      const isNew = answer.body.deduplicated === false && answer.body.id !== stage.ids.document;
      return [
        ...expectStatus("the upload", answer, 202),
        ...(isNew ? [] : ["the upload is taken for the other tenant's"]),
      ];
    },
  },
  {
    name: "the same Idempotency-Key from two tenants gives each its own answer",
    threats: [4],
    run: async (stage) => {
      const key = { "idempotency-key": `verify-${randomBytes(8).toString("hex")}` };
      const body = { text: "the same text from both" };
      const theirs = await stage.victim.call("POST", "/facts", body, key);
      const own = await stage.attacker.call("POST", "/facts", body, key);
      const isOwn = own.body.sessionId !== undefined && own.body.sessionId !== theirs.body.sessionId;
      return [...expectStatus("the second", own, 200), ...(isOwn ? [] : ["the other tenant's answer was given again"])];
    },
  },
  {
    name: "acting on behalf of the other tenant's key is refused like an unknown one",
    threats: [29],
    run: async (stage) => {
      const on = (id: string) =>
        stage.attacker.call("POST", "/query", { query: "secret" }, { "x-spectron-on-behalf-of": id });
      const [foreign, random] = await Promise.all([on(stage.victim.id), on(UNKNOWN_ID)]);
      const isSame = bare(foreign, stage.victim.id) === bare(random, UNKNOWN_ID);
      return [...expectStatus("it", foreign, 403), ...(isSame ? [] : ["the answers tell which key exists"])];
    },
  },
  {
    name: "a tenant's own keys mint none that is wider",
    threats: [29],
    run: async (stage) => {
      const wider = await stage.attacker.call("POST", "/keys", { scopeFloor: stage.victimTags });
      const managing = await stage.attacker.call("POST", `/contexts/${stage.context}/keys`, {
        name: "verify wider",
        principal: "agent",
        scopeFloor: stage.victimTags,
      });
      return [
        ...expectStatus("a key beyond the floor", wider, 403),
        ...expectStatus("a key by the management's route", managing, 403),
      ];
    },
  },
  {
    name: "names that look alike are other names",
    threats: [20, 33],
    run: async (stage) => {
      const problems: string[] = [];
      const [dimension, value] = Object.entries(stage.victimTags).at(-1) ?? ["verify", ""];
      for (const name of [value.slice(0, -1), `${value}0`, value.toUpperCase()]) {
        const near = await stage.mint({ ...stage.victimTags, [dimension]: name });
        const answer = await near.call("POST", "/query", { query: "secret", scopeView: "subtree", k: 50 });
        problems.push(...expectStatus(`recall as ${name}`, answer, 200), ...shown(stage, `recall as ${name}`, answer));
      }
      for (const hostile of [
        `${value} `,
        ` ${value}`,
        `${value}\u200b`,
        `${value}%`,
        `${value}*`,
        "",
        "..",
        `${value}'`,
        `${value}\u0000`,
      ]) {
        const answer = await stage.attacker.call("POST", "/query", { query: "secret", lens: { [dimension]: hostile } });
        problems.push(...expectStatus(`the value ${JSON.stringify(hostile)}`, answer, 400));
      }
      return problems;
    },
  },
  {
    name: "an unknown field or filter is refused, and none is read as SQL",
    threats: [22, 23],
    run: async (stage) => {
      const problems: string[] = [];
      for (const body of [
        { query: "secret", scope: stage.victimTags, filter: { scope_id: 1 } },
        { query: "secret", where: "1=1" },
        { query: "secret", labels: ["a' OR '1'='1=1"] },
        { query: "secret", mode: "hybrid; SELECT 1" },
        { query: "secret", sessionId: "' OR true --" },
      ]) {
        const answer = await stage.attacker.call("POST", "/query", body);
        problems.push(...expectStatus(JSON.stringify(body), answer, 400), ...shown(stage, "its refusal", answer));
      }
      return problems;
    },
  },
  {
    name: "a forget of one tenant takes nothing of the other's",
    threats: [19],
    run: async (stage) => {
      const problems: string[] = [];
      const dry = await stage.attacker.call("POST", "/forget", {
        query: stage.canaries[0],
        dryRun: true,
        subtree: true,
      });
      problems.push(...expectStatus("the dry run", dry, 200), ...shown(stage, "the dry run", dry));
      const gone = await stage.attacker.call("POST", "/scopes/forget", {});
      problems.push(...expectStatus("the attacker's own erasure", gone, 200));
      const beyond = await stage.attacker.call("POST", "/scopes/forget", { path: path(stage.victimTags) });
      problems.push(...expectStatus("erasing the other's scope", beyond, 403));
      const still = await stage.victim.call("POST", "/query", { query: stage.canaries[0], k: 50 });
      if (!still.text.includes(stage.canaries[0] ?? "")) problems.push("the victim's rows are gone");
      return problems;
    },
  },
  {
    name: "a revoked key is refused at once, and so is none at all",
    threats: [28, 30],
    run: async (stage) => {
      const short = await stage.mint({ ...stage.attackerTags, user: "short" });
      const before = await short.call("GET", "/me");
      await stage.revoke(short);
      const after = await short.call("GET", "/me");
      const none = await stage.stranger.call("GET", "/me");
      return [
        ...expectStatus("the key", before, 200),
        ...expectStatus("the revoked key", after, 401),
        ...expectStatus("a key that is none", none, 401),
      ];
    },
  },
];

/** Tags that the floors of the keys it mints have beside those of the management key's. */
export const PROBE_TAGS = 2;

/** Runs every probe and removes what it made. */
export async function runProbes(target: ProbeTarget): Promise<{ findings: Finding[]; requests: number }> {
  let requests = 0;
  const count = () => {
    requests++;
  };
  const operator = new Caller(target, target.managementKey, "", count);
  const made: { caller: Caller; tags: Record<string, string> }[] = [];
  const mark = randomBytes(5).toString("hex");
  const keys = `/contexts/${target.context}/keys`;

  const mint = async (tags: Record<string, string>): Promise<Caller> => {
    const { status, body, text } = await operator.call("POST", keys, {
      name: `verify ${mark} ${made.length}`,
      principal: "agent",
      scopeFloor: tags,
      ttlSeconds: 3_600,
    });
    if (status !== 201) throw new Error(`no key could be minted: ${text}`);
    const caller = new Caller(target, body.key as string, body.id as string, count);
    made.push({ caller, tags: body.scopeFloor as Record<string, string> });
    return caller;
  };
  const revoke = async (caller: Caller) => {
    await operator.call("DELETE", `${keys}/${caller.id}`);
  };

  const findings: Finding[] = [];
  let failure: unknown;
  try {
    const stranger = new Caller(target, `sf_agent_${mark}`, "", count);
    const stage = await setTheStage({ mint, revoke, stranger, mark, context: target.context, made });
    for (const { name, threats, run } of [CONTROL, ...PROBES]) {
      const before = requests;
      const problems = await run(stage).catch((error: unknown) => [
        `the probe itself failed: ${(error as Error).message}`,
      ]);
      findings.push({ check: name, threats, looked: requests - before, problems });
    }
  } catch (error) {
    failure = error;
  }
  const left: string[] = [];
  for (const { caller, tags } of made) {
    await revoke(caller); // first: the dictionary keeps the scope of a live key
    const erased = await operator.call("POST", "/scopes/forget", { path: path(tags) });
    if (erased.status !== 200) left.push(`${path(tags)}: ${erased.status}`);
  }
  if (failure !== undefined) throw failure;
  findings.push({ check: "what was made for this is removed", threats: [], looked: made.length, problems: left });
  return { findings, requests };
}

interface StageHands {
  readonly mint: (tags: Record<string, string>) => Promise<Caller>;
  readonly revoke: (caller: Caller) => Promise<void>;
  readonly stranger: Caller;
  readonly mark: string;
  readonly context: string;
  readonly made: readonly { readonly tags: Record<string, string> }[];
}

/** Two tenants by a dimension of their own, which no floor has; one of them stores a secret in every way there is. */
async function setTheStage({ mint, revoke, stranger, mark, context, made }: StageHands): Promise<Stage> {
  const words = Array.from({ length: 5 }, (_, i) => `canary${mark}${"vwxyz"[i]}`);
  const [turn, document, item, fact, batch] = words as [string, string, string, string, string];
  const victim = await mint({ verify: `${mark}-a` });
  const attacker = await mint({ verify: `${mark}-b` });
  const uploaded = () => {
    const form = new FormData();
    form.append("metadata", JSON.stringify({ title: "verify" }));
    form.append("file", new Blob([`the secret is ${document}`], { type: "text/plain" }), "verify.txt");
    return form;
  };
  const stored = await victim.call("POST", "/facts", { text: `the secret is ${turn}` });
  const upload = await victim.call("POST", "/documents", uploaded());
  const others = await Promise.all([
    victim.call("PUT", `/memory/verify-${mark}`, { value: `the secret is ${item}` }),
    victim.call("POST", "/facts", {
      infer: "triples",
      triples: [{ entity: { type: "Secret", name: "secret" }, key: "is", value: fact }],
    }),
    victim.call("POST", "/facts/batch", { messages: [{ role: "user", content: `the secret is ${batch}` }] }),
  ]);
  const asked = await victim.call("POST", "/query", { query: `secret ${turn}`, k: 50 });
  const failed = [stored, upload, ...others, asked].find(({ status }) => status >= 300);
  if (failed !== undefined) throw new Error(`the stage could not be set: ${failed.text}`);
  return {
    attacker,
    victim,
    stranger,
    victimTags: made[0]?.tags ?? {},
    attackerTags: made[1]?.tags ?? {},
    canaries: words,
    ids: {
      session: stored.body.sessionId as string,
      document: upload.body.id as string,
      trace: (asked.body.trace as { traceId: string }).traceId,
    },
    itemKey: `verify-${mark}`,
    uploaded,
    mint,
    revoke,
    context,
  };
}
