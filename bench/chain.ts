/**
 * What the audit chain costs: a transaction that records one trace, over the same connection with the
 * chain's trigger and without it, turn about; and how fast entries are sealed and checked.
 */
import { sealAudit } from "../src/jobs/housekeeping.ts";
import { recordTrace } from "../src/traces/record.ts";
import { auditChain } from "../src/verify/chain.ts";
import { quantile, round, table } from "./measure.ts";
import { benchStore, timeEach } from "./store.ts";

const ROUNDS = 10;
const TRACES = 400;

export default async function chain(): Promise<Record<string, unknown>> {
  const store = await benchStore();
  const { sql } = store;
  const once = () =>
    store.store("tenant", async (tx) =>
      recordTrace(tx, { kind: "decision", operation: "bench", query: "when do we ship?", tier: "hybrid" }),
    );
  try {
    const chained: number[] = [];
    const bare: number[] = [];
    for (let n = 0; n < ROUNDS; n++) {
      chained.push(...(await timeEach(TRACES, once)));
      await sql`ALTER TABLE scopefloor.decision_trace DISABLE TRIGGER note_audit`;
      bare.push(...(await timeEach(TRACES, once)));
      await sql`ALTER TABLE scopefloor.decision_trace ENABLE TRIGGER note_audit`;
    }
    const [entries] = await sql`SELECT count(*)::int AS n FROM scopefloor.audit_entry`;
    const n = entries?.n as number;
    let began = performance.now();
    await sealAudit(store.database);
    const sealing = performance.now() - began;
    began = performance.now();
    const { findings } = await auditChain(
      {
        sealed: async (first, upto) =>
          (await sql`SELECT scopefloor.check_audit(${first}, ${upto}) AS answer`)[0]?.answer,
        unchained: async () => ({ rows: 0, unsealed: 0, problems: [] }),
      },
      {},
    );
    const checking = performance.now() - began;
    const problems = findings.flatMap((finding) => finding.problems);
    if (problems.length > 0) throw new Error(problems.join("; "));
    const [with50, without50] = [quantile(chained, 0.5), quantile(bare, 0.5)];
    process.stdout.write(
      table([
        ["a transaction that records one trace", "p50 ms", "p95 ms"],
        ["with the chain", with50, quantile(chained, 0.95)],
        ["without its trigger", without50, quantile(bare, 0.95)],
      ]),
    );
    process.stdout.write(
      `\n${round(with50 / without50)} × (${round(with50 - without50)} ms); ${n} entries: ${round((n / sealing) * 1000, 0)} sealed/s, ${round((n / checking) * 1000, 0)} checked/s\n`,
    );
    return {
      ratio: round(with50 / without50),
      addedMs: round(with50 - without50),
      sealedPerSecond: round((n / sealing) * 1000, 0),
      checkedPerSecond: round((n / checking) * 1000, 0),
    };
  } finally {
    await store.close();
  }
}
