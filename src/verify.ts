#!/usr/bin/env node
/**
 * `scopefloor verify`: attacks a live deployment as one tenant would another, and with the owner's
 * database URL audits its catalog. Prints a table; exits with 1 when anything was found.
 */
import { parseArgs } from "node:util";
import { openPostgres } from "./db/open.ts";
import { auditCatalog, type Finding } from "./verify/catalog.ts";
import { runProbes } from "./verify/probes.ts";

const USAGE = `usage: scopefloor-verify [--url http://127.0.0.1:7700/api/v1] [--context default] [--json]

SCOPEFLOOR_KEY        a management key (needed)
DATABASE_OWNER_URL    the owner's database URL: the catalog is audited too`;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      url: { type: "string", default: "http://127.0.0.1:7700/api/v1" },
      context: { type: "string", default: "default" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  const key = process.env.SCOPEFLOOR_KEY;
  if (values.help || key === undefined || key === "") {
    process.stderr.write(`${USAGE}\n`);
    return values.help ? 0 : 2;
  }
  const began = new Date();
  const { findings, requests } = await runProbes({
    url: values.url.replace(/\/$/, ""),
    context: values.context,
    managementKey: key,
  });
  const catalog = await catalogOf(process.env.DATABASE_OWNER_URL);
  const all = [...findings, ...catalog];
  const failed = all.filter(({ problems }) => problems.length > 0).length;
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ at: began.toISOString(), requests, failed, findings: all }, null, 2)}\n`);
  } else {
    for (const finding of all) process.stdout.write(lineOf(finding));
    process.stdout.write(`\n${all.length - failed} of ${all.length} checks hold; ${requests} requests\n`);
    if (catalog.length === 0) process.stdout.write("the catalog was not audited: set DATABASE_OWNER_URL\n");
  }
  return failed === 0 ? 0 : 1;
}

async function catalogOf(url: string | undefined): Promise<Finding[]> {
  if (url === undefined) return [];
  const database = openPostgres({ app: url, connections: 1, timeoutMs: 30_000 });
  const lease = await database.owner.acquire();
  try {
    return await auditCatalog((text, params) => lease.query(text, params));
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

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = 2;
  },
);
