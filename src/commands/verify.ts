import { parseArgs } from "node:util";
import { openPostgres } from "../db/connect/open.ts";
import { leftOf } from "../db/upkeep/left-of-tenant.ts";
import { ERASURE } from "../forget/subtree.ts";

import { auditCatalog } from "../verify/catalog.ts";
import { auditChain, type ChainHead, type ChainState } from "../verify/chain.ts";
import type { Finding } from "../verify/finding.ts";
import { runProbes } from "../verify/probes.ts";
import { reportOf } from "../verify/report.ts";
import { scopeNamed } from "./command-context.ts";

const USAGE = `usage: scopefloor verify [--url http://127.0.0.1:7700/api/v1] [--context default] [--json]
                         [--anchor 12:5f…] [--tenant org/acme]

SCOPEFLOOR_KEY        a management key (needed)
DATABASE_OWNER_URL    the owner's database URL: the catalog and the audit chain are checked too
--tenant              instead: that nothing is left of a tenant that was offboarded (needs DATABASE_OWNER_URL)
--anchor              the audit chain's last batch as an earlier run gave it: it has to be there still`;

/**
 * Attacks a live deployment as one tenant would another, and with the owner's database URL audits its
 * catalog and its audit chain. Prints a table; gives 1 when anything was found, 2 when it was called
 * in another way than it takes.
 */
export async function verify(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      url: { type: "string", default: "http://127.0.0.1:7700/api/v1" },
      context: { type: "string", default: "default" },
      json: { type: "boolean", default: false },
      anchor: { type: "string" },
      tenant: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.tenant !== undefined) return verifyGone(values.tenant, environment.DATABASE_OWNER_URL, values.json);
  const key = environment.SCOPEFLOOR_KEY;
  if (values.help || key === undefined || key === "") {
    process.stderr.write(`${USAGE}\n`);
    return values.help ? 0 : 2;
  }
  const began = new Date();
  const anchor = values.anchor === undefined ? undefined : parseAnchor(values.anchor);
  const url = values.url.replace(/\/$/, "");
  const { findings, requests } = await runProbes({
    url,
    context: values.context,
    managementKey: key,
  });
  const owned = await checkDatabase(environment.DATABASE_OWNER_URL, anchor);
  const warnings = await warningsOf(url);
  const report = reportOf(began, requests, [...findings, ...owned.findings], warnings, owned.chain);
  if (values.json) {
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    return report.failed === 0 ? 0 : 1;
  }
  for (const finding of report.findings) process.stdout.write(lineOf(finding));
  for (const warning of warnings) process.stdout.write(`warn  ${warning}\n`);
  const all = report.findings.length;
  process.stdout.write(`\n${all - report.failed} of ${all} checks hold; ${requests} requests\n`);
  process.stdout.write(
    report.chain === null
      ? "the catalog and the audit chain were not checked: set DATABASE_OWNER_URL\n"
      : `${headLine(report.chain)}\n`,
  );
  return report.failed === 0 ? 0 : 1;
}

/** Says by table what is left of a tenant; gives 1 where anything is. */
async function verifyGone(path: string, url: string | undefined, asJson: boolean): Promise<number> {
  if (url === undefined) throw new Error("--tenant looks into the database: set DATABASE_OWNER_URL");
  const database = openPostgres({ app: url, connections: 1, timeoutMs: 600_000 });
  try {
    const lease = await database.owner.acquire();
    const left = await leftOf((text, params) => lease.query(text, params), scopeNamed(path), ERASURE.delete).finally(
      () => lease.release(),
    );
    if (left === undefined) throw new Error(`no tenant ${path} was ever here`);
    const found = left.filter(({ rows }) => rows > 0);
    if (asJson) process.stdout.write(`${JSON.stringify({ tenant: path, left }, null, 2)}\n`);
    else {
      for (const { what, rows } of found) process.stdout.write(`FAIL  ${what}: ${rows} rows\n`);
      process.stdout.write(
        found.length === 0
          ? `nothing is left of ${path}: ${left.length} places looked at\n`
          : `${path} is not gone from ${found.length} of ${left.length} places\n`,
      );
    }
    return found.length === 0 ? 0 : 1;
  } finally {
    await database.close();
  }
}

const headLine = ({ head, unsealed }: ChainState) =>
  `${head === null ? "nothing is sealed into the audit chain yet" : `the audit chain's last batch is ${head.batch}:${head.hash}`}; ${unsealed} entries wait to be sealed`;

/** What the service itself says of its database; nothing where `/ready` is not reached from here. */
async function warningsOf(url: string): Promise<readonly string[]> {
  try {
    const answer = await fetch(`${url}/ready`, { signal: AbortSignal.timeout(10_000) });
    return ((await answer.json()) as { warnings?: readonly string[] }).warnings ?? [];
  } catch {
    return [];
  }
}

function parseAnchor(text: string): ChainHead {
  const [, batch, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (batch === undefined || hash === undefined) throw new Error("--anchor is <batch>:<64 hex digits>");
  return { batch: Number(batch), hash };
}

async function checkDatabase(
  url: string | undefined,
  anchor: ChainHead | undefined,
): Promise<{ findings: readonly Finding[]; chain: ChainState | null }> {
  if (url === undefined) return { findings: [], chain: null };
  const database = openPostgres({ app: url, connections: 1, timeoutMs: 600_000 });
  const lease = await database.owner.acquire();
  const ask = async <T>(call: string, params: readonly unknown[]) => {
    const [row] = await lease.query(`SELECT ${call} AS answer`, params);
    return row?.answer as T;
  };
  try {
    const catalog = await auditCatalog((text, params) => lease.query(text, params));
    const { findings, chain } = await auditChain(
      {
        sealed: (first, upto) => ask("scopefloor.check_audit($1, $2)", [first, upto]),
        unchained: (since) => ask("scopefloor.check_unchained($1)", [since]),
      },
      { anchor },
    );
    return { findings: [...catalog, ...findings], chain };
  } finally {
    await lease.release();
    await database.close();
  }
}

function lineOf({ check, threats, looked, problems }: Finding): string {
  const numbers = threats.length === 0 ? "" : ` (threats ${threats.join(", ")})`;
  const lines = problems.map((problem) => `        ${problem}\n`).join("");
  return `${problems.length === 0 ? "ok  " : "FAIL"}  ${check}${numbers}: ${looked} looked at\n${lines}`;
}
