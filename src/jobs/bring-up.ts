import { v7 as uuid } from "uuid";
import { enterJob, type TakenJob } from "../db/access/enter-job.ts";
import { json, type ScopedTransaction, type SQL, sql } from "../db/access/scoped.ts";
import { eachInSlices } from "../load/slices.ts";
import { indexerOf } from "../memory/store-passages.ts";
import { ANALYSER } from "../text/analysis/analyse.ts";
import { cuesOf } from "../text/answer-cues.ts";
import { foldedName, identityOf, normalKey } from "../text/names.ts";
import { plantedIn } from "../text/planted.ts";
import { sameTextDigest } from "../text/same-text.ts";
import type { JobContext } from "./job-context.ts";

/** Passages in one transaction: other requests write between them. */
const PASSAGES_AT_ONCE = 200;

/**
 * Brings a scope's rows up to what the service writes now: names and keys to their one spelling, with what
 * becomes one put together; and passages to the present analysis of texts, with what they say and what they look
 * like. A migration orders it once for each scope (drizzle/), and a start that finds an earlier analysis.
 *
 * @throws JobGone
 */
export async function bringUp(deps: JobContext, job: TakenJob): Promise<void> {
  await enterJob(deps.database.worker, job, deps.context, respell);
  for (;;) {
    await deps.extend(job);
    const isDone = await enterJob(deps.database.worker, job, deps.context, async (tx) => {
      const passages = await oldPassages(tx);
      await renew(tx, passages);
      if (passages.length === PASSAGES_AT_ONCE) return false;
      await tx.call("enqueue", uuid(), "index", null, null);
      await tx.call("finish_job");
      return true;
    });
    if (isDone) return;
  }
}

async function respell(tx: ScopedTransaction): Promise<void> {
  const entities = await tx.rows<{ id: string; type: string; name: string; identity: string; folded: string }>(
    sql`SELECT e.id, e.type, e.name, e.identity, e.folded FROM ${tx.read("entity", "e")}`,
  );
  const renamed = entities.flatMap(({ id, ...entity }) => {
    const [identity, folded] = [identityOf(entity), foldedName(entity.name)];
    return identity === entity.identity && folded === entity.folded ? [] : [{ id, identity, folded }];
  });
  const said = await tx.rows<{ key: string; normalKey: string }>(sql`
    SELECT DISTINCT a.key, a.normal_key AS "normalKey" FROM ${tx.read("attribute", "a")}
    UNION SELECT DISTINCT r.key, r.normal_key FROM ${tx.read("relation", "r")}`);
  const keys = said.flatMap(({ key, normalKey: known }) =>
    known === normalKey(key) ? [] : [{ key, normalKey: normalKey(key) }],
  );
  if (renamed.length + keys.length > 0) await tx.call("respell_facts", json(renamed), json(keys));
}

interface OldPassage {
  readonly id: string;
  readonly kind: string;
  readonly text: string;
  readonly heading: string | null;
  readonly role: string | null;
}

/** Those that have no terms yet, or terms of an earlier analysis. */
export const oldPassages = (tx: ScopedTransaction): Promise<OldPassage[]> =>
  tx.rows<OldPassage>(sql`
    SELECT p.id, p.kind, p.text, p.role, CASE WHEN o.id IS NOT NULL THEN o.title || ' ' || coalesce(p.section, '') END AS heading
    FROM ${tx.read("passage", "p")} LEFT JOIN ${tx.read("document", "o")} ON o.scope_id = p.scope_id AND o.id = p.document_id
    WHERE (p.terms IS NULL OR p.analyser < ${ANALYSER}) AND p.expired_at IS NULL ORDER BY p.id LIMIT ${PASSAGES_AT_ONCE}`);

/** Analyses passages anew. They stand at the end of the tail then, as if they had just come. */
export async function renew(tx: ScopedTransaction, passages: readonly OldPassage[]): Promise<void> {
  if (passages.length === 0) return;
  const index = await indexerOf(tx);
  const known = json(
    await eachInSlices(passages, ({ id, kind, text, heading, role }) => ({
      id,
      digest: sameTextDigest(text, role),
      suspicious: plantedIn(text),
      ...index({ text, ...(heading === null ? {} : { heading }) }),
      ...(kind === "turn" ? { cues: cuesOf(text) } : {}),
    })),
  );
  const records = sql`jsonb_to_recordset(${known}) AS v(id uuid, digest text, suspicious jsonb, terms text, words int, languages text, analyser smallint, cues smallint)`;
  const of = (value: SQL) => sql`(SELECT ${value} FROM ${records} WHERE v.id = passage.id)`;
  await tx.update(
    "passage",
    {
      seq: sql`DEFAULT`,
      digest: of(sql`decode(v.digest, 'hex')`),
      suspicious: of(sql`ARRAY(SELECT jsonb_array_elements_text(v.suspicious))`),
      terms: of(sql`decode(v.terms, 'hex')`),
      lexemes: of(sql`v.words`),
      languages: of(sql`v.languages`),
      analyser: of(sql`v.analyser`),
      cues: of(sql`v.cues`),
    },
    // What has changed meanwhile was analysed then.
    sql`id IN (SELECT v.id FROM ${records}) AND (terms IS NULL OR analyser < ${ANALYSER})`,
  );
}
