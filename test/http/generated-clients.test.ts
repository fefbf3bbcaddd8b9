import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { createClient } from "@hey-api/openapi-ts";
import createFetchClient from "openapi-fetch";
import openapiTypescript, { astToString } from "openapi-typescript";
import ts from "typescript";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openApiOf } from "../../src/http/openapi.ts";
import { EXAMPLES } from "../../src/http/openapi-examples.ts";
import { endpoints } from "../../src/http/routes/index.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Clients that two generators make of the description: they compile, and do what they say. */

let service: TestService;
let agent: Client;
let folder: string;
const description = openApiOf(endpoints);

beforeAll(async () => {
  service = await startService({ worker: {} });
  agent = await service.mint("agent", { org: "generated" });
  // Below the project, where the packages are found.
  await mkdir("node_modules/.cache", { recursive: true });
  folder = resolve(await mkdtemp("node_modules/.cache/scopefloor-clients-"));
});
afterAll(async () => {
  await service.stop();
  await rm(folder, { recursive: true });
});

/** What the compiler finds wrong with these files, in words. */
function compile(files: readonly string[], outDir?: string): string[] {
  const program = ts.createProgram([...files], {
    strict: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    lib: ["lib.es2023.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
    types: [],
    ...(outDir === undefined ? { noEmit: true } : { outDir }),
  });
  const emitted = outDir === undefined ? [] : program.emit().diagnostics;
  return [...ts.getPreEmitDiagnostics(program), ...emitted].map(
    ({ messageText, file }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`,
  );
}

test("openapi-typescript's types take what is meant and refuse what is not", async () => {
  const types = astToString(await openapiTypescript(JSON.stringify(description)));
  const schema = join(folder, "schema.ts");
  await writeFile(schema, types);
  const use = (lines: string) => `
    import createClient from "openapi-fetch";
    import type { components, paths } from "./schema";
    const client = createClient<paths>({ baseUrl: "http://127.0.0.1" });
    const path = { ctx: "default" };
    ${lines}
    export type Document = components["schemas"]["Document"];`;
  const good = join(folder, "good.ts");
  await writeFile(
    good,
    use(`
    export const found = client.POST("/{ctx}/query", { params: { path }, body: { query: "x", lens: [{ org: "acme" }, "org/acme"], k: 3 } });
    export const page = client.GET("/{ctx}/documents", { params: { path, query: { page: 0, pageSize: 20 } } });
    export const turn = client.GET("/{ctx}/sessions/{id}/turns", { params: { path: { ...path, id: "a" }, query: { order: "desc" } } });
    export const sum = async () => ((await found).data?.hits ?? []).map(({ text, labels }) => text + labels.join());
    export const asked = client.GET("/{ctx}/me", { params: { path, header: { "X-Memory-On-Behalf-Of": "a" } } });`),
  );
  expect(compile([good])).toEqual([]);
  for (const [i, wrong] of [
    'client.POST("/{ctx}/query", { params: { path }, body: { query: "x", lens: 42 } })',
    'client.POST("/{ctx}/query", { params: { path } })',
    '{ query: "x", krt: 1 } satisfies components["schemas"]["QueryRequest"]',
    'client.GET("/{ctx}/documents", { params: { path, query: { page: "0" } } })',
  ].entries()) {
    const file = join(folder, `wrong-${i}.ts`);
    await writeFile(file, use(`export const wrong = ${wrong};`));
    expect(compile([file]), wrong).not.toEqual([]);
  }
  // biome-ignore lint/suspicious/noExplicitAny: its types are made in this test.
  const client = createFetchClient<any>({ baseUrl: service.url, headers: { authorization: `Bearer ${agent.key}` } });
  const path = { ctx: "default" };
  await client.POST("/{ctx}/facts", { params: { path }, body: { text: "Herons nest in the alder." } });
  const { data } = await client.POST("/{ctx}/query", { params: { path }, body: { query: "where do herons nest" } });
  expect(data.hits[0].text).toBe("Herons nest in the alder.");
  const listed = await client.GET("/{ctx}/documents", { params: { path, query: { page: 0, pageSize: 5 } } });
  expect(listed.data).toEqual({ documents: [], page: 0, pageSize: 5, total: 0 });
});

test("hey-api's client compiles, and remembers, recalls, uploads and fails as the service does", async () => {
  const output = join(folder, "hey");
  await createClient({
    input: description as never,
    output,
    logs: { level: "silent" },
    plugins: ["@hey-api/client-fetch", "@hey-api/sdk", "@hey-api/typescript"],
  });
  const built = join(folder, "built");
  expect(compile([join(output, "index.ts"), join(output, "client.gen.ts"), join(output, "sdk.gen.ts")], built)).toEqual(
    [],
  );
  // Node.js wants the ends of names that the compiler leaves out.
  const { build } = await import("esbuild");
  const outfile = join(folder, "hey.mjs");
  const source = `export * from ${JSON.stringify(join(output, "sdk.gen.ts"))}; export { client } from ${JSON.stringify(join(output, "client.gen.ts"))};`;
  await build({
    stdin: { contents: source, resolveDir: folder, loader: "ts" },
    bundle: true,
    format: "esm",
    platform: "node",
    outfile,
    logLevel: "error",
  });
  const sdk = await import(pathToFileURL(outfile).href);
  sdk.client.setConfig({ baseUrl: service.url, auth: () => agent.key });
  const path = { ctx: "default" };
  const stored = await sdk.postCtxFacts({ path, body: { text: "Bitterns boom at night.", labels: ["topic=birds"] } });
  expect(stored.error).toBeUndefined();
  const { data } = await sdk.postCtxQuery({ path, body: { query: "bitterns boom", k: 1 } });
  expect(data.hits).toMatchObject([{ text: "Bitterns boom at night.", labels: ["topic=birds"] }]);
  const file = new Blob(["Coots fight for their nests."], { type: "text/plain" });
  const uploaded = await sdk.postCtxDocuments({ path, body: { file } });
  expect(uploaded.error).toBeUndefined();
  expect((await agent.processed(uploaded.data.id)).status).toBe("ready");
  const { error, response } = await sdk.postCtxQuery({ path, body: { query: "x", lens: "org/another" } });
  expect([response.status, error.type]).toEqual([403, "https://scopefloor.dev/errors/scope-floor"]);
});

test("each example of the page is good as it stands, for an operator who tries them in turn", async () => {
  for (const [name, body] of Object.entries(EXAMPLES)) {
    const [method = "", path = ""] = name.split(" ");
    const target = path.replace("/contexts/{ctx}", "/contexts/default").replace("/{ctx}", "").replace("{key}", "theme");
    const answer = await service.operator.call(method.toUpperCase(), target, body);
    expect(answer.status, `${name}: ${answer.text}`).toBeLessThan(300);
  }
});
