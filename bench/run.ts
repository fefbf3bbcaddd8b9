/**
 * npm run bench -- <name>: prints a table for people and, last, one line `RESULT {json}`. With
 * `--against=<checkout>` the same bench of that checkout is run in the same run, and the ratios are printed.
 */
import { compareWith } from "./against.ts";
import { textOption } from "./options.ts";

const benches: Record<string, () => Promise<Record<string, unknown>>> = {
  sizes: async () => (await import("./sizes.ts")).default(),
  tenants: async () => (await import("./tenants.ts")).default(),
  growth: async () => (await import("./growth.ts")).default(),
  peer: async () => (await import("./peer.ts")).default(),
  lexical: async () => (await import("./lexical.ts")).default(),
  enter: async () => (await import("./enter.ts")).default(),
  ingest: async () => (await import("./ingest.ts")).default(),
  neighbour: async () => (await import("./neighbour.ts")).default(),
  http: async () => (await import("./http.ts")).default(),
  languages: async () => (await import("./languages.ts")).default(),
  quality: async () => (await import("./quality.ts")).default(),
  embedded: async () => (await import("./embedded.ts")).default(),
  upload: async () => (await import("./upload.ts")).default(),
  chain: async () => (await import("./chain.ts")).default(),
  erase: async () => (await import("./erase.ts")).default(),
  forget: async () => (await import("./forget.ts")).default(),
  reports: async () => (await import("./reports.ts")).default(),
  retention: async () => (await import("./retention.ts")).default(),
  provision: async () => (await import("./provision.ts")).default(),
  budgets: async () => (await import("./budgets.ts")).default(),
};

const name = process.argv[2] ?? "";
const bench = benches[name];
if (bench === undefined) {
  process.stderr.write(`usage: npm run bench -- <${Object.keys(benches).join("|")}>\n`);
  process.exit(1);
}
const against = textOption("against");
const result = against === undefined ? await bench() : await compareWith(against, name);
process.stdout.write(`RESULT ${JSON.stringify({ bench: name, at: new Date().toISOString(), ...result })}\n`);
