import { v7 as uuid } from "uuid";
import { modelsOf } from "../context/scope-models.ts";
import { settingsOf } from "../context/settings.ts";
import { enterJob, JobGone, type TakenJob } from "../db/access/enter-job.ts";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { removeChunks } from "../documents/documents.ts";
import { findNearDuplicates, storeBands } from "../documents/near-duplicates.ts";
import type { Chunk } from "../documents/parsing/chunk.ts";
import type { Keyword } from "../documents/parsing/keywords.ts";
import type { MediaType } from "../documents/parsing/media-type.ts";
import type { Parsed } from "../documents/parsing/parser.ts";
import type { UploadedFile } from "../documents/parsing/parser-process.ts";
import { UnreadableDocument } from "../documents/parsing/unreadable.ts";
import { HELD_SQLSTATE } from "../governance/holds.ts";
import { storePassages } from "../memory/store-passages.ts";
import { endJobHold, extendJobHold, holdForJob, WaitsForBudget } from "../metering/job-meter.ts";
import { QUOTA_SQLSTATE } from "../metering/limits.ts";
import { countAll, type Embedder, sum } from "../models/embedder.ts";
import { recordTrace, spentOn } from "../traces/record.ts";
import type { JobContext } from "./job-context.ts";
import { type AllowedReaders, textOf } from "./read-media.ts";

/** Chunks stored by one statement. */
const CHUNKS_PER_TRANSACTION = 500;

/**
 * Takes one version of a document from its bytes to recall. Done twice it has one effect: it begins by
 * clearing what is there of the document, and its last transaction also ends the job. Of a next version
 * that one transaction puts everything in the old one's place; a first one becomes recallable as it goes.
 *
 * @throws JobGone, or an error after which the job is tried again
 */
export async function processDocument(deps: JobContext, job: TakenJob): Promise<void> {
  const started = await start(deps, job);
  if (started === undefined) return;
  let parsed: Parsed;
  try {
    parsed = await deps.parsers.cut(await textOf({ deps, job, ...started }), started.chunkTokens);
  } catch (error) {
    if (!(error instanceof UnreadableDocument)) throw error;
    return fail(deps, job, error.message, !started.hasReadyVersion);
  }
  try {
    await storeVersion(deps, job, started, parsed);
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code === HELD_SQLSTATE) return fail(deps, job, "the version before is under a legal hold", false);
    if (code !== QUOTA_SQLSTATE) throw error;
    await fail(deps, job, "a limit on what may be kept is reached", !started.hasReadyVersion);
  }
}

/** Stores the chunks and keywords of one version, and ends the job. */
async function storeVersion(deps: JobContext, job: TakenJob, started: Started, parsed: Parsed): Promise<void> {
  const { embedder } = started;
  const tokens = await countAll(parsed.chunks.map((chunk) => chunk.text));
  // A model in this process costs no waiting; another one is asked from the queue, batch by batch,
  // once the text is recallable by its words.
  const call = embedder.isRemote ? undefined : inlineCall(embedder, sum(tokens));
  const parts: Parts = { ...parsed, tokens, version: started };
  if (call === undefined) return storeParts(deps, job, parts, undefined);
  // What takes long is held in a transaction of its own: nobody waits for a budget's row meanwhile.
  const held = parsed.chunks.length <= FEW_CHUNKS ? { call } : await begin(deps, job, call);
  try {
    await storeParts(deps, job, parts, held);
  } catch (error) {
    if (error instanceof WaitsForBudget) return storeParts(deps, job, parts, undefined);
    // Where the job is gone too, the hold expires.
    const { traceId } = held ?? {};
    if (traceId !== undefined)
      await enterJob(deps.database.worker, job, deps.context, (tx) => endJobHold(tx, traceId)).catch(() => undefined);
    throw error;
  }
}

/** Chunks that are embedded and stored in some ten milliseconds. */
const FEW_CHUNKS = 20;

/** What is stored of one version. */
interface Parts extends Parsed {
  /** Model tokens of each chunk. */
  readonly tokens: readonly number[];
  readonly version: Pick<Started, "hasReadyVersion" | "embedder">;
}

/** A call to the built-in model. */
interface Inline {
  readonly call: ReturnType<typeof inlineCall>;
  /** Of its hold; absent: it is held in the transaction that makes it. */
  readonly traceId?: string;
}

