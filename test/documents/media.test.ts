import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createCanvas, loadImage } from "@napi-rs/canvas";
import PdfDocument from "pdfkit";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { LOCAL_MODELS } from "../../src/models/settings.ts";
import { onPostgres } from "../harness/database.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

/** Pictures, sound and scanned pages, which models read where the operator has set them and the scope allows it. */

interface Call {
  readonly path: string;
  readonly key: string;
  readonly model: string;
  /** Of a picture: its sides, and the share of it that is dark. */
  readonly picture?: { readonly width: number; readonly height: number; readonly ink: number };
  readonly name?: string;
}
type Said = { status?: number; text?: string; usage?: object; finish?: string };

let calls: Call[] = [];
let say: (call: Call, n: number) => Said;
let server: Server;
let service: TestService;
let admin: Client;
let agent: Client;
let org: string;
let counter = 0;

async function callOf(path: string, key: string, type: string, body: Buffer): Promise<Call> {
  if (path.endsWith("/audio/transcriptions")) {
    const form = await new Response(new Uint8Array(body), { headers: { "content-type": type } }).formData();
    return { path, key, model: String(form.get("model")), name: (form.get("file") as File).name };
  }
  const { model, messages } = JSON.parse(body.toString());
  const [, medium] = messages[0].content;
  const bytes = Buffer.from(medium.image_url.url.replace(/^data:image\/(png|jpeg);base64,/, ""), "base64");
  const image = await loadImage(bytes);
  const context = createCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  let dark = 0;
  for (let at = 0; at < data.length; at += 4) if ((data[at] ?? 255) < 128) dark++;
  return { path, key, model, picture: { width: image.width, height: image.height, ink: dark / (data.length / 4) } };
}

