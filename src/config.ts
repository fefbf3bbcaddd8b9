import { z } from "zod";
import type { QuotaLimits } from "./load/quotas.ts";
import type { ProxySettings } from "./load/strangers.ts";
import type { RerankerSettings } from "./models/reranker.ts";
import type { ModelSettings } from "./models/settings.ts";

const databaseUrl = z
  .string()
  .regex(/^postgres(ql)?:\/\//, "must start with postgres://")
  .optional();
const portNumber = z.coerce.number().int().min(0).max(65535);

const quota = (fallback: number) => z.coerce.number().int().min(1).max(Number.MAX_SAFE_INTEGER).default(fallback);

/** A model as configured. */
const MODEL = /^(local|[a-z][a-z0-9_-]{0,40}:[^\s,]{1,200})$/;

/** One that is called by OpenAI's API. */
const OPENAI_MODEL = /^openai:[^\s,]{1,200}$/;

/** Several values with commas between. */
const separated = <T extends z.ZodType<unknown, string>>(one: T) =>
  z
    .string()
    .default("")
    .transform((given) =>
      given
        .split(",")
        .map((each) => each.trim())
        .filter((each) => each !== ""),
    )
    .pipe(z.array(one).max(50));

const environment = z.object({
  PORT: portNumber.default(7700),
  HOST: z.string().min(1).default("127.0.0.1"),
  DATABASE_URL: databaseUrl,
  DATABASE_WORKER_URL: databaseUrl,
  DATABASE_OWNER_URL: databaseUrl,
  SCOPEFLOOR_ALLOW_SUPERUSER: z.enum(["true", "false"]).default("false"),
  SCOPEFLOOR_DB_CONNECTIONS: z.coerce.number().int().min(1).max(500).default(16),
  SCOPEFLOOR_DB_TIMEOUT_MS: z.coerce.number().int().min(100).max(600_000).default(10_000),
  SCOPEFLOOR_TENANT_BYTES: quota(20 * 1024 ** 3),
  SCOPEFLOOR_TENANT_PASSAGES: quota(5_000_000),
  SCOPEFLOOR_TENANT_SESSIONS: quota(1_000_000),
  SCOPEFLOOR_TENANT_SCOPES: quota(100_000),
  SCOPEFLOOR_MAX_CONNECTIONS: z.coerce.number().int().min(16).max(1_000_000).default(4_096),
  SCOPEFLOOR_PROXY_HEADER: z
    .string()
    .regex(/^[A-Za-z][A-Za-z0-9-]{0,63}$/, "must be a header's name, such as X-Forwarded-For")
    .optional(),
  SCOPEFLOOR_PROXIES: z.coerce.number().int().min(1).max(10).default(1),
  SCOPEFLOOR_DEPLOYMENT: z.coerce.number().int().min(0).max(127).optional(),
  SCOPEFLOOR_DATA_DIR: z.string().min(1).default("./data"),
  SCOPEFLOOR_RECEIPTS: z.string().min(1).optional(),
  SCOPEFLOOR_RECEIPT_KEY: z.string().min(1).optional(),
  SCOPEFLOOR_CONTEXT: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, "must be letters, digits, _ and -")
    .refine((id) => id !== "contexts", "must not be contexts, which begins the management routes")
    .default("default"),
  SCOPEFLOOR_MANAGEMENT_KEY: z
    .string()
    .min(32, "must have at least 32 characters")
    .regex(/^[\x21-\x7e]+$/, "must be printable ASCII without spaces")
    .optional(),
  SCOPEFLOOR_ROLE: z.enum(["api", "worker", "all"]).default("all"),
  SCOPEFLOOR_EMBEDDINGS: z
    .string()
    .regex(MODEL, "must be local, or provider:model such as openai:text-embedding-3-small")
    .default("local"),
  SCOPEFLOOR_EMBEDDINGS_OFFERED: separated(
    z.string().regex(MODEL, "must be local, or provider:model, several with commas between"),
  ),
  SCOPEFLOOR_CREDENTIAL_KEYS: separated(
    z
      .string()
      .transform((key) => Buffer.from(key, /^[0-9a-f]{64}$/i.test(key) ? "hex" : "base64"))
      .refine((key) => key.length === 32, "must be 32 bytes each, in hex or base64 (openssl rand -base64 32)"),
  ),
  SCOPEFLOOR_PROVIDER_URLS: separated(
    z.url({ protocol: /^https?$/, error: "must be http or https URLs, with commas between" }),
  ),
  SCOPEFLOOR_VISION_MODEL: z
    .string()
    .regex(OPENAI_MODEL, "must be openai:model, such as openai:gpt-4o-mini")
    .optional(),
  SCOPEFLOOR_SPEECH_MODEL: z.string().regex(OPENAI_MODEL, "must be openai:model, such as openai:whisper-1").optional(),
  SCOPEFLOOR_CHAT_MODEL: z.undefined({ error: "must be unset: this version uses no chat model" }).optional(),
  OPENAI_API_KEY: z.string().optional(),
  OPENAI_BASE_URL: z.url({ protocol: /^https?$/, error: "must be an http or https URL" }).optional(),
  OLLAMA_BASE_URL: z.url({ protocol: /^https?$/, error: "must be an http or https URL" }).optional(),
  SCOPEFLOOR_MODEL_TIMEOUT_MS: z.coerce.number().int().min(1_000).max(600_000).default(60_000),
  SCOPEFLOOR_RERANK_URL: z.url({ protocol: /^https?$/, error: "must be an http or https URL" }).optional(),
  SCOPEFLOOR_RERANK_MODEL: z.string().min(1).max(200).optional(),
  SCOPEFLOOR_RERANK_API_KEY: z.string().optional(),
  SCOPEFLOOR_GRAPH_FROM: z.coerce.number().int().min(1_000).default(20_000),
  SCOPEFLOOR_JOBS: z.coerce.number().int().min(1).max(64).default(2),
  SCOPEFLOOR_LOG_LEVEL: z.enum(["fatal", "error", "warn", "info", "debug", "silent"]).default("info"),
});

