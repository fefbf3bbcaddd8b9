import { invalid } from "../errors.ts";
import { hintFor, isSpelled } from "./spelling.ts";

/**
 * A scope: at most 8 tags, dimension to value. `{}` is general knowledge.
 *
 * Made only by {@link parseScope} and the functions of this folder, so that a `Scope` in hand has
 * passed the grammar. Read it with {@link tagsOf}: a dimension may be called `constructor`.
 */
export type Scope = Readonly<Record<string, string>> & { readonly __scope: unique symbol };

/** A scope's tags, in canonical order. */
export const tagsOf = (scope: Scope) => Object.entries(scope) as [string, string][];

export const MAX_TAGS = 8;

const DIMENSION = /^[a-z][a-z0-9_]{0,31}$/;

/** `org` first, then by dimension name. */
function inOrder(tags: readonly (readonly [string, string])[]): Scope {
  const rank = (dimension: string) => (dimension === "org" ? "" : dimension);
  const sorted = [...tags].sort(([a], [b]) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
  return Object.fromEntries(sorted) as Scope;
}

export const GENERAL: Scope = inOrder([]);

/** Refuses what is outside the grammar: nothing is trimmed, folded or normalised. (Values: spelling.ts.) */
export function parseTag(dimension: unknown, value: unknown): readonly [string, string] {
  if (typeof dimension !== "string" || !DIMENSION.test(dimension)) {
    throw invalid(`scope dimension ${quote(dimension)} must match [a-z][a-z0-9_]{0,31}`);
  }
  if (typeof value !== "string" || !isSpelled(value)) {
    throw invalid(
      `the value ${quote(value)} of scope dimension ${dimension} must be 1 to 128 characters: letters, digits and ._:@|+~- as they are, a letter or digit first, and others as percent-encoded UTF-8 in upper-case hex (NFC, no control or format characters)${typeof value === "string" ? hintFor(value) : ""}`,
    );
  }
  return [dimension, value];
}

/** Tags given in any order; the same tag twice is fine, two values for one dimension are 400. */
export function scopeOfTags(tags: readonly (readonly [string, string])[]): Scope {
  const seen = new Map<string, string>();
  for (const [dimension, value] of tags) {
    const earlier = seen.get(dimension);
    if (earlier !== undefined && earlier !== value) {
      throw invalid(`the scope gives ${dimension} two values, ${quote(earlier)} and ${quote(value)}`);
    }
    seen.set(dimension, value);
  }
  if (seen.size > MAX_TAGS) {
    throw invalid(`a scope has at most ${MAX_TAGS} tags, this one has ${seen.size}`);
  }
  return inOrder([...seen]);
}

/** A scope from its object spelling, `{"org":"acme","user":"alice"}`. */
export function parseScope(input: unknown): Scope {
  if (typeof input !== "object" || input === null || Array.isArray(input)) {
    throw invalid(`a scope is an object of dimension: value, not ${quote(input)}`);
  }
  return scopeOfTags(Object.entries(input).map(([dimension, value]) => parseTag(dimension, value)));
}

/** Every tag of `part` is in `whole`. */
export function holds(whole: Scope, part: Scope): boolean {
  return tagsOf(part).every(([dimension, value]) => Object.hasOwn(whole, dimension) && whole[dimension] === value);
}

export function sameScope(a: Scope, b: Scope): boolean {
  return holds(a, b) && holds(b, a);
}

/** E = R ∪ F, or undefined where they contradict each other. */
export function merge(requested: Scope, floor: Scope): Scope | undefined {
  const clash = tagsOf(floor).some(
    ([dimension, value]) => Object.hasOwn(requested, dimension) && requested[dimension] !== value,
  );
  return clash ? undefined : inOrder([...new Map([...tagsOf(requested), ...tagsOf(floor)])]);
}

/** The path spelling in canonical order, `org/acme/user/alice`; `{}` for general knowledge. */
export function canonicalPath(scope: Scope): string {
  const tags = tagsOf(scope);
  return tags.length === 0 ? "{}" : tags.flat().join("/");
}

/** The same for tags as answers have them; of an erased scope the marker that stands for it, which no path spells. */
export const scopeText = (tags: Readonly<Record<string, string>>): string =>
  Object.keys(tags).some((dimension) => dimension.startsWith("!"))
    ? JSON.stringify(tags)
    : canonicalPath(scopeFromDatabase(tags));

/** The answer's `scopes`: one clause of one path. */
export function scopePaths(scope: Scope): string[][] {
  return [Object.keys(scope).length === 0 ? [] : [canonicalPath(scope)]];
}

/** Puts tags that come out of the database into canonical order. They passed the grammar there. */
export function scopeFromDatabase(tags: Readonly<Record<string, string>>): Scope {
  return inOrder(Object.entries(tags));
}

/** A value for an error message: short, and safe to show. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
