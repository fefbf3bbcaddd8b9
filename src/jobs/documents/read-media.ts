import { enterJob, JobGone, type TakenJob } from "../../db/access/enter-job.ts";
import { type ScopedTransaction, sql } from "../../db/access/scoped.ts";
import { type Extracted, ranges, type Unread } from "../../documents/parsing/formats/extracted.ts";
import { type Read, withRead } from "../../documents/parsing/formats/with-read.ts";
import { isText, mediaKindOf } from "../../documents/parsing/media-type.ts";
import type { UploadedFile } from "../../documents/parsing/parser-process.ts";
import { UnreadableDocument } from "../../documents/parsing/unreadable.ts";
import { holdForJob, recordLostCall } from "../../metering/job-meter.ts";
import type { MediaKind, MediaReader, Medium, ReadMedium } from "../../models/media.ts";
import { ModelUnavailable } from "../../models/unavailable.ts";
import { recordTrace } from "../../traces/record.ts";
import type { JobContext } from "../job-context.ts";

/** The models that a scope lets read its pictures and sound. */
export type AllowedReaders = Readonly<Partial<Record<MediaKind, MediaReader>>>;

/** Places of one document that a model reads. */
const MOST_PLACES = 200;
/** What providers take of one sound. */
const MOST_SOUND_BYTES = 25 * 1024 * 1024;
/** Held for longer than a call may take. */
const HOLD_SECONDS = 900;

/** One document on its way, and the models that may read it. */
interface Asked {
  readonly deps: JobContext;
  readonly job: TakenJob;
  readonly file: UploadedFile;
  readonly readers: AllowedReaders;
}

/**
 * What chunks are cut from: a file of text as it is, and the text of another, where a model reads what of it is a
 * picture or a sound. What a model has read of a version is kept, so that no attempt pays for it again.
 *
 * @throws UnreadableDocument, JobGone, or ModelUnavailable or WaitsForBudget, after which the job is tried again
 */
export async function textOf(asked: Asked): Promise<UploadedFile | Extracted> {
  const { deps, file, readers } = asked;
  if (isText(file.type)) return file;
  const kind = mediaKindOf(file.type);
  if (kind === undefined) {
    const extracted = await deps.parsers.extract(file, readers.picture !== undefined);
    if (extracted.unread === undefined || extracted.unread.length === 0 || readers.picture === undefined)
      return extracted;
    return readPlaces(asked, readers.picture, extracted, extracted.unread, (page) => deps.parsers.draw(file, page));
  }
  const reader = readers[kind];
  if (reader === undefined)
    throw new UnreadableDocument(
      `a model has to read a ${kind}, and this scope does not allow it (setting mediaReading)`,
    );
  const whole: Unread = { number: 1, at: 0, title: null };
  return readPlaces(asked, reader, { text: "", sections: [] }, [whole], async (page) =>
    kind === "picture" ? deps.parsers.draw(file, page) : soundOf(file),
  );
}

function soundOf({ bytes, type }: UploadedFile): Medium {
  if (bytes.length === 0) throw new UnreadableDocument("the file is empty");
  if (bytes.length > MOST_SOUND_BYTES)
    throw new UnreadableDocument(`the sound is over ${MOST_SOUND_BYTES} bytes, which is the most that models take`);
  return { bytes, type };
}

