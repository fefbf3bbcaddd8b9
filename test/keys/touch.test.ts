import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import type { Leases } from "../../src/db/connect/lease.ts";
import { hashSecret } from "../../src/keys/secret.ts";
import { KeyTouches } from "../../src/keys/touch.ts";
import { withQuery } from "../harness/leases.ts";
import { type Client, startService, type TestService } from "../harness/service.ts";

let service: TestService;
let client: Client;
let touches: KeyTouches;
let written: number;
/** Set: the database does not answer. */
let failure: Error | undefined;

beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.stop());

beforeEach(async () => {
  client = await service.mint("agent", { org: "acme" });
  written = 0;
  failure = undefined;
  const answering = withQuery(service.database.app, (lease, text, params) => {
    if (text.includes("touch_key")) written++;
    return lease.query(text, params);
  });
  const leases: Leases = {
    ...answering,
    acquire: async () => {
      if (failure !== undefined) throw failure;
      return answering.acquire();
    },
  };
  touches = new KeyTouches(leases);
  vi.useFakeTimers({ toFake: ["Date"] });
});
afterEach(() => {
  vi.useRealTimers();
});

const lastUsed = async () =>
  (await service.database.sql("SELECT last_used_at FROM scopefloor.api_key WHERE id = $1", [client.id]))[0]
    ?.last_used_at;

test("a use is noted, and is there once what was noted is settled", async () => {
  expect(await lastUsed()).toBeNull();
  touches.touch(hashSecret(client.key));
  await touches.settled();
  expect(await lastUsed()).toEqual(expect.any(String));
});

test("once a minute for each key, however often it is used", async () => {
  const other = await service.mint("agent", { org: "globex" });
  const use = async (after: number, ...keys: Client[]) => {
    vi.setSystemTime(Date.now() + after);
    for (const { key } of keys) touches.touch(hashSecret(key));
    await touches.settled();
    return written;
  };
  expect(await use(0, client, client)).toBe(1);
  expect(await use(0, other, client)).toBe(2);
  expect(await use(59_999, client)).toBe(2);
  expect(await use(1, client)).toBe(3);
  expect(await use(1, client)).toBe(3);
});

test("several that are due at once are all noted", async () => {
  const others = await Promise.all(["a", "b", "c"].map((org) => service.mint("agent", { org })));
  for (const { key } of others) touches.touch(hashSecret(key));
  await touches.settled();
  expect(written).toBe(3);
});

test("where the database does not answer a use is not noted, and the next minute's is", async () => {
  failure = new Error("the database is down");
  touches.touch(hashSecret(client.key));
  await touches.settled();
  expect(written).toBe(0);
  failure = undefined;
  touches.touch(hashSecret(client.key));
  await touches.settled();
  expect(written).toBe(0);
  vi.setSystemTime(Date.now() + 60_000);
  touches.touch(hashSecret(client.key));
  await touches.settled();
  expect(written).toBe(1);
});
