import { defineConfig } from "vitest/config";
import { mutantPlugin } from "./test/mutants/apply.ts";

export default defineConfig({
  plugins: mutantPlugin(),
  test: {
    include: ["test/**/*.test.ts"],
    // `npm test` leaves these out; .ci/run runs all.
    tags: [{ name: "long", description: "further cases of a kind, and what waits for processes and timeouts" }],
    globalSetup: "test/harness/template.ts",
    // A busy machine is no failure: what hangs is found all the same.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Each file has a service and a database of its own; loading the modules anew for each took a third of the time.
    isolate: false,
    // Two cores: more workers only wait for each other.
    maxWorkers: process.env.TEST_DATABASE_URL ? 4 : 3,
  },
});
