import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AppError } from "../../src/errors.ts";
import {
  canonicalPath,
  GENERAL,
  holds,
  merge,
  parseScope,
  type Scope,
  sameScope,
  tagsOf,
} from "../../src/scope/scope.ts";
import { parseQuerySelector, parseSelector, parseWriteSelector } from "../../src/scope/selector.ts";
import { isVisible, reachOf, type View } from "../../src/scope/visibility.ts";

const statusOf = (attempt: () => unknown): number | undefined => {
  try {
    attempt();
    return undefined;
  } catch (error) {
    if (error instanceof AppError) return error.status;
    throw error;
  }
};

const dimension = fc.stringMatching(/^[a-z][a-z0-9_]{0,6}$/);
const value = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:@|+~-]{0,6}$/);
const tags = fc.dictionary(dimension, value, { maxKeys: 4, noNullPrototype: true });
const scope = tags.map(parseScope);
/** From few names, so that scopes meet and contradict each other often. */
const crowded = fc
  .dictionary(fc.constantFrom("org", "user", "team"), fc.constantFrom("a", "b"), { maxKeys: 3, noNullPrototype: true })
  .map(parseScope);

describe("the spellings of a scope", () => {
  test("agree: object, tag list and path mean the same", () => {
    expect(parseSelector({ org: "acme", user: "alice" })).toEqual(parseSelector(["org=acme", "user=alice"]));
    expect(parseSelector("org/acme/user/alice")).toEqual(parseSelector({ user: "alice", org: "acme" }));
    fc.assert(
      fc.property(scope, (s) => {
        fc.pre(tagsOf(s).length > 0);
        const spelled = [s, tagsOf(s).map(([d, v]) => `${d}=${v}`), canonicalPath(s), `${canonicalPath(s)}/`];
        for (const spelling of spelled) expect(parseSelector(spelling)).toEqual([{ tags: s, subtree: false }]);
        expect(parseSelector(parseQuerySelector(JSON.stringify(s)))).toEqual([{ tags: s, subtree: false }]);
      }),
    );
  });

  test("an array of paths is an OR, the paths inside one clause are an AND", () => {
    expect(parseSelector(["org/acme", "org/globex"])).toHaveLength(2);
    expect(parseSelector([["org/acme", "user/alice"]])).toEqual(parseSelector({ org: "acme", user: "alice" }));
    expect(parseSelector([["org/acme/user/alice"], ["org/acme/team/eng"]])).toHaveLength(2);
    expect(statusOf(() => parseSelector([["org/acme", "org/globex"]]))).toBe(400);
  });

  test("empty spellings keep their meanings apart: [] reaches nothing, [[]] and {} add no tag", () => {
    expect(parseSelector([])).toEqual([]);
    expect(parseSelector([[]])).toEqual([{ tags: {}, subtree: false }]);
    expect(parseSelector({})).toEqual([{ tags: {}, subtree: false }]);
    expect(parseSelector(null)).toBeUndefined();
    expect(statusOf(() => parseWriteSelector([]))).toBe(422);
    expect(statusOf(() => parseWriteSelector(["org/a", "org/b"]))).toBe(422);
    expect(statusOf(() => parseSelector(""))).toBe(400);
  });

  test("a path ending in /* asks for the subtree, and a write cannot", () => {
    expect(parseSelector("org/acme/*")).toEqual([{ tags: { org: "acme" }, subtree: true }]);
    expect(statusOf(() => parseWriteSelector("org/acme/*"))).toBe(400);
  });

  test("an odd number of segments is 422", () => {
    expect(statusOf(() => parseSelector("org/acme/user"))).toBe(422);
    expect(statusOf(() => parseSelector("org"))).toBe(422);
  });

  test("the canonical form is idempotent and puts org first", () => {
    expect(canonicalPath(parseScope({ user: "u", agent: "x", org: "o" }))).toBe("org/o/agent/x/user/u");
    fc.assert(
      fc.property(scope, (s) => {
        expect(JSON.stringify(parseScope(JSON.parse(JSON.stringify(s))))).toBe(JSON.stringify(s));
      }),
    );
  });
});

