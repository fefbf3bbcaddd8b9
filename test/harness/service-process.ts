import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { inject } from "vitest";

/** The service as `npm start` runs it, in a process of its own, always on the same port. */
export interface ServiceProcess {
  /** With the base path. */
  readonly url: string;
  /** The operator's key, which the environment gives it. */
  readonly key: string;
  /** Starts it and waits until it is ready. */
  start(): Promise<void>;
  /** Sends a signal and waits for the end; gives the exit code, or the signal that ended it. */
  end(signal: "SIGTERM" | "SIGKILL"): Promise<number | string>;
  /** Whether it has ended by itself. */
  readonly hasCrashed: boolean;
  readonly pid: number | undefined;
  /** What its log says of answers of 500: nothing that a client does should be one. */
  readonly internalErrors: readonly string[];
}

const KEY = "an operator's key that tests give to the process".replaceAll(" ", "-");

/** A start may have to make a database, and the processor much else to do. */
const START_MS = 180_000;

export const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export async function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

/** @param environment beside the port and the operator's key: the database */
export async function serviceProcess(environment: Record<string, string>): Promise<ServiceProcess> {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/api/v1`;
  let child: ChildProcess | undefined;
  let ended: number | string | undefined;
  const internalErrors: string[] = [];
  return {
    url,
    internalErrors,
    key: KEY,
    start: async () => {
      const started = spawn(process.execPath, [join(inject("built"), "src/main.js")], {
        stdio: ["ignore", "pipe", "pipe"],
        env: {
          PATH: process.env.PATH,
          PORT: String(port),
          SCOPEFLOOR_MANAGEMENT_KEY: KEY,
          SCOPEFLOOR_LOG_LEVEL: "error",
          ...environment,
        },
      });
      child = started;
      ended = undefined;
      let complaint = "";
      started.stderr.on("data", (said) => {
        complaint += said;
        process.stderr.write(said);
      });
      createInterface(started.stdout).on("line", (line) => {
        if (line.includes('"slug":"internal"')) internalErrors.push(line);
      });
      started.once("exit", (code, signal) => {
        ended = signal ?? code ?? -1;
      });
      for (const until = performance.now() + START_MS; performance.now() < until; await pause(50)) {
        if (ended !== undefined) throw new Error(`the service ended at its start: ${ended}\n${complaint}`);
        const isReady = await fetch(`${url}/ready`).then(
          ({ ok }) => ok,
          () => false,
        );
        if (isReady) return;
      }
      started.kill("SIGKILL");
      throw new Error(`the service was not ready within ${START_MS / 1000} s`);
    },
    end: async (signal) => {
      if (child === undefined || ended !== undefined) return ended ?? 0;
      const exited = new Promise<number | string>((resolve) => {
        child?.once("exit", (code, by) => resolve(by ?? code ?? -1));
      });
      child.kill(signal);
      return exited;
    },
    get hasCrashed() {
      return ended !== undefined;
    },
    get pid() {
      return child?.pid;
    },
  };
}
