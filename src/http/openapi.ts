import { z } from "zod";
import { DELEGATION_HEADERS } from "./delegation.ts";
import type { Endpoint } from "./endpoint.ts";
import { EXAMPLES } from "./openapi-examples.ts";

type Json = Record<string, unknown>;

const isTransform = (schema: unknown) => (schema as z.core.$ZodType)._zod.def.type === "transform";
const isNumber = (schema: unknown) => (schema as z.core.$ZodType)._zod.def.type === "number";
/** true or false as words of a query string. */
const isFlag = ({ enum: words }: Json) => JSON.stringify(words) === '["true","false"]';

/** Schemas that have a name: each stands once, and others point at it. */
class NamedSchemas {
  readonly all: Record<string, Json> = {};

  /** A schema as it is on the wire: what goes in, before anything is normalised or given a default. */
  of(schema: z.ZodType): Json {
    const {
      $schema: _,
      $defs = {},
      ...json
    } = z.toJSONSchema(schema, {
      target: "draft-2020-12",
      io: "input",
      unrepresentable: "any",
      override: ({ zodSchema, jsonSchema }) => {
        const def = zodSchema._zod.def as z.core.$ZodPipeDef;
        if (isFlag(jsonSchema as Json)) {
          delete (jsonSchema as Json).enum;
          jsonSchema.type = "boolean";
          if ("default" in jsonSchema) jsonSchema.default = jsonSchema.default === "true";
        }
        // A preprocessing step takes anything; what it hands on is what is meant. So is a number that comes as text.
        if (def.type !== "pipe" || !(isTransform(def.in) || isNumber(def.out))) return;
        for (const key of Object.keys(jsonSchema))
          if (key !== "description" && key !== "examples") delete jsonSchema[key];
        Object.assign(jsonSchema, this.of(def.out as z.ZodType));
      },
    }) as Json & { $defs?: Record<string, Json> };
    for (const [name, inner] of Object.entries($defs)) this.all[name] ??= pointing(inner);
    return pointing(json);
  }

  /** The same under a name. */
  named(name: string, schema: z.ZodType): Json {
    const json = this.of(schema);
    // It has one already.
    if (typeof json.$ref === "string") return json;
    this.all[name] = json;
    return { $ref: `#/components/schemas/${name}` };
  }
}

/** Where named schemas stand in the description. */
function pointing(json: unknown): Json {
  const { id: _, ...schema } = JSON.parse(
    JSON.stringify(json).replaceAll('"#/$defs/', '"#/components/schemas/'),
  ) as Json;
  return schema;
}

const problem = { $ref: "#/components/responses/Problem" };

function parametersOf(endpoint: Endpoint, { schemas, context }: Described): Json[] {
  const inPath = [...endpoint.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
    ...(name === "ctx" ? { example: context, description: "The Context's id" } : {}),
    ...(name === "key" ? { example: "theme" } : {}),
  }));
  const query = schemas.of(endpoint.query);
  const required = (query.required ?? []) as string[];
  const inQuery = Object.entries((query.properties ?? {}) as Record<string, Json>).map(([name, schema]) => ({
    name,
    in: "query",
    required: required.includes(name),
    schema,
  }));
  const headers = ["post", "put"].includes(endpoint.method)
    ? [
        {
          name: "Idempotency-Key",
          in: "header",
          required: false,
          description: "The same key with the same request gets the same answer for a day",
          schema: { type: "string", maxLength: 255 },
        },
      ]
    : [];
  const delegation = DELEGATION_HEADERS.map((name) => ({
    name,
    in: "header",
    required: false,
    description: "The id of a key: the request reaches what both reach. The two headers are one.",
    schema: { type: "string" },
  }));
  return [...inPath, ...inQuery, ...headers, ...delegation];
}

/** What goes into a description besides the routes. */
interface Described {
  readonly schemas: NamedSchemas;
  /** The Context's id. */
  readonly context: string;
}

/** Whether a request without a body, or with an empty one, says too little. */
const isNeeded = ({ body }: Endpoint) => body !== undefined && !body.safeParse({}).success;

function bodyOf(endpoint: Endpoint, { schemas }: Described): Json {
  if (endpoint.body === undefined) return {};
  const body = schemas.named(`${nameOf(endpoint)}Request`, endpoint.body);
  const example = EXAMPLES[`${endpoint.method} ${endpoint.path}`];
  if (!endpoint.upload) {
    const content = {
      schema: body,
      ...(example === undefined ? {} : { examples: { one: { summary: "A request that works", value: example } } }),
    };
    return { requestBody: { required: isNeeded(endpoint), content: { "application/json": content } } };
  }
  const parts = { file: { type: "string", format: "binary" }, metadata: body };
  return {
    requestBody: {
      required: endpoint.upload === true,
      content: {
        "multipart/form-data": {
          schema: { type: "object", required: ["file"], properties: parts },
          encoding: { metadata: { contentType: "application/json" } },
        },
      },
    },
  };
}

