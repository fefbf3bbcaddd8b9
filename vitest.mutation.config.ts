import { defineConfig } from "vitest/config";
import base from "./vitest.config.ts";

/** For `npm run soak -- mutation`: the tests of scopes, keys and the way to the database, in one process each. */
export default defineConfig({
  ...base,
  test: {
    ...base.test,
    include: [
      "test/{scope,keys}/*.test.ts",
      "test/isolation/{builder,visibility,second-lock,logins}.test.ts",
      "test/faults/{lease,fair-queue,migrate,open,retry,database-down}.test.ts",
      "test/http/{keys,idempotency}.test.ts",
      "test/recall/graphs.test.ts",
      "test/jobs/queue.test.ts",
    ],
    // What hangs is killed too.
    testTimeout: 20_000,
    hookTimeout: 20_000,
  },
});
