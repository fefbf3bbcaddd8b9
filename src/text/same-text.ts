import { createHash } from "node:crypto";
import { normalForm } from "./normal-form.ts";

/** Superscripts, fractions, numbers in circles: `10⁵` is not `105`. */
const RAISED = /\p{No}/gu;

/**
 * What a text says: two texts say the same where this is the same. Case, spacing, the look of dashes and
 * quotation marks and the marks that end the text carry no meaning; every other sign does, and so do order,
 * numbers and marks on letters. When in doubt two texts are two: what is folded away is not seen.
 */
export function whatItSays(text: string): string {
  const said = normalForm(text.replace(RAISED, (number) => `^${number}`))
    .toLowerCase()
    .replace(/[\p{Pd}\u2212]/gu, "-")
    .replace(/[‘’‚‛´`]/g, "'")
    .replace(/[“”„‟«»]/g, '"')
    .replace(/\s+/g, " ")
    .trim();
  // Not by a pattern: one for the end of a string tries every place of a long run of marks.
  let end = said.length;
  while (end > 0 && " .!。।".includes(said.charAt(end - 1))) end--;
  return end === 0 ? said : said.slice(0, end);
}

/** 16 bytes, hex, that are the same for texts that say the same. */
export const sameTextDigest = (text: string): string =>
  createHash("sha256").update(whatItSays(text)).digest("hex").slice(0, 32);
