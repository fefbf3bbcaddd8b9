/** Letters that Unicode does not take apart, as people type them who have no key for them. */
const PLAIN: Readonly<Record<string, string>> = {
  ß: "ss",
  æ: "ae",
  œ: "oe",
  ø: "o",
  đ: "d",
  ð: "d",
  þ: "th",
  ł: "l",
  ħ: "h",
  ı: "i",
  ŋ: "n",
  // Arabic: letters that are written for one another.
  ى: "ي",
  ة: "ه",
  ک: "ك",
  ی: "ي",
  ـ: "",
  // Hebrew: the forms at a word's end.
  ך: "כ",
  ם: "מ",
  ן: "נ",
  ף: "פ",
  ץ: "צ",
};
const PLAIN_LETTERS = new RegExp(`[${Object.keys(PLAIN).join("")}]`, "gu");
/** Marks that people leave out: accents, and the points of Arabic and Hebrew. Others make words: `й`, vowels of Indic scripts, tones of Thai. */
const LEFT_OUT = /(?<=[\p{sc=Latin}\p{sc=Greek}\p{sc=Arabic}\p{sc=Hebrew}])\p{M}+|(?<=[еЕ])\u0308|\u093c/gu;
const NOT_ASCII = /[^\0-\x7f]/;
const OTHER_DIGIT = /(?![0-9])\p{Nd}/gu;

/** A digit of any script as an ASCII digit: each script's ten stand in a row, from a multiple of ten on or of sixteen. */
function digit(other: string): string {
  const code = other.codePointAt(0) ?? 0;
  let zero = code;
  while (code - zero < 9 && /\p{Nd}/u.test(String.fromCodePoint(zero - 1))) zero--;
  return String(code - zero);
}

/** A word of lower case without what people leave out when they type. */
export function folded(word: string): string {
  if (!NOT_ASCII.test(word)) return word;
  return word
    .normalize("NFD")
    .replace(LEFT_OUT, "")
    .normalize("NFC")
    .replace(PLAIN_LETTERS, (letter) => PLAIN[letter] ?? letter)
    .replace(OTHER_DIGIT, digit);
}
