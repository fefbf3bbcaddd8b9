import { expect, test } from "vitest";
import { bearerOf, hashFromHeader, hashSecret } from "../../src/keys/secret.ts";

const SECRET = "s".repeat(32);

test("the secret in a header is the whole of what follows Bearer, in any case", () => {
  for (const scheme of ["Bearer", "bearer", "BEARER"]) {
    expect(hashFromHeader(`${scheme} ${SECRET}`)).toEqual(hashSecret(SECRET));
    expect(bearerOf(`${scheme} ${SECRET}`)).toBe(SECRET);
  }
  expect(hashFromHeader(`Bearer ${"s".repeat(512)}`)).toEqual(hashSecret("s".repeat(512)));
});

test.each([
  ["none", undefined],
  ["an empty one", ""],
  ["another scheme", `Basic ${SECRET}`],
  ["one that has it further on", `Basic Bearer ${SECRET}`],
  ["a secret that is too short", `Bearer ${SECRET.slice(1)}`],
  ["a secret that is too long", `Bearer ${"s".repeat(513)}`],
  ["more behind the secret", `Bearer ${SECRET} more`],
  ["a line break behind it", `Bearer ${SECRET}\n`],
  ["a space in it", `Bearer ${SECRET} ${SECRET}`],
  ["a letter beyond ASCII", `Bearer ${SECRET}é`],
])("a header has no key in it: %s", (_, header) => {
  expect(hashFromHeader(header)).toBeUndefined();
});

test("what stands in a secret's place is left as it is", () => {
  expect(bearerOf(`X Bearer ${SECRET}`)).toBe(`X Bearer ${SECRET}`);
});
