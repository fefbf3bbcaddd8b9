import { type SQL, sql } from "./scoped.ts";

/** What has no look, as the database writes such a set: the same characters as in scopefloor.normal_form. */
const UNSEEN = String.raw`[\u00AD\u034F\u061C\u115F\u1160\u17B4\u17B5\u180B-\u180F\u200B-\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFF8\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]`;

/** Most texts are in the normal form, and this is the cheaper to see. */
const ASCII = String.raw`^[\x01-\x7f]*$`;

/** A text in the normal form (src/text/normal-form.ts), for what is read where it is stored. */
export const normalFormSql = (text: SQL): SQL =>
  sql`CASE WHEN ${text} ~ ${ASCII} THEN ${text} ELSE normalize(regexp_replace(normalize(${text}, NFKC), ${UNSEEN}, '', 'g'), NFKC) END`;
