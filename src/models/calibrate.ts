import { asUnavailable } from "./embedder.ts";
import { observe } from "./observed-fetch.ts";
import type { EmbeddingsFor } from "./providers.ts";
import { checkVectors } from "./vectors.ts";

/** Pairs that say the same thing in other words, each about something else than the others. */
const PAIRS = [
  [
    "The meeting was moved from Monday to Thursday morning.",
    "Our appointment now takes place on Thursday instead of Monday.",
  ],
  ["She is allergic to peanuts and shellfish.", "Peanuts and seafood make her sick because of an allergy."],
  ["The invoice for March has not been paid yet.", "Payment of the March bill is still outstanding."],
  [
    "Our database server ran out of disk space last night.",
    "Yesterday evening the disk of the database machine was full.",
  ],
] as const;

const START_MS = 15_000;

export interface Calibration {
  readonly dimensions: number;
  /** Cosine distance below which two texts are about the same thing, for this model. */
  readonly nearDistance: number;
}

/**
 * Asks a model for a few vectors: their length, and how near texts about the same thing lie (the
 * distance two fifths of the way from paraphrases to unrelated sentences, by the medians of both).
 *
 * @throws ModelUnavailable
 */
export async function calibrate(embeddings: EmbeddingsFor): Promise<Calibration> {
  let vectors: number[][];
  try {
    ({ result: vectors } = await observe(START_MS, (fetch) => embeddings(fetch).embedDocuments(PAIRS.flat())));
    checkVectors(vectors, { count: PAIRS.length * 2, dimensions: vectors[0]?.length });
  } catch (error) {
    throw asUnavailable(error);
  }
  const same: number[] = [];
  const other: number[] = [];
  for (let i = 0; i < vectors.length; i++) {
    for (let j = i + 1; j < vectors.length; j++) {
      const pair = j === i + 1 && i % 2 === 0;
      (pair ? same : other).push(cosineDistance(vectors[i] ?? [], vectors[j] ?? []));
    }
  }
  const near = median(same) + 0.4 * (median(other) - median(same));
  return {
    dimensions: vectors[0]?.length ?? 0,
    nearDistance: Math.round(Math.min(0.9, Math.max(0.05, near)) * 1000) / 1000,
  };
}

function cosineDistance(a: readonly number[], b: readonly number[]): number {
  const dot = a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);
  const length = Math.hypot(...a) * Math.hypot(...b);
  return length === 0 ? 1 : 1 - dot / length;
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 1;
}
