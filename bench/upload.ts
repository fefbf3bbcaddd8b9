/**
 * Uploading 200 files of every kind over HTTP on PostgreSQL, api and worker as two processes: until
 * all are ready. Beside it, in the same run, what cannot be saved: parsing the same files with as
 * many parsers, and embedding their chunks.
 */
import { readFile } from "node:fs/promises";
import { mediaTypeOf } from "../src/documents/parsing/media-type.ts";
import { parseDocument } from "../src/documents/parsing/parser.ts";
import { LexicalEmbeddings } from "../src/models/lexical-embeddings.ts";
import { docxOf, htmlOf, markdownOf, pdfOf, type Section } from "../test/harness/files.ts";
import { load, quantile, round, table } from "./measure.ts";
import { benchDatabase, mintAgent, startBuilt, startBuiltWorker, temporaryFolder } from "./service.ts";
import { randomText, seeded } from "./text.ts";

const JOBS = 2;
const UPLOADERS = 8;
const SMALL_FILES = 400;

interface BenchFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** 200 files of 2 to 60 kB of text. */
async function makeFiles(random: () => number): Promise<BenchFile[]> {
  const sections = (): Section[] =>
    Array.from({ length: 3 + Math.floor(random() * 12) }, (_, i) => ({
      heading: `Part ${i + 1} ${randomText(random, 3)}`,
      text: Array.from({ length: 4 + Math.floor(random() * 16) }, () => `${randomText(random, 14)}.`).join(" "),
    }));
  const encode = (text: string) => new TextEncoder().encode(text);
  const makers: [string, number, () => Promise<Uint8Array>][] = [
    [
      "txt",
      40,
      async () =>
        encode(
          sections()
            .map(({ text }) => text)
            .join("\n\n"),
        ),
    ],
    ["md", 40, async () => encode(markdownOf(sections()))],
    ["html", 30, async () => encode(htmlOf(sections()))],
    [
      "csv",
      20,
      async () =>
        encode(
          `topic,text\n${sections()
            .map(({ heading, text }) => `${heading},"${text}"`)
            .join("\n")}`,
        ),
    ],
    ["json", 10, async () => encode(JSON.stringify(sections()))],
    ["pdf", 30, async () => pdfOf(sections().map(({ heading, text }) => `${heading}\n${text}`))],
    ["docx", 30, async () => docxOf(sections())],
  ];
  const files: BenchFile[] = [];
  for (const [kind, n, make] of makers)
    for (let i = 0; i < n; i++) files.push({ name: `${i}.${kind}`, bytes: await make() });
  return files.sort(() => random() - 0.5);
}

/** The highest resident memory of a process so far, in MB; 0 once it has ended. */
async function peakMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
}

const childrenOf = async (pid: number) =>
  (await readFile(`/proc/${pid}/task/${pid}/children`, "utf8").catch(() => ""))
    .split(" ")
    .filter((child) => child !== "")
    .map(Number);

