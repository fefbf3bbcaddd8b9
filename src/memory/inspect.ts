import { list, type ScopedTransaction, sql } from "../db/access/scoped.ts";
import { chunkAt, listChunks } from "../documents/chunks.ts";
import { getDocument } from "../documents/documents.ts";
import { invalid } from "../errors.ts";
import { identityOf, normalKey } from "../text/names.ts";
import { getTrace } from "../traces/list.ts";
import { describeEntity, historyOf, relationsOf, wholeHistoryOf } from "./entities.ts";
import type { Moment } from "./fact-timeline.ts";
import { getMemory } from "./memories.ts";
import type { EntityName } from "./triples.ts";

/** What a reference names. */
export type Reference =
  | ({ readonly kind: "entity" } & EntityName)
  | { readonly kind: "attribute"; readonly entity: EntityName; readonly key: string }
  | {
      readonly kind: "relation";
      readonly entity: EntityName;
      readonly key: string;
      readonly target: EntityName | undefined;
    }
  | { readonly kind: "passage"; readonly document: string; readonly position: number }
  | { readonly kind: "trace" | "document" | "memory"; readonly id: string };

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const FORMS =
  "entity:<type>/<name>, attribute:<type>/<name>/<key>, relation:<type>/<name>-[<key>]-><type>/<name>, document:<id>, passage:<document id>/<position>, trace:<id>, or memory:<id>";

const entityIn = (text: string): EntityName | undefined => {
  const [, type, name] = /^([^/]+)\/([^/]+)$/s.exec(text) ?? [];
  return type === undefined || name === undefined ? undefined : { type, name };
};

/**
 * `entity:<type>/<name>` or `<type>:<name>`, `attribute:<type>/<name>/<key>`, `relation:<type>/<name>-[<key>]->` with or
 * without `<type>/<name>`, `document:<id>`, `passage:<document id>/<position>`, `trace:<id>`, `memory:<id>` or the id alone.
 *
 * @throws AppError 400
 */
export function parseReference(text: string): Reference {
  if (UUID.test(text)) return { kind: "memory", id: text };
  const [, kind = "", rest = ""] = /^([^:]+):(.+)$/s.exec(text) ?? [];
  const parsed = parseKind(kind, rest);
  if (parsed === undefined) throw invalid(`ref must be ${FORMS}`);
  return parsed;
}

function parseKind(kind: string, rest: string): Reference | undefined {
  switch (kind) {
    case "": {
      return undefined;
    }
    case "entity": {
      const named = entityIn(rest);
      return named && { kind, ...named };
    }
    case "attribute": {
      const [, entity = "", key = ""] = /^(.+)\/([^/]+)$/s.exec(rest) ?? [];
      const named = entityIn(entity);
      return named && { kind, entity: named, key };
    }
    case "relation": {
      const [, entity = "", key = "", target = ""] = /^(.+?)-\[([^\]]+)\]->(.*)$/s.exec(rest) ?? [];
      const named = entityIn(entity);
      const other = entityIn(target);
      return named && (target === "" || other !== undefined) ? { kind, entity: named, key, target: other } : undefined;
    }
    case "passage": {
      if (UUID.test(rest)) return { kind: "memory", id: rest };
      const [, document = "", position = ""] = /^([^/]+)\/(\d{1,9})$/.exec(rest) ?? [];
      return UUID.test(document) ? { kind, document, position: Number(position) } : undefined;
    }
    case "trace":
    case "document":
    case "memory":
      return UUID.test(rest) ? { kind, id: rest } : undefined;
    default:
      // The entity's type in front.
      return rest.includes("/") || kind.includes("/") ? undefined : { kind: "entity", type: kind, name: rest };
  }
}

/** Chunks shown with an inspected document. */
const MAX_CHUNKS = 100;

export type Inspected = Awaited<ReturnType<typeof inspect>>;

/** One thing with where it comes from. */
export async function inspect(tx: ScopedTransaction, reference: Reference, moment: Moment) {
  switch (reference.kind) {
    case "entity": {
      const described = await describeEntity(tx, reference, moment);
      return { kind: "entity", ...described, history: await wholeHistoryOf(tx, reference) } as const;
    }
    case "attribute": {
      const { attributes } = await describeEntity(tx, reference.entity, moment);
      const current = attributes.find(({ key }) => normalKey(key) === normalKey(reference.key));
      return { kind: "attribute", current, history: await historyOf(tx, reference.entity, reference.key) } as const;
    }
    case "relation": {
      const { entity, key, target } = reference;
      const all = await relationsOf(tx, entity, key, moment);
      const matches = target === undefined ? all : all.filter((one) => identityOf(one.target) === identityOf(target));
      return { kind: "relation", matches } as const;
    }
    case "trace": {
      const trace = await getTrace(tx, reference.id);
      const evidence = await tx.rows(sql`
        SELECT p.id, p.kind, p.text, p.session_id AS "sessionId", p.turn_id AS "turnId", p.document_id AS "documentId", p.observed_at AS "occurredAt"
        FROM ${tx.read("passage", "p")} WHERE p.id = ANY (${list([...(trace.sources ?? [])])}::uuid[]) AND p.expired_at IS NULL
          -- An item keeps its id with another value.
          AND (p.kind <> 'item' OR p.created_at <= ${trace.createdAt}::timestamptz)
        ORDER BY p.id`);
      return { kind: "trace", trace, evidence } as const;
    }
    case "document": {
      const document = await getDocument(tx, reference.id);
      return {
        kind: "document",
        document,
        chunks: (await listChunks(tx, reference.id, MAX_CHUNKS, 0)).chunks,
      } as const;
    }
    case "passage": {
      const document = await getDocument(tx, reference.document);
      return { kind: "passage", document, chunk: await chunkAt(tx, reference.document, reference.position) } as const;
    }
    case "memory":
      return { kind: "memory", memory: await getMemory(tx, reference.id) } as const;
  }
}
