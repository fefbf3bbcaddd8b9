import { type ScopedTransaction, type SQL, sql } from "../db/scoped.ts";
import { lexemesOf, shareOf } from "./share.ts";

/**
 * Takes headings, titles and sources of documents away that say a share of a query's content words:
 * they are kept with every chunk, or with the document. Gives how many.
 */
export async function forgetNames(tx: ScopedTransaction, query: string, threshold: number): Promise<number> {
  const says = (text: SQL) => sql`${shareOf(text, lexemesOf(query))} >= greatest(${threshold}::float8, 0.01)`;
  // A file's name is a title too: its words are joined by what is not white space.
  const spaced = (column: SQL) => sql`translate(${column}, '_.-/', '    ')`;
  const updatedAt = sql`now()` as never;
  const sections = await tx.update("passage", { section: null }, sql`section IS NOT NULL AND ${says(sql`section`)}`);
  const titles = await tx.update("document", { title: "untitled", updatedAt }, says(spaced(sql`title`)));
  const sources = await tx.update(
    "document",
    { source: null, updatedAt },
    sql`source IS NOT NULL AND ${says(spaced(sql`source`))}`,
  );
  return sections + titles + sources;
}
