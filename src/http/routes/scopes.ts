import { z } from "zod";
import { listScopes, registerScope, tombstoneScope } from "../../context/scopes.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import { fields, limitAndOffset, namedScope, queryNamedScope, querySelector, scopeView } from "../wire/fields.ts";
import { instant, object } from "../wire/shapes.ts";

const scopeResponse = object({
  path: z.string(),
  displayName: z.string().optional(),
  description: z.string().optional(),
  createdAt: instant,
  tombstonedAt: instant.optional(),
});

const scopesResponse = z.array(scopeResponse);

export const scopeEndpoints = [
  endpoint({
    method: "get",
    path: "/{ctx}/scopes",
    verb: "memory:read",
    operation: "scopes",
    summary: "List scopes",
    answer: scopesResponse,
    query: fields({ ...limitAndOffset, lens: querySelector, scopeView: scopeView.optional() }),
    handle: ({ enter, query }) => enter(listAccess(query), (tx) => listScopes(tx, query.limit, query.offset)),
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/scopes",
    verb: "memory:write",
    mode: "write",
    operation: "scope",
    summary: "Register a scope, or open a deleted one again",
    answer: scopeResponse,
    status: 201,
    body: fields({
      path: namedScope,
      displayName: z.string().min(1).max(200).optional(),
      description: z.string().max(2_000).optional(),
    }),
    handle: ({ enter, body: { path, ...names } }) =>
      enter({ selector: path, reopen: true }, (tx) => registerScope(tx, names)),
  }),
  endpoint({
    method: "delete",
    path: "/{ctx}/scopes",
    verb: "memory:write",
    mode: "write",
    operation: "scope_delete",
    summary: "Mark a scope as deleted",
    status: 204,
    query: fields({ path: queryNamedScope }),
    handle: ({ enter, query }) => enter({ selector: query.path, reopen: true }, tombstoneScope),
  }),
];
