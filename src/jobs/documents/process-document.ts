import { modelsOf } from "../../context/scope-models.ts";
import { settingsOf } from "../../context/settings.ts";
import { enterJob, type TakenJob } from "../../db/access/enter-job.ts";
import { sql } from "../../db/access/scoped.ts";
import type { Parsed } from "../../documents/parsing/parser.ts";
import { UnreadableDocument } from "../../documents/parsing/unreadable.ts";
import { HELD_SQLSTATE } from "../../governance/holds.ts";
import { QUOTA_SQLSTATE } from "../../metering/limits.ts";
import { recordTrace } from "../../traces/record.ts";
import type { JobContext } from "../job-context.ts";
import { textOf } from "./read-media.ts";
import { storeVersion } from "./store-version.ts";
import { clear, currentVersion, finish, type Started, setStatus } from "./version.ts";

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

/** @param clears of a first version nothing stays: an earlier attempt may have stored a part of it, and its text is more than its file */
async function fail(deps: JobContext, job: TakenJob, reason: string, clears: boolean): Promise<void> {
  await enterJob(deps.database.worker, job, deps.context, async (tx) => {
    if (clears) await clear(tx, job);
    await setStatus(tx, job, { status: "failed", error: reason, processingCompletedAt: sql`now()` });
    recordTrace(tx, { kind: "decision", operation: "extract", sources: [job.documentId ?? ""], returned: 0 });
    await finish(tx);
  });
}
