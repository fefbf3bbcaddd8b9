import { createHash } from "node:crypto";
import { normalForm, withRaisedMarked } from "./normal-form.ts";

/** Joiners, which make other words and pictures, and the tags that make flags: the normal form has none of them. */
const JOINING = /\u200c|\u200d|[\u{e0020}-\u{e007f}]/gu;

/**
 * What a text says: two texts say the same where this is the same. Case, spacing, the look of dashes and
 * quotation marks and the marks that end a sentence at the end carry no meaning; every other sign does, and so
 * do order, numbers (`10⁵` is not `105`, `5!` not `5`) and marks on letters. When in doubt two texts are two: what is folded away is not seen.
 */
export function whatItSays(text: string): string {
  const said = normalForm(withRaisedMarked(text).replace(JOINING, (joint) => `\u241f${joint.codePointAt(0)}\u241f`))
    .toLowerCase()
    .replace(/[\p{Pd}\u2212]/gu, "-")
    .replace(/[‘’‚‛´`]/g, "'")
    .replace(/[“”„‟«»]/g, '"')
    .replace(/\s+/g, " ")
    .trim();
  // Not by a pattern: one for the end of a string tries every place of a long run of marks.
  let end = said.length;
  while (end > 0 && " .!。।".includes(said.charAt(end - 1)) && !/\d!/.test(said.slice(end - 2, end))) end--;
  return end === 0 ? said : said.slice(0, end);
}

/**
 * 16 bytes, hex, that are the same for texts that say the same.
 *
 * @param role who says it, for a turn: what an assistant says is another thing than the same of a user
 */
export const sameTextDigest = (text: string, role: string | null = null): string =>
  createHash("sha256")
    .update(role === null || role === "user" ? "" : `${role}\u001f`)
    .update(whatItSays(text))
    .digest("hex")
    .slice(0, 32);
