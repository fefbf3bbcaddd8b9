import { z } from "zod";
import { DELEGATION_HEADERS } from "./delegation.ts";
import type { Endpoint } from "./endpoint.ts";

type Json = Record<string, unknown>;

const isTransform = (schema: unknown) => (schema as z.core.$ZodType)._zod.def.type === "transform";

/** A schema as it is on the wire: what goes in, before anything is normalised or given a default. */
function schemaOf(schema: z.ZodType): Json {
  const { $schema: _, ...json } = z.toJSONSchema(schema, {
    target: "draft-2020-12",
    io: "input",
    unrepresentable: "any",
    override: ({ zodSchema, jsonSchema }) => {
      const def = zodSchema._zod.def as z.core.$ZodPipeDef;
      // A preprocessing step takes anything; what it hands on is what is meant.
      if (def.type !== "pipe" || !isTransform(def.in)) return;
      for (const key of Object.keys(jsonSchema))
        if (key !== "description" && key !== "examples") delete jsonSchema[key];
      Object.assign(jsonSchema, schemaOf(def.out as z.ZodType));
    },
  }) as Json;
  return json;
}

const problem = { $ref: "#/components/responses/Problem" };

function parametersOf(endpoint: Endpoint): Json[] {
  const inPath = [...endpoint.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: name === "ctx" ? { type: "string", default: "default" } : { type: "string" },
  }));
  const query = schemaOf(endpoint.query);
  const required = (query.required ?? []) as string[];
  const inQuery = Object.entries((query.properties ?? {}) as Record<string, Json>).map(([name, schema]) => ({
    name,
    in: "query",
    required: required.includes(name),
    schema,
  }));
  const headers = ["post", "put"].includes(endpoint.method)
    ? [{ name: "Idempotency-Key", in: "header", required: false, schema: { type: "string", maxLength: 255 } }]
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

function bodyOf(endpoint: Endpoint): Json {
  if (endpoint.body === undefined) return {};
  const body = schemaOf(endpoint.body);
  if (!endpoint.upload) return { requestBody: { content: { "application/json": { schema: body } } } };
  const parts = { file: { type: "string", contentMediaType: "application/octet-stream" }, metadata: body };
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

/** What an operation is called: its method and path in one word, which is unique. */
const operationId = ({ method, path }: Endpoint) =>
  `${method}${path.replace(/[^A-Za-z0-9]+(\w?)/g, (_, letter: string) => letter.toUpperCase())}`;

function operationOf(endpoint: Endpoint): Json {
  const isBuilt = endpoint.status !== 422;
  const content =
    endpoint.answer === undefined ? {} : { content: { "application/json": { schema: schemaOf(endpoint.answer) } } };
  return {
    operationId: operationId(endpoint),
    summary: endpoint.summary,
    tags: [endpoint.path.startsWith("/contexts") ? "Management" : (endpoint.path.split("/")[2] ?? "operation")],
    parameters: parametersOf(endpoint),
    ...bodyOf(endpoint),
    responses: {
      ...(isBuilt
        ? { [endpoint.status]: { description: endpoint.status === 204 ? "Done" : "The answer", ...content } }
        : { 422: problem }),
      default: problem,
    },
  };
}

const open = (summary: string, content: Json) => ({
  get: { summary, security: [], tags: ["operation"], responses: { 200: { description: summary, content } } },
});

/** OpenAPI 3.1 of the routes, out of the schemas that check their requests. */
export function openApiOf(endpoints: readonly Endpoint[]): Json {
  const paths: Record<string, Json> = {
    "/health": open("Whether the process lives", { "application/json": { schema: { type: "object" } } }),
    "/ready": open("Whether the service can answer", { "application/json": { schema: { type: "object" } } }),
    "/receipt-keys": open("The public keys that receipts are signed with, as a JWK set", {
      "application/json": { schema: { type: "object" } },
    }),
  };
  for (const endpoint of endpoints) {
    paths[endpoint.path] = { ...paths[endpoint.path], [endpoint.method]: operationOf(endpoint) };
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
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
      responses: {
        Problem: {
          description: "What went wrong (RFC 9457)",
          content: {
            "application/problem+json": {
              schema: {
                type: "object",
                required: ["type", "title", "status", "detail", "instance", "requestId"],
                properties: {
                  type: { type: "string", format: "uri" },
                  title: { type: "string" },
                  status: { type: "integer" },
                  detail: { type: "string" },
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
