/** What the commands that talk to a running service need of it. */

export const CONNECTION_HELP = `
SCOPEFLOOR_URL       where the service is (http://127.0.0.1:7700)
SCOPEFLOOR_KEY       a management key, or for what only reads one with the verb usage:read (needed)
SCOPEFLOOR_CONTEXT   the Context's id (default)

Exit status: 0; 1 if the service refuses or does not answer; 2 if the command line is wrong.`;

/** The service has refused: its own words. */
export class Refused extends Error {
  /** Of its answer; absent: there was none. */
  readonly status: number | undefined;
  constructor(message: string, options?: { readonly cause?: unknown; readonly status?: number }) {
    super(message, options);
    this.status = options?.status;
  }
}
/** The command was called in another way than it takes. */
export class Misused extends Error {}

export interface Service {
  /** The parsed JSON of a good answer, or its text where it is none. */
  call<T>(
    method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE",
    path: string,
    options?: {
      readonly query?: Readonly<Record<string, string | undefined>>;
      /** What is undefined in it is left out. */
      readonly body?: object;
      readonly accept?: string;
    },
  ): Promise<T>;
  /** GET of what belongs to the service itself, which no key opens. */
  root<T>(path: string): Promise<T>;
}

const TIMEOUT_MS = 60_000;

/** @throws Misused without a key */
export function serviceOf(environment: NodeJS.ProcessEnv): Service {
  const {
    SCOPEFLOOR_KEY: key,
    SCOPEFLOOR_URL: url = "http://127.0.0.1:7700",
    SCOPEFLOOR_CONTEXT: context = "default",
  } = environment;
  if (key === undefined || key === "") throw new Misused("SCOPEFLOOR_KEY is not set: it takes a management key");
  const root = `${url.replace(/\/+$/, "").replace(/\/api\/v1$/, "")}/api/v1`;
  const base = `${root}/contexts/${encodeURIComponent(context)}`;
  const send = async <T>(target: string, init: RequestInit): Promise<T> => {
    const { response, text } = await fetch(target, { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) })
      .then(async (response) => ({ response, text: await response.text() }))
      .catch((cause: unknown) => {
        throw new Refused(`no answer from ${base}: is the service running there?`, { cause });
      });
    const isJson = (response.headers.get("content-type") ?? "").includes("json");
    if (!response.ok) {
      const said = isJson ? (JSON.parse(text) as { detail?: string }).detail : undefined;
      throw new Refused(`${response.status} ${said ?? response.statusText}`, { status: response.status });
    }
    return (isJson && text !== "" ? JSON.parse(text) : text) as T;
  };
  return {
    root: (path) => send(`${root}${path}`, {}),
    call: (method, path, { query = {}, body, accept = "application/json" } = {}) => {
      const given = Object.entries(query).filter((entry): entry is [string, string] => entry[1] !== undefined);
      const target = `${base}${path}${given.length === 0 ? "" : `?${new URLSearchParams(given)}`}`;
      const headers = {
        authorization: `Bearer ${key}`,
        accept,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      };
      return send(target, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    },
  };
}
