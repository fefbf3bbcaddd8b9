import { MOST_TOKENS } from "./tokens.ts";
import { type ModelRole, ModelUnavailable, retryAfterOf } from "./unavailable.ts";

/** The largest answer that is read: 2,048 vectors of 4,096 numbers are about 100 MB of JSON. */
const MOST_BYTES = 128 * 1024 * 1024;

/**
 * Runs a model call under a deadline and gives what it returned with the tokens that the provider
 * said it used. LangChain's embeddings do not hand the usage on, so it is read off the answers here:
 * `usage.prompt_tokens` or `usage.total_tokens` (OpenAI and what is compatible), `prompt_eval_count` (Ollama).
 *
 * @param call is handed a `fetch` of this one call, for the provider's client: their clients queue calls, so
 *   that nothing but this tells whose an answer is
 * @param options.onTokens told what was used, whatever becomes of the call
 * @param options.model as errors call it
 * @throws ModelUnavailable after `timeoutMs`
 */
export async function observe<T>(
  timeoutMs: number,
  call: (fetch: typeof globalThis.fetch) => Promise<T>,
  {
    onTokens = () => undefined,
    model,
  }: { readonly onTokens?: (tokens: number) => void; readonly model?: ModelRole } = {},
): Promise<{ result: T; tokens: number | undefined }> {
  const controller = new AbortController();
  let tokens: number | undefined;
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new ModelUnavailable(`it did not answer within ${timeoutMs} ms`, { model }));
      controller.abort();
    }, timeoutMs);
  });
  const fetch = observedFetch(controller.signal, model, (used) => {
    tokens = (tokens ?? 0) + used;
  });
  try {
    // Some clients have no way to be stopped: the deadline does not wait for them.
    const result = await Promise.race([call(fetch), deadline]);
    return { result, tokens };
  } finally {
    clearTimeout(timer);
    if (tokens !== undefined) onTokens(tokens);
  }
}

/** A `fetch` for a provider's client: it goes nowhere else than it was sent (a redirect is a failure), ends with the deadline, reads the usage, and says what failed. */
const observedFetch =
  (deadline: AbortSignal, model: ModelRole | undefined, onTokens: (tokens: number) => void): typeof globalThis.fetch =>
  async (input, init) => {
    const signals = [init?.signal, deadline].filter((signal) => signal !== undefined && signal !== null);
    const response = await fetch(input, { ...init, redirect: "manual", signal: AbortSignal.any(signals) });
    if (!response.ok) {
      await response.body?.cancel();
      throw new ModelUnavailable(`it answered ${response.status}`, {
        model,
        retryAfterMs: retryAfterOf(response.headers.get("retry-after")),
        mayBeText: [400, 413, 422].includes(response.status),
        isRefusal: true,
      });
    }
    const body = await readLimited(response, model);
    let answer: unknown;
    try {
      answer = JSON.parse(body);
    } catch (cause) {
      throw new ModelUnavailable("it answered something that is not JSON", { cause, model });
    }
    const tokens = tokensIn(answer);
    if (tokens !== undefined) onTokens(tokens);
    return new Response(body, { status: response.status, headers: { "content-type": "application/json" } });
  };

async function readLimited(response: Response, model: ModelRole | undefined): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body ?? []) {
    size += part.length;
    if (size > MOST_BYTES) throw new ModelUnavailable(`it answered more than ${MOST_BYTES} bytes`, { model });
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function tokensIn(answer: unknown): number | undefined {
  const said = answer as {
    usage?: { prompt_tokens?: unknown; total_tokens?: unknown };
    prompt_eval_count?: unknown;
  } | null;
  const tokens = said?.usage?.prompt_tokens ?? said?.usage?.total_tokens ?? said?.prompt_eval_count;
  return typeof tokens === "number" && Number.isInteger(tokens) && tokens >= 0 && tokens <= MOST_TOKENS
    ? tokens
    : undefined;
}