/** The typed configuration. Only this file reads the environment. */
export interface Config {
  readonly port: number;
  readonly host: string;
  /** Unset: the embedded database. */
  readonly databaseUrl: string | undefined;
  readonly databaseWorkerUrl: string | undefined;
  readonly databaseOwnerUrl: string | undefined;
  /** What one tenant may store. */
  readonly quotas: QuotaLimits;
  /** Open HTTP connections at most; more are closed at once. */
  readonly maxConnections: number;
  /** Whether the application's login may be a superuser of a database on another machine. */
  readonly allowSuperuser: boolean;
  /** Unset: clients connect directly. */
  readonly proxy: ProxySettings | undefined;
  readonly dbConnections: number;
  readonly dbTimeoutMs: number;
  /** Which of several deployments this is, so that no two give a scope or a tenant the same number. Unset: it stands alone. */
  readonly deployment: number | undefined;
  readonly dataDir: string;
  /** A file in which receipts outlive the database (src/forget/replay/journal.ts). Unset: they do not. */
  readonly receiptsFile: string | undefined;
  /** An Ed25519 private key as PEM, which receipts are signed with. Unset: the one in the data folder. */
  readonly receiptKey: string | undefined;
  /** The Context's id in URLs. */
  readonly context: string;
  readonly managementKey: string | undefined;
  readonly role: "api" | "worker" | "all";
  readonly models: ModelSettings;
  /** Unset: answers stand as recall ranks them. */
  readonly reranker: RerankerSettings | undefined;
  /** Passages of one model from which on a scope gets a vector graph of its own. */
  readonly graphFrom: number;
  /** Jobs at work at the same time in this process. */
  readonly jobs: number;
  readonly logLevel: string;
}

