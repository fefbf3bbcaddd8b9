import { createHash } from "node:crypto";
import { unlink } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

/** A socket's path is at most so long (108 bytes on Linux, 104 on macOS). */
const LONGEST_PATH = 100;

/** In the folder itself, where others see it that share it; in a folder with a long name, on this machine. */
function socketOf(folder: string): string {
  const inFolder = join(resolve(folder), "in-use.sock");
  if (Buffer.byteLength(inFolder) <= LONGEST_PATH) return inFolder;
  return join(tmpdir(), `scopefloor-${createHash("sha256").update(resolve(folder)).digest("hex").slice(0, 32)}.sock`);
}

const listen = (path: string) =>
  new Promise<Server>((done, fail) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", fail);
    server.listen(path, () => done(server));
  });

const isAnswered = (path: string) =>
  new Promise<boolean>((done) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      done(true);
    });
    socket.once("error", () => done(false));
  });

/**
 * Has a folder for this process alone, until it gives it back or ends, however that happens: the embedded database
 * does not look whether another process has its files open, and two of them ruin them.
 *
 * @returns what gives the folder back
 * @throws Error that says what to do, where another process has it
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const path = socketOf(folder);
  for (let tries = 0; ; tries++) {
    try {
      const server = (await listen(path)).unref();
      return () => new Promise((done) => server.close(() => done()));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
      if (tries > 0 || (await isAnswered(path)))
        throw new Error(
          `another process has the embedded database in ${folder}: end it, set SCOPEFLOOR_DATA_DIR to another folder, or give several processes a PostgreSQL (DATABASE_URL)`,
          { cause: error },
        );
      // Whoever had it has ended without giving it back.
      await unlink(path).catch(() => undefined);
    }
  }
}
