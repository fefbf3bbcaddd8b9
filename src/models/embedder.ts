import { setImmediate } from "node:timers/promises";
import type { EmbeddingsInterface } from "@langchain/core/embeddings";
import { type Database, inTransaction } from "../db/lease.ts";
import { LexicalEmbeddings } from "./lexical-embeddings.ts";
import { countTokens } from "./tokens.ts";

/** A vector as pgvector spells it, `[0.1,0.2]`. */
export type VectorText = string & { readonly __vector: unique symbol };

/** Any LangChain embeddings, with what the service has to know about them. */
export interface Embedder {
  /** The row in `embedder`: vectors of two models are never compared. */
  readonly id: number;
  readonly provider: string;
  readonly model: string;
  /** Cosine distance below which two texts are about the same thing, for this model. */
  readonly nearDistance: number;
  /** A text in which the model finds nothing has no vector: cosine distance to zero is not a number. */
  embedTexts(texts: readonly string[]): Promise<{ vectors: (VectorText | null)[]; tokens: number[] }>;
  embedQuery(text: string): Promise<{ vector: VectorText | null; tokens: number }>;
}

const asVector = (numbers: readonly number[]) =>
  numbers.every((x) => x === 0) ? null : (`[${numbers.map((x) => +x.toFixed(6)).join(",")}]` as VectorText);

function overLangChain(
  embeddings: EmbeddingsInterface,
  facts: Pick<Embedder, "id" | "provider" | "model" | "nearDistance">,
): Embedder {
  return {
    ...facts,
    async embedTexts(texts) {
      const tokens = [];
      for (const text of texts) {
        tokens.push(countTokens(text));
        // Long texts take milliseconds each: other requests go on between them.
        if (text.length > 10_000) await setImmediate();
      }
      const vectors = await embeddings.embedDocuments([...texts]);
      return { vectors: vectors.map(asVector), tokens };
    },
    async embedQuery(text) {
      return { vector: asVector(await embeddings.embedQuery(text)), tokens: countTokens(text) };
    },
  };
}

const LOCAL_MODEL = "lexical-hash-384";

/** The built-in lexical embedder, under the id that this database has for it. */
export async function localEmbedder(database: Database, mayRegister: boolean): Promise<Embedder> {
  const [known] = await inTransaction(database.app, (app) =>
    app.query("SELECT id FROM scopefloor.embedder WHERE name = $1 AND dimensions = $2", [
      LOCAL_MODEL,
      LexicalEmbeddings.dimensions,
    ]),
  );
  if (!known && !mayRegister) {
    throw new Error(
      `the embedding model ${LOCAL_MODEL} is not registered: start a worker first, or set DATABASE_OWNER_URL here`,
    );
  }
  const [row] = known
    ? [known]
    : await inTransaction(database.owner, (owner) =>
        owner.query("SELECT scopefloor.ensure_embedder($1, $2) AS id", [LOCAL_MODEL, LexicalEmbeddings.dimensions]),
      );
  return overLangChain(new LexicalEmbeddings(), {
    id: row?.id as number,
    provider: "local",
    model: LOCAL_MODEL,
    // Unrelated sentences lie above 0.85 here; one shared rare word in a short text reaches 0.5.
    nearDistance: 0.5,
  });
}
