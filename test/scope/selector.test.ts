import { describe, expect, test } from "vitest";
import { AppError } from "../../src/errors.ts";
import { parseTag, quote, scopeOfTags, scopePaths } from "../../src/scope/scope.ts";
import { parseQuerySelector, parseSelector, parseWriteSelector } from "../../src/scope/selector.ts";

/** What the caller is told: status and sentence. */
function refusalOf(attempt: () => unknown): [number, string] {
  try {
    attempt();
  } catch (error) {
    if (error instanceof AppError) return [error.status, error.message];
    throw error;
  }
  throw new Error("it was taken");
}

const says = (status: number, words: string) => [status, expect.stringContaining(words)];

describe("a refused selector says what is wrong with it", () => {
  test.each<[unknown, number, string]>([
    ["", 400, '"" is not a scope path; an empty clause is [] or {}'],
    ["/", 400, '"/" is not a scope path; an empty clause is [] or {}'],
    ["org", 422, "odd number of segments"],
    ["org/acme/user", 422, "odd number of segments"],
    // Hostile segments come first, wherever they stand.
    ["org/ac me/user", 400, "is not a scope path"],
    ["org/acmé/user", 400, "is not a scope path"],
    ["org/émca/user", 400, "is not a scope path"],
    ["org//user", 400, "is not a scope path"],
    ["org/a=b", 400, '"a=b"'],
    ["=acme", 400, 'scope dimension ""'],
    ["org=", 400, 'the value "" of scope dimension org'],
    [["org=acme", "org/globex"], 400, "not both"],
    [["org/globex", "org=acme"], 400, "not both"],
    [["org=acme", 7], 400, "not both"],
    [["org/acme", 7], 400, "not 7"],
    [["org/acme", null], 400, "not null"],
    [[["org/acme", { org: "acme" }]], 400, "not {"],
    [[["org=acme", "org=globex"]], 400, "two values"],
    [7, 400, "a scope is an object"],
    [true, 400, "a scope is an object"],
    [Array.from({ length: 9 }, (_, i) => `org/a${i}`), 400, "at most 8 clauses, this one has 9"],
  ])("%j", (input, status, words) => {
    expect(refusalOf(() => parseSelector(input))).toEqual(says(status, words));
  });

  test("one of nine tags, and one of two for a dimension", () => {
    const nine = Array.from({ length: 9 }, (_, i) => [`d${i}`, "a"] as const);
    expect(refusalOf(() => scopeOfTags(nine))).toEqual(says(400, "at most 8 tags, this one has 9"));
    expect(Object.keys(scopeOfTags(nine.slice(1)))).toHaveLength(8);
    expect(refusalOf(() => parseSelector("org/a/org/b"))).toEqual(says(400, 'two values, "a" and "b"'));
    expect(parseSelector("org/a/org/a")).toEqual(parseSelector("org/a"));
  });

  test("one for a write, which names one scope", () => {
    expect(refusalOf(() => parseWriteSelector([]))).toEqual(says(422, "[] reaches nothing"));
    expect(refusalOf(() => parseWriteSelector(["org/a", "org/b"]))).toEqual(says(422, "has 2 clauses"));
    expect(refusalOf(() => parseWriteSelector(["org/a", "org/b/*"]))).toEqual(says(400, "/* is for reading"));
    expect(parseWriteSelector(undefined)).toBeUndefined();
    expect(parseWriteSelector("org/a")).toEqual([{ tags: { org: "a" }, subtree: false }]);
  });

  test("one in a query string that only looks like JSON", () => {
    expect(refusalOf(() => parseQuerySelector("[org"))).toEqual(says(400, '"[org" is neither a scope path nor JSON'));
    for (const path of ["org/acme", 'org/"acme"', "org/[acme]", "org/{acme}"])
      expect(parseQuerySelector(path)).toBe(path);
    expect(parseQuerySelector('{"org":"acme"}')).toEqual({ org: "acme" });
    expect(parseQuerySelector('["org/acme"]')).toEqual(["org/acme"]);
    expect(parseQuerySelector('"org/acme"')).toBe("org/acme");
  });
});

describe("a selector that is taken", () => {
  test.each<[unknown, unknown]>([
    ["/*", [{ tags: {}, subtree: true }]],
    ["org=acme", [{ tags: { org: "acme" }, subtree: false }]],
    ["org/acme/", [{ tags: { org: "acme" }, subtree: false }]],
    [
      [{ org: "acme" }, "org/globex/*"],
      [
        { tags: { org: "acme" }, subtree: false },
        { tags: { org: "globex" }, subtree: true },
      ],
    ],
    [[["org=acme", "user/alice/*"]], [{ tags: { org: "acme", user: "alice" }, subtree: true }]],
    [
      ["org/acme", "org/globex"],
      [
        { tags: { org: "acme" }, subtree: false },
        { tags: { org: "globex" }, subtree: false },
      ],
    ],
    [["org=acme", "user=alice"], [{ tags: { org: "acme", user: "alice" }, subtree: false }]],
  ])("%j", (input, clauses) => {
    expect(parseSelector(input)).toEqual(clauses);
  });
});

test("a value in an error is short, and safe to show", () => {
  expect(quote("a\u0000b")).toBe('"a\\u0000b"');
  expect(quote("x".repeat(78))).toBe(`"${"x".repeat(78)}"`);
  expect(quote("x".repeat(79))).toBe(`"${"x".repeat(79)}…`);
  expect(quote(undefined)).toBe("undefined");
});

test("tags are strings", () => {
  expect(refusalOf(() => parseTag(7, "a"))).toEqual(says(400, "scope dimension 7"));
  expect(refusalOf(() => parseTag("org", 7))).toEqual(says(400, "the value 7"));
  expect(refusalOf(() => parseTag("org", undefined))).toEqual(says(400, "the value undefined"));
  expect(parseTag("org", "a")).toEqual(["org", "a"]);
});

test("the answer's scopes: one clause of one path, of none for general knowledge", () => {
  expect(scopePaths(scopeOfTags([]))).toEqual([[]]);
  expect(
    scopePaths(
      scopeOfTags([
        ["user", "a"],
        ["org", "b"],
      ]),
    ),
  ).toEqual([["org/b/user/a"]]);
});
