/**
 * Drizzle's definitions of every table. Only `src/db/` may import this folder: the rest of the code
 * reaches a scoped table through `scoped.ts`, by name.
 *
 * Primary keys lead with `scope_id` and end with `tenant_id`, and foreign keys between scoped tables
 * include both, so that an edge from one scope to another cannot exist. Neither has a foreign key of its
 * own: locking the dictionary row in every insert would make it a hot spot, and the row policies already
 * admit only ids that come out of the dictionary.
 */
import { document, documentContent, documentLink, keyword } from "./documents.ts";
import { chunkBand, passage, postingBlock, segment, session, turn } from "./memory.ts";
import { accessDenied, decisionTrace, forgetReceipt } from "./records.ts";
import { scope, scopeCounter } from "./scopes.ts";
import { attribute, entity, memoryItem, relation } from "./structure.ts";

/** The scoped tables, by the name under which the rest of the code asks for them. */
export const scopedTables = {
  scope,
  scope_counter: scopeCounter,
  session,
  turn,
  document,
  document_content: documentContent,
  keyword,
  document_link: documentLink,
  passage,
  segment,
  posting_block: postingBlock,
  chunk_band: chunkBand,
  entity,
  attribute,
  relation,
  memory_item: memoryItem,
  forget_receipt: forgetReceipt,
  access_denied: accessDenied,
  decision_trace: decisionTrace,
};
