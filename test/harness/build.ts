/** The service as JavaScript, built once for all tests that start processes: from source each would compile it anew. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm, symlink } from "node:fs/promises";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { build } from "esbuild";

export interface BuiltService {
  /** Holds src/main.js, src/cli.js and test/harness/worker-process.js. */
  readonly folder: string;
  remove(): Promise<void>;
}

/** File by file, as the source stands; the parser of documents as one file, which each of its processes loads. */
export async function buildService(): Promise<BuiltService> {
  // Below the project, where the packages are found.
  await mkdir("node_modules/.cache", { recursive: true });
  const folder = resolve(await mkdtemp("node_modules/.cache/scopefloor-"));
  const sources = (await readdir("src", { recursive: true })).filter((name) => name.endsWith(".ts"));
  await build({
    entryPoints: [...sources.map((name) => join("src", name)), "test/harness/worker-process.ts"],
    outdir: folder,
    outbase: ".",
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    logLevel: "error",
    plugins: [
      {
        name: "each file by itself",
        setup: ({ onResolve }) => {
          onResolve({ filter: /./ }, ({ kind, path }) =>
            kind === "entry-point" ? undefined : { path: path.replace(/^(\.{1,2}\/.*)\.ts$/, "$1.js"), external: true },
          );
        },
      },
    ],
  });
  await promisify(execFile)("npm", ["run", "build:parser", "--", `--outdir=${folder}/src/documents/parsing`]);
  for (const name of ["drizzle", "package.json"]) await symlink(resolve(name), join(folder, name));
  return { folder, remove: () => rm(folder, { recursive: true }) };
}
