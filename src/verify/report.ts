import { readFileSync } from "node:fs";
import type { ChainState } from "./chain.ts";
import type { Finding } from "./finding.ts";

/** What an auditor gets, as JSON. */
export interface AuditReport {
  /** Of the package that made the report. */
  readonly version: string;
  /** When it was begun. */
  readonly at: string;
  /** HTTP requests that the probes made. */
  readonly requests: number;
  /** Checks that found something. */
  readonly failed: number;
  readonly findings: readonly Finding[];
  /** What the service says of how its database is set up. */
  readonly warnings: readonly string[];
  /** Null: the chain was not looked at, since it is the operator's. */
  readonly chain: ChainState | null;
}

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

export const reportOf = (
  began: Date,
  requests: number,
  findings: readonly Finding[],
  warnings: readonly string[],
  chain: ChainState | null,
): AuditReport => ({
  version,
  at: began.toISOString(),
  requests,
  failed: findings.filter(({ problems }) => problems.length > 0).length,
  findings,
  warnings,
  chain,
});
