import { z } from "zod";
import { ModelUnavailable } from "./unavailable.ts";

export interface RerankerSettings {
  /** The endpoint itself, such as `http://127.0.0.1:8080/rerank`. */
  readonly url: string;
  readonly model: string | undefined;
  readonly apiKey: string | undefined;
}

export interface Reranked {
  /** One score for each text, higher is better; undefined for a text that the model left out. */
  readonly scores: readonly (number | undefined)[];
  /** Tokens, where the endpoint says how many. */
  readonly tokens: number | undefined;
}

const REQUEST_MS = 3_000;
/** After a failure recall goes on without it for a moment. */
const PAUSE_MS = 2_000;
const ANSWER_LIMIT = 1_000_000;

const score = z.object({ index: z.int().min(0), relevance_score: z.number().optional(), score: z.number().optional() });
const answer = z.union([
  z.array(score),
  z.object({
    results: z.array(score),
    usage: z.object({ total_tokens: z.int().min(0).optional() }).optional(),
  }),
]);

/**
 * A cross-encoder over HTTP, in the shape that Cohere and Jina share (`documents`, `results`) or that of
 * Text Embeddings Inference (`texts`, a bare array): an endpoint that refuses the first is asked in the
 * second from then on.
 */
export class Reranker {
  readonly settings: RerankerSettings;
  #shape: "documents" | "texts" = "documents";
  #pausedUntil = 0;

  constructor(settings: RerankerSettings) {
    this.settings = settings;
  }

  /** @throws ModelUnavailable when it does not answer in time, or not with scores */
  async rerank(query: string, texts: readonly string[]): Promise<Reranked> {
    if (performance.now() < this.#pausedUntil) throw new ModelUnavailable("the reranker failed a moment ago");
    try {
      return await this.#ask(query, texts);
    } catch (error) {
      this.#pausedUntil = performance.now() + PAUSE_MS;
      if (error instanceof ModelUnavailable) throw error;
      const reason = (error as Error).name === "TimeoutError" ? "did not answer in time" : "could not be reached";
      throw new ModelUnavailable(`the reranker ${reason}`, { cause: error });
    }
  }

  async #ask(query: string, texts: readonly string[]): Promise<Reranked> {
    let response = await this.#post(query, texts);
    if ((response.status === 400 || response.status === 422) && this.#shape === "documents") {
      await response.body?.cancel();
      this.#shape = "texts";
      response = await this.#post(query, texts);
      if (!response.ok) this.#shape = "documents";
    }
    if (!response.ok) {
      await response.body?.cancel();
      throw new ModelUnavailable(`the reranker answered ${response.status}`);
    }
    const body = await response.text();
    if (body.length > ANSWER_LIMIT) throw new ModelUnavailable("the reranker's answer is too long");
    const parsed = answer.safeParse(parseJson(body));
    if (!parsed.success) throw new ModelUnavailable("the reranker gave no scores");
    const results = Array.isArray(parsed.data) ? parsed.data : parsed.data.results;
    const scores: (number | undefined)[] = texts.map(() => undefined);
    for (const { index, relevance_score, score: bare } of results) {
      if (index < scores.length) scores[index] = relevance_score ?? bare;
    }
    if (scores.every((given) => given === undefined)) throw new ModelUnavailable("the reranker gave no scores");
    return { scores, tokens: Array.isArray(parsed.data) ? undefined : parsed.data.usage?.total_tokens };
  }

  #post(query: string, texts: readonly string[]): Promise<Response> {
    const { url, model, apiKey } = this.settings;
    const body =
      this.#shape === "documents"
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

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