export default async function upload(): Promise<Record<string, unknown>> {
  const files = await makeFiles(seeded(7700));
  const database = await benchDatabase();
  const folder = await temporaryFolder();
  const environment = { DATABASE_URL: database.url, SCOPEFLOOR_DATA_DIR: folder.path, SCOPEFLOOR_JOBS: String(JOBS) };
  // The worker migrates; the api then finds the database ready.
  const worker = await startBuiltWorker(environment);
  const api = await startBuilt({ ...environment, SCOPEFLOOR_ROLE: "api", DATABASE_OWNER_URL: database.url });
  let parserMb = 0;
  const watching = setInterval(async () => {
    for (const pid of await childrenOf(worker.pid)) parserMb = Math.max(parserMb, await peakMb(pid));
  }, 50);
  try {
    const keys: string[] = [];
    for (let i = 0; i < 4; i++) keys.push(await mintAgent(api, `tenant ${i}`, { org: `tenant-${i}` }));
    const sql = database.connect();
    const send = (all: readonly BenchFile[]) =>
      load(all.length, UPLOADERS, async (i) => {
        const form = new FormData();
        const { name, bytes } = all[i] as BenchFile;
        form.append("file", new Blob([new Uint8Array(bytes)]), name);
        const answer = await fetch(`${api.url}/default/documents`, {
          method: "POST",
          headers: { authorization: `Bearer ${keys[i % keys.length]}` },
          body: form,
        });
        if (answer.status !== 202) throw new Error(`upload answered ${answer.status}`);
        await answer.arrayBuffer();
      });
    const allReady = async (everyMs: number) => {
      for (;;) {
        const [left] =
          await sql`SELECT count(*)::int AS n FROM scopefloor.document WHERE status NOT IN ('ready', 'failed')`;
        if (left?.n === 0) break;
        await new Promise((resolve) => setTimeout(resolve, everyMs));
      }
    };
    const startedAt = performance.now();
    const sent = await send(files);
    await allReady(50);
    const seconds = (performance.now() - startedAt) / 1000;
    const documents = await sql`
      SELECT status, extract(epoch FROM processing_completed_at - created_at)::float8 * 1000 AS waited,
             extract(epoch FROM processing_completed_at - processing_started_at)::float8 * 1000 AS worked FROM scopefloor.document`;
    const chunks = await sql`SELECT text FROM scopefloor.passage WHERE kind = 'chunk'`;
    const random = seeded(42);
    const small = Array.from({ length: SMALL_FILES }, (_, i) => ({
      name: `small-${i}.txt`,
      bytes: new TextEncoder().encode(`${randomText(random, 150)}.`),
    }));
    const smallAt = performance.now();
    await send(small);
    await allReady(20);
    const smallSeconds = (performance.now() - smallAt) / 1000;
    const alone: number[] = [];
    for (let i = 0; i < 15; i++) {
      const bytes = await pdfOf([`${randomText(random, 120)}.`]);
      // The worker is at rest, and has the next process ready.
      await new Promise((resolve) => setTimeout(resolve, 700));
      const at = performance.now();
      await send([{ name: `alone-${i}.pdf`, bytes }]);
      await allReady(5);
      alone.push(performance.now() - at);
    }
    await sql.end();
    const failed = documents.filter(({ status }) => status !== "ready").length;
    if (failed > 0) throw new Error(`${failed} files failed`);

    const parsing = await load(files.length, JOBS, async (i) => {
      const { name, bytes } = files[i] as BenchFile;
      await parseDocument(bytes, mediaTypeOf({ mimeType: undefined, partType: "", filename: name }), {
        timeoutMs: 60_000,
        heapMb: 512,
        residentMb: 1_024,
        hasSpare: false,
        entry: "dist/documents/parsing/parser-process.js",
      });
    });
    const parsingSeconds = files.length / parsing.perSecond;
    const embeddingAt = performance.now();
    await new LexicalEmbeddings().embedDocuments(chunks.map(({ text }) => text as string));
    const embeddingSeconds = (performance.now() - embeddingAt) / 1000;

    const times = (field: "waited" | "worked") => documents.map((row) => row[field] as number);
    process.stdout.write(
      table([
        ["", "value"],
        ["files", files.length],
        ["passages", chunks.length],
        ["files/s until all are ready", files.length / seconds],
        ["passages/s", chunks.length / seconds],
        ["upload answered, p50 ms", sent.p50],
        ["upload answered, p95 ms", sent.p95],
        ["one file at work, p50 ms", quantile(times("worked"), 0.5)],
        ["one file at work, p95 ms", quantile(times("worked"), 0.95)],
        ["upload to ready in the burst, p50 s", quantile(times("waited"), 0.5) / 1000],
        ["upload to ready in the burst, p95 s", quantile(times("waited"), 0.95) / 1000],
        [`${SMALL_FILES} texts of a kilobyte: files/s until ready`, SMALL_FILES / smallSeconds],
        ["one small PDF alone, sent to ready, p50 ms", quantile(alone, 0.5)],
        ["seconds in all", seconds],
        ["seconds of parsing alone", parsingSeconds],
        ["seconds of embedding alone", embeddingSeconds],
        ["peak MB, api", await peakMb(api.pid)],
        ["peak MB, worker", await peakMb(worker.pid)],
        ["peak MB, one parser", parserMb],
      ]),
    );
    return {
      filesPerSecond: round(files.length / seconds),
      passagesPerSecond: round(chunks.length / seconds),
      smallPerSecond: round(SMALL_FILES / smallSeconds),
      alonePdfP50Ms: round(quantile(alone, 0.5)),
      readyP50Ms: round(quantile(times("worked"), 0.5)),
      readyP95Ms: round(quantile(times("worked"), 0.95)),
      burstP50Ms: round(quantile(times("waited"), 0.5)),
      burstP95Ms: round(quantile(times("waited"), 0.95)),
      timesParsingAlone: round(seconds / parsingSeconds),
      embeddingShare: round(embeddingSeconds / seconds, 3),
      peakMb: { api: round(await peakMb(api.pid)), worker: round(await peakMb(worker.pid)), parser: round(parserMb) },
    };
  } finally {
    clearInterval(watching);
    await api.stop();
    await worker.stop();
    await database.drop();
    await folder.remove();
  }
}
