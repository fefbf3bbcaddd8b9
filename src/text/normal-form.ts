/** What has no look: soft hyphens, joiners, marks of direction, selectors of variants. */
const UNSEEN = /\p{Default_Ignorable_Code_Point}/gu;
const ASCII = /^\p{ASCII}*$/u;

/**
 * The form in which texts are compared, indexed and looked up, beside the text as it was sent: Unicode's
 * NFKC (`ＡＢＣ` is `ABC`, `ﬁ` is `fi`, a letter and its mark are one) without what has no look. Letters keep
 * their case. The database has the same (src/db/sql/1_access/9_words.sql).
 */
export const normalForm = (text: string): string =>
  ASCII.test(text) ? text : text.normalize("NFKC").replace(UNSEEN, "").normalize("NFKC");

/** Superscripts, fractions, numbers in circles, which the normal form takes for digits: a mark before each. */
export const withRaisedMarked = (text: string): string => text.replace(/\p{No}/gu, (number) => `^${number}`);