describe("hostile spellings (threats 20, 21, 33)", () => {
  const hostile = [
    "аcme", // Cyrillic а
    "ａcme",
    "ac\u200bme",
    "e\u0301",
    "é",
    " acme",
    "acme ",
    "acme\n",
    "ac me",
    "%",
    "_x",
    "..",
    ".acme",
    "-acme",
    "a\0b",
    "\ud800",
    "a/b",
    "a=b",
    "*",
    "a".repeat(129),
    "",
  ];

  test("are 400 in a value, whatever the spelling", () => {
    for (const bad of hostile) {
      expect(
        statusOf(() => parseSelector({ org: bad })),
        bad,
      ).toBe(400);
      if (!bad.includes("/"))
        expect(
          statusOf(() => parseSelector([[`org=${bad}`]])),
          bad,
        ).toBe(400);
    }
    for (const bad of ["%", "..", " acme", "аcme", "a\0b"])
      expect(
        statusOf(() => parseSelector(`org/${bad}`)),
        bad,
      ).toBe(400);
  });

  test("are 400 in a dimension: case is not folded, prototypes are not names", () => {
    for (const bad of ["Org", "ORG", "1org", "_org", "org ", "__proto__", "o".repeat(33), "", "org-x"]) {
      expect(
        statusOf(() => parseSelector(JSON.parse(`{${JSON.stringify(bad)}: "a"}`))),
        bad,
      ).toBe(400);
    }
    expect(parseSelector({ constructor: "a" })).toEqual([{ tags: { constructor: "a" }, subtree: false }]);
    expect(holds(GENERAL, parseScope({ constructor: "a" }))).toBe(false);
  });

  test("never anything but an AppError of 400 or 422, for any JSON at all", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), (input) => {
        expect([undefined, 400, 422]).toContain(statusOf(() => parseSelector(input)));
        expect([undefined, 400, 422]).toContain(statusOf(() => parseWriteSelector(input)));
      }),
      { numRuns: 2_000 },
    );
  });

  test("values, arrays and nesting in place of strings are refused", () => {
    for (const bad of [1, true, ["a"], { a: "b" }]) expect(statusOf(() => parseSelector({ org: bad }))).toBe(400);
    expect(statusOf(() => parseSelector(Array.from({ length: 9 }, (_, i) => `org/a${i}`)))).toBe(400);
    expect(statusOf(() => parseSelector(Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`d${i}`, "a"]))))).toBe(
      400,
    );
  });
});

describe("the algebra", () => {
  test("merging never widens: what E holds, the floor holds", () => {
    fc.assert(
      fc.property(crowded, crowded, (requested, floor) => {
        const effective = merge(requested, floor);
        const clash = tagsOf(floor).some(([d, v]) => requested[d] !== undefined && requested[d] !== v);
        expect(effective === undefined).toBe(clash);
        if (effective === undefined) return;
        expect(holds(effective, floor)).toBe(true);
        expect(holds(effective, requested)).toBe(true);
        expect(tagsOf(effective).every(([d, v]) => floor[d] === v || requested[d] === v)).toBe(true);
      }),
    );
  });

  test("a narrower floor never shows more", () => {
    fc.assert(
      fc.property(crowded, crowded, crowded, fc.constantFrom<View>("strict", "subtree"), (row, floor, extra, view) => {
        const narrow = merge(extra, floor);
        fc.pre(narrow !== undefined);
        const wideReach = reachOf(floor, undefined, "subtree");
        const narrowReach = reachOf(narrow as Scope, undefined, view);
        if (wideReach && narrowReach && isVisible(row, narrowReach, true))
          expect(isVisible(row, wideReach, true)).toBe(true);
      }),
    );
  });

  test("the table of rows and views, with the floor org=acme", () => {
    const floor = parseScope({ org: "acme" });
    const alice = parseSelector({ user: "alice" });
    const rows: [object, boolean, boolean, boolean][] = [
      [{}, true, true, true],
      [{ org: "acme" }, true, true, true],
      [{ org: "acme", user: "alice" }, false, true, true],
      [{ org: "acme", user: "bob" }, false, false, true],
      [{ user: "alice" }, false, false, false],
      [{ org: "other" }, false, false, false],
      [{ org: "other", user: "alice" }, false, false, false],
    ];
    for (const [tags, absent, named, subtree] of rows) {
      const row = parseScope(tags);
      const seen = (selector: typeof alice | undefined, view: View) => {
        const reach = reachOf(floor, selector, view);
        return reach !== undefined && isVisible(row, reach, true);
      };
      expect(
        [seen(undefined, "strict"), seen(alice, "strict"), seen(undefined, "subtree")],
        JSON.stringify(tags),
      ).toEqual([absent, named, subtree]);
    }
  });

  test("a floor is a minimum: org=acme is not visible under org=acme, agent=planner", () => {
    const reach = reachOf(parseScope({ org: "acme", agent: "planner" }), undefined, "subtree");
    expect(reach && isVisible(parseScope({ org: "acme" }), reach, true)).toBe(false);
  });

  test("an empty selector reaches nothing, general knowledge included", () => {
    const reach = reachOf(parseScope({ org: "acme" }), [], "strict");
    expect(reach && isVisible(GENERAL, reach, true)).toBe(false);
  });

  test.each([
    ["acme", "acme-corp"],
    ["acme", "acme.corp"],
    ["acme", "ACME"],
    ["1", "10"],
  ])("%s and %s are other values, whichever holds the other (threat 33)", (a, b) => {
    const [one, other] = [parseScope({ org: a }), parseScope({ org: b })];
    expect([holds(one, other), holds(other, one), sameScope(one, other)]).toEqual([false, false, false]);
    expect(merge(one, other)).toBeUndefined();
  });

  test("sameness is of tags, not of spelling", () => {
    expect(sameScope(parseScope({ a: "1", b: "2" }), parseScope({ b: "2", a: "1" }))).toBe(true);
  });
});
