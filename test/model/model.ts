/** Random commands against the service and the oracle, until the first difference. */
import type { Client, TestService } from "../harness/service.ts";
import {
  type Caller,
  contradicts,
  isGeneral,
  isSame,
  isWithin,
  type Key,
  Oracle,
  type Principal,
  type Stored,
  type Tags,
  type Verb,
  type View,
} from "./oracle.ts";
import { Random } from "./random.ts";

/** Scopes with near-miss names: a prefix, another case, a number that begins with another. */
const SCOPES: readonly Tags[] = [
  { org: "acme" },
  { org: "acme-corp" },
  { org: "ACME" },
  { org: "acme", user: "1" },
  { org: "acme", user: "10" },
  { org: "acme-corp", user: "1" },
  { org: "acme", user: "1", agent: "planner" },
  { user: "1" },
];
const ASKED: readonly Tags[] = [{}, ...SCOPES, { user: "10" }, { agent: "planner" }, { org: "globex" }];
const VERBS: readonly Verb[] = ["memory:read", "memory:write", "memory:forget"];
/** Every stored text has it, and nothing but texts. */
const SHARED = "ledger";
const MOST_ROWS = 40;

const pathOf = (tags: Tags) => Object.entries(tags).flat().join("/");
/** `org` first, then by dimension. */
const canonicalPathOf = (tags: Tags) => {
  const first = (dimension: string) => (dimension === "org" ? "" : dimension);
  return Object.entries(tags)
    .sort(([a], [b]) => (first(a) < first(b) ? -1 : 1))
    .flat()
    .join("/");
};

export interface ModelOptions {
  /** Ends one of the application's connections from outside; absent where there is none. */
  readonly killConnection?: (() => Promise<void>) | undefined;
  /** Starts the service anew on the same database. */
  readonly restart: () => Promise<void>;
  /** The service at present. */
  readonly service: () => TestService;
}

/** How often each command is chosen, relative to the others. */
export const COMMANDS = {
  mint: 40,
  delegate: 30,
  revoke: 20,
  write: 260,
  "write into a session": 50,
  batch: 40,
  item: 50,
  triple: 30,
  upload: 10,
  recall: 330,
  "read by id": 80,
  list: 60,
  "read an item": 40,
  memories: 40,
  "correct a memory": 30,
  "delete a memory": 20,
  "forget by meaning": 30,
  "forget a scope": 30,
  kill: 10,
  restart: 3,
};
export type CommandName = keyof typeof COMMANDS;

/** Runs that many commands, all chosen by the seed; gives how many of each kind were run. */
export async function runModel(
  options: ModelOptions & { readonly seed: number; readonly commands: number },
): Promise<Record<string, number>> {
  const model = await Model.open(options);
  const random = new Random(options.seed);
  const weighted = Object.entries(COMMANDS).map(([value, weight]) => ({ value: value as CommandName, weight }));
  for (let n = 0; n < options.commands; n++) {
    const name = random.weighted(weighted);
    try {
      await model.run(name, random);
    } catch (error) {
      throw new Error(`seed ${options.seed}, command ${n} (${name}): ${(error as Error).message}`, { cause: error });
    }
  }
  return model.counts;
}

interface Wire {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** The service and the oracle, beside each other. */
export class Model {
  readonly counts: Record<string, number> = {};
  readonly #options: ModelOptions;
  readonly #oracle = new Oracle();
  #random = new Random(0);
  #names = 0;

  private constructor(options: ModelOptions) {
    this.#options = options;
  }

  /** On a database in which there is the operator alone. */
  static async open(options: ModelOptions): Promise<Model> {
    const model = new Model(options);
    const { operator } = options.service();
    const root: Key = {
      id: operator.id,
      secret: operator.key,
      principal: "management",
      floor: {},
      verbs: VERBS,
      parent: undefined,
      revoked: false,
    };
    model.#oracle.keys.push(root);
    for (const floor of SCOPES) await model.#mint(root, "agent", floor, VERBS);
    return model;
  }

