import { AppError, invalid, unprocessable } from "../errors.ts";
import { parseScope, parseTag, quote, type Scope, scopeOfTags } from "./scope.ts";

/** One alternative of a selector. `subtree`: everything below it too (a path ending in `/*`). */
export interface Clause {
  readonly tags: Scope;
  readonly subtree: boolean;
}

/** An OR of clauses; none at all reaches nothing. */
export type Selector = readonly Clause[];

export const MAX_CLAUSES = 8;

interface Tags {
  readonly tags: readonly (readonly [string, string])[];
  readonly subtree: boolean;
}

/** `org/acme/user/alice`, dimension and value in turn; one trailing `/` is ignored. */
function parsePath(path: string): Tags {
  const subtree = path.endsWith("/*");
  const bare = subtree ? path.slice(0, -2) : path.endsWith("/") ? path.slice(0, -1) : path;
  if (path === "/*") return { tags: [], subtree: true };
  if (bare === "") {
    throw invalid(`${quote(path)} is not a scope path; an empty clause is [] or {}`);
  }
  const segments = bare.split("/");
  if (segments.length % 2 !== 0) {
    // Hostile segments are malformed (400) before they are odd (422).
    if (segments.some((segment) => !/^[\x21-\x7e]+$/.test(segment))) {
      throw invalid(`${quote(path)} is not a scope path`);
    }
    throw unprocessable(`the scope path ${quote(path)} has an odd number of segments; write dimension/value in turn`);
  }
  const tags = [];
  for (let i = 0; i < segments.length; i += 2) {
    tags.push(parseTag(segments[i], segments[i + 1]));
  }
  return { tags, subtree };
}

/** A string inside a selector: a path, or one tag as `dimension=value`. */
function parseString(text: unknown): Tags {
  if (typeof text !== "string") {
    throw invalid(`a scope clause is made of paths or dimension=value strings, not ${quote(text)}`);
  }
  const equals = text.indexOf("=");
  if (equals >= 0 && !text.includes("/")) {
    return { tags: [parseTag(text.slice(0, equals), text.slice(equals + 1))], subtree: false };
  }
  return parsePath(text);
}

const clauseOf = (parts: readonly Tags[]): Clause => ({
  tags: scopeOfTags(parts.flatMap((part) => part.tags)),
  subtree: parts.some((part) => part.subtree),
});

/** `["org=acme","user=alice"]` is one clause; `["org/acme","org/globex"]` is two. */
function parseArray(items: readonly unknown[]): Clause[] {
  if (
    items.length > 0 &&
    items.every((item) => typeof item === "string" && item.includes("=") && !item.includes("/"))
  ) {
    return [clauseOf(items.map(parseString))];
  }
  if (items.some((item) => typeof item === "string" && item.includes("=") && !item.includes("/"))) {
    throw invalid(
      "a flat scope selector holds either dimension=value strings (one clause) or paths (a clause each), not both",
    );
  }
  return items.map((item) => {
    if (Array.isArray(item)) return clauseOf(item.map(parseString));
    if (typeof item === "object" && item !== null) return { tags: parseScope(item), subtree: false };
    return clauseOf([parseString(item)]);
  });
}

/**
 * A selector in any of its wire spellings (docs/concepts.md, "Scopes"). `undefined` and `null` are an
 * absent selector.
 *
 * @throws AppError 400 for what is outside the grammar, 422 for a path with an odd number of segments
 */
export function parseSelector(input: unknown): Selector | undefined {
  if (input === undefined || input === null) return undefined;
  const clauses =
    typeof input === "string"
      ? [clauseOf([parseString(input)])]
      : Array.isArray(input)
        ? parseArray(input)
        : [{ tags: parseScope(input), subtree: false }];
  if (clauses.length > MAX_CLAUSES) {
    throw invalid(`a selector has at most ${MAX_CLAUSES} clauses, this one has ${clauses.length}`);
  }
  return clauses;
}

/** The scope that a write names: exactly one clause, not a subtree. */
export function parseWriteSelector(input: unknown): Selector | undefined {
  const clauses = parseSelector(input);
  if (clauses === undefined) return undefined;
  if (clauses.some((clause) => clause.subtree)) {
    throw invalid("a write names one scope; a path ending in /* is for reading");
  }
  if (clauses.length !== 1) {
    throw unprocessable(
      clauses.length === 0
        ? "a write needs a scope: [] reaches nothing"
        : `a write goes to exactly one scope, this selector has ${clauses.length} clauses`,
    );
  }
  return clauses;
}

/** A selector in a query string: JSON, or a path as it is. */
export function parseQuerySelector(text: string): unknown {
  if (!/^[[{"]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new AppError("validation-error", `${quote(text)} is neither a scope path nor JSON`, { cause });
  }
}
