import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { LexicalEmbeddings } from "../../src/models/lexical-embeddings.ts";
import { LOCAL_MODELS, type ModelSettings } from "../../src/models/settings.ts";

/** What a call gets; `ok` is a good answer. */
export type Behaviour =
  | "ok"
  | "no usage"
  | "absurd usage"
  | "429"
  | "500"
  | "400"
  | "hang"
  | "reset"
  | "wrong dimension"
  | "nan"
  | "garbage"
  | ((texts: readonly string[]) => Behaviour);

export interface EmbeddingProvider {
  /** OpenAI's shape, under the model's name `scripted`. The same server speaks Ollama's at `/api/embed`. */
  readonly models: ModelSettings;
  /** The same with another model's name, and so other vectors; `dense` gives 256 components of which hardly any is 0. */
  modelNamed(name: string): ModelSettings;
  readonly calls: { texts: string[]; at: number; model: string; key: string; headers: IncomingHttpHeaders }[];
  /** Keys that it does not know. */
  readonly unknownKeys: Set<string>;
  behave(behaviour: Behaviour): void;
  /** Before each answer. */
  delayMs: number;
  stop(): Promise<void>;
}

const DENSE = 256;

/** A random projection: about the same cosines, with hardly a component that is 0. */
function densely(vector: readonly number[]): number[] {
  const dense = new Array<number>(DENSE).fill(0);
  for (const [i, x] of vector.entries()) {
    if (x === 0) continue;
    let state = (i + 1) * 0x9e3779b9;
    for (let j = 0; j < DENSE; j++) {
      state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x297a2d39;
      dense[j] = (dense[j] ?? 0) + ((state >>> 31) & 1 ? x : -x);
    }
  }
  return dense;
}

/** A provider of embeddings over real HTTP, which does what the test says. */
export async function startProvider(): Promise<EmbeddingProvider> {
  const embeddings = new LexicalEmbeddings();
  let behaviour: Behaviour = "ok";
  const calls: EmbeddingProvider["calls"] = [];
  const unknownKeys = new Set<string>();
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const { input, model } = JSON.parse(Buffer.concat(parts).toString()) as { input: string | string[]; model: string };
    const texts = Array.isArray(input) ? input : [input];
    const key = (request.headers.authorization ?? "").replace(/^Bearer /, "");
    calls.push({ texts, at: performance.now(), model, key, headers: request.headers });
    if (provider.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, provider.delayMs));
    let now = behaviour;
    while (typeof now === "function") now = now(texts);
    const json = (status: number, body: unknown, headers = {}) => {
      response.writeHead(status, { "content-type": "application/json", ...headers });
      response.end(typeof body === "string" ? body : JSON.stringify(body));
    };
    if (unknownKeys.has(key)) return json(401, { error: { message: `Incorrect API key provided: ${key}` } });
    if (now === "hang") return;
    if (now === "reset") return void response.socket?.destroy();
    if (now === "429") return json(429, { error: { message: "slow down" } }, { "retry-after": "1" });
    if (now === "500") return json(500, { error: { message: "broken" } });
    if (now === "400") return json(400, { error: { message: `I do not like ${texts.join()}` } });
    if (now === "garbage") return json(200, '{"data": [{"embedding": [0.1, ');
    const shift = model === "other" ? 1 : 0;
    const vectors = (await embeddings.embedDocuments(texts)).map((vector) =>
      model === "dense" ? densely(vector) : [...vector.slice(shift), ...vector.slice(0, shift)],
    );
    const spoilt = vectors.map((vector) =>
      now === "wrong dimension" ? vector.slice(1) : now === "nan" ? [null, ...vector.slice(1)] : vector,
    );
    if (request.url === "/api/embed")
      return json(200, { model, embeddings: spoilt, prompt_eval_count: 7 * texts.length });
    const tokens = now === "absurd usage" ? 3_000_000_000 : 1000 * texts.length;
    json(200, {
      data: spoilt.map((embedding, index) => ({ object: "embedding", index, embedding })),
      model,
      ...(now === "no usage" ? {} : { usage: { prompt_tokens: tokens, total_tokens: tokens } }),
    });
  };
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const modelNamed = (name: string): ModelSettings => ({
    ...LOCAL_MODELS,
    embeddings: `openai:${name}`,
    timeoutMs: 4_000,
    openaiApiKey: "test",
    openaiBaseUrl: `${origin}/v1`,
    ollamaBaseUrl: origin,
  });
  const provider: EmbeddingProvider = {
    delayMs: 0,
    models: modelNamed("scripted"),
    modelNamed,
    calls,
    unknownKeys,
    behave: (next) => {
      behaviour = next;
    },
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return provider;
}
