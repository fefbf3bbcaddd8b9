import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Analyser } from "../../src/text/analysis/analyse.ts";
import { LANGUAGES } from "../../src/text/analysis/languages.ts";

const analyser = new Analyser();

/** Whether a text has any form of each word of a question, and all of them. */
function finds(question: string, text: string, languages = analyser.text(text).languages): boolean {
  const { terms } = analyser.text(text);
  const asked = analyser.question(question, languages).filter(({ weight }) => weight === 1);
  return asked.length > 0 && asked.every(({ variants }) => variants.some(([term]) => terms.has(term)));
}

describe("terms", () => {
  test.each([
    ["retry count", "set maxRetryCount to five"],
    ["maxRetryCount", "set maxRetryCount to five"],
    ["1234", "ticket ABC-1234 is open"],
    ["abc-1234", "ticket ABC-1234 is open"],
    ["C++", "she writes C++ and Rust"],
    ["C#", "she writes C# and Rust"],
    [".NET", "the service runs on .NET"],
    ["ana@example.com", "write to ana@example.com"],
    ["example", "write to ana@example.com"],
    ["src/db/open.ts", "see src/db/open.ts"],
    ["open", "see src/db/open.ts"],
    ["2.0.1", "since version 2.0.1"],
    ["cafe", "the café opens at nine"],
    ["café", "the cafe opens at nine"],
    ["strasse", "die Straße ist gesperrt"],
    ["went", "they go to Porto"],
    ["children", "a child slept"],
    ["houses", "one house is empty"],
    ["O'Brien", "Mr O'Brien called"],
    ["Lauras Katze", "Laura hat zwei Katzen"],
    ["кошка", "у неё две кошки"],
    ["елка", "ёлка стоит у окна"],
    ["محمد", "مُحَمَّد في البيت"],
    ["東京", "彼は東京都に住んでいる"],
    ["猫", "黒猫が庭にいる"],
    ["학교", "학교에서 만났다"],
    ["책", "책을 읽었다"],
    ["बिल्ली", "बिल्लियाँ सो रही हैं"],
    ["४२", "कमरा 42 खाली है"],
  ])("%s finds: %s", (question, text) => {
    expect(finds(question, text)).toBe(true);
  });

  test.each([
    ["C", "she writes C++ all day, none of the other"],
    ["май", "маи"],
    ["कि", "की"],
    ["mother", "another day"],
  ])("%s does not find: %s", (question, text) => {
    const { terms } = analyser.text(text);
    const [asked] = analyser.question(question, analyser.text(text).languages);
    expect(asked?.variants[0]?.[0]).toBeDefined();
    if (question !== "C") expect(terms.has(asked?.variants[0]?.[0] ?? "")).toBe(false);
  });

  test("a part of a compound finds it, and the compound its parts", () => {
    const of = (text: string) => analyser.text(text).terms;
    const part = analyser.question("Versicherung", ["de"])[0];
    expect(part?.variants.some(([term]) => of("Die Krankenversicherung zahlt").has(term))).toBe(true);
    const whole = analyser.question("Krankenversicherung", ["de"])[0];
    const text = of("Die Versicherung für Kranke zahlt");
    expect(whole?.joints.some((joint) => joint.every((stem) => text.has(stem)))).toBe(true);
  });

  test("a question drops stop words, and of nothing else keeps them", () => {
    const asked = (text: string) => analyser.question(text, ["en"]).map(({ variants }) => variants[0]?.[0]);
    expect(asked("what is the name of the boat")).toEqual(["name", "boat"]);
    expect(asked("The Who")).toEqual(["the", "who"]);
    expect(asked("to be or not to be")).toEqual(["to", "be", "or", "not"]);
    expect(analyser.question("forget it", ["en"], new Set()).map(({ variants }) => variants[0]?.[0])).toEqual([
      "forget",
    ]);
    expect(analyser.question("it", ["en"], new Set())).toEqual([]);
  });

  test("words that another splits otherwise are found by their pairs", () => {
    const { terms } = analyser.text("我们在研究生命起源");
    for (const pair of ["研究", "究生", "生命", "起源"]) expect(terms.has(pair)).toBe(true);
  });

  test("are the same whatever else is analysed beside them", () => {
    const texts = ["Die Krankenversicherung zahlt", "the insurance pays", "страховка платит", "保険が払う"];
    const together = new Analyser();
    const alone = texts.map((text) => new Analyser().text(text));
    expect(texts.map((text) => together.text(text))).toEqual(alone);
    expect([...texts].reverse().map((text) => together.text(text))).toEqual([...alone].reverse());
  });

  test("one word, or one long run, is no more work than others", () => {
    const joints = (word: string) => new Analyser("de").question(word, ["de"]).flatMap((asked) => asked.joints);
    expect(joints("krankenversicherung").length).toBeGreaterThan(2);
    expect(joints("donaudampfschiff".repeat(10))).toEqual([]);
    const distinct = Array.from({ length: 30_000 }, (_, i) => `w${i.toString(36)}o`).join(" ");
    expect(analyser.text(distinct).terms.size).toBe(16_384);
    // Beyond what is split into words there are pairs, and a cut inside of a word changes none of them.
    const long = `${"我昨天去北京看了一个朋友".repeat(2_500)}末尾`;
    expect(analyser.text(long).terms.has("末尾")).toBe(true);
  });

  test("a stroke of Arabic writing alone is no word, and stretches one without a change", () => {
    expect([...analyser.text("\u0640").terms.keys()]).toEqual([]);
    expect([...analyser.text("\u0643\u0640\u0640\u062a\u0627\u0628").terms.keys()]).toEqual([
      ...analyser.text("\u0643\u062a\u0627\u0628").terms.keys(),
    ]);
  });

  test("any text has terms of bounded number, and no stemmer ends it", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.string({ unit: "grapheme" }),
            fc.string({ unit: "binary" }),
            fc.constantFrom("Straße", "недели", "ที่", "\ud800", "\u0640"),
          ),
        ),
        (parts) => {
          const text = parts.join(" ");
          const { terms, length } = analyser.text(text);
          expect(terms.has("")).toBe(false);
          expect(length).toBeGreaterThanOrEqual(0);
          for (const frequency of terms.values()) expect(frequency).toBeLessThanOrEqual(127);
        },
      ),
      { numRuns: 300 },
    );
    for (const { code, stops } of LANGUAGES.values()) {
      const known = new Analyser(code);
      for (const word of [...stops, "a", "zz", "недели", "ооо", "ةةة", "ääkköset", "þþ", "\u0301", "x".repeat(500)]) {
        expect(() => known.text(`${word} ${word.toUpperCase()}`)).not.toThrow();
      }
    }
  });
});
