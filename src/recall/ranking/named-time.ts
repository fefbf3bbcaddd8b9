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

/** The months that a text names: `7 May 2023`, `May 7th, 2023`, `in May`, `July 2023`, `2023-05-07`. */
export function timesNamed(text: string): NamedTime[] {
  const times: NamedTime[] = [];
  const lower = text.toLowerCase();
  for (const [month, name] of MONTHS.entries()) {
    const pattern = new RegExp(
      String.raw`(?:\b(in|of|during|early|late|mid|since|until|by|before|after|last|this)\s+)?(?:\b${DAY}\s+(?:of\s+)?)?\b${name}\b(?:\s+${DAY}(?!\d))?(?:,?\s+${YEAR}\b)?`,
      "g",
    );
    for (const [, cue, before, after, year] of lower.matchAll(pattern)) {
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

/** Days after and before a named one that are still about it: people speak of a day around it. */
const NEAR_DAYS = 3;

/** How well an instant goes with what a question names: 1 for its day or month, less beside its day, 0 for another month. */
export function likenessInTime(named: readonly NamedTime[], observedAt: string): number {
  if (named.length === 0) return 0;
  const at = new Date(observedAt);
  let best = 0;
  for (const { year, month, day } of named) {
    if (at.getUTCMonth() !== month || (year !== undefined && at.getUTCFullYear() !== year)) continue;
    const away = day === undefined ? 0 : Math.abs(at.getUTCDate() - day);
    best = Math.max(best, away === 0 ? 1 : away <= NEAR_DAYS ? 0.75 : 0.5);
  }
  return best;
}
