import { z } from "zod";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError, notFound } from "../errors.ts";
import type { Models } from "../models/models.ts";
import { VIEWS, type View } from "../scope/visibility.ts";
import { Analyser } from "../text/analysis/analyse.ts";
import { LANGUAGES } from "../text/analysis/languages.ts";
import { recordTrace } from "../traces/record.ts";

/** What the operator may change of the Context, and whoever manages a scope of that and all below it. */
export const contextSettings = {
  /** Token budget of the full_context tier. */
  fullContextTokens: z.int().min(100).max(1_000_000).optional(),
  /** Default of `maxTokens` in a context block. */
  contextTokens: z.int().min(100).max(1_000_000).optional(),
  /** How old an answer from the cache may be; 0: there is no cache. */
  cacheSeconds: z.int().min(0).max(86_400).optional(),
  /** How long a fact or turn of the category context is so, from when it was observed. */
  contextDays: z.int().min(1).max(3_650).optional(),
  /** The language of all texts, ISO 639-1; auto: each text's is found out. */
  language: z.enum(["auto", ...LANGUAGES.keys()]).optional(),
  /** Model tokens of a document's parts, at most, by four characters each. */
  chunkTokens: z.int().min(50).max(2_000).optional(),
  /** Whether the reranker is asked, where there is one. */
  reranker: z.boolean().optional(),
  /** What texts are embedded with from then on: `local` or `provider:model`, of those that the operator offers. */
  embeddings: z.string().min(1).max(241).optional(),
  /** Whether pictures, sound, and pages of which there is only a picture are sent to the models that the operator has set for them. */
  mediaReading: z.boolean().optional(),
  /** What keys that are minted from then on see where a request does not say. */
  defaultView: z.enum(VIEWS).optional(),
};

export interface ContextSettings {
  readonly fullContextTokens: number;
  readonly contextTokens: number;
  readonly cacheSeconds: number;
  readonly contextDays: number;
  readonly language: string;
  readonly chunkTokens: number;
  readonly reranker: boolean;
  readonly mediaReading: boolean;
  /** Undefined: the service's. */
  readonly embeddings?: string;
  /** Undefined: `strict` for agents, `subtree` for others. */
  readonly defaultView?: View;
}

export const DEFAULT_SETTINGS: ContextSettings = {
  fullContextTokens: 8_000,
  contextTokens: 2_000,
  cacheSeconds: 3_600,
  contextDays: 7,
  language: "auto",
  chunkTokens: 250,
  reranker: true,
  mediaReading: false,
};

interface ContextFacts {
  readonly context: string;
  readonly models: Pick<Models, "standard">;
}

/** The settings in force, as entering the transaction brought them. */
export function settingsOf(tx: ScopedTransaction): ContextSettings {
  return { ...DEFAULT_SETTINGS, ...(tx.entry.settings as Partial<ContextSettings>) };
}

/** The text analysis as the Context has it. */
export const analyserOf = (tx: ScopedTransaction): Analyser => new Analyser(settingsOf(tx).language);

const DAY_SECONDS = 86_400;
export const contextSecondsOf = (tx: ScopedTransaction): number => settingsOf(tx).contextDays * DAY_SECONDS;

/** The Context as the management plane shows it. */
export async function readContext(tx: ScopedTransaction, facts: ContextFacts) {
  return describe(tx, facts, settingsOf(tx));
}

async function describe(tx: ScopedTransaction, { context, models }: ContextFacts, settings: ContextSettings) {
  const createdAt = await tx.call<string | null>("context_created_at", context);
  if (createdAt === null) throw notFound();
  return {
    id: context,
    config: { ...settings, models: { embeddings: `${models.standard.provider}:${models.standard.model}`, chat: null } },
    createdAt: new Date(createdAt).toISOString(),
  };
}

/** Changes what is named and keeps the rest. Only the operator, whose floor is {}, may. */
export async function configureContext(tx: ScopedTransaction, facts: ContextFacts, change: Partial<ContextSettings>) {
  const changed = await tx.call<boolean>("configure_context", facts.context, json(change));
  if (!changed)
    throw new AppError(
      "forbidden",
      "only a management key with the floor {}, with content and the verbs memory:read, memory:write and memory:forget changes the Context",
    );
  recordTrace(tx, { kind: "decision", operation: "contexts_change" });
  return describe(tx, facts, { ...settingsOf(tx), ...change });
}