const pascal = (text: string) =>
  text
    .split(/[^A-Za-z0-9]+/)
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join("");

/** What an operation's own schemas are called: `Query`, `PutDocumentsById`. */
function nameOf({ method, path }: Endpoint): string {
  const parts = path.replace(/^(\/contexts)?\/\{ctx\}/, (start) => (start.startsWith("/contexts") ? "/context" : ""));
  const named = pascal(parts.replace(/\{(\w+)\}/g, "by-$1"));
  return method === "post" ? named : `${pascal(method)}${named}`;
}

/** What an operation is called: its method and path in one word, which is unique. */
const operationId = ({ method, path }: Endpoint) =>
  `${method}${path.replace(/[^A-Za-z0-9]+(\w?)/g, (_, letter: string) => letter.toUpperCase())}`;

const header = (description: string, type = "string") => ({ description, schema: { type } });
const HEADERS = {
  "X-Request-Id": header("Names the request in the service's log"),
  RateLimit: header("What is left of each limit (draft-ietf-httpapi-ratelimit-headers); absent: there is none"),
  "RateLimit-Policy": header("The limits"),
};
const REPLAYED = {
  "Idempotent-Replayed": header("true: the answer of an earlier request with the same Idempotency-Key"),
};

function operationOf(endpoint: Endpoint, described: Described): Json {
  const isBuilt = endpoint.status !== 422;
  const { method, path, answer, status, summary } = endpoint;
  const content =
    answer === undefined
      ? {}
      : { content: { "application/json": { schema: described.schemas.named(`${nameOf(endpoint)}Response`, answer) } } };
  const headers = { ...HEADERS, ...(["post", "put"].includes(method) ? REPLAYED : {}) };
  return {
    operationId: operationId(endpoint),
    summary,
    tags: [path.startsWith("/contexts") ? "Management" : (path.split("/")[2] ?? "operation")],
    parameters: parametersOf(endpoint, described),
    ...bodyOf(endpoint, described),
    responses: {
      ...(isBuilt
        ? { [status]: { description: status === 204 ? "Done" : "The answer", headers, ...content } }
        : { 422: problem }),
      default: problem,
    },
  };
}

const open = (summary: string, content: Json) => ({
  get: { summary, security: [], tags: ["operation"], responses: { 200: { description: summary, content } } },
});

/** OpenAPI 3.1 of the routes, out of the schemas that check their requests. */
export function openApiOf(endpoints: readonly Endpoint[], context = "default"): Json {
  const described: Described = { schemas: new NamedSchemas(), context };
  const paths: Record<string, Json> = {
    "/health": open("Whether the process lives", { "application/json": { schema: { type: "object" } } }),
    "/ready": open("Whether the service can answer", { "application/json": { schema: { type: "object" } } }),
    "/receipt-keys": open("The public keys that receipts are signed with, as a JWK set", {
      "application/json": { schema: { type: "object" } },
    }),
  };
  for (const endpoint of endpoints) {
    paths[endpoint.path] = { ...paths[endpoint.path], [endpoint.method]: operationOf(endpoint, described) };
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Scopefloor",
      version: "1",
      description:
        "A memory service for AI agents: one shared store, a scope on every row, a scope floor on every key.",
    },
    servers: [{ url: "/api/v1" }],
    security: [{ key: [] }],
    paths,
    components: {
      schemas: described.schemas.all,
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
      responses: {
        Problem: {
          description: "What went wrong (RFC 9457)",
          headers: {
            "X-Request-Id": HEADERS["X-Request-Id"],
            "Retry-After": header("Seconds to wait before the same is tried again; of 429 and 503", "integer"),
            "WWW-Authenticate": header("Of 401: how to say who calls"),
          },
          content: {
            "application/problem+json": {
              schema: {
                type: "object",
                required: ["type", "title", "status", "detail", "message", "instance", "requestId"],
                properties: {
                  type: { type: "string", format: "uri" },
                  title: { type: "string" },
                  status: { type: "integer" },
                  detail: { type: "string" },
                  message: { type: "string", description: "The same as detail" },
                  instance: { type: "string" },
                  requestId: { type: "string" },
                  retryAfter: { type: "number" },
                },
              },
            },
          },
        },
      },
    },
  };
}
