/** A keyword as two documents share it: lower case, single spaces. */
export const normalise = (phrase: string) => phrase.normalize("NFKC").toLowerCase().replace(/\s+/g, " ").trim();
