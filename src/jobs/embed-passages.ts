import { v7 as uuid } from "uuid";
import { modelsOf } from "../context/scope-models.ts";
import { enterJob, JobGone, type TakenJob } from "../db/access/enter-job.ts";
import { json, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { holdForJob, LONGEST_WAIT_SECONDS, recordLostCall, WaitsForBudget } from "../metering/job-meter.ts";
import type { Embedded, Embedder, TokenSource } from "../models/embedder.ts";
import { embeddingCall } from "../models/metered.ts";
import { ModelUnavailable } from "../models/unavailable.ts";
import type { VectorText } from "../models/vectors.ts";
import { recordTrace } from "../traces/record.ts";
import { oldPassages, renew } from "./bring-up.ts";
import type { JobContext } from "./job-context.ts";

/** Passages in one call to the model. */
const PASSAGES_PER_CALL = 64;
/** After so many the job goes to the end of the line: other floors are waiting. */
const BATCHES_PER_JOB = 40;
/** From this attempt on a text may be to blame for a failure that names no other reason. */
const ATTEMPTS_BEFORE_BLAME = 3;

interface Waiting {
  readonly id: string;
  readonly text: string;
  /** Another one once it says something else. */
  readonly seq: string;
}

/**
 * Gives a scope's passages the vectors of the present model: those that have none, and those that
 * have another model's. Each batch is kept as it comes, so that nothing is embedded twice, and recall
 * goes on meanwhile over old and new vectors.
 *
 * @throws JobGone, or ModelUnavailable or WaitsForBudget, after which the job is tried again
 */
export async function embedPassages(deps: JobContext, job: TakenJob): Promise<void> {
  // Texts of this size and above are more than a whole budget, and wait for that to be raised.
  let tooLarge: number | undefined;
  for (let done = 0; done < BATCHES_PER_JOB; done++) {
    const round = await enterJob(deps.database.worker, job, deps.context, async (tx) => {
      // A fact that comes back where another is forgotten has no words yet either.
      await renew(tx, await oldPassages(tx));
      const embedder = modelsOf(tx, deps.models).current;
      const waiting = await waitingPassages(tx, embedder.id, tooLarge);
      if (waiting.length > 0) return { embedder, held: await holdSome(tx, embedder, waiting, job.attempts) };
      if (tooLarge !== undefined) return { embedder, held: new WaitsForBudget(LONGEST_WAIT_SECONDS, true) };
      await finish(tx);
      return undefined;
    });
    if (round === undefined) return;
    const { embedder, held } = round;
    // Now that what was brought up is kept.
    if (held instanceof WaitsForBudget) throw held;
    if ("tooLarge" in held) {
      tooLarge = held.tooLarge;
      continue;
    }
    const { batch, traceId } = held;
    await deps.extend(job);
    // No transaction is open here: a model may take its time.
    const call = {
      id: traceId,
      kind: "model",
      operation: "embed",
      provider: embedder.provider,
      model: embedder.model,
    } as const;
    const embedded = await embedEach(embedder, batch, job.attempts).catch(async (error: unknown) => {
      if (error instanceof ModelUnavailable) {
        const spent = { ...call, status: "error", embeddingTokens: error.tokens, tokenSource: "tokenizer" } as const;
        await tell(deps, job, spent, async () => 0);
      }
      throw error;
    });
    const spent = { ...call, embeddingTokens: embedded.tokens, tokenSource: embedded.tokenSource };
    await tell(deps, job, spent, async (tx) => {
      await storeVectors(tx, embedder, batch, embedded.vectors);
      return batch.length;
    });
  }
  if (tooLarge !== undefined) throw new WaitsForBudget(LONGEST_WAIT_SECONDS, true);
  await enterJob(deps.database.worker, job, deps.context, async (tx) => {
    await tx.call("enqueue", uuid(), "embed", null, null);
    await tx.call("finish_job");
  });
}

interface Told {
  readonly id: string;
  readonly kind: "model";
  readonly operation: "embed";
  readonly provider: string;
  readonly model: string;
  readonly status?: "error";
  readonly embeddingTokens: number;
  readonly tokenSource: TokenSource;
}

/**
 * Records a call with what came of it, which `work` stores and counts. Where the job is gone meanwhile the call
 * is recorded all the same.
 *
 * @throws JobGone
 */
async function tell(
  deps: JobContext,
  job: TakenJob,
  spent: Told,
  work: (tx: ScopedTransaction) => Promise<number>,
): Promise<void> {
  try {
    await enterJob(deps.database.worker, job, deps.context, async (tx) => {
      const returned = await work(tx);
      recordTrace(tx, { ...spent, returned });
    });
  } catch (error) {
    if (error instanceof JobGone) await recordLostCall(deps.database, spent.id, spent, spent.tokenSource);
    throw error;
  }
}

/** Held for so much longer than a call to the model may take. */
const HOLD_SECONDS = 900;

/**
 * Holds what the first of these may use: all of them, or as many as the budgets have room for. Of one that is more
 * than a whole budget it gives the size, in bytes; where there is no room for one, how long to wait.
 */
async function holdSome(
  tx: ScopedTransaction,
  embedder: Embedder,
  waiting: readonly Waiting[],
  attempts: number,
): Promise<
  { readonly batch: readonly Waiting[]; readonly traceId: string } | { readonly tooLarge: number } | WaitsForBudget
> {
  for (let batch = waiting; ; batch = batch.slice(0, Math.ceil(batch.length / 2))) {
    try {
      return { batch, traceId: await hold(tx, embedder, batch, attempts) };
    } catch (error) {
      if (!(error instanceof WaitsForBudget)) throw error;
      if (batch.length > 1) continue;
      if (!error.isTooLarge) return error;
      return { tooLarge: Buffer.byteLength(batch[0]?.text ?? "") };
    }
  }
}

/** What a batch may use, with the text that a model is tried with where one of the batch may be to blame. */
const hold = async (tx: ScopedTransaction, embedder: Embedder, batch: readonly Waiting[], attempts: number) =>
  holdForJob(
    tx,
    await embeddingCall(embedder, [
      ...batch.map(({ text }) => text),
      // Together, and then each by itself.
      ...(attempts >= ATTEMPTS_BEFORE_BLAME ? [PROBE, ...batch.map(({ text }) => text)] : []),
    ]),
    HOLD_SECONDS,
  );

const waitingPassages = (tx: ScopedTransaction, embedderId: number, tooLarge: number | undefined) =>
  tx.rows<Waiting>(sql`
    SELECT p.id, p.text, p.seq::text AS seq FROM ${tx.read("passage", "p")}
    WHERE p.expired_at IS NULL AND p.embedder_id IS DISTINCT FROM ${embedderId}::int
      AND (${tooLarge ?? null}::int IS NULL OR octet_length(p.text) < ${tooLarge ?? null}::int)
    ORDER BY p.observed_at DESC, p.id LIMIT ${PASSAGES_PER_CALL}`);

/** A text of no one's, to find out whether a model works at all. */
const PROBE = "The quick brown fox jumps over the lazy dog.";

/**
 * A batch. When it was tried often enough and a text may be to blame, each text by itself: one that
 * the model refuses while it takes another is left to its words.
 */
async function embedEach(embedder: Embedder, batch: readonly Waiting[], attempts: number): Promise<Embedded> {
  const texts = batch.map(({ text }) => text);
  const isToBlame = (error: unknown) =>
    error instanceof ModelUnavailable && error.mayBeText && attempts >= ATTEMPTS_BEFORE_BLAME;
  let spentInVain = 0;
  try {
    return await embedder.embed(texts);
  } catch (error) {
    if (!isToBlame(error)) throw error;
    spentInVain = (error as ModelUnavailable).tokens;
  }
  const vectors: (VectorText | null)[] = [];
  let tokens = spentInVain + (await embedder.embed([PROBE])).tokens;
  let tokenSource: Embedded["tokenSource"] = "provider";
  for (const text of texts) {
    try {
      const one = await embedder.embed([text]);
      vectors.push(...one.vectors);
      tokens += one.tokens;
      tokenSource = one.tokenSource;
    } catch (error) {
      if (!(error instanceof ModelUnavailable)) throw error;
      if (!isToBlame(error)) {
        error.tokens += tokens;
        throw error;
      }
      tokens += error.tokens;
      vectors.push(null);
    }
  }
  return { embedderId: embedder.id, vectors, tokens, tokenSource };
}

/** What was forgotten or has changed meanwhile is not there any more, and is left alone. */
async function storeVectors(
  tx: ScopedTransaction,
  embedder: Embedder,
  batch: readonly Waiting[],
  vectors: readonly (VectorText | null)[],
): Promise<void> {
  const given = json(batch.map(({ id, seq }, i) => ({ id, seq, embedding: vectors[i] ?? null })));
  await tx.update(
    "passage",
    {
      embedding: sql`(SELECT v.embedding::halfvec FROM jsonb_to_recordset(${given}) AS v(id uuid, embedding text) WHERE v.id = passage.id)`,
      embedderId: embedder.id,
    },
    sql`(id, seq) IN (SELECT v.id, v.seq FROM jsonb_to_recordset(${given}) AS v(id uuid, seq bigint)) AND expired_at IS NULL`,
  );
}

/** The scope has all its vectors: so have its documents. */
async function finish(tx: ScopedTransaction): Promise<void> {
  await tx.update(
    "document",
    { status: "ready", error: null, processingCompletedAt: sql`now()`, updatedAt: sql`now()` },
    // Also one whose embedding was given up before.
    sql`(status = 'embedding' OR (status = 'failed' AND ready_version = version)) AND ready_version = version`,
  );
  await tx.call("finish_job");
}
