import { stemmer as arabic } from "@orama/stemmers/arabic";
import { stemmer as armenian } from "@orama/stemmers/armenian";
import { stemmer as danish } from "@orama/stemmers/danish";
import { stemmer as dutch } from "@orama/stemmers/dutch";
import { stemmer as english } from "@orama/stemmers/english";
import { stemmer as finnish } from "@orama/stemmers/finnish";
import { stemmer as french } from "@orama/stemmers/french";
import { stemmer as german } from "@orama/stemmers/german";
import { stemmer as greek } from "@orama/stemmers/greek";
import { stemmer as hungarian } from "@orama/stemmers/hungarian";
import { stemmer as hindi } from "@orama/stemmers/indian";
import { stemmer as indonesian } from "@orama/stemmers/indonesian";
import { stemmer as irish } from "@orama/stemmers/irish";
import { stemmer as italian } from "@orama/stemmers/italian";
import { stemmer as lithuanian } from "@orama/stemmers/lithuanian";
import { stemmer as nepali } from "@orama/stemmers/nepali";
import { stemmer as norwegian } from "@orama/stemmers/norwegian";
import { stemmer as portuguese } from "@orama/stemmers/portuguese";
import { stemmer as romanian } from "@orama/stemmers/romanian";
import { stemmer as russian } from "@orama/stemmers/russian";
import { stemmer as serbian } from "@orama/stemmers/serbian";
import { stemmer as spanish } from "@orama/stemmers/spanish";
import { stemmer as swedish } from "@orama/stemmers/swedish";
import { stemmer as tamil } from "@orama/stemmers/tamil";
import { stemmer as turkish } from "@orama/stemmers/turkish";
import { stemmer as ukrainian } from "@orama/stemmers/ukrainian";
import { stopwords as arabicStops } from "@orama/stopwords/arabic";
import { stopwords as bulgarianStops } from "@orama/stopwords/bulgarian";
import { stopwords as danishStops } from "@orama/stopwords/danish";
import { stopwords as dutchStops } from "@orama/stopwords/dutch";
import { stopwords as englishStops } from "@orama/stopwords/english";
import { stopwords as finnishStops } from "@orama/stopwords/finnish";
import { stopwords as frenchStops } from "@orama/stopwords/french";
import { stopwords as germanStops } from "@orama/stopwords/german";
import { stopwords as greekStops } from "@orama/stopwords/greek";
import { stopwords as hungarianStops } from "@orama/stopwords/hungarian";
import { stopwords as hindiStops } from "@orama/stopwords/indian";
import { stopwords as indonesianStops } from "@orama/stopwords/indonesian";
import { stopwords as italianStops } from "@orama/stopwords/italian";
import { stopwords as japaneseStops } from "@orama/stopwords/japanese";
import { stopwords as chineseStops } from "@orama/stopwords/mandarin";
import { stopwords as nepaliStops } from "@orama/stopwords/nepali";
import { stopwords as norwegianStops } from "@orama/stopwords/norwegian";
import { stopwords as portugueseStops } from "@orama/stopwords/portuguese";
import { stopwords as romanianStops } from "@orama/stopwords/romanian";
import { stopwords as russianStops } from "@orama/stopwords/russian";
import { stopwords as spanishStops } from "@orama/stopwords/spanish";
import { stopwords as swedishStops } from "@orama/stopwords/swedish";
import { stopwords as turkishStops } from "@orama/stopwords/turkish";
import { stopwords as ukrainianStops } from "@orama/stopwords/ukrainian";
import { folded } from "./fold.ts";
import {
  arabicRoot,
  beginning,
  czechStem,
  firstLetters,
  hebrewRoot,
  hebrewStem,
  koreanStem,
  polishStem,
  withoutArticle,
} from "./light-stems.ts";

/** Scripts whose languages have more than one way to be stemmed, and the others, which tell their language. */
export type Script = "latin" | "cyrillic" | "arabic" | "devanagari" | "other";

export interface Language {
  /** ISO 639-1. */
  readonly code: string;
  readonly script: Script;
  /** A word of lower case to what its forms have in common. */
  readonly stem: (word: string) => string;
  /** Words that a question does not ask for, folded. */
  readonly stops: ReadonlySet<string>;
  /** Whether it writes compounds as one word. */
  readonly hasCompounds: boolean;
  /** Whether names take an s, as in `Lauras Katze`, which stemmers leave on after a vowel. */
  readonly hasGenitiveS: boolean;
  /** A looser form than the stem, which words of one root mostly share, where stems alone find too little; folded words, "" for none. */
  readonly near?: (word: string) => string;
}

/** Longer ones in some of the lists are words that a question may well be about. */
const LONGEST_STOP = 7;

