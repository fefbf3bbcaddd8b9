import type { IncomingMessage } from "node:http";
import { isIPv6 } from "node:net";
import type { KeyHash } from "../db/access/entry.ts";

/** Where the client's address stands when the service is behind proxies. */
export interface ProxySettings {
  /** A header to which each proxy appends the address that it was called from, in lower case. */
  readonly header: string;
  /** The last so many addresses in it were written by proxies of one's own. */
  readonly proxies: number;
}

/** How long a refused key is remembered, and how many at most. */
const REFUSED_MS = 5_000;
const MAX_REFUSED = 10_000;

/**
 * What is known of requests whose key has not come in yet: the address that they come from, so that
 * those from one address wait for each other, and keys that were refused a moment ago, so that they
 * are not looked up again.
 */
export class Strangers {
  readonly #proxy: ProxySettings | undefined;
  readonly #refused = new Map<string, number>();

  constructor(proxy?: ProxySettings) {
    this.#proxy = proxy;
  }

  /** The group that a stranger's connections are charged to (src/load/fair-queue.ts). */
  groupOf(request: IncomingMessage): string {
    return `address ${networkOf(this.#addressOf(request))}`;
  }

  #addressOf(request: IncomingMessage): string {
    const own = request.socket.remoteAddress ?? "";
    if (this.#proxy === undefined) return own;
    const header = request.headers[this.#proxy.header];
    const addresses = (Array.isArray(header) ? header.join(",") : (header ?? "")).split(",");
    // Counted from the right: what stands left of it was sent by the client, and may be anything.
    return addresses.at(-this.#proxy.proxies)?.trim() || own;
  }

  isRefused(keyHash: KeyHash): boolean {
    const until = this.#refused.get(nameOf(keyHash));
    return until !== undefined && until > performance.now();
  }

  noteRefused(keyHash: KeyHash): void {
    const name = nameOf(keyHash);
    this.#refused.delete(name);
    const [oldest] = this.#refused.keys();
    if (this.#refused.size >= MAX_REFUSED && oldest !== undefined) this.#refused.delete(oldest);
    this.#refused.set(name, performance.now() + REFUSED_MS);
  }
}

/** An IPv4 address, or of an IPv6 address the /64 that one customer usually has. */
export function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  const plain = mapped ?? address.replace(/^\[|\](:\d+)?$/g, "").replace(/%.*$/, "");
  if (!isIPv6(plain)) return plain.replace(/:\d+$/, "");
  const [head = "", tail] = plain.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? [] : Array.from({ length: 8 - left.length - right.length }, () => "0");
  const groups = [...left, ...zeros, ...right].slice(0, 4);
  return `${groups.map((group) => Number.parseInt(group, 16).toString(16)).join(":")}::/64`;
}

const nameOf = (keyHash: Uint8Array) => Buffer.from(keyHash).toString("base64");
