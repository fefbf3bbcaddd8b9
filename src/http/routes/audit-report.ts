import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { z } from "zod";
import { sql } from "../../db/access/scoped.ts";
import { inTransaction } from "../../db/connect/lease.ts";
import { AppError, unprocessable } from "../../errors.ts";
import { VERBS } from "../../keys/keys.ts";
import { hashSecret } from "../../keys/secret.ts";
import { MAX_TAGS, tagsOf } from "../../scope/scope.ts";
import { auditCatalog } from "../../verify/catalog.ts";
import { auditChain } from "../../verify/chain.ts";
import { PROBE_TAGS, runProbes } from "../../verify/probes.ts";
import { reportOf } from "../../verify/report.ts";
import type { Deps } from "../deps.ts";
import { type Endpoint, endpoint } from "../endpoint.ts";
import { instant, integer, object } from "../wire/shapes.ts";

/** Of the chain, so that a request ends; `scopefloor verify` checks all of it. */
const CHAIN_MS = 10_000;
const DAY_MS = 86_400_000;

const auditReportResponse = object({
  version: z.string(),
  at: instant,
  requests: integer,
  failed: integer,
  findings: z.array(
    object({ check: z.string(), threats: z.array(integer), looked: integer, problems: z.array(z.string()) }),
  ),
  warnings: z.array(z.string()),
  chain: object({
    head: object({ batch: integer, hash: z.string() }).nullable(),
    entries: integer,
    unsealed: integer,
    checkedFrom: integer,
  }).nullable(),
});

export const auditReportEndpoints: readonly Endpoint[] = [
  endpoint({
    method: "get",
    path: "/contexts/{ctx}/audit-report",
    verb: "manage",
    operation: "audit_report",
    summary: "Evidence for an auditor: the catalog, attacks on this very service, the audit chain",
    answer: auditReportResponse,
    handle: async ({ deps, enter, bearer }) => {
      const began = new Date();
      const { isOperator, turn } = await enter({}, async (tx) => {
        const { floor, verbs, key } = tx.entry;
        if (!key.content || VERBS.some((verb) => !verbs.includes(verb)))
          throw new AppError("forbidden", `an audit report takes a key with content and the verbs ${VERBS.join(", ")}`);
        if (tagsOf(floor).length > MAX_TAGS - PROBE_TAGS)
          throw unprocessable(
            `an audit report takes a floor of at most ${MAX_TAGS - PROBE_TAGS} tags: it mints below it`,
          );
        return { isOperator: tagsOf(floor).length === 0, turn: deps.shareGroups.of(hashSecret(bearer)) };
      });
      const leave = await deps.auditReports.enter(turn);
      try {
        const catalog = await inTransaction(deps.database.app, ({ query }) => auditCatalog(query));
        const { findings, requests } = await onLoopback(deps, (url) =>
          runProbes({ url, context: deps.context, managementKey: bearer }),
        );
        const ask = <T>(first: number | null, upto: number | null, since: string | null) =>
          enter({}, (tx) =>
            tx.call<T>("audit_evidence", sql`${first}::bigint`, sql`${upto}::bigint`, sql`${since}::timestamptz`),
          );
        const audited = isOperator
          ? await auditChain(
              { sealed: (first, upto) => ask(first, upto, null), unchained: (since) => ask(null, null, since) },
              { since: new Date(began.getTime() - DAY_MS).toISOString(), withinMs: CHAIN_MS },
            )
          : { findings: [], chain: null };
        return reportOf(began, requests, [...findings, ...catalog, ...audited.findings], deps.warnings, audited.chain);
      } finally {
        leave();
      }
    },
  }),
];

/** The same application on a port of its own, which only this machine reaches, as long as the work takes. */
async function onLoopback<T>(deps: Deps, work: (url: string) => Promise<T>): Promise<T> {
  const server = createServer(deps.callback);
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  try {
    return await work(`http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}
