import Papa from "papaparse";
import type { ScopedTransaction } from "../db/access/scoped.ts";
import { scopeText } from "../scope/scope.ts";

/** A line of a bill: calls of one operation and model at one scope, or what the scope kept. */
export interface BillLine {
  readonly scope: Record<string, string>;
  readonly kind: "calls" | "storage";
  readonly operation: string | null;
  readonly provider: string | null;
  readonly model: string | null;
  readonly calls: number;
  readonly inputTokens: number;
  readonly cachedInputTokens: number;
  readonly outputTokens: number;
  readonly embeddingTokens: number;
  /** Gigabytes (10⁹ bytes) kept, in months; null for calls. */
  readonly gbMonths: number | null;
  /** Calls, or days of storage, that had no price. */
  readonly unpriced: number;
  /** Rounded to a billionth. */
  readonly costUsd: number;
}

export interface Bill {
  readonly month: string;
  readonly from: string;
  readonly to: string;
  readonly lines: readonly BillLine[];
  /** The sum of the lines. */
  readonly costUsd: number;
  readonly unpriced: number;
}

interface RawLine {
  readonly scope: Record<string, string>;
  readonly kind: BillLine["kind"];
  readonly operation: string | null;
  readonly provider: string | null;
  readonly model: string | null;
  readonly calls: string;
  readonly input_tokens: string;
  readonly cached_input_tokens: string;
  readonly output_tokens: string;
  readonly embedding_tokens: string;
  readonly gb_months: string | null;
  readonly unpriced: string;
  readonly cost_usd: string;
}

/** Billionths: sums of them are whole. */
const NANOS = 1_000_000_000;

/**
 * What the calls of a month cost when they were made, by scope, at the transaction's scope and below.
 *
 * @param month such as 2026-11, in UTC
 * @param left of a tenant that was erased: the hash of its path
 */
export async function billOf(tx: ScopedTransaction, month: string, left: string | undefined): Promise<Bill> {
  const from = new Date(`${month}-01T00:00:00Z`);
  const to = new Date(Date.UTC(from.getUTCFullYear(), from.getUTCMonth() + 1, 1));
  const rows = await tx.callRows<RawLine>("bill", from.toISOString(), to.toISOString(), left ?? null);
  const lines = rows
    .map(
      (row): BillLine => ({
        scope: row.scope,
        kind: row.kind,
        operation: row.operation,
        provider: row.provider,
        model: row.model,
        calls: Number(row.calls),
        inputTokens: Number(row.input_tokens),
        cachedInputTokens: Number(row.cached_input_tokens),
        outputTokens: Number(row.output_tokens),
        embeddingTokens: Number(row.embedding_tokens),
        gbMonths: row.gb_months === null ? null : Number(row.gb_months),
        unpriced: Number(row.unpriced),
        costUsd: Number(row.cost_usd),
      }),
    )
    .map((line) => ({ line, path: scopeText(line.scope) }))
    // What a user has used stands below the org.
    .sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
    .map(({ line }) => line);
  return {
    month,
    from: from.toISOString(),
    to: to.toISOString(),
    lines,
    costUsd: lines.reduce((sum, line) => sum + Math.round(line.costUsd * NANOS), 0) / NANOS,
    unpriced: lines.reduce((sum, line) => sum + line.unpriced, 0),
  };
}

/** A cell that a spreadsheet takes for text, whatever it begins with. */
const asText = (value: string) => (/^[=+\-@\t\r]/.test(value) ? `'${value}` : value);

/** Without an exponent, which some spreadsheets take for text. */
const decimal = (amount: number, places: number) => amount.toFixed(places).replace(/\.?0+$/, "");

/** The bill's lines as CSV with a header. */
export const billAsCsv = ({ month, lines }: Bill): string =>
  `${Papa.unparse(
    lines.map(({ scope, ...line }) => ({
      ...line,
      month,
      scope: asText(scopeText(scope)),
      model: line.model === null ? null : asText(line.model),
      gbMonths: line.gbMonths === null ? null : decimal(line.gbMonths, 12),
      costUsd: decimal(line.costUsd, 9),
    })),
    {
      columns: [
        "month",
        "scope",
        "kind",
        "operation",
        "provider",
        "model",
        "calls",
        "inputTokens",
        "cachedInputTokens",
        "outputTokens",
        "embeddingTokens",
        "gbMonths",
        "unpriced",
        "costUsd",
      ],
      header: true,
    },
  )}\r\n`;
