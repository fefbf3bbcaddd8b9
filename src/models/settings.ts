import type { Calibration } from "./calibrate.ts";
import { LexicalEmbeddings } from "./lexical-embeddings.ts";
import type { ModelName, ProviderSettings } from "./providers.ts";

/** Which models the service uses, as configured. */
export interface ModelSettings extends ProviderSettings {
  /** `local`, or `provider:model`. */
  readonly embeddings: string;
  /** What scopes may choose besides, in the same form. */
  readonly offered: readonly string[];
  /** `openai:model` that reads pictures, and one that reads sound. Unset: nobody does. */
  readonly vision: string | undefined;
  readonly speech: string | undefined;
  /** 32 bytes each, the newest first: scopes' own credentials are sealed with the first, and open with any. */
  readonly credentialKeys: readonly Buffer[];
  /** Where a scope's own credential may have calls go, besides where the service's own go. */
  readonly providerUrls: readonly string[];
  /** How long one call may take when no request waits for it, in ms. */
  readonly timeoutMs: number;
}

export const LOCAL_MODELS: ModelSettings = {
  embeddings: "local",
  offered: [],
  vision: undefined,
  speech: undefined,
  credentialKeys: [],
  providerUrls: [],
  timeoutMs: 60_000,
  openaiBaseUrl: undefined,
  openaiApiKey: undefined,
  ollamaBaseUrl: undefined,
};

/** The built-in embedder under its name in the table `embedder`. */
export const LOCAL_EMBEDDINGS: ModelName & Calibration & { readonly row: string } = {
  provider: "local",
  model: "lexical-hash-384",
  row: "lexical-hash-384",
  dimensions: LexicalEmbeddings.dimensions,
  // Unrelated sentences lie above 0.85 here; one shared rare word in a short text reaches 0.5.
  nearDistance: 0.5,
};

/** A configured model's name in the table `embedder`. */
export const rowOf = (embeddings: string): string => (embeddings === "local" ? LOCAL_EMBEDDINGS.row : embeddings);

/** The model of a row there. */
export function modelOfRow(row: string): ModelName {
  const colon = row.indexOf(":");
  return colon < 0 ? LOCAL_EMBEDDINGS : { provider: row.slice(0, colon), model: row.slice(colon + 1) };
}
