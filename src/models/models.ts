import type { Logger } from "pino";
import type { AppError } from "../errors.ts";
import { beginCall, type Meter, type ModelCall, mostTokens, type Spent } from "../metering/model-call.ts";
import { type Calibration, calibrate } from "./calibrate.ts";
import { countAll, type Embedded, type Embedder, overLangChain, sum, type VectorText } from "./embedder.ts";
import { LexicalEmbeddings } from "./lexical-embeddings.ts";
import { type ModelName, type ProviderSettings, resolveEmbeddings } from "./providers.ts";
import type { ModelRegistry, RegisteredModel } from "./registry.ts";
import { ModelUnavailable } from "./unavailable.ts";

/** The built-in embedder under its name in the table `embedder`. */
const LOCAL: ModelName & Calibration & { readonly row: string } = {
  provider: "local",
  model: "lexical-hash-384",
  row: "lexical-hash-384",
  dimensions: LexicalEmbeddings.dimensions,
  // Unrelated sentences lie above 0.85 here; one shared rare word in a short text reaches 0.5.
  nearDistance: 0.5,
};

/** Which models the service uses, as configured. */
export interface ModelSettings extends ProviderSettings {
  /** `local`, or `provider:model`. */
  readonly embeddings: string;
  /** How long one call may take when no request waits for it, in ms. */
  readonly timeoutMs: number;
}

export const LOCAL_MODELS: ModelSettings = {
  embeddings: "local",
  timeoutMs: 60_000,
  openaiBaseUrl: undefined,
  openaiApiKey: undefined,
  ollamaBaseUrl: undefined,
};

/** While a request waits for it. Longer, and recall goes on without vectors. */
const REQUEST_MS = 3_000;
const REFRESH_MS = 60_000;

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

const rowOf = (settings: ModelSettings) => (settings.embeddings === "local" ? LOCAL.row : settings.embeddings);

function nameOf(row: string): ModelName {
  const colon = row.indexOf(":");
  return colon < 0 ? LOCAL : { provider: row.slice(0, colon), model: row.slice(colon + 1) };
}

/**
 * Registers the configured model: asks it for the length of its vectors, and compares that with what
 * it gave before. For a process that has the owner's connection.
 *
 * @throws Error with one line when the length has changed, or when a model that has never answered does not
 */
export async function registerModel(registry: ModelRegistry, settings: ModelSettings, log: Logger): Promise<void> {
  const row = rowOf(settings);
  let measured: Calibration;
  if (settings.embeddings === "local") {
    measured = LOCAL;
  } else {
    const embeddings = await resolveEmbeddings(nameOf(row), settings);
    try {
      measured = await calibrate(embeddings);
    } catch (error) {
      if (!(error instanceof ModelUnavailable)) throw error;
      if ((await registry.find(row)) === undefined) {
        throw new Error(
          `SCOPEFLOOR_EMBEDDINGS: ${row} has never answered here, so the length of its vectors is not known: ${error.message}`,
        );
      }
      log.warn(
        { model: row, reason: error.message },
        "the embedding model does not answer; texts are stored, and embedded when it does",
      );
      return;
    }
  }
  await registry.register({ name: row, dimensions: measured.dimensions, nearDistance: measured.nearDistance });
}

/** The models of a running service: the one that new texts are embedded with, and those whose vectors are still stored. */
export class Models {
  readonly current: Embedder;
  readonly #registry: ModelRegistry;
  readonly #settings: ModelSettings;
  readonly #log: Logger;
  #inUse: readonly Embedder[];
  #refreshAt = 0;
  #refreshing: Promise<void> | undefined;

  private constructor(registry: ModelRegistry, settings: ModelSettings, log: Logger, current: Embedder) {
    this.current = current;
    this.#registry = registry;
    this.#settings = settings;
    this.#log = log;
    this.#inUse = [current];
  }

