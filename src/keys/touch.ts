import type { KeyHash } from "../db/enter.ts";
import { inTransaction, type Leases } from "../db/lease.ts";

const EVERY_MS = 60_000;
const MOST_KEYS = 100_000;

/** Notes when keys were last used: once a minute each, outside the request's transaction. */
export class KeyTouches {
  readonly #leases: Leases;
  readonly #last = new Map<string, number>();
  #pending: Promise<unknown> = Promise.resolve();

  constructor(leases: Leases) {
    this.#leases = leases;
  }

  touch(keyHash: KeyHash): void {
    const id = Buffer.from(keyHash).toString("base64");
    const now = Date.now();
    if (now - (this.#last.get(id) ?? 0) < EVERY_MS) return;
    if (this.#last.size >= MOST_KEYS) this.#last.clear();
    this.#last.set(id, now);
    // One at a time, and never in a request's way: losing one costs a minute of precision.
    this.#pending = this.#pending
      .then(() => inTransaction(this.#leases, (lease) => lease.query("SELECT scopefloor.touch_key($1)", [keyHash])))
      .catch(() => undefined);
  }

  /** Resolves when what was noted so far is written. */
  async settled(): Promise<void> {
    await this.#pending;
  }
}
