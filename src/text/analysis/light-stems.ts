/** Stems for languages that the library of stemmers does not have: endings are taken off, the longest first. */

const byLength = (endings: string) => endings.split(/\s+/).sort((a, b) => b.length - a.length);

function withoutEnding(word: string, endings: readonly string[], least: number): string {
  for (const ending of endings) {
    if (word.length - ending.length >= least && word.endsWith(ending))
      return word.slice(0, word.length - ending.length);
  }
  return word;
}

/** Letters that stay the same in most forms of a word of any alphabet. */
const FIRST_LETTERS = 5;
export const firstLetters = (word: string): string =>
  word.length > FIRST_LETTERS ? word.slice(0, FIRST_LETTERS) : word;

/** What words of one root begin with in languages that change the rest; "" for short words. */
export const beginning = (word: string): string => (word.length >= FIRST_LETTERS ? word.slice(0, FIRST_LETTERS) : "");

const POLISH =
  byLength(`ami ach om owie ów owi em iem y i e a u o ą ę ego emu ymi imi ich ych ej ym im ie ia ią ię iu io iego iemu iej
  iami iach iom ał ała ało ali ały ił iła iło ili iły ył yła yło yli yły ować uje ują ać ić yć eć am asz amy acie ają esz emy ecie isz imy icie
  ia ie ją owa owy owe owego owej owym ski ska skie skiego skiej skim ość ości nie niem nia niu ania aniu`);
/** Consonants that change before an ending. */
const SOFTENED: readonly (readonly [RegExp, string])[] = [
  [/(?:cz|ć|ci)$/, "c"],
  [/(?:sz|ś|si)$/, "s"],
  [/(?:rz|ż|ź|zi|dz|dź|g)$/, "z"],
  [/(?:ń|ni)$/, "n"],
  [/k$/, "c"],
  [/ł$/, "l"],
];
export function polishStem(word: string): string {
  const stem = withoutEnding(word, POLISH, 3);
  for (const [ending, plain] of SOFTENED) if (ending.test(stem)) return stem.replace(ending, plain);
  return stem;
}

const CZECH = byLength(`ami emi ech ách ích ům em ovi ové y i í e ě a á u ů o é ého ému ými ými ých ým ou ej ím
  al ala alo ali aly il ila ilo ili ily el ela elo eli ely ovat uje ují at it et ám áš áme áte ají íš íme íte ost osti ní ního ním`);
export const czechStem = (word: string): string => withoutEnding(word, CZECH, 3);

const HEBREW = byLength("ים ות יים ה ת י ו יה ית יות ך נו כם הם הן");
/** `and the house` is one word: what is written in front goes first. */
export function hebrewStem(word: string): string {
  let stem = word.replace(/[\u0591-\u05c7]/g, "");
  for (let taken = 0; taken < 2 && stem.length > 3 && /^[והבכלמש]/.test(stem); taken++) stem = stem.slice(1);
  return withoutEnding(stem, HEBREW, 2);
}

/** The consonants of a Hebrew word without what forms are made with; "" where too few remain. */
export function hebrewRoot(word: string): string {
  const root = hebrewStem(word)
    .replace(/^[נתימה](?=...)/, "")
    .replace(/(?<=.)[וי]/g, "");
  return root.length >= 2 ? root : "";
}

/** Arabic: `and with the house` is one word, and so is `for the house`. */
export const withoutArticle = (word: string): string => {
  const plain = word.replace(/[\u064b-\u0652\u0640]/g, "");
  return plain.replace(/^[وف]?(?:[بك]ال|لل|ال)(?=...)/, "").replace(/^[وف](?=[بكل]?ال...)/, "");
};

/** The consonants of an Arabic word without what forms are made with: درس of يدرس, دراسة, تدريس and مدرسة. */
export function arabicRoot(word: string): string {
  const root = withoutArticle(word)
    .replace(/(?:ون|ين|ان|ات|تين|يه|ها|هم|نا|ه|ت|ي)$/, (ending, at: number) => (at >= 3 ? "" : ending))
    .replace(/^(?:است|يت|تت|ان|[يتنمالب])(?=...)/, "")
    .replace(/(?<=.)[اوي]/g, "");
  return root.length >= 3 ? root : "";
}

const KOREAN =
  byLength(`은 는 이 가 을 를 에 의 도 만 로 으로 와 과 랑 이랑 하고 에서 에게 에게서 한테 한테서 께서 까지 부터 보다 처럼 마다
  조차 밖에 이나 나 이라고 라고 이라는 라는 이며 이고 입니다 이에요 예요 이다 인 에는 에도 에서는 에서도 으로는 로는 들 들은 들이 들을 들의 들에게`);
export const koreanStem = (word: string): string => withoutEnding(word, KOREAN, 1);