  readonly #commands: Readonly<Record<CommandName, () => Promise<void>>> = {
    mint: () => this.#mintAny(),
    delegate: () => this.#delegate(),
    revoke: () => this.#revoke(),
    write: () => this.#write(),
    "write into a session": () => this.#writeIntoSession(),
    batch: () => this.#batch(),
    item: () => this.#item(),
    triple: () => this.#triple(),
    upload: () => this.#upload(),
    recall: () => this.#recall(),
    "read by id": () => this.#readById(),
    list: () => this.#list(),
    "read an item": () => this.#readItem(),
    memories: () => this.#memories(),
    "correct a memory": () => this.#correct(),
    "delete a memory": () => this.#delete(),
    "forget by meaning": () => this.#forgetByMeaning(),
    "forget a scope": () => this.#forgetScope(),
    kill: () => this.#kill(),
    restart: () => this.#options.restart(),
  };

  /** Runs one command, whose choices come from the stream; a difference between the two throws. */
  async run(name: CommandName, random: Random): Promise<void> {
    this.#random = random;
    this.#count(name, 1);
    await this.#commands[name]();
    // Recall answers 50 at most: what is known stays below that.
    if (this.#oracle.stored.length > MOST_ROWS) await this.#forgetOldest();
  }

  #count(name: string, by: number): void {
    this.counts[name] = (this.counts[name] ?? 0) + by;
  }

  // -- Who calls ------------------------------------------------------------------------------

