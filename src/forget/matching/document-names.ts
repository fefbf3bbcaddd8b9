import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import { Slices } from "../../load/slices.ts";
import type { ForgottenItems } from "../../traces/receipt.ts";
import { shareOfText, type Topic } from "./topic.ts";

/** Of documents and chunks, what is to lose its heading, title or source. */
export type NamedItems = Pick<ForgottenItems, "sections" | "titles" | "sources">;

/**
 * Headings, titles and sources of documents that say a share of a topic: they are kept with every chunk,
 * or with the document.
 */
export async function matchNames(tx: ScopedTransaction, topic: Topic, threshold: number): Promise<NamedItems> {
  if (topic.weight === 0) return { sections: [], titles: [], sources: [] };
  const slices = new Slices();
  const idsOf = async (from: SQL, column: SQL) => {
    // Many chunks stand below one heading.
    const rows = await tx.rows<{ name: string; ids: string[] }>(sql`
      SELECT ${column} AS name, jsonb_agg(n.id) AS ids FROM ${from} WHERE ${column} IS NOT NULL GROUP BY 1`);
    const ids: string[] = [];
    for (const row of rows) {
      // A file's name is a title too: its words are joined by what is not white space.
      const spaced = `${row.name} ${row.name.replace(/[_.\-/]/g, " ")}`;
      if (shareOfText(spaced, topic, threshold) !== undefined) ids.push(...row.ids);
      await slices.pause();
    }
    return ids.sort();
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