function language(
  code: string,
  script: Script,
  stem: (word: string) => string,
  stops: readonly string[] = [],
  {
    hasCompounds = false,
    hasGenitiveS = false,
    near,
  }: Partial<Pick<Language, "hasCompounds" | "hasGenitiveS" | "near">> = {},
): Language {
  const short = stops.filter((word) => code === "en" || word.length <= LONGEST_STOP);
  // A list has `it's`, a text `it` and `s`.
  const parts = short.flatMap((word) => [word, ...word.split(/['’]/)]);
  return {
    code,
    script,
    stem,
    stops: new Set(parts.filter((word) => word !== "").map(folded)),
    hasCompounds,
    hasGenitiveS,
    ...(near === undefined ? {} : { near }),
  };
}

/** The library's stemmer leaves what is written together in front of the article. */
const arabicStem = (word: string): string => arabic(withoutArticle(word));

const words = (list: string) => list.split(/\s+/).filter((word) => word !== "");

const POLISH = words(`i w we z ze na do od po za o u a ale że to jest są był była było być co jak kto gdzie kiedy
  czy nie się jego jej ich dla przez przy jako tak już tylko oraz który która które jaki jaka jakie ile czym kim kogo ma mają`);
const CZECH = words(`a i v ve z ze na do od po za o u k ke s se je jsou byl byla bylo být co jak kdo kde kdy
  zda ne si jeho její jejich pro při jako tak už jen který která které jaký jaká jaké kolik čím kým`);
const HEBREW = words(`של את על עם אל מן אם כי לא או גם זה זו הוא היא הם הן אני אתה מה מי איפה מתי איך כמה למה האם
  היה היתה הייתה יש אין כל אשר לאיזה איזה איזו באיזה באיזו לפי אצל`);
const KOREAN = words(
  "은 는 이 가 을 를 에 의 도 로 으로 와 과 누가 누구 무엇 무엇을 무엇인가요 어디 어디에 어디에서 언제 어떤 어떻게 왜 몇 얼마나 그 저",
);
const THAI = words(`ที่ และ ของ ใน เป็น มี จะ ได้ ไป มา ให้ กับ ว่า ก็ แล้ว จาก อยู่ ไม่ นี้ นั้น คือ หรือ โดย เพื่อ
  อะไร ใคร เมื่อไหร่ เมื่อไร ทำไม อย่างไร ยังไง กี่ เท่าไหร่ เท่าไร ไหน ไหม คะ ครับ ค่ะ ซึ่ง ต้อง ถูก ด้วย`);

export const LANGUAGES: ReadonlyMap<string, Language> = new Map(
  [
    language("en", "latin", english, ["a", ...englishStops]),
    language("de", "latin", german, germanStops, { hasCompounds: true, hasGenitiveS: true }),
    language("nl", "latin", dutch, dutchStops, { hasCompounds: true, hasGenitiveS: true }),
    language("fi", "latin", finnish, finnishStops, { hasCompounds: true, near: beginning }),
    language("sv", "latin", swedish, swedishStops, { hasCompounds: true, hasGenitiveS: true }),
    language("no", "latin", norwegian, norwegianStops, { hasCompounds: true, hasGenitiveS: true }),
    language("da", "latin", danish, danishStops, { hasCompounds: true, hasGenitiveS: true }),
    language("fr", "latin", french, frenchStops),
    language("es", "latin", spanish, spanishStops),
    language("pt", "latin", portuguese, portugueseStops),
    language("it", "latin", italian, italianStops),
    language("ro", "latin", romanian, romanianStops),
    language("hu", "latin", hungarian, hungarianStops, { near: beginning }),
    language("tr", "latin", turkish, turkishStops, { near: beginning }),
    language("id", "latin", indonesian, indonesianStops),
    language("ga", "latin", irish),
    language("lt", "latin", lithuanian, [], { near: beginning }),
    language("sr", "latin", serbian, [], { near: beginning }),
    language("pl", "latin", polishStem, POLISH, { near: beginning }),
    language("cs", "latin", czechStem, CZECH, { near: beginning }),
    language("ru", "cyrillic", russian, russianStops, { near: beginning }),
    language("uk", "cyrillic", ukrainian, ukrainianStops, { near: beginning }),
    language("bg", "cyrillic", firstLetters, bulgarianStops),
    language("ar", "arabic", arabicStem, arabicStops, { near: arabicRoot }),
    language("fa", "arabic", firstLetters),
    language("ur", "arabic", firstLetters),
    language("hi", "devanagari", hindi, hindiStops),
    language("ne", "devanagari", nepali, nepaliStops),
    language("mr", "devanagari", firstLetters),
    language("el", "other", greek, greekStops, { near: beginning }),
    language("he", "other", hebrewStem, HEBREW, { near: hebrewRoot }),
    language("hy", "other", armenian),
    language("ta", "other", tamil),
    language("ko", "other", koreanStem, KOREAN),
    language("th", "other", (word) => word, THAI),
    language("ja", "other", (word) => word, japaneseStops),
    language("zh", "other", (word) => word, chineseStops),
  ].map((one) => [one.code, one]),
);

/** A language by its code; of one that is not known words are found by their first letters. */
const UNKNOWN = language("", "other", firstLetters);
export const languageOf = (code: string): Language => LANGUAGES.get(code) ?? UNKNOWN;
