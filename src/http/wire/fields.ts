/** The shapes that requests share. The wire is zod: validation and types come from here, once. */
import { z } from "zod";
import { AppError, invalid } from "../../errors.ts";
import { stringifyJson } from "../../exact-json.ts";
import { KEY_VERBS, VERBS } from "../../keys/keys.ts";
import { parseScope } from "../../scope/scope.ts";
import { parseQuerySelector, parseSelector, parseWriteSelector } from "../../scope/selector.ts";
import { hintFor, isSpelled } from "../../scope/spelling.ts";
import { VIEWS, type View } from "../../scope/visibility.ts";
import { normalKey } from "../../text/names.ts";
import { normalForm } from "../../text/normal-form.ts";
import { nearestName } from "./did-you-mean.ts";

const VALUE_BYTES = 64 * 1024;

const toSnake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Accepts each field in camelCase or snake_case, and null as absent. Unknown fields stay, and are refused. */
function normaliseFields(fields: readonly string[], nullable: readonly string[]) {
  const camelOf = new Map(fields.map((field) => [toSnake(field), field]));
  return (input: unknown): unknown => {
    if (typeof input !== "object" || input === null || Array.isArray(input)) return input;
    const normal: [string, unknown][] = [];
    const seen = new Set<string>();
    for (const [name, value] of Object.entries(input)) {
      const field = camelOf.get(name) ?? name;
      if (seen.has(field)) throw invalid(`${field} is given twice, as ${field} and ${toSnake(field)}`);
      seen.add(field);
      if (value !== null || !fields.includes(field) || nullable.includes(field)) normal.push([field, value]);
    }
    return Object.fromEntries(normal);
  };
}

/**
 * An object on the wire: known fields only, in either spelling.
 *
 * @param nullable fields in which null is a value
 */
export function fields<T extends z.ZodRawShape>(shape: T, nullable: readonly string[] = []) {
  const known = Object.keys(shape);
  return z.preprocess(
    normaliseFields(known, nullable),
    z.strictObject(shape, { error: (issue) => unknownFields(issue, known) }),
  );
}

/** Says of an unknown field which one may be meant; undefined: the usual message. */
function unknownFields({ code, keys }: { readonly code?: string; readonly keys?: unknown }, known: readonly string[]) {
  if (code !== "unrecognized_keys" || !Array.isArray(keys)) return undefined;
  const [first, ...others] = keys.slice(0, 5).map((name: string) => {
    const meant = nearestName(name, known);
    return `${JSON.stringify(name.slice(0, 64))}${meant === undefined ? "" : ` (did you mean ${meant}?)`}`;
  });
  return `Unrecognized key${others.length === 0 ? "" : "s"}: ${[first, ...others].join(", ")}`;
}

/** A parser of this project as a zod type: its own message and status come through. */
function parsedBy<T>(parse: (input: unknown) => T) {
  return z.unknown().transform((input, context) => {
    try {
      return parse(input);
    } catch (error) {
      if (error instanceof AppError && error.status === 400) {
        context.addIssue({ code: "custom", message: error.message });
        return z.NEVER;
      }
      throw error;
    }
  });
}

const SCOPE = 'a scope: {"org":"acme"}, ["org=acme"] or "org/acme"';
const TAGS = { type: "object", additionalProperties: { type: "string" } } as const;
const PATHS = { type: "array", items: { type: "string" } } as const;
const ONE_SCOPE = { anyOf: [{ type: "string" }, TAGS, PATHS] };
const SCOPES = {
  anyOf: [{ type: "string" }, TAGS, { type: "array", items: { anyOf: [{ type: "string" }, TAGS, PATHS] } }],
};
export const readSelector = parsedBy(parseSelector)
  .optional()
  .meta({ ...SCOPES, description: `What to read at, ${SCOPE}, or several as an array of clauses (OR)` });
export const writeSelector = parsedBy(parseWriteSelector)
  .optional()
  .meta({ ...SCOPES, description: `Where to write, ${SCOPE}` });
/** As {@link writeSelector}, where there has to be one. */
export const namedScope = parsedBy((input) => {
  const selector = parseWriteSelector(input);
  if (selector === undefined) throw invalid("a scope path is needed");
  return selector;
}).meta({ ...SCOPES, description: `The scope that is meant, ${SCOPE}` });
/** `lens` of a GET: JSON or a path. */
const inQueryString = z.string().transform((text) => parseQuerySelector(text));
export const querySelector = inQueryString.pipe(parsedBy(parseSelector)).optional();
export const queryWriteSelector = inQueryString.pipe(parsedBy(parseWriteSelector)).optional();
export const queryNamedScope = inQueryString.pipe(namedScope);
export const scopeObject = parsedBy(parseScope).meta({ ...ONE_SCOPE, description: `One scope, ${SCOPE}` });

