import { mkdtemp, readdir, readlink, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { unpackTemplate } from "../harness/database.ts";
import { type ServiceProcess, serviceProcess } from "../harness/service-process.ts";

/** The service as a process of its own: what would end it must not end the test. */
let service: ServiceProcess;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scopefloor-faults-"));
  await unpackTemplate(folder);
  service = await serviceProcess({ SCOPEFLOOR_DATA_DIR: folder });
  await service.start();
});
afterAll(async () => {
  await service.end("SIGKILL");
  await rm(folder, { recursive: true });
});

const isAlive = () =>
  fetch(`${service.url}/ready`).then(
    ({ ok }) => ok,
    () => false,
  );

/** Sends a request's bytes as they are, and gives the status that comes back, if one does. */
function send(
  body: string | Buffer,
  options: { declared?: number; chunked?: boolean; cutAfterMs?: number } = {},
): Promise<number | undefined> {
  return new Promise((resolve) => {
    const socket = connect(Number(new URL(service.url).port), "127.0.0.1");
    let answer = "";
    socket.on("data", (part) => {
      answer += part.toString("latin1");
      if (answer.includes("\r\n")) socket.end();
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      const status = /^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1];
      resolve(status === undefined ? undefined : Number(status));
    });
    const length = options.chunked
      ? "Transfer-Encoding: chunked"
      : `Content-Length: ${options.declared ?? Buffer.byteLength(body)}`;
    socket.write(
      `POST /api/v1/default/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${service.key}\r\nContent-Type: multipart/form-data; boundary=X\r\n${length}\r\nConnection: close\r\n\r\n`,
    );
    if (options.chunked) {
      const bytes = Buffer.from(body);
      socket.write(`${bytes.length.toString(16)}\r\n`);
      socket.write(bytes);
      socket.write("\r\n0\r\n\r\n");
    } else socket.write(body);
    if (options.cutAfterMs !== undefined) setTimeout(() => socket.destroy(), options.cutAfterMs);
    setTimeout(() => socket.destroy(), 10_000).unref();
  });
}

const part = (disposition: string, body: string | Buffer) =>
  Buffer.concat([
    Buffer.from(`--X\r\nContent-Disposition: form-data${disposition}\r\n\r\n`),
    Buffer.from(body),
    Buffer.from("\r\n"),
  ]);
const END = Buffer.from("--X--\r\n");
const file = part('; name="file"; filename="a.txt"', "hello");

describe("a multipart body that is not as it should be", () => {
  const cases: [string, number, Buffer][] = [
    [
      "ends before its last boundary",
      400,
      Buffer.from('--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhi'),
    ],
    ["has a part without a name", 400, Buffer.concat([part("", "x"), file, END])],
    ["has a part with an empty name", 400, Buffer.concat([part('; name=""', "x"), file, END])],
    ["has a file without a name", 400, Buffer.concat([part('; filename="a"', "x"), END])],
    ["has an unknown file", 400, Buffer.concat([part('; name="x"; filename="x"', "y".repeat(300_000)), END])],
    ["has an unknown file without an end", 400, part('; name="x"; filename="x"', "y".repeat(300_000))],
    ["has a second file", 400, Buffer.concat([file, part('; name="file"; filename="b"', "z".repeat(300_000)), END])],
    ["has metadata that is too long", 400, Buffer.concat([file, part('; name="metadata"', "m".repeat(100_000)), END])],
    [
      "has metadata twice",
      400,
      Buffer.concat([part('; name="metadata"', "{}"), part('; name="metadata"; filename="m"', "{}"), file, END]),
    ],
    ["is empty", 400, Buffer.alloc(0)],
    ["is noise", 400, Buffer.from("\0\r\n".repeat(5_000))],
    ["is in order", 202, Buffer.concat([file, END])],
  ];
  test.each(cases.map(([what, status, body]) => ({ what, status, body })))(
    "$what: $status",
    async ({ status, body }) => {
      expect(await send(body)).toBe(status);
      expect(await isAlive()).toBe(true);
    },
  );

  test("over 50 MiB is 413, declared or not", { tags: ["long"] }, async () => {
    const big = Buffer.concat([part('; name="file"; filename="big.txt"', Buffer.alloc(50 * 1024 * 1024 + 1, 97)), END]);
    expect(await send(big, { chunked: true })).toBe(413);
    expect(await send(big)).toBe(413);
    expect(await send("", { declared: 1024 ** 3 })).toBe(413);
    expect(await isAlive()).toBe(true);
  });

  test("is cut off at any moment, and nothing is left behind", async () => {
    const big = Buffer.concat([part('; name="file"; filename="big.txt"', Buffer.alloc(3 * 1024 * 1024, 97)), END]);
    for (const cutAfterMs of [0, 0, 1, 2, 3, 5, 8, 12, 20, 30])
      await send(big.subarray(0, 2_000_000), { declared: big.length, cutAfterMs });
    expect(await isAlive()).toBe(true);
    const leftOpen = async () => {
      const fds = await readdir(`/proc/${service.pid}/fd`);
      const open = await Promise.all(fds.map((fd) => readlink(`/proc/${service.pid}/fd/${fd}`).catch(() => "")));
      return open.filter((path) => /scopefloor-.*deleted/.test(path));
    };
    await expect.poll(leftOpen, { timeout: 20_000 }).toEqual([]);
  });
});
