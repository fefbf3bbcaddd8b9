import { afterEach, describe, expect, test } from "vitest";
import { hashSecret } from "../../src/keys/secret.ts";
import { FairQueue } from "../../src/load/fair-queue.ts";
import { ShareGroups } from "../../src/load/share-groups.ts";
import { onPostgres } from "../harness/database.ts";
import { startService, type TestService } from "../harness/service.ts";

const settled = () => new Promise((resolve) => setImmediate(resolve));

/** More than there is room for, of one group; gives how many are inside by now. */
function flood(queue: FairQueue): () => number {
  let inside = 0;
  for (let i = 0; i < 20; i++) {
    queue.enter("loud").then(
      () => inside++,
      () => undefined, // still waiting when the test ends
    );
  }
  return () => inside;
}

describe("a fair queue", () => {
  test("never gives one group all places, alone or beside others", async () => {
    const queue = new FairQueue({ places: 8, waitMs: 1_000 });
    const inside = flood(queue);
    await settled();
    expect(inside()).toBe(7);
    const leave = await queue.enter("quiet");
    leave();
    expect(inside()).toBe(7);
  });

  test("serves the group with the fewest places next, and takes turns among equals", async () => {
    const queue = new FairQueue({ places: 2, waitMs: 1_000 });
    const order: string[] = [];
    const leaves: (() => void)[] = [];
    const come = (name: string) => {
      queue.enter(name).then(
        (leave) => {
          order.push(name);
          leaves.push(leave);
        },
        () => undefined,
      );
    };
    for (let i = 0; i < 5; i++) come("a");
    await settled();
    come("b");
    come("c");
    come("b");
    await settled();
    for (let i = 0; i < 7; i++) {
      leaves.shift()?.();
      await settled();
    }
    expect(order).toHaveLength(8);
    expect(order.slice(0, 3)).toEqual(["a", "b", "c"]);
    expect(order.filter((name) => name === "a")).toHaveLength(5);
  });

  test("waits so long and no longer: 429 behind one's own requests, 503 behind others'", async () => {
    const queue = new FairQueue({ places: 1, waitMs: 30, mostWaiting: 1 });
    await queue.enter("a");
    const own = queue.enter("a");
    own.catch(() => undefined); // looked at below
    await expect(queue.enter("a")).rejects.toMatchObject({ status: 429, retryAfter: 1 });
    await expect(queue.enter("b")).rejects.toMatchObject({ status: 503, retryAfter: 1 });
    await expect(own).rejects.toMatchObject({ status: 429, retryAfter: 1 });
  });

  test("keeps so many waiting and no more: the next is refused at once", async () => {
    const queue = new FairQueue({ places: 1, waitMs: 60_000, mostWaiting: 2 });
    await queue.enter("a");
    const waiting = [queue.enter("a"), queue.enter("a"), queue.enter(), queue.enter()];
    for (const one of waiting) one.catch(() => undefined); // still waiting when the test ends
    await expect(queue.enter("a")).rejects.toMatchObject({ status: 429 });
    await expect(queue.enter()).rejects.toMatchObject({
      status: 503,
      message: expect.stringContaining("places are taken"),
    });
  });

  test("goes round among groups that all have as many places", async () => {
    const queue = new FairQueue({ places: 1, waitMs: 60_000 });
    const order: string[] = [];
    let leave: (() => void) | undefined;
    for (const name of [..."aaabbbccc"]) {
      queue.enter(name).then(
        (left) => {
          order.push(name);
          leave = left;
        },
        () => undefined,
      );
    }
    for (let i = 0; i < 9; i++) {
      await settled();
      leave?.();
    }
    expect(order.join("")).toBe("abcabcabc");
  });

  test("gives the next place to who has none, though another was served longer ago", async () => {
    const queue = new FairQueue({ places: 8, waitMs: 60_000 });
    const inside = new Map<string, () => void>();
    for (const name of [..."accddeeb"]) inside.set(name, await queue.enter(name));
    inside.get("b")?.();
    inside.set("f", await queue.enter("f"));
    const order: string[] = [];
    const came = ["a", "b"].map((name) => queue.enter(name).then(() => order.push(name)));
    await settled();
    expect(order).toEqual([]);
    inside.get("c")?.();
    await settled();
    expect(order).toEqual(["b"]);
    inside.get("d")?.();
    await Promise.all(came);
    expect(order).toEqual(["b", "a"]);
  });

  test.each([
    ["another group was here a moment ago", "other", 2],
    ["only somebody who is not known yet was", undefined, 7],
  ])("leaves room where %s", async (_, name, most) => {
    const queue = new FairQueue({ places: 8, waitMs: 60_000 });
    (await queue.enter(name))();
    const inside = flood(queue);
    await settled();
    expect(inside()).toBe(most);
  });

  test("a place that is left twice is left once; closing refuses who waits and waits for who is inside", async () => {
    const stopping = { status: 503, message: "the service is stopping", retryAfter: 1 };
    const queue = new FairQueue({ places: 2, waitMs: 60_000 });
    const leaves = [await queue.enter("a"), await queue.enter("c")];
    const waiting = queue.enter("b");
    let isClosed = false;
    const closed = queue.close().then(() => {
      isClosed = true;
    });
    await expect(waiting).rejects.toMatchObject(stopping);
    leaves[0]?.();
    leaves[0]?.();
    await settled();
    expect(isClosed).toBe(false);
    leaves[1]?.();
    await closed;
    await expect(queue.enter("c")).rejects.toMatchObject(stopping);
  });
});