/** @throws WaitsForBudget where it holds what it uses, and there is no room; then nothing is stored */
async function storeParts(
  deps: JobContext,
  job: TakenJob,
  { version: { hasReadyVersion, embedder }, tokens, ...parsed }: Parts,
  held: Inline | undefined,
): Promise<void> {
  const enter = <T>(work: (tx: ScopedTransaction, document: Version, renew: () => Promise<void>) => Promise<T>) =>
    enterJob(deps.database.worker, job, deps.context, async (tx, renew) => {
      const document = await currentVersion(tx, job);
      if (document !== undefined) {
        if (held?.traceId !== undefined) await extendJobHold(tx, held.traceId, HOLD_SECONDS);
        return work(tx, document, renew);
      }
      // Deleted, or a newer version was uploaded, whose own job does the work.
      if (held?.traceId !== undefined) await endJobHold(tx, held.traceId);
      return finish(tx);
    });
  const inline = held === undefined ? undefined : embedder;
  let embedded = 0;
  const store = async (tx: ScopedTransaction, document: Version, at: number) => {
    const [chunks, counts] = [
      parsed.chunks.slice(at, at + CHUNKS_PER_TRANSACTION),
      tokens.slice(at, at + CHUNKS_PER_TRANSACTION),
    ];
    embedded += await storeChunks(tx, inline, document, chunks, counts);
  };
  // Of a first version nothing has to leave recall in the same moment; a short one takes one transaction all the same.
  const isInSteps = !hasReadyVersion && parsed.chunks.length > CHUNKS_PER_TRANSACTION;
  if (isInSteps) {
    // Short transactions, so that an erasure of the scope, or a reader behind it, never waits for a whole book. A
    // retry begins again.
    await enter((tx) => clear(tx, job));
    for (let at = 0; at < parsed.chunks.length; at += CHUNKS_PER_TRANSACTION) {
      await enter((tx, document) => store(tx, document, at));
    }
  }
  await enter(async (tx, document, renew) => {
    const traceId = held === undefined ? undefined : (held.traceId ?? (await holdForJob(tx, held.call, HOLD_SECONDS)));
    if (!isInSteps) {
      // Chunks are the first to be stored: where a first version has none, there is nothing else either.
      if (document.hasChunks || job.version !== 1) await clear(tx, job);
      for (let at = 0; at < parsed.chunks.length; at += CHUNKS_PER_TRANSACTION) {
        await renew();
        await store(tx, document, at);
      }
    }
    await storeKeywords(tx, document.id, parsed.keywords);
    await complete(tx, job, parsed, inline === undefined ? "embedding" : "ready");
    if (inline === undefined) await tx.call("enqueue", uuid(), "embed", null, null);
    recordTrace(tx, {
      id: traceId,
      kind: inline === undefined ? "decision" : "model",
      operation: "extract",
      sources: [document.id],
      returned: parsed.chunks.length,
      ...(held === undefined ? {} : spentOn({ ...held.call, ...COUNTED_HERE, embeddingTokens: embedded })),
    });
    await finish(tx);
  });
}

/** One transaction takes no longer than this; each extends the hold. */
const HOLD_SECONDS = 600;

const COUNTED_HERE = { tokenSource: "tokenizer", status: "ok", durationMs: 0 } as const;

/** What the built-in model uses for a document. */
const inlineCall = ({ provider, model }: Embedder, embeddingTokens: number) => ({
  operation: "extract",
  provider,
  model,
  isRemote: false,
  inputTokens: 0,
  embeddingTokens,
});

/**
 * Says that its chunks are made, and holds that of its budgets; undefined: there is no room, and the vectors are left
 * to a job that waits.
 */
async function begin(deps: JobContext, job: TakenJob, call: Inline["call"]): Promise<Inline | undefined> {
  try {
    return await enterJob(deps.database.worker, job, deps.context, async (tx) => {
      await setStatus(tx, job, { status: "chunking" });
      return { call, traceId: await holdForJob(tx, call, HOLD_SECONDS) };
    });
  } catch (error) {
    if (error instanceof WaitsForBudget) return undefined;
    throw error;
  }
}

const finish = (tx: ScopedTransaction) => tx.call<void>("finish_job");

interface Version {
  readonly id: string;
  readonly title: string;
  readonly labels: readonly string[];
  readonly observedAt: string;
  readonly mimeType: MediaType;
  readonly charset: string | null;
  readonly readyVersion: number | null;
  /** Of an earlier version, or an earlier attempt. */
  readonly hasChunks: boolean;
}

/**
 * The job's document, unless it was deleted or a newer version was uploaded. Locked against both until
 * the transaction ends, so that nothing of this version lands behind the next one's clearing.
 */
const currentVersion = (tx: ScopedTransaction, job: TakenJob) =>
  tx.row<Version>(sql`
    SELECT o.id, o.title, to_jsonb(o.labels) AS labels, o.observed_at AS "observedAt", o.mime_type AS "mimeType", o.charset, o.ready_version AS "readyVersion",
      EXISTS (SELECT 1 FROM ${tx.read("passage", "p")} WHERE p.document_id = o.id) AS "hasChunks"
    FROM ${tx.read("document", "o")} WHERE o.id = ${job.documentId}::uuid AND o.version = ${job.version}::int FOR SHARE`);

