import type { AppError } from "../errors.ts";
import { beginCall, type Meter, type ModelCall, mostTokens, type Spent } from "../metering/model-call.ts";
import { countAll, type Embedded, type Embedder, sum, type VectorText } from "./embedder.ts";
import { ModelUnavailable } from "./unavailable.ts";

/** While a request waits for it. Longer, and recall goes on without vectors. */
const REQUEST_MS = 3_000;

/** A query's vectors, one for each model whose vectors are stored. */
export interface QueryVectors {
  readonly vectors: readonly { readonly embedder: Embedder; readonly vector: VectorText }[];
  /** What the current model used; undefined: it was not called. */
  readonly spent: Spent | undefined;
  /** What the others used, each of which has a trace of its own. */
  readonly spentOnOthers: readonly Spent[];
  /** Why there are fewer vectors than models; recall is lexical for what those models embedded. */
  readonly unavailable: string | undefined;
  /** A budget had no room for a model. */
  readonly overBudget: AppError | undefined;
}

export const NO_VECTORS: QueryVectors = {
  vectors: [],
  spent: undefined,
  spentOnOthers: [],
  unavailable: undefined,
  overBudget: undefined,
};

/** Texts that a request stores, with their vectors. */
export interface EmbeddedNow {
  /** Undefined: the queue has to see to them. */
  readonly embedded: Embedded | undefined;
  /** Undefined: the model was not called. */
  readonly spent: Spent | undefined;
  /** A budget had no room for the model. */
  readonly overBudget: AppError | undefined;
}

/** The call that embeds texts, before it is made. */
export async function embeddingCall(embedder: Embedder, texts: readonly string[]): Promise<ModelCall> {
  // What runs here is counted as it will be; of another tokenizer the bytes are a bound.
  const tokens = embedder.isRemote ? texts.map(mostTokens) : await countAll(texts);
  return {
    operation: "embed",
    provider: embedder.provider,
    model: embedder.model,
    isRemote: embedder.isRemote,
    inputTokens: 0,
    embeddingTokens: sum(tokens),
  };
}

/** Embeds texts for a request, as far as its budgets allow and the model answers in time. */
export async function embedMetered(
  meter: Meter,
  embedder: Embedder,
  texts: readonly string[],
  as: "document" | "query",
  isOwn: boolean,
): Promise<EmbeddedNow & { readonly failure: string | undefined }> {
  const nothing = { embedded: undefined, spent: undefined, failure: undefined, overBudget: undefined };
  if (texts.length === 0) return nothing;
  const permit = await meter.permit(() => embeddingCall(embedder, texts), embedder.isRemote, isOwn);
  if (!permit.isGiven) return { ...nothing, failure: permit.reason, overBudget: permit.error };
  const { provider, model, isRemote } = embedder;
  const note = beginCall(meter, { operation: "embed", provider, model, isRemote }, permit.traceId);
  try {
    const embedded = await embedder.embed(texts, { timeoutMs: REQUEST_MS, as });
    return { ...nothing, embedded, spent: note({ embeddingTokens: embedded.tokens }, embedded.tokenSource, "ok") };
  } catch (error) {
    if (!(error instanceof ModelUnavailable)) throw error;
    return { ...nothing, spent: note({ embeddingTokens: error.tokens }, "tokenizer", "error"), failure: error.message };
  }
}
