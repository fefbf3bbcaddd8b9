import type { EmbeddingsInterface } from "@langchain/core/embeddings";
import type { OwnKey } from "./credentials.ts";

/** A model as configured, `provider:model`. */
export interface ModelName {
  readonly provider: string;
  readonly model: string;
}

/**
 * LangChain's packages and the class in each that embeds, by LangChain's provider names. The first two are
 * installed with the service; another is used when its package is installed beside it.
 */
const PROVIDERS: Record<string, { readonly package: string; readonly embeddings: string }> = {
  openai: { package: "@langchain/openai", embeddings: "OpenAIEmbeddings" },
  ollama: { package: "@langchain/ollama", embeddings: "OllamaEmbeddings" },
  azure_openai: { package: "@langchain/openai", embeddings: "AzureOpenAIEmbeddings" },
  cohere: { package: "@langchain/cohere", embeddings: "CohereEmbeddings" },
  mistralai: { package: "@langchain/mistralai", embeddings: "MistralAIEmbeddings" },
  google: { package: "@langchain/google", embeddings: "GoogleEmbeddings" },
  "google-genai": { package: "@langchain/google-genai", embeddings: "GoogleGenerativeAIEmbeddings" },
  "google-vertexai": { package: "@langchain/google-vertexai", embeddings: "VertexAIEmbeddings" },
  bedrock: { package: "@langchain/aws", embeddings: "BedrockEmbeddings" },
  nomic: { package: "@langchain/nomic", embeddings: "NomicEmbeddings" },
  mixedbread: { package: "@langchain/mixedbread-ai", embeddings: "MixedbreadAIEmbeddings" },
  baidu_qianfan: { package: "@langchain/baidu-qianfan", embeddings: "BaiduQianfanEmbeddings" },
  pinecone: { package: "@langchain/pinecone", embeddings: "PineconeEmbeddings" },
};

/** The provider whose models take a scope's own key. */
export const OWN_KEY_PROVIDER = "openai";

/** Makes a model's client for one call, which goes through this `fetch` where the client takes one. */
export type EmbeddingsFor = (fetch: typeof globalThis.fetch) => EmbeddingsInterface;
/** The same by the service's own key, or by another. */
export type EmbeddingsBy = (own?: OwnKey) => EmbeddingsFor;

/** What a call by a scope's own key may say: the client adds the service's own organisation, project and headers to each. */
const OWN_HEADERS = new Set(["authorization", "content-type", "accept", "user-agent"]);
export const bare =
  (fetch: typeof globalThis.fetch): typeof globalThis.fetch =>
  (input, init) =>
    fetch(input, {
      ...init,
      headers: [...new Headers(init?.headers)].filter(([name]) => OWN_HEADERS.has(name.toLowerCase())),
    });

type EmbeddingsClass = new (fields: object) => EmbeddingsInterface;

/** The provider's own variables that its client does not read by itself. */
export interface ProviderSettings {
  readonly openaiBaseUrl: string | undefined;
  /** A compatible server may need none; the client insists on one. */
  readonly openaiApiKey: string | undefined;
  readonly ollamaBaseUrl: string | undefined;
}

/**
 * @throws Error with one line that says what to do: an unknown provider, a package that is not installed
 */
export async function resolveEmbeddings(name: ModelName, settings: ProviderSettings): Promise<EmbeddingsBy> {
  const known = PROVIDERS[name.provider];
  if (known === undefined) {
    throw new Error(
      `SCOPEFLOOR_EMBEDDINGS: unknown provider ${JSON.stringify(name.provider)}; known are local, ${Object.keys(PROVIDERS).join(", ")}`,
    );
  }
  const module: Record<string, unknown> = await import(known.package).catch((cause: unknown) => {
    throw new Error(
      `SCOPEFLOOR_EMBEDDINGS: ${name.provider} needs a package that is not installed: npm install ${known.package}`,
      { cause },
    );
  });
  const Embeddings = module[known.embeddings] as EmbeddingsClass | undefined;
  if (typeof Embeddings !== "function") {
    throw new Error(`SCOPEFLOOR_EMBEDDINGS: the installed version of ${known.package} has no ${known.embeddings}`);
  }
  // The queue tries again, with the provider's own wish for a pause; here a call is one call.
  const common = { model: name.model, maxRetries: 0 };
  if (name.provider === OWN_KEY_PROVIDER) {
    return (own) => (fetch) => {
      const baseURL = own?.baseUrl ?? settings.openaiBaseUrl;
      return new Embeddings({
        ...common,
        apiKey: own?.apiKey ?? settings.openaiApiKey ?? "none",
        // Numbers as JSON: not every compatible server knows the other format.
        encodingFormat: "float",
        stripNewLines: false,
        configuration: {
          fetch: own === undefined ? fetch : bare(fetch),
          ...(baseURL === undefined ? {} : { baseURL }),
        },
      });
    };
  }
  if (name.provider === "ollama") {
    return () => (fetch) =>
      new Embeddings({
        ...common,
        fetch,
        truncate: true,
        ...(settings.ollamaBaseUrl === undefined ? {} : { baseUrl: settings.ollamaBaseUrl }),
      });
  }
  const client = new Embeddings(common);
  return () => () => client;
}
