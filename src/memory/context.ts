import { z } from "zod";
import { json, type ScopedTransaction } from "../db/scoped.ts";
import { AppError, notFound } from "../errors.ts";
import type { Embedder } from "../models/embedder.ts";
import { recordTrace } from "../traces/record.ts";

/** What the operator may change of the one Context, with the defaults. */
export const contextSettings = {
  /** Token budget of the full_context tier. */
  fullContextTokens: z.int().min(100).max(1_000_000).optional(),
  /** Default of `maxTokens` in a context block. */
  contextTokens: z.int().min(100).max(1_000_000).optional(),
};

export interface ContextSettings {
  readonly fullContextTokens: number;
  readonly contextTokens: number;
}

export const DEFAULT_SETTINGS: ContextSettings = { fullContextTokens: 8_000, contextTokens: 2_000 };

interface ContextFacts {
  readonly context: string;
  readonly embedder: Embedder;
}

interface Stored {
  readonly config: Partial<ContextSettings>;
  readonly createdAt: string;
}

async function stored(tx: ScopedTransaction, context: string): Promise<Stored> {
  const found = await tx.call<Stored | null>("context_config", context);
  if (found === null) throw notFound();
  return found;
}

export async function settingsOf(tx: ScopedTransaction, context: string): Promise<ContextSettings> {
  return { ...DEFAULT_SETTINGS, ...(await stored(tx, context)).config };
}

/** The Context as the management plane shows it. */
export async function readContext(tx: ScopedTransaction, { context, embedder }: ContextFacts) {
  const { config, createdAt } = await stored(tx, context);
  return {
    id: context,
    config: {
      ...DEFAULT_SETTINGS,
      ...config,
      models: { embeddings: `${embedder.provider}:${embedder.model}`, chat: null },
    },
    createdAt: new Date(createdAt).toISOString(),
  };
}

/** Changes what is named and keeps the rest. Only the operator, whose floor is {}, may. */
export async function configureContext(tx: ScopedTransaction, facts: ContextFacts, change: Partial<ContextSettings>) {
  const { config } = await stored(tx, facts.context);
  const changed = await tx.call<boolean>("configure_context", facts.context, json({ ...config, ...change }));
  if (!changed) throw new AppError("forbidden", "only a management key with the floor {} changes the Context");
  await recordTrace(tx, { kind: "decision", operation: "contexts_change" });
  return readContext(tx, facts);
}
