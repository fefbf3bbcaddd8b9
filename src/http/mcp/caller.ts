import type { KeyVerb } from "../../db/access/entry.ts";
import type { Endpoint } from "../endpoint.ts";
import type { GivenInput } from "../input.ts";

/** Who is at the other end, and how calls are made in their name. */
export interface McpCaller {
  readonly context: string;
  readonly version: string;
  readonly verbs: readonly KeyVerb[];
  /** Whether what it writes without a scope is everyone's. */
  readonly writesForAll: boolean;
  /** A route by its method and path. */
  route(name: string): Endpoint;
  call(endpoint: Endpoint, given: Partial<GivenInput>): Promise<unknown>;
  /** Told of what no caller is to blame for. */
  onFailure(error: unknown): void;
}

/** A route under the name that traces have for it here. */
export const as = (endpoint: Endpoint, operation: string): Endpoint => ({
  ...endpoint,
  operation,
  recordedAs: endpoint.operation,
});
