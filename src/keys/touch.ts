import type { KeyHash } from "../db/access/entry.ts";
import { inTransaction, type Leases } from "../db/connect/lease.ts";

const TOUCH_INTERVAL_MS = 60_000;
const MOST_KEYS = 100_000;

/** Notes when keys were last used: once a minute each, outside the request's transaction. */
export class KeyTouches {
  readonly #leases: Leases;
  readonly #last = new Map<string, number>();
  readonly #due = new Map<string, KeyHash>();
  #writing: Promise<void> | undefined;

  constructor(leases: Leases) {
    this.#leases = leases;
  }

  touch(keyHash: KeyHash): void {
    const id = Buffer.from(keyHash).toString("base64");
    const now = Date.now();
    if (now - (this.#last.get(id) ?? 0) < TOUCH_INTERVAL_MS) return;
    if (this.#last.size >= MOST_KEYS) this.#last.clear();
    this.#last.set(id, now);
    this.#due.set(id, keyHash);
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
  }

  /** One after the other; when the database does not answer, what is due is dropped: it costs a minute's precision. */
  async #write(): Promise<void> {
    for (let [next] = this.#due; next !== undefined; [next] = this.#due) {
      const [id, keyHash] = next;
      this.#due.delete(id);
      await inTransaction(this.#leases, (lease) => lease.query("SELECT scopefloor.touch_key($1)", [keyHash])).catch(
        () => this.#due.clear(),
      );
    }
  }

  /** Resolves when what was noted so far is written. */
  async settled(): Promise<void> {
    await this.#writing;
  }
}
