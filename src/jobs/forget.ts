import { enterRun, type RunStep, type TakenJob } from "../db/access/enter-job.ts";
import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import {
  type Batch,
  DOCUMENTS_AT_ONCE,
  forgetOld,
  OLD_KINDS,
  type OldKind,
  ROWS_AT_ONCE,
} from "../forget/forget-old.ts";
import { DEFAULT_THRESHOLD, forgetMatching, MAX_MATCHES } from "../forget/forget-query.ts";
import { ERASURE, eraseSubtree } from "../forget/subtree.ts";
import { HELD_SQLSTATE } from "../governance/holds.ts";
import { NO_VECTORS } from "../models/metered.ts";
import { type ForgetCounts, writeReceipt } from "../traces/receipt.ts";
import { type ReceiptSigner, signReceipts } from "../traces/receipt-signer.ts";
import { recordTrace } from "../traces/record.ts";
import type { JobContext } from "./job-context.ts";

/**
 * Does a run step by step, each in its own transaction: what a crash leaves undone goes on from there, to one receipt.
 *
 * @throws JobGone
 */
export async function forget(deps: JobContext, job: TakenJob): Promise<void> {
  const { worker } = deps.database;
  for (let next = "again"; next === "again"; ) {
    await deps.extend(job);
    next = await enterRun(worker, job, deps.context, (tx, run) => takeStep(tx, run, deps.signer)).catch(
      (error: unknown) => {
        if ((error as { code?: unknown }).code !== HELD_SQLSTATE) throw error;
        // Set since the run began; what was taken before is taken.
        return enterRun(worker, job, deps.context, async (tx, run) => {
          if (!run.isWhole && run.selector.query === undefined && run.step === "batch") {
            await tx.call("pass_held");
            return "again";
          }
          const receiptId = run.isWhole ? null : await receiptOf(tx, run);
          await signReceipts(tx, deps.signer);
          await tx.call("end_run", "held", receiptId, "a legal hold is in the way");
          return "done";
        });
      },
    );
  }
}

async function takeStep(
  tx: ScopedTransaction,
  run: RunStep,
  signer: ReceiptSigner | undefined,
): Promise<"again" | "done"> {
  if (run.step === "end") return end(tx, run, signer);
  if (run.selector.query !== undefined) return forgetTopic(tx, run, run.selector.query, signer);
  const { counts, isAll } = run.isWhole ? await eraseSome(tx) : await forgetSome(tx, run);
  const scopes = [...tx.entry.read.scopes.keys()];
  await tx.call("note_run", JSON.stringify(counts), isAll ? Math.max(...scopes) : null, false, null);
  return "again";
}

async function forgetSome(tx: ScopedTransaction, run: RunStep): Promise<Batch> {
  if (run.dryRun) return { counts: await countOld(tx, run), isAll: true };
  const { kinds, before, ...selector } = run.selector;
  if (before === undefined) throw new Error("a run by age has no time");
  // Of one kind after the other, so that a transaction stays short.
  const batch = await forgetOld(tx, {
    ...selector,
    kinds: kinds as readonly OldKind[] | undefined,
    before,
    purge: run.action === "erase",
  });
  if (!batch.isAll || kinds === undefined) return batch;
  for (const kind of ["traces", "receipts"]) {
    if (!kinds.includes(kind)) continue;
    const redacted = await tx.call<number>("redact_old", kind, before, ROWS_AT_ONCE);
    if (redacted > 0) return { counts: { [kind]: redacted }, isAll: false };
  }
  return batch;
}

/** What a dry run would take at these scopes, up to {@link ROWS_COUNTED} of each kind. */
async function countOld(tx: ScopedTransaction, run: RunStep): Promise<ForgetCounts> {
  const { kinds = OLD_KINDS, labels = [], since = "created", before = "" } = run.selector;
  const counts: Record<string, number> = {};
  for (const kind of kinds) {
    const rows = await tx.callRows(
      "old_rows",
      kind,
      since,
      before,
      sql`${list([...labels])}::text[]`,
      run.action === "erase",
      ROWS_COUNTED,
    );
    if (rows.length > 0) counts[kind] = rows.length;
  }
  return counts;
}

const ROWS_COUNTED = 100_000;

