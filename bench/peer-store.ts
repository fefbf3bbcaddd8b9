import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

/** The part of LangChain's PGVectorStore that the benches call. */
export interface PeerStore {
  addVectors(vectors: number[][], documents: { pageContent: string; metadata: object }[]): Promise<void>;
  similaritySearchVectorWithScore(
    query: number[],
    k: number,
    filter?: object,
  ): Promise<[{ pageContent: string; metadata: Record<string, unknown> }, number][]>;
  createHnswIndex(config: { dimensions: number; distanceFunction?: string }): Promise<void>;
  end(): Promise<void>;
}

/**
 * LangChain's PGVectorStore, installed into a temporary folder: what only a bench compares with is no
 * dependency of the project.
 */
export async function openPeer(url: string, tableName: string): Promise<{ store: PeerStore; close(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "scopefloor-peer-"));
  const packages = ["@langchain/community@1.1.29", "@langchain/core@1.1.40", "pg@8.23.1"];
  await promisify(execFile)("npm", [
    "install",
    "--prefix",
    folder,
    "--legacy-peer-deps",
    "--no-audit",
    "--no-fund",
    ...packages,
  ]);
  const entry = join(folder, "node_modules/@langchain/community/dist/vectorstores/pgvector.js");
  const { PGVectorStore } = (await import(pathToFileURL(entry).href)) as {
    PGVectorStore: { initialize(embeddings: object, config: object): Promise<PeerStore> };
  };
  const store = await PGVectorStore.initialize(
    {},
    { postgresConnectionOptions: { connectionString: url, max: 4 }, tableName, distanceStrategy: "cosine" },
  );
  return {
    store,
    close: async () => {
      await store.end();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
