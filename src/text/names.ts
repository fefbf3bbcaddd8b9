import { normalForm, withRaisedMarked } from "./normal-form.ts";

/** `10²` and `102` are two names. */
const normalName = (name: string): string => normalForm(withRaisedMarked(name));

/** The spellings of an entity's name that are one entity have one identity: its type and name in the normal form. */
export const identityOf = ({ type, name }: { readonly type: string; readonly name: string }): string =>
  `${normalName(type)}\u001f${normalName(name)}`;

/** What a question finds a name by: its other spellings, in case, have the same. */
export const foldedName = (name: string): string => normalName(name).toLowerCase();

/** The words of a key, as a sentence has them: `favoriteColor` is `favorite Color`. */
export const wordsOfKey = (key: string): string =>
  key
    .replace(/(\p{Ll})(\p{Lu})/gu, "$1 $2")
    .replace(/([\p{Lu}\p{N}])(\p{Lu}\p{Ll})/gu, "$1 $2")
    .replace(/[\s_-]+/g, " ");

/** The one spelling of a fact's key: `favorite color`, `favorite-color`, `favoriteColor` and `Favorite_Color` are one. */
export const normalKey = (key: string): string => wordsOfKey(normalName(key)).toLowerCase().trim().replaceAll(" ", "_");

/**
 * The words of a person's or thing's name, in lower case and without accents: what has all of them, in any order,
 * mentions it. The database does the same to what is looked at (`said_plainly` in src/db/sql/3_governance/1_holds.sql).
 */
export const wordsOfSubject = (subject: string): string[] => [
  ...new Set(
    normalForm(subject)
      .normalize("NFKD")
      .replace(/[\u0300-\u036f]/g, "")
      .toLowerCase()
      .match(/[\p{L}\p{N}\p{M}]+/gu) ?? [],
  ),
];

/** Whether a word stands by itself in its script, with spaces around it: in others it is looked for inside longer ones. */
export const standsAlone = (word: string): boolean =>
  !/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}\u1100-\u11ff]/u.test(
    word,
  );
