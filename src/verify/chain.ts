/**
 * The audit chain (src/db/sql/3_upkeep/4_audit_chain.sql): whether each trace, refused attempt and receipt stands
 * as it was sealed, and none was removed or put in by hand.
 */
import type { Finding } from "./finding.ts";

/** How the two checks of the database are called: by the owner, or in an operator's transaction. */
export interface ChainChecks {
  /** Batches from `first` to `upto`; null: to the last. */
  sealed(first: number, upto: number | null): Promise<SealedCheck>;
  /** Rows since a time, as the database spells it; null: all. */
  unchained(since: string | null): Promise<UnchainedCheck>;
}

export interface SealedCheck {
  readonly last: number;
  readonly entries: number;
  /** Of the batch `upto`, in hex; null: there is none. */
  readonly hash: string | null;
  readonly problems: readonly string[];
}

export interface UnchainedCheck {
  readonly rows: number;
  readonly unsealed: number;
  readonly problems: readonly string[];
}

/** A batch as an auditor notes it down, to see later that the chain still holds it. */
export interface ChainHead {
  readonly batch: number;
  /** SHA-256 in hex. */
  readonly hash: string;
}

export interface ChainState {
  /** The last batch; null: nothing was sealed yet. */
  readonly head: ChainHead | null;
  /** Entries whose rows were looked at. */
  readonly entries: number;
  /** Entries that wait for the worker's next round. */
  readonly unsealed: number;
  /** The oldest batch that was looked at: 1 unless the time was up. */
  readonly checkedFrom: number;
}

export interface ChainOptions {
  /** A head that was noted down earlier. */
  readonly anchor?: ChainHead | undefined;
  /** Rows that are not in the chain are looked for from here on; absent: everywhere. */
  readonly since?: string | undefined;
  /** Newest batches first, and none begun after so many ms; absent: all. */
  readonly withinMs?: number | undefined;
}

/** Batches in one statement. */
const PAGE = 4;

export async function auditChain(
  checks: ChainChecks,
  { anchor, since, withinMs = Number.POSITIVE_INFINITY }: ChainOptions,
): Promise<{ findings: Finding[]; chain: ChainState }> {
  const began = performance.now();
  // From behind the last one on: only what the last one is.
  const { last, hash } = await checks.sealed(Number.MAX_SAFE_INTEGER, null);
  const problems: string[] = [];
  let entries = 0;
  let from = last + 1;
  while (from > 1 && (from > last || performance.now() - began < withinMs)) {
    const upto = from - 1;
    from = Math.max(1, from - PAGE);
    const page = await checks.sealed(from, upto);
    entries += page.entries;
    problems.push(...page.problems);
  }
  if (anchor !== undefined) {
    const there = anchor.batch <= last ? await checks.sealed(anchor.batch, anchor.batch) : undefined;
    if (there?.hash !== anchor.hash) problems.push(`batch ${anchor.batch} is not the one that was noted down`);
  }
  const unchained = await checks.unchained(since ?? null);
  return {
    findings: [
      {
        check: "each trace, refused attempt and receipt stands as it was sealed into the chain",
        threats: [],
        looked: entries,
        problems,
      },
      {
        check: `no trace, refused attempt or receipt${since === undefined ? "" : " of the last day"} is outside the chain`,
        threats: [],
        looked: unchained.rows,
        problems: unchained.problems,
      },
    ],
    chain: {
      head: hash === null ? null : { batch: last, hash },
      entries,
      unsealed: unchained.unsealed,
      checkedFrom: from > last ? 1 : from,
    },
  };
}
