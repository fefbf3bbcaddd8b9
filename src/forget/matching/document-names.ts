import { list, type ScopedTransaction, type SQL, sql } from "../../db/access/scoped.ts";
import type { ForgottenItems } from "../../traces/receipt.ts";
import { lexemesOf, shareOf } from "./lexeme-share.ts";

/** Of documents and chunks, what is to lose its heading, title or source. */
export type NamedItems = Pick<ForgottenItems, "sections" | "titles" | "sources">;

/**
 * Headings, titles and sources of documents that say a share of a query's content words: they are kept
 * with every chunk, or with the document.
 */
export async function matchNames(tx: ScopedTransaction, query: string, threshold: number): Promise<NamedItems> {
  const says = (text: SQL) => sql`${shareOf(text, lexemesOf(query))} >= greatest(${threshold}::float8, 0.01)`;
  // A file's name is a title too: its words are joined by what is not white space.
  const spaced = (column: SQL) => sql`translate(${column}, '_.-/', '    ')`;
  const idsOf = async (rows: Promise<{ id: string }[]>) => (await rows).map(({ id }) => id);
  return {
    sections: await idsOf(
      tx.rows(sql`SELECT p.id FROM ${tx.read("passage", "p")} WHERE p.section IS NOT NULL AND ${says(sql`p.section`)}`),
    ),
    titles: await idsOf(tx.rows(sql`SELECT o.id FROM ${tx.read("document", "o")} WHERE ${says(spaced(sql`o.title`))}`)),
    sources: await idsOf(
      tx.rows(
        sql`SELECT o.id FROM ${tx.read("document", "o")} WHERE o.source IS NOT NULL AND ${says(spaced(sql`o.source`))}`,
      ),
    ),
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
