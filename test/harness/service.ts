import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Logger } from "pino";
import { v7 as uuid } from "uuid";
import { inject } from "vitest";
import type { Principal } from "../../src/db/access/entry.ts";
import { modelRegistry } from "../../src/db/access/model-registry.ts";
import { PARSER_LIMITS } from "../../src/documents/parsing/parser.ts";
import type { WorkerOptions } from "../../src/jobs/worker.ts";
import { hashSecret, newSecret } from "../../src/keys/secret.ts";
import type { QuotaOptions } from "../../src/load/quotas.ts";
import type { ProxySettings } from "../../src/load/strangers.ts";
import { createLog } from "../../src/log.ts";
import { registerModels } from "../../src/models/register.ts";
import type { RerankerSettings } from "../../src/models/reranker.ts";
import type { ModelSettings } from "../../src/models/settings.ts";
import { canonicalPath, scopeFromDatabase } from "../../src/scope/scope.ts";
import { createService } from "../../src/service.ts";
import { newReceiptKey, parseReceiptKey, ReceiptSigner } from "../../src/traces/receipt-signer.ts";
import { checkAnswer } from "./contract.ts";
import { createTestDatabase, type TestDatabase } from "./database.ts";
import type { SentStatement } from "./plans.ts";
import { pause } from "./service-process.ts";
import { proving } from "./statement-proof.ts";

export interface Answer<T = Record<string, unknown>> {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly body: T;
}

export interface CallOptions {
  readonly headers?: Record<string, string>;
  /** Sent as it is, instead of `body` as JSON. */
  readonly raw?: string | Uint8Array;
}

/** One key's view of the service. */
export interface Client {
  readonly key: string;
  readonly id: string;
  call<T = Record<string, unknown>>(
    method: string,
    path: string,
    body?: unknown,
    options?: CallOptions,
  ): Promise<Answer<T>>;
  get<T = Record<string, unknown>>(path: string): Promise<Answer<T>>;
  post<T = Record<string, unknown>>(path: string, body?: unknown, options?: CallOptions): Promise<Answer<T>>;
  del<T = Record<string, unknown>>(path: string): Promise<Answer<T>>;
  /** Stores a text and gives its ids. */
  remember(text: string, more?: object): Promise<{ sessionId: string; turnId: string; chunkId: string }>;
  /** Sends a file; `metadata` absent: the part is left out. */
  upload(
    content: string | Uint8Array,
    name: string,
    metadata?: object,
    options?: { method?: string; path?: string; type?: string; fileFirst?: boolean; headers?: Record<string, string> },
  ): Promise<Answer<{ id: string; status: string; contentHash: string; deduplicated: boolean; version: number }>>;
  /** Waits until a document is ready or has failed. */
  processed(id: string): Promise<Record<string, unknown>>;
  /** Erases all that its key reaches, which takes the floor's path as a confirmation. */
  eraseFloor<T = Record<string, unknown>>(options?: CallOptions): Promise<Answer<T>>;
  /** The texts that a query finds. */
  recall(query: string, more?: object): Promise<string[]>;
}

export interface TestService {
  readonly database: TestDatabase;
  readonly url: string;
  /** The operator: management with the floor {}. */
  readonly operator: Client;
  client(key: string, id?: string): Client;
  mint(principal: Principal, scopeFloor: object, more?: object): Promise<Client>;
  /** The statements that it has sent so far, each once. */
  readonly sent: readonly SentStatement[];
  /** Another service on the same database, as another process would be; stopped by itself, and before this one. */
  beside(): Promise<TestService>;
  /** Ends it and starts it anew on the same database; this one is of no use any more. */
  restart(): Promise<TestService>;
  stop(): Promise<void>;
}

export interface ServiceSettings {
  readonly connections?: number;
  readonly timeoutMs?: number;
  /** What a server tells beside its answers. */
  readonly onNotice?: (message: string) => void;
  readonly proxy?: ProxySettings;
  readonly quotas?: QuotaOptions;
  /** With a worker in the same process. */
  readonly worker?: Partial<WorkerOptions> | undefined;
  readonly models?: ModelSettings;
  readonly reranker?: RerankerSettings;
  /** Absent: what LOG says, or nothing. */
  readonly log?: Logger;
}

/** The service on a database of its own, listening on loopback until it is stopped. */
export async function startService(options: ServiceSettings = {}): Promise<TestService> {
  const database = await createTestDatabase(options);
  if (options.models !== undefined) {
    await registerModels(modelRegistry(database), options.models, createLog(process.env.LOG ?? "silent"));
  }
  const secret = newSecret("management");
  const operatorId = uuid();
  await database.sql("SELECT scopefloor.set_first_key($1, $2)", [operatorId, hashSecret(secret)]);
  return serve(database, { id: operatorId, secret }, options);
}

