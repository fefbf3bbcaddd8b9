import { afterAll, beforeAll, expect, test } from "vitest";
import { openApiOf } from "../../src/http/openapi.ts";
import { endpoints } from "../../src/http/routes/index.ts";
import { type Answer, startService, type TestService } from "../harness/service.ts";

/** As much of JSON Schema as the API's own description uses. */
interface Schema {
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | Schema;
  readonly items?: Schema;
  readonly minimum?: number;
  readonly pattern?: string;
}

interface Operation {
  readonly method: string;
  readonly path: string;
  readonly query: readonly string[];
  readonly body: Schema | undefined;
  readonly isUpload: boolean;
}

type Place = readonly (string | number)[];

// biome-ignore lint/suspicious/noExplicitAny: a description is plain JSON.
const description = openApiOf(endpoints) as any;
/** What a named schema says. */
const resolved = (schema: { $ref?: string } | undefined) =>
  schema?.$ref === undefined
    ? schema
    : description.components.schemas[schema.$ref.replace("#/components/schemas/", "")];

/** Every operation that is built, out of the API's description; what stands in a body of MCP is that protocol's. */
const operations: Operation[] = endpoints
  .filter(({ status, path }) => status !== 422 && !path.endsWith("/mcp"))
  .map(({ method, path }) => {
    const described = description.paths[path][method];
    const content = described.requestBody?.content ?? {};
    const multipart = resolved(content["multipart/form-data"]?.schema.properties.metadata);
    return {
      method: method.toUpperCase(),
      path,
      query: described.parameters
        .filter((parameter: { in: string }) => parameter.in === "query")
        .map(({ name }: { name: string }) => name),
      body: multipart ?? resolved(content["application/json"]?.schema),
      isUpload: multipart !== undefined,
    };
  });

/** Bodies that a description alone does not give: fields of which one has to be there, and those with a form of their own. */
const GOOD: Readonly<Record<string, object>> = {
  "POST /contexts/{ctx}/keys": { name: "a key", principal: "agent", scopeFloor: { org: "fields" } },
  "PUT /contexts/{ctx}/budgets": { scope: "org/fields", period: "month", tokenLimit: 1_000_000 },
  "PUT /contexts/{ctx}/budgets/{id}": { costLimitUsd: 100 },
  "PUT /contexts/{ctx}/limits": { scope: "org/fields", requestsPerMinute: 1_000_000 },
  "PUT /contexts/{ctx}/holds": { scope: "org/fields/user/held", subject: "nobody at all", reason: "a case" },
  "PUT /contexts/{ctx}/retention": { scope: "org/fields", olderThan: "P9Y", action: "erase", kinds: ["items"] },
  "POST /contexts/{ctx}/forget-schedules": {
    scope: "org/fields",
    cron: "0 0 1 1 *",
    action: "expire",
    olderThan: "P9Y",
  },
  "PATCH /contexts/{ctx}/forget-schedules/{id}": { paused: true },
  "PUT /contexts/{ctx}/settings": { scope: "org/fields", contextDays: 7 },
  "PUT /contexts/{ctx}/templates/{name}": { settings: { contextDays: 7 } },
  "POST /contexts/{ctx}/tenants": { scope: "org/fields", name: "word" },
  "PATCH /contexts/{ctx}/tenants/{path}": { name: "word" },
  "PATCH /contexts/{ctx}/tenants/{dimension}/{value}": { name: "word" },
  "POST /contexts/{ctx}/tenants/offboard": { scope: "org/leaving", confirm: "org/leaving", graceSeconds: 1e6 },
  "PATCH /{ctx}/memories/{id}": { labels: ["a=b"] },
  "PUT /contexts/{ctx}/prices": { model: "a-model", inputPerMillion: 1 },
  "POST /{ctx}/facts/batch": { messages: [{ role: "user", content: "word" }] },
  "POST /{ctx}/facts": {
    infer: "triples",
    triples: [{ entity: { type: "Person", name: "Ann" }, key: "note", value: "word" }],
  },
  "PUT /{ctx}/memory/{key}": { value: "word" },
  "POST /{ctx}/memory/batch": { operations: [{ key: "word", value: "word" }] },
  "POST /{ctx}/forget": { query: "word", dryRun: true },
  "POST /{ctx}/scopes/forget": { path: "org/nobody" },
  "POST /{ctx}/scopes": { path: "org/fields/user/x" },
  "POST /{ctx}/sessions": { metadata: { note: "word" } },
  "POST /{ctx}/documents/query": { query: "word", filter: { documentIds: [] } },
  "POST /{ctx}/principals/{id}/grants": { verbs: ["memory:read"] },
  "DELETE /{ctx}/principals/{id}/grants": { verbs: ["memory:write"] },
};

const HEADERS = ["idempotency-key", "x-spectron-on-behalf-of", "x-request-id"];

