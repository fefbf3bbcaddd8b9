/** One key's requests to a deployment, as any client sends them. */

export interface ProbeTarget {
  /** With the base path: `http://127.0.0.1:7700/api/v1`. */
  readonly url: string;
  readonly context: string;
  /** A management key: an operator's, or a tenant administrator's, below whose floor all of it happens. */
  readonly managementKey: string;
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly body: Record<string, unknown>;
}

/** One key's requests; counted. */
export class Caller {
  readonly id: string;
  readonly #target: ProbeTarget;
  readonly #key: string;
  readonly #count: () => void;

  constructor(target: ProbeTarget, key: string, id: string, count: () => void) {
    this.#target = target;
    this.#key = key;
    this.id = id;
    this.#count = count;
  }

  async call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    this.#count();
    const form = body instanceof FormData;
    const url = path.startsWith("/contexts")
      ? `${this.#target.url}${path}`
      : `${this.#target.url}/${this.#target.context}${path}`;
    const response = await fetch(url, {
      method,
      headers: {
        authorization: `Bearer ${this.#key}`,
        ...(body === undefined || form ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: form ? body : JSON.stringify(body) }),
      signal: AbortSignal.timeout(30_000),
    });
    const text = await response.text();
    const isJson = (response.headers.get("content-type") ?? "").includes("json");
    return { status: response.status, text, body: isJson && text !== "" ? JSON.parse(text) : {} };
  }
}