/** The service over a database that is there, under the operator's key. */
async function serve(
  database: TestDatabase,
  first: { id: string; secret: string },
  options: ServiceSettings,
): Promise<TestService & { end(): Promise<void> }> {
  const proven = proving(database);
  const signer = await ReceiptSigner.of(parseReceiptKey(newReceiptKey()));
  await signer.register(database);
  const service = await createService(proven, {
    signer,
    context: "default",
    log: options.log ?? createLog(process.env.LOG ?? "silent"),
    ...(options.models === undefined ? {} : { models: options.models }),
    ...(options.quotas === undefined ? {} : { quotas: options.quotas }),
    ...(options.proxy === undefined ? {} : { proxy: options.proxy }),
    ...(options.reranker === undefined ? {} : { reranker: options.reranker }),
    ...(options.worker === undefined
      ? {}
      : {
          worker: {
            pollMs: 50,
            parser: { ...PARSER_LIMITS, hasSpare: false, entry: inject("parser") },
            ...options.worker,
          },
        }),
  });
  const server: Server = createServer(service.app.callback());
  // A busy machine may leave a connection idle for longer than the usual 5 s, and use it just then.
  server.keepAliveTimeout = 120_000;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`;
  const operator = clientOf(url, first.secret, first.id);
  const end = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await service.settled();
    await proven.assertProven();
  };
  return {
    database,
    url,
    operator,
    client: (key, id = "") => clientOf(url, key, id),
    mint: async (principal, scopeFloor, more = {}) => {
      const minted = await operator.post<{ id: string; key: string }>("/contexts/default/keys", {
        name: `${principal} ${uuid()}`,
        principal,
        scopeFloor,
        ...more,
      });
      if (minted.status !== 201) throw new Error(`minting failed: ${minted.text}`);
      return clientOf(url, minted.body.key, minted.body.id);
    },
    get sent() {
      return proven.sent;
    },
    beside: async () => {
      const other = await serve(database, first, { ...options, worker: undefined });
      return { ...other, stop: other.end };
    },
    end,
    restart: async () => {
      await end();
      return serve(database, first, options);
    },
    stop: async () => {
      await end().finally(() => database.drop());
    },
  };
}

/** @param url with the base path, of a service in this process or in one of its own */
export function clientOf(url: string, key: string, id: string): Client {
  const call: Client["call"] = async (method, path, body, options = {}) => {
    const payload = options.raw ?? (body === undefined ? undefined : JSON.stringify(body));
    const response = await fetch(/^\/(contexts|metrics)/.test(path) ? `${url}${path}` : `${url}/default${path}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        ...(payload === undefined ? {} : { "content-type": "application/json" }),
        ...options.headers,
      },
      ...(payload === undefined ? {} : { body: payload as string }),
    });
    const text = await response.text();
    const isJson = (response.headers.get("content-type") ?? "").includes("json");
    const answer = isJson ? JSON.parse(text) : undefined;
    checkAnswer(method, response.url.slice(url.length).replace(/\?.*$/, ""), response.status, answer);
    return { status: response.status, headers: response.headers, text, body: answer };
  };
  const client: Client = {
    key,
    id,
    call,
    get: (path) => call("GET", path),
    post: (path, body, options) => call("POST", path, body ?? {}, options),
    del: (path) => call("DELETE", path),
    eraseFloor: async (options) => {
      const { body } = await call<{ scopeFloor: Record<string, string> }>("GET", "/me");
      return call("POST", "/scopes/forget", { confirm: canonicalPath(scopeFromDatabase(body.scopeFloor)) }, options);
    },
    upload: async (content, name, metadata, options = {}) => {
      const form = new FormData();
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
      const file = new Blob([new Uint8Array(bytes)], { type: options.type ?? "" });
      if (options.fileFirst === true) form.append("file", file, name);
      if (metadata !== undefined) form.append("metadata", JSON.stringify(metadata));
      if (options.fileFirst !== true) form.append("file", file, name);
      const response = await fetch(`${url}/default${options.path ?? "/documents"}`, {
        method: options.method ?? "POST",
        headers: { authorization: `Bearer ${key}`, ...options.headers },
        body: form,
      });
      const text = await response.text();
      checkAnswer(options.method ?? "POST", response.url.slice(url.length), response.status, JSON.parse(text));
      return { status: response.status, headers: response.headers, text, body: JSON.parse(text) };
    },
    processed: async (id) => {
      for (const until = performance.now() + 60_000; performance.now() < until; await pause(40)) {
        const { body, status } = await client.get(`/documents/${id}`);
        if (status === 503) continue; // a connection was lost: asked again
        if (status !== 200) throw new Error(`the document answered ${status}`);
        if (body.status === "ready" || body.status === "failed") return body;
      }
      throw new Error("the document was not processed within a minute");
    },
    remember: async (text, more = {}) => {
      const stored = await client.post<{ sessionId: string; turnId: string; chunkId: string }>("/facts", {
        text,
        ...more,
      });
      if (stored.status !== 200) throw new Error(`facts answered ${stored.status}: ${stored.text}`);
      return stored.body;
    },
    recall: async (query, more = {}) => {
      const found = await client.post<{ hits: { text: string }[] }>("/query", { query, ...more });
      if (found.status !== 200) throw new Error(`query answered ${found.status}: ${found.text}`);
      return found.body.hits.map((hit) => hit.text);
    },
  };
  return client;
}