/** Routes that take such a text for what it is. */
const ACCEPTING = [
  "GET /{ctx}/traces",
  "POST /{ctx}/context",
  "POST /{ctx}/documents",
  "POST /{ctx}/documents/keywords/search",
  "POST /{ctx}/documents/query",
  "POST /{ctx}/facts",
  "POST /{ctx}/facts/batch",
  "POST /{ctx}/forget",
  "POST /{ctx}/query",
  "POST /{ctx}/scopes",
  "POST /{ctx}/sessions",
  "PUT /{ctx}/memory/{key}",
];

/** Objects whose fields are the caller's own. */
const OPEN: ReadonlySet<string | number> = new Set(["metadata", "grants", "value"]);

/** The least that a schema takes. */
function sample(schema: Schema): unknown {
  if (schema.enum !== undefined) return schema.enum[0];
  if (schema.type === "object") {
    const fields = Object.entries(schema.properties ?? {}).filter(([field]) => schema.required?.includes(field));
    return Object.fromEntries(fields.map(([field, inner]) => [field, sample(inner)]));
  }
  if (schema.type === "array") return [];
  if (schema.type === "integer" || schema.type === "number") return schema.minimum ?? 1;
  if (schema.type === "boolean") return false;
  return "word";
}

const goodBody = ({ method, path, body }: Operation): object | undefined =>
  body === undefined ? undefined : (GOOD[`${method} ${path}`] ?? (sample(body) as object));

/** Every value of a schema that has a text in one of the places where a string may stand, and around it what is good. */
function withText(schema: Schema, text: string, around = sample(schema)): unknown[] {
  if (schema.anyOf !== undefined) return schema.anyOf.flatMap((one) => withText(one, text));
  if (schema.type === "array") return withText(schema.items ?? {}, text).map((item) => [item]);
  if (schema.type === "object") {
    const known = Object.entries(schema.properties ?? {}).flatMap(([field, inner]) =>
      withText(inner, text).map((value) => ({ ...(around as object), [field]: value })),
    );
    return schema.additionalProperties === false ? known : [...known, { [text]: text }, { note: text }];
  }
  // Of any type: a scope, or a value.
  if (schema.type === undefined) return [text, { org: text }, [`org=${text}`]];
  if (schema.type !== "string") return [];
  return [schema.pattern?.includes("=") ? `a=${text}` : text];
}

/** The places of a value that hold what is wanted, from the outermost. */
function placesOf(value: unknown, wanted: (inner: unknown) => boolean, at: Place = []): Place[] {
  const own = wanted(value) ? [at] : [];
  if (typeof value !== "object" || value === null) return own;
  return [
    ...own,
    ...Object.entries(value).flatMap(([key, inner]) =>
      placesOf(inner, wanted, [...at, Array.isArray(value) ? Number(key) : key]),
    ),
  ];
}

function changed<T>(value: T, [key, ...rest]: Place, change: (inner: unknown) => unknown): T {
  if (key === undefined) return change(value) as T;
  const copy = (Array.isArray(value) ? [...value] : { ...value }) as Record<string | number, unknown>;
  copy[key] = changed(copy[key], rest, change);
  return copy as T;
}

let service: TestService;
beforeAll(async () => {
  service = await startService({ worker: {} });
});
afterAll(() => service.stop());

interface Named {
  readonly key: string;
  readonly session: string;
  readonly document: string;
  readonly budget: string;
  readonly schedule: string;
  readonly memory: string;
}

let last: Named | undefined;

/** A key, a session and a document, for paths that name one; `anew`: others than before. */
async function named(anew = false): Promise<Named> {
  if (last !== undefined && !anew) return last;
  const agent = await service.mint("agent", { org: "fields" });
  const { sessionId, chunkId } = await agent.remember("a word of its own");
  const { id } = (await agent.upload("some words", "words.txt")).body;
  const { body: budget } = await service.operator.call<{ id: string }>("PUT", "/contexts/default/budgets", {
    scope: "org/fields",
    period: "day",
    name: id,
    tokenLimit: 1_000_000,
  });
  const { body: schedule } = await service.operator.post<{ id: string }>("/contexts/default/forget-schedules", {
    scope: "org/fields",
    cron: "0 0 1 1 *",
    action: "expire",
    olderThan: "P9Y",
  });
  await service.mint("agent", { org: "leaving" });
  last = {
    key: agent.id,
    session: sessionId,
    document: id,
    budget: budget.id,
    schedule: schedule.id,
    memory: chunkId,
  };
  return last;
}

/** A path with its parameters filled in, one of them perhaps with something else. */
function pathOf(
  { path }: Operation,
  { key, session, document, budget, schedule, memory }: Named,
  parameter?: string,
  value = "",
): string {
  const parameters: Readonly<Record<string, string>> = {
    idOrName: key,
    key: "word",
    type: "Person",
    normalised: "word",
    name: path.includes("/entities") ? "Ann" : key,
    id: path.includes("/sessions")
      ? session
      : path.includes("/documents")
        ? document
        : path.includes("/budgets")
          ? budget
          : path.includes("/forget-schedules")
            ? schedule
            : path.includes("/memories")
              ? memory
              : key,
    path: "org%2Ffields",
    dimension: "org",
    value: "fields",
  };
  return path
    .replace("/{ctx}", path.startsWith("/contexts") ? "/default" : "")
    .replace(/\{(\w+)\}/g, (_, name: string) =>
      name === parameter ? encodeURIComponent(value) : (parameters[name] ?? ""),
    );
}