/**
 * @throws Error with one line that names every bad variable
 */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  // An empty variable, as compose files leave them, is an unset one.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ""));
  const parsed = environment.safeParse(given);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
    throw new Error(`bad configuration: ${problems.join("; ")}`);
  }
  const v = parsed.data;
  if (v.DATABASE_URL === undefined && (v.DATABASE_WORKER_URL ?? v.DATABASE_OWNER_URL) !== undefined) {
    throw new Error("bad configuration: DATABASE_WORKER_URL and DATABASE_OWNER_URL need DATABASE_URL");
  }
  if (v.DATABASE_OWNER_URL !== undefined && v.DATABASE_WORKER_URL === undefined && v.SCOPEFLOOR_ROLE !== "api") {
    throw new Error("bad configuration: with DATABASE_OWNER_URL set, the worker needs DATABASE_WORKER_URL too");
  }
  if (v.DATABASE_URL === undefined && v.SCOPEFLOOR_ROLE !== "all") {
    throw new Error(
      "bad configuration: SCOPEFLOOR_ROLE must be all with the embedded database, which one process has to itself",
    );
  }
  return {
    port: v.PORT,
    host: v.HOST,
    databaseUrl: v.DATABASE_URL,
    databaseWorkerUrl: v.DATABASE_WORKER_URL,
    databaseOwnerUrl: v.DATABASE_OWNER_URL,
    allowSuperuser: v.SCOPEFLOOR_ALLOW_SUPERUSER === "true",
    quotas: {
      storedBytes: v.SCOPEFLOOR_TENANT_BYTES,
      passages: v.SCOPEFLOOR_TENANT_PASSAGES,
      sessions: v.SCOPEFLOOR_TENANT_SESSIONS,
      scopes: v.SCOPEFLOOR_TENANT_SCOPES,
    },
    maxConnections: v.SCOPEFLOOR_MAX_CONNECTIONS,
    proxy:
      v.SCOPEFLOOR_PROXY_HEADER === undefined
        ? undefined
        : { header: v.SCOPEFLOOR_PROXY_HEADER.toLowerCase(), proxies: v.SCOPEFLOOR_PROXIES },
    dbConnections: v.SCOPEFLOOR_DB_CONNECTIONS,
    dbTimeoutMs: v.SCOPEFLOOR_DB_TIMEOUT_MS,
    deployment: v.SCOPEFLOOR_DEPLOYMENT,
    dataDir: v.SCOPEFLOOR_DATA_DIR,
    receiptsFile: v.SCOPEFLOOR_RECEIPTS,
    receiptKey: v.SCOPEFLOOR_RECEIPT_KEY,
    context: v.SCOPEFLOOR_CONTEXT,
    managementKey: v.SCOPEFLOOR_MANAGEMENT_KEY,
    role: v.SCOPEFLOOR_ROLE,
    models: {
      embeddings: v.SCOPEFLOOR_EMBEDDINGS,
      offered: v.SCOPEFLOOR_EMBEDDINGS_OFFERED,
      vision: v.SCOPEFLOOR_VISION_MODEL,
      speech: v.SCOPEFLOOR_SPEECH_MODEL,
      credentialKeys: v.SCOPEFLOOR_CREDENTIAL_KEYS,
      providerUrls: v.SCOPEFLOOR_PROVIDER_URLS,
      timeoutMs: v.SCOPEFLOOR_MODEL_TIMEOUT_MS,
      openaiApiKey: v.OPENAI_API_KEY,
      openaiBaseUrl: v.OPENAI_BASE_URL,
      ollamaBaseUrl: v.OLLAMA_BASE_URL,
    },
    reranker:
      v.SCOPEFLOOR_RERANK_URL === undefined
        ? undefined
        : { url: v.SCOPEFLOOR_RERANK_URL, model: v.SCOPEFLOOR_RERANK_MODEL, apiKey: v.SCOPEFLOOR_RERANK_API_KEY },
    graphFrom: v.SCOPEFLOOR_GRAPH_FROM,
    jobs: v.SCOPEFLOOR_JOBS,
    logLevel: v.SCOPEFLOOR_LOG_LEVEL,
  };
}
