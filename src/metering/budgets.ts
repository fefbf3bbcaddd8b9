import { v7 as uuid } from "uuid";
import { json, type ScopedTransaction } from "../db/access/scoped.ts";
import { AppError, type ErrorSlug, invalid, notFound } from "../errors.ts";
import { recordTrace } from "../traces/record.ts";

export const PERIODS = ["hour", "day", "week", "month", "total"] as const;
export type Period = (typeof PERIODS)[number];

interface Amounts<T> {
  readonly tokens: T;
  /** USD. */
  readonly costUsd: T;
  readonly requests: T;
}

export interface NewBudget {
  readonly name?: string | undefined;
  readonly period: Period;
  /** IANA name. What is absent here and below stays as it is; of a new budget: UTC, hard, 80 % and 100 %, none. */
  readonly timezone?: string | undefined;
  /** Where one limit is given, there are no others than the given ones. */
  readonly tokenLimit?: number | undefined;
  readonly costLimitUsd?: number | undefined;
  readonly requestLimit?: number | undefined;
  readonly mode?: "hard" | "soft" | undefined;
  /** Shares of the limits that are told of once a period. */
  readonly alertAt?: readonly number[] | undefined;
  readonly temporaryIncrease?:
    | { readonly tokens?: number | undefined; readonly costUsd?: number | undefined; readonly until: string }
    | undefined;
}

/** A budget with what was spent of it, and is held for calls under way, in its present period. */
export interface Budget {
  readonly id: string;
  readonly scope: Record<string, string>;
  readonly name: string;
  readonly period: Period;
  readonly timezone: string;
  readonly tokenLimit: number | null;
  readonly costLimitUsd: number | null;
  readonly requestLimit: number | null;
  readonly mode: "hard" | "soft";
  readonly alertAt: readonly number[];
  readonly temporaryIncrease: { readonly tokens: number; readonly costUsd: number; readonly until: string } | null;
  readonly used: Amounts<number>;
  readonly reserved: Amounts<number>;
  /** Null where there is no limit. */
  readonly remaining: Amounts<number | null>;
  readonly periodStart: string;
  /** Null: never. */
  readonly resetsAt: string | null;
  readonly alerts: readonly { readonly threshold: number; readonly periodStart: string; readonly at: string }[];
  readonly createdAt: string;
  readonly updatedAt: string;
}

const INVALID_PARAMETER = "22023";

/**
 * Makes the budget of the transaction's scope with this period and name, or changes it.
 *
 * @param onlyId changes the one with this id, and makes none
 */
export async function setBudget(tx: ScopedTransaction, budget: NewBudget, onlyId?: string): Promise<Budget> {
  const answer = await tx
    .call<{ status: "ok"; budget: Budget } | { status: ErrorSlug; detail: string }>(
      "set_budget",
      uuid(),
      json(budget),
      onlyId ?? null,
    )
    .catch((cause: unknown) => {
      // Node may know a time zone that the database does not.
      if ((cause as { code?: unknown }).code === INVALID_PARAMETER)
        throw invalid(`timezone: the database knows no ${budget.timezone}`);
      throw cause;
    });
  if (answer.status === "not-found") throw notFound();
  if (answer.status !== "ok") throw new AppError(answer.status, (answer as { detail: string }).detail);
  recordTrace(tx, { kind: "decision", operation: "budget_set" });
  return (answer as { budget: Budget }).budget;
}

/**
 * Moves what calls have settled to what is used, for the budgets and limits at the transaction's scope and below.
 * It locks their numbers until it commits: in a transaction of its own, before they are listed.
 */
export const bringUpToDate = (tx: ScopedTransaction) => tx.call<number>("fold_own_holds");

/** The budgets at the transaction's scope and below, by scope. */
export async function listBudgets(
  tx: ScopedTransaction,
  pageSize: number,
  page: number,
): Promise<{ budgets: Budget[]; total: number }> {
  return tx.call("list_budgets", null, pageSize, page * pageSize);
}

export async function getBudget(tx: ScopedTransaction, id: string): Promise<Budget> {
  const { budgets } = await tx.call<{ budgets: Budget[] }>("list_budgets", id, 1, 0);
  const [budget] = budgets;
  if (budget === undefined) throw notFound();
  return budget;
}

/** By its id, or by period and name at the transaction's scope. */
export async function dropBudget(
  tx: ScopedTransaction,
  which: { readonly id?: string | undefined; readonly period?: Period | undefined; readonly name?: string | undefined },
): Promise<void> {
  const dropped = await tx.call<number>("drop_budget", which.id ?? null, which.period ?? null, which.name ?? null);
  if (dropped === 0) throw notFound();
  if (dropped < 0) throw new AppError("forbidden", "a key above this one has set this budget");
  recordTrace(tx, { kind: "decision", operation: "budget_delete" });
}
