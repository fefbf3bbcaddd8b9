import type { KeyHash } from "./enter.ts";

const MOST_KEYS = 100_000;

/**
 * Whose turn each key uses up at the connections, as the database has said when it first came in: the
 * hash of the first tag of the uppermost floor above it (`scopefloor.turn_of`), so that minting keys wins nothing.
 */
export class Turns {
  readonly #byKey = new Map<string, string>();

  /** Undefined: the key has not come in yet, and waits among the strangers. */
  of(keyHash: KeyHash): string | undefined {
    return this.#byKey.get(nameOf(keyHash));
  }

  learn(keyHash: KeyHash, turn: string): void {
    // The oldest goes, and waits once more among the strangers.
    const [oldest] = this.#byKey.keys();
    if (this.#byKey.size >= MOST_KEYS && oldest !== undefined) this.#byKey.delete(oldest);
    this.#byKey.set(nameOf(keyHash), turn);
  }
}

const nameOf = (keyHash: KeyHash) => Buffer.from(keyHash).toString("base64");