describe.runIf(onPostgres())("a tenant's flood", () => {
  let service: TestService;
  afterEach(() => service.stop());

  test("does not take the connections of others; its own excess is 429 with Retry-After", async () => {
    service = await startService({ connections: 4, timeoutMs: 1_500 });
    const loud = await service.mint("agent", { org: "loud" });
    const keys = await Promise.all([1, 2, 3].map(() => loud.post<{ key: string }>("/keys", {})));
    const minted = keys.map(({ body }) => service.client(body.key));
    const quiet = await service.mint("agent", { org: "quiet" });
    await Promise.all([loud, quiet, ...minted].map((client) => client.remember("The kettle is on.")));
    // Whoever looks at this session waits for the lock: the flood's transactions do not end.
    const { body } = await loud.post<{ id: string }>("/sessions", {});
    const blocker = await service.database.owner.acquire();
    await blocker.query("BEGIN");
    await blocker.query(`SELECT 1 FROM scopefloor.session WHERE id = '${body.id}' FOR UPDATE`);
    try {
      // Keys that it mints are the same tenant's.
      const flood = Array.from({ length: 90 }, (_, i) =>
        [loud, ...minted][i % 4]?.post("/facts", { text: `flood ${i}`, session_id: i % 4 === 0 ? body.id : undefined }),
      );
      for (const sent of flood) sent?.catch(() => undefined); // looked at below
      const stuck = Array.from({ length: 8 }, () => loud.post("/facts", { text: "stuck", session_id: body.id }));
      await new Promise((resolve) => setTimeout(resolve, 100));
      for (let i = 0; i < 5; i++) {
        expect((await quiet.post("/query", { query: "kettle" })).status).toBe(200);
      }
      const answers = await Promise.all([...flood, ...stuck]);
      const refused = answers.filter((answer) => answer?.status === 429);
      expect(refused.length).toBeGreaterThan(0);
      for (const answer of refused) {
        expect(answer?.headers.get("retry-after")).toBe("1");
        expect(answer?.body).toMatchObject({ type: "https://scopefloor.dev/errors/rate-limited", retryAfter: 1 });
      }
    } finally {
      await blocker.query("ROLLBACK");
      await blocker.release();
    }
  });
});

describe("whose turn a key uses up", () => {
  test("is kept for so many keys, and the one that was heard of first goes", () => {
    const turns = new ShareGroups();
    const hashOf = (n: number) => hashSecret(`key ${n}`);
    for (let n = 0; n < 100_000; n++) turns.learn(hashOf(n), `turn ${n}`);
    expect(turns.of(hashOf(0))).toBe("turn 0");
    turns.learn(hashOf(100_000), "another");
    expect(turns.of(hashOf(0))).toBeUndefined();
    expect(turns.of(hashOf(1))).toBe("turn 1");
    expect(turns.of(hashOf(100_000))).toBe("another");
  });
});

describe("a place that is long in use (threat 40)", () => {
  test("counts: of two that wait the one that had less time is next, whoever came first", async () => {
    const queue = new FairQueue({ places: 1, waitMs: 5_000 });
    const first = await queue.enter("slow");
    const order: string[] = [];
    const take = async (group: string, heldMs: number) => {
      const leave = await queue.enter(group);
      order.push(group);
      await new Promise((resolve) => setTimeout(resolve, heldMs));
      leave();
    };
    const waiting = [
      take("quick", 5),
      take("slow", 300),
      take("slow", 5),
      take("quick", 5),
      take("quick", 5),
      take("quick", 5),
    ];
    await new Promise((resolve) => setTimeout(resolve, 300));
    first();
    await Promise.all(waiting);
    expect(order).toEqual(["quick", "quick", "quick", "quick", "slow", "slow"]);
  });
});

describe("large bodies", () => {
  let service: TestService;
  afterEach(() => service.stop());

  test("wait unread for their turn, so that memory does not grow with their number, and all are stored", {
    tags: ["long"],
  }, async () => {
    service = await startService({ timeoutMs: 30_000 });
    const client = await service.mint("agent", { org: "bulk" });
    await client.remember("first");
    const messages = Array.from({ length: 10 }, (_, i) => ({
      role: "user",
      content: `${i} ${"grain ".repeat(6_000)}`,
    }));
    const before = process.memoryUsage().rss;
    let most = before;
    const watching = setInterval(() => {
      most = Math.max(most, process.memoryUsage().rss);
    }, 20);
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => client.post("/facts/batch", { messages: messages.slice(0, 8) })),
    );
    clearInterval(watching);
    expect(answers.map((answer) => answer.status)).toEqual(answers.map(() => 200));
    expect((most - before) / 2 ** 20).toBeLessThan(400);
    const [row] = await service.database.sql("SELECT count(*)::int AS n FROM scopefloor.turn");
    expect(row?.n).toBe(12 * 8 + 1);
  });
});
