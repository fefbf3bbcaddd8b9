/** npm run bench -- <name>: prints a table for people and, last, one line `RESULT {json}`. */
const benches: Record<string, () => Promise<Record<string, unknown>>> = {
  upload: async () => (await import("./upload.ts")).default(),
  http: async () => (await import("./http.ts")).default(),
};

const name = process.argv[2] ?? "";
const bench = benches[name];
if (bench === undefined) {
  process.stderr.write(`usage: npm run bench -- <${Object.keys(benches).join("|")}>\n`);
  process.exit(1);
}
const result = await bench();
process.stdout.write(`RESULT ${JSON.stringify({ bench: name, at: new Date().toISOString(), ...result })}\n`);
