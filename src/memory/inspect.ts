import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { getDocument, listChunks } from "../documents/documents.ts";
import { invalid } from "../errors.ts";
import { getTrace } from "../traces/list.ts";
import { describeEntity, wholeHistoryOf } from "./entities.ts";
import type { Moment } from "./fact-timeline.ts";

/** What a reference names: `entity:<Type>/<name>`, `trace:<id>` or `document:<id>`. */
export type Reference =
  | { readonly kind: "entity"; readonly type: string; readonly name: string }
  | { readonly kind: "trace" | "document"; readonly id: string };

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** @throws AppError 400 */
export function parseReference(text: string): Reference {
  const entity = /^entity:([^/]+)\/(.+)$/s.exec(text);
  if (entity?.[1] !== undefined && entity[2] !== undefined) return { kind: "entity", type: entity[1], name: entity[2] };
  const [, kind, id] = /^(trace|document):(.*)$/.exec(text) ?? [];
  if ((kind === "trace" || kind === "document") && id !== undefined && UUID.test(id)) return { kind, id };
  throw invalid("ref must be entity:<Type>/<name>, trace:<id> or document:<id>");
}

/** Chunks shown with an inspected document. */
const MAX_CHUNKS = 100;

/** One thing with where it comes from. */
export async function inspect(tx: ScopedTransaction, reference: Reference, moment: Moment) {
  switch (reference.kind) {
    case "entity": {
      const described = await describeEntity(tx, reference, moment);
      return { kind: "entity", ...described, history: await wholeHistoryOf(tx, reference) };
    }
    case "trace": {
      const trace = await getTrace(tx, reference.id);
      const evidence = await tx.rows(sql`
        SELECT p.id, p.kind, p.text, p.session_id AS "sessionId", p.turn_id AS "turnId", p.document_id AS "documentId", p.observed_at AS "occurredAt"
        FROM ${tx.read("passage", "p")} WHERE p.id = ANY (${list([...(trace.retrievals ?? [])])}::uuid[]) AND p.expired_at IS NULL
        ORDER BY p.id`);
      return { kind: "trace", trace, evidence };
    }
    case "document":
      return {
        kind: "document",
        document: await getDocument(tx, reference.id),
        chunks: await listChunks(tx, reference.id, MAX_CHUNKS, 0),
      };
  }
}
