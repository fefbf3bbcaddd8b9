import { enterJob, type TakenJob } from "../db/access/enter-job.ts";
import { json, list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { indexWords, wordsOf } from "../memory/store-passages.ts";
import { foldedName, identityOf, normalKey } from "../text/names.ts";
import { normalForm } from "../text/normal-form.ts";
import { plantedIn } from "../text/planted.ts";
import { sameTextDigest } from "../text/same-text.ts";
import type { JobContext } from "./job-context.ts";

/** Passages in one transaction: other requests write between them. */
const PASSAGES_AT_ONCE = 200;

/**
 * Brings a scope's rows up to what the service writes now: names and keys to their one spelling, with what
 * becomes one put together; and passages to the normal form, with what they say and what they look like. A
 * migration orders it once for each scope (drizzle/).
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
  readonly text: string;
  readonly heading: string | null;
  readonly role: string | null;
}

const oldPassages = (tx: ScopedTransaction) =>
  tx.rows<OldPassage>(sql`
    SELECT p.id, p.text, p.role, CASE WHEN o.id IS NOT NULL THEN o.title || ' ' || coalesce(p.section, '') END AS heading
    FROM ${tx.read("passage", "p")} LEFT JOIN ${tx.read("document", "o")} ON o.scope_id = p.scope_id AND o.id = p.document_id
    WHERE p.digest IS NULL AND p.expired_at IS NULL ORDER BY p.id LIMIT ${PASSAGES_AT_ONCE}`);

async function renew(tx: ScopedTransaction, passages: readonly OldPassage[]): Promise<void> {
  const known = json(
    passages.map(({ id, text, role }) => ({ id, digest: sameTextDigest(text, role), suspicious: plantedIn(text) })),
  );
  const records = sql`jsonb_to_recordset(${known}) AS v(id uuid, digest text, suspicious jsonb)`;
  await tx.update(
    "passage",
    {
      digest: sql`(SELECT decode(v.digest, 'hex') FROM ${records} WHERE v.id = passage.id)`,
      suspicious: sql`(SELECT ARRAY(SELECT jsonb_array_elements_text(v.suspicious)) FROM ${records} WHERE v.id = passage.id)`,
    },
    sql`id IN (SELECT v.id FROM ${records})`,
  );
  const words = passages
    .map(({ id, text, heading }) => ({ id, words: wordsOf({ text, ...(heading === null ? {} : { heading }) }) }))
    .filter(({ words: written }) => normalForm(written) !== written);
  if (words.length === 0) return;
  const ids = list(words.map(({ id }) => id));
  await tx.remove("posting", sql`passage_id = ANY (${ids}::uuid[])`);
  await indexWords(tx, words);
  await tx.update(
    "passage",
    {
      lexemes: sql`coalesce((SELECT max(o.lexemes) FROM ${tx.read("posting", "o")} WHERE o.passage_id = passage.id), 0)`,
    },
    sql`id = ANY (${ids}::uuid[])`,
  );
}
