import type { IncomingMessage, ServerResponse } from "node:http";
import type { Logger } from "pino";
import type { KeyHash } from "../db/access/entry.ts";
import type { Database } from "../db/connect/lease.ts";
import type { FairQueue } from "../load/fair-queue.ts";
import type { Quotas } from "../load/quotas.ts";
import type { ShareGroups } from "../load/share-groups.ts";
import type { Strangers } from "../load/strangers.ts";
import type { Meter } from "../metering/model-call.ts";
import type { RequestMeterDeps } from "../metering/request-meter.ts";
import type { Models } from "../models/models.ts";
import type { Reranker } from "../models/reranker.ts";
import type { Readiness } from "../readiness.ts";
import type { RecallDeps } from "../recall/recall.ts";
import type { ReceiptSigner } from "../traces/receipt-signer.ts";
import type { Metrics } from "./metrics.ts";

/** Everything that the request path needs. Nothing here listens or reads the environment. */
export interface Deps {
  readonly database: Database;
  readonly shareGroups: ShareGroups;
  readonly strangers: Strangers;
  /** Large bodies that are in memory at a time; the others wait unread, which holds their senders back. */
  readonly intake: FairQueue;
  /** Uploads that are on this machine's disk at a time, on their way into the database. */
  readonly uploads: FairQueue;
  readonly quotas: Quotas;
  /** What requests hold of their budgets. */
  readonly metering: RequestMeterDeps;
  /** Audit reports, of which one is made at a time. */
  readonly auditReports: FairQueue;
  readonly models: Models;
  readonly reranker: Reranker | undefined;
  /** Signs receipts; absent: they have no signature. */
  readonly signer: ReceiptSigner | undefined;
  /** The Context's id in URLs. */
  readonly context: string;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Tells the worker of this process, if it has one, that there is work. */
  readonly wakeWorker: () => void;
  /** Notes that a key was used, later and outside the request's transaction. */
  readonly touchKey: (keyHash: KeyHash) => void;
  /** Whether the process still takes work: false while it drains. */
  readonly isServing: () => boolean;
  readonly readiness: () => Promise<Readiness>;
  /** What an operator should know about the database. */
  readonly warnings: readonly string[];
  /** The whole application, for requests that the service makes to itself. */
  readonly callback: (request: IncomingMessage, response: ServerResponse) => Promise<void>;
}

/** What recall needs of them. */
export const recallDeps = ({ models, reranker, metrics }: Deps, meter: Meter): RecallDeps => ({
  models,
  meter,
  reranker,
  onCache: (isHit) => metrics.observeCache(isHit),
});