/** @param medium gives what is to be read of a place */
async function readPlaces(
  asked: Asked,
  reader: MediaReader,
  extracted: Extracted,
  all: readonly Unread[],
  medium: (number: number) => Promise<Medium>,
): Promise<Extracted> {
  const places = all.slice(0, MOST_PLACES);
  const read = new Map(await enterJob(asked.deps.database.worker, asked.job, asked.deps.context, keptOf(asked)));
  const [cut, refused, undrawn]: [number[], number[], number[]] = [[], [], []];
  for (const { number, title } of places) {
    if (read.has(number)) continue;
    let what: Medium;
    try {
      what = await medium(number);
    } catch (error) {
      if (!(error instanceof UnreadableDocument) || title === null) throw error;
      undrawn.push(number);
      continue;
    }
    const answer = await readOne(asked, reader, what, number);
    if (answer === undefined) refused.push(number);
    else read.set(number, answer.text);
    if (answer?.isCut) cut.push(number);
  }
  const left = all.slice(MOST_PLACES).map(({ number }) => number);
  const where = (numbers: readonly number[]) =>
    all[0]?.title === null ? "the file" : `page${numbers.length === 1 ? "" : "s"} ${ranges(numbers)}`;
  const warnings = [
    ...(extracted.warnings ?? []),
    ...(undrawn.length > 0 ? [`${where(undrawn)}: damaged, or too large to draw, and left out`] : []),
    ...(refused.length > 0 ? [`${where(refused)}: ${reader.model} did not take it`] : []),
    ...(cut.length > 0 ? [`${where(cut)}: ${reader.model} had more to say than it may, and the text ends early`] : []),
    ...(left.length > 0 ? [`${where(left)}: not read; of one document a model reads ${MOST_PLACES} pages`] : []),
  ];
  const texts: Read[] = [...read].map(([number, text]) => ({ number, text }));
  const whole = withRead({ ...extracted, unread: places }, texts);
  if (whole.text.trim() === "") {
    const reason = refused.length > 0 ? `${reader.model} did not take it` : `${reader.model} found no text in it`;
    throw new UnreadableDocument(`there is no text in the file: ${reason}`);
  }
  return { ...whole, warnings, reading: { ...extracted.reading, readBy: `${reader.provider}:${reader.model}` } };
}

/** Of a place the text is kept beside the parts of the file, under the number of the place below zero. */
const partOf = (number: number) => -number;

const keptOf =
  ({ job }: Asked) =>
  async (tx: ScopedTransaction): Promise<[number, string][]> => {
    const rows = await tx.rows<{ part: number; bytes: Uint8Array }>(sql`
      SELECT c.part, c.bytes FROM ${tx.read("document_content", "c")}
      WHERE c.document_id = ${job.documentId}::uuid AND c.version = ${job.version}::int AND c.part < 0`);
    return rows.map(({ part, bytes }) => [-part, Buffer.from(bytes).toString("utf8")]);
  };

/** One call, held before and told of after; undefined: the model does not take this. */
async function readOne(
  { deps, job }: Asked,
  reader: MediaReader,
  medium: Medium,
  number: number,
): Promise<ReadMedium | undefined> {
  const { operation, provider, model } = reader;
  const most = { operation, provider, model, isRemote: true, embeddingTokens: 0, ...reader.most(medium) };
  const id = await enterJob(deps.database.worker, job, deps.context, (tx) => holdForJob(tx, most, HOLD_SECONDS));
  await deps.extend(job);
  const tell = async (
    spent: Pick<ReadMedium, "inputTokens" | "outputTokens" | "tokenSource">,
    status: "ok" | "error",
    text?: string,
  ) => {
    try {
      await enterJob(deps.database.worker, job, deps.context, async (tx) => {
        if (text !== undefined) await keep(tx, job, number, text);
        const { inputTokens, outputTokens, tokenSource } = spent;
        const sources = [job.documentId ?? ""];
        const returned = text === undefined ? 0 : 1;
        const call = { id, kind: "model", operation, provider, model } as const;
        recordTrace(tx, { ...call, status, inputTokens, outputTokens, tokenSource, sources, returned });
      });
    } catch (error) {
      if (error instanceof JobGone) await recordLostCall(deps.database, id, spent, spent.tokenSource);
      throw error;
    }
  };
  try {
    const answer = await reader.read(medium);
    await tell(answer, "ok", answer.text);
    return answer;
  } catch (error) {
    if (!(error instanceof ModelUnavailable)) throw error;
    await tell({ inputTokens: error.tokens, outputTokens: 0, tokenSource: "tokenizer" }, "error");
    if (error.mayBeText) return undefined;
    throw error;
  }
}

async function keep(tx: ScopedTransaction, job: TakenJob, number: number, text: string): Promise<void> {
  if (job.documentId === null || job.version === null) throw new JobGone();
  const bytes = Buffer.from(text, "utf8");
  await tx.insert("document_content", [
    { documentId: job.documentId, version: job.version, part: partOf(number), bytes },
  ]);
}
