import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import type { ForgottenItems } from "../../traces/receipt.ts";
import { mayBeAbout, saying, type Topic, weightOf } from "./topic.ts";

/** Of documents and chunks, what is to lose its heading, title or source. */
export type NamedItems = Pick<ForgottenItems, "sections" | "titles" | "sources">;

/**
 * Headings, titles and sources of documents that say a share of a topic: they are kept with every chunk,
 * or with the document.
 */
export async function matchNames(tx: ScopedTransaction, topic: Topic, threshold: number): Promise<NamedItems> {
  // A file's name is a title too: its words are joined by what is not white space.
  const spaced = (column: SQL) => sql`${column} || ' ' || translate(${column}, '_.-/', '    ')`;
  const idsOf = async (from: SQL, column: SQL) => {
    const rows = await tx.rows<{ id: string; text: string; weight: number }>(sql`
      SELECT n.id, ${column} AS text, ${weightOf(spaced(column), topic)} AS weight FROM ${from}
      WHERE ${column} IS NOT NULL AND ${mayBeAbout(spaced(column), topic, threshold)}`);
    return saying(rows, topic, threshold).map(({ id }) => id);
  };
  return {
    sections: await idsOf(tx.read("passage", "n"), sql`n.section`),
    titles: await idsOf(tx.read("document", "n"), sql`n.title`),
    sources: await idsOf(tx.read("document", "n"), sql`n.source`),
  };
}

/** Takes them away; gives how many. */
export async function removeNames(tx: ScopedTransaction, { sections, titles, sources }: NamedItems): Promise<number> {
  const updatedAt = sql`now()`;
  const among = (ids: readonly string[]) => sql`id = ANY (${list(ids)}::uuid[])`;
  let removed = 0;
  if (sections.length > 0) removed += await tx.update("passage", { section: null }, among(sections));
  if (titles.length > 0) removed += await tx.update("document", { title: "untitled", updatedAt }, among(titles));
  if (sources.length > 0) removed += await tx.update("document", { source: null, updatedAt }, among(sources));
  return removed;
}