/** What the index of words is made of, and what goes with its document or passage. */
const ERASED_WITH_OTHERS = [
  "posting_block",
  "segment",
  "chunk_band",
  "keyword",
  "document_link",
  "document_content",
] as const;
type ErasedWithOthers = (typeof ERASED_WITH_OTHERS)[number];
type ErasedInBatches = Exclude<(typeof ERASURE.delete)[number], ErasedWithOthers>;
/** Tables whose rows go in batches, children first; with them, by their foreign keys, goes what hangs on them. */
const ERASED_IN_BATCHES = ERASURE.delete.filter(
  (table): table is ErasedInBatches => !(ERASED_WITH_OTHERS as readonly string[]).includes(table),
);

/** The next rows of scopes that go as a whole. What is left, and the scopes themselves, go at the end. */
async function eraseSome(tx: ScopedTransaction): Promise<Batch> {
  const counts: Record<string, number> = {};
  await tx.call("drop_cached_answers");
  // First, so that no passage is taken out of it.
  for (const table of ["posting_block", "segment"] as const) await tx.remove(table, sql`true`);
  let room = ROWS_AT_ONCE;
  for (const table of ERASED_IN_BATCHES) {
    const most = table === "document" ? Math.min(room, DOCUMENTS_AT_ONCE) : room;
    const taken = await tx.remove(table, sql`id IN (SELECT o.id FROM ${tx.read(table, "o")} LIMIT ${most})`);
    counts[table] = taken;
    room -= taken;
    if (room <= 0 || taken === most) return { counts, isAll: false };
  }
  const traces = await tx.call<number>("redact_old", "traces", "infinity", ROWS_AT_ONCE);
  return { counts: { ...counts, traces }, isAll: traces < ROWS_AT_ONCE };
}

/** What a query is about, as POST /forget does it: as much as goes at once, until it is all. */
async function forgetTopic(
  tx: ScopedTransaction,
  run: RunStep,
  query: string,
  signer: ReceiptSigner | undefined,
): Promise<"again" | "done"> {
  const { labels = [], since = "created", before } = run.selector;
  const { deleted, receiptId } = await forgetMatching(tx, {
    query,
    // A model of meaning is asked for no scheduled forget.
    prepared: NO_VECTORS,
    sessionId: undefined,
    threshold: DEFAULT_THRESHOLD,
    dryRun: run.dryRun,
    confirmed: true,
    purge: run.action === "erase",
    inBatches: true,
    selection: { labels, by: since === "observed" ? "observed" : "created", before },
  });
  await signReceipts(tx, signer);
  const isAll = run.dryRun || deleted < MAX_MATCHES;
  // Each batch has a receipt; the last one may find nothing, and is then not the run's.
  const isNamed = deleted > 0 || run.counts.deleted === undefined;
  await tx.call("note_run", JSON.stringify({ deleted }), null, isAll, isNamed ? (receiptId ?? null) : null);
  if (!isAll) return "again";
  await tx.call("end_run", "done", null, null);
  return "done";
}

async function end(tx: ScopedTransaction, run: RunStep, signer: ReceiptSigner | undefined): Promise<"done"> {
  const receiptId = await receiptOf(tx, run);
  await signReceipts(tx, signer);
  await tx.call("end_run", "done", receiptId, null);
  return "done";
}

async function receiptOf(tx: ScopedTransaction, run: RunStep): Promise<string | null> {
  if (run.isWhole) return (await eraseSubtree(tx, run.counts)).receiptId;
  const taken = Object.values(run.counts).reduce((sum, n) => sum + n, 0);
  // Rules are looked at often, and most often there is nothing to take.
  if (taken === 0 && run.source === "retention") return null;
  const receiptId = run.dryRun
    ? null
    : await writeReceipt(
        tx,
        { policy: run.source === "retention" ? "retention" : "schedule", action: run.action, subtree: run.subtree },
        run.counts,
      );
  recordTrace(tx, {
    kind: "forget",
    operation: run.source === "retention" ? "retention" : "scheduled_forget",
    returned: run.dryRun ? 0 : taken,
    candidates: taken,
    ...(run.dryRun ? { tierReason: "dry run" } : {}),
  });
  return receiptId;
}
