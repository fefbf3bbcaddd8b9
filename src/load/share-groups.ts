const MAX_KEYS = 100_000;

/**
 * Maps each key to the group that its connections are charged to, the topmost floor above it, as the
 * database answered when the key first came in (`share_group_of`). A tenant gains nothing by minting keys.
 */
export class ShareGroups {
  readonly #byKey = new Map<string, string>();

  /** Undefined: the key has not come in yet, and waits among the strangers. */
  of(keyHash: Uint8Array): string | undefined {
    return this.#byKey.get(nameOf(keyHash));
  }

  learn(keyHash: Uint8Array, group: string): void {
    // The oldest goes, and waits once more among the strangers.
    const [oldest] = this.#byKey.keys();
    if (this.#byKey.size >= MAX_KEYS && oldest !== undefined) this.#byKey.delete(oldest);
    this.#byKey.set(nameOf(keyHash), group);
  }
}

const nameOf = (keyHash: Uint8Array) => Buffer.from(keyHash).toString("base64");
