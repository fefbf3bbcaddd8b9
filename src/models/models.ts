import type { Logger } from "pino";
import type { Meter } from "../metering/model-call.ts";
import { CredentialSeal, type Credentials, OwnClients, opener } from "./credentials.ts";
import { type Embedder, overLangChain } from "./embedder.ts";
import { LexicalEmbeddings } from "./lexical-embeddings.ts";
import { MediaReaders } from "./media.ts";
import { type EmbeddedNow, embedMetered, type QueryVectors } from "./metered.ts";
import { type EmbeddingsBy, OWN_KEY_PROVIDER, resolveEmbeddings } from "./providers.ts";
import type { ModelRegistry, RegisteredModel } from "./registry.ts";
import { LOCAL_EMBEDDINGS, type ModelSettings, modelOfRow, rowOf } from "./settings.ts";
import { ModelUnavailable } from "./unavailable.ts";

const REFRESH_MS = 60_000;

/** What a scope, or one above it, has chosen for itself. */
export interface ModelChoice {
  /** The embedding model, as its setting names it; undefined: the service's. */
  readonly embeddings?: string | undefined;
  /** Its own keys; of a provider without one, the service's. */
  readonly credentials?: Credentials;
}

/** A model, by the service's own key or by a scope's. */
interface Model {
  readonly standard: Embedder;
  readonly own: OwnClients<Embedder> | undefined;
}

/** The models of a running service: the one that texts are embedded with unless their scope chooses another, those that it may choose, and those whose vectors are still stored. */
export class Models {
  /** Whether any is called over a network, so that it matters which one a scope has chosen, and by whose key it is called. */
  readonly areRemote: boolean;
  /** Seals and opens scopes' own credentials. */
  readonly seal: CredentialSeal;
  /** Read pictures and sound, where the operator has set any. */
  readonly media: MediaReaders;
  readonly settings: ModelSettings;
  readonly #registry: ModelRegistry;
  readonly #log: Logger;
  readonly #standard: Model;
  /** By the name that settings have for it; the standard model too. */
  readonly #offered: ReadonlyMap<string, Model>;
  #inUse: readonly Model[] = [];
  #refreshAt = 0;
  #refreshing: Promise<void> | undefined;

  private constructor(
    registry: ModelRegistry,
    settings: ModelSettings,
    log: Logger,
    seal: CredentialSeal,
    offered: ReadonlyMap<string, Model>,
    standard: Model,
  ) {
    this.#registry = registry;
    this.settings = settings;
    this.#log = log;
    this.seal = seal;
    this.media = new MediaReaders(settings, seal);
    this.#offered = offered;
    this.areRemote = [...offered.values()].some(({ standard: { isRemote } }) => isRemote);
    this.#standard = standard;
  }

  /** @throws Error when the model is not registered, or its package not installed */
  static async open(registry: ModelRegistry, settings: ModelSettings, log: Logger): Promise<Models> {
    const seal = new CredentialSeal(settings.credentialKeys);
    const offered = new Map<string, Model>();
    for (const name of new Set([settings.embeddings, ...settings.offered])) {
      const known = await registry.find(rowOf(name));
      if (known !== undefined) offered.set(name, await modelOf(known, settings, seal));
    }
    const standard = offered.get(settings.embeddings);
    if (standard === undefined) {
      throw new Error(
        `the embedding model ${rowOf(settings.embeddings)} is not registered: start a worker first, or set DATABASE_OWNER_URL here`,
      );
    }
    const models = new Models(registry, settings, log, seal, offered, standard);
    await models.#refresh();
    return models;
  }

  /** What texts are embedded with where their scope has no choice of its own, by the service's own key. */
  get standard(): Embedder {
    return this.#standard.standard;
  }