beforeAll(async () => {
  server = createServer(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const key = String(request.headers.authorization).replace("Bearer ", "");
    const call = await callOf(request.url ?? "", key, request.headers["content-type"] ?? "", Buffer.concat(parts));
    calls.push(call);
    const { status = 200, text = "", usage, finish = "stop" } = say(call, calls.length);
    response.writeHead(status, { "content-type": "application/json" });
    const choices = [{ index: 0, finish_reason: finish, message: { role: "assistant", content: text } }];
    response.end(JSON.stringify(call.name === undefined ? { choices, usage } : { text, usage }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  service = await startService({
    worker: { backoffSeconds: 0.05 },
    models: {
      ...LOCAL_MODELS,
      vision: "openai:sees",
      speech: "openai:hears",
      openaiApiKey: "sk-of-the-service",
      openaiBaseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
      credentialKeys: [Buffer.alloc(32, 3)],
      timeoutMs: 4_000,
    },
  });
});
afterAll(async () => {
  await service.stop();
  server.closeAllConnections();
  server.close();
});
beforeEach(async () => {
  org = `tenant-${++counter}`;
  admin = await service.mint("management", { org });
  agent = await service.mint("agent", { org });
  calls = [];
  say = () => ({ text: "", usage: { prompt_tokens: 900, completion_tokens: 40 } });
});

const allow = () => admin.call("PUT", "/contexts/default/settings", { scope: { org }, mediaReading: true });

/** A picture of words, as a photograph or a scan has them. */
function pictureOf(words: string, width = 1_000, height = 400, type: "png" | "jpeg" = "png"): Promise<Buffer> {
  const canvas = createCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.fillStyle = "black";
  context.font = "60px sans-serif";
  context.fillText(words, 40, height / 2);
  context.fillRect(40, height - 80, width / 2, 20);
  return type === "png" ? canvas.encode("png") : canvas.encode("jpeg", 90);
}

/** Pages of text, and pages that are pictures of it. */
async function mixedPdf(pages: readonly (string | Buffer)[]): Promise<Buffer> {
  const pdf = new PdfDocument({ autoFirstPage: false });
  const parts: Buffer[] = [];
  pdf.on("data", (part: Buffer) => parts.push(part));
  const ended = new Promise((resolve) => pdf.on("end", resolve));
  for (const page of pages) {
    pdf.addPage();
    if (typeof page === "string") pdf.text(page);
    else pdf.image(page, 40, 40, { width: 500 });
  }
  pdf.end();
  await ended;
  return Buffer.concat(parts);
}

const stored = async (content: Uint8Array, name: string) => {
  const accepted = await agent.upload(content, name);
  expect(accepted.status, accepted.text).toBe(202);
  return agent.processed(accepted.body.id);
};
const textsOf = async (id: unknown) =>
  (await agent.get<{ chunks: { text: string; section?: string }[] }>(`/documents/${id}/chunks`)).body.chunks;
const spent = () =>
  service.database.sql(
    `SELECT operation, model, input_tokens AS input, output_tokens AS output, status FROM scopefloor.decision_trace
     WHERE scope->>'org' = $1 AND operation IN ('vision', 'transcribe') ORDER BY created_at`,
    [org],
  );

describe("where the scope has not allowed it", () => {
  test("nothing leaves the service, and the document says what is missing (threat 59)", async () => {
    const picture = await pictureOf("Invoice 4711");
    const photo = await stored(picture, "invoice.png");
    expect(photo).toMatchObject({ status: "failed", error: expect.stringContaining("mediaReading") });
    const sound = await stored(Buffer.from("RIFF0000WAVE"), "call.wav");
    expect(sound).toMatchObject({ status: "failed", error: expect.stringContaining("mediaReading") });
    const scan = await stored(await mixedPdf(["A page of text about herons.", picture]), "mixed.pdf");
    expect(scan).toMatchObject({ status: "ready", warnings: [expect.stringMatching(/^page 2: .*mediaReading/)] });
    expect(calls).toEqual([]);
  });

  test("what failed for that is read when it is uploaded once more, after it was allowed", async () => {
    const picture = await pictureOf("Invoice 4711");
    expect((await stored(picture, "invoice.png")).status).toBe("failed");
    await allow();
    say = () => ({ text: "Invoice 4711 of the heronry" });
    const again = await stored(picture, "invoice.png");
    expect(again).toMatchObject({ status: "ready", version: 1 });
    expect(await agent.recall("heronry invoice")).toEqual(["Invoice 4711 of the heronry"]);
  });
});

describe("with the scope's consent", () => {
  beforeEach(allow);

  test("a picture is read and recalled, with who read it and what it took", async () => {
    say = () => ({
      text: "```text\nInvoice 4711\nThe heronry owes 12 €\n```",
      usage: { prompt_tokens: 1_234, completion_tokens: 56 },
    });
    const document = await stored(await pictureOf("Invoice 4711"), "invoice.png");
    expect(document).toMatchObject({ status: "ready", mimeType: "image/png", reading: { readBy: "openai:sees" } });
    expect((await textsOf(document.id)).map(({ text }) => text)).toEqual(["Invoice 4711\nThe heronry owes 12 €"]);
    expect(calls).toMatchObject([{ path: "/v1/chat/completions", model: "sees", key: "sk-of-the-service" }]);
    expect(calls[0]?.picture?.ink).toBeGreaterThan(0.005);
    expect(await spent()).toEqual([{ operation: "vision", model: "sees", input: 1_234, output: 56, status: "ok" }]);
  });

  test("pages that are pictures are read, each in its place", async () => {
    say = (_, n) => ({ text: `Scanned words number ${n} about bitterns.` });
    const scan = await pictureOf("scanned words");
    const pages = ["First page, of herons.", scan, "Third page, of coots.", scan, scan];
    const document = await stored(await mixedPdf(pages), "mixed.pdf");
    expect(document).toMatchObject({ status: "ready", reading: { readBy: "openai:sees" } });
    expect(document).not.toHaveProperty("warnings");
    const text = (await textsOf(document.id)).map((chunk) => chunk.text).join("\n");
    const places = ["herons", "number 1", "coots", "number 2", "number 3"].map((word) => text.indexOf(word));
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(places.every((place) => place >= 0)).toBe(true);
    expect(calls.map(({ picture }) => picture && picture.ink > 0.001)).toEqual([true, true, true]);
    expect(await agent.recall("bitterns")).not.toEqual([]);
  });

  test("a large photograph is sent no larger than models see", async () => {
    say = () => ({ text: "A wide shore." });
    await stored(await pictureOf("shore", 6_000, 3_000, "jpeg"), "shore.jpg");
    expect(calls[0]?.picture).toMatchObject({ width: 2_000, height: 1_000 });
  });

  test("sound is written down, and paid by its length where the model says that", async () => {
    say = () => ({ text: "The herons arrive on Friday.", usage: { type: "duration", seconds: 7.5 } });
    const document = await stored(Buffer.from("RIFF0000WAVEfmt and so on"), "call.wav");
    expect(document).toMatchObject({ status: "ready", mimeType: "audio/wav", reading: { readBy: "openai:hears" } });
    expect(calls).toMatchObject([{ path: "/v1/audio/transcriptions", model: "hears", name: "sound.wav" }]);
    expect(await agent.recall("when do herons arrive")).toEqual(["The herons arrive on Friday."]);
    expect(await spent()).toMatchObject([{ operation: "transcribe", input: 75, output: 0, status: "ok" }]);
  });

  test("a model that fails in the middle is asked again for what it has not read, and for nothing else", async () => {
    say = (_, n) =>
      n === 3 ? { status: 503 } : { text: `Page text ${n}`, usage: { prompt_tokens: 10, completion_tokens: 5 } };
    const scan = await pictureOf("scanned words");
    const document = await stored(await mixedPdf([scan, scan, scan, scan]), "scan.pdf");
    expect(document.status).toBe("ready");
    expect(calls).toHaveLength(5);
    expect((await spent()).map(({ status }) => status)).toEqual(["ok", "ok", "error", "ok", "ok"]);
  });

  test("a page that it refuses is said, and the rest is there; a file of nothing else fails", async () => {
    say = (_, n) => (n === 2 ? { status: 400 } : { text: `Page text ${n}`, finish: n === 1 ? "length" : "stop" });
    const scan = await pictureOf("scanned words");
    const document = await stored(await mixedPdf([scan, scan, scan]), "scan.pdf");
    expect(document).toMatchObject({
      status: "ready",
      warnings: ["page 2: sees did not take it", "page 1: sees had more to say than it may, and the text ends early"],
    });
    say = () => ({ status: 400 });
    const refused = await stored(await pictureOf("refused"), "refused.png");
    expect(refused).toMatchObject({ status: "failed", error: "there is no text in the file: sees did not take it" });
    say = () => ({ text: " " });
    const silent = await stored(await pictureOf("silent"), "silent.png");
    expect(silent).toMatchObject({ status: "failed", error: "there is no text in the file: sees found no text in it" });
  });

  test("a damaged picture, or another format under its name, is sent nowhere", async () => {
    const picture = await pictureOf("cut");
    for (const bytes of [
      picture.subarray(0, 60),
      Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'),
      Buffer.alloc(0),
    ])
      expect(await stored(bytes, `damaged-${bytes.length}.png`)).toMatchObject({ status: "failed" });
    // The embedded database takes nine seconds for such a file.
    if (onPostgres())
      expect(await stored(Buffer.alloc(26 * 1024 * 1024, "sound"), "long.mp3")).toMatchObject({
        status: "failed",
        error: expect.stringContaining("26214400 bytes"),
      });
    expect(calls).toEqual([]);
  });

  test("the scope's own key is used, where it has one", async () => {
    await admin.call("PUT", "/contexts/default/settings", {
      scope: { org },
      credentials: { openai: "sk-of-the-tenant" },
    });
    say = () => ({ text: "Seen by the tenant's key." });
    await stored(await pictureOf("own"), "own.png");
    expect(calls.map(({ key }) => key)).toEqual(["sk-of-the-tenant"]);
  });

  test("a budget without room makes it wait, and the call is made when it is raised", async () => {
    const budget = { scope: { org }, period: "day", tokenLimit: 100 };
    expect((await service.operator.call("PUT", "/contexts/default/budgets", budget)).status).toBeLessThan(300);
    say = () => ({ text: "Paid for.", usage: { prompt_tokens: 500, completion_tokens: 5 } });
    const { body } = await agent.upload(await pictureOf("dear"), "dear.png");
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect((await agent.get<{ status: string }>(`/documents/${body.id}`)).body.status).toBe("extracting");
    expect(calls).toEqual([]);
    await service.operator.call("PUT", "/contexts/default/budgets", { ...budget, tokenLimit: 1_000_000 });
    await service.database.sql("UPDATE scopefloor.job SET run_after = now() WHERE document_id = $1", [body.id]);
    expect(await agent.processed(body.id)).toMatchObject({ status: "ready" });
    expect(calls).toHaveLength(1);
  });

  test("what was read goes with the document, and with a part of its text that is forgotten", async () => {
    say = () => ({ text: "The password of the heronry is swordfish." });
    const document = await stored(await pictureOf("secret"), "secret.png");
    const kept = async () =>
      (await service.database.sql("SELECT part FROM scopefloor.document_content WHERE document_id = $1", [document.id]))
        .length;
    expect(await kept()).toBe(2);
    const forgotten = await agent.post<{ deleted: number }>("/forget", {
      query: "password heronry swordfish",
      purge: true,
    });
    expect(forgotten.body.deleted).toBeGreaterThan(0);
    expect(await kept()).toBe(0);
  });
});
