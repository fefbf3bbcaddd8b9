import { expect } from "vitest";
import type { ServiceProcess } from "../harness/service-process.ts";
import type { LedgerOutcome } from "./ledger.ts";

/**
 * How many of a fault: the suite does a fifth of what `npm run soak -- faults --times=1` does, which
 * `.ci/run` does by itself on each database, and in full it is thirty times that.
 */
const TIMES = Number(process.env.SCOPEFLOOR_FAULTS ?? 0.2);

export const faults = (count: number): number => Math.max(1, Math.round(count * TIMES));

/** A hang is found, and a busy machine has the time it needs. */
export const faultTimeout = { timeout: 300_000 * Math.max(1, TIMES) };

/**
 * Nothing that was acknowledged is gone, nothing there twice, nothing anywhere else, and no answer was
 * strange; with what the log says of a failure, which may not come back soon.
 */
export function expectNoHarm(outcome: LedgerOutcome, { internalErrors }: ServiceProcess): void {
  const { lost, doubled, crossed, strange } = outcome;
  expect({ lost, doubled, crossed, strange, internalErrors }).toEqual({
    lost: [],
    doubled: [],
    crossed: [],
    strange: [],
    internalErrors: [],
  });
}
