import { type SQL, sql } from "../../db/access/scoped.ts";

/** The content words of a text, as PostgreSQL's lexemes: a fragment. */
export const lexemesOf = (text: SQL | string): SQL => sql`tsvector_to_array(to_tsvector('english', ${text}))`;

/** The share, 0 to 1, of the lexemes `asked` that a text says: a fragment. */
export const shareOf = (text: SQL, asked: SQL): SQL => sql`
  (SELECT count(*) FROM unnest(${lexemesOf(text)}) l WHERE l = ANY (${asked}))::float8 / greatest(1, cardinality(${asked}))`;