export const uuidText = z.uuid();
export const text = z.string().min(1).max(100_000);
export const queryText = z.string().trim().min(1).max(8_000);
/** Empty: what is newest. */
export const queryOrNothing = z.string().trim().max(8_000);
export const k = z.int().min(1).max(50);
export const labels = z
  .array(
    z
      .string()
      .regex(
        /^[A-Za-z][A-Za-z0-9_.-]{0,127}=[^\p{Cc}\p{Cs}]{0,256}$/u,
        "must be key=value, the key [A-Za-z][A-Za-z0-9_.-]*, the value at most 256 characters without control characters",
      ),
  )
  .max(32);
/** Of a query string: one label, or several as a JSON array. */
export const queryLabels = z
  .string()
  .transform((given, context) => {
    if (!given.startsWith("[")) return [given];
    try {
      return JSON.parse(given) as unknown;
    } catch {
      context.addIssue({ code: "custom", message: "must be one label, or several as a JSON array" });
      return z.NEVER;
    }
  })
  .pipe(labels)
  .optional()
  .meta({ description: "Labels that all have to be there: one, or several as a JSON array" });
/** Of a query string: some of these words, with commas between. */
export const listed = <const Word extends string>(words: readonly Word[]) =>
  z
    .string()
    .transform((text) => text.split(","))
    .pipe(z.array(z.enum(words)).min(1));
export const verbs = z.array(z.enum(VERBS)).min(1);
export const keyVerbs = z.array(z.enum(KEY_VERBS)).min(1);
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
export const keyName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9 ._:@-]{0,127}$/, "must be 1 to 128 letters, digits, spaces, or ._:@-")
  .refine((name) => !UUID.test(name), "must not look like an id");
export const role = z.enum(["user", "assistant", "system", "tool"]);
/** Names that stand in a path of their own: printable, without a slash. */
const nameOf = (longest: number, what: string) =>
  z
    .string()
    .regex(
      /^[^\p{C}\s/](?:[^\p{C}/]*[^\p{C}\s/])?$/u,
      `${what} must be printable, without / and without white space at its ends`,
    )
    // Clients take these for steps in the path, and never send them.
    .refine((name) => !/^\.\.?$/.test(normalForm(name)), `${what} must not be . or ..`)
    .refine((name) => normalForm(name) !== "", `${what} must show something`)
    .max(longest);
export const entityType = nameOf(64, "an entity's type");
export const entityName = nameOf(256, "an entity's name");
export const factKey = nameOf(128, "a key").refine((key) => normalKey(key) !== "", "a key must show something");
/** A key as ever, or a name of 128 characters in its one spelling. */
export const itemKey = z.string().superRefine((key, context) => {
  if (/^[A-Za-z0-9][A-Za-z0-9._:@|+~-]{0,255}$/.test(key) || isSpelled(key)) return;
  const message = `must be letters, digits and ._:@|+~- as they are, a letter or digit first, and others as percent-encoded UTF-8 in upper-case hex${hintFor(key)} (in a path each percent sign is %25)`;
  context.addIssue({ code: "custom", message });
});
/** One of our ids, or any the caller has, by which a session is known to that key at that scope. */
export const sessionName = z
  .string()
  .max(512)
  .transform((name) => name.normalize("NFC"))
  .pipe(
    z
      .string()
      .min(1)
      .max(128)
      .regex(
        /^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]*[^\p{C}\p{Z}][^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]*$/u,
        "must show something, and have no control characters",
      ),
  );
/** Any JSON, of at most 64 KiB. */
export const jsonValue = z
  .unknown()
  .refine(
    (value) => value === undefined || Buffer.byteLength(stringifyJson(value)) <= VALUE_BYTES,
    `is over ${VALUE_BYTES} bytes of JSON`,
  );
