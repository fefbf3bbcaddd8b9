import type { Logger } from "pino";
import type { TakenJob } from "../db/access/enter-job.ts";
import type { Database } from "../db/connect/lease.ts";
import type { Parsers } from "../documents/parsing/parser.ts";
import type { Models } from "../models/models.ts";
import type { ReceiptSigner } from "../traces/receipt-signer.ts";

/** What a job works with. */
export interface JobContext {
  readonly database: Database;
  readonly models: Models;
  readonly context: string;
  readonly log: Logger;
  /** Signs receipts; absent: they have no signature. */
  readonly signer?: ReceiptSigner | undefined;
  readonly parsers: Pick<Parsers, "extract" | "draw" | "cut">;
  extend(job: TakenJob): Promise<void>;
}
