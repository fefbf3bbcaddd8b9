/**
 * Writers over HTTP that keep a ledger of what was acknowledged, for tests that break things under
 * them. A request without an answer is sent again, with its `Idempotency-Key`, until it has one.
 */
import { pause } from "../harness/service-process.ts";

export interface LedgerOutcome {
  readonly acknowledged: number;
  /** Requests that had to be sent again. */
  readonly repeated: number;
  /** Acknowledged and not there. */
  readonly lost: readonly string[];
  readonly doubled: readonly string[];
  /** Seen by another tenant, in an answer or among its turns. */
  readonly crossed: readonly string[];
  /** Answers that no fault explains. */
  readonly strange: readonly string[];
}

interface Writer {
  readonly tenant: string;
  readonly key: string;
  readonly session: string;
  readonly acknowledged: string[];
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

const TENANTS = ["quillfish", "marmoset", "nightjar", "axolotl"];
const WRITERS = 8;
/** A fault is over by then, also on a busy machine. */
const PATIENCE_MS = 240_000;

export class Ledger {
  readonly #url: string;
  readonly #mayRefuse: boolean;
  readonly #writers: Writer[] = [];
  readonly #strange: string[] = [];
  readonly #crossed: string[] = [];
  #repeated = 0;
  #running: Promise<unknown> = Promise.resolve();
  #isStopped = false;

  private constructor(url: string, mayRefuse: boolean) {
    this.#url = url;
    this.#mayRefuse = mayRefuse;
  }

  /**
   * Mints the tenants' keys and opens a session for each writer.
   *
   * @param mayRefuse whether the process goes away at times, so that a connection may be refused or reset
   */
  static async open(url: string, operator: string, { mayRefuse }: { mayRefuse: boolean }): Promise<Ledger> {
    const ledger = new Ledger(url, mayRefuse);
    const keys = new Map<string, string>();
    for (const tenant of TENANTS) {
      const minted = await ledger.#call(operator, "/contexts/default/keys", {
        name: tenant,
        principal: "agent",
        scopeFloor: { org: tenant },
      });
      if (minted.status !== 201) throw new Error(`minting answered ${minted.status}: ${minted.text}`);
      keys.set(tenant, JSON.parse(minted.text).key);
    }
    for (let w = 0; w < WRITERS; w++) {
      const tenant = TENANTS[w % TENANTS.length] ?? "";
      const key = keys.get(tenant) ?? "";
      const session = JSON.parse((await ledger.#call(key, "/default/sessions", {})).text).id as string;
      ledger.#writers.push({ tenant, key, session, acknowledged: [] });
    }
    return ledger;
  }

  start(): void {
    this.#isStopped = false;
    this.#running = Promise.all(this.#writers.map((writer, w) => this.#write(writer, w)));
  }

  /** Waits for what is under way. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#running;
  }

  get acknowledged(): number {
    return this.#writers.reduce((sum, { acknowledged }) => sum + acknowledged.length, 0);
  }

  get strange(): readonly string[] {
    return this.#strange;
  }

  /** Compares the ledger with what the service has now. */
  async settle(): Promise<LedgerOutcome> {
    const lost: string[] = [];
    const doubled: string[] = [];
    for (const { tenant, key, session, acknowledged } of this.#writers) {
      const found = new Map<string, number>();
      for (const text of await this.#turns(key, session)) {
        found.set(text, (found.get(text) ?? 0) + 1);
        if (!text.startsWith(tenant)) this.#crossed.push(`${tenant}'s session holds ${text}`);
      }
      for (const text of acknowledged) if (!found.has(text)) lost.push(text);
      for (const [text, times] of found) if (times > 1) doubled.push(text);
    }
    const { acknowledged } = this;
    return {
      acknowledged,
      repeated: this.#repeated,
      lost,
      doubled,
      crossed: this.#crossed,
      strange: this.#strange,
    };
  }

  async #write(writer: Writer, w: number): Promise<void> {
    const { tenant, key, session, acknowledged } = writer;
    for (let n = acknowledged.length; !this.#isStopped; n++) {
      const text = `${tenant} entry ${w} of number ${n}`;
      const isDone = await this.#untilDone(key, "/default/facts", { text, session_id: session }, `${w}-${n}`);
      if (!isDone) return;
      acknowledged.push(text);
      if (n % 5 !== 0) continue;
      const found = await this.#call(key, "/default/query", { query: "entry number", k: 20 }).catch(() => undefined);
      if (found !== undefined) this.#look(tenant, found);
    }
  }

  /** Also after the stop: what was begun is either acknowledged or given up for good. */
  async #untilDone(key: string, path: string, body: object, idempotencyKey: string): Promise<boolean> {
    for (const until = performance.now() + PATIENCE_MS; performance.now() < until; await pause(40)) {
      let answer: Answer;
      try {
        answer = await this.#call(key, path, body, { "idempotency-key": idempotencyKey });
      } catch (error) {
        this.#repeated++;
        if (!this.#mayRefuse) this.#strange.push(`no answer: ${(error as Error).message}`);
        continue;
      }
      if (answer.status === 200) return true;
      this.#repeated++;
      if (![409, 429, 503].includes(answer.status)) {
        this.#strange.push(`${answer.status} ${answer.text}`);
        return false;
      }
    }
    this.#strange.push(`no good answer within ${PATIENCE_MS} ms`);
    return false;
  }

  #look(tenant: string, { status, text }: Answer): void {
    if (![200, 429, 503].includes(status)) this.#strange.push(`recall: ${status} ${text}`);
    for (const other of TENANTS) {
      if (other !== tenant && text.includes(other)) this.#crossed.push(`${tenant} was shown ${other}`);
    }
  }

  async #turns(key: string, session: string): Promise<string[]> {
    const texts: string[] = [];
    for (let offset = 0; ; offset += 200) {
      const response = await fetch(`${this.#url}/default/sessions/${session}/turns?limit=200&offset=${offset}`, {
        headers: { authorization: `Bearer ${key}` },
      });
      if (response.status !== 200) throw new Error(`turns answered ${response.status}: ${await response.text()}`);
      const { turns } = (await response.json()) as { turns: { content: string }[] };
      texts.push(...turns.map(({ content }) => content));
      if (turns.length < 200) return texts;
    }
  }

  async #call(key: string, path: string, body: object, headers: Record<string, string> = {}): Promise<Answer> {
    const response = await fetch(`${this.#url}${path}`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(30_000),
    });
    return { status: response.status, text: await response.text() };
  }
}