  /** @throws Error when the model is not registered, or its package not installed */
  static async open(registry: ModelRegistry, settings: ModelSettings, log: Logger): Promise<Models> {
    const row = rowOf(settings);
    const known = await registry.find(row);
    if (known === undefined) {
      throw new Error(
        `the embedding model ${row} is not registered: start a worker first, or set DATABASE_OWNER_URL here`,
      );
    }
    const models = new Models(registry, settings, log, await embedderOf(known, settings));
    await models.#refresh();
    return models;
  }

  /** Whether vectors of another model than the current one are stored, in any scope at all. */
  async haveOthers(): Promise<boolean> {
    await this.#refreshIfDue();
    return this.#inUse.length > 1;
  }

  /**
   * The vectors of a query. A model that does not answer in time is left out, and named.
   *
   * @param others models, by id, that are asked besides the current one: those that the caller's own scopes
   *   hold vectors of (src/recall/vectors.ts). A model that only others use has no part in an answer.
   */
  async embedQuery(meter: Meter, query: string, others: ReadonlySet<number> = new Set()): Promise<QueryVectors> {
    const asked = this.#inUse.filter(({ id }) => id === this.current.id || others.has(id));
    const answers = await Promise.all(
      asked.map(async (embedder) => ({
        embedder,
        ...(await embedMetered(meter, embedder, [query], "query", embedder.id !== this.current.id)),
      })),
    );
    return {
      vectors: answers.flatMap(({ embedder, embedded }) => {
        const vector = embedded?.vectors[0] ?? null;
        return vector === null ? [] : [{ embedder, vector }];
      }),
      spent: answers.find(({ embedder }) => embedder.id === this.current.id)?.spent,
      spentOnOthers: answers.flatMap(({ embedder, spent }) =>
        spent === undefined || embedder.id === this.current.id ? [] : [spent],
      ),
      unavailable: answers.find(({ failure }) => failure !== undefined)?.failure,
      overBudget: answers.find(({ overBudget }) => overBudget !== undefined)?.overBudget,
    };
  }

  /** Vectors for texts that a request stores. */
  async embedNow(meter: Meter, texts: readonly string[]): Promise<EmbeddedNow> {
    const { failure, ...now } = await embedMetered(meter, this.current, texts, "document", false);
    if (failure !== undefined)
      this.#log.warn({ model: this.current.model, reason: failure }, "embedding is left to the queue");
    return now;
  }

  async #refreshIfDue(): Promise<void> {
    if (performance.now() < this.#refreshAt) return;
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined;
    });
    await this.#refreshing;
  }

  /** While a scope is moved over to another model, old and new vectors stand side by side. */
  async #refresh(): Promise<void> {
    this.#refreshAt = performance.now() + REFRESH_MS;
    const rows = await this.#registry.inUse();
    const others = await Promise.all(
      rows
        .filter((row) => row.id !== this.current.id)
        .map(async (row) => {
          const known = this.#inUse.find((embedder) => embedder.id === row.id);
          return (
            known ??
            embedderOf(row, this.#settings).catch((error: Error) => {
              this.#log.warn(
                { model: row.name, reason: error.message },
                "stored vectors of this model cannot be searched; reembed their scopes",
              );
              return undefined;
            })
          );
        }),
    );
    this.#inUse = [this.current, ...others.filter((embedder) => embedder !== undefined)];
  }
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
async function embedMetered(
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

async function embedderOf(row: RegisteredModel, settings: ModelSettings): Promise<Embedder> {
  const name = nameOf(row.name);
  const isRemote = name.provider !== LOCAL.provider;
  const local = new LexicalEmbeddings();
  return overLangChain(isRemote ? await resolveEmbeddings(name, settings) : () => local, {
    id: row.id,
    provider: name.provider,
    model: name.model,
    nearDistance: row.nearDistance,
    isRemote,
    isDense: row.isDense,
    dimensions: row.dimensions,
    patienceMs: settings.timeoutMs,
  });
}
