import { endOver } from "../../memory/lifecycle.ts";
import { endpoint } from "../endpoint.ts";
import { fields } from "../wire/fields.ts";
import { integer, object } from "../wire/shapes.ts";

const expiredResponse = object({ affected: integer });

export const lifecycleEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/lifecycle/expire",
    verb: "memory:forget",
    mode: "forget",
    operation: "lifecycle_expire",
    summary: "Close what is past its validity, now instead of within the minute",
    answer: expiredResponse,
    body: fields({}),
    handle: ({ enter }) => enter({ subtree: true }, async (tx) => ({ affected: await endOver(tx) })),
  }),
];