  /** What a scope may choose, each with its id. */
  get offered(): ReadonlyMap<string, number> {
    return new Map([...this.#offered].map(([name, { standard }]) => [name, standard.id]));
  }

  /** Whether vectors of another model than the standard one may be stored, in any scope at all. */
  async haveOthers(): Promise<boolean> {
    await this.#refreshIfDue();
    return this.#inUse.length > 1;
  }

  /** The models as a scope has chosen them. */
  in({ embeddings = this.settings.embeddings, credentials = {} }: ModelChoice = {}): ScopeModels {
    const byKey = ({ standard, own }: Model): Embedder => {
      const credential = credentials[standard.provider];
      return credential === undefined || own === undefined ? standard : own.of(credential);
    };
    // One that is not offered any more is as if nobody had chosen it.
    const current = byKey(this.#offered.get(embeddings) ?? this.#standard);
    return new ScopeModels(current, () => this.#inUse.map(byKey), this.#log);
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
    const offered = [...this.#offered.values()];
    const others = await Promise.all(
      rows
        .filter(({ id }) => !offered.some(({ standard }) => standard.id === id))
        .map(
          async (row) =>
            this.#inUse.find(({ standard }) => standard.id === row.id) ??
            modelOf(row, this.settings, this.seal).catch((error: Error) => {
              this.#log.warn(
                { model: row.name, reason: error.message },
                "stored vectors of this model cannot be searched; reembed their scopes",
              );
              return undefined;
            }),
        ),
    );
    this.#inUse = [...offered, ...others.filter((model) => model !== undefined)];
  }
}

/** The models as one scope has them. */
export class ScopeModels {
  /** The one that its texts are embedded with. */
  readonly current: Embedder;
  readonly #all: () => readonly Embedder[];
  readonly #log: Logger;

  constructor(current: Embedder, all: () => readonly Embedder[], log: Logger) {
    this.current = current;
    this.#all = all;
    this.#log = log;
  }

  /**
   * The vectors of a query. A model that does not answer in time is left out, and named.
   *
   * @param others models, by id, that are asked besides the current one: those that the caller's own scopes
   *   hold vectors of (src/recall/vectors.ts). A model that only others use has no part in an answer.
   */
  async embedQuery(meter: Meter, query: string, others: ReadonlySet<number> = new Set()): Promise<QueryVectors> {
    const { current } = this;
    const asked = [current, ...this.#all().filter(({ id }) => id !== current.id && others.has(id))];
    const answers = await Promise.all(
      asked.map(async (embedder) => ({
        embedder,
        ...(await embedMetered(meter, embedder, [query], "query", embedder !== current)),
      })),
    );
    return {
      vectors: answers.flatMap(({ embedder, embedded }) => {
        const vector = embedded?.vectors[0] ?? null;
        return vector === null ? [] : [{ embedder, vector }];
      }),
      spent: answers[0]?.spent,
      spentOnOthers: answers.slice(1).flatMap(({ spent }) => (spent === undefined ? [] : [spent])),
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
}

async function modelOf(row: RegisteredModel, settings: ModelSettings, seal: CredentialSeal): Promise<Model> {
  const name = modelOfRow(row.name);
  const isRemote = name.provider !== LOCAL_EMBEDDINGS.provider;
  const local = new LexicalEmbeddings();
  const by: EmbeddingsBy = isRemote ? await resolveEmbeddings(name, settings) : () => () => local;
  const facts = {
    id: row.id,
    provider: name.provider,
    model: name.model,
    nearDistance: row.nearDistance,
    isRemote,
    isDense: row.isDense,
    dimensions: row.dimensions,
    patienceMs: settings.timeoutMs,
  };
  return {
    standard: overLangChain(by(), facts),
    own:
      name.provider === OWN_KEY_PROVIDER
        ? new OwnClients(opener(seal, settings.providerUrls), (key) =>
            key instanceof ModelUnavailable ? failing(key, facts) : overLangChain(by(key), facts),
          )
        : undefined,
  };
}

/** A model that cannot be called. */
const failing = (reason: ModelUnavailable, facts: Parameters<typeof overLangChain>[1]): Embedder => ({
  ...facts,
  embed: async () => {
    throw reason;
  },
});
