/**
 * What a question asks for by its first words (English so far), and the marks of such answers in a turn. A turn keeps
 * them as bits of its own row, so that they are there and gone with it.
 */
interface AnswerType {
  /** In a question, of lower case. */
  readonly asked: RegExp;
  /** In a turn, without the name of who says it. */
  readonly cue: RegExp;
}

const MONTH_OR_DAY =
  "(?:mon|tues|wednes|thurs|fri|satur|sun)day|january|february|april|june|july|august|september|october|november|december";
const COUNTED = "one|two|three|four|five|six|seven|eight|nine|ten";

const TYPES: readonly AnswerType[] = [
  {
    asked:
      /^(?:when\b|(?:in|on|since|by|during) (?:which|what) (?:year|month|day|date)|(?:which|what) (?:year|month|day|date)\b)/,
    cue: new RegExp(
      `\\b(?:yesterday|today|tonight|tomorrow|ago|recently|just|weekend|since|${MONTH_OR_DAY}|(?:last|next|this|past) (?:night|morning|week|weekend|month|year|summer|winter|spring|fall|autumn|${MONTH_OR_DAY})|\\d+(?:st|nd|rd|th))\\b`,
      "i",
    ),
  },
  {
    asked: /\bhow long\b/,
    cue: new RegExp(
      `\\b(?:(?:\\d+|an?|few|couple|${COUNTED})\\s+(?:of\\s+)?(?:year|month|week|day|hour|minute)s?|since)\\b`,
      "i",
    ),
  },
  {
    asked: /\bhow (?:many|much|often|old)\b/,
    cue: new RegExp(`\\b(?:\\d+|twice|once|couple|several|many|few|${COUNTED})\\b`, "i"),
  },
  {
    asked: /^(?:where\b|(?:which|what) (?:city|country|state|place|town|location))/,
    cue: /\b(?:in|at|to|from|near|around|visit(?:ed)?|the) (?:the )?[A-Z][a-z]+/,
  },
  {
    asked: /^(?:who|whose|whom|with whom)\b/,
    cue: /\b(?:mom|mother|dad|father|sister|brother|friend|wife|husband|son|daughter|grand(?:ma|pa|mother|father)|aunt|uncle|cousin|boss|colleague|teacher|coach|partner|girlfriend|boyfriend|kids?)\b/i,
  },
  {
    asked: /\b(?:what|which) (?:is the name|book|movie|song|game|series|band|brand|team|show)|\b(?:named|called)\b/,
    cue: /["“][^"”]{2,60}["”]|(?<![.!?] )\b[A-Z][a-z]+ (?:of|the|and|[A-Z])[a-z]*/,
  },
  {
    asked: /^why\b|\bmotivat|\binspir|\breason/,
    cue: /\b(?:because|since|so that|to help|wanted|inspired|made me|reason|'cause|in order|motivat\w*|feel)\b/i,
  },
  {
    asked: /\bfeel/,
    cue: /\b(?:happy|proud|excited|thankful|grateful|amazing|awesome|sad|nervous|scared|great|relieved|love|feel|felt|feeling)\b/i,
  },
];

/** Of the turn: it asks. */
export const ASKS = 1 << TYPES.length;
/** Of a turn so much is looked at. */
const LOOKED_AT = 2_000;

/** The types of answers that a question asks for, as bits. */
export const typesAsked = (question: string): number => {
  const lower = question.toLowerCase();
  return TYPES.reduce((bits, { asked }, i) => (asked.test(lower) ? bits | (1 << i) : bits), 0);
};

/** The types of answers that a turn may be, as bits, and whether it asks itself. */
export function cuesOf(text: string): number {
  // Without who says it, and what is shown with it.
  const said = text
    .slice(0, LOOKED_AT)
    .replace(/^\p{Lu}[^:\p{Cc}]{0,39}: /u, "")
    .replace(/\s*\[[^\]]*\]\s*$/, "");
  const bits = TYPES.reduce((sum, { cue }, i) => (cue.test(said) ? sum | (1 << i) : sum), 0);
  return said.trimEnd().endsWith("?") ? bits | ASKS : bits;
}
