import { setImmediate } from "node:timers/promises";
import type { EmbeddingsInterface } from "@langchain/core/embeddings";
import { observe } from "./observed-fetch.ts";
import type { EmbeddingsFor } from "./providers.ts";
import { countTokens } from "./tokens.ts";
import { codeOf, type ModelRole, ModelUnavailable, wasUnreached } from "./unavailable.ts";
import { checkVectors, type VectorText } from "./vectors.ts";

export type { VectorText };

/** Where a number of tokens comes from. */
export type TokenSource = "provider" | "tokenizer";

export interface Embedded {
  /** The model's row in `embedder`. */
  readonly embedderId: number;
  /** One for each text; null where the model finds nothing in it. */
  readonly vectors: (VectorText | null)[];
  /** What it cost, as the provider says, or else as the service's tokenizer counts. */
  readonly tokens: number;
  readonly tokenSource: TokenSource;
}

/** A model, with what the service has to know about it. */
export interface Embedder {
  /** The row in `embedder`: vectors of two models are never compared. */
  readonly id: number;
  readonly provider: string;
  readonly model: string;
  /** Cosine distance below which two texts are about the same thing, for this model. */
  readonly nearDistance: number;
  /** Whether it answers over a network, so that it may be slow or down. */
  readonly isRemote: boolean;
  /** Whether the signs of its vectors' components tell texts apart, as a provider's model's do. */
  readonly isDense: boolean;
  /** Length of its vectors; undefined only where it is not known yet. */
  readonly dimensions: number | undefined;
  /** @throws ModelUnavailable */
  embed(texts: readonly string[], options?: EmbedOptions): Promise<Embedded>;
}

export interface EmbedOptions {
  /** For each call to the model; absent: as long as a job may wait. */
  readonly timeoutMs?: number;
  /** Some models embed a question in another way than what answers it. */
  readonly as?: "document" | "query";
}

/** Texts in one call to a model. */
const TEXTS_PER_CALL = 64;
/** Characters in one call: providers limit the tokens of a request, and a batch of long texts is slow. */
const CHARACTERS_PER_CALL = 200_000;
/** After so many failures in a row, whoever's texts they were about, a model is left alone for a moment. */
const FAILURES_BEFORE_PAUSE = 3;
const PAUSE_MS = 2_000;

export interface EmbedderFacts
  extends Pick<Embedder, "id" | "provider" | "model" | "nearDistance" | "isRemote" | "isDense" | "dimensions"> {
  /** How long a call may take where nobody waits for it. */
  readonly patienceMs: number;
}

/** A LangChain model as the service uses it: in batches, under a deadline, its vectors checked. */
export function overLangChain(embeddings: EmbeddingsFor, facts: EmbedderFacts): Embedder {
  const { patienceMs, ...known } = facts;
  const { dimensions } = facts;
  let pausedUntil = 0;
  let failures = 0;

  const vectorsOf = async (client: EmbeddingsInterface, texts: readonly string[], as: EmbedOptions["as"]) =>
    as === "query" ? Promise.all(texts.map((text) => client.embedQuery(text))) : client.embedDocuments([...texts]);

  const call = async (texts: readonly string[], timeoutMs: number, as: EmbedOptions["as"]) => {
    const wait = pausedUntil - performance.now();
    if (wait > 0)
      throw new ModelUnavailable("it failed a moment ago, and is left alone", { retryAfterMs: wait, isRefusal: true });
    let said: number | undefined;
    try {
      const { result, tokens } = await observe(timeoutMs, (fetch) => vectorsOf(embeddings(fetch), texts, as), {
        onTokens: (used) => {
          said = used;
        },
      });
      const vectors = checkVectors(result, { count: texts.length, dimensions });
      failures = 0;
      return { vectors, tokens };
    } catch (error) {
      const failure = asUnavailable(error);
      // A provider that has got the texts may bill them.
      failure.tokens = said ?? (failure.isRefusal ? 0 : sum(await countAll(texts)));
      // What a text is to blame for must not take the model away from other people's texts.
      if (!failure.mayBeText) failures++;
      if (failure.retryAfterMs !== undefined || failures >= FAILURES_BEFORE_PAUSE) {
        pausedUntil = performance.now() + (failure.retryAfterMs ?? PAUSE_MS);
        failures = 0;
      }
      throw failure;
    }
  };

  return {
    ...known,
    async embed(texts, { timeoutMs = patienceMs, as } = {}) {
      if (!facts.isRemote) {
        const vectors = checkVectors(await vectorsOf(embeddings(fetch), texts, as), {
          count: texts.length,
          dimensions,
        });
        return { embedderId: facts.id, vectors, tokens: sum(await countAll(texts)), tokenSource: "tokenizer" };
      }
      const vectors: (VectorText | null)[] = [];
      let said = 0;
      let isSaid = true;
      for (const batch of inBatches(texts)) {
        const answer = await call(batch, timeoutMs, as).catch(async (error: unknown) => {
          // What the batches before have used is used.
          if (error instanceof ModelUnavailable && vectors.length > 0)
            error.tokens += isSaid ? said : sum(await countAll(texts.slice(0, vectors.length)));
          throw error;
        });
        vectors.push(...answer.vectors);
        if (answer.tokens === undefined) isSaid = false;
        said += answer.tokens ?? 0;
      }
      return isSaid
        ? { embedderId: facts.id, vectors, tokens: said, tokenSource: "provider" }
        : { embedderId: facts.id, vectors, tokens: sum(await countAll(texts)), tokenSource: "tokenizer" };
    },
  };
}

export const sum = (numbers: readonly number[]) => numbers.reduce((total, n) => total + n, 0);

/** Model tokens of each text, by the service's tokenizer. */
export async function countAll(texts: readonly string[]): Promise<number[]> {
  const counts = [];
  let since = 0;
  for (const text of texts) {
    counts.push(countTokens(text));
    since += text.length;
    // Ten thousand characters take milliseconds: other requests go on between them.
    if (since < 10_000) continue;
    since = 0;
    await setImmediate();
  }
  return counts;
}

function* inBatches(texts: readonly string[]): Generator<string[]> {
  let batch: string[] = [];
  let characters = 0;
  for (const text of texts) {
    if (batch.length === TEXTS_PER_CALL || (batch.length > 0 && characters + text.length > CHARACTERS_PER_CALL)) {
      yield batch;
      batch = [];
      characters = 0;
    }
    batch.push(text);
    characters += text.length;
  }
  if (batch.length > 0) yield batch;
}

/** Clients wrap what the observed `fetch` threw; what they threw themselves may quote the text, so only its name is kept. */
export function asUnavailable(error: unknown, model?: ModelRole): ModelUnavailable {
  for (let cause: unknown = error, depth = 0; cause instanceof Error && depth < 6; cause = cause.cause, depth++) {
    if (cause instanceof ModelUnavailable) return cause;
  }
  if (error instanceof Error && /^the model gave /.test(error.message))
    return new ModelUnavailable(error.message, { model, cause: error, mayBeText: true });
  const code = codeOf(error);
  return new ModelUnavailable(code === undefined ? "the call failed" : `the call failed (${code})`, {
    model,
    cause: error,
    isRefusal: wasUnreached(error),
  });
}
