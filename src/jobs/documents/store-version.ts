import { v7 as uuid } from "uuid";
import { enterJob, JobGone, type TakenJob } from "../../db/access/enter-job.ts";
import { json, type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { findNearDuplicates, storeBands } from "../../documents/near-duplicates.ts";
import type { Chunk } from "../../documents/parsing/chunk.ts";
import type { Keyword } from "../../documents/parsing/keywords.ts";
import type { Parsed } from "../../documents/parsing/parser.ts";
import { storePassages } from "../../memory/store-passages.ts";
import { endJobHold, extendJobHold, holdForJob, WaitsForBudget } from "../../metering/job-meter.ts";
import { countAll, type Embedder, sum } from "../../models/embedder.ts";
import { recordTrace, spentOn } from "../../traces/record.ts";
import type { JobContext } from "../job-context.ts";
import { clear, currentVersion, finish, type Started, setStatus, type Version } from "./version.ts";

/** Chunks stored by one statement. */
const CHUNKS_PER_TRANSACTION = 500;

/** Stores the chunks and keywords of one version, and ends the job. */
export async function storeVersion(deps: JobContext, job: TakenJob, started: Started, parsed: Parsed): Promise<void> {
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