async function send(
  { method, isUpload }: Operation,
  path: string,
  body: object | undefined,
  headers: Record<string, string> = {},
): Promise<Pick<Answer, "status" | "text">> {
  if (isUpload) return service.operator.upload("some words", "words.txt", body, { method, path, headers });
  return service.operator.call(method, path, body, { headers });
}

test("an unknown field is 400 wherever an object may stand, and an unknown parameter on every route (threat 23)", async () => {
  const asked: string[] = [];
  // Those that end what they name come last.
  const ends = ({ method, path }: Operation) => method === "DELETE" || path.endsWith("/rotate");
  for (const operation of [...operations.filter((one) => !ends(one)), ...operations.filter(ends)]) {
    const path = pathOf(operation, await named(ends(operation)));
    const body = goodBody(operation);
    const what = `${operation.method} ${operation.path}`;
    const unheard = await send(operation, `${path}?unheard=1`, body);
    expect(unheard.status, `${what}?unheard=1: ${unheard.text}`).toBe(400);
    if (body === undefined) continue;
    for (const place of placesOf(body, (inner) => typeof inner === "object" && !Array.isArray(inner))) {
      if (OPEN.has(place.at(-1) ?? "")) continue;
      const wider = changed(body, place, (inner) => ({ ...(inner as object), unheard: 1 }));
      const answer = await send(operation, path, wider);
      expect(answer.status, `${what} ${JSON.stringify(wider)}: ${answer.text}`).toBe(400);
      asked.push(what);
    }
    // The control, and last, since it may end what it names: nothing else was wrong with it.
    const good = await send(operation, path, body);
    expect(good.status, `${what} ${JSON.stringify(body)}: ${good.text}`).toBeLessThan(300);
  }
  expect(new Set(asked).size).toBe(operations.filter(({ body }) => body !== undefined).length);
});

test("every object that a body may hold says which fields there are (threat 23)", () => {
  const open: string[] = [];
  const walk = (schema: Schema, at: string): void => {
    // Tags of a scope have names of the caller's own, and are looked at by themselves.
    const isTags = JSON.stringify(schema.additionalProperties) === '{"type":"string"}';
    if (schema.type === "object" && schema.additionalProperties !== false && !isTags) open.push(at);
    for (const [name, inner] of Object.entries(schema.properties ?? {})) walk(inner, `${at}.${name}`);
    for (const inner of [...(schema.anyOf ?? []), ...(schema.items === undefined ? [] : [schema.items])])
      walk(inner, at);
  };
  for (const { method, path, body } of operations) if (body !== undefined) walk(body, `${method} ${path}`);
  // Notes of the caller's own, and verbs to scopes.
  expect(open.filter((at) => !/\.(metadata|grants)$/.test(at))).toEqual([]);
  expect(open).not.toEqual([]);
});

test("whatever stands in any string, parameter, path or header is a value and no part of a statement (threat 22)", async () => {
  const mark = "zq7xv";
  const accepted = new Set<string>();
  for (const hostile of [`${mark}'; DROP TABLE scopefloor.passage; --"$1\\{}%`, `org/${mark}' OR '1'='1`]) {
    const there = await named(true);
    for (const operation of operations) {
      // It attacks the service by itself, for seconds, and takes nothing but its headers.
      if (operation.path.endsWith("/audit-report")) continue;
      const path = pathOf(operation, there);
      const good = goodBody(operation);
      const attempts: (readonly [string, object | undefined, Record<string, string>?])[] = [
        ...[...operation.path.matchAll(/\{(?!ctx)(\w+)\}/g)].map(
          ([, name]) => [pathOf(operation, there, name, hostile), good] as const,
        ),
        ...operation.query.map((name) => [`${path}?${name}=${encodeURIComponent(hostile)}`, good] as const),
        ...(operation.body === undefined ? [] : withText(operation.body, hostile, good)).map(
          (body) => [path, body as object] as const,
        ),
        ...HEADERS.map((header) => [path, good, { [header]: hostile }] as const),
      ];
      for (const [to, body, headers] of attempts) {
        const { status, text } = await send(operation, to, body, headers);
        const what = `${operation.method} ${to} ${JSON.stringify(body)} ${JSON.stringify(headers)}`;
        expect(status, `${what}: ${text}`).toBeLessThan(500);
        if (status < 300 && (body !== good || to !== path)) accepted.add(`${operation.method} ${operation.path}`);
      }
    }
  }
  expect(service.sent.filter(({ text }) => text.includes(mark))).toEqual([]);
  // The control: they got as far as statements, and were stored as what they are.
  for (const route of ACCEPTING) expect(accepted, route).toContain(route);
  const [stored] = await service.database.sql("SELECT count(*) AS n FROM scopefloor.passage WHERE text LIKE $1", [
    `${mark}%`,
  ]);
  expect(Number(stored?.n)).toBeGreaterThan(0);
});
