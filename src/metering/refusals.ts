import { AppError } from "../errors.ts";
import { scopeText } from "../scope/scope.ts";
import type { Budget } from "./budgets.ts";

/** Which budget has no room. */
export interface Shortage {
  readonly limit: "tokens" | "cost" | "requests" | "price" | "tokensPerMinute";
  /** Only what is held for calls under way is in the way. */
  readonly inFlight: boolean;
  /** The call alone is more than the whole limit. */
  readonly isTooLarge: boolean;
  readonly resetsAt: string | null;
  /** The budget, where moving on what was settled may make room. */
  readonly settleable?: string | null;
  /** Absent for a caller whose floor does not hold the budget's scope. */
  readonly budget?: Budget | null;
}

/** What is left of a limit that the caller may know of. */
export interface Rate {
  readonly limit: number;
  readonly remaining: number;
  /** Seconds until all of it is there again. */
  readonly reset: number;
}

export type RateName = "requests" | "tokens" | "concurrency";
export type Rates = { readonly [name in RateName]?: Rate };

/** A day, for a budget that never begins anew. */
const NEVER_SECONDS = 86_400;

/** Of a budget that the caller may not know: not even whether it is used up or only held tells how others do. */
const HIDDEN_SECONDS = 60;

function secondsUntil({ inFlight, resetsAt, budget }: Shortage): number {
  const untilReset =
    resetsAt === null ? NEVER_SECONDS : Math.max(1, Math.ceil((Date.parse(resetsAt) - Date.now()) / 1000));
  if (!budget) return Math.min(HIDDEN_SECONDS, untilReset);
  return inFlight ? 1 : untilReset;
}

const LEFT = { tokens: "tokens", cost: "money", requests: "requests" } as const;
const PERIOD = { hour: "hourly ", day: "daily ", week: "weekly ", month: "monthly ", total: "" } as const;

/** What was reached, in words that name nobody: it stays on traces, which outlive names. */
export function shortageText({ limit, resetsAt }: Shortage, whose = "a budget"): string {
  if (limit === "tokensPerMinute") return "the model's call is more tokens than a limit allows in a minute";
  if (limit === "price") return `${whose} limits the cost, and the model has no price`;
  const until = resetsAt === null ? "it does not reset" : `it resets at ${resetsAt}`;
  return `${whose} does not have enough ${LEFT[limit]} left; ${until}`;
}

/** The same for a caller, who may know the budget or not. */
function shortageDetail(shortage: Shortage): string {
  const { budget, inFlight, limit } = shortage;
  if (!budget) return shortageText(shortage, "a budget above this key's calls");
  const name = budget.name === "" ? "" : `${JSON.stringify(budget.name)} `;
  const whose = `the ${PERIOD[budget.period]}budget ${name}of ${scopeText(budget.scope)}`;
  return inFlight && limit !== "price"
    ? `${whose} has no room for that beside the calls under way`
    : shortageText(shortage, whose);
}

/** 429 `budget-exceeded`. */
export const budgetExceeded = (shortage: Shortage): AppError =>
  new AppError("budget-exceeded", shortageDetail(shortage), {
    retryAfter: secondsUntil(shortage),
    more: {
      limit: shortage.limit,
      resetsAt: shortage.resetsAt,
      ...(shortage.budget === undefined || shortage.budget === null ? {} : { budget: shortage.budget }),
    },
  });

const RATE_WORDS = {
  requests: "requests in a minute",
  tokens: "tokens in a minute",
  concurrency: "requests at once",
} as const;

/** 429 `rate-limited`, of a limit that was set for a scope or a key; it says how high where the caller may know. */
export function rateLimited(limited: {
  readonly rate: RateName;
  readonly retryAfter: number;
  readonly rates?: Rates;
}): AppError {
  const { rate, retryAfter } = limited;
  const known = limited.rates?.[rate];
  const what =
    known === undefined
      ? `too many ${RATE_WORDS[rate]}: a limit above this key's calls is reached`
      : `the limit of ${known.limit} ${RATE_WORDS[rate]} has ${known.remaining} left, and this takes more`;
  return new AppError("rate-limited", `${what}; try again in ${retryAfter} s`, {
    retryAfter,
    more: { "violated-policies": [rate] },
  });
}
