/** The times that requests share. */
import { z } from "zod";
import { invalid } from "../../errors.ts";

/** An instant, normalised to UTC: an offset that PostgreSQL does not know never reaches it. */
const instantText = (text: string, context: z.RefinementCtx): string => {
  const instant = new Date(text);
  if (Number.isNaN(instant.getTime()) || instant.getUTCFullYear() < 1000 || instant.getUTCFullYear() > 9999) {
    context.addIssue({ code: "custom", message: "must lie between the years 1000 and 9999 in UTC" });
    return z.NEVER;
  }
  return instant.toISOString();
};
const TIME = "must be an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z";
export const time = z.iso.datetime({ offset: true, error: TIME }).max(40).transform(instantText);
/** As {@link time}, or a date alone, which stands for a time of that day in UTC. */
const timeOrDate = (ofDay: string, which: string) =>
  z
    .union([z.iso.date(), z.iso.datetime({ offset: true })], { error: `${TIME}, or a date such as 2026-01-31` })
    .transform((text) => (text.length === 10 ? `${text}${ofDay}` : text))
    .pipe(z.string().max(40).transform(instantText))
    .meta({ description: `A time, or a date, which is its day's ${which} in UTC` });
/** From when on. */
export const fromTime = timeOrDate("T00:00:00.000Z", "start");
/** Until when, or at which moment. */
export const untilTime = timeOrDate("T23:59:59.999Z", "end");

/** What a time to live means as a time. */
export const expiry = (ttl: number | undefined) =>
  ttl === undefined ? undefined : new Date(Date.now() + ttl * 1000).toISOString();

/** @throws AppError 400 for a span that ends before it begins: the first field is its beginning, the second its end */
export function refuseReversed(span: Readonly<Record<string, string | undefined>>): void {
  const [[beginning, from] = [], [end, until] = []] = Object.entries(span);
  if (from !== undefined && until !== undefined && from > until)
    throw invalid(`${end}: ${until} lies before ${beginning}, ${from}`);
}

/** At which moment, of the two times. */
export const moment = {
  asOf: untilTime.optional(),
  atInstant: untilTime.optional(),
  validFrom: fromTime.optional(),
  validUntil: untilTime.optional(),
};
