import { normalForm } from "./normal-form.ts";

/** The spellings of an entity's name that are one entity have one identity: its type and name in the normal form. */
export const identityOf = ({ type, name }: { readonly type: string; readonly name: string }): string =>
  `${normalForm(type)}\u001f${normalForm(name)}`;

/** What a question finds a name by: its other spellings, in case, have the same. */
export const foldedName = (name: string): string => normalForm(name).toLowerCase();

/** The one spelling of a fact's key: `favorite color`, `favorite-color`, `favoriteColor` and `Favorite_Color` are one. */
export const normalKey = (key: string): string =>
  normalForm(key)
    .replace(/(\p{Ll})(\p{Lu})/gu, "$1_$2")
    .replace(/([\p{Lu}\p{N}])(\p{Lu}\p{Ll})/gu, "$1_$2")
    .toLowerCase()
    .replace(/[\s_-]+/g, "_");
