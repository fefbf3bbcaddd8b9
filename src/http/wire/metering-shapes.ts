/** Shapes of answers about prices, budgets, limits and bills. */
import { z } from "zod";
import { PERIODS } from "../../metering/budgets.ts";
import { LIMITS } from "../../metering/limits.ts";
import { amount, fields, ruleName, timezone, usd } from "./fields.ts";
import { instant, integer, object, scopeTags, uuid } from "./shapes.ts";
import { time } from "./times.ts";

const amounts = <T extends z.ZodType>(of: T) => object({ tokens: of, costUsd: of, requests: of });

export const budgetShape = object({
  id: uuid,
  scope: scopeTags,
  name: z.string(),
  period: z.enum(PERIODS),
  timezone: z.string(),
  tokenLimit: integer.nullable(),
  costLimitUsd: z.number().nullable(),
  requestLimit: integer.nullable(),
  mode: z.enum(["hard", "soft"]),
  alertAt: z.array(z.number()),
  temporaryIncrease: object({ tokens: integer, costUsd: z.number(), until: instant }).nullable(),
  used: amounts(z.number()),
  reserved: amounts(z.number()),
  remaining: amounts(z.number().nullable()),
  periodStart: instant,
  resetsAt: instant.nullable().describe("When the next period begins; null: never"),
  alerts: z.array(object({ threshold: z.number(), periodStart: instant, at: instant })),
  createdAt: instant,
  updatedAt: instant,
});

export const priceShape = object({
  id: uuid,
  model: z.string().optional(),
  inputPerMillion: z.number().optional(),
  cachedInputPerMillion: z.number().optional(),
  outputPerMillion: z.number().optional(),
  embeddingPerMillion: z.number().optional(),
  operation: z.string().optional(),
  perCall: z.number().optional(),
  storagePerGbMonth: z.number().optional(),
  effectiveFrom: instant,
  createdAt: instant,
});

export const eachLimit = <T extends z.ZodType>(of: T) =>
  Object.fromEntries(LIMITS.map((name) => [name, of])) as Record<(typeof LIMITS)[number], T>;

export const limitShape = object({
  id: uuid,
  scope: scopeTags,
  key: uuid.nullable().describe("The key that it is for; null: all keys"),
  ...eachLimit(integer.nullable()),
  used: object(eachLimit(integer.optional())),
  createdAt: instant,
  updatedAt: instant,
});

export const billShape = object({
  month: z.string(),
  from: instant,
  to: instant,
  lines: z.array(
    object({
      scope: z.record(z.string(), z.string()),
      kind: z.enum(["calls", "storage"]),
      operation: z.string().nullable(),
      provider: z.string().nullable(),
      model: z.string().nullable(),
      calls: integer,
      inputTokens: integer,
      cachedInputTokens: integer,
      outputTokens: integer,
      embeddingTokens: integer,
      gbMonths: z.number().nullable(),
      unpriced: integer,
      costUsd: z.number(),
    }),
  ),
  costUsd: z.number(),
  unpriced: integer,
});

export const period = z.enum(PERIODS);

/** What a budget has besides its scope, period and name. */
export const budgetFields = {
  tokenLimit: amount.optional(),
  costLimitUsd: usd.optional(),
  requestLimit: amount.optional(),
  timezone: timezone.optional().describe("Where days, weeks and months begin; of a new budget: UTC"),
  mode: z
    .enum(["hard", "soft"])
    .optional()
    .describe("hard: what does not fit is not done; soft: it is counted. Of a new budget: hard"),
  alertAt: z
    .array(z.number().gt(0).max(10, "must be shares of a limit: 0.8 is 80 %"))
    .max(10)
    .optional()
    .describe("Shares of a limit that are listed in `alerts` once they are reached; of a new budget: 0.8 and 1"),
  temporaryIncrease: fields({ tokens: amount.optional(), costUsd: usd.optional(), until: time })
    .refine(({ tokens, costUsd }) => tokens !== undefined || costUsd !== undefined, "must have tokens or costUsd")
    .refine(({ until }) => Date.parse(until) > Date.now(), "must end in the future")
    .optional()
    .describe("What the limits are raised by until a time; by 0: no more"),
};

export const newBudgetFields = { name: ruleName.optional(), period, ...budgetFields };
export const newBudget = fields(newBudgetFields);