/** What is to be done, and as its scope has it. */
interface Started {
  readonly file: UploadedFile;
  readonly readers: AllowedReaders;
  readonly hasReadyVersion: boolean;
  readonly chunkTokens: number;
  readonly embedder: Embedder;
}

async function start(deps: JobContext, job: TakenJob): Promise<Started | undefined> {
  return enterJob(deps.database.worker, job, deps.context, async (tx) => {
    const document = await currentVersion(tx, job);
    if (document === undefined) {
      await finish(tx);
      return undefined;
    }
    const parts: Uint8Array[] = [];
    for (;;) {
      const row = await tx.row<{ bytes: Uint8Array }>(sql`
        SELECT c.bytes FROM ${tx.read("document_content", "c")}
        WHERE c.document_id = ${job.documentId}::uuid AND c.version = ${job.version}::int AND c.part = ${parts.length}::int`);
      if (row === undefined) break;
      parts.push(row.bytes);
    }
    await setStatus(tx, job, {
      status: "extracting",
      processingStartedAt: sql`coalesce(processing_started_at, now())`,
      error: null,
    });
    const { chunkTokens, mediaReading } = settingsOf(tx);
    return {
      file: { bytes: Buffer.concat(parts), type: document.mimeType, charset: document.charset ?? undefined },
      readers: mediaReading ? deps.models.media.in(tx.entry.credentials) : {},
      hasReadyVersion: document.readyVersion !== null,
      chunkTokens,
      embedder: modelsOf(tx, deps.models).current,
    };
  });
}

type DocumentChange = Parameters<typeof ScopedTransaction.prototype.update<"document">>[1];

const setStatus = (tx: ScopedTransaction, job: TakenJob, change: DocumentChange) =>
  tx.update(
    "document",
    { updatedAt: sql`now()`, ...change },
    sql`id = ${job.documentId}::uuid AND version = ${job.version}::int`,
  );

/** @param clears of a first version nothing stays: an earlier attempt may have stored a part of it, and its text is more than its file */
async function fail(deps: JobContext, job: TakenJob, reason: string, clears: boolean): Promise<void> {
  await enterJob(deps.database.worker, job, deps.context, async (tx) => {
    if (clears) await clear(tx, job);
    await setStatus(tx, job, { status: "failed", error: reason, processingCompletedAt: sql`now()` });
    recordTrace(tx, { kind: "decision", operation: "extract", sources: [job.documentId ?? ""], returned: 0 });
    await finish(tx);
  });
}

/** What recall showed of the version before leaves it in the transaction in which this one enters. */
async function clear(tx: ScopedTransaction, job: TakenJob): Promise<void> {
  if (job.documentId !== null) await removeChunks(tx, job.documentId);
  await tx.remove("keyword", sql`document_id = ${job.documentId}::uuid`);
  await tx.remove("document_content", sql`document_id = ${job.documentId}::uuid AND version < ${job.version}::int`);
}

async function storeChunks(
  tx: ScopedTransaction,
  embedder: Embedder | undefined,
  document: Version,
  chunks: readonly Chunk[],
  tokens: readonly number[],
): Promise<number> {
  const embedded = await embedder?.embed(chunks.map((chunk) => chunk.text));
  const named = chunks.map((chunk) => ({ ...chunk, id: uuid() }));
  const duplicates = await findNearDuplicates(tx, named);
  await storePassages(
    tx,
    embedder?.id ?? null,
    named.map(({ id, text, position, section, start: charStart, end: charEnd }, i) => ({
      id,
      kind: "chunk",
      text,
      labels: document.labels,
      tokens: tokens[i] ?? 0,
      embedding: embedded?.vectors[i] ?? null,
      observedAt: document.observedAt,
      documentId: document.id,
      position,
      section,
      charStart,
      charEnd,
      duplicateOf: duplicates.get(id) ?? null,
      heading: [document.title, section ?? ""].join(" "),
    })),
  );
  await storeBands(
    tx,
    named.filter(({ id }) => !duplicates.has(id)),
  );
  return embedded?.tokens ?? 0;
}

async function storeKeywords(tx: ScopedTransaction, documentId: string, keywords: readonly Keyword[]): Promise<void> {
  await tx.insert(
    "keyword",
    keywords.map((keyword) => ({ documentId, ...keyword })),
  );
}

async function complete(
  tx: ScopedTransaction,
  job: TakenJob,
  { warnings, reading }: Parsed,
  status: "ready" | "embedding",
): Promise<void> {
  const completed = await setStatus(tx, job, {
    status,
    error: null,
    reading: json({ ...(warnings.length === 0 ? {} : { warnings }), ...reading }),
    readyVersion: job.version,
    ...(status === "ready" ? { processingCompletedAt: sql`now()` } : {}),
  });
  // A newer version came in the meantime: nothing of this one may stay.
  if (completed === 0) throw new JobGone();
}
