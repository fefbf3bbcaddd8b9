import { z } from "zod";
import type { AccessRequest } from "../../db/access/entry.ts";
import { unprocessable } from "../../errors.ts";
import { type Endpoint, endpoint } from "../endpoint.ts";

/**
 * Routes of the public client, and of the management plane, whose capability is not there yet. A key
 * that may use them is told so (422); any other gets the answer that it would get.
 */
const NOT_BUILT: readonly (readonly [Endpoint["method"], string, AccessRequest["verb"], string])[] = [
  ["post", "/{ctx}/chat", "memory:read", "chat needs a chat model"],
  ["post", "/{ctx}/reflect", "memory:read", "reflection needs a chat model"],
  ["post", "/{ctx}/consolidate", "memory:write", "consolidation needs a chat model"],
  ["post", "/{ctx}/elaborate", "memory:write", "elaboration needs a chat model"],
  ["post", "/{ctx}/lifecycle/decay", "manage", "the lifecycle is not built yet"],
  ["get", "/contexts/{ctx}/grants", "manage", "sharing grants are not built yet"],
  ["post", "/contexts/{ctx}/grants", "manage", "sharing grants are not built yet"],
  ["delete", "/contexts/{ctx}/grants", "manage", "sharing grants are not built yet"],
  ["get", "/contexts/{ctx}/export", "manage", "export is not built yet"],
  ["post", "/contexts/{ctx}/export", "manage", "export is not built yet"],
  ["get", "/contexts/{ctx}/import", "manage", "import is not built yet"],
  ["post", "/contexts/{ctx}/import", "manage", "import is not built yet"],
];

export const notBuiltEndpoints: readonly Endpoint[] = NOT_BUILT.map(([method, path, verb, why]) =>
  endpoint({
    method,
    path,
    verb,
    operation: "not_built",
    summary: `422: ${why}`,
    status: 422,
    ...(method === "get" || method === "delete" ? {} : { body: z.unknown() }),
    query: z.unknown(),
    handle: async () => {
      throw unprocessable(why);
    },
  }),
);
