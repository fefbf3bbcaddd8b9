import type { AppError } from "../errors.ts";
import type { TokenSource } from "../models/embedder.ts";

/** A call to a model before it is made, with the most tokens that it can use. */
export interface ModelCall {
  /** As its trace names it: `embed`, `rerank`. */
  readonly operation: string;
  readonly provider: string;
  readonly model: string | null;
  /** Whether it goes to a provider, who may bill it whatever becomes of the answer. */
  readonly isRemote: boolean;
  readonly inputTokens: number;
  /** Absent: it gives no text. */
  readonly outputTokens?: number;
  readonly embeddingTokens: number;
}

export type UsedTokens = Required<Pick<ModelCall, "inputTokens" | "outputTokens" | "embeddingTokens">>;

/** A call that was made, with what it used. */
export interface Spent extends ModelCall {
  readonly tokenSource: TokenSource;
  readonly durationMs: number;
  readonly status: "ok" | "error";
  /** Of the permit that it was made with. */
  readonly traceId?: string | undefined;
}

/** Whether a call may be made. */
export type Permit =
  | {
      readonly isGiven: true;
      /** The id of the trace that is to say what it used; absent: any. */
      readonly traceId?: string | undefined;
    }
  | {
      readonly isGiven: false;
      /** Why not, in words for whoever asked. */
      readonly reason: string;
      /** What to answer where nothing can be done without the model. */
      readonly error?: AppError;
    };

/** Who pays for calls to models, and keeps them within budgets. */
export interface Meter {
  /**
   * Asked before each call.
   *
   * @param call says what it may use, where that has to be known
   * @param isOwn the call has a trace of its own, and is no part of the request's
   */
  permit(call: () => ModelCall | Promise<ModelCall>, isRemote: boolean, isOwn: boolean): Promise<Permit>;
  /** Told of each call that was made. */
  note(spent: Spent): void;
}

/**
 * Begins a call that a permit was given for. What it gives is told what the call has used, once it is over.
 *
 * @param traceId of the permit
 */
export function beginCall(
  meter: Meter,
  call: Omit<ModelCall, "inputTokens" | "embeddingTokens">,
  traceId: string | undefined,
) {
  const startedAt = performance.now();
  return (
    used: Partial<Pick<ModelCall, "inputTokens" | "embeddingTokens">>,
    tokenSource: TokenSource,
    status: Spent["status"],
  ): Spent => {
    const durationMs = performance.now() - startedAt;
    const spent = { inputTokens: 0, embeddingTokens: 0, ...call, ...used, tokenSource, status, durationMs, traceId };
    meter.note(spent);
    return spent;
  };
}

/** For calls of the service itself, that no tenant pays. */
export const UNMETERED: Meter = { permit: async () => ({ isGiven: true }), note: () => undefined };

/** What a tokenizer may add to a text, in tokens: marks of its beginning and end, and a prefix. */
const TOKENS_AROUND = 16;

/** Tokens that a text can have at most: each stands for a byte of UTF-8 or more. */
export const mostTokens = (text: string): number => Buffer.byteLength(text) + TOKENS_AROUND;