/** About how many years a duration is. */
function yearsOf(duration: string): number {
  const [date = "", time = ""] = duration.slice(1).split("T");
  const sum = (text: string, days: Readonly<Record<string, number>>) =>
    [...text.matchAll(/(\d+)([YMWDHS])/g)].reduce(
      (total, [, n = "", unit = ""]) => total + Number(n) * (days[unit] ?? 0),
      0,
    );
  return (sum(date, { Y: 365, M: 30, W: 7, D: 1 }) + sum(time, { H: 1 / 24, M: 1 / 1440, S: 1 / 86_400 })) / 365;
}

/** ISO 8601, of a length that a calendar has. */
export const duration = z
  .string()
  .max(64)
  .regex(
    /^P(?=\d|T\d)(?:\d{1,4}Y)?(?:\d{1,5}M)?(?:\d{1,5}W)?(?:\d{1,6}D)?(?:T(?=\d)(?:\d{1,7}H)?(?:\d{1,8}M)?(?:\d{1,9}S)?)?$/,
    "must be an ISO 8601 duration, such as P90D, P6M or PT12H",
  )
  .refine((text) => /[1-9]/.test(text), "must be longer than nothing")
  .refine((text) => yearsOf(text) <= 100, "must be at most 100 years");
/** true or false in a query string; absent: false. */
export const flag = z
  .enum(["true", "false"])
  .default("false")
  .transform((text) => text === "true");
export const timezone = z
  .string()
  .max(64)
  .refine((name) => {
    try {
      return /^[A-Za-z]/.test(name) && new Intl.DateTimeFormat("en", { timeZone: name }) !== undefined;
    } catch {
      return false;
    }
  }, "must be an IANA time zone, such as Europe/Berlin");
/** By which somebody knows a rule again. */
export const ruleName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9 ._:@-]{0,63}$/, "must be 1 to 64 letters, digits, spaces, or ._:@-");
export const memoryCategory = z.enum(["identity", "knowledge", "context"]);

/** A whole number in a query string. */
export const wholeNumber = (least: number, most: number) =>
  z
    .string()
    .regex(/^\d{1,9}$/, "must be a whole number")
    .transform(Number)
    .pipe(z.int().min(least).max(most));

/** A number that JSON clients read exactly. */
export const amount = z.int().min(0).max(Number.MAX_SAFE_INTEGER);
/** An amount of money; of a price, for a million tokens, a call or a gigabyte. */
export const usd = z.number().min(0).max(1_000_000_000);

/** Rows on a page. */
export const pageLimit = wholeNumber(1, 500).default(100);
export const limitAndOffset = {
  limit: pageLimit,
  offset: wholeNumber(0, 999_999_999).default(0),
};
export const pageAndSize = {
  page: wholeNumber(0, 9_999_999).default(0),
  pageSize: wholeNumber(1, 100).default(20),
};
/** A whole number of a query string that may be left out. */
export const count = (least: number, most: number, otherwise: number) => wholeNumber(least, most).default(otherwise);
/** At most a week: a grace is for rolling out the new secret. */
export const graceSeconds = wholeNumber(0, 604_800).default(0);
/** Names or ids, with commas between them. */
export const keepChildren = z
  .string()
  .max(4_000)
  .default("")
  .transform((text) => text.split(",").flatMap((name) => (name.trim() === "" ? [] : [name.trim()])));
export const ttlSeconds = wholeNumber(1, 999_999_999);

/** What a key sees where a request does not say. */
export const defaultView = z.enum(VIEWS);

/** The fields that a body has a value for. */
export const given = <T extends object>(values: T) =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [Name in keyof T]?: Exclude<T[Name], undefined>;
  };

export const scopeView = z.enum(["strict", "subtree", "merged", "crossTeam"]);
/** `merged` is strict; so is `crossTeam` as long as there are no sharing grants. */
export function viewOf(view: z.infer<typeof scopeView> | undefined): View | undefined {
  return view === "merged" || view === "crossTeam" ? "strict" : view;
}

/** Accepted, and named in the trace as having had no effect. */
export const hints = {
  useHyde: z.boolean().optional(),
  useReranker: z.boolean().optional(),
  decomposeQuery: z.boolean().optional(),
  expandGraph: z.boolean().optional(),
  graphAlpha: z.number().optional(),
  graphDepth: z.number().optional(),
};

export const ignoredHints = (body: { readonly [hint in keyof typeof hints]?: unknown }) =>
  Object.keys(hints).filter((hint) => body[hint as keyof typeof hints] !== undefined);

/** Where a list looks. */
export const lens = { lens: querySelector, scopeView: scopeView.optional() };
