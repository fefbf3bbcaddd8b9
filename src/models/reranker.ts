import { z } from "zod";
import { type Credentials, OwnClients, type OwnKey, type SealedCredential } from "./credentials.ts";
import { MOST_TOKENS } from "./tokens.ts";
import { ModelUnavailable, wasUnreached } from "./unavailable.ts";

export interface RerankerSettings {
  /** The endpoint itself, such as `http://127.0.0.1:8080/rerank`. */
  readonly url: string;
  readonly model: string | undefined;
  readonly apiKey: string | undefined;
}

/** What scopes' own keys for it are stored under. */
export const RERANK_PROVIDER = "rerank";

export interface Reranked {
  /** One score for each text, higher is better; undefined for a text that the model left out. */
  readonly scores: readonly (number | undefined)[];
  /** Tokens, where the endpoint says how many. */
  readonly tokens: number | undefined;
}

const REQUEST_MS = 3_000;
/** After a failure recall goes on without it for a moment. */
const PAUSE_MS = 2_000;
/** Bytes. */
const ANSWER_LIMIT = 1_000_000;
/** Texts of one request: what Text Embeddings Inference takes by default. A text's score does not depend on the others. */
const TEXTS_PER_CALL = 32;

type Shape = "documents" | "texts";

const score = z.object({ index: z.int().min(0), relevance_score: z.number().optional(), score: z.number().optional() });
const answer = z.union([
  z.array(score),
  z.object({
    results: z.array(score),
    usage: z.object({ total_tokens: z.int().min(0).max(MOST_TOKENS).optional().catch(undefined) }).optional(),
  }),
]);

const unavailable = (what: string, cause?: unknown, isRefusal = false) =>
  new ModelUnavailable(what, { model: "reranker", cause, isRefusal });

/**
 * A cross-encoder over HTTP, in the shape that Cohere and Jina share (`documents`, `results`) or that of
 * Text Embeddings Inference (`texts`, a bare array): an endpoint that refuses the first is asked in the
 * second from then on.
 */
export class Reranker {
  readonly settings: RerankerSettings;
  /** By scopes' own keys. */
  readonly #own: OwnClients<Reranker>;
  #shape: Shape = "documents";
  #pausedUntil = 0;

  /** @param open opens scopes' own keys */
  constructor(settings: RerankerSettings, open: (credential: SealedCredential) => OwnKey) {
    this.settings = settings;
    this.#own = new OwnClients(open, (key) =>
      key instanceof ModelUnavailable
        ? new Unusable(settings, open, key)
        : new Reranker({ ...settings, apiKey: key.apiKey, url: key.baseUrl ?? settings.url }, open),
    );
  }

  /** The reranker as a scope calls it: by its own key, where it has one. */
  in(credentials: Credentials): Reranker {
    const own = credentials[RERANK_PROVIDER];
    return own === undefined ? this : this.#own.of(own);
  }

  /** @throws ModelUnavailable when it does not answer in time, or not with scores */
  async rerank(query: string, texts: readonly string[]): Promise<Reranked> {
    if (performance.now() < this.#pausedUntil) throw unavailable("it failed a moment ago", undefined, true);
    try {
      const batches = [];
      for (let at = 0; at < texts.length; at += TEXTS_PER_CALL)
        batches.push(this.#ask(query, texts.slice(at, at + TEXTS_PER_CALL)));
      const settled = await Promise.allSettled(batches);
      const failed = settled.find((one) => one.status === "rejected");
      // Where one is refused, the others were ranked, and are paid.
      if (failed !== undefined && settled.length > 1) throw partlyMade(failed.reason);
      if (failed !== undefined) throw failed.reason;
      const answers = settled.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
      const scores = answers.flatMap((given) => given.scores);
      if (scores.every((given) => given === undefined)) throw unavailable("it gave no scores");
      const tokens = answers.reduce<number | undefined>(
        (sum, given) => (sum === undefined || given.tokens === undefined ? undefined : sum + given.tokens),
        0,
      );
      return { scores, tokens };
    } catch (error) {
      // What one tenant's texts have caused is no reason to leave the others without it.
      if (error instanceof ModelUnavailable) throw error;
      this.#pausedUntil = performance.now() + PAUSE_MS;
      const reason = (error as Error).name === "TimeoutError" ? "did not answer in time" : "could not be reached";
      throw unavailable(`it ${reason}`, error, wasUnreached(error));
    }
  }

  async #ask(query: string, texts: readonly string[]): Promise<Reranked> {
    const shape = this.#shape;
    let response = await this.#post(query, texts, shape);
    if ((response.status === 400 || response.status === 422) && shape === "documents") {
      await response.body?.cancel();
      response = await this.#post(query, texts, "texts");
      if (response.ok) this.#shape = "texts";
    }
    if (!response.ok) {
      await response.body?.cancel();
      if (response.status >= 500 || response.status === 429) this.#pausedUntil = performance.now() + PAUSE_MS;
      throw unavailable(`it answered ${response.status}`, undefined, true);
    }
    const body = await readAtMost(response, ANSWER_LIMIT);
    if (body === undefined) throw unavailable("its answer is too long");
    const parsed = answer.safeParse(parseJson(body));
    if (!parsed.success) throw unavailable("it gave no scores");
    const results = Array.isArray(parsed.data) ? parsed.data : parsed.data.results;
    const scores: (number | undefined)[] = texts.map(() => undefined);
    for (const { index, relevance_score, score: bare } of results) {
      if (index < scores.length) scores[index] = relevance_score ?? bare;
    }
    return { scores, tokens: Array.isArray(parsed.data) ? undefined : parsed.data.usage?.total_tokens };
  }

  #post(query: string, texts: readonly string[], shape: Shape): Promise<Response> {
    const { url, model, apiKey } = this.settings;
    const body =
      shape === "documents"
        ? { model, query, documents: texts, top_n: texts.length }
        : { query, texts, truncate: true };
    return fetch(url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(REQUEST_MS),
      redirect: "error",
    });
  }
}

/** One whose key cannot be used. */
class Unusable extends Reranker {
  readonly #reason: ModelUnavailable;

  constructor(settings: RerankerSettings, open: (credential: SealedCredential) => OwnKey, reason: ModelUnavailable) {
    super(settings, open);
    this.#reason = reason;
  }

  override async rerank(): Promise<Reranked> {
    throw this.#reason;
  }
}

/** The same failure, of a call of which a part was made. */
const partlyMade = (error: unknown): unknown =>
  error instanceof ModelUnavailable && error.isRefusal
    ? new ModelUnavailable(error.message.replace(/^the reranker is not available: /, ""), {
        model: "reranker",
        cause: error,
      })
    : error;

/** Undefined: there is more than that, which is not read. */
async function readAtMost(response: Response, bytes: number): Promise<string | undefined> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body ?? []) {
    size += part.byteLength;
    if (size > bytes) return undefined; // leaving the loop cancels the body
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