  #client(key: Key): Client {
    return this.#options.service().client(key.secret, key.id);
  }

  async #send(key: Key, method: string, path: string, body?: unknown, behalf?: Key): Promise<Wire> {
    const options = behalf === undefined ? {} : { headers: { "x-spectron-on-behalf-of": behalf.id } };
    const answer = await this.#again(() => this.#client(key).call(method, path, body, options));
    return { status: answer.status, body: (answer.body ?? {}) as Record<string, unknown> };
  }

  /** Once more when a killed connection was in the way: 503 says that nothing was done. */
  async #again<T extends { readonly status: number }>(send: () => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      const answer = await send();
      if (answer.status !== 503 || attempt === 5) return answer;
    }
  }

  #someKey(): Key {
    // Ended keys are asked too: they are 401 for whatever they ask.
    return this.#random.chance(0.03) ? this.#random.pick(this.#oracle.keys) : this.#random.pick(this.#oracle.live());
  }

  #someBehalf(): Key | undefined {
    return this.#random.chance(0.1) ? this.#random.pick(this.#oracle.keys) : undefined;
  }

  /** The caller, or the status with which it is refused before anything else. */
  #enter(key: Key, behalf: Key | undefined): Caller | number {
    if (this.#oracle.isEnded(key)) return 401;
    return this.#oracle.callerOf(key, behalf) ?? 403;
  }

  // -- Keys -----------------------------------------------------------------------------------

  async #mint(by: Key, principal: Principal, floor: Tags, verbs: readonly Verb[]): Promise<number> {
    const { status, body } = await this.#send(by, "POST", "/contexts/default/keys", {
      name: `key ${this.#names++}`,
      principal,
      scopeFloor: floor,
      verbs,
    });
    if (status === 201) await this.#learnKey(body, by, principal, floor, verbs);
    return status;
  }

  /** A key that was just minted: what it is was to be foreseen. */
  async #learnKey(
    { id, key: secret }: Record<string, unknown>,
    parent: Key,
    principal: Principal,
    asked: Tags,
    verbs: readonly Verb[],
  ): Promise<void> {
    const key: Key = {
      id: id as string,
      secret: secret as string,
      principal,
      floor: { ...asked, ...parent.floor },
      verbs,
      parent,
      revoked: false,
    };
    const { body } = await this.#send(key, "GET", "/me");
    same("a minted key's id", body.principalId, key.id);
    same("what it is", body.kind, principal);
    same("its floor", isSame(body.scopeFloor as Tags, key.floor), true);
    same("its verbs", [...(body.verbs as Verb[])].sort().join(), [...verbs].sort().join());
    this.#oracle.keys.push(key);
  }

  async #mintAny(): Promise<void> {
    const by = this.#someKey();
    const principal = this.#random.pick<Principal>(["agent", "agent", "agent", "supervisor", "management"]);
    const floor = this.#random.pick(SCOPES);
    const verbs = this.#random.chance(0.3) ? [this.#random.pick(by.verbs)] : by.verbs;
    const status = await this.#mint(by, principal, floor, verbs);
    if (this.#oracle.isEnded(by)) return same("minting by an ended key", status, 401);
    if (by.principal !== "management") return same("minting without management", status, 403);
    same("minting", status, contradicts(floor, by.floor) ? 403 : 201);
  }

  async #delegate(): Promise<void> {
    const by = this.#someKey();
    const floor = this.#random.pick(ASKED);
    const verbs = this.#random.chance(0.5) ? [this.#random.pick(by.verbs)] : by.verbs;
    const { status, body } = await this.#send(by, "POST", "/keys", {
      name: `own ${this.#names++}`,
      scopeFloor: floor,
      verbs,
    });
    if (this.#oracle.isEnded(by)) return same("delegating by an ended key", status, 401);
    if (by.principal === "supervisor") return same("delegating by a supervisor", status, 403);
    if (contradicts(floor, by.floor)) return same("delegating beyond the floor", status, 403);
    same("delegating", status, 201);
    await this.#learnKey(body, by, by.principal, floor, verbs);
  }

  async #revoke(): Promise<void> {
    const operator = this.#oracle.keys[0] as Key;
    const agents = this.#oracle.live().filter((key) => key !== operator);
    if (agents.length < 6) return;
    const key = this.#random.pick(agents);
    same("revoking", (await this.#send(operator, "DELETE", `/contexts/default/keys/${key.id}`)).status, 204);
    key.revoked = true;
    same("a revoked key", (await this.#send(key, "GET", "/me")).status, 401);
  }

  // -- Writing --------------------------------------------------------------------------------

  #text(): { canary: string; text: string } {
    const canary = this.#random.word(12);
    return { canary, text: `${SHARED} ${canary} ${this.#random.word(5)} ${this.#random.word(6)}` };
  }

  /** The status that a write must have, and where its rows go. */
  #writeAt(key: Key, behalf: Key | undefined, asked: Tags | undefined): { status: number; at: Tags } {
    const caller = this.#enter(key, behalf);
    if (typeof caller === "number") return { status: caller, at: {} };
    const admitted = this.#oracle.admits(caller, "memory:write");
    if (admitted !== 200) return { status: admitted, at: {} };
    if (contradicts(asked ?? {}, caller.floor)) return { status: 403, at: {} };
    return { status: 200, at: { ...asked, ...caller.floor } };
  }

  async #write(): Promise<void> {
    const [key, behalf] = [this.#someKey(), this.#someBehalf()];
    const asked = this.#random.chance(0.6) ? this.#random.pick(ASKED) : undefined;
    const { canary, text } = this.#text();
    const { status, body } = await this.#send(key, "POST", "/facts", { text, ...(asked && { scopes: asked }) }, behalf);
    const expected = this.#writeAt(key, behalf, asked);
    same("writing", status, expected.status);
    if (status !== 200) return;
    const id = body.sessionId as string;
    this.#oracle.sessions.push({ id, scope: expected.at, owner: key });
    this.#oracle.stored.push({ canary, kind: "turn", scope: expected.at, id });
  }

  async #writeIntoSession(): Promise<void> {
    if (this.#oracle.sessions.length === 0) return;
    const [key, session] = [this.#someKey(), this.#random.pick(this.#oracle.sessions)];
    const { canary, text } = this.#text();
    const { status } = await this.#send(key, "POST", "/facts", { text, session_id: session.id });
    const { status: admitted } = this.#writeAt(key, undefined, undefined);
    if (admitted !== 200) return same("writing into a session", status, admitted);
    const isReached = isWithin(session.scope, key.floor);
    if (!isReached || !this.#oracle.sessions.includes(session)) return same("a session out of reach", status, 404);
    if (key.principal === "agent" && session.owner !== key) return same("another key's session", status, 403);
    same("writing into a session", status, 200);
    this.#oracle.stored.push({ canary, kind: "turn", scope: session.scope, id: session.id });
  }

  async #batch(): Promise<void> {
    const key = this.#someKey();
    const asked = this.#random.pick(ASKED);
    const texts = [this.#text(), this.#text(), this.#text()];
    const messages = texts.map(({ text }) => ({ role: "user", content: text }));
    const { status, body } = await this.#send(key, "POST", "/facts/batch", { messages, scopes: asked });
    const expected = this.#writeAt(key, undefined, asked);
    same("writing a batch", status, expected.status);
    if (status !== 200) return;
    const id = body.sessionId as string;
    this.#oracle.sessions.push({ id, scope: expected.at, owner: key });
    for (const { canary } of texts) this.#oracle.stored.push({ canary, kind: "turn", scope: expected.at, id });
  }

  async #item(): Promise<void> {
    const [key, name] = [this.#someKey(), `item-${this.#random.below(4)}`];
    const asked = this.#random.pick(ASKED);
    const { canary, text } = this.#text();
    const isRecalled = this.#random.chance(0.5);
    const index = isRecalled ? ["$"] : false;
    const { status } = await this.#send(key, "PUT", `/memory/${name}`, { value: text, scopes: asked, index });
    const expected = this.#writeAt(key, undefined, asked);
    same("setting an item", status, expected.status);
    if (status !== 200) return;
    this.#remove((row) => row.kind === "item" && row.id === name && isSame(row.scope, expected.at));
    this.#oracle.stored.push({ canary, kind: "item", scope: expected.at, id: name, isRecalled });
  }

  async #triple(): Promise<void> {
    const [key, asked] = [this.#someKey(), this.#random.pick(ASKED)];
    const { canary, text } = this.#text();
    const triples = [{ entity: { type: "Thing", name: `thing ${canary}` }, key: "note", value: text }];
    const { status, body } = await this.#send(key, "POST", "/facts", { infer: "triples", triples, scopes: asked });
    const expected = this.#writeAt(key, undefined, asked);
    same("writing a triple", status, expected.status);
    if (status !== 200) return;
    const id = body.sessionId as string;
    this.#oracle.sessions.push({ id, scope: expected.at, owner: key });
    this.#oracle.stored.push({ canary, kind: "fact", scope: expected.at, id: `thing ${canary}` });
  }

  async #upload(): Promise<void> {
    const [key, asked] = [this.#someKey(), this.#random.pick(ASKED)];
    const { canary, text } = this.#text();
    const client = this.#client(key);
    const { status, body } = await this.#again(() => client.upload(text, "note.txt", { title: SHARED, scopes: asked }));
    const expected = this.#writeAt(key, undefined, asked);
    same("uploading", status, expected.status === 200 ? 202 : expected.status);
    if (status !== 202) return;
    await this.#client(this.#oracle.keys[0] as Key).processed(body.id);
    this.#oracle.stored.push({ canary, kind: "document", scope: expected.at, id: body.id });
  }

  // -- Reading --------------------------------------------------------------------------------

  async #recall(): Promise<void> {
    const [key, behalf] = [this.#someKey(), this.#someBehalf()];
    const clauses = this.#random.chance(0.3)
      ? undefined
      : Array.from({ length: this.#random.below(3) }, () => this.#random.pick(ASKED));
    const view = this.#random.pick<View>(["strict", "subtree"]);
    const mode = this.#random.pick(["hybrid", "vector", "bm25"]);
    const lens = clauses?.map((clause) => Object.entries(clause).map(([d, v]) => `${d}/${v}`));
    const { status, body } = await this.#send(
      key,
      "POST",
      "/query",
      { query: SHARED, k: 50, mode, includeDuplicates: true, scopeView: view, ...(lens && { lens }) },
      behalf,
    );
    const caller = this.#enter(key, behalf);
    if (typeof caller === "number") return same("recall", status, caller);
    const admitted = this.#oracle.admits(caller, "memory:read");
    if (admitted !== 200) return same("recall", status, admitted);
    if (clauses?.some((clause) => contradicts(clause, caller.floor)))
      return same("recall beyond the floor", status, 403);
    same("recall", status, 200);
    const expected = this.#oracle.stored.filter(
      (row) =>
        (row.kind !== "item" || row.isRecalled === true) && this.#oracle.reads(caller, clauses, view, row.scope, true),
    );
    this.#count("rows recalled", expected.length);
    sameCanaries(
      `recall in mode ${mode}, view ${view}, of ${JSON.stringify(clauses)} under ${JSON.stringify(caller.floor)}`,
      (body.hits as { text: string }[]).map(({ text }) => text),
      expected,
    );
  }

  async #readById(): Promise<void> {
    const [key, behalf] = [this.#someKey(), this.#someBehalf()];
    const rows = this.#oracle.stored.filter((row) => row.kind === "turn" || row.kind === "document");
    if (rows.length === 0) return;
    const row = this.#random.pick(rows);
    const path = row.kind === "document" ? `/documents/${row.id}/chunks` : `/sessions/${row.id}/turns?limit=500`;
    const { status, body } = await this.#send(key, "GET", path, undefined, behalf);
    const caller = this.#enter(key, behalf);
    if (typeof caller === "number") return same("reading by id", status, caller);
    const admitted = this.#oracle.admits(caller, "memory:read");
    if (admitted !== 200) return same("reading by id", status, admitted);
    const isSeen = this.#oracle.readsById(caller, row.scope, row.kind === "document");
    same(`reading ${row.kind} by id`, status, isSeen ? 200 : 404);
    const isShown = JSON.stringify(body).includes(row.canary);
    same(`reading ${row.kind} by id shows it`, isShown, isSeen);
  }

  async #list(): Promise<void> {
    const key = this.#someKey();
    const caller = this.#enter(key, undefined);
    const ids: string[] = [];
    for (let offset = 0; ; offset += 7) {
      const { status, body } = await this.#send(key, "GET", `/sessions?limit=7&offset=${offset}`);
      if (typeof caller === "number") return same("listing", status, caller);
      const admitted = this.#oracle.admits(caller, "memory:read");
      if (admitted !== 200) return same("listing", status, admitted);
      const page = body.sessions as { id: string }[];
      ids.push(...page.map(({ id }) => id));
      if (page.length < 7) break;
    }
    if (typeof caller === "number") return;
    const expected = this.#oracle.sessions.filter(({ scope }) => this.#oracle.readsById(caller, scope, false));
    same(
      "the sessions listed, page by page",
      ids.sort().join(),
      expected
        .map(({ id }) => id)
        .sort()
        .join(),
    );
  }

  /** The value of the narrowest visible scope; of several that are as narrow, any. */
  async #readItem(): Promise<void> {
    const [key, name, asked] = [this.#someKey(), `item-${this.#random.below(4)}`, this.#random.pick(ASKED)];
    const { status, body } = await this.#send(
      key,
      "GET",
      `/memory/${name}?lens=${encodeURIComponent(JSON.stringify(asked))}`,
    );
    const caller = this.#enter(key, undefined);
    if (typeof caller === "number") return same("reading an item", status, caller);
    const admitted = this.#oracle.admits(caller, "memory:read");
    if (admitted !== 200) return same("reading an item", status, admitted);
    if (contradicts(asked, caller.floor)) return same("reading an item beyond the floor", status, 403);
    const seen = this.#oracle.stored.filter(
      (row) => row.kind === "item" && row.id === name && this.#oracle.reads(caller, [asked], "strict", row.scope, true),
    );
    same("reading an item", status, seen.length === 0 ? 404 : 200);
    const depth = (row: Stored) => Object.keys(row.scope).length;
    const narrowest = seen.filter((row) => depth(row) === Math.max(...seen.map(depth)));
    const shown = seen.filter(({ canary }) => JSON.stringify(body).includes(canary));
    same("an item shows one value", shown.length, Math.min(seen.length, 1));
    same(
      "an item shows the narrowest value",
      shown.every((row) => narrowest.includes(row)),
      true,
    );
  }

  /** All that a key can recall, page by page. */
  async #memories(): Promise<void> {
    const [key, behalf] = [this.#someKey(), this.#someBehalf()];
    const caller = this.#enter(key, behalf);
    const texts: string[] = [];
    for (let cursor = ""; ; ) {
      const { status, body } = await this.#send(key, "GET", `/memories?limit=9${cursor}`, undefined, behalf);
      if (typeof caller === "number") return same("memories", status, caller);
      const admitted = this.#oracle.admits(caller, "memory:read");
      if (admitted !== 200) return same("memories", status, admitted);
      texts.push(...(body.memories as { text: string }[]).map(({ text }) => text));
      if (body.nextCursor === undefined) break;
      cursor = `&cursor=${String(body.nextCursor)}`;
    }
    if (typeof caller === "number") return;
    sameCanaries(
      `the memories of ${JSON.stringify(caller.floor)}`,
      texts,
      this.#oracle.stored.filter(({ scope }) => this.#oracle.readsById(caller, scope, true)),
    );
  }

  /** A stored row, with the id that hits have of it. */
  async #someMemory(kinds: readonly Stored["kind"][]): Promise<{ row: Stored; id: string } | undefined> {
    const rows = this.#oracle.stored.filter(({ kind }) => kinds.includes(kind));
    if (rows.length === 0) return undefined;
    const row = this.#random.pick(rows);
    const { body } = await this.#send(this.#oracle.keys[0] as Key, "GET", "/memories?limit=500");
    const found = (body.memories as { id: string; text: string }[]).find(({ text }) => text.includes(row.canary));
    if (found === undefined) throw new Error(`${row.canary} is in no memory`);
    return { row, id: found.id };
  }

  async #correct(): Promise<void> {
    const [key, picked] = [this.#someKey(), await this.#someMemory(["turn", "document"])];
    if (picked === undefined) return;
    const { row, id } = picked;
    const { canary, text } = this.#text();
    const { status } = await this.#send(key, "PATCH", `/memories/${id}`, { text });
    const caller = this.#enter(key, undefined);
    if (typeof caller === "number") return same("correcting", status, caller);
    const admitted = this.#oracle.admits(caller, "memory:write", true);
    if (admitted !== 200) return same("correcting", status, admitted);
    if (!this.#oracle.readsById(caller, row.scope, true)) return same("correcting what is out of reach", status, 404);
    if (row.kind === "document") return same("correcting a part of a document", status, 422);
    if (!isWithin(row.scope, caller.floor)) return same("correcting general knowledge", status, 404);
    const owner = this.#oracle.sessions.find((session) => session.id === row.id)?.owner;
    if (key.principal === "agent" && owner !== key) return same("correcting another key's turn", status, 403);
    same("correcting", status, 200);
    this.#remove((other) => other === row);
    this.#oracle.stored.push({ ...row, canary });
  }

  async #delete(): Promise<void> {
    const [key, picked] = [this.#someKey(), await this.#someMemory(["turn", "document", "item", "fact"])];
    if (picked === undefined) return;
    const { row, id } = picked;
    const { status } = await this.#send(key, "DELETE", `/memories/${id}`);
    const caller = this.#enter(key, undefined);
    if (typeof caller === "number") return same("deleting", status, caller);
    const admitted = this.#oracle.admits(caller, "memory:forget", true);
    if (admitted !== 200) return same("deleting", status, admitted);
    if (!isWithin(row.scope, caller.floor)) return same("deleting what is out of reach", status, 404);
    if (row.kind === "document") return same("deleting a part of a document", status, 422);
    same("deleting", status, 200);
    this.#remove((other) => other === row);
  }

  // -- Forgetting -----------------------------------------------------------------------------

  async #forgetByMeaning(): Promise<void> {
    const rows = this.#oracle.stored.filter((row) => row.kind !== "item");
    if (rows.length === 0) return;
    const [key, row, subtree] = [this.#someKey(), this.#random.pick(rows), this.#random.chance(0.5)];
    const purge = this.#random.chance(0.5);
    const caller = this.#enter(key, undefined);
    const { status } = await this.#send(key, "POST", "/forget", { query: row.canary, subtree, purge });
    if (typeof caller === "number") return same("forgetting", status, caller);
    const admitted = this.#oracle.admits(caller, "memory:forget", true);
    if (admitted !== 200) return same("forgetting", status, admitted);
    if (isGeneral(caller.floor)) return same("forgetting everything without a word", status, 422);
    same("forgetting", status, 200);
    if (this.#oracle.forgets(caller.floor, subtree, row.scope)) this.#remove((other) => other === row);
  }

  async #forgetScope(): Promise<void> {
    const [key, asked] = [this.#someKey(), this.#random.pick(ASKED)];
    if (isGeneral(key.floor) && isGeneral(asked)) return;
    const caller = this.#enter(key, undefined);
    const path = pathOf(asked);
    const { status } = await this.#send(key, "POST", "/scopes/forget", {
      ...(path === "" ? {} : { path }),
      confirm: isGeneral(key.floor) ? "{}" : canonicalPathOf(key.floor),
    });
    if (typeof caller === "number") return same("forgetting a scope", status, caller);
    const admitted = this.#oracle.admits(caller, "memory:forget");
    if (admitted !== 200) return same("forgetting a scope", status, admitted);
    if (contradicts(asked, caller.floor)) return same("forgetting beyond the floor", status, 403);
    same("forgetting a scope", status, 200);
    const effective = { ...asked, ...caller.floor };
    this.#remove((row) => this.#oracle.forgets(effective, true, row.scope));
    this.#endSessions((scope) => this.#oracle.forgets(effective, true, scope));
  }

  /** Keeps the store small, and general knowledge with it. */
  async #forgetOldest(): Promise<void> {
    const scope = (this.#oracle.stored[0] as Stored).scope;
    const operator = this.#oracle.keys[0] as Key;
    if (isGeneral(scope)) {
      const row = this.#oracle.stored[0] as Stored;
      const { status } = await this.#send(operator, "POST", "/forget", {
        query: row.canary,
        purge: true,
        confirm: "{}",
      });
      same("forgetting general knowledge", status, 200);
      return this.#remove((other) => other === row);
    }
    const path = pathOf(scope);
    same("forgetting the oldest", (await this.#send(operator, "POST", "/scopes/forget", { path })).status, 200);
    this.#remove((row) => this.#oracle.forgets(scope, true, row.scope));
    this.#endSessions((at) => this.#oracle.forgets(scope, true, at));
  }

  #remove(isGone: (row: Stored) => boolean): void {
    this.#oracle.stored = this.#oracle.stored.filter((row) => !isGone(row));
  }

  #endSessions(isGone: (scope: Tags) => boolean): void {
    const kept = this.#oracle.sessions.filter(({ scope }) => !isGone(scope));
    this.#oracle.sessions.splice(0, this.#oracle.sessions.length, ...kept);
  }

  async #kill(): Promise<void> {
    await this.#options.killConnection?.();
  }
}

function same(what: string, actual: unknown, expected: unknown): void {
  if (actual !== expected) throw new Error(`${what}: ${String(actual)} instead of ${String(expected)}`);
}

function sameCanaries(what: string, texts: readonly string[], expected: readonly Stored[]): void {
  const found = texts.map((text) => /ledger (\w{12})\b/.exec(text)?.[1] ?? text).sort();
  same(
    what,
    found.join(),
    expected
      .map(({ canary }) => canary)
      .sort()
      .join(),
  );
}
