/** A month that a question names, with the year and the day where it names them too. */
export interface NamedTime {
  readonly year: number | undefined;
  /** 0 to 11. */
  readonly month: number;
  readonly day: number | undefined;
}

const MONTHS = [
  "january",
  "february",
  "march",
  "april",
  "may",
  "june",
  "july",
  "august",
  "september",
  "october",
  "november",
  "december",
];

const DAY = String.raw`(\d{1,2})(?:st|nd|rd|th)?`;
const YEAR = String.raw`((?:19|20)\d\d)`;
/** `may` and `march` are words too: alone they are no month. */
const WORDS = new Set(["may", "march"]);

/** By month: what names it, with what stands before and behind. */
const PATTERNS = MONTHS.map(
  (name) =>
    new RegExp(
      String.raw`(?:\b(in|of|during|early|late|mid|since|until|by|before|after|last|this)\s+)?(?:\b${DAY}\s+(?:of\s+)?)?\b${name}\b(?:\s+${DAY}(?!\d))?(?:,?\s+${YEAR}\b)?`,
      "g",
    ),
);

/** The months that a text names: `7 May 2023`, `May 7th, 2023`, `in May`, `July 2023`, `2023-05-07`. */
export function timesNamed(text: string): NamedTime[] {
  const times: NamedTime[] = [];
  const lower = text.toLowerCase();
  for (const [month, name] of MONTHS.entries()) {
    if (!lower.includes(name)) continue;
    for (const [, cue, before, after, year] of lower.matchAll(PATTERNS[month] ?? /(?!)/g)) {
      const day = before ?? after;
      if (WORDS.has(name) && cue === undefined && day === undefined && year === undefined) continue;
      times.push({
        year: year === undefined ? undefined : Number(year),
        month,
        day: day === undefined ? undefined : Number(day),
      });
    }
  }
  for (const [, year, month, day] of lower.matchAll(
    /\b((?:19|20)\d\d)-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01]))?\b/g,
  )) {
    times.push({ year: Number(year), month: Number(month) - 1, day: day === undefined ? undefined : Number(day) });
  }
  return times;
}

/** What naming a time adds, in units of a word's weight (docs/retrieval.md): its day, the more the nearer; the month of a day; its month; and of another year. */
const DAY_WEIGHT = 4;
const DAY_SCALE = 8;
const MONTH_OF_DAY_WEIGHT = 3.2;
const MONTH_WEIGHT = 6;
const OTHER_YEAR_WEIGHT = 3;
/** In the first days of the month after one speaks of the last. */
const MONTH_AFTER = { weight: 1.2, days: 10 };
const DAY_MS = 86_400_000;

/** What an instant is worth by the times that a question names; 0 where it names none. */
export function bonusInTime(named: readonly NamedTime[], observedAt: string): number {
  if (named.length === 0) return 0;
  const at = new Date(observedAt);
  return Math.max(...named.map((time) => bonusOf(time, at)));
}

function bonusOf({ year, month, day }: NamedTime, at: Date): number {
  const isMonth = at.getUTCMonth() === month;
  const isYear = year === undefined || at.getUTCFullYear() === year;
  if (day !== undefined) {
    const named = Date.UTC(year ?? at.getUTCFullYear(), month, day);
    const away = Math.abs(at.getTime() - named) / DAY_MS;
    return Math.max(DAY_WEIGHT * Math.exp(-Math.floor(away) / DAY_SCALE), isMonth && isYear ? MONTH_OF_DAY_WEIGHT : 0);
  }
  if (isMonth) return isYear ? MONTH_WEIGHT : OTHER_YEAR_WEIGHT;
  const isAfter = at.getUTCMonth() === (month + 1) % 12 && at.getUTCDate() <= MONTH_AFTER.days;
  const yearOfMonth = at.getUTCFullYear() - (month === 11 ? 1 : 0);
  return isAfter && (year === undefined || yearOfMonth === year) ? MONTH_AFTER.weight : 0;
}

/** Tells the words of a question that name its times. */
export function isOfNamedTime(text: string): (word: string) => boolean {
  const named = timesNamed(text);
  if (named.length === 0) return () => false;
  const words = new Set(
    named.flatMap(({ year, month, day }) => [
      MONTHS[month] ?? "",
      ...(year === undefined ? [] : [String(year)]),
      ...(day === undefined ? [] : [String(day), ...["st", "nd", "rd", "th"].map((end) => `${day}${end}`)]),
    ]),
  );
  return (word) => words.has(word);
}
