import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { enterScope } from "../../src/db/access/enter.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let client: Client;

beforeAll(async () => {
  service = await startService();
  client = await service.mint("agent", { org: "acme" });
});
afterAll(() => service.stop());

/** Work that fails so often, and how often it was done. */
async function tried(failures: number, failure: unknown): Promise<[outcome: unknown, times: number]> {
  let times = 0;
  const outcome = await enterScope(
    service.database.app,
    { keyHash: hashSecret(client.key), onBehalfOf: undefined, route: "test", operation: "test" },
    { verb: "memory:read", mode: "select" },
    async () => {
      if (++times <= failures) throw failure;
      return "done";
    },
  ).catch((error: unknown) => error);
  return [outcome, times];
}

const failing = (code: string) => Object.assign(new Error(code), { code });

describe("a transaction in which nothing was done", () => {
  test.each(["40P01", "40001"])("is tried again: %s", async (code) => {
    expect(await tried(1, failing(code))).toEqual(["done", 2]);
    expect(await tried(4, failing(code))).toEqual(["done", 5]);
  });

  test("is tried five times and no more", async () => {
    const failure = failing("40P01");
    expect(await tried(9, failure)).toEqual([failure, 5]);
  });
});

test.each([failing("23505"), new Error("another"), null, undefined, "text"])(
  "any other failure is told at once: %s",
  async (failure) => {
    expect(await tried(1, failure)).toEqual([failure, 1]);
  },
);
